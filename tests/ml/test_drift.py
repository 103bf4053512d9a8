"""Drift: the index against its definition, realised against forecast accesses, shard by shard."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient
from synthetic_access import FIRST_DAY, MemoryLake, daily_access

from cloudflux.domain.drift import DriftKind, DriftMeasure
from cloudflux.lake.schemas import FORECASTS
from cloudflux_ml.drift import (
    count_by_bin,
    feature_drift,
    log_drift,
    population_stability,
    realised_drift,
    reference_edges,
)
from cloudflux_ml.features import FEATURE_NAMES, TREE_FEATURES

DAY = FIRST_DAY + timedelta(days=40)


def test_index_is_near_nothing_when_both_are_of_one_population() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(1, 1, (20_000, 3))
    values[:, 1] = rng.poisson(0.3, 20_000)  # most are 0: several deciles are one
    edges = reference_edges(values)
    expected = count_by_bin(values, edges)
    assert edges.shape == (3, 9)
    assert (expected.sum(axis=1) == 20_000).all()
    other = np.column_stack([rng.lognormal(1, 1, 5_000), rng.poisson(0.3, 5_000), rng.lognormal(2, 1, 5_000)])
    index = population_stability(expected, count_by_bin(other, edges))
    assert (index[:2] < 0.01).all()
    assert index[2] > 0.25, "the third is another population"


def test_index_equals_its_definition_when_computed_by_hand() -> None:
    found = population_stability([[50, 50] + [0] * 8], [[80, 20] + [0] * 8])
    assert found[0] == pytest.approx((0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5))
    assert np.isnan(population_stability([[0] * 10], [[1] * 10])).all()


def test_unknown_values_count_for_nothing_when_features_are_compared() -> None:
    values = np.column_stack([np.arange(100.0), np.full(100, np.nan)])
    edges = reference_edges(values)
    assert np.isnan(edges[1]).all()
    half = values.copy()
    half[::2, 0] = np.nan
    counts = count_by_bin(half, edges)
    assert counts.sum(axis=1).tolist() == [50, 0]
    assert reference_edges(np.empty((0, 2))).shape == (2, 9)


def test_shards_add_up_to_the_whole_when_counted_apart() -> None:
    rng = np.random.default_rng(2)
    training, scored = rng.normal(size=(900, TREE_FEATURES)), rng.normal(0.2, 1, size=(700, TREE_FEATURES))
    edges = reference_edges(training)
    reference = count_by_bin(training, edges)
    whole = feature_drift(reference, [count_by_bin(scored, edges)])
    shards = feature_drift(reference, [count_by_bin(part, edges).tolist() for part in np.array_split(scored, 4)])
    assert shards == whole
    assert [measure.subject for measure in whole] == list(FEATURE_NAMES[:TREE_FEATURES])
    assert {measure.objects for measure in whole} == {700}


def forecasts(rows: list[tuple[str, float, float]], *, source: str = "model:1") -> pa.Table:
    """Make ``FORECASTS`` rows of ``DAY`` from (key, expected reads in 7 days, probability of any)."""
    row = dict.fromkeys(FORECASTS.names, 1.0)
    row |= {"provider": "aws", "bucket": "data", "day": DAY, "horizon_days": 180, "band": "cold", "tier": "cold"}
    return pa.Table.from_pylist(
        [
            row | {"key": key, "source": source, "expected_reads_7": reads, "probability_any_7": probability}
            for key, reads, probability in rows
        ],
        schema=FORECASTS,
    )


class ForecastLake(MemoryLake):
    def __init__(self, access: pa.Table, said: pa.Table, *, shards: int = 1) -> None:
        super().__init__(access, shards=shards)
        self._tables["forecasts"] = said


@pytest.mark.parametrize("shards", [1, 3])
def test_reads_are_compared_with_their_forecast_when_the_horizon_is_over(shards: int) -> None:
    rows = [(f"read-{place}", 2.0, 0.85) for place in range(60)] + [
        (f"quiet-{place}", 0.5, 0.25) for place in range(40)
    ]
    reads = [(f"read-{place}", DAY + timedelta(days=place % 7), 3) for place in range(60)]
    outside = [("quiet-0", DAY - timedelta(days=1), 50), ("quiet-1", DAY + timedelta(days=7), 50)]
    said = pa.concat_tables([forecasts(rows), forecasts([("ruled", 99.0, 0.9)], source="rules")])
    lake = ForecastLake(daily_access(reads + outside), said, shards=shards)
    ratio, error = realised_drift(lake, day=DAY + timedelta(days=8), shards=shards)
    assert (ratio.kind, ratio.subject, ratio.objects, ratio.forecast_day) == (DriftKind.REALISED_READS, "7", 100, DAY)
    assert ratio.value == pytest.approx((180 + 1) / (60 * 2.0 + 40 * 0.5 + 1))
    assert error.kind is DriftKind.CALIBRATION
    assert error.value == pytest.approx(0.6 * 0.15 + 0.4 * 0.25)


def test_nothing_is_compared_when_the_logs_do_not_reach_the_horizons_end() -> None:
    lake = ForecastLake(daily_access([("a", DAY + timedelta(days=5), 3)]), forecasts([("a", 2.0, 0.8)]))
    assert realised_drift(lake, day=DAY + timedelta(days=20), shards=1) == []


def test_nothing_is_compared_when_an_earlier_release_wrote_the_forecasts() -> None:
    said = forecasts([("a", 2.0, 0.8)])
    for name in ("expected_reads_7", "probability_any_7"):
        place = said.schema.get_field_index(name)
        said = said.set_column(place, said.schema.field(place), pa.nulls(1, pa.float64()))
    lake = ForecastLake(daily_access([("a", DAY + timedelta(days=10), 3)]), said)
    assert realised_drift(lake, day=DAY + timedelta(days=20), shards=1) == []


def test_run_holds_the_figures_and_the_reason_when_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    measures = [
        DriftMeasure(DriftKind.FEATURE, "age_days", 0.3, 500),
        DriftMeasure(DriftKind.CALIBRATION, "7", 0.02, 500, DAY),
    ]
    run_id = log_drift(
        measures,
        ["age_days differs"],
        day=DAY,
        model_version="4",
        tracking_uri=uri,
        experiment="access-forecaster-drift",
    )
    mlflow.set_tracking_uri(before)
    run = MlflowClient(uri).get_run(run_id)
    assert run.data.metrics == {"drift_feature_age_days": 0.3, "drift_calibration_7": 0.02}
    assert run.data.tags["cloudflux.reason"] == "age_days differs"
    assert run.data.tags["cloudflux.model_version"] == "4"
