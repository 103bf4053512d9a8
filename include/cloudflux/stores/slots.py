"""Who may work on what at one time, among processes that know nothing of one another.

PostgreSQL's advisory locks of a session: each is held by a connection of its own for as long as that lives. A process
that dies, however it dies, closes its connection, and the server frees what it held at once; where the whole machine
went silent, the server's keep-alives find that out within a minute. There is nothing to clean up, and no time-out
after which a slow worker is robbed.

Behind a connection pooler these need session pooling: with transaction pooling a lock would stay with
whoever comes next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InvalidRequestError, ResourceClosedError

from cloudflux.domain.errors import TransientError

_SETTINGS: Final = (
    # who holds a lock says nothing for hours, and that is no reason to end it
    "SET idle_session_timeout = 0",
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)


class SlotsTaken(TransientError):
    """As many processes as may already work on the bucket."""


class RangeTaken(TransientError):
    """Another process works on the same moves of the plan, or lost its connection only just now."""


class LockLost(TransientError):
    """The connection that held the lock broke: another process may hold it by now."""


class HeldLock:
    """A lock that this process holds."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def raise_if_lost(self) -> None:
        """Ask the server whether the lock is still held: one short round trip. Raises ``LockLost``."""
        try:
            self._connection.exec_driver_sql("SELECT 1")
        except (TransientError, InvalidRequestError, ResourceClosedError) as exc:
            raise LockLost(f"the connection that held {self._name} broke, another process may hold it by now") from exc


@contextmanager
def bucket_slot(engine: Engine, bucket_name: str, slots: int) -> Iterator[int]:
    """Hold one of a bucket's ``slots`` places, numbered from 0, while the block runs.

    Each of them may use its share, ``1 / slots``, of what the bucket's owner allows. Raises ``SlotsTaken`` at once when
    all are held.
    """
    if slots < 1:
        raise ValueError(f"a bucket needs at least one slot, not {slots}")
    with _lock_connection(engine) as connection:
        for slot in range(slots):
            name = f"cloudflux.slot/{slot}/{bucket_name}"
            if _taken(connection, name):
                try:
                    yield slot
                finally:
                    _free(connection, name)
                return
    raise SlotsTaken(f"all {slots} slots for bucket {bucket_name!r} are taken: try again when one of them is done")


@contextmanager
def range_lock(engine: Engine, plan_id: str, first: int) -> Iterator[HeldLock]:
    """Hold the moves of a plan that begin at number ``first`` while the block runs.

    So a worker that was given up, but lives, and its successor never carry out the same moves at once. Raises
    ``RangeTaken`` at once when another process holds them.
    """
    name = f"cloudflux.range/{first}/{plan_id}"
    with _lock_connection(engine) as connection:
        if not _taken(connection, name):
            raise RangeTaken(
                f"another process works on the moves of plan {plan_id!r} from number {first} on: "
                "try again when it is done"
            )
        try:
            yield HeldLock(connection, f"the moves of plan {plan_id!r} from number {first} on")
        finally:
            _free(connection, name)


@contextmanager
def only_one(engine: Engine, what: str) -> Iterator[None]:
    """Wait until no other process does ``what``, and keep the others waiting while the block runs.

    For work that takes seconds and is then there for all: who waited looks first whether it has been done.
    """
    name = f"cloudflux.once/{what}"
    with _lock_connection(engine) as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtextextended(%(name)s::text, 0))", {"name": name})
        try:
            yield
        finally:
            _free(connection, name)


@contextmanager
def _lock_connection(engine: Engine) -> Iterator[Connection]:
    """Give a connection that no pool takes back, so that its end is the end of what it holds."""
    with engine.connect() as connection:
        # no transaction may stay open for hours: it would keep the server from cleaning up old rows
        own = connection.execution_options(isolation_level="AUTOCOMMIT")
        own.detach()
        for setting in _SETTINGS:
            own.exec_driver_sql(setting)
        yield own


def _taken(connection: Connection, name: str) -> bool:
    return bool(
        connection.exec_driver_sql(
            "SELECT pg_try_advisory_lock(hashtextextended(%(name)s::text, 0))", {"name": name}
        ).scalar_one()
    )


def _free(connection: Connection, name: str) -> None:
    """Let the lock go before the connection ends: the server would notice that a little later only."""
    # of a connection that broke nothing is left to free
    with suppress(TransientError, InvalidRequestError, ResourceClosedError):
        connection.exec_driver_sql("SELECT pg_advisory_unlock(hashtextextended(%(name)s::text, 0))", {"name": name})
