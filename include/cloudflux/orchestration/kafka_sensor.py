"""Wait for messages in the ingestion topic without holding a worker slot.

The sensor asks once, in the worker, and is done if messages wait already; else it defers to the trigger, which asks
every few seconds in the triggerer. Neither the database's address nor the brokers' stand in the trigger's arguments:
those are written to Airflow's database, and an address may hold a password. Both are read where the code runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseSensorOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.orchestration.edge import engine, kafka_bootstrap_servers, settings, terminal_errors_fail

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.events.lag import LagProbe

_PATIENCE: Final = 3
"""How often in a row the brokers or the database may be away before the task hears of it, and Airflow retries it."""


class Backlog:
    """How many messages wait: the topic's end against the stored offsets, over connections that are kept."""

    def __init__(self, topic: str | None) -> None:
        self._topic = topic
        self._engine: Engine | None = None
        self._probe: LagProbe | None = None

    def count(self) -> int:
        """Count the messages that are not staged yet.

        Raises ``TransientError`` when the brokers or the database do not answer or the topic does not exist (yet).
        """
        from cloudflux.events.lag import LagProbe
        from cloudflux.stores.staging import Staging

        topic = self._topic or settings().kafka_topic
        if self._engine is None:
            self._engine = engine()
        if self._probe is None:
            self._probe = LagProbe(kafka_bootstrap_servers(), topic)
        return self._probe.lag(Staging(self._engine).next_offsets(topic))

    def close(self) -> None:
        """Give the connections back; the next ``count`` makes new ones."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()
        database, self._engine = self._engine, None
        if database is not None:
            database.dispose()


class IngestionLagTrigger(BaseTrigger):  # type: ignore[misc]  # Airflow is not typed
    """Fires once ``min_lag`` messages wait: ``{"lag": n}``, or ``{"error": text}`` when it cannot tell any more."""

    def __init__(self, topic: str | None, min_lag: int, poll_seconds: float) -> None:
        super().__init__()
        self.topic = topic
        self.min_lag = min_lag
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what another process needs to make this trigger again."""
        return (
            "cloudflux.orchestration.kafka_sensor.IngestionLagTrigger",
            {"topic": self.topic, "min_lag": self.min_lag, "poll_seconds": self.poll_seconds},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask in a thread: neither Kafka's client nor the database's is asynchronous."""
        backlog = Backlog(self.topic)
        failures = 0
        try:
            while True:
                try:
                    lag = await asyncio.to_thread(backlog.count)
                except TransientError as exc:
                    failures += 1
                    self.log.warning("cannot tell the lag (%d of %d): %s", failures, _PATIENCE, exc)
                    if failures >= _PATIENCE:
                        yield TriggerEvent({"error": str(exc)})
                        return
                    await asyncio.to_thread(backlog.close)
                except TerminalError as exc:
                    yield TriggerEvent({"error": str(exc)})
                    return
                else:
                    failures = 0
                    if lag >= self.min_lag:
                        yield TriggerEvent({"lag": lag})
                        return
                await asyncio.sleep(self.poll_seconds)
        finally:
            await asyncio.to_thread(backlog.close)


class IngestionLagSensor(BaseSensorOperator):  # type: ignore[misc]  # Airflow is not typed
    """Succeeds once ``min_lag`` messages wait in the topic (None: the one of the settings); gives their number.

    ``timeout`` counts from the first look; with ``soft_fail`` it skips the task then instead of failing it.
    """

    def __init__(
        self,
        *,
        topic: str | None = None,
        min_lag: int = 1,
        poke_interval: timedelta | float = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.topic = topic
        self.min_lag = min_lag

    @terminal_errors_fail
    def execute(self, context: Any) -> dict[str, int]:
        """Look once; defer when there are too few messages."""
        backlog = Backlog(self.topic)
        try:
            lag = backlog.count()
        finally:
            backlog.close()
        if lag < self.min_lag:
            self.defer(
                trigger=IngestionLagTrigger(self.topic, self.min_lag, self.poke_interval),
                method_name="resume",
                timeout=timedelta(seconds=self.timeout),
            )
        return self._found(lag)

    def resume(self, context: Any, event: Mapping[str, Any]) -> dict[str, int]:
        """Take the trigger's answer."""
        if "error" in event:
            # no AirflowException: with soft_fail the sensor would be skipped, and nobody would hear of it
            raise TransientError(event["error"])
        return self._found(event["lag"])

    def _found(self, lag: int) -> dict[str, int]:
        self.log.info("%d messages wait", lag)
        return {"lag": lag}
