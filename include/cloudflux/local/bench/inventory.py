"""`./cloudflux bench collect`: an S3 Inventory in Parquet, from its files to a published and audited snapshot."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from cloudflux.local.bench.measured import in_fresh_process

_BUCKET: Final = "media-archive"
_HOLDER: Final = "reports"
_FILE_OBJECTS: Final = 1_000_000
_SHARDS: Final = 8
_CLASSES: Final = ("STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING", "DEEP_ARCHIVE")
_SHARES: Final = (0.6, 0.2, 0.1, 0.06, 0.04)
_SCHEMA: Final = (
    "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8); "
    "optional binary version_id (UTF8); optional boolean is_latest; optional boolean is_delete_marker; "
    "optional int64 size; "
    "optional int64 last_modified_date (TIMESTAMP_MILLIS); optional binary e_tag (UTF8); "
    "optional binary storage_class (UTF8); optional boolean is_multipart_uploaded; "
    "optional binary encryption_status (UTF8); optional int64 object_lock_retain_until_date (TIMESTAMP_MILLIS); "
    "optional binary object_lock_mode (UTF8); optional binary object_lock_legal_hold_status (UTF8);}"
)


def bench_inventory(objects: int, folder: Path) -> dict[str, float]:
    """Write a report of so many objects, and collect it in a fresh process.

    Gives ``objects``, ``seconds``, ``objects_per_second`` and ``peak_bytes`` of that process, and each step's seconds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    taken_at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=9)
    report_bytes = write_report(objects, folder / _HOLDER, taken_at)
    found = in_fresh_process(collect_report, str(folder), str(folder / "lake"))
    if found["objects"] != objects:
        raise RuntimeError(f"{objects} objects were written and {found['objects']} were published")
    lake_bytes = sum(path.stat().st_size for path in (folder / "lake").rglob("*.parquet"))
    steps = {f"seconds_{name}": seconds for name, seconds in found["steps"].items()}
    return {
        "objects": objects,
        "seconds": found["seconds"],
        "objects_per_second": objects / found["seconds"],
        "peak_bytes": found["peak_bytes"],
        "report_bytes": report_bytes,
        "lake_bytes": lake_bytes,
        **steps,
    }


def write_report(objects: int, root: Path, taken_at: datetime, seed: int = 7) -> int:
    """Write an S3 Inventory in Parquet, several files with manifest and checksum; gives the size of its data files."""
    data = root / _BUCKET / "daily" / "data"
    data.mkdir(parents=True)
    files = []
    for number, first in enumerate(range(0, objects, _FILE_OBJECTS)):
        path = data / f"{number:05d}.parquet"
        _rows(first, min(_FILE_OBJECTS, objects - first), objects, seed).write_parquet(path, compression="snappy")
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        key = path.relative_to(root).as_posix()
        files.append({"key": key, "size": path.stat().st_size, "MD5checksum": md5})
    manifest = {
        "sourceBucket": _BUCKET,
        "destinationBucket": f"arn:aws:s3:::{_HOLDER}",
        "version": "2016-11-30",
        "creationTimestamp": str(int(taken_at.timestamp() * 1000)),
        "fileFormat": "Parquet",
        "fileSchema": _SCHEMA,
        "files": files,
    }
    content = json.dumps(manifest).encode()
    place = root / _BUCKET / "daily" / f"{taken_at:%Y-%m-%dT%H-%MZ}"
    place.mkdir()
    (place / "manifest.json").write_bytes(content)
    (place / "manifest.checksum").write_text(hashlib.md5(content, usedforsecurity=False).hexdigest(), encoding="ascii")
    return sum(file["size"] for file in files)  # type: ignore[misc]  # sizes are numbers


def _rows(first: int, count: int, objects: int, seed: int) -> pl.DataFrame:
    """Make objects whose keys are in no order: their numbers step through all of them."""
    rng = np.random.default_rng([seed, first])
    number = (np.arange(first, first + count, dtype=np.int64) * 7_368_787 + 11) % _next_coprime(objects)
    return pl.DataFrame(
        {
            "number": number,
            "size": rng.lognormal(11, 2.5, count).astype(np.int64),
            "age_ms": rng.integers(0, 5 * 365 * 86_400_000, count),
            "class": np.asarray(_CLASSES)[rng.choice(len(_CLASSES), count, p=_SHARES)],
            "one": rng.integers(0, 2**63, count),
            "other": rng.integers(0, 2**63, count),
        }
    ).select(
        bucket=pl.lit(_BUCKET),
        key=pl.when(pl.col("number") % 2 == 0)
        .then(pl.format("data/year=2026/part-{}/object-{}.parquet", pl.col("number") % 97, "number"))
        .otherwise(pl.format("images/{}/{}-original.jpg", pl.col("number") % 997, "number")),
        version_id=pl.lit(None, dtype=pl.String),
        is_latest=pl.lit(True),
        is_delete_marker=pl.lit(False),
        size=pl.col("size"),
        last_modified_date=(
            pl.lit(datetime(2021, 1, 1, tzinfo=UTC)) + pl.duration(milliseconds="age_ms")
        ).dt.cast_time_unit("ms"),
        e_tag=pl.format("{}{}", "one", "other"),
        storage_class=pl.col("class"),
        is_multipart_uploaded=pl.lit(False),
        encryption_status=pl.lit("SSE-S3"),
        object_lock_retain_until_date=pl.lit(None, dtype=pl.Datetime("ms", "UTC")),
        object_lock_mode=pl.lit(None, dtype=pl.String),
        object_lock_legal_hold_status=pl.lit(None, dtype=pl.String),
    )


def _next_coprime(objects: int) -> int:
    """Give the first number from ``objects`` on that no step of the prime 7,368,787 divides: all numbers differ."""
    return objects if objects % 7_368_787 else objects + 1


class _NoReports:
    """The reports that snapshots were made of: none yet."""

    def latest(self, provider: str, bucket: str) -> None:
        """Give nothing."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Keep nothing."""


def collect_report(folder: str, lake: str) -> dict[str, Any]:
    """Collect the report below a folder into a lake, by the very use cases that the DAG runs.

    Modules are imported, and Great Expectations is warm, before the clock starts: a worker does it once.
    """
    from cloudflux.config import BucketSettings, Estate, InventorySource
    from cloudflux.domain.tiers import Provider
    from cloudflux.inventories.formats import format_of
    from cloudflux.lake.schemas import INVENTORY
    from cloudflux.lake.snapshots import Snapshots
    from cloudflux.local.bench.store import FolderStore, QuarantineInMemory
    from cloudflux.quality import audit
    from cloudflux.workflows import inventory, inventory_parts, inventory_reports

    source = InventorySource(bucket=_HOLDER, prefix=f"{_BUCKET}/", format="s3_inventory")
    bucket = BucketSettings(
        provider=Provider.AWS, bucket=_BUCKET, inventory=source, price_book="any", connection_id="any"
    )
    estate = Estate(buckets=(bucket,))
    audit("inventory", INVENTORY.empty_table(), "warm-up")
    store: Any = FolderStore(Path(folder))
    target, reports = Snapshots(lake, _SHARDS), _NoReports()
    now = datetime.now(UTC)
    steps: dict[str, float] = {}

    def timed_audit(suite: str, data: Any, batch: str, **_: Any) -> Any:
        start = time.perf_counter()
        report = audit(suite, data, batch)
        steps["audit"] = time.perf_counter() - start
        return report

    began = time.perf_counter()
    parts = inventory_reports.find_inventories(
        estate, lambda *_: store, format_of, reports, target, provider=Provider.AWS, batch="bench", now=now
    )
    for part in parts:
        inventory_parts.collect_part(
            estate,
            lambda *_: store,
            format_of,
            target,
            provider="aws",
            bucket=part["bucket"],
            chunk=part["chunk"],
            batch="bench",
            day=now.date(),
            clock=lambda: now,
        )
    steps["read"] = time.perf_counter() - began
    published = inventory.publish_inventory(
        target,
        reports,
        QuarantineInMemory(),
        timed_audit,
        batch="bench",
        day=now.date(),
        clock=lambda: now,
        providers=(Provider.AWS,),
    )
    seconds = time.perf_counter() - began
    steps["merge"] = seconds - steps["read"] - steps["audit"]
    return {"objects": published["objects"], "seconds": seconds, "steps": steps}
