"""The plan: which moves are chosen, within which caps, and what it says of them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanState
from cloudflux.lake.schemas import DECISIONS
from cloudflux.workflows import plan as workflow

DAY = date(2026, 3, 1)
AT = datetime(2026, 3, 1, tzinfo=UTC)
NO_CAPS = Guardrails(10**6, 2**60, Decimal(1000), Decimal(0))


def decision(key: str, **overrides: object) -> dict[str, object]:
    row: dict[str, object] = {
        "provider": "aws",
        "bucket": "media",
        "key": key,
        "version_id": None,
        "etag": f"etag-{key}",
        "size_bytes": 1000,
        "last_modified_at": AT,
        "class_since_at": AT,
        "day": DAY,
        "current_class": "STANDARD",
        "chosen_class": "GLACIER_IR",
        "action": "move",
        "reason": "nobody reads it",
        "horizon_days": 180,
        "expected_reads": 0.0,
        "stay_usd": 0.09,
        "chosen_usd": 0.03,
        "one_time_usd": 0.01,
        "saving_usd": 0.06,
        "payback_days": 20.0,
        "current_monthly_usd": 0.015,
        "chosen_monthly_usd": 0.004,
        "rule_class": "STANDARD_IA",
        "candidates": [{"storage_class": "STANDARD", "expected_usd": 0.09}],
        "price_book": "aws-us-east-1",
    }
    return row | overrides


def keep(key: str, **overrides: object) -> dict[str, object]:
    return decision(
        key,
        action="keep",
        chosen_class="STANDARD",
        one_time_usd=0.0,
        saving_usd=0.0,
        payback_days=None,
        chosen_monthly_usd=0.015,
        **overrides,
    )


def build(rows: list[dict[str, object]], guardrails: Guardrails = NO_CAPS, dry_run: bool = False) -> MigrationPlan:
    return workflow.build_plan(
        pa.Table.from_pylist(rows, schema=DECISIONS),
        run_id="manual__1",
        created_at=AT,
        day=DAY,
        guardrails=guardrails,
        dry_run=dry_run,
    )


def test_only_moves_are_planned_when_others_are_kept() -> None:
    plan = build([decision("a"), keep("b"), decision("c", provider="gcp", chosen_class="COLDLINE")])
    assert [(move.move_no, move.ref.key) for move in plan.moves] == [(0, "a"), (1, "c")]
    assert plan.totals.scored_objects == 3
    assert plan.totals.before_usd_month == Decimal("0.045")
    assert plan.totals.after_usd_month == Decimal("0.023")
    assert plan.totals.one_time_usd == Decimal("0.02")
    assert plan.totals.saving_usd == Decimal("0.12")


def test_best_savings_come_first_when_a_cap_binds() -> None:
    rows = [decision(f"k{saving}", saving_usd=saving / 100) for saving in (1, 5, 3, 4, 2)]
    plan = build(rows, Guardrails(2, 2**60, Decimal(1000), Decimal(0)))
    assert {move.ref.key for move in plan.moves} == {"k5", "k4"}
    assert plan.totals.left_out == 3


@pytest.mark.parametrize(
    ("guardrails", "planned"),
    [
        (Guardrails(10**6, 2500, Decimal(1000), Decimal(0)), 2),
        (Guardrails(10**6, 2**60, Decimal("0.035"), Decimal(0)), 3),
        (Guardrails(10**6, 2**60, Decimal(1000), Decimal("0.07")), 0),
        (Guardrails(10**6, 2**60, Decimal(0), Decimal(0)), 0),
    ],
)
def test_caps_hold_when_more_would_pay(guardrails: Guardrails, planned: int) -> None:
    assert build([decision(f"k{n}") for n in range(5)], guardrails).totals.objects == planned


def test_plan_is_the_same_when_rows_come_in_another_order() -> None:
    rows = [decision(f"k{n}", provider=provider) for n in range(20) for provider in ("aws", "azure", "gcp")]
    guardrails = Guardrails(31, 2**60, Decimal(1000), Decimal(0))
    shuffled = [rows[index] for index in np.random.default_rng(7).permutation(len(rows))]
    assert build(rows, guardrails) == build(shuffled, guardrails)


def test_chunks_cover_each_move_once_and_hold_one_bucket_when_they_mix() -> None:
    plan = build(
        [
            decision(f"k{n:02}", provider=provider, bucket=bucket)
            for n in range(7)
            for provider in ("gcp", "aws", "azure")
            for bucket in ("media", "data")
        ]
    )
    covered = []
    for provider in ("aws", "azure", "gcp"):
        for chunk in workflow.chunks_of(plan, provider, 3):
            numbers = range(int(chunk["first"]), int(chunk["last"]) + 1)
            assert 1 <= len(numbers) <= 3
            assert {(plan.moves[n].ref.provider, plan.moves[n].ref.bucket) for n in numbers} == {
                (provider, chunk["bucket"])
            }
            covered += numbers
    assert sorted(covered) == list(range(42))


def test_description_has_no_keys_when_strangers_chose_them() -> None:
    text = workflow.describe(build([decision("<script>alert(1)</script>"), decision("b")]))
    assert "script" not in text
    assert "**2 moves**" in text
    assert "| aws | media | STANDARD | GLACIER_IR | 2 |" in text


class Lake:
    def __init__(self, rows: list[dict[str, object]] | None) -> None:
        self.rows = rows

    def latest_day(self, dataset: str) -> date | None:
        assert dataset == "decisions"
        return DAY if self.rows is not None else None

    def read(self, dataset: str, *, days: tuple[date, date]) -> pa.Table:
        assert days == (DAY, DAY)
        return pa.Table.from_pylist(self.rows or [], schema=DECISIONS)


class Plans:
    def __init__(self) -> None:
        self.added: list[tuple[str, PlanState]] = []

    def add(self, plan: MigrationPlan, state: PlanState) -> bool:
        self.added.append((plan.plan_id, state))
        return True


@pytest.mark.parametrize(
    ("rows", "dry_run", "state"),
    [
        ([decision("a")], True, PlanState.PREVIEW),
        ([decision("a")], False, PlanState.PROPOSED),
        ([keep("a")], False, PlanState.EMPTY),
        ([], True, PlanState.EMPTY),
    ],
)
def test_plan_is_stored_in_its_state_when_proposed(
    rows: list[dict[str, object]], dry_run: bool, state: PlanState
) -> None:
    plans = Plans()
    plan = workflow.propose(Lake(rows), plans, run_id="manual__1", created_at=AT, guardrails=NO_CAPS, dry_run=dry_run)
    assert plans.added == [(plan.plan_id, state)]
    assert plan.plan_id == workflow.plan_id_of("manual__1")


def test_proposal_fails_for_good_when_nothing_was_decided() -> None:
    with pytest.raises(TerminalError, match="run score_objects first"):
        workflow.propose(Lake(None), Plans(), run_id="r", created_at=AT, guardrails=NO_CAPS, dry_run=True)
