"""Drift: the scored objects' features against the training's, and realised against forecast accesses.

Everything is counted shard by shard and added up, so that memory does not grow with the number of objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final, Protocol, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.drift import DriftKind, DriftMeasure
from cloudflux_ml.features import FEATURE_NAMES, Floats, Integers

BINS: Final = 10
COMPARED_HORIZONS: Final = (7, 30)
"""Horizons in days whose forecasts are compared with what came of them."""
AGEING_FEATURES: Final = frozenset({"age_days", "days_since_write", "mean_gap_days", "month_end_share"})
"""They change from one day to the next although nobody uses an object in another way: all objects grow older together,
and a month end passes. They are measured, but ask for no training."""
_LEAST_SHARE: Final = 1e-4  # an empty bin would make the index infinite
_KEY: Final = ["provider", "bucket", "key"]


class PublishedLake(Protocol):
    """What is needed of ``cloudflux.lake.partitions.Lake``."""

    def read(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        """Read a dataset's rows; a tuple of two days is an inclusive range."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""


def reference_edges(values: Floats) -> Floats:
    """Give the deciles of each column. Shape (columns, 9); NaN for a column without any value."""
    if not len(values):
        return np.full((values.shape[1], BINS - 1), np.nan)
    unknown = np.isnan(values).all(axis=0)
    quantiles = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    edges: Floats = np.nanquantile(np.where(unknown, 0.0, values), quantiles, axis=0).T
    edges[unknown] = np.nan
    return edges


def count_by_bin(values: Floats, edges: Floats) -> Integers:
    """Count the known values of each column by bin; a value on an edge lies below it. Shape (columns, 10).

    Unknown values do not count: whether a window lies within the history depends on the day and on no object.
    """
    counts = np.zeros((values.shape[1], BINS), dtype=np.int64)
    for place in range(values.shape[1]):
        column = values[:, place]
        known = column[np.isfinite(column)]
        if np.isfinite(edges[place]).all():
            counts[place] = np.bincount(np.searchsorted(edges[place], known, side="left"), minlength=BINS)
    return counts


def population_stability(expected: ArrayLike, found: ArrayLike) -> Floats:
    """Give the population stability index of each column from its counts by bin, shape (columns, 10). Shape (columns,).

    It is the sum over the bins of (found - expected) log(found / expected), both as shares. NaN where either is empty.
    """
    shares = []
    empty = np.zeros(len(np.asarray(expected)), dtype=np.bool_)
    for counts in (expected, found):
        given = np.asarray(counts, dtype=np.float64)
        total = given.sum(axis=1, keepdims=True)
        empty |= total[:, 0] == 0
        shares.append(np.maximum(given / np.maximum(total, 1.0), _LEAST_SHARE))
    index: Floats = ((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum(axis=1)
    return np.where(empty, np.nan, index)


def feature_drift(reference_counts: ArrayLike, shards: Iterable[ArrayLike]) -> list[DriftMeasure]:
    """Add up the shards' counts and compare each feature with the training's; features without values are left out."""
    expected = np.asarray(reference_counts, dtype=np.int64)
    found = np.zeros_like(expected)
    for counts in shards:
        found += np.asarray(counts, dtype=np.int64)
    index = population_stability(expected, found)
    return [
        DriftMeasure(DriftKind.FEATURE, FEATURE_NAMES[place], float(index[place]), int(found[place].sum()))
        for place in np.flatnonzero(np.isfinite(index))
    ]


@dataclass(slots=True)
class RealisedForecast:
    """What came of a day's forecasts, added up over shards."""

    horizon_days: int
    forecast_day: date
    objects: int = 0
    expected_reads: float = 0.0
    realised_reads: float = 0.0
    gap_by_bin: Floats = field(default_factory=lambda: np.zeros(BINS))
    """Probabilities of any read minus objects read, added up in bins of equal width."""

    def add(self, forecasts: pa.Table, daily_access: pa.Table) -> Self:
        """Add a shard: its forecasts by a model, and its reads in the days of the horizon."""
        days = self.horizon_days
        said = (
            pl.DataFrame(pl.from_arrow(forecasts))
            .filter(pl.col("source").str.starts_with("model:"))
            .select(
                *_KEY,
                pl.col(f"expected_reads_{days}").alias("expected"),
                pl.col(f"probability_any_{days}").alias("any"),
            )
            .drop_nulls()
        )
        reads = pl.DataFrame(pl.from_arrow(daily_access)).group_by(_KEY).agg(pl.col("reads").sum())
        joined = said.join(reads, on=_KEY, how="left").with_columns(pl.col("reads").fill_null(0))
        probability = joined["any"].to_numpy()
        place = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        gap = probability - (joined["reads"].to_numpy() > 0)
        self.objects += len(joined)
        self.expected_reads += float(joined["expected"].sum())
        self.realised_reads += float(joined["reads"].sum())
        self.gap_by_bin += np.bincount(place, weights=gap, minlength=BINS)
        return self

    def measures(self) -> list[DriftMeasure]:
        """Give the ratio of the reads, and the calibration error; nothing when no object was forecast by a model."""
        if not self.objects:
            return []
        # one read more on both sides: nothing expected and nothing read is no drift
        ratio = (self.realised_reads + 1.0) / (self.expected_reads + 1.0)
        error = float(np.abs(self.gap_by_bin).sum()) / self.objects
        subject, day = str(self.horizon_days), self.forecast_day
        return [
            DriftMeasure(DriftKind.REALISED_READS, subject, ratio, self.objects, day),
            DriftMeasure(DriftKind.CALIBRATION, subject, error, self.objects, day),
        ]


def realised_drift(lake: PublishedLake, *, day: date, shards: int) -> list[DriftMeasure]:
    """Compare the newest forecasts whose 7 or 30 days are over by ``day`` with the reads that came, shard by shard.

    A horizon counts as over only when the logs reach to its last day: otherwise missing logs would pass for silence.
    """
    logged, forecast_days = lake.days("daily_access"), lake.days("forecasts")
    measures: list[DriftMeasure] = []
    for horizon in COMPARED_HORIZONS:
        last_logged = max((known for known in logged if known < day), default=date.min)
        over = [known for known in forecast_days if known + timedelta(days=horizon - 1) <= last_logged]
        if not over:
            continue
        realised = RealisedForecast(horizon, over[-1])
        columns = [*_KEY, f"expected_reads_{horizon}", f"probability_any_{horizon}", "source"]
        last = over[-1] + timedelta(days=horizon - 1)
        for shard in range(shards):
            realised.add(
                lake.read("forecasts", days=[over[-1]], shard=shard, columns=columns),
                lake.read("daily_access", days=(over[-1], last), shard=shard, columns=[*_KEY, "reads"]),
            )
        measures += realised.measures()
    return measures


def log_drift(
    measures: Iterable[DriftMeasure],
    reasons: Collection[str],
    *,
    day: date,
    model_version: str | None,
    tracking_uri: str | None = None,
    experiment: str,
) -> str:
    """Record the figures as metrics of an MLflow run, with what asks for training, and give the run's id."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri or mlflow.get_tracking_uri())
    chosen = mlflow.set_experiment(experiment)
    tags: dict[str, Any] = {
        "cloudflux.kind": "drift",
        "cloudflux.day": str(day),
        "cloudflux.model_version": model_version or "rules",
        "cloudflux.reason": "; ".join(reasons) or "no drift beyond the limits",
    }
    with mlflow.start_run(experiment_id=chosen.experiment_id, run_name=f"drift-{day}", tags=tags) as run:
        mlflow.log_metrics({f"drift_{measure.kind}_{measure.subject}": measure.value for measure in measures})
    return str(run.info.run_id)


def add_counts(counts: NDArray[np.int64] | None, values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Add a chunk of objects to the counts by bin."""
    chunk = count_by_bin(values, edges)
    return chunk if counts is None else counts + chunk
