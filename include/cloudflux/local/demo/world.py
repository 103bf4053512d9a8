"""A world of objects and their daily accesses: generated, seeded, with the traits that real traces show.

The traits: Zipf popularity, ageing (hot when new), a weekly rhythm, month-end jobs, bursts, and one-day crawls by an
agent of their own. A crawl is a real access: it is read, billed and logged as any other. Everything is vectorised; one
day is made at a time, so that memory grows with the objects and not with objects times days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from cloudflux.domain.tiers import STANDARD_CLASS, Provider

MIN_SIZE_BYTES: Final = 1024
DEFAULT_MAX_OBJECT_BYTES: Final = 1024 * 1024
DEFAULT_OBJECTS: Final = 6000
DEFAULT_DAYS: Final = 120
DEFAULT_SEED: Final = 7

MAX_READS_PER_DAY: Final = 60.0
"""Cap on one object's expected reads of a day, so that the head of Zipf's law does not fill the logs by itself."""

WARM_CLASS: Final = {Provider.AWS: "STANDARD_IA", Provider.AZURE: "Cool", Provider.GCP: "NEARLINE"}
"""Where the world puts what somebody has misplaced."""

DAILY_SCHEMA: Final = pl.Schema(
    {"object_id": pl.String, "day": pl.Date, "reads": pl.Int64, "size_bytes": pl.Int64, "created_day": pl.Date}
)
"""The columns of a daily trace: what ``--trace`` reads and what the generator makes."""


OBJECT_COLUMNS: Final = (
    "object_no",
    "object_id",
    "provider",
    "bucket",
    "key",
    "size_bytes",
    "created_day",
    "storage_class",
    "content_type",
    "kind",
)


@dataclass(frozen=True, slots=True)
class World:
    """Objects in three clouds and how often each was read on each day."""

    name: str
    """Part of bucket names: lower-case letters, digits and dashes."""
    seed: int
    first_day: date
    last_day: date
    objects: pl.DataFrame
    """One row per object, in the columns ``OBJECT_COLUMNS``.

    ``kind`` says how a generated object behaves and is null for a replayed one.
    """
    daily: pl.DataFrame
    """``DAILY_SCHEMA``: one row per object and day with at least one read."""
    crawls: pl.DataFrame
    """object_id, day: one of that day's reads was a crawler's."""
    invented_noise: bool = True
    """Whether the log writers may add HEAD requests of objects and reads of our own agent: not to a real trace."""
    left_out_objects: int = 0
    """Objects of the trace that are larger than the cap."""
    left_out_reads: int = 0
    max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES

    @property
    def days(self) -> int:
        """How many days the history spans."""
        return (self.last_day - self.first_day).days + 1

    @property
    def buckets(self) -> list[tuple[Provider, str]]:
        """All buckets that hold objects, sorted."""
        pairs = self.objects.select("provider", "bucket").unique().sort("provider", "bucket")
        return [(Provider(provider), bucket) for provider, bucket in pairs.iter_rows()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the objects below one prefix are born, sized and read."""

    prefix: str
    extension: str
    content_type: str
    event_type: str
    """The ingestion event's ``metadata.content_type``: video, log, document or image."""
    share: tuple[float, float, float]
    """Share of the cloud's objects, for AWS, Azure and GCP."""
    reads_per_day: float
    """Mean over the objects, when new."""
    zipf: float
    """Exponent of the popularity by rank."""
    tau_days: float
    """Ageing: how fast the first interest fades."""
    floor: float
    """Ageing: the share of the first interest that stays for ever."""
    weekend: float = 1.0
    """Factor on Saturdays and Sundays."""
    month_end: float = 0.0
    """Reads per day and object of last quarter's objects on a month's last day and the next one's first two."""
    daily_job_days: int = 0
    """For so many days after its birth a daily job reads the object once; for four weeks more a Monday job does."""
    burst_share: float = 0.0
    """Share of the objects that have one burst: some hundred reads that fade in three days."""
    median_bytes: int
    sigma: float
    born_before: float
    """Share of the objects that existed before the first day (the oldest of them 400 days)."""


BEHAVIOURS: Final = (
    Behaviour(
        prefix="video",
        extension="mp4",
        content_type="video/mp4",
        event_type="video",
        share=(0.35, 0.10, 0.15),
        reads_per_day=5.5,
        zipf=0.9,
        tau_days=9,
        floor=0.04,
        weekend=1.5,
        burst_share=0.03,
        median_bytes=330_000,
        sigma=0.5,
        born_before=0.45,
    ),
    Behaviour(
        prefix="images",
        extension="jpg",
        content_type="image/jpeg",
        event_type="image",
        share=(0.35, 0.10, 0.15),
        reads_per_day=3.5,
        zipf=1.0,
        tau_days=25,
        floor=0.25,
        weekend=1.3,
        burst_share=0.01,
        median_bytes=62_000,
        sigma=0.6,
        born_before=0.6,
    ),
    Behaviour(
        prefix="documents",
        extension="pdf",
        content_type="application/pdf",
        event_type="document",
        share=(0.15, 0.40, 0.10),
        reads_per_day=1.2,
        zipf=0.9,
        tau_days=14,
        floor=0.08,
        weekend=0.1,
        burst_share=0.004,
        median_bytes=112_000,
        sigma=0.7,
        born_before=0.6,
    ),
    Behaviour(
        prefix="reports",
        extension="xlsx",
        content_type="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        event_type="document",
        share=(0.05, 0.20, 0.05),
        reads_per_day=0.2,
        zipf=0.6,
        tau_days=10,
        floor=0.02,
        weekend=0.1,
        month_end=1.3,
        median_bytes=90_000,
        sigma=0.5,
        born_before=0.6,
    ),
    Behaviour(
        prefix="telemetry",
        extension="parquet",
        content_type="application/vnd.apache.parquet",
        event_type="log",
        share=(0.05, 0.10, 0.35),
        reads_per_day=0.1,
        zipf=0.4,
        tau_days=5,
        floor=0.01,
        weekend=0.8,
        daily_job_days=7,
        median_bytes=280_000,
        sigma=0.5,
        born_before=0.5,
    ),
    Behaviour(
        prefix="logs",
        extension="log.gz",
        content_type="application/gzip",
        event_type="log",
        share=(0.05, 0.10, 0.20),
        reads_per_day=0.3,
        zipf=0.3,
        tau_days=2,
        floor=0.004,
        burst_share=0.05,
        median_bytes=220_000,
        sigma=0.7,
        born_before=0.5,
    ),
)
"""What lives below each prefix. Sizes keep the mean near 210 KiB: the smallest that still makes some moves pay."""

_PROVIDERS: Final = (Provider.AWS, Provider.AZURE, Provider.GCP)
_OLDEST_DAYS: Final = 400
_BURST_FADE: Final = (1.0, 0.4, 0.1)
_CRAWL_AT: Final = (0.3, 0.62, 0.85)
"""Where in the history the one-day crawls fall, one per cloud."""
_CRAWLED_PREFIXES: Final = ("images", "documents")
"""What is public, and linked: a crawler does not find the rest."""
_AWS_MEDIA_PREFIXES: Final = ("video", "images")


def synthetic_world(
    *,
    last_day: date,
    objects: int = DEFAULT_OBJECTS,
    days: int = DEFAULT_DAYS,
    seed: int = DEFAULT_SEED,
    max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
) -> World:
    """Generate a world of ``objects`` objects, a third in each cloud, with ``days`` days of accesses to ``last_day``.

    The same arguments give the same world. Raises ``ValueError`` for fewer than 60 objects or 14 days: too few for
    the traits.
    """
    if objects < 60 or days < 14:
        raise ValueError(f"a world needs at least 60 objects and 14 days, not {objects} and {days}")
    rng = np.random.default_rng([seed, 0])
    name = _name(objects, days, seed, max_object_bytes)
    first_day = last_day - timedelta(days=days - 1)
    frame = _objects(
        name=name, count=objects, first_day=first_day, days=days, max_object_bytes=max_object_bytes, rng=rng
    )
    daily, crawls = _accesses(frame, first_day, days, seed)
    frame = _misplace(frame, daily, last_day, rng)
    return World(
        name=name,
        seed=seed,
        first_day=first_day,
        last_day=last_day,
        objects=frame,
        daily=daily,
        crawls=crawls,
        max_object_bytes=max_object_bytes,
    )


def kind_of_event(kind: str | None) -> str | None:
    """Tell the ingestion event's content type of a behaviour's objects, or None for a replayed object."""
    return next((behaviour.event_type for behaviour in BEHAVIOURS if behaviour.prefix == kind), None)


def _name(objects: int, days: int, seed: int, max_object_bytes: int) -> str:
    # Worlds made with other arguments get buckets of their own, so that none is taken for another on a standing stack.
    parts = [
        f"{letter}{value}"
        for letter, value, default in (
            ("o", objects, DEFAULT_OBJECTS),
            ("d", days, DEFAULT_DAYS),
            ("s", seed, DEFAULT_SEED),
            ("m", max_object_bytes, DEFAULT_MAX_OBJECT_BYTES),
        )
        if value != default
    ]
    return "-".join(["demo", *parts])


def _objects(
    *, name: str, count: int, first_day: date, days: int, max_object_bytes: int, rng: np.random.Generator
) -> pl.DataFrame:
    parts = []
    for cloud, provider in enumerate(_PROVIDERS):
        wanted = count // 3 + (cloud < count % 3)
        edges = np.round(np.cumsum([behaviour.share[cloud] for behaviour in BEHAVIOURS]) * wanted).astype(int)
        for behaviour, rows in zip(BEHAVIOURS, np.diff(edges, prepend=0), strict=True):
            if rows:
                parts.append(
                    _objects_below(
                        name=name,
                        provider=provider,
                        behaviour=behaviour,
                        rows=int(rows),
                        first_day=first_day,
                        days=days,
                        max_object_bytes=max_object_bytes,
                        rng=rng,
                    )
                )
    frame = pl.concat(parts).with_row_index("object_no").with_columns(pl.col("object_no").cast(pl.Int64))
    return frame.with_columns(object_id=pl.concat_str("bucket", pl.lit("/"), "key"))


def _objects_below(
    *,
    name: str,
    provider: Provider,
    behaviour: Behaviour,
    rows: int,
    first_day: date,
    days: int,
    max_object_bytes: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    born_before = rng.random(rows) < behaviour.born_before
    # The last two days get nothing new: a forecast needs a little to look at.
    born = np.where(born_before, -rng.integers(1, _OLDEST_DAYS + 1, rows), rng.integers(0, max(1, days - 2), rows))
    born.sort()  # numbers in keys grow with time, as real ones do
    size = np.clip(
        rng.lognormal(np.log(behaviour.median_bytes), behaviour.sigma, rows), MIN_SIZE_BYTES, max_object_bytes
    ).astype(np.int64)
    ranks = rng.permutation(rows) + 1.0
    weight = ranks**-behaviour.zipf
    base = behaviour.reads_per_day * rows * weight / weight.sum()
    burst_day = np.where(rng.random(rows) < behaviour.burst_share, rng.integers(0, days, rows), -9)
    part = "media" if provider == Provider.AWS and behaviour.prefix in _AWS_MEDIA_PREFIXES else "data"
    bucket = f"cloudflux-{name}-{part}" if provider == Provider.AWS else f"cloudflux-{name}-{provider.value}"
    frame = pl.DataFrame(
        {
            "number": np.arange(rows),
            "born": born.astype(np.int32),
            "size_bytes": size,
            "base_reads": base,
            "burst_day": burst_day.astype(np.int32),
            "burst_reads": rng.uniform(40, 160, rows),
        }
    ).with_columns(created_day=pl.lit(first_day) + pl.duration(days=pl.col("born")))
    # Every 37th name has what trips careless parsers: blanks, commas, letters beyond ASCII.
    plain = pl.concat_str(pl.lit(f"{behaviour.prefix}-"), pl.col("number").cast(pl.String).str.zfill(6))
    odd = pl.concat_str(pl.lit("Übersicht, Teil "), pl.col("number").cast(pl.String), pl.lit(" (50+)"))
    return frame.select(
        provider=pl.lit(provider.value),
        bucket=pl.lit(bucket),
        key=pl.concat_str(
            pl.lit(behaviour.prefix + "/"),
            pl.col("created_day").dt.strftime("%Y/%m/"),
            pl.when(pl.col("number") % 37 == 36).then(odd).otherwise(plain),
            pl.lit("." + behaviour.extension),
        ),
        size_bytes="size_bytes",
        created_day="created_day",
        storage_class=pl.lit(STANDARD_CLASS[provider]),
        content_type=pl.lit(behaviour.content_type),
        kind=pl.lit(behaviour.prefix),
        born="born",
        base_reads="base_reads",
        burst_day="burst_day",
        burst_reads="burst_reads",
    )


def _accesses(frame: pl.DataFrame, first_day: date, days: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the reads of every day. Gives the daily table and the crawls."""
    columns = {behaviour.prefix: index for index, behaviour in enumerate(BEHAVIOURS)}
    which = frame["kind"].replace_strict(columns, return_dtype=pl.Int64).to_numpy()

    def trait(name: str) -> npt.NDArray[np.float64]:
        values = np.array([getattr(behaviour, name) for behaviour in BEHAVIOURS], dtype=np.float64)
        return np.take(values, which)

    tau, floor, weekend = trait("tau_days"), trait("floor"), trait("weekend")
    month_end, job_days = trait("month_end"), trait("daily_job_days")
    born, base = frame["born"].to_numpy(), frame["base_reads"].to_numpy()
    burst_day, burst_reads = frame["burst_day"].to_numpy(), frame["burst_reads"].to_numpy()
    cloud = (
        frame["provider"]
        .replace_strict({provider.value: index for index, provider in enumerate(_PROVIDERS)}, return_dtype=pl.Int64)
        .to_numpy()
    )
    public = frame["kind"].is_in(_CRAWLED_PREFIXES).to_numpy()
    crawl_days = [round(share * (days - 1)) for share in _CRAWL_AT]
    numbers, day_numbers, counts, crawl_numbers, crawl_day_numbers = [], [], [], [], []
    for index in range(days):
        day = first_day + timedelta(days=index)
        rng = np.random.default_rng([seed, 1, index])
        age = index - born
        alive = age >= 0
        fresh = np.where(alive, age, 0)
        expected = base * (floor + (1 - floor) * np.exp(-fresh / tau))
        if day.weekday() >= 5:
            expected = expected * weekend
        if (day + timedelta(days=1)).day == 1 or day.day <= 2:
            expected = expected + month_end * np.where(fresh <= 95, 1.0, 0.01)
        since_burst = index - burst_day
        for offset, share in enumerate(_BURST_FADE):
            expected = expected + np.where(since_burst == offset, burst_reads * share, 0.0)
        reads = rng.poisson(np.minimum(expected, np.maximum(MAX_READS_PER_DAY, burst_reads)))
        reads += (fresh < job_days).astype(np.int64)
        if day.weekday() == 0:
            reads += ((fresh >= job_days) & (fresh < job_days + 28) & (job_days > 0)).astype(np.int64)
        crawled = np.zeros(len(born), dtype=bool)
        for crawled_cloud, crawl_day in enumerate(crawl_days):
            if index == crawl_day:
                crawled |= (cloud == crawled_cloud) & public
        reads = np.where(alive, reads + crawled, 0)
        seen = np.flatnonzero(reads)
        numbers.append(seen)
        day_numbers.append(np.full(len(seen), index, dtype=np.int32))
        counts.append(reads[seen])
        crawl = np.flatnonzero(crawled & alive)
        crawl_numbers.append(crawl)
        crawl_day_numbers.append(np.full(len(crawl), index, dtype=np.int32))
    lookup = frame.select("object_no", "object_id", "size_bytes", "created_day")
    daily = _dated(numbers, day_numbers, first_day, lookup).with_columns(
        reads=pl.Series(np.concatenate(counts).astype(np.int64))
    )
    crawls = _dated(crawl_numbers, crawl_day_numbers, first_day, lookup)
    return daily.select(DAILY_SCHEMA.names()), crawls.select("object_id", "day")


def _dated(
    numbers: list[npt.NDArray[np.intp]], day_numbers: list[npt.NDArray[np.int32]], first_day: date, lookup: pl.DataFrame
) -> pl.DataFrame:
    rows = pl.DataFrame(
        {"object_no": np.concatenate(numbers).astype(np.int64), "index": np.concatenate(day_numbers)}
    ).with_columns(day=pl.lit(first_day) + pl.duration(days=pl.col("index")))
    return rows.join(lookup, on="object_no", how="left", maintain_order="left")


def _misplace(frame: pl.DataFrame, daily: pl.DataFrame, last_day: date, rng: np.random.Generator) -> pl.DataFrame:
    """Put some hot objects into the warm class, where reads cost most, and some dead ones where they belong already."""
    month = daily.filter(pl.col("day") > last_day - timedelta(days=30)).group_by("object_id").agg(pl.col("reads").sum())
    counted = frame.join(month, on="object_id", how="left", maintain_order="left").with_columns(
        pl.col("reads").fill_null(0), chance=pl.Series(rng.random(frame.height))
    )
    warm = pl.col("provider").replace_strict({provider.value: name for provider, name in WARM_CLASS.items()})
    hot_misplaced = (pl.col("reads") >= 20) & (pl.col("chance") < 0.15)
    cold_in_place = (pl.col("reads") == 0) & (pl.col("chance") < 0.05)
    return counted.with_columns(
        storage_class=pl.when(hot_misplaced | cold_in_place).then(warm).otherwise("storage_class")
    ).select(OBJECT_COLUMNS)
