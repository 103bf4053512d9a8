"""What is known of an object's use before a day, as numbers: one row for each object, one column for each feature.

Everything is computed for one shard at a time from column arrays (object, day, reads, writes), ordered by day. What
happens on or after the cutoff is cut off first, by position, so that no feature can see it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cloudflux.domain.forecasts import FORECAST_HORIZONS
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux_ml import usage

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

HORIZONS: Final = FORECAST_HORIZONS
"""Days from the cutoff over which reads are learnt. What lies between and beyond them is derived."""
WINDOWS_DAYS: Final = (1, 7, 14, 30, 60, 90, 180)
"""Lengths of the windows before the cutoff in which reads are counted."""
HALF_LIVES_DAYS: Final = (4, 14, 45)
WEEKDAYS_AHEAD: Final = tuple(f"weekday_share_ahead_{day}" for day in range(7))
"""The object's weekday profile, turned so that it begins with the first day of the forecast."""
_LEAST_LIFE_DAYS: Final = 7  # a first week counts in full, or one read on the first day would be thirty a month
_PROFILE_PRIOR_READS: Final = 7.0  # the siblings' weekday profile counts as much as this many reads of the object's own
_LEVEL_PRIOR_READS: Final = 100.0
_RHYTHM_DAYS: Final = 180  # weekday and month-end shares look back this far: six month ends
_EPOCH: Final = np.datetime64("1970-01-01", "D")
_KEY: Final = ("provider", "bucket", "key")
_SEEDS: Final = (secrets.randbits(63), secrets.randbits(63))
"""Of the hashes by which keys are found: whoever chooses keys must not know them. No result hangs on them."""

FEATURE_NAMES: Final = (
    *(f"reads_{days}_days" for days in WINDOWS_DAYS),
    # reads per 30 days, each day counting half as much for every 4, 14 and 45 days that have passed; for the days that
    # the object lived, so that a new one is not taken for a quiet one
    *(f"rate_halved_{days}_days" for days in HALF_LIVES_DAYS),
    "recency_days",  # days since the last read; the look-back when there was none
    "never_read",
    "days_active_30",
    "days_active_180",
    "mean_gap_days",  # between days with reads
    "recency_in_gaps",  # days since the last read, divided by the mean gap
    "trend",  # log((reads of the last 30 days + 1) / (reads of the 30 days before + 1))
    "trend_week",  # the same of the last 7 days, as a rate per 30 days, and the last 30
    "busiest_day_share",  # share of the last 30 days' reads that fell on the busiest of those days
    "reads_last_year",  # in the 30 days that follow the cutoff's day a year (364 days: whole weeks) earlier
    "weekend_share",
    "busiest_weekday_share",
    "month_end_share",  # share of reads on the last two days and the first day of months
    "writes_30_days",
    "days_since_write",
    "age_days",
    "log2_size_bytes",
    "provider",
    "content_family",
    "sibling_reads_30_days",  # mean over the other objects under the same first path component, in this shard
    "content_sibling_reads_30_days",  # mean over the other objects of the bucket with the same content family
    "bucket_trend",  # log((reads of the bucket in the last 14 days + 100) / (in the 14 days before + 100))
    *WEEKDAYS_AHEAD,  # share of reads on the weekday of the cutoff's day and of the six that follow; they sum to 1
)
"""Column order of every feature matrix."""

TREE_FEATURES: Final = len(FEATURE_NAMES) - len(("bucket_trend", *WEEKDAYS_AHEAD))
"""The trees look at these first features. The bucket's trend is one figure for all of a day's rows: trees would know
the day by it, and what followed. It and the weekday profile are put to use where they belong."""

PROVIDER_CODES: Final = MappingProxyType({Provider.AWS: 0, Provider.AZURE: 1, Provider.GCP: 2})
CONTENT_FAMILIES: Final = ("video", "image", "audio", "document", "log", "archive", "other")
"""Content types are reduced to families; the code is the place in this tuple, unknown is NaN."""

_FAMILY_OF: Final = (  # first match wins; media types (RFC 6838) and the words of the ingestion topic
    (r"^video", "video"),
    (r"^image", "image"),
    (r"^audio", "audio"),
    (r"(^|[/.+-])log|ndjson", "log"),
    (r"^document$|^text/|pdf|msword|officedocument|opendocument|html|rtf", "document"),
    (r"zip|tar|compressed|zstd|7z|rar", "archive"),
)


@dataclass(frozen=True, slots=True)
class Features:
    """The objects that existed at a cutoff, and their features."""

    cutoff: date
    rows: Integers
    """Place of each object in the history's ``objects``. Shape (n,)."""
    values: Floats
    """Shape (n, len(FEATURE_NAMES)); NaN where the history is too short or the value unknown."""

    def column(self, name: str) -> Floats:
        """Give one feature. Shape (n,). Raises ``ValueError`` for a name that is none."""
        column: Floats = self.values[:, FEATURE_NAMES.index(name)]
        return column


@dataclass(frozen=True, slots=True)
class ReadsByDay:
    """A shard's reads by day, as ``usage.DailyReads``: days are numbered from the history's first, objects as in it."""

    created: Integers
    """Day on which each object was first seen, 0 for all that is older than the history. Shape (objects,)."""
    starts: Integers
    """Where each day begins in ``rows`` and ``reads``, shape (days + 1,)."""
    rows: Integers
    reads: Floats

    def on(self, day: int) -> tuple[NDArray[np.intp], Floats]:
        """Give the objects read on a day, each once, and their reads. Raises ``IndexError`` for a day not held."""
        here = slice(self.starts[day], self.starts[day + 1])
        return self.rows[here], self.reads[here]


class AccessHistory:
    """One shard's daily access, as arrays ordered by day, and the objects that it belongs to."""

    def __init__(
        self,
        daily_access: pa.Table,
        inventory: pa.Table | None = None,
        *,
        history_start: date | None = None,
        lookback_days: int = 400,
        content_types: pa.Table | None = None,
    ) -> None:
        """Order the rows and number the objects.

        daily_access : columns of ``DAILY_ACCESS``. Reads by excluded agents are not in ``reads`` and do not count.
        inventory : columns of ``INVENTORY``, one row per object. When given, it alone says which objects there are
            (those deleted since are left out), with size and content type; without it they are the objects of the logs.
        history_start : first day that the logs cover in the whole lake; the shard's first day when it is not given.
            A window that begins before it is unknown (NaN), not zero.
        lookback_days : how far back a feature may look; recency and age end there.
        content_types : ``uri`` and ``content_type`` from the ingestion events, for objects whose inventory has none.
        """
        self.lookback_days = lookback_days
        rows = pl.DataFrame(pl.from_arrow(daily_access)).select(
            *_KEY, "day", "reads", "writes", *({"bytes_read"} & set(daily_access.column_names))
        )
        self.objects = _objects(rows, inventory, content_types)
        rows = _numbered(rows, self.objects)
        self._object: Integers = rows["object"].to_numpy().astype(np.int64)
        self._day: Integers = rows["day"].to_numpy().astype(np.int64)
        self._reads: Floats = rows["reads"].to_numpy().astype(np.float64)
        self._writes: Floats = rows["writes"].to_numpy().astype(np.float64)
        self._bytes_read = rows["bytes_read"].to_numpy() if "bytes_read" in rows.columns else None
        del rows
        first_logged = _first(self._object, self._day, len(self.objects))
        self._modified: Floats = self.objects["last_modified_day"].cast(pl.Float64).fill_null(np.inf).to_numpy()
        self._first_seen: Floats = np.minimum(first_logged, self._modified)
        start = _day_number(history_start) if history_start else (int(self._day[0]) if len(self._day) else 0)
        self.history_start = start

    def features(self, cutoff: date) -> Features:
        """Give the features of every object that was seen before ``cutoff``, from the days before it only."""
        end = _day_number(cutoff)
        exists = np.flatnonzero(self._first_seen < end)
        return Features(cutoff, exists.astype(np.int64), self._matrix(end, exists))

    def features_of_all(self, cutoff: date) -> Features:
        """Give the features of all objects of the inventory, also of those that were first seen on or after ``cutoff``.

        For scoring, where an object that was uploaded this morning needs a forecast too: its age is 0.
        """
        everything = np.arange(len(self.objects), dtype=np.int64)
        return Features(cutoff, everything, self._matrix(_day_number(cutoff), everything))

    def reads_between(self, first: date, end: date, rows: Integers) -> Floats:
        """Count each object's reads from ``first`` to the day before ``end``. Shape of ``rows``."""
        counted: Floats = self._sum(self._reads, _day_number(first), _day_number(end))[rows]
        return counted

    def transferred(self, end: date) -> tuple[Floats, Floats]:
        """Give the bytes that were read of each object before ``end``, and the reads. Both of shape (objects,).

        Raises ``ValueError`` when the daily access came without ``bytes_read``.
        """
        if self._bytes_read is None:
            raise ValueError("daily_access has no column bytes_read")
        before = slice(0, int(np.searchsorted(self._day, _day_number(end))))
        count = len(self.objects)
        transferred = _bincount(self._object[before], self._bytes_read[before], count)
        return transferred, _bincount(self._object[before], self._reads[before], count)

    def growth(self, cutoff: date, days: int, rows: Integers) -> Floats:
        """Divide the reads of each object's bucket in the days from ``cutoff`` on by those of as many days before.

        All objects count, also those that came on ``cutoff`` or later: it is the level of the bucket's use, not the
        ageing of what lay in it. A hundred reads are added to both, so that little use makes no great growth. For
        labels only. Shape of ``rows``.
        """
        start = _day_number(cutoff)
        return self._bucket_growth(start, start + days, days)[rows]

    def logged_before(self, end: date) -> NDArray[np.bool_]:
        """Tell which objects the logs name before ``end``. Shape (objects,)."""
        logged = np.zeros(len(self.objects), dtype=np.bool_)
        logged[self._object[: np.searchsorted(self._day, _day_number(end))]] = True
        return logged

    def daily_reads(self, end: date, *, with_crawls: bool = False) -> ReadsByDay:
        """Give the reads of each day before ``end``, numbered from ``history_start``.

        with_crawls : leave in the days on which somebody read a whole bucket (``usage.CrawlWatch``). They are what a
            backtest charges, but nothing is learnt of them, and ``usage_features`` does not see them either.
        """
        first, stop = self.history_start, _day_number(end)
        known = self._read_between(first, stop) if with_crawls else self._noticed(first, stop)
        days = np.arange(first, max(first, stop) + 1)
        return ReadsByDay(
            created=self._created(first),
            starts=np.searchsorted(self._day[known], days).astype(np.int64),
            rows=self._object[known],
            reads=self._reads[known],
        )

    def usage_features(self, cutoff: date) -> Floats:
        """Give the usage features of all objects, see ``usage.USAGE_FEATURES``, from the days before ``cutoff`` only.

        They equal those that ``usage.UsageTracker`` gives after the same days. An object is as old as the logs can
        tell at most, so that one that was never read is not taken for idle before they begin; one that was first seen
        on ``cutoff`` or later has age 0. Shape (objects, 5).
        """
        end, count = _day_number(cutoff), len(self.objects)
        start = max(end - self.lookback_days, self.history_start)
        known = self._noticed(start, end)
        owner, day, reads = self._object[known], self._day[known], self._reads[known]
        last = np.full(count, -np.inf)
        last[owner] = day  # days ascend, and the last assignment to a place stays
        return usage.usage_matrix(
            last_read_days=end - last,
            age_days=np.maximum(end - start - self._created(start), 0),
            decayed_reads=[
                _bincount(owner, reads * np.exp2(-np.arange(max(0, end - start)) / half_life)[end - 1 - day], count)
                for half_life in usage.HALF_LIVES_DAYS
            ],
        )

    @property
    def first_day(self) -> date:
        """The first day that the logs cover."""
        return date(1970, 1, 1) + timedelta(days=self.history_start)

    def _created(self, start: int) -> Integers:
        """Number each object's first day from ``start``; what no log names and no inventory dates has not come yet."""
        far = float(np.iinfo(np.int32).max)
        return np.clip(self._first_seen - start, 0.0, far).astype(np.int64)

    def _read_between(self, first: int, end: int) -> Integers:
        """Give the rows with reads of some days, in order."""
        begin, stop = np.searchsorted(self._day, (first, max(first, end)))
        rows: Integers = begin + np.flatnonzero(self._reads[begin:stop] > 0)
        return rows

    def _noticed(self, first: int, end: int) -> Integers:
        """Give the rows with reads of some days, in order, without those of a crawl over the row's bucket."""
        known = self._read_between(first, end)
        if not len(known):
            return known
        bucket = self.objects["bucket_code"].to_numpy()
        day = self._day[known] - first
        days, buckets = end - first, int(bucket.max()) + 1
        read = np.bincount(bucket[self._object[known]] * days + day, minlength=buckets * days).reshape(buckets, days)
        came = np.minimum(self._created(first), days)
        there = np.bincount(bucket * (days + 1) + came, minlength=buckets * (days + 1)).reshape(buckets, days + 1)
        there = np.cumsum(there, axis=1)[:, :days]
        crawled = usage.crawl_days(read, there)
        if not crawled.any():
            return known
        kept: Integers = known[~crawled[bucket[self._object[known]], day]]
        return kept

    def _sum(self, values: Floats, first: int, end: int) -> Floats:
        window = slice(*np.searchsorted(self._day, (first, end)))
        return _bincount(self._object[window], values[window], len(self.objects))

    def _bucket_growth(self, first: int, end: int, days: int) -> Floats:
        bucket = self.objects["bucket_code"].to_numpy()
        buckets = int(bucket.max(initial=-1)) + 1
        if first - days < self.history_start:
            return np.ones(len(bucket))
        now, before = (
            _bincount(bucket, self._sum(self._reads, begin, stop), buckets)
            for begin, stop in ((first, end), (first - days, first))
        )
        grown: Floats = ((now + _LEVEL_PRIOR_READS) / (before + _LEVEL_PRIOR_READS))[bucket]
        return grown

    def _matrix(self, end: int, exists: Integers) -> Floats:
        count = len(self.objects)
        start = max(end - self.lookback_days, self.history_start)
        known = slice(*np.searchsorted(self._day, (start, end)))  # nothing on or after the cutoff passes this line
        owner, day, reads, writes = self._object[known], self._day[known], self._reads[known], self._writes[known]
        columns: dict[str, Floats] = {}

        def summed(values: Floats, days: int) -> Floats:
            if end - days < self.history_start:
                return np.full(count, np.nan)
            first = np.searchsorted(day, end - days)
            return _bincount(owner[first:], values[first:], count)

        for days in WINDOWS_DAYS:
            columns[f"reads_{days}_days"] = summed(reads, days)
        age = self._age(end, _first(owner, day, count))
        lived = np.clip(age, _LEAST_LIFE_DAYS, max(_LEAST_LIFE_DAYS, end - start))
        for days in HALF_LIVES_DAYS:
            decay = 2.0 ** (-1.0 / days)
            weight = decay ** np.arange(max(0, end - start))  # of a day, by how long it is past
            decayed = _bincount(owner, reads * weight[end - 1 - day], count)
            columns[f"rate_halved_{days}_days"] = 30.0 * decayed * (1.0 - decay) / (1.0 - decay**lived)

        was_read = reads > 0
        reader, read_day = owner[was_read], day[was_read]
        last = np.full(count, -np.inf)
        last[reader] = read_day  # days ascend, and the last assignment to a place stays
        first_read = _first(reader, read_day, count)
        read_days = np.bincount(reader, minlength=count).astype(np.float64)
        columns["recency_days"] = np.minimum(end - last, self.lookback_days)
        columns["never_read"] = np.isneginf(last).astype(np.float64)
        active = was_read.astype(np.float64)
        columns["days_active_30"] = summed(active, 30)
        columns["days_active_180"] = summed(active, 180)
        gaps = np.full(count, np.nan)
        np.divide(last - first_read, read_days - 1, out=gaps, where=read_days > 1)
        columns["mean_gap_days"] = gaps
        columns["recency_in_gaps"] = columns["recency_days"] / gaps
        reads_30 = columns["reads_30_days"]
        columns["trend"] = np.log((reads_30 + 1) / (summed(reads, 60) - reads_30 + 1))
        columns["trend_week"] = np.log((columns["reads_7_days"] * (30.0 / 7.0) + 1) / (reads_30 + 1))
        busiest = np.zeros(count)
        month = int(np.searchsorted(day, end - 30))
        np.maximum.at(busiest, owner[month:], reads[month:])
        columns["busiest_day_share"] = _share(busiest, reads_30)
        columns["reads_last_year"] = self._last_year(end - 364)

        rhythm = slice(int(np.searchsorted(day, end - _RHYTHM_DAYS)), None)
        columns |= self._rhythm(end, owner[rhythm], day[rhythm], reads[rhythm])

        columns["writes_30_days"] = summed(writes, 30)
        was_written = writes > 0
        last_write = np.full(count, -np.inf)
        last_write[owner[was_written]] = day[was_written]
        columns["days_since_write"] = np.minimum(end - last_write, self.lookback_days)
        columns["age_days"] = age
        columns |= self._kinds(reads_30, exists)
        columns["bucket_trend"] = np.log(self._bucket_growth(end - 14, end, 14))
        return _matrix_of(columns, exists)

    def _last_year(self, year: int) -> Floats:
        """Count the reads of the 30 days from ``year`` on; NaN where the history or the look-back begins later."""
        if year < self.history_start or self.lookback_days < 364:
            return np.full(len(self.objects), np.nan)
        return self._sum(self._reads, year, year + 30)

    def _kinds(self, reads_30: Floats, exists: Integers) -> dict[str, Floats]:
        prefix, content = (self.objects[name].to_numpy() for name in ("prefix_code", "content_code"))
        family = self.objects["family_code"].to_numpy()
        of_content = _sibling_mean(content, reads_30, exists)
        return {
            "log2_size_bytes": np.log2(np.maximum(self.objects["size_bytes"].cast(pl.Float64).to_numpy(), 1.0)),
            "provider": self.objects["provider_code"].to_numpy(),
            "content_family": family,
            "sibling_reads_30_days": _sibling_mean(prefix, reads_30, exists),
            "content_sibling_reads_30_days": np.where(np.isfinite(family), of_content, np.nan),
        }

    def _rhythm(self, end: int, owner: Integers, day: Integers, reads: Floats) -> dict[str, Floats]:
        count = len(self.objects)
        weekday = (day + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        by_weekday = _bincount(owner * 7 + weekday, reads, count * 7).reshape(count, 7)
        total = by_weekday.sum(axis=1)
        prefix = self.objects["prefix_code"].to_numpy()
        profile = _weekday_profile(by_weekday, prefix, int(prefix.max(initial=-1)) + 1)
        return {
            "weekend_share": _share(by_weekday[:, 5:].sum(axis=1), total),
            "busiest_weekday_share": _share(by_weekday.max(axis=1, initial=0.0), total),
            "month_end_share": _share(_bincount(owner, reads * _near_month_end(day), count), total),
            **{name: profile[:, (end + ahead + 3) % 7] for ahead, name in enumerate(WEEKDAYS_AHEAD)},
        }

    def _age(self, end: int, first_logged: Floats) -> Floats:
        first = np.minimum(first_logged, np.where(self._modified < end, self._modified, np.inf))
        # seen before the look-back only: as old as the look-back can tell
        first = np.where(np.isposinf(first) & (self._first_seen < end), -np.inf, first)
        age: Floats = np.clip(end - first, 0, self.lookback_days)
        return age


def _matrix_of(columns: dict[str, Floats], rows: Integers) -> Floats:
    """Put rows of ``FEATURE_NAMES`` side by side, in order and each once; the columns are used up."""
    values = np.empty((len(rows), len(FEATURE_NAMES)))
    for place, name in enumerate(FEATURE_NAMES):
        column = columns.pop(name)  # one column less in memory for each that is copied
        values[:, place] = column if len(rows) == len(column) else column[rows]
    return values


def content_family_codes(content_types: Sequence[str | None] | pl.Series) -> Floats:
    """Reduce media types (or the ingestion topic's words) to the codes of ``CONTENT_FAMILIES``; NaN where unknown."""
    types = pl.Series("content_type", content_types, dtype=pl.String)
    return pl.DataFrame([types]).select(_family_code("content_type"))["family_code"].to_numpy()


def _family_code(column: str) -> pl.Expr:
    text = pl.col(column).str.to_lowercase()
    code: Any = pl.when(text.is_null() | (text == "") | (text == "application/octet-stream")).then(float("nan"))
    for pattern, family in _FAMILY_OF:
        code = code.when(text.str.contains(pattern)).then(float(CONTENT_FAMILIES.index(family)))
    other: pl.Expr = code.otherwise(float(CONTENT_FAMILIES.index("other")))
    return other.cast(pl.Float64).alias("family_code")


def _objects(rows: pl.DataFrame, inventory: pa.Table | None, content_types: pa.Table | None) -> pl.DataFrame:
    if inventory is None:
        objects = rows.select(*_KEY).with_columns(
            pl.lit(None, dtype=pl.Int64).alias("size_bytes"),
            pl.lit(None, dtype=pl.Int32).alias("last_modified_day"),
            pl.lit(None, dtype=pl.String).alias("content_type"),
        )
    else:
        objects = pl.DataFrame(pl.from_arrow(inventory)).select(
            *_KEY,
            "size_bytes",
            pl.col("last_modified_at").dt.date().cast(pl.Int32).alias("last_modified_day"),
            pl.col("content_type").cast(pl.String),
        )
    # Sorted, because the order of the rows decides where a seeded sample falls; the newest version of a key is kept.
    if not _strictly_ascending(objects):
        newest_first = [False, False, False, True, True]
        objects = objects.sort(*_KEY, "last_modified_day", "size_bytes", descending=newest_first, nulls_last=True)
        objects = objects.unique(subset=list(_KEY), keep="first", maintain_order=True)
    if content_types is not None and len(content_types):
        known = _content_by_object(content_types)
        objects = (
            objects.join(known, on=list(_KEY), how="left", maintain_order="left")
            .with_columns(pl.coalesce("content_type", "event_content_type").alias("content_type"))
            .drop("event_content_type")
        )
    families = objects.select(pl.col("content_type").unique()).with_columns(_family_code("content_type"))
    return (
        objects.join(families, on="content_type", how="left", nulls_equal=True, maintain_order="left")
        .with_columns(
            pl.col("provider").replace_strict(dict(PROVIDER_CODES), return_dtype=pl.Float64).alias("provider_code"),
            pl.col("key").str.extract(r"^([^/]*)/", 1).fill_null("").alias("prefix"),
        )
        .with_columns(
            (pl.struct("provider", "bucket", "prefix").rank("dense") - 1).cast(pl.Int64).alias("prefix_code"),
            (pl.struct("provider", "bucket", "family_code").rank("dense") - 1).cast(pl.Int64).alias("content_code"),
            (pl.struct("provider", "bucket").rank("dense") - 1).cast(pl.Int64).alias("bucket_code"),
        )
    )


def _strictly_ascending(objects: pl.DataFrame) -> bool:
    """Tell whether each key comes after the one before, as in the lake's partitions: nothing is there twice."""
    provider, bucket, key = (pl.col(name) for name in _KEY)
    after = (provider > provider.shift()) | (
        (provider == provider.shift())
        & ((bucket > bucket.shift()) | ((bucket == bucket.shift()) & (key > key.shift())))
    )
    return bool(objects.select(after.slice(1).all()).item())


def _numbered(rows: pl.DataFrame, objects: pl.DataFrame) -> pl.DataFrame:
    """Give the rows of known objects with each one's number, and the day as one, ordered by day and object."""
    key = list(_KEY)
    bucket = objects.select("provider", "bucket").unique()
    if len(bucket) == 1:
        rows = rows.filter(pl.col("provider") == bucket["provider"][0], pl.col("bucket") == bucket["bucket"][0])
        key = ["key"]
    number = _places(rows.select(key), objects.select(key))
    rows = rows.drop(*_KEY).with_columns(pl.Series("object", number), pl.col("day").cast(pl.Int32))
    if bool((number < 0).any()):
        rows = rows.filter(pl.col("object") >= 0)
    day, owner = pl.col("day"), pl.col("object")
    ordered = (day > day.shift()) | ((day == day.shift()) & (owner >= owner.shift()))
    return rows if rows.select(ordered.slice(1).all()).item() else rows.sort("day", "object")


def _places(wanted: pl.DataFrame, known: pl.DataFrame) -> Integers:
    """Give the place in ``known``, whose rows differ, of each row of ``wanted``, both of texts; -1 where it has none.

    Looking up 64-bit hashes takes a quarter of the time of joining texts. A second hash confirms each that is found:
    two texts that differ agree in both once in 2**128.
    """
    index = pd.Index(_hashes(known, _SEEDS[0]))
    if not index.is_unique:  # two texts with one hash: happens to nobody, but would be wrong
        numbers = known.with_row_index("place")
        joined = wanted.join(numbers, on=known.columns, how="left", maintain_order="left")
        return joined["place"].cast(pl.Int64).fill_null(-1).to_numpy()
    places = index.get_indexer(pd.Index(_hashes(wanted, _SEEDS[0]))).astype(np.int64)
    if not len(known):
        return places
    confirmed = _hashes(known, _SEEDS[1])[places] == _hashes(wanted, _SEEDS[1])
    return np.where(confirmed, places, -1)


def _hashes(texts: pl.DataFrame, seed: int) -> NDArray[np.uint64]:
    total = np.zeros(len(texts), dtype=np.uint64)
    for name in texts.columns:
        total = total * np.uint64(0x9E3779B97F4A7C15) + texts[name].hash(seed=seed).to_numpy()
    return total


def _content_by_object(content_types: pa.Table) -> pl.DataFrame:
    events = pl.DataFrame(pl.from_arrow(content_types)).select("uri", "content_type").unique("uri", keep="last")
    refs = [_ref_or_none(uri) for uri in events["uri"]]  # as many as were uploaded, not as many as there are objects
    return pl.DataFrame(
        {
            "provider": [None if ref is None else str(ref.provider) for ref in refs],
            "bucket": [None if ref is None else ref.bucket for ref in refs],
            "key": [None if ref is None else ref.key for ref in refs],
            "event_content_type": events["content_type"],
        },
        schema={"provider": pl.String, "bucket": pl.String, "key": pl.String, "event_content_type": pl.String},
    ).drop_nulls()


def _ref_or_none(uri: str) -> ObjectRef | None:
    try:
        return ObjectRef.from_uri(uri)
    except ValueError:  # an ingestion event may name a file that is in none of our clouds
        return None


def _day_number(day: date) -> int:
    return int((np.datetime64(day, "D") - _EPOCH).astype(np.int64))


def _first(owner: Integers, day: Integers, count: int) -> Floats:
    first = np.full(count, np.inf)
    first[owner[::-1]] = day[::-1]  # days ascend, and the last assignment to a place stays
    return first


def _bincount(place: Integers, values: Floats, count: int) -> Floats:
    return np.bincount(place, weights=values, minlength=count).astype(np.float64, copy=False)


def _sibling_mean(group: Integers, reads: Floats, exists: Integers) -> Floats:
    """Give the mean over the other objects of each object's group. Shape of ``reads``; NaN where there are none."""
    groups = int(group.max(initial=-1)) + 1
    members = np.bincount(group[exists], minlength=groups)[group]
    others = _bincount(group[exists], reads[exists], groups)[group] - reads
    mean = np.full(len(reads), np.nan)
    np.divide(others, members - 1, out=mean, where=members > 1)
    return mean


def _weekday_profile(by_weekday: Floats, group: Integers, groups: int) -> Floats:
    """Give the share of each object's reads on each weekday, from Monday. Shape (n, 7); rows sum to 1.

    Few reads say little: the siblings' profile counts as seven reads of the object's own, and seven reads spread
    evenly over the week count among the siblings'.
    """
    of_group = np.column_stack([_bincount(group, by_weekday[:, place], groups) for place in range(7)])
    of_group = (of_group + 1.0) / (of_group.sum(axis=1, keepdims=True) + 7.0)
    total = by_weekday.sum(axis=1, keepdims=True) + _PROFILE_PRIOR_READS
    profile: Floats = (by_weekday + _PROFILE_PRIOR_READS * of_group[group]) / total
    return profile


def _share(part: Floats, total: Floats) -> Floats:
    share = np.full(len(total), np.nan)
    np.divide(part, total, out=share, where=total > 0)
    return share


def _near_month_end(day: Integers) -> NDArray[np.bool_]:
    if not len(day):
        return np.empty(0, dtype=np.bool_)
    first = int(day.min())
    dates = _EPOCH + np.arange(first, int(day.max()) + 1).astype("timedelta64[D]")  # few days, on many rows
    month = dates.astype("datetime64[M]")
    day_of_month = (dates - month.astype("datetime64[D]")).astype(np.int64)  # 0 is the first
    days_left = ((month + 1).astype("datetime64[D]") - dates).astype(np.int64)  # 1 is the last
    near: NDArray[np.bool_] = ((day_of_month == 0) | (days_left <= 2))[day - first]
    return near
