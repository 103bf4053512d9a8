"""What the ledger tells of moves whose savings are measured; and whole reports, from ledger and lake to the table."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine
from unit.workflows.recorded_moves import AT, Recorded

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.coverage import CoveredDay
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import MoveRole, PlanKind, PlannedMove, PlanState
from cloudflux.domain.reports import savings_of_all
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.lake.shards import shard_of
from cloudflux.price_books import load_book
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.stores.savings import MeasuredMoves, Savings
from cloudflux.workflows.planned_moves import moves_table
from cloudflux.workflows.realised import MEASURED_MOVES, measure_savings
from cloudflux.workflows.report import measured_of, report_savings

S = MigrationState
KEYS = ["logs/0000", "logs/0001", "logs/0002", "ä/ß \U0001f4be", ""]


class Recorder:
    """Writes plans and ledger entries as moving does, without any bucket."""

    def __init__(self, engine: Engine) -> None:
        self.plans, self.ledger = Plans(engine), Ledger(engine)
        self.template = Recorded(engine, Provider.AWS).add_plan("template", "GLACIER_IR", state=PlanState.PREVIEW)

    def move(self, number: int, key: str, **overrides: object) -> PlannedMove:
        found = PlannedMove(
            move_no=number,
            ref=ObjectRef(Provider.AWS, "b", key),
            etag=f"e{number}",
            size_bytes=2**30,
            last_modified_at=AT - timedelta(days=300),
            class_since_at=AT - timedelta(days=300),
            from_class="STANDARD",
            to_class="GLACIER_IR",
            saving_usd=Decimal("0.1"),
            one_time_usd=Decimal("0.01"),
            monthly_saving_usd=Decimal("0.02"),
            payback_days=15.0,
            reason="nobody reads it",
        )
        return replace(found, **overrides)

    def plan(self, plan_id: str, moves: list[PlannedMove], at: datetime = AT, undoes: str | None = None) -> None:
        kind = PlanKind.PLACEMENT if undoes is None else PlanKind.UNDO
        plan = replace(
            self.template, plan_id=plan_id, created_at=at, dry_run=False, kind=kind, undoes=undoes, groups=()
        )
        self.plans.add(plan, moves_table(moves), PlanState.APPROVED)

    def done(self, plan_id: str, move: PlannedMove, at: datetime, cost_usd: str | None = "0.02") -> None:
        cost = None if cost_usd is None else Decimal(cost_usd)
        steps = [S.SUBMITTED, S.VERIFYING, S.DONE]
        self.ledger.append([self.entry(plan_id, move, state, at, cost if state is S.DONE else None) for state in steps])

    def entry(
        self, plan_id: str, move: PlannedMove, state: MigrationState, at: datetime, cost_usd: Decimal | None = None
    ) -> LedgerEntry:
        return LedgerEntry(
            plan_id, move.move_no, move.ref, state, at, move.from_class, move.to_class, f"{move.etag}-{state}",
            move.size_bytes, "", None, move.one_time_usd, move.saving_usd, "me", cost_usd=cost_usd,
        )  # fmt: skip


@pytest.fixture
def recorder(engine: Engine) -> Recorder:
    return Recorder(engine)


def rows_of(engine: Engine, plan_ids: list[str], shards: int = 1) -> list[dict]:
    moves = MeasuredMoves(engine, MEASURED_MOVES)
    tables = [moves.measured_moves(plan_ids, shard, shards) for shard in range(shards)]
    for shard, table in enumerate(tables):
        assert table.schema == MEASURED_MOVES
        for row in table.to_pylist():
            assert shard_of(row["provider"], row["bucket"], row["key"], shards) == shard
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: (row["plan_id"], row["key"]))


@pytest.mark.parametrize("shards", [1, 4, 7, 4096])
def test_each_move_is_in_the_shard_of_its_object(engine: Engine, recorder: Recorder, shards: int) -> None:
    keys = [f"{key}{number}" for number in range(12) for key in KEYS]
    moves = [recorder.move(number, key) for number, key in enumerate(keys)]
    recorder.plan("p", moves)
    for move in moves:
        recorder.done("p", move, AT)
    shards_used = {shard_of("aws", "b", key, shards) for key in keys}
    found = MeasuredMoves(engine, MEASURED_MOVES)
    listed = [
        row["key"]
        for shard in shards_used
        for row in found.measured_moves(["p"], shard, shards).to_pylist()
        if shard_of("aws", "b", row["key"], shards) == shard
    ]
    assert sorted(listed) == sorted(keys)


def test_done_moves_and_the_hold_out_are_measured(engine: Engine, recorder: Recorder) -> None:
    moves = [recorder.move(number, f"k{number}") for number in range(5)]
    moves[1] = replace(moves[1], payback_days=None)  # to a pinned class
    held = recorder.move(5, "k5", role=MoveRole.HOLD_OUT)
    recorder.plan("p", [*moves, held])
    recorder.plan("not carried out", [recorder.move(0, "k9"), recorder.move(1, "k8", role=MoveRole.HOLD_OUT)])
    for hours, move in enumerate(moves[:3]):
        recorder.done("p", move, AT + timedelta(hours=hours), None if hours == 2 else "0.02")
    recorder.ledger.append([recorder.entry("p", moves[3], S.SKIPPED, AT)])
    found = rows_of(engine, ["p", "not carried out"])
    assert [(row["key"], row["held_out"]) for row in found] == [
        ("k0", False), ("k1", False), ("k2", False), ("k5", True),
    ]  # fmt: skip
    assert [row["pinned"] for row in found] == [False, True, False, False]
    assert [row["cost_usd"] for row in found] == [0.02, 0.02, None, None]
    assert found[0]["expected_etag"] == "e0-done"
    assert (found[0]["expected_class"], found[0]["expected_since_at"]) == ("GLACIER_IR", AT)
    assert (found[3]["expected_class"], found[3]["expected_etag"]) == ("STANDARD", "e5")
    assert found[3]["expected_since_at"] is found[3]["moved_on_at"] is None
    assert found[3]["done_at"] == AT + timedelta(hours=1)  # when half of the moves were done
    assert MeasuredMoves(engine, MEASURED_MOVES).plans_with_moves_since(AT) == ["p"]
    assert MeasuredMoves(engine, MEASURED_MOVES).plans_with_moves_since(AT + timedelta(hours=3)) == []


def test_undone_move_tells_when_and_at_what_cost(engine: Engine, recorder: Recorder) -> None:
    move = recorder.move(0, "k0")
    recorder.plan("p", [move])
    recorder.done("p", move, AT)
    back = recorder.move(0, "k0", from_class="GLACIER_IR", to_class="STANDARD", undoes_move_no=0)
    later = AT + timedelta(days=4)
    recorder.plan("undo", [back], later, undoes="p")
    recorder.done("undo", back, later, "0.5")
    recorder.ledger.append([recorder.entry("p", move, S.UNDONE, later)])
    (row,) = rows_of(engine, ["p", "undo"])
    assert (row["plan_id"], row["undone_at"], row["cost_usd"], row["undo_cost_usd"]) == ("p", later, 0.02, 0.5)
    assert row["expected_class"] == "STANDARD"
    assert MeasuredMoves(engine, MEASURED_MOVES).plans_with_moves_since(AT) == ["p"]


def test_later_move_tells_where_an_object_is_now_and_ends_its_holding_out(engine: Engine, recorder: Recorder) -> None:
    move, held = recorder.move(0, "k0"), recorder.move(1, "k1", role=MoveRole.HOLD_OUT)
    recorder.plan("p", [move, held])
    recorder.done("p", move, AT)
    later = AT + timedelta(days=9)
    again = [
        recorder.move(0, "k0", from_class="GLACIER_IR", to_class="DEEP_ARCHIVE"),
        recorder.move(1, "k1", to_class="DEEP_ARCHIVE"),
    ]
    recorder.plan("q", again, later)
    for one in again:
        recorder.done("q", one, later)
    first, second = (row for row in rows_of(engine, ["p"]))
    assert (first["to_class"], first["expected_class"], first["expected_since_at"]) == (
        "GLACIER_IR", "DEEP_ARCHIVE", later,
    )  # fmt: skip
    assert (second["held_out"], second["moved_on_at"]) == (True, later)


def test_reports_are_recorded_by_plan_and_together(engine: Engine, recorder: Recorder, tmp_path: Path) -> None:
    first, second = recorder.move(0, "k0"), recorder.move(0, "k1")
    recorder.plan("p", [first, recorder.move(1, "k2", role=MoveRole.HOLD_OUT)])
    recorder.plan("q", [second], AT + timedelta(days=2))
    recorder.done("p", first, AT)
    recorder.done("q", second, AT + timedelta(days=2))
    bucket = BucketSettings(provider=Provider.AWS, bucket="b", price_book="aws-us-east-1", connection_id="c")
    savings = Savings(engine)

    def report(days: int) -> None:
        at = AT + timedelta(days=days)
        told = [CoveredDay((AT + timedelta(days=number)).date(), 1.0, "", at) for number in range(days)]
        found = measure_savings(
            [recorder.plans.get(plan_id) for plan_id in ("p", "q")],
            moves=MeasuredMoves(engine, MEASURED_MOVES),
            lake=Lake(str(tmp_path), 3),
            estate=Estate(buckets=(bucket,)),
            books={"aws-us-east-1": load_book("aws-us-east-1")},
            coverage={("aws", "b"): told},
            at=at,
        )
        made = report_savings(recorder.plans, recorder.ledger, savings, found, report_id=f"run-{days}", at=at)
        assert [one.plan_id for one in made] == ["p", "q", None]

    report(2)
    assert savings.latest("q") is not None
    assert savings.latest("q").realised_usd_month is None  # type: ignore[union-attr]  # nothing is claimed yet
    report(6)
    by_plan = savings.latest_of_plans()
    assert [one.plan_id for one in by_plan] == ["q", "p"]
    together = savings.latest()
    assert together is not None
    assert (together.report_id, together.details["plans"], together.moves_done) == ("run-6", 2, 2)
    assert together.realised_usd_month == sum(one.realised_usd_month or 0 for one in by_plan)
    measured = measured_of(together)
    assert measured is not None
    parts = [one for one in map(measured_of, by_plan) if one is not None]
    assert measured == savings_of_all(parts)
    assert [one.object_days for one in parts] == [3, 5]
    assert len(measured.days) == 5
    assert measured.held_out is not None
    assert measured.days[-1].realised_usd == measured.realised.since_usd == sum(one.realised.since_usd for one in parts)
    assert measured.against_hold_out_since is None  # no decisions in the lake: nothing was projected
