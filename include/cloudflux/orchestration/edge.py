"""The edge between a use case and its Airflow task: retries, errors, run identity, resources.

Everything here is imported while DAGs are parsed: what is heavy is imported inside the functions.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow.sdk import get_current_context

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.config import Settings
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


def engine() -> Engine:
    """Open our own database."""
    from cloudflux.stores.engine import make_engine

    return make_engine(settings().database_url)


def kafka_bootstrap_servers() -> str:
    """Read where Kafka is. Raises ``SettingsError`` when the setting is missing."""
    from cloudflux.domain.errors import SettingsError

    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if not servers:
        raise SettingsError("KAFKA_BOOTSTRAP_SERVERS is not set: name the brokers as host:port,host:port")
    return servers


def audit(suite: str, data: Any, batch: str) -> Any:
    """Check a batch with Great Expectations and keep the result, passed or not."""
    from cloudflux.quality import audit as check
    from cloudflux.stores.validations import Validations

    report = check(suite, data, batch)
    Validations(engine()).record(suite, batch, report.passed, report.checks, now())
    return report


def recent_content_types() -> Any:
    """Give what the ingestion events say of recent objects' content: ``uri`` and ``content_type``."""
    from cloudflux.stores.staging import Staging

    return Staging(engine()).content_types(now() - _RECENT)
