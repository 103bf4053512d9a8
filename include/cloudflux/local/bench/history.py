"""A bucket to measure with: inventory and five months of daily access, made of a seed and published shard by shard.

Most objects are hardly ever read, few are read most of the time; new ones are read less and less, weekends are quiet,
and some objects are read a lot for a few days.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY

BUCKET: Final = "media-archive"
PRICE_BOOK: Final = "aws-us-east-1"
DAYS: Final = 150
DAY: Final = date(2026, 6, 1)
"""The first day of the horizon: the inventory's, and the day after the newest daily access."""
FIRST_DAY: Final = DAY - timedelta(days=DAYS)
_CHUNK_OBJECTS: Final = 25_000  # objects times days of float64: 30 MB
_RATES: Final = (0.001, 0.02, 0.25, 6.0)  # reads a day, the median of each kind of object
_RATE_SHARES: Final = (0.72, 0.2, 0.072, 0.008)
_PREFIXES: Final = ("images", "video", "logs", "exports", "backup", "models")
_ENDINGS: Final = ("jpg", "mp4", "ndjson", "parquet", "tar", "bin")
_CONTENT_TYPES: Final = ("image/jpeg", "video/mp4", "application/x-ndjson", None, "application/x-tar", None)
_CLASSES: Final = ("STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING")
_CLASS_SHARES: Final = (0.7, 0.15, 0.08, 0.07)


def write_shard(lake: Lake, shard: int, objects: int, *, seed: int = 7) -> int:
    """Publish one shard of the bucket; gives its rows of daily access.

    Shards are numbered here, not chosen by the keys' hashes: what reads one shard does not mind.
    """
    rng = np.random.default_rng([seed, shard])
    listed = _inventory(rng, shard, objects)
    batch = f"bench-{shard}"
    inventory = listed.select(INVENTORY.names).to_arrow().cast(INVENTORY)
    lake.stage("inventory", DAY, shard, inventory, batch)
    lake.publish("inventory", batch)
    rows = pl.concat(list(_reads(rng, listed)))
    for (day,), of_day in rows.partition_by("day", as_dict=True).items():
        table = of_day.select(DAILY_ACCESS.names).to_arrow().cast(DAILY_ACCESS)
        lake.stage("daily_access", day, shard, table, batch)
    lake.publish("daily_access", batch)
    return len(rows)


def _inventory(rng: np.random.Generator, shard: int, objects: int) -> pl.DataFrame:
    """Make the objects, and in columns of their own what their reads are made of: rate, birth and burst."""
    kind = rng.choice(len(_RATES), objects, p=_RATE_SHARES)
    place = rng.integers(0, len(_PREFIXES), objects)
    born = np.where(rng.random(objects) < 0.25, rng.integers(0, DAYS, objects), -rng.integers(1, 1800, objects))
    since = np.maximum(born, rng.integers(-1800, DAYS, objects))  # some came into their class later
    start = np.datetime64(FIRST_DAY, "us")
    in_day = rng.integers(0, 86_400_000_000, objects)
    names = {
        name: pl.Series(values, dtype=pl.String).gather(codes)
        for name, values, codes in (
            ("prefix", _PREFIXES, place),
            ("ending", _ENDINGS, place),
            ("content_type", _CONTENT_TYPES, place),
            ("storage_class", _CLASSES, rng.choice(len(_CLASSES), objects, p=_CLASS_SHARES)),
        )
    }
    tiers = {"STANDARD": "hot", "STANDARD_IA": "warm", "GLACIER_IR": "cold", "INTELLIGENT_TIERING": "auto"}
    return pl.DataFrame(
        {
            **names,
            "number": np.arange(objects),
            "size_bytes": rng.lognormal(13, 2.5, objects).astype(np.int64),
            "last_modified_at": start + (born * 86_400_000_000 + in_day).astype("timedelta64[us]"),
            "class_since_at": start + (since * 86_400_000_000 + in_day).astype("timedelta64[us]"),
            "etag": rng.integers(0, 2**62, objects),
            "rate": np.asarray(_RATES)[kind] * rng.lognormal(0, 1, objects),
            "born": born,
            "burst": np.where(rng.random(objects) < 0.03, rng.integers(0, DAYS, objects), -100),
        }
    ).with_columns(
        provider=pl.lit("aws"),
        bucket=pl.lit(BUCKET),
        key=pl.format("{}/{}/{}-{}.{}", "prefix", pl.col("number") % 97, pl.lit(shard), "number", "ending"),
        version_id=pl.lit(None, dtype=pl.String),
        tier=pl.col("storage_class").replace_strict(tiers),
        etag=pl.col("etag").cast(pl.String),
        last_modified_at=pl.col("last_modified_at").dt.replace_time_zone("UTC"),
        class_since_at=pl.col("class_since_at").dt.replace_time_zone("UTC"),
        lock_reason=pl.lit(None, dtype=pl.String),
        day=pl.lit(DAY),
    )


def _reads(rng: np.random.Generator, listed: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Draw reads day by day, some objects at a time."""
    day = np.arange(DAYS)
    weekday = (day + FIRST_DAY.weekday()) % 7
    rhythm = np.where(weekday >= 5, 0.4, 1.24)
    for chunk in listed.iter_slices(_CHUNK_OBJECTS):
        rate, born, burst = (chunk[name].to_numpy()[:, None] for name in ("rate", "born", "burst"))
        age = day[None, :] - born
        fresh = np.where(born >= 0, 1.0 + 8.0 * np.exp2(-np.maximum(age, 0) / 15.0), 1.0)
        expected = rate * fresh * rhythm + np.where((day >= burst) & (day < burst + 4), 12.0, 0.0)
        reads = rng.poisson(np.where(age >= 0, expected, 0.0))
        writes = (age == 0).astype(np.int64)
        owner, at = np.nonzero((reads > 0) | (writes > 0))
        yield chunk.select("provider", "bucket", "key", "size_bytes")[owner].select(
            "provider",
            "bucket",
            "key",
            day=pl.lit(FIRST_DAY) + pl.duration(days=pl.lit(_series(at))),
            reads=pl.lit(_series(reads[owner, at])),
            writes=pl.lit(_series(writes[owner, at])),
            bytes_read=(pl.lit(_series(reads[owner, at])) * pl.col("size_bytes") * 0.8).cast(pl.Int64),
            excluded_reads=pl.lit(0, dtype=pl.Int64),
            excluded_writes=pl.lit(0, dtype=pl.Int64),
        )


def _series(values: NDArray[np.int64]) -> pl.Series:
    return pl.Series(values)
