"""How far a plan has come: counts, rates, the time left and the cost, from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Engine
from unit.workflows.recorded_moves import AT, Recorded

from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MoveRole, PlanState
from cloudflux.domain.progress import MoveProgress, together
from cloudflux.domain.tiers import Provider
from cloudflux.stores.plans import Plans
from cloudflux.stores.progress import moves_in_state, progress_of, progress_of_plans
from cloudflux.workflows.migrate import ledger_entry
from cloudflux.workflows.planned_moves import moves_table

S = MigrationState
DONE = (S.SUBMITTED, S.VERIFYING, S.DONE)


@pytest.fixture
def world(engine: Engine) -> Recorded:
    return Recorded(engine, Provider.AWS, objects=12)


def record(
    world: Recorded, number: int, states: Sequence[MigrationState], *, seconds: float, cost: str | None = "0.5"
) -> None:
    move = world.plans.moves("plan", number, number)[0]
    for state in states:
        cost_usd = Decimal(cost) if state is S.DONE and cost is not None else None
        at = AT + timedelta(seconds=seconds)
        entry = ledger_entry(
            "plan", move, state, at=at, actor="test", detail=f"{state} because", request_id="R1", cost_usd=cost_usd
        )
        world.ledger.append([entry])


def seen(world: Recorded, seconds: float) -> MoveProgress:
    (part,) = progress_of(world.engine, "plan", AT + timedelta(seconds=seconds))
    return part


def test_every_state_is_counted_once_when_moves_are_under_way(world: Recorded) -> None:
    world.add_plan("plan", "GLACIER_IR")
    record(world, 0, DONE, seconds=0)
    record(world, 1, DONE, seconds=10, cost=None)
    record(world, 2, (S.SUBMITTED, S.VERIFYING, S.FAILED), seconds=10)
    record(world, 3, (S.SKIPPED,), seconds=10)
    record(world, 4, (S.CANCELLED,), seconds=10)
    record(world, 5, (*DONE, S.UNDONE), seconds=10)
    record(world, 6, (S.SUBMITTED, S.RESTORING), seconds=10)
    record(world, 7, (S.SUBMITTED,), seconds=10)
    record(world, 8, (S.SUBMITTED, S.VERIFYING), seconds=20)
    record(world, 9, (S.SUBMITTED, S.VERIFYING, S.FAILED, S.DONE), seconds=20)
    part = seen(world, 40)
    assert (part.provider, part.bucket, part.moves, part.planned) == ("aws", "b", 12, 2)
    assert (part.done, part.failed, part.skipped, part.cancelled, part.undone) == (3, 1, 1, 1, 1)
    assert (part.restoring, part.in_flight, part.ended) == (1, 2, 7)
    assert part.bytes_done == 3 * len("logs/0000")
    assert (part.cost_usd, part.without_cost) == (Decimal("1.5"), 1)
    assert (part.first_at, part.last_at) == (AT, AT + timedelta(seconds=20))


def test_the_rate_is_of_the_last_minute_and_the_time_left_follows(world: Recorded) -> None:
    world.add_plan("plan", "GLACIER_IR")
    record(world, 0, DONE, seconds=0)
    at_once = seen(world, 0)
    assert (at_once.per_second, at_once.overall_per_second, at_once.seconds_left) == (None, None, None)
    for number in range(1, 6):
        record(world, number, DONE, seconds=60 * number)
    part = seen(world, 310)
    assert part.per_second == pytest.approx(1 / 60)
    assert part.overall_per_second == pytest.approx(6 / 300)
    assert part.seconds_left == pytest.approx(6 * 60)
    later = seen(world, 600)
    assert (later.per_second, later.seconds_left) == (0, None)
    for number in range(6, 12):
        record(world, number, (S.SKIPPED,), seconds=601)
    assert seen(world, 900).seconds_left == 0


def test_a_young_plan_is_measured_since_its_beginning(world: Recorded) -> None:
    world.add_plan("plan", "GLACIER_IR")
    for number in range(4):
        record(world, number, DONE, seconds=number)
    assert seen(world, 8).per_second == pytest.approx(4 / 8)


def test_nothing_has_begun_when_the_ledger_is_empty(world: Recorded) -> None:
    world.add_plan("plan", "GLACIER_IR")
    part = seen(world, 0)
    assert (part.planned, part.ended, part.cost_usd, part.first_at, part.per_second) == (12, 0, 0, None, None)
    assert progress_of(world.engine, "other", AT) == []


def test_what_is_held_out_is_no_move(world: Recorded) -> None:
    world.add_plan("template", "GLACIER_IR", state=PlanState.PREVIEW)
    moves = world.plans.moves("template", 0, 11)
    moves = [replace(move, role=MoveRole.HOLD_OUT) if move.move_no > 9 else move for move in moves]
    plan = world.plans.get("template")
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__ if name not in ("state", "moves_sha256")}
    type_of_plan = type(plan).__mro__[1]
    Plans(world.engine).add(
        type_of_plan(**{**fields, "plan_id": "plan", "dry_run": False}), moves_table(moves), PlanState.APPROVED
    )
    assert seen(world, 0).moves == 10
    assert len(list(moves_in_state(world.engine, "plan", S.PLANNED, 100))) == 10


def test_buckets_are_told_apart_and_add_up(engine: Engine) -> None:
    worlds = [Recorded(engine, provider, objects=2) for provider in (Provider.AWS, Provider.AZURE)]
    worlds[0].moved("on aws", "GLACIER_IR")
    worlds[1].add_plan("on azure", "Cold")
    found = progress_of_plans(engine, ["on aws", "on azure", "none"], worlds[0].now)
    assert {plan_id: [part.provider for part in parts] for plan_id, parts in found.items()} == {
        "on aws": ["aws"],
        "on azure": ["azure"],
    }
    all_of_it = together([*found["on aws"], *found["on azure"]])
    assert (all_of_it.provider, all_of_it.bucket, all_of_it.moves, all_of_it.done) == ("", "b", 4, 2)
    assert all_of_it.first_at == found["on aws"][0].first_at


def test_moves_are_found_by_their_newest_state(world: Recorded) -> None:
    world.add_plan("plan", "GLACIER_IR")
    record(world, 0, DONE, seconds=0)
    record(world, 1, (S.SUBMITTED, S.VERIFYING, S.FAILED), seconds=1)
    record(world, 2, (S.SUBMITTED, S.VERIFYING, S.FAILED, S.DONE), seconds=2)
    record(world, 3, (S.SUBMITTED,), seconds=3)

    def found(state: MigrationState, limit: int = 20) -> list[int]:
        return [move.move_no for move in moves_in_state(world.engine, "plan", state, limit)]

    assert found(S.DONE) == [0, 2]
    assert found(S.DONE, 1) == [0]
    assert found(S.SUBMITTED) == [3]
    assert found(S.PLANNED) == [4, 5, 6, 7, 8, 9, 10, 11]
    (failed,) = moves_in_state(world.engine, "plan", S.FAILED, 20)
    assert (failed.detail, failed.request_id, failed.ref.key) == ("failed because", "R1", "logs/0001")
