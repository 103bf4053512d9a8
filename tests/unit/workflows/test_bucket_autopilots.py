"""Proposals of bucket-wide autopilots: what scoring two shards adds up to, and buckets that have theirs on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.config import BucketSettings, Estate, PrefixSettings
from cloudflux.domain.bucket_autopilots import AutopilotProposal
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.policy import PolicySettings
from cloudflux.domain.reports import SavingsReport
from cloudflux.domain.tiers import Provider
from cloudflux.domain.usage import UsageChain
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY
from cloudflux.local.autopilots.command import reported_proposals
from cloudflux.local.cli import main
from cloudflux.price_books import load_book
from cloudflux.workflows.bucket_autopilots import as_json, autopilot_proposals
from cloudflux.workflows.explain import explain_object
from cloudflux.workflows.explanation import Explanation
from cloudflux.workflows.placements import Placements
from cloudflux.workflows.report import report_of_all
from cloudflux.workflows.score import audit_and_publish, score_shard

DAY = date(2026, 6, 1)
GIB = 2**30
OBJECTS = 40
ZRS = replace(load_book("azure-eastus-lrs"), name="azure-eastus-zrs", redundancy="ZRS")
BOOKS = {
    "gcs-us-central1": load_book("gcs-us-central1"),
    "aws-us-east-1": load_book("aws-us-east-1"),
    "azure-eastus-zrs": ZRS,
    "azure-eastus-lrs": load_book("azure-eastus-lrs"),
}
STANDARD = {Provider.GCP: "STANDARD", Provider.AZURE: "Hot", Provider.AWS: "STANDARD"}
PLACEMENTS = Placements()
# read every month or two, and nothing tells when: an autopilot waits at no risk, any class of its own is owed or dear
NOW_AND_THEN = UsageChain(
    unread=np.array([[0.98]]), read=np.array([[0.02]]), reads=np.array([0.02]), seen=np.full(1, 1000.0)
)
DEAD = UsageChain(unread=np.array([[1.0]]), read=np.array([[0.0]]), reads=np.array([0.0]), seen=np.full(1, 1000.0))


class Audit:
    """Passes."""

    passed = True

    def __call__(self, suite: str, data: Any, batch: str) -> Audit:
        return self

    def raise_if_failed(self) -> None:
        pass


def bucket(name: str, provider: Provider = Provider.GCP, **overrides: Any) -> BucketSettings:
    book = {Provider.GCP: "gcs-us-central1", Provider.AZURE: "azure-eastus-zrs", Provider.AWS: "aws-us-east-1"}
    known = {"provider": provider, "bucket": name, "price_book": book[provider], "connection_id": "cloud"}
    return BucketSettings(**(known | overrides))


def forecast_by(chain: UsageChain | None):
    def forecast(inventory, daily_access, day, horizon_days, *, history_start):
        count = inventory.num_rows
        reads = np.full(count, 0.02 * horizon_days if chain is None else chain.reads[0] * horizon_days)
        horizons = reads[:, None] * np.array(FORECAST_HORIZONS) / horizon_days
        return AccessForecasts(
            horizon_days=horizon_days,
            expected_reads=reads,
            expected_read_bytes=reads * inventory["size_bytes"].to_numpy(),
            bytes_per_read=inventory["size_bytes"].to_numpy().astype(np.float64),
            probability_any=-np.expm1(-reads),
            horizon_expected_reads=horizons,
            horizon_probability_any=-np.expm1(-horizons),
            band=np.full(count, "cold", dtype=object),
            tier=np.full(count, "cold", dtype=object),
            confidence=np.full(count, 0.9),
            source=np.full(count, "model:7" if chain else "rules", dtype=object),
            from_rules=np.full(count, chain is None),
            reads_30_days=np.zeros(count),
            last_read_days=np.full(count, np.inf),
            idle_days=np.full(count, 20.0),
            usage_state=None if chain is None else np.zeros(count, dtype=np.intp),
            usage_chain=chain,
        )

    return forecast


def scored(
    folder: Path,
    *buckets: BucketSettings,
    chain: UsageChain | None = NOW_AND_THEN,
    history_days: int = 100,
    covered: float = 1.0,
    classes: dict[int, str] | None = None,
    size: int = GIB,
) -> Lake:
    """Score some buckets of 40 objects each, and publish what was decided."""
    lake = Lake(str(folder), 2)
    since = datetime(2025, 6, 1, tzinfo=UTC)
    listed = [
        {
            "provider": str(one.provider), "bucket": one.bucket, "key": f"some/object-{number:02d}", "version_id": None,
            "size_bytes": size, "storage_class": (classes or {}).get(number, STANDARD[one.provider]), "tier": "hot",
            "etag": "e", "last_modified_at": since, "class_since_at": since, "content_type": None, "lock_reason": None,
            "day": DAY,
        }
        for one in buckets
        for number in range(OBJECTS)
    ]  # fmt: skip
    first = {
        "provider": "gcp", "bucket": "x", "key": "x", "day": DAY - timedelta(days=history_days), "reads": 1,
        "writes": 0, "bytes_read": 1, "excluded_reads": 0, "excluded_writes": 0,
    }  # fmt: skip
    for dataset, rows, schema in (("inventory", listed, INVENTORY), ("daily_access", [first], DAILY_ACCESS)):
        lake.stage_shards(dataset, pa.Table.from_pylist(rows, schema), "setup")
        lake.publish(dataset, "setup")
    for shard in range(2):
        score_shard(
            day=DAY,
            shard=shard,
            batch="batch",
            lake=lake,
            forecast=forecast_by(chain),
            estate=Estate(buckets=buckets),
            books=BOOKS,
            policy=PolicySettings(),
            history_days=400,
            coverage={(str(one.provider), one.bucket): RecentCoverage(covered, 30) for one in buckets},
            placements=PLACEMENTS,
        )
    audit_and_publish(batch="batch", day=DAY, lake=lake, audit=Audit())
    return lake


def explained(lake: Lake, mine: BucketSettings, key: str, chain: UsageChain) -> Explanation:
    return explain_object(
        ObjectRef(mine.provider, mine.bucket, key),
        day=DAY,
        lake=lake,
        shards=2,
        forecast=forecast_by(chain),
        estate=Estate(buckets=(mine,)),
        books=BOOKS,
        policy=PolicySettings(),
        history_days=400,
        coverage={(str(mine.provider), mine.bucket): RecentCoverage(1.0, 30)},
        placements=PLACEMENTS,
    )


def only(lake: Lake) -> AutopilotProposal:
    (found,) = autopilot_proposals(lake)
    return found


def test_autoclass_is_proposed_when_it_is_cheaper_for_the_whole_bucket(tmp_path: Path) -> None:
    found = only(scored(tmp_path, bucket("data")))
    assert found.is_proposed
    assert (found.objects, found.bytes, found.outside, found.by_rules) == (OBJECTS, OBJECTS * GIB, 0, 0)
    assert (found.scope, found.setting_of, found.storage_class, found.day) == ("bucket", "data", "AUTOCLASS", DAY)
    assert found.entry_usd == pytest.approx(Decimal(OBJECTS * 0.005 / 1000), abs=Decimal("1e-9")), "one Class A each"
    monitoring = Decimal(OBJECTS * 0.0025 / 1000)
    assert monitoring * Decimal("0.9") < found.monitoring_usd_month <= monitoring, "less what owners delete"
    assert found.switched_usd < found.own_usd <= found.present_usd
    assert found.switched_usd_month < found.own_usd_month
    assert found.described().startswith("switch on AUTOCLASS for bucket data (gcp): ")


def test_autoclass_stays_off_when_classes_object_by_object_are_cheaper(tmp_path: Path) -> None:
    found = only(scored(tmp_path, bucket("data"), chain=DEAD))
    assert not found.is_proposed
    assert not found.problems
    assert found.own_usd < found.switched_usd


def test_entering_pays_retrieval_and_early_deletion_when_objects_are_in_colder_classes(tmp_path: Path) -> None:
    standard = only(scored(tmp_path / "a", bucket("data")))
    colder = only(scored(tmp_path / "b", bucket("data"), classes=dict.fromkeys(range(OBJECTS), "COLDLINE")))
    assert colder.entry_usd - standard.entry_usd == pytest.approx(Decimal(OBJECTS * 0.02), abs=Decimal("1e-6"))


def test_nothing_is_proposed_without_logs_model_history_or_leave(tmp_path: Path) -> None:
    for number, (overrides, settings, said) in enumerate(
        [
            ({"covered": 0.1}, {}, "withheld"),
            ({"chain": None}, {}, "no model speaks"),
            ({"history_days": 27}, {}, "tell of 27 days, and 28 are needed"),
            ({}, {"allowed_classes": ("STANDARD", "NEARLINE")}, "not among the classes that its owner allows"),
        ]
    ):
        found = only(scored(tmp_path / str(number), bucket("data", **settings), **overrides))
        assert not found.is_proposed
        assert len(found.problems) == 1
        assert said in found.problems[0]


def test_owners_wishes_are_counted_because_the_setting_would_hold_for_all(tmp_path: Path) -> None:
    pinned = PrefixSettings(prefix="some/object-0", pinned_class="STANDARD")
    found = only(scored(tmp_path, bucket("data", prefixes=(pinned,), excluded_prefixes=("some/object-1",))))
    assert found.kept_by_owner == 20


def test_no_bucket_has_a_proposal_where_the_autopilot_is_the_objects_or_not_offered(tmp_path: Path) -> None:
    lrs = bucket("azure", Provider.AZURE, price_book="azure-eastus-lrs")
    assert autopilot_proposals(scored(tmp_path, bucket("aws", Provider.AWS), lrs)) == []


def test_smart_tier_is_weighed_for_all_containers_of_the_account_together(tmp_path: Path) -> None:
    buckets = (bucket("one", Provider.AZURE), bucket("two", Provider.AZURE, min_coverage=0))
    found = only(scored(tmp_path / "a", *buckets, classes={0: "Cool"}))
    assert (found.scope, found.setting_of, found.buckets) == ("account", "cloud", ("one", "two"))
    assert found.objects == 2 * OBJECTS
    assert found.outside == 2, "a blob that was given a tier of its own cannot go back in"
    found = only(scored(tmp_path / "b", *buckets, covered=0.5))
    assert [problem.split(":")[0] for problem in found.problems] == ["one"], "what is unknown of one is of the account"


def test_objects_are_kept_and_nothing_is_proposed_when_the_autopilot_is_on(tmp_path: Path) -> None:
    lake = scored(tmp_path, bucket("data", autopilot=True), chain=DEAD, classes={0: "NEARLINE"})
    assert autopilot_proposals(lake) == []
    rows = lake.read("decisions", days=[DAY]).to_pylist()
    assert {(row["action"], row["current_class"]) for row in rows} == {("keep", "AUTOCLASS")}
    assert {row["reason"] for row in rows} == {
        "keep AUTOCLASS: the autopilot is a setting of the account or bucket, not of one object"
    }


@pytest.mark.parametrize("switched_on", [False, True])
def test_blobs_leave_smart_tier_and_the_others_are_placed_when_the_estate_allows_it(
    tmp_path: Path, switched_on: bool
) -> None:
    classes = dict.fromkeys(range(20), "Smart") | {20: "Cold", 21: "Hot"}
    mine = bucket("data", Provider.AZURE, autopilot=switched_on, leave_autopilot=True, latency="hours")
    lake = scored(tmp_path, mine, chain=DEAD, classes=classes)
    rows = lake.read("decisions", days=[DAY]).sort_by("key").to_pylist()
    assert {(row["current_class"], row["chosen_class"]) for row in rows[:20]} == {("Smart", "Cold")}
    assert all("leaves smart tier for good" in row["reason"] for row in rows[:20])
    assert {row["one_time_usd"] for row in rows[:20]} == {ZRS.prices_of("Cool").write_usd}
    assert [row["chosen_class"] for row in rows[20:]] == ["Cold"] * 20
    assert not any("smart tier" in row["reason"] for row in rows[20:])
    made = explained(lake, mine, "some/object-00", DEAD)
    assert "leaves smart tier for good" in made.decision.reason
    chosen = next(row for row in made.candidates if row.chosen)
    assert chosen.moves_usd == pytest.approx(ZRS.prices_of("Cool").write_usd)
    assert chosen.early_deletion_usd == pytest.approx(made.candidates[0].early_deletion_usd, abs=1e-3)
    for row in made.candidates:
        assert row.total_usd == pytest.approx(row.decided_usd, rel=1e-3)
    assert {one.storage_class: one.why for one in made.ruled_out} == {
        "Archive": "it needs a restore, and an account with smart tier has no such class"
    }


def test_nothing_leaves_smart_tier_when_the_estate_does_not_say_so(tmp_path: Path) -> None:
    lake = scored(tmp_path, bucket("data", Provider.AZURE), chain=DEAD, classes=dict.fromkeys(range(OBJECTS), "Smart"))
    assert {row["action"] for row in lake.read("decisions", days=[DAY]).to_pylist()} == {"keep"}


def test_smart_tier_is_worth_more_when_single_blobs_may_leave_it(tmp_path: Path) -> None:
    stays = only(scored(tmp_path / "a", bucket("data", Provider.AZURE), chain=DEAD))
    leaves = only(scored(tmp_path / "b", bucket("data", Provider.AZURE, leave_autopilot=True), chain=DEAD))
    assert leaves.own_usd == stays.own_usd
    assert leaves.switched_usd < stays.switched_usd
    # nobody ever reads: all leave after a day, for a write each, for what is best without smart tier too
    day = Decimal(OBJECTS * (0.0208 - 0.0036) / 30)
    assert leaves.switched_usd == pytest.approx(leaves.own_usd + day, rel=Decimal("1e-3"))
    excluded = bucket("data", Provider.AZURE, leave_autopilot=True, excluded_prefixes=("some/",))
    kept = only(scored(tmp_path / "c", excluded, chain=DEAD))
    assert kept.switched_usd == stays.switched_usd, "what its owner excluded does not leave"


def test_only_azures_autopilot_can_be_left_by_single_objects() -> None:
    with pytest.raises(ValueError, match="leave_autopilot: single objects can leave Azure's smart tier only"):
        bucket("data", leave_autopilot=True)


def test_estate_is_refused_when_it_says_that_an_autopilot_is_on_that_the_book_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="data: the estate says that an autopilot of the whole bucket is on"):
        scored(tmp_path, bucket("data", Provider.AWS, autopilot=True))


def test_command_shows_proposals_and_what_else_there_is_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(
        tmp_path / "lake",
        bucket("data", excluded_prefixes=("some/object-1",)),
        bucket("off", allowed_classes=("STANDARD",)),
    )
    monkeypatch.setenv("CLOUDFLUX_LAKE_URL", str(tmp_path / "lake"))
    assert main(["autopilots"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "switch on AUTOCLASS for bucket data (gcp): $" in shown
    assert "data: 10 objects are excluded, pinned, retained or locked" in shown
    assert "off: off: AUTOCLASS is not among the classes that its owner allows" in shown
    assert main(["autopilots", "--json"]) == 0
    data, off = json.loads(capsys.readouterr().out)
    assert (data["setting_of"], data["is_proposed"], off["is_proposed"]) == ("data", True, False)
    assert Decimal(data["saving_usd"]) == Decimal(data["own_usd"]) - Decimal(data["switched_usd"])
    monkeypatch.setenv("CLOUDFLUX_LAKE_URL", str(tmp_path / "empty"))
    assert main(["autopilots"]) == 2
    assert "nothing was weighed" in capsys.readouterr().err


def test_report_of_all_plans_carries_the_proposals(tmp_path: Path) -> None:
    found = autopilot_proposals(scored(tmp_path, bucket("data")))
    report = SavingsReport(
        report_id="one", at=datetime(2026, 6, 2, tzinfo=UTC), day=DAY, objects=1, moves_done=0, moves_failed=0,
        before_usd_month=Decimal(1), after_usd_month=Decimal(1), projected_usd_month=Decimal(0),
        realised_usd_month=None, one_time_usd=Decimal(0), plan_id="plan-1", details={},
    )  # fmt: skip
    together = report_of_all([report], report_id="all", at=report.at, autopilots=found)
    assert json.loads(json.dumps(together.details["autopilots"])) == as_json(found)
    assert reported_proposals(together.details) == [found[0].described()]
    assert reported_proposals(report.details) == []


def test_explanation_tells_of_the_autopilot_of_the_objects_bucket(tmp_path: Path) -> None:
    buckets = (bucket("data"), bucket("aws", Provider.AWS))
    lake = scored(tmp_path, *buckets)
    for one, scope in zip(buckets, ("bucket", None), strict=True):
        made = explain_object(
            ObjectRef(one.provider, one.bucket, "some/object-00"),
            day=DAY,
            lake=lake,
            shards=2,
            forecast=forecast_by(NOW_AND_THEN),
            estate=Estate(buckets=buckets),
            books=BOOKS,
            policy=PolicySettings(),
            history_days=400,
            coverage={(str(one.provider), one.bucket): RecentCoverage(1.0, 30) for one in buckets},
            placements=PLACEMENTS,
        )
        told = made.bucket_autopilot
        assert (None if told is None else told.scope) == scope
