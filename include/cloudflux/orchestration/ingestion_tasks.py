"""The task of `drain_ingestion_topic` that follows the sensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from cloudflux.orchestration.edge import audit, engine, kafka_bootstrap_servers, now, settings, terminal_errors_fail

if TYPE_CHECKING:
    import pyarrow as pa


@terminal_errors_fail
def drain_messages() -> dict[str, Any]:
    """Drain what the topic holds now into the staging tables."""
    from cloudflux.events.schema import parse_messages
    from cloudflux.events.topic import TopicReader
    from cloudflux.stores.staging import Staging
    from cloudflux.workflows.drain import drain

    topic = settings().kafka_topic
    with TopicReader(kafka_bootstrap_servers(), topic) as reader:
        report = drain(
            reader,
            Staging(engine()),
            topic=topic,
            parse=parse_messages,
            audit=_raise_if_refused,
            clock=now,
            accept_gaps=bool(get_current_context()["params"]["accept_gaps"]),
        )
    return {
        "read": report.read,
        "staged": report.staged,
        "duplicates": report.duplicates,
        "dead_lettered": report.dead_lettered,
        "gaps": report.gaps,
    }


def _raise_if_refused(events: pa.Table, batch: str) -> None:
    audit("ingestion_events", events, batch).raise_if_failed()
