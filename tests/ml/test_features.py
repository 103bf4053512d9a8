"""Features: right against a plain slow implementation, and blind to everything from the cutoff on."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_access import FIRST_DAY, daily_access, inventory, rhythmic_history

from cloudflux_ml import features
from cloudflux_ml.features import (
    CONTENT_FAMILIES,
    FEATURE_NAMES,
    HALF_LIVES_DAYS,
    WINDOWS_DAYS,
    AccessHistory,
    content_family_codes,
)
from cloudflux_ml.usage import USAGE_FEATURES, UsageTracker

LOOKBACK_DAYS = 400

Row = tuple[str, date, int, int]


def slow_features(rows: list[Row], key: str, cutoff: date, start: date, sizes: dict[str, int]) -> dict[str, float]:
    """Compute one object's features the way they are described, one at a time."""
    earlier = [row for row in rows if start <= row[1] < cutoff]
    mine = sorted((day, reads, writes) for name, day, reads, writes in earlier if name == key)
    read_days = [day for day, reads, _ in mine if reads]
    nan = math.nan

    def total(days: int, name: str = key) -> float:
        first = cutoff - timedelta(days=days)
        return (
            sum(reads for other, day, reads, _ in earlier if other == name and day >= first) if first >= start else nan
        )

    rhythm = [(day, reads) for day, reads, _ in mine if day >= cutoff - timedelta(days=180)]
    read_in_rhythm = sum(reads for _, reads in rhythm)
    by_weekday = [sum(reads for day, reads in rhythm if day.weekday() == weekday) for weekday in range(7)]
    month_end = sum(reads for day, reads in rhythm if day.day == 1 or (day + timedelta(days=2)).month != day.month)
    month_ago, last_year = cutoff - timedelta(days=30), cutoff - timedelta(days=364)
    writes = [day for day, _, count in mine if count]
    siblings = [name for name in {row[0] for row in rows if row[1] < cutoff} if name != key]
    siblings = [name for name in siblings if name.split("/")[0] == key.split("/", maxsplit=1)[0]]
    values = {f"reads_{days}_days": total(days) for days in WINDOWS_DAYS}
    gap = (read_days[-1] - read_days[0]).days / (len(read_days) - 1) if len(read_days) > 1 else nan
    last_month = [reads for day, reads, _ in mine if day >= month_ago]
    age = (cutoff - mine[0][0]).days

    def halved(days: int) -> float:
        lived = max(7, min(age, LOOKBACK_DAYS))
        weighed = sum(reads * 0.5 ** (((cutoff - day).days - 1) / days) for day, reads, _ in mine)
        return 30 * weighed / sum(0.5 ** (back / days) for back in range(lived))

    def bucket(first: int, end: int) -> int:
        if cutoff - timedelta(days=28) < start:
            return 0
        return sum(
            reads
            for _, day, reads, _ in earlier
            if cutoff - timedelta(days=first) <= day < cutoff - timedelta(days=end)
        )

    def weekday_share(weekday: int) -> float:
        family = [
            (day, reads)
            for name, day, reads, _ in earlier
            if (name == key or name in siblings) and day >= cutoff - timedelta(days=180)
        ]
        among = 1 + sum(reads for day, reads in family if day.weekday() == weekday)
        return (by_weekday[weekday] + 7 * among / (7 + sum(reads for _, reads in family))) / (read_in_rhythm + 7)

    return values | {
        **{f"rate_halved_{days}_days": halved(days) for days in HALF_LIVES_DAYS},
        "recency_days": (cutoff - read_days[-1]).days if read_days else LOOKBACK_DAYS,
        "never_read": float(not read_days),
        "days_active_30": sum(day >= month_ago for day in read_days) if month_ago >= start else nan,
        "days_active_180": sum(day >= cutoff - timedelta(days=180) for day in read_days)
        if cutoff - timedelta(days=180) >= start
        else nan,
        "mean_gap_days": gap,
        "recency_in_gaps": (cutoff - read_days[-1]).days / gap if read_days else nan,
        "trend": math.log((total(30) + 1) / (total(60) - total(30) + 1)),
        "trend_week": math.log((total(7) * 30 / 7 + 1) / (total(30) + 1)),
        "busiest_day_share": max(last_month) / sum(last_month) if sum(last_month) and month_ago >= start else nan,
        "reads_last_year": sum(reads for day, reads, _ in mine if last_year <= day < last_year + timedelta(days=30))
        if last_year >= start
        else nan,
        "weekend_share": sum(by_weekday[5:]) / read_in_rhythm if read_in_rhythm else nan,
        "busiest_weekday_share": max(by_weekday) / read_in_rhythm if read_in_rhythm else nan,
        "month_end_share": month_end / read_in_rhythm if read_in_rhythm else nan,
        "writes_30_days": sum(count for day, _, count in mine if day >= month_ago) if month_ago >= start else nan,
        "days_since_write": (cutoff - writes[-1]).days if writes else LOOKBACK_DAYS,
        "age_days": (cutoff - mine[0][0]).days,
        "log2_size_bytes": math.log2(sizes[key]),
        "provider": 0.0,
        "content_family": nan,
        "sibling_reads_30_days": sum(total(30, name) for name in siblings) / len(siblings) if siblings else nan,
        "content_sibling_reads_30_days": nan,
        "bucket_trend": math.log((bucket(14, 0) + 100) / (bucket(28, 14) + 100)),
        **{f"weekday_share_ahead_{ahead}": weekday_share((cutoff.weekday() + ahead) % 7) for ahead in range(7)},
    }


KEYS = ["a/1", "a/2", "a/b/3", "c/4", "5"]
PLACES = st.tuples(st.sampled_from(KEYS), st.integers(0, 460))
ROWS = st.dictionaries(PLACES, st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60)


@settings(max_examples=60)
@given(ROWS, st.integers(1, 470), st.integers(0, 120))
def test_features_equal_the_plain_ones_when_computed_in_columns(
    drawn: dict[tuple[str, int], tuple[int, int]], cutoff_after: int, start_after: int
) -> None:
    start, cutoff = FIRST_DAY + timedelta(days=start_after), FIRST_DAY + timedelta(days=cutoff_after)
    rows = [
        (key, FIRST_DAY + timedelta(days=place), reads, writes)
        for (key, place), (reads, writes) in drawn.items()
        if place >= start_after and abs(cutoff_after - place) <= LOOKBACK_DAYS  # the look-back has its own test
    ]
    sizes = {key: 10 ** (index + 2) for index, key in enumerate(KEYS)}
    listed = pa.concat_tables(
        inventory([key], snapshot=date(2027, 1, 1), modified=date(2027, 1, 1), size_bytes=size)
        for key, size in sizes.items()
    )
    history = AccessHistory(daily_access(rows), listed, history_start=start, lookback_days=LOOKBACK_DAYS)
    features = history.features(cutoff)
    keys = history.objects["key"].gather(features.rows.tolist()).to_list()
    assert sorted(keys) == sorted({key for key, day, *_ in rows if day < cutoff})
    for row, key in enumerate(keys):
        expected = slow_features(rows, key, cutoff, start, sizes)
        assert list(expected) == list(FEATURE_NAMES)
        np.testing.assert_allclose(features.values[row], list(expected.values()), rtol=1e-12, err_msg=key)


def test_features_stay_the_same_when_the_days_from_the_cutoff_on_change() -> None:
    access, listed = rhythmic_history(objects=60, days=120)
    cutoff = FIRST_DAY + timedelta(days=80)
    before = access.filter(pa.array([day < cutoff for day in access["day"].to_pylist()]))
    later = daily_access([(key, cutoff, 10_000, 5) for key in listed["key"].to_pylist()])
    changed = pa.concat_tables([before, later])
    start = FIRST_DAY
    original = AccessHistory(access, listed, history_start=start).features(cutoff)
    other = AccessHistory(changed, listed, history_start=start).features(cutoff)
    assert len(original.rows) > 30
    np.testing.assert_array_equal(original.rows, other.rows)
    np.testing.assert_array_equal(original.values, other.values)
    moved = AccessHistory(changed, listed, history_start=start).features(cutoff + timedelta(days=1))
    assert (moved.column("reads_1_days") == 10_000).all(), "the change must be one that features can see a day later"


def test_features_stay_the_same_when_only_excluded_reads_differ() -> None:
    access, listed = rhythmic_history(objects=30, days=60)
    place = access.schema.get_field_index("excluded_reads")
    crawled = access.set_column(place, access.schema.field(place), pa.array([999] * access.num_rows, pa.int64()))
    cutoff = FIRST_DAY + timedelta(days=50)
    np.testing.assert_array_equal(
        AccessHistory(access, listed).features(cutoff).values, AccessHistory(crawled, listed).features(cutoff).values
    )


def test_window_is_unknown_when_it_begins_before_the_logs() -> None:
    history = AccessHistory(daily_access([("a", FIRST_DAY, 3)]), history_start=FIRST_DAY)
    features = history.features(FIRST_DAY + timedelta(days=20))
    assert features.column("reads_14_days").tolist() == [0.0]
    assert np.isnan(features.column("reads_30_days")).all()


def test_reads_are_forgotten_when_they_are_older_than_the_lookback() -> None:
    access = daily_access([("a", FIRST_DAY, 3), ("a", FIRST_DAY + timedelta(days=60), 1)])
    history = AccessHistory(access, history_start=FIRST_DAY, lookback_days=90)
    features = history.features(FIRST_DAY + timedelta(days=100))
    assert features.column("recency_days").tolist() == [40.0]
    assert features.column("age_days").tolist() == [40.0]
    assert np.isnan(features.column("mean_gap_days")).all()


def test_object_counts_from_its_modification_when_no_log_names_it() -> None:
    listed = inventory(["quiet"], snapshot=date(2025, 6, 1), modified=date(2025, 3, 1))
    history = AccessHistory(daily_access([]), listed, history_start=FIRST_DAY)
    assert len(history.features(date(2025, 3, 1)).rows) == 0
    features = history.features(date(2025, 3, 11))
    assert features.column("age_days").tolist() == [10.0]
    assert features.column("never_read").tolist() == [1.0]


def test_deleted_object_has_no_row_when_the_inventory_lacks_it() -> None:
    access = daily_access([("gone", FIRST_DAY, 3), ("here", FIRST_DAY, 1)])
    history = AccessHistory(access, inventory(["here"], snapshot=date(2025, 6, 1)))
    assert history.objects["key"].to_list() == ["here"]
    assert history.features(FIRST_DAY + timedelta(days=2)).column("reads_1_days").tolist() == [0.0]


def test_content_type_comes_from_the_event_when_the_inventory_has_none() -> None:
    listed = pa.concat_tables(
        [inventory(["a b"], snapshot=FIRST_DAY), inventory(["c"], snapshot=FIRST_DAY, content_type="image/png")]
    )
    events = pa.table(
        {"uri": ["s3://data/a%20b", "s3://data/c", "file:///elsewhere"], "content_type": ["video", "log", "log"]}
    )
    history = AccessHistory(daily_access([]), listed, content_types=events)
    families = history.features_of_all(FIRST_DAY).column("content_family")
    assert [CONTENT_FAMILIES[int(code)] for code in families] == ["video", "image"]


@pytest.mark.parametrize(
    ("content_type", "family"),
    [
        ("video/mp4", "video"),
        ("image", "image"),
        ("application/pdf", "document"),
        ("text/plain; charset=utf-8", "document"),
        ("log", "log"),
        ("application/x-ndjson", "log"),
        ("application/gzip", "archive"),
        ("application/x-parquet", "other"),
        ("application/vnd.catalog", "other"),
    ],
)
def test_content_type_is_reduced_to_its_family_when_it_is_known(content_type: str, family: str) -> None:
    assert CONTENT_FAMILIES[int(content_family_codes([content_type])[0])] == family


def test_content_family_is_unknown_when_the_type_says_nothing() -> None:
    assert np.isnan(content_family_codes([None, "", "application/octet-stream"])).all()


def test_features_are_empty_when_the_shard_is_empty() -> None:
    history = AccessHistory(daily_access([]), inventory([], snapshot=FIRST_DAY))
    assert history.features_of_all(FIRST_DAY).values.shape == (0, len(FEATURE_NAMES))


def noted_features(history: AccessHistory, cutoff: date, lookback_days: int) -> np.ndarray:
    """Give what a tracker says that is told day after day of what the history's first look-back allows."""
    start = max(history.first_day, cutoff - timedelta(days=lookback_days))
    skipped, days = (start - history.first_day).days, (cutoff - start).days
    noted = history.daily_reads(cutoff)
    tracker = UsageTracker(np.minimum(np.maximum(noted.created - skipped, 0), days))
    for day in range(days):
        tracker.observe(day, *noted.on(skipped + day))
    return tracker.features(np.arange(len(noted.created)), days)


@settings(max_examples=60)
@given(ROWS, st.integers(0, 470), st.integers(0, 120), st.sampled_from([30, 400]))
def test_usage_features_equal_those_of_a_tracker_when_the_days_are_the_same(
    drawn: dict[tuple[str, int], tuple[int, int]], cutoff_after: int, start_after: int, lookback_days: int
) -> None:
    cutoff_after = max(cutoff_after, start_after)
    start, cutoff = FIRST_DAY + timedelta(days=start_after), FIRST_DAY + timedelta(days=cutoff_after)
    rows = [(key, FIRST_DAY + timedelta(days=place), *counts) for (key, place), counts in drawn.items()]
    listed = pa.concat_tables(
        inventory([key], snapshot=date(2027, 1, 1), modified=FIRST_DAY + timedelta(days=100 * place))
        for place, key in enumerate(KEYS)
    )
    history = AccessHistory(daily_access(rows), listed, history_start=start, lookback_days=lookback_days)
    values = history.usage_features(cutoff)
    assert values.shape == (len(KEYS), len(USAGE_FEATURES))
    np.testing.assert_allclose(values, noted_features(history, cutoff, lookback_days), rtol=1e-9)
    age, recency = (values[:, USAGE_FEATURES.index(name)] for name in ("age_days", "recency_days"))
    assert (age <= (cutoff - max(start, cutoff - timedelta(days=lookback_days))).days).all()
    assert (recency <= age + 1).all()


def test_usage_features_stay_the_same_when_the_days_from_the_cutoff_on_change() -> None:
    access, listed = rhythmic_history(objects=60, days=120)
    cutoff = FIRST_DAY + timedelta(days=80)
    before = access.filter(pa.array([day < cutoff for day in access["day"].to_pylist()]))
    changed = pa.concat_tables([before, daily_access([(key, cutoff, 99) for key in listed["key"].to_pylist()])])
    original, other = (AccessHistory(table, listed, history_start=FIRST_DAY) for table in (access, changed))
    np.testing.assert_array_equal(original.usage_features(cutoff), other.usage_features(cutoff))
    tomorrow = cutoff + timedelta(days=1)
    assert (original.usage_features(tomorrow) != other.usage_features(tomorrow)).any()


def test_object_has_age_0_when_it_comes_on_the_cutoff_or_later() -> None:
    listed = inventory(["late"], snapshot=date(2025, 6, 1), modified=date(2025, 3, 1))
    history = AccessHistory(daily_access([]), listed, history_start=FIRST_DAY)
    for cutoff, age in ((date(2025, 2, 1), 0.0), (date(2025, 3, 1), 0.0), (date(2025, 3, 8), 7.0)):
        recency, age_days, *decayed = history.usage_features(cutoff)[0]
        assert (age_days, recency) == (age, age + 1)
        assert decayed == pytest.approx([np.log(1e-4)] * 3)


def test_crawl_counts_as_no_use_of_its_bucket_when_it_comes_once() -> None:
    days = [FIRST_DAY + timedelta(days=place) for place in range(50)]
    rows = [(f"object-{place:02d}", days[0], 0, 1) for place in range(40)]
    rows += [("object-00", day, 2, 0) for day in days[1:] if day != days[40]]
    rows += [(f"object-{place:02d}", days[40], 1, 0) for place in range(40)]
    history = AccessHistory(daily_access(rows), history_start=FIRST_DAY)
    features = history.usage_features(days[-1])
    assert features[0, 0] == 1.0
    assert (features[1:, 0] == 50.0).all()
    noted, charged = history.daily_reads(days[-1]), history.daily_reads(days[-1], with_crawls=True)
    assert len(noted.on(40)[0]) == 0
    assert len(charged.on(40)[0]) == 40
    np.testing.assert_allclose(features, noted_features(history, days[-1], 400))


def test_usage_features_are_empty_when_the_shard_is_empty() -> None:
    history = AccessHistory(daily_access([]), inventory([], snapshot=FIRST_DAY))
    assert history.usage_features(FIRST_DAY).shape == (0, len(USAGE_FEATURES))
    assert len(history.daily_reads(date(1970, 1, 3)).on(1)[0]) == 0


def test_features_are_the_same_when_the_rows_come_in_no_order() -> None:
    access, listed = rhythmic_history(objects=60, days=90)
    order = np.random.default_rng(3).permutation(access.num_rows)
    shuffled = listed.take(np.random.default_rng(4).permutation(listed.num_rows))
    in_order, mixed = AccessHistory(access, listed), AccessHistory(access.take(order), shuffled)
    cutoff = FIRST_DAY + timedelta(days=80)
    assert in_order.objects.equals(mixed.objects)
    for ours, others in (
        (in_order.features_of_all(cutoff).values, mixed.features_of_all(cutoff).values),
        (in_order.usage_features(cutoff), mixed.usage_features(cutoff)),
        *zip(in_order.transferred(cutoff), mixed.transferred(cutoff), strict=True),
    ):
        np.testing.assert_array_equal(ours, others)


@pytest.mark.parametrize("columns", [["key"], ["provider", "bucket", "key"]])
@pytest.mark.parametrize("alike", [False, True])
def test_rows_find_their_objects_as_a_join_of_texts_does(
    columns: list[str], alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    names = np.array([f"{'ab'[n % 2]}/{n // 2}" for n in range(400)])

    def drawn(count: int) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "provider": rng.choice(["aws", "gcp"], count),
                "bucket": rng.choice(["a", "b", "ab"], count),
                "key": rng.choice(names, count),
            }
        ).select(columns)

    if alike:  # every text has one hash of three: the join decides
        true = features._hashes
        monkeypatch.setattr(features, "_hashes", lambda texts, seed: true(texts, seed) % np.uint64(3))
    known, wanted = drawn(150).unique(maintain_order=True), drawn(900)
    found = features._places(wanted, known)
    joined = wanted.join(known.with_row_index("place"), on=columns, how="left", maintain_order="left")
    assert found.tolist() == joined["place"].cast(pl.Int64).fill_null(-1).to_list()
    assert (found < 0).any()
    assert features._places(wanted, known.clear()).tolist() == [-1] * 900


def test_a_found_object_is_not_believed_when_only_one_hash_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {("a", 0): 7, ("b", 0): 7, ("a", 1): 1, ("b", 1): 2}
    monkeypatch.setattr(features, "_SEEDS", (0, 1))
    monkeypatch.setattr(
        features,
        "_hashes",
        lambda texts, seed: np.array([hashes[key, seed] for key in texts["key"]], dtype=np.uint64),
    )
    wanted, known = pl.DataFrame({"key": ["b", "a"]}), pl.DataFrame({"key": ["a"]})
    assert features._places(wanted, known).tolist() == [-1, 0]
