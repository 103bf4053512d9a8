"""The plan: which moves are chosen, within which caps, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from cloudflux.domain.batch_jobs import JobPrices, JobTerms
from cloudflux.domain.errors import SettingsError, TerminalError
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanState
from cloudflux.domain.policy import Decisions, ObjectColumns, decide
from cloudflux.lake.schemas import DECISIONS
from cloudflux.price_books import load_book
from cloudflux.workflows import plan as workflow
from cloudflux.workflows.caps import fitting
from cloudflux.workflows.planned_moves import PLANNED_MOVES

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


def build_both(
    rows: list[dict[str, object]], guardrails: Guardrails = NO_CAPS, dry_run: bool = False, **more: Any
) -> tuple[MigrationPlan, list[dict[str, Any]]]:
    plan, moves = workflow.build_plan(
        pads.dataset(pa.Table.from_pylist(rows, schema=DECISIONS)),
        run_id="manual__1",
        created_at=AT,
        day=DAY,
        guardrails=guardrails,
        dry_run=dry_run,
        **more,
    )
    assert moves.schema == PLANNED_MOVES
    assert moves["move_no"].to_pylist() == list(range(moves.num_rows))
    return plan, moves.to_pylist()


def build(rows: list[dict[str, object]], guardrails: Guardrails = NO_CAPS) -> MigrationPlan:
    return build_both(rows, guardrails)[0]


def moves_of(rows: list[dict[str, object]], guardrails: Guardrails = NO_CAPS) -> list[dict[str, Any]]:
    return build_both(rows, guardrails)[1]


def limits(**overrides: object) -> Guardrails:
    return replace(NO_CAPS, **overrides)


def test_only_moves_are_planned_when_others_are_kept() -> None:
    plan, moves = build_both([decision("a"), keep("b"), decision("c", provider="gcp", chosen_class="COLDLINE")])
    assert [(move["move_no"], move["key"], move["to_class"]) for move in moves] == [
        (0, "a", "GLACIER_IR"),
        (1, "c", "COLDLINE"),
    ]
    assert moves[0]["monthly_saving_usd"] == Decimal("0.011")
    assert plan.totals.scored_objects == 3
    assert plan.totals.before_usd_month == Decimal("0.045")
    assert plan.totals.after_usd_month == Decimal("0.023")
    assert plan.totals.one_time_usd == Decimal("0.02")
    assert plan.totals.saving_usd == Decimal("0.12")


def test_best_savings_come_first_when_a_cap_binds() -> None:
    rows = [decision(f"k{saving}", saving_usd=saving / 100) for saving in (1, 5, 3, 4, 2)]
    plan, moves = build_both(rows, Guardrails(2, 2**60, Decimal(1000), Decimal(0)))
    assert {move["key"] for move in moves} == {"k5", "k4"}
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


TIB = 2**40


@pytest.mark.parametrize(
    ("best", "caps", "said"),
    [
        (
            {"size_bytes": 3 * TIB},
            {"max_bytes": 2 * TIB},
            "1 of them exceeds max_bytes=2,199,023,255,552 alone, the largest with 3,298,534,883,328 bytes (aws, "
            "media, STANDARD to GLACIER_IR, net saving USD 500.000000): no plan takes it unless max_bytes is at least "
            "3,298,534,883,328.",
        ),
        (
            {"one_time_usd": 150.003},
            {"max_one_time_usd": Decimal(100)},
            "1 of them exceeds max_one_time_usd=100 alone, the largest with USD 150.003000 (aws, media, STANDARD to "
            "GLACIER_IR, net saving USD 500.000000): no plan takes it unless max_one_time_usd is at least 150.01.",
        ),
    ],
)
def test_the_others_move_when_the_best_exceeds_a_cap_alone(
    best: dict[str, object], caps: dict[str, object], said: str
) -> None:
    rows = [decision("big", saving_usd=500.0, **best), *[decision(key) for key in names("k", 1_000)]]
    plan, moves = build_both(rows, limits(**caps))
    assert plan.totals.objects == 1_000
    assert plan.totals.left_out == 1
    assert "big" not in {move["key"] for move in moves}
    (above,) = plan.above_caps
    assert (above.moves, above.saving_usd) == (1, 500)
    assert said in workflow.describe(plan)


def test_smaller_ones_fill_the_room_that_a_large_one_does_not_fit_into() -> None:
    sizes = [60, 50, 39, 30, 1, 1]
    rows = [decision(f"k{n}", size_bytes=size, saving_usd=10.0 - n) for n, size in enumerate(sizes)]
    plan, moves = build_both(rows, limits(max_bytes=100))
    assert [move["key"] for move in moves] == ["k0", "k2", "k4"]
    assert (plan.totals.bytes, plan.totals.left_out, plan.above_caps) == (100, 3, ())
    assert "3 more moves are left out by the guardrails." in workflow.describe(plan)
    assert "alone" not in workflow.describe(plan)


def pinned(key: str, **overrides: object) -> dict[str, object]:
    dearer = {
        "current_class": "GLACIER_IR",
        "chosen_class": "STANDARD",
        "reason": "move GLACIER_IR -> STANDARD: pinned there by its owner",
        "saving_usd": -0.06,
        "payback_days": None,
        "current_monthly_usd": 0.004,
        "chosen_monthly_usd": 0.015,
    }
    return decision(key, **dearer | overrides)


def test_pinned_objects_move_whatever_it_costs_and_the_plan_says_so() -> None:
    least = limits(min_saving_usd=Decimal("0.01"), min_plan_saving_usd=Decimal("0.01"), canary_share=0.01)
    plan, moves = build_both([pinned("a"), pinned("b"), decision("c")], least)
    assert {move["key"]: move["saving_usd"] for move in moves} == {
        "a": Decimal("-0.06"),
        "b": Decimal("-0.06"),
        "c": Decimal("0.06"),
    }
    assert (plan.totals.objects, plan.totals.left_out) == (3, 0)
    assert plan.totals.saving_usd == Decimal("-0.06")
    assert plan.totals.after_usd_month == plan.totals.before_usd_month + Decimal("0.011")
    assert [(group.pinned, group.pinned_saving_usd) for group in plan.groups] == [(2, Decimal("-0.12")), (0, 0)]
    assert [group.longest_payback_days for group in plan.groups] == [None, 20.0]
    assert {move["to_class"] for move in moves if move["role"] == "canary"} == {"STANDARD", "GLACIER_IR"}
    assert "USD -0.120000 of the net saving is theirs" in workflow.describe(plan)
    assert "pinned" not in workflow.describe(build([decision("c")]))


def test_a_decision_to_pin_gets_into_the_plan() -> None:
    one = {name: np.array([0.0]) for name in ("expected_reads", "expected_read_bytes", "probability_any")}
    text = {"current_class": "GLACIER_IR", "lock_reason": None, "pinned_class": "STANDARD"}
    decided = decide(
        ObjectColumns(
            size_bytes=np.array([2**30]),
            days_in_class=np.array([300.0]),
            idle_days=np.array([300.0]),
            confidence=np.array([0.9]),
            from_rules=np.array([False]),
            excluded=np.array([False]),
            **one,
            **{name: np.array([value], dtype=object) for name, value in text.items()},
        ),
        load_book("aws-us-east-1"),
    )
    row = pa.table(as_columns(decided)).to_pylist()[0]
    assert row["saving_usd"] < 0
    assert build([pinned("a", **row)]).totals.objects == 1


def as_columns(decided: Decisions) -> dict[str, pa.Array]:
    names = ("current_class", "chosen_class", "saving_usd", "one_time_usd", "payback_days")
    return {name: pa.array(getattr(decided, name), from_pandas=True) for name in names}


def test_guardrails_hold_for_pinned_objects() -> None:
    rows = [pinned(key) for key in (*names("legal", 3), *names("models", 5))]
    plan, moves = build_both(rows, limits(excluded_prefixes=("s3://media/legal",), max_objects=4))
    assert {move["key"] for move in moves} < set(names("models", 5))
    assert (plan.totals.objects, plan.totals.left_out) == (4, 1)


def test_pinned_objects_are_not_held_out() -> None:
    rows = [*(pinned(key) for key in names("a", 500)), *(decision(key) for key in names("b", 500))]
    plan, moves = build_both(rows, limits(hold_out_share=0.1))
    held_out = [move["key"] for move in moves if move["role"] == "hold_out"]
    assert 25 <= len(held_out) <= 75
    assert {key[0] for key in held_out} == {"b"}
    assert (plan.totals.objects, plan.totals.held_out) == (1_000 - len(held_out), len(held_out))
    plan, _ = build_both([pinned(key) for key in names("a", 500)], limits(hold_out_share=0.1))
    assert (plan.totals.objects, plan.totals.held_out) == (500, 0)


def test_pinned_objects_move_when_the_others_save_too_little_as_a_whole() -> None:
    rows = [decision("a"), decision("b"), pinned("c", saving_usd=-10.0)]
    plan, moves = build_both(rows, limits(min_plan_saving_usd=Decimal("0.13")))
    assert ([move["key"] for move in moves], plan.totals.left_out) == (["c"], 2)
    # nor do they keep others from moving that save enough
    assert build(rows, limits(min_plan_saving_usd=Decimal("0.12"))).totals.objects == 3


@pytest.mark.parametrize(
    ("caps", "pins", "others"),
    [
        ({"max_objects": 20}, 10, 10),
        ({"max_bytes": 20_000}, 2, 10),
        ({"max_one_time_usd": Decimal("0.405")}, 20, 20),
    ],
)
def test_neither_keeps_the_other_waiting_when_pinned_objects_and_savings_fill_a_cap(
    caps: dict[str, object], pins: int, others: int
) -> None:
    rows = [decision(key) for key in names("a", 100)]
    rows += [pinned(key, size_bytes=5_000) for key in names("b", 100)]
    chosen = [move["to_class"] for move in moves_of(rows, limits(**caps))]
    assert (chosen.count("STANDARD"), chosen.count("GLACIER_IR")) == (pins, others)


def test_all_room_is_left_to_one_kind_when_there_is_little_of_the_other() -> None:
    few, many = [pinned("p"), pinned("q")], [decision(key) for key in names("a", 100)]
    chosen = [move["to_class"] for move in moves_of(few + many, limits(max_objects=20))]
    assert (chosen.count("STANDARD"), chosen.count("GLACIER_IR")) == (2, 18)


def greedy(sizes: list[int], costs: list[float], guardrails: Guardrails) -> list[bool]:
    objects, size_bytes, usd, fits = 0, 0, 0.0, []
    for size, cost in zip(sizes, costs, strict=True):
        fit = objects < guardrails.max_objects and size_bytes + size <= guardrails.max_bytes
        fit = fit and usd + cost <= guardrails.max_one_time_usd
        fits.append(fit)
        if fit:
            objects, size_bytes, usd = objects + 1, size_bytes + size, usd + cost
    return fits


def test_each_move_is_tried_in_its_turn_when_caps_bind() -> None:
    random = np.random.default_rng(11)
    for _ in range(200):
        count = int(random.integers(0, 60))
        sizes, costs = random.integers(0, 100, count), random.integers(0, 64, count) / 64
        caps = limits(
            max_objects=int(random.integers(1, 40)),
            max_bytes=int(random.integers(0, 900)),
            max_one_time_usd=Decimal(int(random.integers(0, 12))),
        )
        assert fitting(sizes, costs, caps).tolist() == greedy(sizes.tolist(), costs.tolist(), caps)


def test_nothing_is_held_out_that_no_plan_would_have_room_for() -> None:
    rows = [
        decision(key, saving_usd=2.0 + number, size_bytes=2000 if number % 2 else 10)
        for number, key in enumerate(names("a", 1_000))
    ]
    plan, moves = build_both(rows, limits(hold_out_share=0.2, max_bytes=1_999))
    assert {move["size_bytes"] for move in moves} == {10}
    assert plan.totals.held_out > 0


def test_plan_is_the_same_when_rows_come_in_another_order() -> None:
    rows = [decision(f"k{n}", provider=provider) for n in range(20) for provider in ("aws", "azure", "gcp")]
    guardrails = Guardrails(31, 2**60, Decimal(1000), Decimal(0))
    shuffled = [rows[index] for index in np.random.default_rng(7).permutation(len(rows))]
    assert build_both(rows, guardrails) == build_both(shuffled, guardrails)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}/{number:04}" for number in range(count)]


def test_plan_is_empty_when_it_saves_too_little_as_a_whole() -> None:
    rows = [decision("a"), decision("b")]
    assert build(rows, limits(min_plan_saving_usd=Decimal("0.12"))).totals.objects == 2
    plan = build(rows, limits(min_plan_saving_usd=Decimal("0.13")))
    assert (plan.totals.objects, plan.totals.left_out, plan.groups) == (0, 2, ())
    assert workflow.first_state(plan) is PlanState.EMPTY


def test_only_what_lies_below_an_allowed_prefix_moves() -> None:
    rows = [decision(key, bucket=bucket) for bucket in ("media", "data") for key in ("logs/a", "logs b/c", "x")]
    allowed = limits(allowed_prefixes=("s3://media/logs", "s3://data/logs%20b/", "gs://media"))
    assert [(move["bucket"], move["key"]) for move in moves_of(rows, allowed)] == [
        ("data", "logs b/c"),
        ("media", "logs b/c"),
        ("media", "logs/a"),
    ]
    excluded = limits(excluded_prefixes=("s3://media", "s3://data/x"))
    assert [(move["bucket"], move["key"]) for move in moves_of(rows, excluded)] == [
        ("data", "logs b/c"),
        ("data", "logs/a"),
    ]


@pytest.mark.parametrize(
    ("guardrails", "named"),
    [
        (limits(allowed_prefixes=("media/logs",)), "allowed_prefixes"),
        (limits(excluded_prefixes=("s3:///x",)), "excluded_prefixes"),
        (limits(canary_share=1.0), "canary_share"),
        (limits(hold_out_share=-0.1), "hold_out_share"),
        (limits(valid_days=0), "valid_days"),
    ],
)
def test_error_names_the_guardrail_when_it_makes_no_sense(guardrails: Guardrails, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        workflow.propose(Lake([decision("a")]), Plans(), run_id="r", created_at=AT, guardrails=guardrails, dry_run=True)


def test_canaries_come_first_and_from_every_group() -> None:
    rows = [decision(key) for key in names("a", 200)]
    rows += [decision(key, chosen_class="DEEP_ARCHIVE") for key in names("b", 3)]
    rows += [decision(key, provider="gcp", chosen_class="COLDLINE") for key in names("c", 20_000)]
    plan, moves = build_both(rows, limits(canary_share=0.05))
    roles = [move["role"] for move in moves]
    assert roles == ["canary"] * 111 + ["move"] * (20_203 - 111)
    assert plan.totals.canaries == 111  # 10 of 200, 1 of 3, and no more than 100 of 20,000
    groups = {(move["provider"], move["to_class"]) for move in moves if move["role"] == "canary"}
    assert groups == {("aws", "GLACIER_IR"), ("aws", "DEEP_ARCHIVE"), ("gcp", "COLDLINE")}
    for role in ("canary", "move"):
        keys = [(move["provider"], move["bucket"], move["key"]) for move in moves if move["role"] == role]
        assert keys == sorted(keys)


def test_the_same_objects_are_held_out_when_another_plan_is_made() -> None:
    rows = [decision(key) for key in names("a", 1000)]
    plan, moves = build_both(rows, limits(hold_out_share=0.1))
    held_out = {move["key"] for move in moves if move["role"] == "hold_out"}
    assert 60 <= len(held_out) <= 140
    assert plan.totals.held_out == len(held_out)
    assert plan.totals.objects == plan.groups[0].objects == 1000 - len(held_out)
    later = moves_of(
        [decision(key, chosen_class="DEEP_ARCHIVE") for key in names("a", 500)], limits(hold_out_share=0.1)
    )
    assert {move["key"] for move in later if move["role"] == "hold_out"} == {k for k in held_out if k < "a/0500"}
    assert [move["role"] for move in moves][-len(held_out) :] == ["hold_out"] * len(held_out)


def test_nothing_is_held_out_that_would_not_have_moved_within_the_caps() -> None:
    rows = [decision(key, saving_usd=1.0 + number) for number, key in enumerate(names("a", 1000))]
    moves = moves_of(rows, limits(hold_out_share=0.1, max_objects=100))
    least = min(move["saving_usd"] for move in moves if move["role"] == "move")
    held_out = [move["saving_usd"] for move in moves if move["role"] == "hold_out"]
    assert held_out
    assert min(held_out) >= least


def test_groups_add_up_to_the_totals() -> None:
    rows = [
        decision(key, provider=provider, bucket=bucket)
        for key in names("k", 7)
        for provider in ("gcp", "aws", "azure")
        for bucket in ("media", "data")
    ]
    plan = build(rows)
    assert len(plan.groups) == 6
    assert sum(group.objects for group in plan.groups) == plan.totals.objects == 42
    assert sum(group.bytes for group in plan.groups) == plan.totals.bytes
    assert sum(group.saving_usd for group in plan.groups) == plan.totals.saving_usd
    assert plan.groups[0].longest_payback_days == 20.0


def test_moves_that_nothing_takes_back_are_counted_in_the_plan_and_said_in_its_description() -> None:
    leaving = [decision(key, provider="azure", current_class="Smart", chosen_class="Cold") for key in names("k", 3)]
    other = [decision("other", provider="azure", current_class="Hot", chosen_class="Cold"), decision("s3")]
    plan = build([*leaving, *other])
    assert plan.irreversible == 3
    assert "3 of the moves are irreversible: what leaves smart tier cannot go back in" in workflow.describe(plan)
    assert build(other).irreversible == 0
    assert "irreversible" not in workflow.describe(build(other))


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

    def dataset(self, dataset: str, *, days: Sequence[date]) -> pads.Dataset:
        assert days == [DAY]
        return pads.dataset(pa.Table.from_pylist(self.rows or [], schema=DECISIONS))


class Plans:
    def __init__(self) -> None:
        self.added: list[tuple[str, PlanState]] = []

    def add(self, plan: MigrationPlan, moves: pa.Table, state: PlanState) -> bool:
        assert moves.num_rows == plan.totals.objects
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


JOBS = JobTerms(1_000, JobPrices(0.25, 1e-6), frozenset({"GLACIER"}), write_once=True)
ENOUGH = names("k", 2_000)


def with_jobs(
    rows: list[dict[str, object]], guardrails: Guardrails = NO_CAPS, terms: JobTerms | None = JOBS
) -> tuple[MigrationPlan, list[dict[str, Any]]]:
    return build_both(rows, guardrails, terms_of=lambda _provider, bucket: terms if bucket == "media" else None)


def test_what_jobs_cost_is_part_of_every_figure() -> None:
    rows = [decision(key) for key in ENOUGH]
    copied, moved_by_jobs = build_both(rows), with_jobs(rows)
    fees = Decimal("0.252")
    assert copied[0].groups[0].job_fees_usd == 0
    assert moved_by_jobs[0].groups[0].job_fees_usd == fees
    for figure, sign in (("one_time_usd", 1), ("saving_usd", -1)):
        stated = getattr(moved_by_jobs[0].totals, figure)
        assert stated == getattr(copied[0].totals, figure) + sign * fees
        assert stated == getattr(moved_by_jobs[0].groups[0], figure) == sum(move[figure] for move in moved_by_jobs[1])
    # a copy of USD 0.01 took 20 days to pay back
    assert moved_by_jobs[0].groups[0].longest_payback_days == pytest.approx(20 * (0.01 + 0.000126) / 0.01)
    assert moved_by_jobs[0].totals.after_usd_month == copied[0].totals.after_usd_month
    assert "USD 0.252000 is what S3 Batch Operations charges" in workflow.describe(moved_by_jobs[0])
    assert "Batch Operations" not in workflow.describe(copied[0])


@pytest.mark.parametrize(
    ("changed", "terms"),
    [
        ({}, replace(JOBS, from_objects=2_001)),
        ({}, replace(JOBS, write_once=False)),
        ({"version_id": "v"}, JOBS),
        ({"current_class": "GLACIER"}, JOBS),
        ({"size_bytes": 5 * 10**9 + 1}, JOBS),
        ({"bucket": "other"}, JOBS),
    ],
)
def test_nothing_is_charged_for_jobs_that_are_not_made(changed: dict[str, object], terms: JobTerms) -> None:
    plan, moves = with_jobs([decision(key, **changed) for key in ENOUGH], terms=terms)
    assert plan.totals.one_time_usd == Decimal("0.01") * len(moves) == 20


def test_canaries_bear_nothing_when_they_are_too_few_for_a_job() -> None:
    plan, moves = with_jobs([decision(key) for key in ENOUGH], limits(canary_share=0.01))
    assert {move["one_time_usd"] for move in moves if move["role"] == "canary"} == {Decimal("0.01")}
    assert plan.groups[0].job_fees_usd == Decimal("0.25198")


def test_no_plan_breaks_its_cap_by_the_price_of_its_jobs() -> None:
    rows = [decision(key, saving_usd=1 + number / 1000) for number, key in enumerate(ENOUGH)]
    plan, _ = with_jobs(rows, limits(max_one_time_usd=Decimal(15)))
    assert plan.totals.objects == 1_474  # 1,500 without jobs
    assert plan.totals.left_out == 526
    assert Decimal("14.99") < plan.totals.one_time_usd <= 15
    # below from_objects no job is made, and nothing is charged for one
    plan, _ = with_jobs(rows, limits(max_one_time_usd=Decimal(15)), replace(JOBS, from_objects=1_490))
    assert plan.totals.one_time_usd == Decimal("0.01") * plan.totals.objects


def test_the_others_stay_in_when_one_move_breaks_the_cap_by_the_price_of_its_job() -> None:
    dear = [10.0, 5.0]
    rows = [decision(key, saving_usd=50.0, one_time_usd=cost) for key, cost in zip(ENOUGH[:2], dear, strict=True)]
    rows += [decision(key, one_time_usd=0.0) for key in ENOUGH[2:]]
    plan, moves = with_jobs(rows, limits(max_one_time_usd=Decimal(15)))
    assert (plan.totals.objects, plan.totals.left_out) == (1_999, 1)
    assert ENOUGH[1] not in {move["key"] for move in moves}


def test_moves_stay_out_whose_saving_the_jobs_would_use_up() -> None:
    rows = [decision(key, saving_usd=0.06 if number % 2 else 0.0001) for number, key in enumerate(ENOUGH)]
    plan, moves = with_jobs(rows)
    assert plan.totals.objects == 1_000
    assert plan.totals.left_out == 1_000
    assert min(move["saving_usd"] for move in moves) == Decimal("0.059749")


@pytest.mark.parametrize(
    ("objects", "share", "said"),
    [
        (3, 0.0, "Nothing is held out (hold_out_share is 0)"),
        (1, 0.0001, "Nothing is held out (hold_out_share=0.0001 is too small for so few objects)"),
        (1_000, 0.1, "more objects are held out, so that the savings can be compared"),
    ],
)
def test_description_says_whether_the_savings_can_be_compared(objects: int, share: float, said: str) -> None:
    plan = build([decision(key) for key in names("a", objects)], limits(hold_out_share=share))
    assert said in workflow.describe(plan)


def test_description_says_nothing_of_a_hold_out_when_nothing_moves() -> None:
    assert "held out" not in workflow.describe(build([keep("a")]))
