"""The connection to our own PostgreSQL database."""

from __future__ import annotations

from typing import NoReturn

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError

from cloudflux.domain.errors import SettingsError, TransientError

_CONNECT_TIMEOUT_S = 10
_PASSING = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)


class DatabaseUnreachable(TransientError):
    """PostgreSQL does not answer, or the connection broke."""


class DatabaseBusy(TransientError):
    """PostgreSQL gave up on a transaction because of another one (deadlock, serialisation): try again."""


def make_engine(url: str, *, pool_size: int = 2) -> Engine:
    """Make an engine with a small pool; nothing is connected yet.

    Raises ``SettingsError`` when the URL is none of PostgreSQL's. What the engine runs raises ``DatabaseUnreachable``
    naming the server (never the password) when it does not answer.
    """
    parsed = _parse(url)
    engine = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,  # a restarted server costs one round trip, not a failed task
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "cloudflux",
            "options": "-c timezone=UTC",
        },
    )

    @event.listens_for(engine, "handle_error")
    def explain(context: ExceptionContext) -> None:
        original = context.original_exception
        if isinstance(original, psycopg.Error):
            raise_if_passing(original, parsed, connecting=context.connection is None or context.is_disconnect)

    return engine


def raise_if_passing(error: psycopg.Error, url: URL, *, connecting: bool) -> None:
    """Raise our transient error for one of psycopg's that may pass; return for any other."""
    if connecting or isinstance(error, psycopg.errors.AdminShutdown):
        _raise_unreachable(error, url)
    if isinstance(error, _PASSING):
        raise DatabaseBusy(f"PostgreSQL gave up on the transaction, try again: {_first_line(error)}") from error


def _raise_unreachable(error: psycopg.Error, url: URL) -> NoReturn:
    place = url.host or url.query.get("host") or "the default socket"
    raise DatabaseUnreachable(
        f"no connection to database {url.database!r} at {place}{f':{url.port}' if url.port else ''}: "
        f"{_first_line(error)}; is PostgreSQL running, and is CLOUDFLUX_DATABASE_URL right?"
    ) from error


def _first_line(error: psycopg.Error) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        # the text is not shown: it may hold a password
        raise SettingsError(
            "CLOUDFLUX_DATABASE_URL is no database URL: write postgresql+psycopg://user:secret@host:5432/database"
        ) from exc
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(
            f"CLOUDFLUX_DATABASE_URL is for {parsed.get_backend_name()}: CloudFlux keeps its ledger in PostgreSQL, "
            "write postgresql+psycopg://user:secret@host:5432/database"
        )
    # one driver, whatever the URL names: COPY goes through psycopg 3
    return parsed.set(drivername="postgresql+psycopg")
