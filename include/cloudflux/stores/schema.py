"""Bring a database to the newest revision of our tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text

from cloudflux.stores.engine import make_engine
from cloudflux.stores.tables import CONTROL

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_LOCK_KEY: Final = 0x636C6F7564  # "cloud": one lock for everybody who upgrades this database


def upgrade(url: str) -> None:
    """Make or upgrade our tables; all revisions in one transaction, and nothing at all when the newest is there.

    Any number of processes may call it at once: one works, the others wait and find nothing to do.
    Raises ``DatabaseUnreachable`` or ``SettingsError``.
    """
    from alembic import command  # every command opens the database, and few upgrade it

    engine = make_engine(url, pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            # Alembic's own table stands in this schema, so the schema has to be there before the first revision
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {CONTROL}"))
            command.upgrade(alembic_config(connection), "head")
    finally:
        engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Configure Alembic for our revisions on this connection, whose transaction the caller ends."""
    from alembic.config import Config

    # Alembic's default is the output as it was when Alembic was imported, which may be closed by now.
    config = Config(stdout=sys.stdout)
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))  # a % would start an interpolation
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
