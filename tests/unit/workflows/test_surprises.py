"""The surprise guard over several scored days: refuted, decided by break-even, released, late logs, lost accounts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.policy import PolicySettings
from cloudflux.domain.tiers import Provider
from cloudflux.domain.usage import UsageChain
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY
from cloudflux.price_books import load_book
from cloudflux.workflows.explain import explain_object
from cloudflux.workflows.explanation import ExplainedGuard, Explanation
from cloudflux.workflows.placements import Placements
from cloudflux.workflows.score import ShardScored, score_shard

FIRST = date(2026, 1, 1)
START = FIRST + timedelta(days=200)
GIB = 2**30
BOOKS = {"aws-us-east-1": load_book("aws-us-east-1")}
CHAIN = UsageChain(
    unread=np.array([[0.999, 0.0], [0.0, 0.5]]),
    read=np.array([[0.001, 0.0], [0.0, 0.5]]),
    reads=np.array([0.001, 0.5]),
    seen=np.full(2, 1000.0),
)
SILENT, BUSY = 0, 1
OBJECTS = {
    "silent/surprising": (5 * GIB, "GLACIER_IR", SILENT),
    "silent/calm": (5 * GIB, "GLACIER_IR", SILENT),
    "silent/standard": (5 * GIB, "STANDARD", SILENT),
    "locked/surprising": (5 * GIB, "GLACIER_IR", SILENT),
    "busy/expected": (5 * GIB, "GLACIER_IR", BUSY),
    **{f"silent/other-{number:02d}": (GIB, "GLACIER_IR", SILENT) for number in range(40)},
}
PLACEMENTS = Placements()
ESTATE = Estate(
    buckets=(
        BucketSettings(provider=Provider.AWS, bucket="data", price_book="aws-us-east-1", connection_id="aws_default"),
    )
)
TEXT = "refuted by its own reads: break-even until"


def inventory(day: date, moved: dict[str, tuple[str, date]]) -> pa.Table:
    rows = []
    for key, (size, storage_class, _) in OBJECTS.items():
        name, since = moved.get(key, (storage_class, FIRST + timedelta(days=50)))
        rows.append(
            {
                "provider": "aws",
                "bucket": "data",
                "key": key,
                "version_id": None,
                "size_bytes": size,
                "storage_class": name,
                "tier": "cold",
                "etag": "e",
                "last_modified_at": datetime(2025, 6, 1, tzinfo=UTC),
                "class_since_at": datetime(since.year, since.month, since.day, tzinfo=UTC),
                "content_type": None,
                "lock_reason": "legal hold" if key.startswith("locked/") else None,
                "day": day,
            }
        )
    return pa.Table.from_pylist(rows, INVENTORY)


@dataclass
class World:
    """A lake whose days go by: each is listed, scored and published, then read."""

    folder: Path
    model: str = "model:7"
    reads: dict[date, dict[str, int]] = field(default_factory=dict)
    moved: dict[str, tuple[str, date]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lake = Lake(str(self.folder), 1)
        self.read(FIRST, {"silent/standard": 1})

    def publish(self, dataset: str, table: pa.Table) -> None:
        self.lake.stage_shards(dataset, table, "setup")
        self.lake.publish(dataset, "setup")

    def read(self, day: date, counts: dict[str, int]) -> None:
        """Publish a day's daily access, in place of what was there."""
        self.reads[day] = counts
        self.lake.delete_partition("daily_access", day, 0)
        row = {"provider": "aws", "bucket": "data", "day": day, "writes": 0, "excluded_reads": 0, "excluded_writes": 0}
        rows = [row | {"key": key, "reads": n, "bytes_read": n * OBJECTS[key][0]} for key, n in counts.items()]
        self.publish("daily_access", pa.Table.from_pylist(rows, DAILY_ACCESS))

    def score(self, day: date, batch: str = "batch") -> ShardScored:
        """List and score a day, and publish what was decided."""
        self.publish("inventory", inventory(day, self.moved))
        scored = score_shard(
            day=day,
            shard=0,
            batch=batch,
            lake=self.lake,
            forecast=self.forecast,
            estate=ESTATE,
            books=BOOKS,
            policy=PolicySettings(),
            history_days=400,
            coverage={("aws", "data"): RecentCoverage(1.0, 30)},
            placements=PLACEMENTS,
        )
        for dataset in ("forecasts", "surprises", "decisions"):
            self.lake.publish(dataset, batch)
        return scored

    def explain(self, day: date, key: str) -> Explanation:
        return explain_object(
            ObjectRef(Provider.AWS, "data", key),
            day=day,
            lake=self.lake,
            shards=1,
            forecast=self.forecast,
            estate=ESTATE,
            books=BOOKS,
            policy=PolicySettings(),
            history_days=400,
            coverage={("aws", "data"): RecentCoverage(1.0, 30)},
            placements=PLACEMENTS,
        )

    def decision(self, day: date, key: str) -> dict[str, object]:
        rows = self.lake.read("decisions", days=[day]).to_pylist()
        return next(row for row in rows if row["key"] == key)

    def accounts(self, day: date) -> dict[str, dict[str, object]]:
        return {row["key"]: row for row in self.lake.read("surprises", days=[day]).to_pylist()}

    def bytes_of(self, day: date) -> bytes:
        return (self.folder / "surprises" / f"day={day}" / "shard=0000.parquet").read_bytes()

    def forecast(self, inventory, daily_access, day, horizon_days, *, history_start):
        keys = inventory["key"].to_pylist()
        states = np.array([OBJECTS[key][2] for key in keys])
        month = dict.fromkeys(keys, 0)
        for back in range(1, 31):
            for key, count in self.reads.get(day - timedelta(days=back), {}).items():
                month[key] += count
        expected = CHAIN.reads[states] * horizon_days
        horizons = expected[:, None] * np.array(FORECAST_HORIZONS) / horizon_days
        count = len(keys)
        return AccessForecasts(
            horizon_days=horizon_days,
            expected_reads=expected,
            expected_read_bytes=expected * inventory["size_bytes"].to_numpy(),
            bytes_per_read=inventory["size_bytes"].to_numpy().astype(np.float64),
            probability_any=-np.expm1(-expected),
            horizon_expected_reads=horizons,
            horizon_probability_any=-np.expm1(-horizons),
            band=np.full(count, "cold", dtype=object),
            tier=np.full(count, "cold", dtype=object),
            confidence=np.full(count, 0.9),
            source=np.full(count, self.model, dtype=object),
            from_rules=np.zeros(count, dtype=np.bool_),
            reads_30_days=np.array([float(month[key]) for key in keys]),
            last_read_days=np.full(count, np.inf),
            idle_days=np.full(count, 150.0),
            usage_state=states,
            usage_chain=CHAIN,
        )


def day(number: int) -> date:
    return START + timedelta(days=number)


SURPRISE = {"silent/surprising": 4, "silent/standard": 4, "locked/surprising": 4, "busy/expected": 1}


def surprised(folder: Path) -> World:
    """Give a world on whose second day some objects are read that the chain holds for silent."""
    world = World(folder)
    for number in range(3):
        world.score(day(number))
        world.read(day(number), SURPRISE if number == 1 else {})
    return world


def test_object_is_refuted_by_its_reads_decided_by_break_even_and_released_after_thirty_days(tmp_path: Path) -> None:
    world = surprised(tmp_path)
    assert TEXT not in str(world.decision(day(1), "silent/surprising")["reason"])
    until = day(1) + timedelta(days=31)
    decided = world.decision(day(2), "silent/surprising")
    assert (decided["action"], decided["chosen_class"]) == ("move", "STANDARD")
    assert str(decided["reason"]).endswith(f"; {TEXT} {until}")
    assert decided["expected_reads"] == 4 * 6, "four reads in the last month, over six months"
    assert decided["saving_usd"] > 0
    assert decided["expected_reads_day"] == 0.001, "what the chain says does not change"

    world.moved["silent/surprising"] = ("STANDARD", day(2))
    for number in range(3, 34):
        scored = world.score(day(number))
        world.read(day(number), {})
        reason = str(world.decision(day(number), "silent/surprising")["reason"])
        assert (TEXT in reason) is (day(number) < until), number
        assert scored.refuted == (2 if day(number) < until else 0)
        assert (world.decision(day(number), "silent/surprising")["action"] == "keep") is (day(number) < until)
    assert world.accounts(day(33)) == {}
    assert world.decision(day(33), "silent/surprising")["chosen_class"] == "GLACIER_IR", "the chain decides again"


def test_explanation_says_that_break_even_decides_and_until_when(tmp_path: Path) -> None:
    world = surprised(tmp_path)
    made = world.explain(day(2), "silent/surprising")
    stored = world.decision(day(2), "silent/surprising")
    assert made.decision.reason == stored["reason"]
    assert (made.decision.placed_by, made.decision.chosen_class) == ("break-even", "STANDARD")
    assert made.decision.saving_usd == pytest.approx(stored["saving_usd"])
    assert made.stored is not None
    assert made.stored.agrees
    assert made.guard is not None
    assert made.guard == ExplainedGuard(0.0, day(32), day(1), "model:7")
    for row in made.candidates:
        assert row.total_usd == pytest.approx(row.decided_usd, rel=1e-6)
    assert world.explain(day(2), "silent/calm").guard is None


def test_chain_is_not_refuted_when_reads_cost_nothing_more_or_were_expected(tmp_path: Path) -> None:
    world = surprised(tmp_path)
    assert set(world.accounts(day(2))) == {"silent/surprising", "locked/surprising"}
    for key in ("silent/calm", "silent/standard", "busy/expected"):
        assert TEXT not in str(world.decision(day(2), key)["reason"])
    assert world.decision(day(2), "locked/surprising")["reason"] == "keep GLACIER_IR: locked (legal hold)"


def test_few_reads_are_kept_in_the_account_and_run_out_by_what_was_expected(tmp_path: Path) -> None:
    world = World(tmp_path)
    held = []
    for number in range(6):
        world.score(day(number))
        held.append(world.accounts(day(number)))
        world.read(day(number), {"silent/surprising": 1} if number == 1 else {})
    premium = 5 * 0.03 + (0.01 - 0.0004) / 1000
    assert not held[1]
    for number in range(2, 6):
        row = held[number]["silent/surprising"]
        assert row["surprise_usd"] == pytest.approx(premium - (number - 1) * 2 * premium * 0.001)
        assert row["refuted_until"] is None
        assert (row["model"], row["since"]) == ("model:7", day(1))


def test_bytes_are_the_same_when_a_day_is_scored_again(tmp_path: Path) -> None:
    world = surprised(tmp_path)
    before = world.bytes_of(day(2))
    world.score(day(2), "again")
    assert world.bytes_of(day(2)) == before
    assert world.accounts(day(2))


def test_late_reads_count_when_their_day_is_published_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(5):
        world.score(day(number))
        world.read(day(number), {})
    world.score(day(5))
    assert not world.accounts(day(5))
    world.read(day(3), {"silent/surprising": 4})
    world.score(day(5), "again")
    assert world.accounts(day(5))["silent/surprising"]["refuted_until"] == day(3) + timedelta(days=31)
    world.read(day(3), {})
    world.score(day(5), "once more")
    assert not world.accounts(day(5)), "and what was taken back does not"


def test_accounts_follow_from_decisions_and_daily_access_when_they_are_lost(tmp_path: Path) -> None:
    world = surprised(tmp_path)
    for number in range(3, 9):
        world.score(day(number))
        world.read(day(number), {})
    before = world.accounts(day(8))
    for known in world.lake.days("surprises"):
        world.lake.delete_partition("surprises", known, 0)
    world.score(day(8), "again")
    assert world.accounts(day(8)) == before
    assert set(before) == {"silent/surprising", "locked/surprising"}


def test_accounts_begin_anew_for_a_new_chain_once_the_old_ones_time_is_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(33):
        if number == 10:
            world.model = "model:8"
        world.score(day(number))
        world.read(day(number), {"silent/surprising": 4} if number == 1 else {"silent/calm": 4} if number == 25 else {})
        held = world.accounts(day(number))
        assert ("silent/surprising" in held) is (2 <= number < 31), "champions that follow soon go on with the accounts"
        assert ("silent/calm" in held) is (26 <= number < 31), "a chain of its own time has refuted nothing"
    assert world.accounts(day(32)) == {}


def test_time_of_a_chain_is_cut_when_more_than_one_object_in_twenty_refutes_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    # 400 days of history let a chain stand for 50 days
    world.publish("daily_access", pa.Table.from_pylist([
        {"provider": "aws", "bucket": "data", "key": "silent/calm", "day": START - timedelta(days=400), "reads": 1,
         "writes": 0, "bytes_read": 1, "excluded_reads": 0, "excluded_writes": 0}], DAILY_ACCESS))  # fmt: skip
    many = {f"silent/other-{number:02d}": 4 for number in range(5)}
    for number in range(3):
        scored = world.score(day(number))
        world.read(day(number), many if number == 1 else {})
    assert (scored.placed, scored.refuted) == (len(OBJECTS), 5)
    assert {row["due"] for row in world.accounts(day(2)).values()} == {day(2) + timedelta(days=30)}
