"""The operator that carries out a range of a plan's moves, and waits for hours without holding a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Final

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from cloudflux.domain.errors import CloudFluxError, TransientError
from cloudflux.orchestration.edge import actor, settings, terminal_errors_fail

MOVE_RETRIES: Final = 6
"""A provider that throttles for half an hour does not fail a plan: retries wait twice as long each time."""

_LONGEST: Final = timedelta(hours=1)
"""After so long the whole range is looked at, whatever the sample says: one stuck object holds up no others."""

_BUSY: Final = timedelta(seconds=30)


class WaitingMovesTrigger(BaseTrigger):  # type: ignore[misc]  # Airflow is not typed
    """Fires when the provider seems to be done with moves that it is at work on: ``{"waited_seconds": n}``.

    Which moves those are stands in the ledger; the trigger's arguments name the range alone.
    """

    def __init__(
        self,
        *,
        plan_id: str,
        provider: str,
        bucket: str,
        first: int,
        last: int,
        poll_seconds: float,
        longest_seconds: float,
    ) -> None:
        super().__init__()
        self.plan_id = plan_id
        self.provider = provider
        self.bucket = bucket
        self.first = first
        self.last = last
        self.poll_seconds = poll_seconds
        self.longest_seconds = longest_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what another process needs to make this trigger again."""
        names = ("plan_id", "provider", "bucket", "first", "last", "poll_seconds", "longest_seconds")
        return (
            "cloudflux.orchestration.move_operator.WaitingMovesTrigger",
            {name: getattr(self, name) for name in names},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look in a thread: the providers' clients and the database's are not asynchronous."""
        from cloudflux.orchestration.movers import is_ready

        waited = 0.0
        while waited < self.longest_seconds:
            await asyncio.sleep(self.poll_seconds)
            waited += self.poll_seconds
            try:
                ready = await asyncio.to_thread(
                    is_ready,
                    self.plan_id,
                    provider=self.provider,
                    bucket=self.bucket,
                    first=self.first,
                    last=self.last,
                )
            except TransientError as exc:
                self.log.warning("cannot look at the moves that wait, trying again: %s", exc)
                continue
            except CloudFluxError as exc:
                self.log.warning("cannot look at the moves that wait, the task finds out: %s", exc)
                break
            if ready:
                break
        yield TriggerEvent({"waited_seconds": waited})


class MoveRange(BaseOperator):  # type: ignore[misc]  # Airflow is not typed
    """Submits and verifies a range of a plan's moves; gives how many ended in which state.

    Defers over quiet hours, while the provider restores objects or works on them itself, and while other tasks take up
    the bucket. Moves that the provider cannot serve now fail the task, so that Airflow retries it: the ledger knows
    what is left.
    """

    template_fields = ("plan_id",)

    def __init__(
        self,
        *,
        plan_id: Any,
        provider: str,
        bucket: str,
        first: int,
        last: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan_id = plan_id
        self.provider = provider
        self.bucket = bucket
        self.first = first
        self.last = last

    @terminal_errors_fail
    def execute(self, context: Any, event: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Carry out what the ledger says is left."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger, TimeDeltaTrigger

        from cloudflux.orchestration.movers import bucket_mover
        from cloudflux.stores.slots import RangeTaken, SlotsTaken

        try:
            with bucket_mover(
                self.plan_id, provider=self.provider, bucket=self.bucket, first=self.first, actor=actor()
            ) as mover:
                progress = mover.carry_out(self.plan_id, self.first, self.last)
                states = mover.ledger.states(self.plan_id, self.first, self.last)
        except (RangeTaken, SlotsTaken) as exc:
            self.log.info("%s", exc)
            self.defer(trigger=TimeDeltaTrigger(_BUSY), method_name="execute")
        self.log.info("moves %d to %d of %s: %s", self.first, self.last, self.plan_id, progress)
        if progress.quiet_until is not None:
            self.defer(trigger=DateTimeTrigger(progress.quiet_until), method_name="execute")
        if progress.unavailable:
            raise TransientError(
                f"{self.provider} could not serve {progress.unavailable} moves in bucket {self.bucket!r} now: they are "
                "open, and go on when the task is repeated"
            )
        if progress.waiting:
            poll_seconds = settings().moves_poll_seconds
            self.defer(
                trigger=WaitingMovesTrigger(
                    plan_id=self.plan_id,
                    provider=self.provider,
                    bucket=self.bucket,
                    first=self.first,
                    last=self.last,
                    poll_seconds=poll_seconds,
                    longest_seconds=max(_LONGEST.total_seconds(), poll_seconds),
                ),
                method_name="execute",
            )
        counts: dict[str, int] = {}
        for state, _ in states.values():
            counts[state.value] = counts.get(state.value, 0) + 1
        return counts
