"""Real access traces, where they are at hand: the forecaster has to beat persistence on what real users did."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from synthetic_access import MemoryLake

from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY
from cloudflux_ml.dataset import build_dataset
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.train import baselines, evaluate

SHARED = Path(os.environ.get("CLOUDFLUX_SHARED") or Path(__file__).resolve().parents[3] / "shared")


def trace_lake(path: Path, days: int) -> MemoryLake:
    trace = pl.read_parquet(path)
    last = trace["day"].max()
    trace = trace.filter(pl.col("day") > last - timedelta(days=days))
    objects = trace.group_by("object_id").agg(pl.col("size_bytes").first(), pl.col("created_day").first())
    names = [pl.lit("aws").alias("provider"), pl.lit("trace").alias("bucket"), pl.col("object_id").alias("key")]
    zero = pl.lit(0, dtype=pl.Int64)
    access = trace.select(
        *names,
        "day",
        "reads",
        zero.alias("writes"),
        zero.alias("bytes_read"),
        zero.alias("excluded_reads"),
        zero.alias("excluded_writes"),
    ).sort("day", "key")
    created = pl.col("created_day").cast(pl.Datetime("us", "UTC"))
    none = pl.lit(None, dtype=pl.String)
    listed = objects.select(
        *names,
        none.alias("version_id"),
        "size_bytes",
        pl.lit("STANDARD").alias("storage_class"),
        pl.lit("hot").alias("tier"),
        pl.lit("e").alias("etag"),
        created.alias("last_modified_at"),
        created.alias("class_since_at"),
        none.alias("content_type"),
        none.alias("lock_reason"),
        pl.lit(last + timedelta(days=1)).alias("day"),
    )
    return MemoryLake(
        pa.Table.from_batches(access.to_arrow().to_batches()).cast(DAILY_ACCESS), listed.to_arrow().cast(INVENTORY)
    )


@pytest.mark.parametrize("name", ["media", "retail"])
def test_forecaster_beats_persistence_when_it_learns_from_a_real_trace(name: str) -> None:
    path = SHARED / "data" / "traces" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"no real trace at {path}: set CLOUDFLUX_SHARED to the folder that holds data/traces")
    lake = trace_lake(path, days=150)
    dataset = build_dataset(lake, shards=1, until=lake.days("inventory")[-1], max_train_rows=20_000)
    train = dataset.train
    forecaster = AccessForecaster().fit(data_frame(train.values), train.reads)
    ours, theirs = evaluate(forecaster, dataset.holdout), baselines(dataset.holdout)
    assert ours["accuracy"] > theirs["persistence_accuracy"]
    assert ours["accuracy"] > theirs["rules_accuracy"]
