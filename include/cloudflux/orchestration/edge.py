"""The edge between a use case and its Airflow task: retries, errors, run identity, resources.

Everything here is imported while DAGs are parsed: what is heavy is imported inside the functions.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow.sdk import get_current_context

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.config import Settings
    from cloudflux.domain.errors import CloudFluxError
    from cloudflux.lake.partitions import Lake

PROVIDERS: Final = ("aws", "azure", "gcp")
"""The providers, which are also the names of their Airflow pools."""

DEFAULT_ARGS: Final[dict[str, Any]] = {
    "owner": "data-platform",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}
"""Retries with backoff. A permanent error is told apart by its type and is not retried."""

START_DATE: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Fixed: a moving start date would make a DAG's history depend on when it was parsed."""

_RECENT: Final = timedelta(days=180)

_log = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def terminal_errors_fail(function: _Function) -> _Function:
    """Let a ``TerminalError`` fail the task at once: a retry cannot help."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        from airflow.sdk.exceptions import AirflowFailException

        from cloudflux.domain.errors import TerminalError

        try:
            return function(*args, **kwargs)
        except TerminalError as exc:
            raise AirflowFailException(str(exc)) from exc

    return wrapper  # type: ignore[return-value]  # the wrapper has the function's own signature


def given_up_on() -> tuple[type[CloudFluxError], ...]:
    """Tell which errors of one bucket or source the running task gives up on, so that the others go on without it.

    Those that no retry can help; and on the task's last attempt those that might have passed: a provider that is away
    for longer must not hold up what the other two have.
    """
    from cloudflux.domain.errors import TerminalError, TransientError

    task = get_current_context()["ti"]
    return (TerminalError, TransientError) if task.try_number > task.max_tries else (TerminalError,)


def now() -> datetime:
    """Read the clock: only the edge does."""
    return datetime.now(UTC)


def batch_of_run() -> str:
    """Name the current DAG run's batch: the same for each of its tasks and retries."""
    context = get_current_context()
    return _batch(context["dag"].dag_id, context["dag_run"].run_id)


def day_of_run() -> date:
    """Give the UTC day of the current DAG run: the same for all its tasks, though midnight may pass meanwhile."""
    run_after: datetime = get_current_context()["dag_run"].run_after
    return run_after.astimezone(UTC).date()


def _batch(dag_id: str, run_id: str) -> str:
    return f"{dag_id}-{hashlib.sha256(run_id.encode()).hexdigest()[:16]}"


def actor() -> str:
    """Say who acts, for the ledger: the DAG run."""
    context = get_current_context()
    return f"{context['dag'].dag_id}/{context['dag_run'].run_id}"


def settings() -> Settings:
    """Read the settings of this process."""
    from cloudflux.config import load_settings

    return load_settings()


def lake() -> Lake:
    """Open the lake."""
    from cloudflux.lake.partitions import Lake

    current = settings()
    return Lake(current.lake_url, current.shards)


def engine(*, connections: int = 2) -> Engine:
    """Open our own database; so many connections are kept once they were used."""
    from cloudflux.stores.engine import make_engine

    return make_engine(settings().database_url, pool_size=connections)


def kafka_bootstrap_servers() -> str:
    """Read where Kafka is. Raises ``SettingsError`` when the setting is missing."""
    from cloudflux.domain.errors import SettingsError

    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if not servers:
        raise SettingsError("KAFKA_BOOTSTRAP_SERVERS is not set: name the brokers as host:port,host:port")
    return servers


def audit(
    suite: str, data: Any, batch: str, *, taken_at: Mapping[tuple[str, str], datetime] = MappingProxyType({})
) -> Any:
    """Check a batch with Great Expectations and keep the result, passed or not.

    The time, what is published of the same weekday and the newest inventory are compared with it; ``taken_at`` tells
    of an inventory when each bucket's report or listing was made. Gives a
    ``quality.AuditReport``; what does not keep the batch unpublished is said in the task's log.
    """
    from cloudflux.quality import audit as check
    from cloudflux.stores.validations import Validations

    at = now()
    report = check(suite, data, batch, _audit_context(suite, at, taken_at))
    database = engine()
    try:
        Validations(database).record(
            suite, batch, report.passed, report.checks, at, rows=report.rows, result=report.result
        )
    finally:
        database.dispose()
    for warning in report.warnings:
        _log.warning("batch %s of %s: not met: %s: %s", batch, suite, warning.description, ", ".join(warning.examples))
    if report.rejected is not None:
        _log.warning("batch %s of %s: %d of %d rows are left out", batch, suite, report.rejected.num_rows, report.rows)
    return report


def _audit_context(suite: str, at: datetime, taken_at: Mapping[tuple[str, str], datetime]) -> Any:
    """Give what an audit may know beside the batch, read from the lake only when a check asks for it."""
    from cloudflux.quality import AuditContext

    if suite not in ("access_events", "daily_access", "inventory"):
        return AuditContext(at)
    published = lake()
    if suite == "access_events":
        inventory_day = published.latest_day("inventory")
        return AuditContext(
            at,
            known_objects=published.dataset("inventory", days=[inventory_day]) if inventory_day else None,
            published_events=lambda days: published.dataset("access_events", days=list(days)),
        )
    return AuditContext(
        at,
        taken_at=taken_at,
        published_rows=lambda days: published.dataset(suite, days=list(days)),
    )


def recent_content_types() -> Any:
    """Give what the ingestion events say of recent objects' content: ``uri`` and ``content_type``."""
    from cloudflux.stores.staging import Staging

    return Staging(engine()).content_types(now() - _RECENT)
