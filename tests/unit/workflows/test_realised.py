"""Realised savings: what they are on known accesses, what they leave out, and whether the hold-out tells the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.accounting import Account, tariff_of
from cloudflux.domain.coverage import CoveredDay
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanTotals
from cloudflux.domain.prices import GIB_BYTES
from cloudflux.domain.reports import PlanSavings
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DAILY_ACCESS, DECISIONS, INVENTORY
from cloudflux.lake.shards import shards_of
from cloudflux.price_books import load_book
from cloudflux.workflows.realised import MEASURED_MOVES, measure_savings

BOOK = load_book("aws-us-east-1")
SHARDS = 2
MOVED_ON = date(2026, 5, 1)
DECIDED_ON = date(2026, 4, 30)
FIRST = MOVED_ON + timedelta(days=1)
BUCKET = BucketSettings(provider=Provider.AWS, bucket="media", price_book="aws-us-east-1", connection_id="aws_default")
ESTATE = Estate(buckets=(BUCKET,))


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def plan(plan_id: str = "plan-1", horizon_days: int = 180) -> MigrationPlan:
    nothing = Decimal(0)
    return MigrationPlan(
        plan_id=plan_id,
        run_id="run",
        created_at=noon(MOVED_ON),
        expires_at=noon(MOVED_ON + timedelta(days=14)),
        decisions_day=DECIDED_ON,
        horizon_days=horizon_days,
        dry_run=False,
        guardrails=Guardrails(10**6, 2**60, Decimal(1000), nothing),
        totals=PlanTotals(0, 0, nothing, nothing, nothing, nothing, 0, 0),
        groups=(),
    )


def move(key: str, **overrides: Any) -> dict[str, Any]:
    held_out = overrides.get("held_out", False)
    row = {
        "plan_id": "plan-1",
        "provider": "aws",
        "bucket": "media",
        "key": key,
        "size_bytes": GIB_BYTES,
        "class_since_at": noon(MOVED_ON - timedelta(days=400)),
        "from_class": "STANDARD",
        "to_class": "GLACIER_IR",
        "held_out": held_out,
        "pinned": False,
        "monthly_saving_usd": 0.019,
        "planned_cost_usd": 0.00002,
        "done_at": noon(MOVED_ON),
        "undone_at": None,
        "cost_usd": None if held_out else 0.00003,
        "undo_cost_usd": None,
        "expected_etag": "e1",
        "expected_since_at": None if held_out else noon(MOVED_ON),
        "moved_on_at": None,
    }
    row |= overrides
    row.setdefault("expected_class", row["from_class"] if held_out else row["to_class"])
    return row


@dataclass
class Moves:
    """The ledger's answer."""

    rows: Sequence[Mapping[str, Any]]

    def measured_moves(self, plan_ids: Sequence[str], shard: int, shards: int) -> pa.Table:
        chosen = [row for row in self.rows if row["plan_id"] in plan_ids]
        table = pa.Table.from_pylist(chosen, schema=MEASURED_MOVES)
        return table.filter(pa.array(shards_of(table, shards) == shard))


@dataclass
class World:
    """A lake with what tests put into it."""

    lake: Lake
    covered: dict[date, float] = field(default_factory=dict)

    def publish(self, dataset: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        self.lake.stage_shards(dataset, pa.Table.from_pylist(rows, schema=schema), "b")
        self.lake.publish(dataset, "b")

    def access(self, rows: Sequence[tuple[str, date, int]], **more: int) -> None:
        self.publish(
            "daily_access",
            [
                {
                    "provider": "aws",
                    "bucket": "media",
                    "key": key,
                    "day": day,
                    "reads": reads,
                    "writes": 0,
                    "bytes_read": reads * GIB_BYTES,
                    "excluded_reads": 0,
                    "excluded_writes": 0,
                    **more,
                }
                for key, day, reads in rows
            ],
            DAILY_ACCESS,
        )

    def inventory(self, day: date, objects: Mapping[str, tuple[str, str]]) -> None:
        self.publish(
            "inventory",
            [
                {
                    "provider": "aws",
                    "bucket": "media",
                    "key": key,
                    "size_bytes": GIB_BYTES,
                    "storage_class": storage_class,
                    "tier": "hot",
                    "etag": etag,
                    "last_modified_at": noon(day),
                    "class_since_at": noon(day),
                    "day": day,
                }
                for key, (storage_class, etag) in objects.items()
            ],
            INVENTORY,
        )

    def decisions(self, monthly_usd: Mapping[str, float], current_class: str = "STANDARD") -> None:
        filler: dict[str, Any] = {
            "etag": "e1", "size_bytes": GIB_BYTES, "last_modified_at": noon(DECIDED_ON),
            "class_since_at": noon(DECIDED_ON), "chosen_class": "GLACIER_IR", "action": "move", "reason": "",
            "horizon_days": 180, "expected_reads": 0.0, "stay_usd": 0.0, "chosen_usd": 0.0, "one_time_usd": 0.0,
            "saving_usd": 0.0, "chosen_monthly_usd": 0.0, "rule_class": "", "candidates": [], "price_book": "",
        }  # fmt: skip
        rows = [
            {
                **filler,
                "provider": "aws",
                "bucket": "media",
                "key": key,
                "day": DECIDED_ON,
                "current_class": current_class,
                "current_monthly_usd": usd,
            }
            for key, usd in monthly_usd.items()
        ]
        self.publish("decisions", rows, DECISIONS)

    def measure(
        self, rows: Sequence[Mapping[str, Any]], days: int, *, plans: Sequence[MigrationPlan] | None = None
    ) -> PlanSavings:
        at = noon(FIRST + timedelta(days=days))
        told = [
            CoveredDay(day, self.covered.get(day, 1.0), "", at)
            for day in (FIRST + timedelta(days=number) for number in range(-1, days))
        ]
        return measure_savings(
            plans or [plan()],
            moves=Moves(rows),
            lake=self.lake,
            estate=ESTATE,
            books={"aws-us-east-1": BOOK},
            coverage={("aws", "media"): told},
            at=at,
        )[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Lake(str(tmp_path), SHARDS))


def day(number: int) -> date:
    """Give a day by its number since the move's: 1 is the first that counts."""
    return MOVED_ON + timedelta(days=number)


def cost(storage_class: str, days: int, reads: int = 0) -> float:
    prices = BOOK.prices_of(storage_class)
    return prices.storage_usd_gib_month * days / 30 + reads * (prices.read_usd + prices.retrieval_usd_gib)


def test_saving_is_the_difference_of_the_classes_on_the_own_accesses(world: World) -> None:
    world.access([("a", day(2), 3), ("a", day(9), 1), ("a", MOVED_ON, 50), ("other", day(2), 9)])
    found = world.measure([move("a")], days=10)
    expected = cost("STANDARD", 10, 4) - cost("GLACIER_IR", 10, 4)
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)
    assert float(found.realised.month_usd or 0) == pytest.approx(expected * 3, abs=1e-9)
    assert float(found.projected.since_usd) == pytest.approx(0.019 / 3 - 0.00002)
    assert found.projected.month_usd == Decimal("0.019").quantize(Decimal("1e-10"))
    assert (found.object_days, found.left_out_days, found.one_time_usd) == (10, 0, Decimal("0.0000300000"))
    assert (found.first_day, found.last_day) == (day(1), day(10))
    assert [found.days[0].day, found.days[-1].day] == [day(1), day(10)]
    assert found.days[-1].realised_usd == found.realised.since_usd
    assert found.held_out is found.against_hold_out_month is found.against_hold_out_since is None
    assert found.days[-1].against_hold_out_usd is None


def test_account_of_domain_agrees_when_the_class_came_with_early_deletion_and_restores(world: World) -> None:
    reads = {day(3): 2, day(4): 1, day(20): 5}
    world.access([("a", when, number) for when, number in reads.items()])
    found = world.measure([move("a", from_class="DEEP_ARCHIVE", to_class="INTELLIGENT_TIERING")], days=90)
    tariff = tariff_of(BOOK, [GIB_BYTES])
    totals = []
    for name, held in (("DEEP_ARCHIVE", 401), ("INTELLIGENT_TIERING", 0)):
        account = Account(tariff, tariff.code_of(name), held, held)
        for number in range(1, 91):
            read = [0] if day(number) in reads else []
            account.pass_day(np.array([0]), np.array(read, dtype=np.intp), [reads[day(number)]] if read else [])
        totals.append(account.total_usd)
    assert float(found.realised.since_usd) == pytest.approx(totals[0] - totals[1] - 0.00003, abs=1e-9)


def test_nothing_is_claimed_when_no_day_has_passed(world: World) -> None:
    found = world.measure([move("a"), move("h", held_out=True)], days=0)
    assert (found.realised.month_usd, found.object_days) == (None, 0)
    assert found.realised.since_usd == Decimal("-0.00003").quantize(Decimal("1e-10"))
    assert found.against_hold_out_since is None
    assert found.held_out is not None
    assert (found.held_out.objects, found.held_out.measured) == (1, 0)


def test_days_are_left_out_and_counted_when_logs_do_not_cover_them(world: World) -> None:
    world.access([("a", day(2), 3), ("a", day(3), 100)])
    world.covered = {day(3): 0.79, day(4): 0.8}
    found = world.measure([move("a")], days=10)
    expected = cost("STANDARD", 9, 3) - cost("GLACIER_IR", 9, 3)
    assert (found.object_days, found.left_out_days) == (9, 1)
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)
    assert float(found.realised.month_usd or 0) == pytest.approx(expected / 9 * 30, abs=1e-9)


def test_nothing_is_measured_when_the_bucket_has_no_logs(world: World) -> None:
    world.covered = dict.fromkeys((day(number) for number in range(1, 11)), 0.0)
    found = world.measure([move("a")], days=10)
    assert (found.realised.month_usd, found.object_days, found.left_out_days) == (None, 0, 10)


def test_early_deletion_is_charged_when_the_object_is_overwritten(world: World) -> None:
    world.access([("a", day(6), 2)], writes=1)
    found = world.measure([move("a")], days=10)
    owed = BOOK.prices_of("GLACIER_IR").storage_usd_gib_month / 30 * (90 - 5)
    expected = cost("STANDARD", 5) - cost("GLACIER_IR", 5) - owed
    assert (found.moves.overwritten, found.object_days) == (1, 5)
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)


def test_early_deletion_counts_the_days_that_logs_do_not_cover(world: World) -> None:
    world.access([("a", day(6), 2)], writes=1)
    world.covered = {day(2): 0.0, day(3): 0.0}
    found = world.measure([move("a")], days=10)
    owed = BOOK.prices_of("GLACIER_IR").storage_usd_gib_month / 30 * (90 - 5)
    expected = cost("STANDARD", 3) - cost("GLACIER_IR", 3) - owed
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)


@pytest.mark.parametrize(
    ("now", "reason"),
    [(None, "deleted"), (("GLACIER_IR", "e2"), "overwritten"), (("STANDARD", "e1"), "reclassified")],
)
def test_counting_stops_when_an_inventory_contradicts(world: World, now: tuple[str, str] | None, reason: str) -> None:
    rest = {f"z{number}": ("STANDARD", "e") for number in range(20)}  # so that both shards list something
    good = {"a": ("GLACIER_IR", "e1"), **rest}
    world.inventory(day(1), {"a": ("STANDARD", "e0"), **rest})  # too early to contradict the move
    world.inventory(day(3), good)
    world.inventory(day(5), good)
    world.inventory(day(7), rest if now is None else {"a": now, **rest})
    world.inventory(day(9), rest if now is None else {"a": now, **rest})
    found = world.measure([move("a")], days=10)
    assert getattr(found.moves, reason) == 1
    assert found.object_days == 5  # the last inventory that agreed


def test_counting_goes_on_when_an_inventory_lists_nothing_of_the_bucket(world: World) -> None:
    world.publish(
        "inventory",
        [
            {
                "provider": "aws", "bucket": "another", "key": f"k{number}", "size_bytes": 1, "tier": "hot",
                "storage_class": "STANDARD", "etag": "e", "last_modified_at": noon(day(7)),
                "class_since_at": noon(day(7)), "day": day(7),
            }
            for number in range(20)
        ],
        INVENTORY,
    )  # fmt: skip
    found = world.measure([move("a")], days=10)
    assert (found.moves.deleted, found.object_days) == (0, 10)


def test_counting_stops_and_costs_stay_when_the_move_is_undone(world: World) -> None:
    undone = {"undone_at": noon(day(4)), "undo_cost_usd": 0.5, "expected_class": "STANDARD"}
    found = world.measure([move("a", **undone)], days=10)
    kept = world.measure([move("a")], days=10)
    assert (found.moves.undone, found.object_days) == (1, 3)
    assert found.one_time_usd == Decimal("0.50003").quantize(Decimal("1e-10"))
    three_days = cost("STANDARD", 3) - cost("GLACIER_IR", 3)
    assert float(found.realised.since_usd) == pytest.approx(three_days - 0.50003, abs=1e-9)
    assert found.days[-1].realised_usd == found.days[4].realised_usd == found.realised.since_usd  # nothing more comes
    assert found.realised.since_usd < kept.realised.since_usd


def test_counting_stops_when_the_horizon_is_over(world: World) -> None:
    found = world.measure([move("a")], days=10, plans=[plan(horizon_days=7)])
    assert found.object_days == 7


def test_held_out_object_stops_counting_when_a_later_plan_moves_it(world: World) -> None:
    world.decisions({"a": 0.023, "h": 0.023, "i": 0.023})
    rows = [
        move("a"),
        move("h", held_out=True, moved_on_at=noon(day(5)), expected_class="GLACIER_IR", expected_since_at=noon(day(5))),
        move("i", held_out=True),
    ]
    found = world.measure(rows, days=10)
    assert found.held_out is not None
    assert float(found.held_out.realised.since_usd) == pytest.approx(cost("STANDARD", 4 + 10), abs=1e-9)


def test_moves_are_counted_apart_when_the_book_does_not_know_a_class(world: World) -> None:
    found = world.measure([move("a", to_class="FROZEN"), move("b", cost_usd=None)], days=10)
    assert (found.moves.unpriced, found.moves.done, found.moves.costs_unknown) == (1, 1, 1)
    assert found.one_time_usd == Decimal("0.00002").quantize(Decimal("1e-10"))


def test_reads_of_excluded_agents_are_told_apart(world: World) -> None:
    world.access([("a", day(2), 0)], excluded_reads=3)
    found = world.measure([move("a")], days=10)
    dearer = cost("GLACIER_IR", 0, 3) - cost("STANDARD", 0, 3)
    assert found.excluded_reads == 3
    assert float(found.excluded_reads_usd) == pytest.approx(dearer, abs=1e-9)
    assert float(found.realised.since_usd) == pytest.approx(
        cost("STANDARD", 10) - cost("GLACIER_IR", 10) - 0.00003, abs=1e-9
    )


def test_comparison_leaves_out_what_was_decided_anew_after_the_move(world: World) -> None:
    world.decisions({"h": 0.023, "i": 0.023})
    world.measure([move("a")], days=3)
    found = world.measure([move("a"), move("h", held_out=True), move("i", held_out=True)], days=10)
    assert (found.moves.measured, found.moves.compared) == (1, 0)
    assert found.against_hold_out_since is None


def test_objects_are_not_compared_when_they_were_scored_again_after_the_move(world: World) -> None:
    world.decisions({"a": 0.004}, current_class="GLACIER_IR")
    found = world.measure([move("a")], days=5)
    assert (found.moves.measured, found.moves.compared) == (1, 0)


def test_clocks_go_on_when_logs_do_not_cover_days(world: World) -> None:
    world.covered = {day(number): 0.0 for number in range(1, 36)}
    found = world.measure([move("a", to_class="INTELLIGENT_TIERING")], days=40)
    prices = BOOK.prices_of("INTELLIGENT_TIERING").autopilot
    assert prices is not None
    assert [step.idle_days for step in prices.steps] == [30, 90]
    tiered = prices.steps[0].storage_usd_gib_month + prices.monitoring_usd_month
    expected = (BOOK.prices_of("STANDARD").storage_usd_gib_month - tiered) / 30 * 5
    assert (found.object_days, found.left_out_days) == (5, 35)
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)


def test_counting_goes_on_when_the_write_is_a_later_move_of_our_own(world: World) -> None:
    world.access([("a", day(6), 0)], writes=1)
    later = {"expected_class": "DEEP_ARCHIVE", "expected_since_at": noon(day(6))}
    found = world.measure([move("a", **later)], days=10)
    assert (found.moves.overwritten, found.object_days) == (0, 10)
    expected = cost("STANDARD", 10) - cost("GLACIER_IR", 10)  # the later plan counts the next difference
    assert float(found.realised.since_usd) == pytest.approx(expected - 0.00003, abs=1e-9)


# -- simulations ----------------------------------------------------------------------------------------------------

_PROJECTED_READS = 0.5  # a day and object, as they were before
_DAYS = 20


def simulate(
    world: World, *, seed: int, fell_to: float, objects: int = 600, hold_out: float = 0.2, moved_read_more: float = 1.0
) -> tuple[PlanSavings, float, float]:
    """Promote objects of STANDARD_IA, whose reads fall for everybody on the day of the move.

    Gives what is measured, the saving that is true, and the one that a comparison of before and after would claim.
    """
    draw = np.random.default_rng(seed)
    habit = draw.lognormal(0.0, 0.6, objects) * _PROJECTED_READS
    held = draw.random(objects) < hold_out
    unmoved = draw.poisson(habit[:, None] * fell_to, (objects, _DAYS))
    reads = np.where(held[:, None], unmoved, draw.binomial(unmoved * 4, moved_read_more / 4))
    if moved_read_more == 1.0:
        reads = unmoved
    keys = [f"k{number}" for number in range(objects)]
    world.access([(keys[n], day(d + 1), int(reads[n, d])) for n in range(objects) for d in range(_DAYS) if reads[n, d]])
    prices, standard = BOOK.prices_of("STANDARD_IA"), BOOK.prices_of("STANDARD")
    a_read = prices.read_usd + prices.retrieval_usd_gib
    before = prices.storage_usd_gib_month + habit * 30 * a_read
    world.decisions(dict(zip(keys, before.tolist(), strict=True)), current_class="STANDARD_IA")
    rows = [
        move(
            key,
            held_out=bool(out),
            from_class="STANDARD_IA",
            to_class="STANDARD",
            monthly_saving_usd=0.1,
            cost_usd=None if out else 0.0,
        )
        for key, out in zip(keys, held, strict=True)
    ]
    now = standard.storage_usd_gib_month / 30 * _DAYS + reads[~held].sum(axis=1) * standard.read_usd
    would = prices.storage_usd_gib_month / 30 * _DAYS + unmoved[~held].sum(axis=1) * a_read
    naive = float((before[~held] / 30 * _DAYS - now).sum())
    return world.measure(rows, days=_DAYS), float((would - now).sum()), naive


def test_hold_out_tells_the_truth_when_accesses_fall_for_everybody(world: World) -> None:
    found, truth, naive = simulate(world, seed=1, fell_to=0.3)
    compared = found.against_hold_out_since
    assert compared is not None
    assert compared.standard_error_usd is not None
    error = float(compared.standard_error_usd)
    assert abs(float(compared.usd) - truth) < 3 * error
    assert naive - truth > 20 * error  # before and after would claim what nobody caused
    assert float(found.realised.since_usd) == pytest.approx(truth, rel=1e-6)  # the moves changed no access
    assert found.held_out is not None
    assert float(found.held_out.realised.since_usd / found.held_out.projected.since_usd) < 0.6


def test_hold_out_shows_a_loss_when_before_and_after_claims_a_saving(world: World) -> None:
    found, truth, naive = simulate(world, seed=2, fell_to=0.02, objects=1500)
    assert truth < 0 < naive
    compared = found.against_hold_out_since
    assert compared is not None
    assert compared.high_usd is not None
    assert compared.high_usd < 0


def test_hold_out_shows_what_own_accesses_cannot_when_the_move_itself_changes_them(world: World) -> None:
    found, truth, _ = simulate(world, seed=3, fell_to=1.0, objects=1500, moved_read_more=0.25)
    compared = found.against_hold_out_since
    assert compared is not None
    assert compared.low_usd is not None
    assert compared.high_usd is not None
    assert float(compared.low_usd) < truth < float(compared.high_usd)
    # three of four reads are gone because the objects moved: priced at what is left of them, the saving is too small
    assert float(found.realised.since_usd) < 0.5 * truth


def test_it_says_so_when_there_is_no_hold_out(world: World) -> None:
    found, truth, _ = simulate(world, seed=4, fell_to=0.3, hold_out=0.0)
    assert found.held_out is found.against_hold_out_month is found.against_hold_out_since is None
    assert all(one.against_hold_out_usd is one.standard_error_usd is None for one in found.days)
    assert float(found.realised.since_usd) == pytest.approx(truth, rel=1e-6)


def test_pinned_objects_are_measured_but_not_compared_with_the_hold_out(world: World) -> None:
    world.decisions(dict.fromkeys(("a", "p", "h", "i"), 0.023))
    alone, both = (
        world.measure([move("a"), *more, move("h", held_out=True), move("i", held_out=True)], days=10)
        for more in ([], [move("p", pinned=True)])
    )
    assert (both.moves.done, both.moves.measured, both.moves.compared) == (2, 2, 1)
    assert float(both.realised.since_usd) == pytest.approx(2 * float(alone.realised.since_usd), abs=1e-9)
    assert both.against_hold_out_since == alone.against_hold_out_since
    assert both.against_hold_out_month == alone.against_hold_out_month
    assert both.against_hold_out_since is not None


def test_error_is_unknown_when_one_object_is_held_out(world: World) -> None:
    world.decisions({"a": 0.023, "h": 0.023})
    found = world.measure([move("a"), move("h", held_out=True)], days=10)
    compared = found.against_hold_out_since
    assert compared is not None
    assert (compared.standard_error_usd, compared.low_usd, compared.high_usd) == (None, None, None)
    expected = cost("STANDARD", 10) - cost("GLACIER_IR", 10) - 0.00003
    assert float(compared.usd) == pytest.approx(expected, abs=1e-9)


def test_shards_make_no_difference(tmp_path: Path) -> None:
    one, many = World(Lake(str(tmp_path / "one"), 1)), World(Lake(str(tmp_path / "many"), 5))
    results = [simulate(world, seed=5, fell_to=0.5, objects=200)[0] for world in (one, many)]
    for attribute in ("moves", "object_days", "first_day", "last_day"):
        assert getattr(results[0], attribute) == getattr(results[1], attribute)
    assert float(results[0].realised.since_usd) == pytest.approx(float(results[1].realised.since_usd), abs=1e-8)
    assert results[0].against_hold_out_since is not None
    assert results[1].against_hold_out_since is not None
    assert float(results[0].against_hold_out_since.usd) == pytest.approx(
        float(results[1].against_hold_out_since.usd), abs=1e-8
    )
