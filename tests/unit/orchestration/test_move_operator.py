"""The operator that carries out a range: when it is done, when it waits and for what, when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from cloudflux.domain.errors import CredentialsRefused, TransientError
from cloudflux.domain.migrations import MigrationState
from cloudflux.orchestration import move_operator, movers
from cloudflux.orchestration.move_operator import MoveRange, WaitingMovesTrigger
from cloudflux.stores.slots import RangeTaken, SlotsTaken
from cloudflux.workflows.migrate import RangeProgress

NOTHING = RangeProgress({}, 0, 0, None)
RANGE = {"plan_id": "plan-1", "provider": "aws", "bucket": "media", "first": 5, "last": 9}


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the range come to a given progress, or fail."""

    def install(outcome: RangeProgress | Exception, states: Mapping[int, MigrationState] | None = None) -> None:
        found = {number: (state, "") for number, state in (states or {}).items()}

        class Mover:
            ledger = SimpleNamespace(states=lambda plan_id, first, last: found)

            @staticmethod
            def carry_out(plan_id: str, first: int, last: int) -> RangeProgress:
                assert (plan_id, first, last) == ("plan-1", 5, 9)
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        @contextmanager
        def bucket_mover(plan_id: str, **named: Any) -> Iterator[Any]:
            assert named == {"provider": "aws", "bucket": "media", "first": 5, "actor": "me"}
            if isinstance(outcome, (RangeTaken, SlotsTaken)):
                raise outcome
            yield Mover

        monkeypatch.setattr(movers, "bucket_mover", bucket_mover)
        monkeypatch.setattr(move_operator, "actor", lambda: "me")
        monkeypatch.setattr(move_operator, "settings", lambda: SimpleNamespace(moves_poll_seconds=300.0))

    return install


def an_operator() -> MoveRange:
    return MoveRange(task_id="move", **RANGE)


def deferral() -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        an_operator().execute({})
    assert caught.value.method_name == "execute"  # what is left is found in the ledger again
    return caught.value


def test_it_counts_the_moves_by_state_when_all_are_settled(carried_out: Callable[..., None]) -> None:
    carried_out(NOTHING, {5: MigrationState.DONE, 6: MigrationState.DONE, 7: MigrationState.SKIPPED})
    assert an_operator().execute({}) == {"done": 2, "skipped": 1}


def test_it_waits_for_the_end_of_quiet_hours(carried_out: Callable[..., None]) -> None:
    until = datetime.now(UTC) + timedelta(hours=3)
    carried_out(RangeProgress({}, 0, 0, until))
    trigger = deferral().trigger
    assert isinstance(trigger, DateTimeTrigger)
    assert trigger.moment == until


def test_it_waits_for_what_the_provider_is_at_work_on(carried_out: Callable[..., None]) -> None:
    carried_out(RangeProgress({"done": 3}, 2, 0, None))
    trigger = deferral().trigger
    assert isinstance(trigger, WaitingMovesTrigger)
    path, arguments = trigger.serialize()
    assert arguments == RANGE | {"poll_seconds": 300.0, "longest_seconds": 3600.0}
    module, _, name = path.rpartition(".")
    assert getattr(import_module(module), name)(**arguments).serialize() == (path, arguments)


@pytest.mark.parametrize("taken", [RangeTaken("somebody else"), SlotsTaken("all are taken")])
def test_it_comes_back_later_when_others_are_at_work(carried_out: Callable[..., None], taken: Exception) -> None:
    carried_out(taken)
    assert isinstance(deferral().trigger, DateTimeTrigger)


def test_it_is_retried_when_the_provider_cannot_serve_some_moves(carried_out: Callable[..., None]) -> None:
    carried_out(RangeProgress({"done": 3}, 1, 2, None))
    with pytest.raises(TransientError, match="aws could not serve 2 moves in bucket 'media'"):
        an_operator().execute({})


def test_it_fails_for_good_when_the_credentials_are_refused(carried_out: Callable[..., None]) -> None:
    carried_out(CredentialsRefused("the credentials of aws_default have expired"))
    with pytest.raises(AirflowFailException, match="have expired"):
        an_operator().execute({})


class TestTrigger:
    def waited(self, monkeypatch: pytest.MonkeyPatch, *looks: bool | Exception) -> tuple[float, int]:
        answers = iter(looks)
        asked = 0

        def is_ready(plan_id: str, **named: Any) -> bool:
            nonlocal asked
            asked += 1
            assert {"plan_id": plan_id, **named} == RANGE
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def no_sleep(seconds: float) -> None:
            assert seconds == 10

        monkeypatch.setattr(movers, "is_ready", is_ready)
        monkeypatch.setattr(move_operator.asyncio, "sleep", no_sleep)

        async def all_events() -> list[Any]:
            trigger = WaitingMovesTrigger(**RANGE, poll_seconds=10, longest_seconds=40)
            return [event.payload async for event in trigger.run()]

        (payload,) = asyncio.run(all_events())
        return payload["waited_seconds"], asked

    def test_it_fires_when_the_sample_is_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.waited(monkeypatch, False, False, True) == (30, 3)

    def test_it_fires_after_the_longest_wait_whatever_the_sample_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.waited(monkeypatch, False, False, False, False) == (40, 4)

    def test_it_goes_on_when_one_look_fails_for_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.waited(monkeypatch, TransientError("slow down"), True) == (20, 2)

    def test_it_leaves_it_to_the_task_when_looking_fails_for_good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.waited(monkeypatch, CredentialsRefused("expired")) == (10, 1)
