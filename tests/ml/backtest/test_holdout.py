"""The backtest of a training's holdout window: who is charged for what, and what no policy may know."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, inventory, rhythmic_history

from cloudflux.domain.accounting import LONG_HELD_DAYS, Account
from cloudflux.domain.prices import Latency
from cloudflux.price_books import load_book
from cloudflux_ml import train as training
from cloudflux_ml.backtest.holdout import (
    Bucket,
    BucketPrices,
    ByUsage,
    HoldoutBacktest,
    HoldoutPart,
    HoldoutSample,
    Persistence,
    sample_holdout,
)
from cloudflux_ml.backtest.replay import Policy
from cloudflux_ml.backtest.run import classes_of
from cloudflux_ml.dataset import Dataset, build_dataset
from cloudflux_ml.usage import UsageStates

DAYS = 120
UNTIL = FIRST_DAY + timedelta(days=DAYS)


def varied_history() -> tuple[pa.Table, pa.Table]:
    """Give the rhythmic history, with sizes from 3 KB to 1 GB."""
    access, listed = rhythmic_history(objects=300, days=DAYS)
    place = listed.schema.get_field_index("size_bytes")
    sizes = (10 ** np.random.default_rng(5).uniform(3.5, 9.0, len(listed))).astype(np.int64)
    return access, listed.set_column(place, listed.schema.field(place), pa.array(sizes))


@pytest.fixture(scope="module")
def lake() -> MemoryLake:
    return MemoryLake(*varied_history())


@pytest.fixture(scope="module")
def dataset(lake: MemoryLake) -> Dataset:
    return build_dataset(lake, shards=1, until=UNTIL)


@pytest.fixture(scope="module")
def usage(lake: MemoryLake, dataset: Dataset) -> UsageStates:
    return training.fit_usage(lake, dataset, shards=1)


def prices_of(book_name: str, *left_out: str) -> BucketPrices:
    """Give a book's classes that answer at once, without some."""
    book = load_book(book_name)
    return BucketPrices(book, tuple(name for name in classes_of(book, Latency.MS) if name not in left_out))


@pytest.fixture(scope="module")
def prices() -> dict[Bucket, BucketPrices]:
    return {("aws", "data"): prices_of("aws-us-east-1")}


def only_part(window: HoldoutBacktest | None) -> HoldoutPart:
    assert window is not None
    (part,) = window.parts
    return part


def plain_cost(window: HoldoutPart, policy: Policy) -> float:
    """Charge the window by the conventions, day by day: all in the standard class, owing nothing."""
    trace, account = window.sample.trace, Account(window.tariff, window.tariff.standard_code, LONG_HELD_DAYS)
    everything = np.arange(trace.objects)
    for day in range(trace.eval_from):
        policy.observe(day, *trace.on(day))
    for day in range(trace.eval_from, trace.days):
        moves = policy.decide(day, account, np.ones(trace.objects, dtype=bool))
        if moves is not None:
            account.move(*moves)
        account.pass_day(everything, *trace.on(day))
        policy.observe(day, *trace.on(day))
    return account.total_usd + account.owed_usd


def test_cost_is_that_of_the_conventions_with_what_is_owed_at_the_end(
    lake: MemoryLake, dataset: Dataset, usage: UsageStates, prices: dict[Bucket, BucketPrices]
) -> None:
    whole = training.holdout_backtest(lake, dataset, shards=1, prices=prices)
    window = only_part(whole)
    assert whole is not None
    trace = window.sample.trace
    assert whole.objects == trace.objects == dataset.objects
    assert whole.book_names == ("aws-us-east-1",)
    assert (trace.created < trace.eval_from).all()
    assert (trace.days - trace.eval_from, trace.first_day) == (dataset.windows.label_days, dataset.first_day)
    cost = whole.usage_usd(usage)
    assert cost == pytest.approx(plain_cost(window, ByUsage(window.sample.noticed, window.tariff, usage)), rel=1e-9)
    rivals = whole.rivals_usd()
    assert rivals["optimum"] < cost < rivals["stay"]
    assert rivals["optimum"] < min(rivals["rules"], rivals["persistence"])
    stay = float(window.tariff.storage_usd_day[:, 0].sum() * dataset.windows.label_days)
    reads = trace.read_counts[trace.starts[trace.eval_from] :].sum() * window.tariff.request_usd[0]
    assert rivals["stay"] == pytest.approx(stay + reads)


def test_parking_is_not_rewarded_when_the_window_ends_before_the_minimum_days(
    lake: MemoryLake, dataset: Dataset, prices: dict[Bucket, BucketPrices]
) -> None:
    class Park:
        def observe(self, *_: object) -> None:
            pass

        def decide(self, day: int, account: Account, movable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = np.flatnonzero(movable)
            return rows, np.full(len(rows), account.tariff.code_of("GLACIER_IR"))

    window = only_part(training.holdout_backtest(lake, dataset, shards=1, prices=prices))
    trace, tariff = window.sample.trace, window.tariff
    code = tariff.code_of("GLACIER_IR")
    parked = window.usd("park", Park())
    reads = np.bincount(
        trace.read_rows[trace.starts[trace.eval_from] :],
        weights=trace.read_counts[trace.starts[trace.eval_from] :],
        minlength=trace.objects,
    )
    per_read = tariff.request_usd[code] + tariff.size_gib * tariff.retrieval_usd_gib[code]
    moves = tariff.move_usd[0, code] + tariff.size_gib * tariff.move_usd_gib[0, code]
    assert parked == pytest.approx((90 * tariff.storage_usd_day[:, code] + reads * per_read + moves).sum())


def test_sample_holds_the_same_reads_whatever_the_shards_are() -> None:
    history = varied_history()
    whole = MemoryLake(*history)
    dataset = build_dataset(whole, shards=1, until=UNTIL)
    one, many = (sample_holdout(MemoryLake(*history, shards=shards), dataset, shards=shards) for shards in (1, 4))
    assert one is not None
    assert many is not None
    assert sorted(one.trace.object_ids) == sorted(many.trace.object_ids)
    for day in (0, 50, DAYS - 1):
        told = [
            dict(zip(sample.trace.object_ids[rows], counts.tolist(), strict=True))
            for sample in (one, many)
            for rows, counts in [sample.trace.on(day)]
        ]
        assert told[0] == told[1]
        assert (np.diff(many.trace.on(day)[0]) > 0).all()


def test_sample_is_seeded_and_no_larger_than_asked_for(lake: MemoryLake, dataset: Dataset) -> None:
    first, again, other = (sample_holdout(lake, dataset, shards=1, most=40, seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.trace.objects == 40
    assert first.trace.object_ids.tolist() == again.trace.object_ids.tolist() != other.trace.object_ids.tolist()


def test_decisions_stay_the_same_when_the_days_from_then_on_change(
    lake: MemoryLake, dataset: Dataset, usage: UsageStates, prices: dict[Bucket, BucketPrices]
) -> None:
    access, listed = varied_history()
    changed_on = dataset.windows.holdout + timedelta(days=12)
    before = access.filter(pc.less(access["day"], pa.scalar(changed_on)))
    flood = daily_access([(key, changed_on, 500) for key in listed["key"].to_pylist()])
    other = MemoryLake(pa.concat_tables([before, flood]), listed)
    decided: list[list[list[int]]] = []
    for each in (lake, other):
        sample = sample_holdout(each, dataset, shards=1)
        assert sample is not None
        window = only_part(HoldoutBacktest.of(sample, prices))
        for policy in (ByUsage(sample.noticed, window.tariff, usage), Persistence(sample.noticed, window.tariff)):
            account = Account(window.tariff, window.tariff.standard_code, LONG_HELD_DAYS)
            seen = []
            for day in range(sample.trace.eval_from + 13):
                if day >= sample.trace.eval_from:
                    rows, codes = policy.decide(day, account, np.ones(sample.trace.objects, dtype=bool)) or ([], [])
                    account.move(rows, codes)
                    seen.append(account.class_codes.tolist())
                policy.observe(day, *sample.trace.on(day))
            decided.append(seen)
    assert decided[:2] == decided[2:]
    assert decided[0][-1] != decided[1][-1], "the two policies are not the same"


def test_nothing_is_measured_without_prices_sizes_or_a_usage_chain(
    lake: MemoryLake, dataset: Dataset, prices: dict[Bucket, BucketPrices]
) -> None:
    assert training.holdout_backtest(lake, dataset, shards=1, prices={}) is None
    bare = dataclasses.replace(dataset, inventory_day=None)
    assert training.holdout_backtest(lake, bare, shards=1, prices=prices) is None
    window = training.holdout_backtest(lake, dataset, shards=1, prices=prices)
    forecaster = training.AccessForecaster()
    forecaster.usage_ = None
    assert training.backtest_cost(forecaster, window) is None
    assert training.backtest_cost(forecaster, None) is None


def test_crawl_is_charged_but_not_noticed() -> None:
    keys = [f"object-{place:03d}" for place in range(150)]
    days = [FIRST_DAY + timedelta(days=place) for place in range(DAYS)]
    rows = [(key, days[0], 0, 1) for key in keys] + [(keys[place % 7], day, 200, 0) for place, day in enumerate(days)]
    rows = [row for row in rows if row[1] != days[100]] + [(key, days[100], 1, 0) for key in keys]
    lake = MemoryLake(daily_access(rows), inventory(keys, snapshot=UNTIL))
    sample = sample_holdout(lake, build_dataset(lake, shards=1, until=UNTIL), shards=1)
    assert sample is not None
    assert len(sample.trace.on(100)[0]) == 150
    assert len(sample.noticed.on(100)[0]) == 0
    assert len(sample.noticed.on(101)[0]) == 1


def three_buckets(shards: int = 1) -> MemoryLake:
    """Give the varied history, every third object in a bucket of another provider."""
    access, listed = varied_history()
    of_key = {key: place % 3 for place, key in enumerate(listed["key"].to_pylist())}
    tables = []
    for given in (access, listed):
        table, places = given, [of_key[key] for key in given["key"].to_pylist()]
        for name, values in (("provider", ("aws", "azure", "gcp")), ("bucket", ("data", "lake", "data"))):
            field = table.schema.field(name)
            column = pa.array([values[place] for place in places]).cast(field.type)
            table = table.set_column(table.schema.get_field_index(name), field, column)
        order = [("day", "ascending")] if given is access else []
        tables.append(table.sort_by([("provider", "ascending"), ("bucket", "ascending"), ("key", "ascending"), *order]))
    return MemoryLake(*tables, shards=shards)


def test_each_object_is_charged_by_its_own_buckets_prices(usage: UsageStates) -> None:
    lake = three_buckets()
    dataset = build_dataset(lake, shards=1, until=UNTIL)
    prices = {
        ("aws", "data"): prices_of("aws-us-east-1"),
        ("azure", "lake"): prices_of("azure-eastus-lrs"),
        ("gcp", "data"): prices_of("gcs-us-central1", "ARCHIVE"),
    }
    together = training.holdout_backtest(lake, dataset, shards=1, prices=prices)
    assert together is not None
    assert together.objects == dataset.objects
    assert together.book_names == ("aws-us-east-1", "azure-eastus-lrs", "gcs-us-central1")
    alone = [
        training.holdout_backtest(lake, dataset, shards=1, prices={bucket: each}) for bucket, each in prices.items()
    ]
    costs = [one.usage_usd(usage) for one in alone if one is not None]
    assert len(costs) == 3
    assert together.usage_usd(usage) == pytest.approx(sum(costs))
    each = [one.rivals_usd() for one in alone if one is not None]
    for name, usd in together.rivals_usd().items():
        assert usd == pytest.approx(sum(one[name] for one in each))
    codes = {name for part in together.parts for name in part.tariff.class_names}
    assert "COLDLINE" in codes
    assert "ARCHIVE" not in codes


def test_rules_are_left_out_when_a_bucket_allows_none_of_their_classes() -> None:
    lake = three_buckets()
    prices = {
        ("aws", "data"): prices_of("aws-us-east-1"),
        ("gcp", "data"): prices_of("gcs-us-central1", "NEARLINE", "COLDLINE", "ARCHIVE"),
    }
    window = training.holdout_backtest(lake, build_dataset(lake, shards=1, until=UNTIL), shards=1, prices=prices)
    assert window is not None
    assert set(window.rivals_usd()) == {"optimum", "stay", "persistence"}


@pytest.mark.parametrize("shards", [1, 4])
def test_objects_keep_their_reads_and_buckets_when_they_are_told_apart(shards: int) -> None:
    lake = three_buckets(shards)
    sample = sample_holdout(lake, build_dataset(lake, shards=shards, until=UNTIL), shards=shards)
    assert sample is not None
    whole = reads_by_key(sample)
    told = {}
    for code in range(len(sample.buckets)):
        some = sample.only(np.flatnonzero(sample.bucket_codes == code))
        assert set(some.bucket_codes) == {code}
        told.update(reads_by_key(some))
    assert told == whole
    listed = lake.read("inventory").select(["provider", "bucket", "key"]).to_pylist()
    bucket_of = {row["key"]: (row["provider"], row["bucket"]) for row in listed}
    found = [sample.buckets[code] for code in sample.bucket_codes]
    assert found == [bucket_of[key] for key in sample.trace.object_ids]


def reads_by_key(sample: HoldoutSample) -> dict[str, list[tuple[int, int]]]:
    trace = sample.trace
    found: dict[str, list[tuple[int, int]]] = {key: [] for key in trace.object_ids}
    for day in range(trace.days):
        for row, count in zip(*trace.on(day), strict=True):
            found[trace.object_ids[row]].append((day, int(count)))
    return found


def test_nothing_is_measured_when_no_bucket_with_prices_has_objects(lake: MemoryLake, dataset: Dataset) -> None:
    elsewhere = {("aws", "other"): prices_of("aws-us-east-1")}
    assert training.holdout_backtest(lake, dataset, shards=1, prices=elsewhere) is None
