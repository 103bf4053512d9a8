"""The estimator: scikit-learn's manners, the same answers twice, and better than saying that all stays as it is."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from synthetic_access import FIRST_DAY, MemoryLake, rhythmic_history

from cloudflux.domain.access import BANDS, AccessBand, band_codes
from cloudflux_ml.dataset import Dataset, build_dataset
from cloudflux_ml.features import FEATURE_NAMES
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.train import baselines, evaluate


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    access, listed = rhythmic_history(objects=600, days=200)
    return build_dataset(MemoryLake(access, listed), shards=1, until=FIRST_DAY + timedelta(days=200))


def fitted(dataset: Dataset, **params: object) -> AccessForecaster:
    train = dataset.train
    return AccessForecaster(**params).fit(
        data_frame(train.values), train.reads, later_reads=train.later_reads, later_days=train.later_days
    )


@pytest.fixture(scope="module")
def forecaster(dataset: Dataset) -> AccessForecaster:
    return fitted(dataset)


def test_clone_has_the_same_settings_and_is_not_fitted_when_made_from_a_fitted_one(
    forecaster: AccessForecaster, dataset: Dataset
) -> None:
    other = clone(fitted(dataset, max_iter=7))
    assert other.get_params() == AccessForecaster(max_iter=7).get_params()
    assert not [name for name in vars(other) if name.endswith("_")]
    with pytest.raises(NotFittedError):
        other.predict(data_frame(dataset.holdout.values))


def test_fit_gives_itself_and_leaves_the_settings_alone_when_called(dataset: Dataset) -> None:
    made = AccessForecaster(max_iter=5)
    settings = made.get_params()
    assert made.fit(data_frame(dataset.train.values), dataset.train.reads) is made
    assert made.get_params() == settings
    assert made.n_features_in_ == len(FEATURE_NAMES)
    assert tuple(made.feature_names_in_) == FEATURE_NAMES
    assert made.classes_.tolist() == [str(band) for band in BANDS]


def test_forecasts_are_the_same_when_fitted_twice(forecaster: AccessForecaster, dataset: Dataset) -> None:
    again = fitted(dataset)
    holdout = data_frame(dataset.holdout.values)
    np.testing.assert_array_equal(again.predict(holdout), forecaster.predict(holdout))
    np.testing.assert_array_equal(again.predict_proba(holdout), forecaster.predict_proba(holdout))
    np.testing.assert_array_equal(again.decay_, forecaster.decay_)


def test_forecaster_is_better_than_persistence_and_rules_when_objects_age_and_weeks_have_a_rhythm(
    forecaster: AccessForecaster, dataset: Dataset
) -> None:
    ours, theirs = evaluate(forecaster, dataset.holdout), baselines(dataset.holdout)
    assert ours["accuracy"] >= theirs["persistence_accuracy"]
    assert ours["macro_f1"] >= theirs["persistence_macro_f1"]
    assert ours["accuracy"] >= theirs["rules_accuracy"]
    share_read = float((dataset.holdout.reads > 0).mean())
    assert ours["brier_any"] < 0.5 * share_read * (1 - share_read), "half of what the bare share would score"


def test_probabilities_agree_with_each_other_when_predicted(forecaster: AccessForecaster, dataset: Dataset) -> None:
    holdout = data_frame(dataset.holdout.values)
    probabilities = forecaster.predict_proba(holdout)
    archive = BANDS.index(AccessBand.ARCHIVE)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(forecaster.probability_any(holdout), 1.0 - probabilities[:, archive])
    np.testing.assert_array_equal(forecaster.predict_band(holdout), probabilities.argmax(axis=1))
    assert (forecaster.predict(holdout) >= 0).all()


def test_horizon_of_30_days_is_the_forecast_itself_when_asked_for(
    forecaster: AccessForecaster, dataset: Dataset
) -> None:
    holdout = data_frame(dataset.holdout.values)
    month = forecaster.forecast(holdout, 30)
    np.testing.assert_allclose(month.expected_reads, forecaster.predict(holdout))
    np.testing.assert_allclose(month.probability_any, forecaster.probability_any(holdout))


def test_more_reads_are_expected_when_the_horizon_is_longer(forecaster: AccessForecaster, dataset: Dataset) -> None:
    holdout = data_frame(dataset.holdout.values)
    week, month, half_year = (forecaster.forecast(holdout, days) for days in (7, 30, 180))
    assert (week.expected_reads <= month.expected_reads).all()
    assert (month.expected_reads < half_year.expected_reads).all()
    assert (month.probability_any <= half_year.probability_any).all()
    assert (half_year.probability_any <= 1).all()
    np.testing.assert_allclose(week.expected_reads, month.expected_reads * 7 / 30)


def test_rate_decays_after_the_first_month_when_objects_age(dataset: Dataset, forecaster: AccessForecaster) -> None:
    warm = BANDS.index(AccessBand.WARM)
    assert 0.05 <= forecaster.decay_[warm] < 1.0
    without = AccessForecaster(max_iter=5).fit(data_frame(dataset.train.values), dataset.train.reads)
    assert without.decay_.tolist() == [1.0] * 4


def test_feature_is_not_looked_at_when_the_fit_never_saw_a_value(dataset: Dataset) -> None:
    train = data_frame(dataset.train.values)
    train["reads_last_year"] = np.nan
    made = AccessForecaster(max_iter=5).fit(train, dataset.train.reads)
    holdout = data_frame(dataset.holdout.values)
    first = made.predict(holdout.assign(reads_last_year=np.nan))
    np.testing.assert_array_equal(first, made.predict(holdout.assign(reads_last_year=1e6)))


@pytest.mark.parametrize(
    ("reads", "message"), [([0.0] * 40, "all rows are of one band, archive"), ([-1.0] * 40, "finite and not negative")]
)
def test_fit_is_refused_when_the_reads_teach_nothing(reads: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccessForecaster().fit(pd.DataFrame({"a": np.arange(40.0)}), reads)


def test_band_that_training_never_saw_keeps_a_small_probability_when_predicted() -> None:
    features = pd.DataFrame({"a": np.arange(60.0)})
    made = AccessForecaster(max_iter=5).fit(features, np.repeat([0.0, 10.0], 30))
    hot = made.predict_proba(features)[:, BANDS.index(AccessBand.HOT)]
    assert ((hot > 0) & (hot < 0.01)).all()
    assert set(band_codes(np.array([0.0, 10.0]))) == set(made.predict_band(features))
