"""Scoring a shard: every object, by the champion or by rules, within what its owner allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, inventory, rhythmic_history

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.errors import AuditFailed, TerminalError
from cloudflux.domain.policy import PolicySettings
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import SCHEMAS
from cloudflux.price_books import load_book
from cloudflux.quality import audit as check
from cloudflux.workflows.score import ShardScored, audit_and_publish, decision_totals, score_shard
from cloudflux_ml import score
from cloudflux_ml.dataset import build_dataset
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.registry import Champion
from cloudflux_ml.score import forecast_objects

DAYS = 120
DAY = FIRST_DAY + timedelta(days=DAYS)
SHARDS = 2
BIG = 2**30  # moving pays only where storage is worth something
POLICY = PolicySettings(horizon_days=180)


@pytest.fixture(scope="module")
def history() -> tuple[pa.Table, pa.Table]:
    access, listed = rhythmic_history(objects=200, days=DAYS)
    place = listed.schema.get_field_index("size_bytes")
    return access, listed.set_column(place, listed.schema.field(place), pa.array([BIG] * listed.num_rows, pa.int64()))


@pytest.fixture(scope="module")
def champion(history: tuple[pa.Table, pa.Table]) -> Champion:
    train = build_dataset(MemoryLake(*history), shards=1, until=DAY).train
    made = AccessForecaster(max_iter=20).fit(
        data_frame(train.values), train.horizon_reads, cutoffs=train.cutoff, growth=train.growth
    )
    return Champion("3", made)


@pytest.fixture(scope="module")
def books() -> Mapping[str, PriceBook]:
    return {"aws-us-east-1": load_book("aws-us-east-1")}


def estate(**overrides: Any) -> Estate:
    bucket = {
        "provider": Provider.AWS,
        "bucket": "data",
        "price_book": "aws-us-east-1",
        "connection_id": "aws_default",
    } | overrides
    return Estate(buckets=(BucketSettings(**bucket),))


def published(folder: Path, access: pa.Table, listed: pa.Table) -> Lake:
    lake = Lake(str(folder), SHARDS)
    for dataset, table in (("daily_access", access), ("inventory", listed)):
        lake.stage_shards(dataset, table, "setup")
        lake.publish(dataset, "setup")
    return lake


def score_all(
    lake: Lake,
    champion: Champion | None,
    owner: Estate,
    books: Mapping[str, PriceBook],
    batch: str = "batch",
    *,
    coverage: Mapping[tuple[str, str], RecentCoverage] | None = None,
) -> list[ShardScored]:
    return [
        score_shard(
            day=DAY,
            shard=shard,
            batch=batch,
            lake=lake,
            forecast=partial(forecast_objects, champion=champion),
            estate=owner,
            books=books,
            policy=POLICY,
            history_days=400,
            coverage={("aws", "data"): RecentCoverage(1.0, 30)} if coverage is None else coverage,
        )
        for shard in range(SHARDS)
    ]


@dataclass
class AuditSpy:
    """Records what it was asked to check, and fails when told to."""

    fails: bool = False
    seen: list[tuple[str, int]] = field(default_factory=list)

    passed = True

    def __call__(self, suite: str, data: Any, batch: str) -> AuditSpy:
        self.seen.append((suite, data.count_rows()))
        return self

    def raise_if_failed(self) -> None:
        if self.fails:
            raise AuditFailed("decisions: saving_usd is negative")


def test_every_object_is_decided_when_all_shards_are_scored(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    scored = score_all(lake, champion, estate(), books)
    assert not lake.days("decisions"), "nothing is published before its audit"
    audit = AuditSpy()
    totals = audit_and_publish(batch="batch", day=DAY, lake=lake, audit=audit)
    assert audit.seen == [("decisions", 200)]

    decisions = lake.read("decisions", days=[DAY])
    forecasts = lake.read("forecasts", days=[DAY])
    assert decisions.schema == SCHEMAS["decisions"]
    assert sorted(decisions["key"].to_pylist()) == sorted(history[1]["key"].to_pylist())
    assert sorted(forecasts["key"].to_pylist()) == sorted(history[1]["key"].to_pylist())
    assert set(forecasts["source"].to_pylist()) == {"model:3"}
    assert totals.objects == sum(shard.objects for shard in scored) == 200
    moves = [row for row in decisions.to_pylist() if row["action"] == "move"]
    assert totals.moves == sum(shard.moves for shard in scored) == len(moves) > 0
    assert isinstance(totals.before_usd_month, Decimal)
    assert float(totals.before_usd_month) == pytest.approx(sum(decisions["current_monthly_usd"].to_pylist()))
    assert float(totals.after_usd_month) == pytest.approx(sum(decisions["chosen_monthly_usd"].to_pylist()))
    assert totals.after_usd_month < totals.before_usd_month
    for row in decisions.to_pylist():
        classes = {candidate["storage_class"]: candidate["expected_usd"] for candidate in row["candidates"]}
        assert row["chosen_usd"] == pytest.approx(classes[row["chosen_class"]])
        assert row["stay_usd"] == pytest.approx(classes["STANDARD"])
        assert (row["payback_days"] is None) == (row["action"] == "keep")
        assert "GLACIER" not in classes, "the owner needs milliseconds"


@GREAT_EXPECTATIONS
def test_decisions_are_withheld_when_the_access_logs_tell_too_little(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    for number, (told, asked, reason) in enumerate(
        (
            (
                {("aws", "data"): RecentCoverage(0.7, 30)},
                0.8,
                "withheld: the access logs tell 70 % of the last 30 days",
            ),
            ({}, 0.8, "withheld: its coverage was never measured"),
            ({("aws", "data"): RecentCoverage(0.7, 30)}, 0.6, None),
            ({}, 0.0, None),
        )
    ):
        batch = f"batch-{number}"
        scored = score_all(lake, champion, estate(min_coverage=asked), books, batch, coverage=told)
        totals = audit_and_publish(batch=batch, day=DAY, lake=lake, audit=check)
        decisions = lake.read("decisions", days=[DAY]).to_pylist()
        if reason is None:
            assert totals.withheld == 0
            assert totals.moves > 0
            continue
        assert totals.withheld == sum(shard.withheld for shard in scored) == totals.objects == 200
        assert totals.moves == 0
        assert totals.before_usd_month == totals.after_usd_month > 0
        for row in decisions:
            assert row["reason"].startswith(reason)
            assert (row["action"], row["chosen_class"]) == ("keep", row["current_class"])
            assert (row["saving_usd"], row["one_time_usd"], row["payback_days"]) == (0, 0, None)
            assert len(row["candidates"]) > 1, "what was weighed stays"
            assert row["chosen_usd"] == row["stay_usd"]


def test_bytes_are_the_same_when_a_shard_is_scored_again(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    score_all(lake, champion, estate(), books, "one")
    score_all(lake, champion, estate(), books, "two")
    files = [sorted((tmp_path / "_staging" / batch).rglob("*.parquet")) for batch in ("one", "two")]
    assert len(files[0]) == 4 * SHARDS, "forecasts, decisions, surprises and bucket_autopilots"
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_forecast_ignores_what_is_logged_when_it_is_of_the_day_itself(
    history: tuple[pa.Table, pa.Table], champion: Champion
) -> None:
    access, listed = history
    today = daily_access([(key, DAY, 9_000, 3) for key in listed["key"].to_pylist()])
    first, second = (
        forecast_objects(listed, table, DAY, 180, champion=champion, history_start=FIRST_DAY)
        for table in (access, pa.concat_tables([access, today]))
    )
    np.testing.assert_array_equal(first.expected_reads, second.expected_reads)
    np.testing.assert_array_equal(first.expected_read_bytes, second.expected_read_bytes)
    np.testing.assert_array_equal(first.reads_30_days, second.reads_30_days)


def test_owner_limits_reach_the_decision_when_the_estate_states_them(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    owner = estate(latency="hours", allowed_classes=("STANDARD", "DEEP_ARCHIVE"), excluded_prefixes=("set-0/",))
    score_all(lake, champion, owner, books)
    audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    rows = lake.read("decisions", days=[DAY]).to_pylist()
    assert {row["chosen_class"] for row in rows} == {"STANDARD", "DEEP_ARCHIVE"}
    excluded = [row for row in rows if row["key"].startswith("set-0/")]
    assert len(excluded) == 40
    assert {(row["action"], row["reason"]) for row in excluded} == {("keep", "keep STANDARD: excluded by its owner")}


def test_locked_object_stays_when_the_inventory_says_so(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    access, listed = history
    place = listed.schema.get_field_index("lock_reason")
    locked = listed.set_column(place, listed.schema.field(place), pa.array(["legal hold"] * 200))
    lake = published(tmp_path, access, locked)
    assert sum(shard.moves for shard in score_all(lake, champion, estate(), books)) == 0


def test_nothing_is_published_when_the_audit_fails(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    score_all(lake, None, estate(), books)
    with pytest.raises(AuditFailed):
        audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy(fails=True))
    assert lake.days("decisions") == lake.days("forecasts") == []


def test_totals_are_the_same_when_publication_is_retried(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    score_all(lake, None, estate(), books)
    first = audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    again = AuditSpy()
    assert audit_and_publish(batch="batch", day=DAY, lake=lake, audit=again) == first == decision_totals(lake, DAY)
    assert again.seen == []


def test_rules_speak_when_there_is_no_champion(history: tuple[pa.Table, pa.Table]) -> None:
    access, listed = history
    forecasts = forecast_objects(listed, access, DAY, 30, champion=None, history_start=FIRST_DAY)
    assert set(forecasts.source) == {"rules"}
    assert forecasts.from_rules.all()
    assert (forecasts.confidence < 0.5).all(), "the policy must take them for weak"
    busy, quiet = forecasts.reads_30_days.argmax(), forecasts.reads_30_days.argmin()
    assert forecasts.expected_reads[busy] > forecasts.expected_reads[quiet]
    assert set(forecasts.band) >= {"warm", "archive"}


def test_new_object_is_expected_to_be_read_like_its_siblings_when_nothing_is_known_of_it(
    champion: Champion, history: tuple[pa.Table, pa.Table]
) -> None:
    yesterday = DAY - timedelta(days=1)
    access = daily_access([("busy/1", yesterday, 60), ("quiet/1", FIRST_DAY, 1)])
    listed = pa.concat_tables(
        [
            inventory(["busy/1", "quiet/1"], snapshot=DAY),
            inventory(["busy/new", "quiet/new", "elsewhere"], snapshot=DAY, modified=DAY),
        ]
    )
    forecasts = forecast_objects(listed, access, DAY, 60, champion=champion, history_start=FIRST_DAY)
    assert forecasts.source.tolist() == ["model:3", "model:3", "rules", "rules", "rules"]
    assert forecasts.expected_reads[2:4].tolist() == [120.0, 0.0]
    assert 0 < forecasts.expected_reads[4] < 120, "the bucket's mean"
    assert forecasts.idle_days.tolist()[2:] == [0.0, 0.0, 0.0]
    assert forecasts.last_read_days.tolist() == [1.0, float(DAYS), np.inf, np.inf, np.inf]


def test_new_object_is_expected_to_be_read_like_its_kind_when_its_folder_is_new(
    champion: Champion, history: tuple[pa.Table, pa.Table]
) -> None:
    yesterday = DAY - timedelta(days=1)
    access = daily_access([("films/1", yesterday, 60), ("logs/1", FIRST_DAY, 1)])
    kinds = {"films/1": "video/mp4", "logs/1": "text/x-log", "new/film": "video/mp4", "other/log": "text/x-log"}
    listed = pa.concat_tables(
        inventory([key], snapshot=DAY, content_type=kind, modified=FIRST_DAY if key in ("films/1", "logs/1") else DAY)
        for key, kind in kinds.items()
    )
    forecasts = forecast_objects(listed, access, DAY, 30, champion=champion, history_start=FIRST_DAY)
    assert forecasts.source.tolist() == ["model:3", "model:3", "rules", "rules"]
    assert forecasts.expected_reads[2:].tolist() == [60.0, 0.0]
    assert forecasts.tier[2:].tolist() == ["warm", "cold"]
    assert forecasts.horizon_expected_reads[2].tolist() == [14.0, 60.0, 180.0, 360.0]


def test_tier_is_the_rule_based_classifiers_when_the_rules_speak_of_an_object_with_a_history() -> None:
    week = [DAY - timedelta(days=place) for place in range(1, 8)]
    rows = [(key, day, reads) for key, reads in (("hot", 20), ("warm", 2), ("rare", 0)) for day in week]
    listed = inventory(["hot", "warm", "rare"], snapshot=DAY)
    forecasts = forecast_objects(listed, daily_access(rows), DAY, 30, champion=None, history_start=FIRST_DAY)
    assert forecasts.tier.tolist() == ["hot", "warm", "cold"]
    assert (np.diff(forecasts.horizon_probability_any, axis=1) >= 0).all()
    assert forecasts.feature_counts is None, "there is no reference to compare with"


def test_forecasts_are_the_same_when_a_shard_is_taken_in_chunks(
    champion: Champion, history: tuple[pa.Table, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    access, listed = history
    whole = forecast_objects(listed, access, DAY, 180, champion=champion, history_start=FIRST_DAY)
    monkeypatch.setattr(score, "CHUNK_OBJECTS", 7)
    chunks = forecast_objects(listed, access, DAY, 180, champion=champion, history_start=FIRST_DAY)
    for name in ("expected_reads", "horizon_expected_reads", "horizon_probability_any", "confidence", "feature_counts"):
        np.testing.assert_array_equal(getattr(chunks, name), getattr(whole, name))
    assert chunks.tier.tolist() == whole.tier.tolist()
    assert whole.feature_counts is not None
    assert (whole.feature_counts.sum(axis=1) <= 200).all()


def test_forecast_rows_tell_every_horizon_when_they_are_published(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    score_all(lake, champion, estate(), books)
    audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    for row in lake.read("forecasts", days=[DAY]).to_pylist():
        reads, chances = (
            [row[f"{name}_{days}"] for days in (7, 30, 90, 180)] for name in ("expected_reads", "probability_any")
        )
        assert reads == sorted(reads)
        assert chances == sorted(chances)
        assert all(chance <= min(1.0, expected) for chance, expected in zip(chances, reads, strict=True))
        assert row["expected_reads"] == pytest.approx(row["expected_reads_180"])
        assert row["tier"] in ("hot", "warm", "cold")
        assert row["confidence"] == row["tier_confidence"]


def test_silence_is_no_evidence_when_a_bucket_has_no_logs(champion: Champion) -> None:
    listed = inventory(["a", "b"], snapshot=DAY, modified=FIRST_DAY)
    forecasts = forecast_objects(listed, daily_access([]), DAY, 180, champion=champion, history_start=FIRST_DAY)
    assert forecasts.source.tolist() == ["rules", "rules"]
    assert (forecasts.expected_reads > 0).all()
    assert forecasts.idle_days.tolist() == [0.0, 0.0]


def test_read_bytes_follow_what_reads_transferred_when_they_read_parts(champion: Champion) -> None:
    listed = inventory(["part", "never"], snapshot=DAY, size_bytes=1_000_000)
    access = daily_access([("part", DAY - timedelta(days=3), 99)])  # of 1,000 bytes each
    forecasts = forecast_objects(listed, access, DAY, 30, champion=None, history_start=FIRST_DAY)
    per_read = forecasts.expected_read_bytes / np.maximum(forecasts.expected_reads, 1e-9)
    assert per_read[0] == pytest.approx((99 * 1_000 + 1_000_000) / 100)
    assert forecasts.expected_read_bytes[1] == pytest.approx(forecasts.expected_reads[1] * 1_000_000)


def test_bytes_are_forecast_over_each_horizon_when_objects_are_scored(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], champion: Champion, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, *history)
    score_all(lake, champion, estate(), books)
    lake.publish("forecasts", "batch")
    rows = lake.read("forecasts", days=[DAY]).to_pylist()
    assert len(rows) > 10
    for row in rows:
        per_read = row["expected_read_bytes"] / row["expected_reads"]
        figures = [row[f"expected_read_bytes_{days}"] for days in (7, 30, 90, 180)]
        assert figures == pytest.approx([row[f"expected_reads_{days}"] * per_read for days in (7, 30, 90, 180)])
        assert figures == sorted(figures)
        assert row["expected_read_bytes"] == pytest.approx(row["expected_read_bytes_180"])


def test_each_read_is_of_the_whole_object_when_its_log_counts_no_bytes(champion: Champion) -> None:
    listed = inventory(["audited"], snapshot=DAY, size_bytes=1_000_000)
    access = daily_access([("audited", DAY - timedelta(days=3), 99)])
    place = access.schema.get_field_index("bytes_read")
    access = access.set_column(place, access.schema.field(place), pa.array([0] * access.num_rows, pa.int64()))
    forecasts = forecast_objects(listed, access, DAY, 30, champion=None, history_start=FIRST_DAY)
    assert forecasts.expected_read_bytes[0] == pytest.approx(forecasts.expected_reads[0] * 1_000_000)
    assert forecasts.expected_reads[0] > 0


def test_buckets_are_left_out_and_counted_when_the_estate_does_not_name_them(
    tmp_path: Path, history: tuple[pa.Table, pa.Table], books: Mapping[str, PriceBook]
) -> None:
    access, listed = history
    stray = inventory(["x"], snapshot=DAY, bucket="stray")
    lake = published(tmp_path, access, pa.concat_tables([listed, stray]))
    scored = score_all(lake, None, estate(), books)
    assert sum(shard.left_out for shard in scored) == 1
    assert sum(shard.objects for shard in scored) == 200


def test_shard_without_objects_is_staged_empty_when_scored(tmp_path: Path, books: Mapping[str, PriceBook]) -> None:
    lake = published(tmp_path, daily_access([]), inventory(["only"], snapshot=DAY))
    scored = score_all(lake, None, estate(), books)
    assert sorted(shard.objects for shard in scored) == [0, 1]
    totals = audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    assert totals.objects == 1


def test_snapshots_of_later_days_are_not_used_when_a_day_is_scored(
    tmp_path: Path, books: Mapping[str, PriceBook]
) -> None:
    lake = published(tmp_path, daily_access([]), inventory(["only"], snapshot=DAY + timedelta(days=1)))
    with pytest.raises(TerminalError, match=f"there is no inventory up to {DAY}: run collect_inventory first"):
        score_all(lake, None, estate(), books)


def test_days_in_class_count_to_the_start_of_the_day_when_early_deletion_is_owed(
    tmp_path: Path, books: Mapping[str, PriceBook]
) -> None:
    since = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) - timedelta(days=80)
    cold = {"storage_class": "GLACIER_IR", "tier": "cold", "class_since_at": since, "size_bytes": BIG}
    rows = [("busy", DAY - timedelta(days=place), 400) for place in range(1, 40)]
    lake = published(tmp_path, daily_access(rows), inventory(["busy"], snapshot=DAY, **cold))
    score_all(lake, None, estate(), books)
    audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    [row] = lake.read("decisions", days=[DAY]).to_pylist()
    assert (row["action"], row["chosen_class"], row["rule_class"]) == ("move", "STANDARD", "STANDARD")
    # ten of ninety days are owed at 0.004 USD per GiB and month, then retrieval at 0.03 USD per GiB, a GET and a PUT
    owed = 0.004 * 10 / 30
    assert row["one_time_usd"] == pytest.approx(owed + 0.03, abs=1e-4)
