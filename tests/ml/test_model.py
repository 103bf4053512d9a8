"""The estimator: scikit-learn's manners, what its figures promise one another, calibration, and no look ahead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from synthetic_access import FIRST_DAY, MemoryLake, rhythmic_history

from cloudflux.domain.access import BANDS, FORECAST_TIERS, AccessBand, tier_codes
from cloudflux_ml.dataset import Dataset, build_dataset
from cloudflux_ml.features import FEATURE_NAMES, HORIZONS, WEEKDAYS_AHEAD
from cloudflux_ml.model import AccessForecaster, ReadDistribution, best_thresholds, data_frame
from cloudflux_ml.train import baselines, calibration_error, evaluate

MONTH = HORIZONS.index(30)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    access, listed = rhythmic_history(objects=600, days=300)
    return build_dataset(MemoryLake(access, listed), shards=1, until=FIRST_DAY + timedelta(days=300))


def fitted(dataset: Dataset, **params: object) -> AccessForecaster:
    train = dataset.train
    return AccessForecaster(**params).fit(
        data_frame(train.values), train.horizon_reads, cutoffs=train.cutoff, growth=train.growth
    )


@pytest.fixture(scope="module")
def forecaster(dataset: Dataset) -> AccessForecaster:
    return fitted(dataset)


@pytest.fixture(scope="module")
def distribution(forecaster: AccessForecaster, dataset: Dataset) -> ReadDistribution:
    return forecaster.distribution(data_frame(dataset.holdout.values))


# --- scikit-learn's manners -------------------------------------------------------------------------------------------


def test_settings_are_kept_as_given_when_an_estimator_is_made() -> None:
    made = AccessForecaster(max_iter=3, threads=2)
    assert vars(made) == made.get_params()
    assert made.set_params(max_iter=4).get_params() == AccessForecaster(max_iter=4, threads=2).get_params()


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learns_own_checks_pass_that_fit_no_data_of_their_own(check: Callable[[str, object], None]) -> None:
    check("AccessForecaster", AccessForecaster())


def test_score_is_the_share_of_the_deviance_that_is_explained(forecaster: AccessForecaster, dataset: Dataset) -> None:
    rows = data_frame(dataset.holdout.values)
    reads = dataset.holdout.horizon_reads[:, MONTH]
    expected = forecaster.predict(rows)

    def deviance(mean: np.ndarray) -> float:
        logs = np.where(reads > 0, reads * np.log(np.maximum(reads, 1e-300) / mean), 0.0)
        return float(2 * (logs - reads + mean).sum())

    score = forecaster.score(rows, reads)
    assert score == pytest.approx(1 - deviance(expected) / deviance(np.full(len(reads), reads.mean())))
    assert 0.5 < score < 1
    assert forecaster.score(rows, dataset.holdout.horizon_reads) == score
    twice = forecaster.score(rows, reads, sample_weight=np.where(reads > 0, 2.0, 1.0))
    assert twice != score
    with pytest.raises(ValueError, match="there is nothing to explain"):
        forecaster.score(rows, np.zeros(len(reads)))


def test_clone_has_the_same_settings_and_is_not_fitted_when_made_from_a_fitted_one(
    forecaster: AccessForecaster,
) -> None:
    other = clone(forecaster.set_params())
    assert other.get_params() == forecaster.get_params()
    assert not [name for name in vars(other) if name.endswith("_")]


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "probability_any", "daily_forecast", "recommend_tier", "distribution"]
)
def test_forecast_is_refused_when_the_forecaster_is_not_fitted(method: str, dataset: Dataset) -> None:
    with pytest.raises(NotFittedError):
        getattr(AccessForecaster(), method)(data_frame(dataset.holdout.values))


def test_fit_gives_itself_and_leaves_the_settings_alone_when_called(dataset: Dataset) -> None:
    made = AccessForecaster(max_iter=3)
    settings = made.get_params()
    assert made.fit(data_frame(dataset.train.values), dataset.train.reads) is made
    assert made.get_params() == settings
    assert made.n_features_in_ == len(FEATURE_NAMES)
    assert tuple(made.feature_names_in_) == FEATURE_NAMES
    assert made.classes_.tolist() == [str(tier) for tier in FORECAST_TIERS]
    assert made.usage_ is None


def test_forecasts_are_the_same_when_fitted_twice(distribution: ReadDistribution, dataset: Dataset) -> None:
    again = fitted(dataset).distribution(data_frame(dataset.holdout.values))
    np.testing.assert_array_equal(again.expected_reads, distribution.expected_reads)
    np.testing.assert_array_equal(again.probability_any, distribution.probability_any)
    np.testing.assert_array_equal(again.tier_probabilities, distribution.tier_probabilities)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        (np.zeros(200), "all rows are of one band, archive"),
        (np.full(200, -1.0), "not negative, and known for 30 days"),
        (np.full((200, 4), np.nan), "not negative, and known for 30 days"),
        (np.zeros((200, 3)), r"y has shape \(200, 3\)"),
    ],
)
def test_fit_is_refused_when_the_reads_teach_nothing(reads: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccessForecaster().fit(data_frame(np.zeros((200, len(FEATURE_NAMES)))), reads)


def test_fit_is_refused_when_the_features_are_others() -> None:
    with pytest.raises(ValueError, match="other features than the"):
        AccessForecaster().fit(np.zeros((200, 3)), np.arange(200.0))
    swapped = data_frame(np.zeros((200, len(FEATURE_NAMES))))[list(FEATURE_NAMES[::-1])]
    with pytest.raises(ValueError, match="other features than the"):
        AccessForecaster().fit(swapped, np.arange(200.0))


def test_feature_is_not_looked_at_when_the_fit_never_saw_a_value(dataset: Dataset) -> None:
    train = data_frame(dataset.train.values)
    train["reads_last_year"] = np.nan
    made = AccessForecaster(max_iter=5).fit(train, dataset.train.reads)
    holdout = data_frame(dataset.holdout.values)
    first = made.predict(holdout.assign(reads_last_year=np.nan))
    np.testing.assert_array_equal(first, made.predict(holdout.assign(reads_last_year=1e6)))


# --- what the figures promise one another -----------------------------------------------------------------------------


def test_figures_agree_with_each_other_when_objects_are_forecast(
    forecaster: AccessForecaster, distribution: ReadDistribution, dataset: Dataset
) -> None:
    holdout = data_frame(dataset.holdout.values)
    assert (np.diff(distribution.probability_any, axis=1) >= 0).all()
    assert (np.diff(distribution.expected_reads, axis=1) >= 0).all()
    assert (distribution.probability_any >= 0).all()
    assert (distribution.probability_any <= np.minimum(1.0, distribution.expected_reads)).all()
    np.testing.assert_allclose(distribution.tier_probabilities.sum(axis=1), 1.0)
    assert (distribution.tier_probabilities >= 0).all()
    np.testing.assert_array_equal(forecaster.predict(holdout), distribution.expected_reads[:, MONTH])
    np.testing.assert_array_equal(forecaster.probability_any(holdout), distribution.probability_any[:, MONTH])
    np.testing.assert_array_equal(forecaster.predict_proba(holdout), distribution.tier_probabilities)
    recommended = forecaster.recommend_tier(holdout)
    chosen = np.take_along_axis(distribution.tier_probabilities, recommended.tier[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(recommended.confidence, chosen)


def test_forecasts_never_fall_when_the_horizon_grows_by_a_day(distribution: ReadDistribution) -> None:
    previous = distribution.over(1)
    for days in range(2, 366):
        longer = distribution.over(days)
        assert (longer.expected_reads >= previous.expected_reads - 1e-12).all(), days
        assert (longer.probability_any >= previous.probability_any - 1e-12).all(), days
        assert (longer.probability_any <= np.minimum(1.0, longer.expected_reads) + 1e-12).all(), days
        previous = longer
    for place, days in enumerate(HORIZONS):
        over = distribution.over(days)
        np.testing.assert_allclose(over.expected_reads, distribution.expected_reads[:, place])
        np.testing.assert_allclose(over.probability_any, distribution.probability_any[:, place], atol=2e-6)


@pytest.mark.parametrize("days", [0, -3, 731])
def test_horizon_is_refused_when_nothing_can_be_said_of_it(days: int, distribution: ReadDistribution) -> None:
    with pytest.raises(ValueError, match="1 to 730 can be forecast"):
        distribution.over(days)


def test_days_of_the_week_add_up_to_the_week_and_follow_the_rhythm_when_an_object_has_one(
    forecaster: AccessForecaster, distribution: ReadDistribution, dataset: Dataset
) -> None:
    holdout = data_frame(dataset.holdout.values)
    daily = forecaster.daily_forecast(holdout)
    assert daily.shape == (len(holdout), 7)
    np.testing.assert_allclose(daily.sum(axis=1), distribution.expected_reads[:, 0])
    # half of the synthetic objects rest at weekends, the other half in the week; the busy ones show it
    first = dataset.windows.holdout.weekday()
    weekend = [day for day in range(7) if (first + day) % 7 >= 5]
    busy = dataset.holdout.column("reads_180_days") > 200
    share, seen = daily[busy][:, weekend].sum(axis=1) / daily[busy].sum(axis=1), holdout["weekend_share"][busy]
    assert busy.sum() > 20
    assert np.corrcoef(share, seen)[0, 1] > 0.95
    flat = forecaster.daily_forecast(holdout.assign(**dict.fromkeys(WEEKDAYS_AHEAD, np.nan)))
    np.testing.assert_allclose(flat, distribution.expected_reads[:, :1] / 7.0 * np.ones((1, 7)))


def test_band_is_archive_when_no_read_is_more_probable(distribution: ReadDistribution) -> None:
    archive = BANDS.index(AccessBand.ARCHIVE)
    band = distribution.over(90).band
    assert (band[distribution.probability_any[:, MONTH] < 0.5] == archive).all()
    assert len(np.unique(band)) >= 3


def test_longer_horizons_go_on_as_the_shorter_ones_when_no_label_reaches_them(dataset: Dataset) -> None:
    short = dataset.train.horizon_reads.copy()
    short[:, 2:] = np.nan
    made = AccessForecaster(max_iter=20).fit(data_frame(dataset.train.values), short)
    assert made.learnt_.tolist() == [True, True, False, False]
    found = made.distribution(data_frame(dataset.holdout.values))
    reads = found.expected_reads
    np.testing.assert_allclose((reads[:, 2] - reads[:, 1]) / 60, (reads[:, 1] - reads[:, 0]) / 23, atol=0.02)
    aged = np.flatnonzero(dataset.holdout.column("age_days") < 20)
    assert reads[aged, 2].sum() < 2.9 * reads[aged, 1].sum(), "young objects are read less and less"


def test_empty_shard_gives_empty_forecasts_when_forecast(forecaster: AccessForecaster) -> None:
    nothing = forecaster.distribution(data_frame(np.empty((0, len(FEATURE_NAMES)))))
    assert len(nothing) == 0
    assert nothing.over(45).expected_reads.shape == (0,)


# --- how good ---------------------------------------------------------------------------------------------------------


def test_forecaster_is_better_than_persistence_and_rules_when_objects_age_and_weeks_have_a_rhythm(
    forecaster: AccessForecaster, dataset: Dataset
) -> None:
    ours, theirs = evaluate(forecaster, dataset.holdout), baselines(dataset.holdout)
    assert ours["accuracy"] >= theirs["persistence_accuracy"]
    assert ours["macro_f1"] >= theirs["persistence_macro_f1"]
    assert ours["accuracy"] >= theirs["rules_accuracy"]
    assert ours["brier_any"] < theirs["persistence_brier_any"]
    assert ours["brier_any"] < theirs["rules_brier_any"]
    assert ours["ece_any"] <= 0.05 < theirs["persistence_ece_any"]
    assert 0.8 < ours["reads_expected_per_read_seen"] < 1.25


def test_probabilities_are_calibrated_when_reads_are_poisson() -> None:
    rng = np.random.default_rng(3)
    rate = rng.gamma(0.3, 6.0, 6_000)  # reads per 30 days
    values = np.full((len(rate), len(FEATURE_NAMES)), np.nan)
    for days in (7, 30, 60, 90, 180):
        values[:, FEATURE_NAMES.index(f"reads_{days}_days")] = rng.poisson(rate * days / 30.0)
    for days in (4, 14, 45):
        values[:, FEATURE_NAMES.index(f"rate_halved_{days}_days")] = rng.gamma(np.maximum(days * rate, 1e-9) / days)
    reads = np.cumsum(rng.poisson(rate[:, None] * np.diff([0, *HORIZONS]) / 30.0), axis=1).astype(np.float64)
    made = AccessForecaster().fit(
        data_frame(values[:4_000]), reads[:4_000], cutoffs=np.repeat(np.arange(0, 800, 100), 500)
    )
    found = made.distribution(data_frame(values[4_000:]))
    for place in range(len(HORIZONS)):
        assert calibration_error(reads[4_000:, place] > 0, found.probability_any[:, place]) < 0.04
        expected, seen = found.expected_reads[:, place].sum(), reads[4_000:, place].sum()
        assert 0.9 < expected / seen < 1.1


def test_calibration_error_is_what_was_said_too_much_when_bins_are_counted_by_hand() -> None:
    happened = np.array([True, False, False, True])
    assert calibration_error(happened, np.array([0.15, 0.15, 0.95, 0.95])) == pytest.approx((0.35 + 0.45) / 2)
    assert calibration_error(np.empty(0, dtype=bool), np.empty(0)) == 0.0


def test_thresholds_lie_below_a_half_when_a_tier_is_rare() -> None:
    rng = np.random.default_rng(1)
    warm = rng.beta(0.05, 2.0, 20_000)
    hot, warm_or_hot = best_thresholds(np.column_stack([np.zeros_like(warm), warm, 1 - warm]))
    assert warm_or_hot < 0.45
    assert hot == 0.5, "there is none, and nothing to choose"


# --- no look ahead ----------------------------------------------------------------------------------------------------


def test_tier_follows_the_objects_own_reads_when_a_season_lifted_all_of_them(dataset: Dataset) -> None:
    """What a season did to all objects is taken out of the labels: twice the reads, twice the growth, one model."""
    train = dataset.train
    plain = AccessForecaster(max_iter=10).fit(
        data_frame(train.values), train.horizon_reads, growth=np.ones(len(train.reads))
    )
    lifted = AccessForecaster(max_iter=10).fit(
        data_frame(train.values), train.horizon_reads * 2.0, growth=np.full(len(train.reads), 2.0)
    )
    holdout = data_frame(dataset.holdout.values)
    np.testing.assert_array_equal(plain.predict_proba(holdout), lifted.predict_proba(holdout))
    assert lifted.predict(holdout).sum() > 1.5 * plain.predict(holdout).sum()


def test_more_objects_are_hot_when_their_bucket_is_read_more_and_more(
    forecaster: AccessForecaster, dataset: Dataset
) -> None:
    holdout = data_frame(dataset.holdout.values)
    calm, rising = (forecaster.predict_proba(holdout.assign(bucket_trend=trend)) for trend in (0.0, 0.5))
    assert (rising[:, 2] <= calm[:, 2] + 1e-9).all(), "no object gets colder"
    assert rising[:, 2].mean() < calm[:, 2].mean()


def test_truth_is_what_the_reads_say_when_tiers_are_compared(dataset: Dataset) -> None:
    codes = tier_codes(dataset.holdout.reads)
    assert [str(FORECAST_TIERS[code]) for code in tier_codes([101, 100, 11, 10, 0])] == [
        "hot",
        "warm",
        "warm",
        "cold",
        "cold",
    ]
    assert set(codes) <= {0, 1, 2}
