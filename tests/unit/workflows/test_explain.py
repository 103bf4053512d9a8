"""Explaining one object: the same decision as scoring's, parts that sum to what is compared, and who says why not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from cloudflux.config import BucketSettings, Estate, PrefixSettings
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.errors import ObjectNotFound
from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.policy import OwnerLimits, PolicySettings, barred_by
from cloudflux.domain.tiers import Provider
from cloudflux.domain.usage import UsageChain
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY
from cloudflux.price_books import load_book
from cloudflux.workflows.explain import (
    AddressMalformed,
    BucketNotInEstate,
    NothingToExplain,
    explain_object,
    parse_address,
)
from cloudflux.workflows.explanation import Explanation
from cloudflux.workflows.placements import Placements
from cloudflux.workflows.score import score_shard

DAY = date(2026, 6, 1)
SHARDS = 2
GIB = 2**30
MIB = 2**20
POLICY = PolicySettings(horizon_days=90)
BOOKS = {"aws-us-east-1": load_book("aws-us-east-1")}
KNOWN = {("aws", "data"): RecentCoverage(1.0, 30)}
DEAD, COLD, BUSY = range(3)
CHAIN = UsageChain(
    unread=np.array([[1.0, 0.0, 0.0], [0.0, 0.99, 0.0], [0.0, 0.0, 0.02]]),
    read=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.01], [0.0, 0.01, 0.97]]),
    reads=np.array([0.0, 0.01, 4.0]),
    seen=np.full(3, 1000.0),
)
PLACEMENTS = Placements()
HOSTILE = 'a b/<script>alert("x")</script>?%20#[red]\u202e$x$'

OBJECTS = {
    # key: size, class, days in class, state of use (None: the rules speak)
    "dead/big": (GIB, "STANDARD", 300.4, DEAD),
    "cold/young-ia": (200 * MIB, "STANDARD_IA", 10.6, COLD),
    "cold/ir": (5 * GIB, "GLACIER_IR", 31.5, COLD),
    "busy/auto": (GIB, "INTELLIGENT_TIERING", 50.2, BUSY),
    "busy/small": (4096, "STANDARD", 5.0, BUSY),
    "ruled/idle": (GIB, "STANDARD", 300.0, None),
    "ruled/ia": (GIB, "STANDARD_IA", 12.3, None),
    "ruled/auto": (GIB, "INTELLIGENT_TIERING", 45.0, None),
    "excluded/one": (GIB, "STANDARD", 300.0, DEAD),
    "locked/one": (GIB, "STANDARD", 300.0, DEAD),
    "pinned/one": (GIB, "STANDARD", 300.0, DEAD),
    "young/one": (GIB, "STANDARD", 300.0, DEAD),
    "slow/one": (GIB, "STANDARD", 300.0, DEAD),
    "odd/one": (GIB, "OUTPOSTS", 300.0, DEAD),
    HOSTILE: (MIB, "STANDARD", 3.0, COLD),
}


def estate(**overrides):
    bucket = {
        "provider": Provider.AWS,
        "bucket": "data",
        "price_book": "aws-us-east-1",
        "connection_id": "aws_default",
        "excluded_prefixes": ("excluded/",),
        "prefixes": (
            PrefixSettings(prefix="pinned/", pinned_class="STANDARD_IA"),
            PrefixSettings(prefix="young/", min_retention_days=10_000),
            PrefixSettings(prefix="slow/", latency="hours"),
        ),
    } | overrides
    return Estate(buckets=(BucketSettings(**bucket),))


def inventory_of(objects):
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    return pa.Table.from_pylist(
        [
            {
                "provider": "aws",
                "bucket": "data",
                "key": key,
                "version_id": None,
                "size_bytes": size,
                "storage_class": storage_class,
                "tier": "hot",
                "etag": "e",
                "last_modified_at": start - timedelta(days=400),
                "class_since_at": start - timedelta(days=held),
                "content_type": None,
                "lock_reason": "legal hold" if key.startswith("locked/") else None,
                "day": DAY,
            }
            for key, (size, storage_class, held, _) in objects.items()
        ],
        schema=INVENTORY,
    )


def access_of(rows):
    return pa.Table.from_pylist(
        [
            {
                "provider": "aws",
                "bucket": "data",
                "key": key,
                "day": DAY - timedelta(days=ago),
                "reads": reads,
                "writes": writes,
                "bytes_read": reads * 100,
                "excluded_reads": excluded,
                "excluded_writes": 0,
            }
            for key, ago, reads, writes, excluded in rows
        ],
        schema=DAILY_ACCESS,
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake(str(tmp_path_factory.mktemp("lake")), SHARDS)
    seen = [
        ("busy/auto", 1, 7, 0, 0),
        ("busy/auto", 40, 5, 1, 3),
        ("busy/auto", 90, 2, 0, 0),
        ("busy/auto", 91, 11, 0, 0),
        ("ruled/ia", 200, 1, 1, 0),
        ("dead/big", 0, 99, 0, 0),  # the day of the decision itself is not looked at
    ]
    for dataset, table in (("inventory", inventory_of(OBJECTS)), ("daily_access", access_of(seen))):
        made.stage_shards(dataset, table, "setup")
        made.publish(dataset, "setup")
    for shard in range(SHARDS):
        score_shard(shard=shard, batch="scored", lake=made, **arguments())
    for dataset in ("forecasts", "decisions"):
        made.publish(dataset, "scored")
    return made


def forecast(inventory, daily_access, day, horizon_days, *, history_start, chain=CHAIN):
    """Forecast by what ``OBJECTS`` says; the figures hang on the object, not on which others are asked for."""
    states = [OBJECTS[key][3] for key in inventory["key"].to_pylist()]
    ruled = np.array([state is None for state in states])
    reads = np.array([{None: 0.3, DEAD: 0.0, COLD: 1.0, BUSY: 300.0}[state] for state in states])
    horizons = reads[:, None] * np.array(FORECAST_HORIZONS) / horizon_days
    count = len(states)
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
        confidence=np.where(ruled, 0.4, 0.9),
        source=np.where(ruled, "rules", "model:7").astype(object),
        from_rules=ruled,
        reads_30_days=np.zeros(count),
        last_read_days=np.full(count, np.inf),
        idle_days=np.full(count, 200.0),
        usage_state=None if chain is None else np.array([-1 if state is None else state for state in states]),
        usage_chain=chain,
    )


def arguments(**overrides):
    return {
        "day": DAY,
        "forecast": forecast,
        "estate": estate(),
        "books": BOOKS,
        "policy": POLICY,
        "history_days": 400,
        "coverage": KNOWN,
        "placements": PLACEMENTS,
    } | overrides


def explained(lake, key, **overrides):
    ref = ObjectRef(Provider.AWS, "data", key)
    return explain_object(ref, lake=lake, shards=SHARDS, **arguments(**overrides))


@pytest.mark.parametrize("key", OBJECTS)
def test_explanation_says_what_scoring_decided_when_it_looks_at_the_same_day(lake, key):
    found = explained(lake, key)
    row = next(one for one in lake.read("decisions", days=[DAY]).to_pylist() if one["key"] == key)
    assert found.decision.reason == row["reason"]
    for name in ("action", "chosen_class"):
        assert getattr(found.decision, name) == row[name]
    for name in ("stay_usd", "chosen_usd", "one_time_usd", "saving_usd", "current_monthly_usd", "chosen_monthly_usd"):
        assert getattr(found.decision, name) == pytest.approx(row[name])
    assert found.rule_class == row["rule_class"]
    assert found.stored is not None
    assert (found.stored.agrees, found.stored.day, found.stored.reason) == (True, DAY, row["reason"])
    stored = {one["storage_class"]: one["expected_usd"] for one in row["candidates"]}
    told = {one.storage_class: one.decided_usd for one in found.candidates if one.option != "keep"}
    assert {name: stored[name] for name in told} == pytest.approx(told)


@pytest.mark.parametrize("key", OBJECTS)
def test_parts_sum_to_what_the_decision_compares_when_an_object_is_explained(lake, key):
    found = explained(lake, key)
    for one in found.candidates:
        parts = (
            one.storage_usd, one.monitoring_usd, one.requests_usd, one.retrieval_usd, one.moves_usd,
            one.early_deletion_usd, one.coming_back_usd,
        )  # fmt: skip
        assert one.total_usd == pytest.approx(sum(parts), rel=1e-12)
        assert one.total_usd == pytest.approx(one.decided_usd, rel=3e-4, abs=1e-9), one
        assert min(parts) >= 0
    keep = found.candidates[0]
    assert (keep.option, keep.decided_usd) == ("keep", found.decision.stay_usd)
    chosen = [one for one in found.candidates if one.chosen]
    assert len(chosen) == 1
    assert chosen[0].decided_usd == pytest.approx(found.decision.chosen_usd)
    assert chosen[0].storage_class == found.decision.chosen_class


def test_payback_is_a_day_of_the_horizon_when_a_move_is_decided(lake):
    found = explained(lake, "dead/big")
    made = found.decision
    assert (made.action, made.chosen_class, made.placed_by) == ("move", "GLACIER_IR", "state of use")
    assert made.payback_days is not None
    assert made.payback_on == DAY + timedelta(days=int(np.ceil(made.payback_days)))
    assert f"pays back in {np.ceil(made.payback_days):.0f} day" in made.reason
    state = found.forecast.state
    assert state is not None
    assert (found.forecast.source, state.state, state.states) == ("model:7", DEAD, 3)
    assert found.forecast.horizons[0].state_probability_any == 0.0


def test_waiting_has_a_row_of_its_own_when_the_best_is_to_move_later(lake):
    options = [one.option for one in explained(lake, "cold/young-ia").candidates]
    assert options[:2] == ["keep", "wait"]
    assert "wait" not in [one.option for one in explained(lake, "ruled/ia").candidates]


def test_rules_are_named_and_priced_by_expected_reads_when_an_object_has_no_state(lake):
    found = explained(lake, "ruled/idle")
    assert (found.decision.placed_by, found.forecast.source, found.forecast.state) == ("expected reads", "rules", None)
    assert found.forecast.note == "the access logs do not tell enough of this object for the model"
    assert any(one.coming_back_usd > 0 for one in found.candidates)
    away = explained(lake, "ruled/idle", why_rules="MLflow does not answer")
    assert away.forecast.note == "MLflow does not answer"


def test_history_counts_by_window_when_the_logs_hold_reads_of_the_object(lake):
    history = explained(lake, "busy/auto").history
    assert [(one.days, one.reads, one.writes, one.excluded_reads) for one in history.windows] == [
        (7, 7, 0, 0), (30, 7, 0, 0), (90, 14, 1, 3), (180, 25, 1, 3),
    ]  # fmt: skip
    assert (len(history.daily_reads), history.daily_reads[-1], history.daily_reads[0]) == (90, 7, 2)
    assert sum(history.daily_reads) == 14
    assert history.first_day == DAY - timedelta(days=90)
    assert history.last_read_on == DAY - timedelta(days=1)
    assert history.last_written_on == DAY - timedelta(days=40)
    assert history.known_since == DAY - timedelta(days=200)
    assert explained(lake, "dead/big").history.last_read_on is None


def test_classes_that_are_no_candidates_are_named_with_their_reason_when_owners_limit_them(lake):
    why = {one.storage_class: one.why for one in explained(lake, "dead/big").ruled_out}
    assert "hours" in why["DEEP_ARCHIVE"]
    assert "single zone" in why["ONEZONE_IA"]
    named = explained(lake, "dead/big", estate=estate(allowed_classes=("STANDARD", "STANDARD_IA")))
    assert "owner allows" in {one.storage_class: one.why for one in named.ruled_out}["GLACIER_IR"]
    slow = explained(lake, "slow/one")
    assert slow.object.latency == "hours"
    assert "DEEP_ARCHIVE" in {one.storage_class for one in slow.candidates}


@pytest.mark.parametrize(
    ("key", "why", "reason"),
    [
        ("excluded/one", "excluded by its owner", "excluded by its owner"),
        ("locked/one", "locked (legal hold)", "locked (legal hold)"),
        ("young/one", "minimum retention", "minimum retention"),
        ("odd/one", "does not know the class", "does not know this class"),
    ],
)
def test_only_staying_is_weighed_when_an_object_may_not_be_moved(lake, key, why, reason):
    found = explained(lake, key)
    assert reason in found.decision.reason
    assert [one.option for one in found.candidates] == ["keep"]
    assert why in {one.storage_class: one.why for one in found.ruled_out}["STANDARD_IA"]
    assert found.decision.payback_on is None


def test_one_class_is_weighed_when_the_owner_pinned_the_object(lake):
    found = explained(lake, "pinned/one")
    assert [(one.option, one.storage_class, one.chosen) for one in found.candidates] == [
        ("keep", "STANDARD", False), ("move", "STANDARD_IA", True),
    ]  # fmt: skip
    assert found.object.pinned_class == "STANDARD_IA"
    assert "STANDARD_IA" in {one.storage_class: one.why for one in found.ruled_out}["GLACIER_IR"]


def test_decision_is_withheld_and_figures_are_told_when_the_logs_tell_too_little(lake):
    found = explained(lake, "dead/big", coverage={("aws", "data"): RecentCoverage(0.2, 30)})
    assert found.decision.action == "keep"
    assert found.decision.reason.startswith("withheld:")
    assert found.history.coverage == 0.2
    assert len(found.candidates) > 2
    assert found.candidates[0].chosen
    assert found.stored is not None
    assert not found.stored.agrees
    assert explained(lake, "dead/big", coverage={}).decision.reason.startswith("withheld: its coverage")


def test_price_book_and_its_date_are_told_when_an_object_is_explained(lake):
    prices = explained(lake, "dead/big").prices
    assert (prices.name, prices.seen_on) == ("aws-us-east-1", BOOKS["aws-us-east-1"].seen_on)


@pytest.mark.parametrize(
    ("book", "name", "scope"), [("gcs-us-central1", "AUTOCLASS", "bucket"), ("azure-eastus-lrs", "Smart", "account")]
)
def test_autopilot_is_barred_when_it_is_no_setting_of_one_object(book, name, scope):
    prices = load_book(book).prices_of(name)
    assert f"a setting of the {scope}" in (barred_by(prices, OwnerLimits()) or "")


def test_stored_decision_is_of_another_day_when_scoring_ran_before(lake):
    found = explained(lake, "dead/big", day=DAY + timedelta(days=3))
    assert found.stored is not None
    assert (found.stored.day, found.stored.source, found.day) == (DAY, "model:7", DAY + timedelta(days=3))
    assert found.inventory_day == DAY


def test_error_names_the_object_when_there_is_no_such_object(lake, tmp_path):
    with pytest.raises(ObjectNotFound, match=r"s3://data/no%20such is not in the inventory of 2026-06-01"):
        explained(lake, "no such")
    with pytest.raises(BucketNotInEstate, match=r"s3://other/key is not looked after: .* 'other' of aws"):
        explain_object(ObjectRef(Provider.AWS, "other", "key"), lake=lake, shards=SHARDS, **arguments())
    with pytest.raises(NothingToExplain, match=r"s3://data/dead/big cannot be explained: there is no inventory"):
        explained(Lake(str(tmp_path), SHARDS), "dead/big")


def test_nothing_is_stored_or_logged_when_only_the_inventory_was_collected(tmp_path):
    fresh = Lake(str(tmp_path), SHARDS)
    fresh.stage_shards("inventory", inventory_of({"dead/big": OBJECTS["dead/big"]}), "setup")
    fresh.publish("inventory", "setup")
    found = explained(fresh, "dead/big")
    assert found.stored is None
    assert found.history.known_since is None
    assert sum(found.history.daily_reads) == 0


@pytest.mark.parametrize("text", ["", "key", "s3://", "s3://bucket", "s3://bucket/", "http://bucket/key", "S3//b/k"])
def test_address_is_refused_by_its_text_when_it_is_malformed(text):
    with pytest.raises(AddressMalformed, match="not an object address"):
        parse_address(text)


def test_address_is_refused_when_a_shell_hands_over_bytes_that_are_no_text():
    with pytest.raises(AddressMalformed, match="UTF-8"):
        parse_address("s3://data/\udcff")


def test_strange_key_is_found_and_quoted_when_it_is_asked_for_by_its_address(lake):
    uri = f"s3://data/{quote(HOSTILE, safe='/')}"
    ref = parse_address(uri)
    assert ref.key == HOSTILE
    found = explained(lake, ref.key)
    assert (found.uri, found.key) == (uri, HOSTILE)


@pytest.mark.parametrize("key", OBJECTS)
def test_explanation_is_json_without_nan_when_it_is_printed(lake, key):
    text = TypeAdapter(Explanation).dump_json(explained(lake, key))

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["key"] == key
