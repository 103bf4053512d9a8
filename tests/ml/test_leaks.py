"""No look into the future: what happens on and after a cutoff must change neither features, training nor forecasts.

The method is to change all of it and to compare. That it would find a leak is shown by planting some.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, rhythmic_history

from cloudflux_ml import dataset as datasets
from cloudflux_ml import features
from cloudflux_ml.dataset import Windows, build_dataset
from cloudflux_ml.features import FEATURE_NAMES, AccessHistory, Floats, Integers
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.registry import Champion
from cloudflux_ml.score import forecast_objects

DAYS = 130
UNTIL = FIRST_DAY + timedelta(days=DAYS)
CUTOFF = FIRST_DAY + timedelta(days=100)  # the holdout's, too: its label is the 30 days that follow


@pytest.fixture(scope="module")
def history() -> tuple[pa.Table, pa.Table]:
    return rhythmic_history(objects=200, days=DAYS)


def other_future(access: pa.Table, keys: list[str], cutoff: date) -> pa.Table:
    """Keep the days before the cutoff; on it and on every day after it, every object is read and written a lot."""
    past = access.filter(pa.array([day < cutoff for day in access["day"].to_pylist()]))
    days = [cutoff + timedelta(days=place) for place in range((UNTIL - cutoff).days)]
    return pa.concat_tables([past, daily_access([(key, day, 9_000, 5) for key in keys for day in days])])


def differing_features(
    history: tuple[pa.Table, pa.Table], make: Callable[..., AccessHistory] = AccessHistory
) -> set[str]:
    """Name the features that another future changes."""
    access, listed = history
    changed = other_future(access, listed["key"].to_pylist(), CUTOFF)
    first, second = (make(table, listed, history_start=FIRST_DAY).features(CUTOFF) for table in (access, changed))
    np.testing.assert_array_equal(first.rows, second.rows)
    same = [np.array_equal(first.column(name), second.column(name), equal_nan=True) for name in FEATURE_NAMES]
    return {name for name, equal in zip(FEATURE_NAMES, same, strict=True) if not equal}


def training_differs(history: tuple[pa.Table, pa.Table]) -> bool:
    """Tell whether another future of the holdout changes the training frame or the features of the holdout."""
    access, listed = history
    lakes = [MemoryLake(table, listed) for table in (access, other_future(access, listed["key"].to_pylist(), CUTOFF))]
    first, second = (build_dataset(lake, shards=1, until=UNTIL) for lake in lakes)
    assert first.windows.holdout == second.windows.holdout
    assert first.holdout.fingerprint != second.holdout.fingerprint, "the change must be one that labels see"
    return first.train.fingerprint != second.train.fingerprint or not np.array_equal(
        first.holdout.values, second.holdout.values, equal_nan=True
    )


def test_no_feature_changes_when_the_future_does(history: tuple[pa.Table, pa.Table]) -> None:
    assert differing_features(history) == set()


def test_training_stays_the_same_when_the_holdout_changes(history: tuple[pa.Table, pa.Table]) -> None:
    assert not training_differs(history)


def test_forecast_stays_the_same_when_the_future_changes(history: tuple[pa.Table, pa.Table]) -> None:
    access, listed = history
    changed = other_future(access, listed["key"].to_pylist(), CUTOFF)
    found = []
    for table in (access, changed):
        # the training may look up to the cutoff, the forecast from there on: all of it is done twice
        train = build_dataset(MemoryLake(table, listed), shards=1, until=UNTIL).train
        made = AccessForecaster(max_iter=10).fit(
            data_frame(train.values), train.horizon_reads, cutoffs=train.cutoff, growth=train.growth
        )
        found.append(forecast_objects(listed, table, CUTOFF, 90, champion=Champion("1", made), history_start=FIRST_DAY))
    np.testing.assert_array_equal(found[0].horizon_expected_reads, found[1].horizon_expected_reads)
    np.testing.assert_array_equal(found[0].horizon_probability_any, found[1].horizon_probability_any)
    np.testing.assert_array_equal(found[0].expected_read_bytes, found[1].expected_read_bytes)
    np.testing.assert_array_equal(found[0].tier, found[1].tier)
    np.testing.assert_array_equal(found[0].confidence, found[1].confidence)


class SeesTheCutoffsDay(AccessHistory):
    """Counts one day too many: the mistake that is made most often."""

    def _matrix(self, end: int, exists: Integers) -> Floats:
        values = super()._matrix(end, exists)
        values[:, FEATURE_NAMES.index("reads_7_days")] = self._sum(self._reads, end - 7, end + 1)[exists]
        return values


class KnowsTheBucketsFuture(AccessHistory):
    """Takes the growth of the label's days for the trend before them."""

    def _matrix(self, end: int, exists: Integers) -> Floats:
        values = super()._matrix(end, exists)
        values[:, FEATURE_NAMES.index("bucket_trend")] = np.log(self._bucket_growth(end, end + 14, 14))[exists]
        return values


@pytest.mark.parametrize(
    ("planted", "feature"), [(SeesTheCutoffsDay, "reads_7_days"), (KnowsTheBucketsFuture, "bucket_trend")]
)
def test_leak_is_found_when_one_is_planted_in_a_feature(
    planted: type[AccessHistory], feature: str, history: tuple[pa.Table, pa.Table]
) -> None:
    assert differing_features(history, planted) == {feature}


def test_leak_is_found_when_training_labels_reach_into_the_holdout(
    history: tuple[pa.Table, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overlapping(first_day: date, end: date, max_cutoffs: int = 8) -> Windows:
        chosen = datasets_choose(first_day, end, max_cutoffs)
        return Windows(chosen.label_days, (*chosen.cutoffs, chosen.holdout - timedelta(days=7)), chosen.holdout)

    datasets_choose = datasets.choose_windows
    monkeypatch.setattr(datasets, "choose_windows", overlapping)
    assert training_differs(history)


def test_leak_is_found_when_a_long_horizon_is_labelled_beyond_the_holdout(
    history: tuple[pa.Table, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = datasets._label

    def unlimited(history: AccessHistory, found: features.Features, windows: Windows, end: date) -> datasets.Frame:
        return original(history, found, windows, windows.end)

    monkeypatch.setattr(datasets, "_label", unlimited)
    assert training_differs(history)
