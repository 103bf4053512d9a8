"""The access forecaster: a distribution of each object's reads over several horizons, and the tier of its next 30 days.

Three kinds of models, all of boosted trees: for each horizon the probability of any read and the expected reads; and,
once for all, the probability of more than a given number of reads in 30 days. The last one sees an object's rates
divided by that number, so that one model learns from all numbers alike: few objects are read more than 100 times, and
most that is to be known of them can be learnt from those that are read more than 10 times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import d2_tweedie_score, log_loss
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # published without types

from cloudflux.domain.access import BANDS, FORECAST_TIERS, AccessBand, band_codes, tier_codes
from cloudflux_ml.drift import count_by_bin, reference_edges
from cloudflux_ml.features import FEATURE_NAMES, HORIZONS, TREE_FEATURES, WEEKDAYS_AHEAD, Floats, Integers
from cloudflux_ml.usage import UsageStates

_TREND_LASTS: Final = 0.5
"""How much of the bucket's trend (on the log scale) is taken to go on: half, as in damped trend forecasts."""
MONTH: Final = HORIZONS.index(30)
MAX_HORIZON_DAYS: Final = 730
_ARCHIVE: Final = BANDS.index(AccessBand.ARCHIVE)
_TIER_READS: Final = (100.0, 10.0)  # more than these in 30 days are hot, and at least warm
_LEARNT_READS: Final = (7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 70.0, 100.0, 140.0, 200.0)
_RATE_DAYS: Final = {
    "reads_7_days": 7,
    "reads_14_days": 14,
    "reads_30_days": 30,
    "reads_60_days": 60,
    "reads_90_days": 90,
    "rate_halved_4_days": 30,
    "rate_halved_14_days": 30,
    "rate_halved_45_days": 30,
}
"""Features that say a rate, and the days that they count: the tier model sees them as rates per 30 days."""
_HABITS: Final = ("days_active_30", "age_days", "recency_days", "busiest_day_share", "recency_in_gaps")
_LEAST_ROWS: Final = 100  # a horizon with fewer labels is not learnt, but derived from shorter ones
_LEAST_OF_A_KIND: Final = 20  # read and unread objects that a calibration needs of each
_CERTAIN: Final = 1e-4  # no probability is nearer to 0 or 1: nothing that was seen so far proves that much
_NO_READ_AT_ALL: Final = 1e-6


@dataclass(frozen=True, slots=True)
class HorizonForecast:
    """What is expected of each object over a horizon. All arrays have shape (n,)."""

    expected_reads: Floats
    probability_any: Floats
    """Of at least one read."""
    band: Integers
    """The access band of the first 30 days, as its position in ``BANDS``: that of the expected reads, and ``archive``
    when no read is more probable than one."""
    confidence: Floats
    """Probability of the recommended tier."""


@dataclass(frozen=True, slots=True)
class TierRecommendation:
    """The tier of each object for the next 30 days. All arrays have shape (n,)."""

    tier: Integers
    """Position in ``domain.access.FORECAST_TIERS``: hot, warm, cold."""
    confidence: Floats
    """Probability of that tier."""


@dataclass(frozen=True, slots=True)
class ReadDistribution:
    """What is expected of n objects at every horizon of ``HORIZONS``."""

    probability_any: Floats
    """Of at least one read, shape (n, 4); never falls from one horizon to the next."""
    expected_reads: Floats
    """Shape (n, 4); never falls from one horizon to the next, and is never less than ``probability_any``."""
    tier_probabilities: Floats
    """Of each of ``FORECAST_TIERS`` in the next 30 days, shape (n, 3); rows sum to 1."""
    weekday_profile: Floats
    """Share of a week's reads on each of the next 7 days, shape (n, 7); rows sum to 1."""
    recommendation: TierRecommendation

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.expected_reads)

    def over(self, horizon_days: int) -> HorizonForecast:
        """Give the forecast over any horizon from 1 to 730 days.

        Between two horizons, reads and the cumulative hazard of a first read (-log of the probability of none) grow by
        the same amount each day; before the first they start at nothing, after the last they go on as between the last
        two. Raises ``ValueError`` for any other horizon.
        """
        if not 1 <= horizon_days <= MAX_HORIZON_DAYS:
            raise ValueError(f"a horizon of {horizon_days} days: 1 to {MAX_HORIZON_DAYS} can be forecast")
        hazard = -np.log1p(-np.minimum(self.probability_any, 1.0 - _NO_READ_AT_ALL))
        reads = _at(self.expected_reads, horizon_days)
        probability = np.minimum(-np.expm1(-_at(hazard, horizon_days)), reads)
        band = np.where(self.probability_any[:, MONTH] < 0.5, _ARCHIVE, band_codes(self.expected_reads[:, MONTH]))
        return HorizonForecast(reads, probability, band.astype(np.int64), self.recommendation.confidence)

    def daily_reads(self) -> Floats:
        """Expect reads on each of the next 7 days. Shape (n, 7); rows sum to the forecast of 7 days."""
        daily: Floats = self.expected_reads[:, :1] * self.weekday_profile
        return daily


class AccessForecaster(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Forecast the reads of the next 7, 30, 90 and 180 days, and the tier of the next 30.

    All models have a fixed number of trees: setting rows aside at random would mix later days into earlier ones. What
    needs unseen rows (the calibration of the probabilities, the thresholds between tiers) is learnt on the newest
    training cutoffs, from models that were fitted to labels that end before those; the final models then learn from all
    rows.

    Parameters
    ----------
    max_iter, learning_rate, max_leaf_nodes, min_samples_leaf, l2_regularization :
        of all ``HistGradientBoosting`` models. With fewer than 20 rows a leaf, leaves may be smaller.
    threads : int
        Most threads that fitting and predicting may take. One is the default: the trees are small, and two threads that
        meet at every node of them take five times as long as one on a machine that has other work to do.
    random_state : int

    Attributes
    ----------
    any_, reads_ : lists of the 4 fitted models, None where a horizon has none.
    exceeds_ : the model of more than some number of reads in 30 days, or None when no object was read as often.
    learnt_ : ndarray of shape (4,)
        False for a horizon that no label reached: it goes on from the last two that were learnt, the rate of reads and
        the hazard of a first one staying as between those.
    constant_any_, constant_reads_ : ndarray of shape (4,)
        Share of rows with a read, and mean reads: the forecast where there is no model, because all rows are alike.
    calibration_ : ndarray of shape (4, 2)
        Slope and intercept of Platt's calibration of ``any_`` on the log-odds, for each horizon; (1, 0) where there
        were no rows to learn it from, or where it would not have helped later.
    tier_thresholds_ : ndarray of shape (2,)
        Above which probability of more than 100 reads an object is hot, and above which of more than 10 it is warm.
        They are where macro-F1 and accuracy together are expected to be highest.
    unknown_ : ndarray of shape (n_features_in_,)
        True for a feature that was NaN in all rows of the fit: nothing was learnt of it, and it is not looked at.
    classes_ : ndarray of shape (3,)
        Tiers in the order of ``predict_proba``'s columns: ``domain.access.FORECAST_TIERS``.
    reference_edges_, reference_counts_ : ndarray of shape (TREE_FEATURES, 9) and (TREE_FEATURES, 10)
        Deciles of the features at the newest training cutoff, and how many of its rows lie between them: what drift is
        measured against.
    usage_ : ``usage.UsageStates`` or None
        The states of use and the chain between them, which placement decides by. Training fits it apart.
    n_features_in_, feature_names_in_ : as in scikit-learn.
    """

    def __init__(
        self,
        *,
        max_iter: int = 30,
        learning_rate: float = 0.15,
        max_leaf_nodes: int = 10,
        min_samples_leaf: int = 40,
        l2_regularization: float = 1.0,
        threads: int = 1,
        random_state: int = 20,
    ) -> None:
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, *, cutoffs: ArrayLike | None = None, growth: ArrayLike | None = None) -> Self:
        """Fit to rows of features and the reads that followed.

        X : array or data frame of shape (n, len(FEATURE_NAMES)), in that order; NaN means unknown.
        y : reads in each of ``HORIZONS`` from the cutoff on, shape (n, 4), not negative, NaN where the days are not
            over, which those of the 30 days must be; or these alone, shape (n,).
        cutoffs : the day of each row's cutoff as a number, shape (n,). Without it nothing is calibrated.
        growth : how much more was read altogether in the 30 days after a row's cutoff than in the 30 before, shape
            (n,). The tier is learnt as if that had been 1: what a season did to all objects says nothing of the next.
        Raises ``ValueError`` when X has other features, y is negative or unknown, or all of one band.
        """
        values = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        if values.shape[1] != len(FEATURE_NAMES) or tuple(getattr(self, "feature_names_in_", FEATURE_NAMES)) != (
            FEATURE_NAMES
        ):
            raise ValueError(f"X holds other features than the {len(FEATURE_NAMES)} of FEATURE_NAMES")
        reads = _labels(y)
        check_consistent_length(values, reads)
        codes = band_codes(reads[:, MONTH])
        if (codes == codes[0]).all():
            raise ValueError(f"all rows are of one band, {BANDS[codes[0]]}: nothing to tell apart")
        # the trees cannot bin a column without a value, e.g. the reads of a last year that the logs do not reach
        self.unknown_ = np.isnan(values).all(axis=0)
        days = np.zeros(len(values)) if cutoffs is None else np.asarray(cutoffs, dtype=np.float64)
        grown = np.ones(len(values)) if growth is None else np.clip(np.asarray(growth, dtype=np.float64), 0.5, 2.0)
        newest = values[days == days.max(), :TREE_FEATURES]
        self.reference_edges_ = reference_edges(newest)
        self.reference_counts_ = count_by_bin(newest, self.reference_edges_)
        self.classes_ = np.array([str(tier) for tier in FORECAST_TIERS])
        self.calibration_ = np.tile(_UNCALIBRATED, (len(HORIZONS), 1))
        self.constant_any_, self.constant_reads_ = np.zeros(len(HORIZONS)), np.zeros(len(HORIZONS))
        self.learnt_ = np.zeros(len(HORIZONS), dtype=np.bool_)
        self.any_: list[HistGradientBoostingClassifier | None] = []
        self.reads_: list[HistGradientBoostingRegressor | None] = []
        self.usage_: UsageStates | None = None
        with threadpool_limits(self.threads):
            for place, horizon in enumerate(HORIZONS):
                self._fit_horizon(place, horizon, self._tree_columns(values), reads[:, place], days)
            self._fit_tiers(values, reads[:, MONTH] / grown, days)
        return self

    def distribution(self, X: Any) -> ReadDistribution:
        """Forecast every horizon, the tier and the week's profile at once: what the other methods are made of."""
        check_is_fitted(self)
        values: Floats = validate_data(
            self, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=0, reset=False
        )
        count = len(values)
        any_read, reads = np.empty((count, len(HORIZONS))), np.empty((count, len(HORIZONS)))
        with threadpool_limits(self.threads):
            columns = self._tree_columns(values)
            for place in range(len(HORIZONS)):
                any_read[:, place] = self._probability_any(place, columns)
                reads[:, place] = self._expected(place, columns)
            tiers = self._tier_probabilities(values)
        any_read, reads = self._derived(any_read, reads)
        any_read = np.maximum.accumulate(any_read, axis=1)
        # Markov: as many reads are to be expected as one is probable. The trees know nothing of each other.
        reads = np.maximum(np.maximum.accumulate(reads, axis=1), any_read)
        profile = values[:, [FEATURE_NAMES.index(name) for name in WEEKDAYS_AHEAD]]
        total = profile.sum(axis=1, keepdims=True)
        profile = np.divide(profile, total, out=np.full_like(profile, 1.0 / 7.0), where=total > 0)
        return ReadDistribution(any_read, reads, tiers, profile, self._recommendation(tiers))

    def predict(self, X: Any) -> Floats:
        """Expect reads in the next 30 days. Shape (n,)."""
        return self.distribution(X).expected_reads[:, MONTH]

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Give the share of the Poisson deviance of the next 30 days' reads that ``predict`` explains, 1 at best.

        0 is what the mean of ``y`` itself would reach, as for scikit-learn's ``PoissonRegressor``. ``y`` as in ``fit``.
        Raises ``ValueError`` when nothing at all was read: then there is nothing to explain.
        """
        reads = _labels(y)[:, MONTH]
        if not reads.any():
            raise ValueError("y holds no read: there is nothing to explain")
        expected = np.maximum(self.predict(X), _NO_READ_AT_ALL)  # the deviance of a read that was ruled out is infinite
        return float(d2_tweedie_score(reads, expected, sample_weight=sample_weight, power=1))

    def predict_proba(self, X: Any) -> Floats:
        """Give the probability of each tier in the next 30 days, in the order of ``classes_``. Shape (n, 3)."""
        return self.distribution(X).tier_probabilities

    def probability_any(self, X: Any) -> Floats:
        """Give the probability of at least one read in the next 30 days. Shape (n,)."""
        return self.distribution(X).probability_any[:, MONTH]

    def forecast(self, X: Any, horizon_days: int) -> HorizonForecast:
        """Forecast the reads of any horizon from 1 to 730 days, see ``ReadDistribution.over``."""
        return self.distribution(X).over(horizon_days)

    def daily_forecast(self, X: Any) -> Floats:
        """Expect reads on each of the next 7 days, after the object's weekday profile. Shape (n, 7)."""
        return self.distribution(X).daily_reads()

    def recommend_tier(self, X: Any) -> TierRecommendation:
        """Recommend the tier of the next 30 days, with its probability."""
        return self.distribution(X).recommendation

    def _settings(self, rows: int) -> dict[str, Any]:
        return {
            "max_iter": self.max_iter,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_samples_leaf": int(min(self.min_samples_leaf, max(2, rows // 20))),
            "l2_regularization": self.l2_regularization,
            # provider and content family stay numbers, which trees cut apart as well: the encoder that scikit-learn
            # adds for categories holds a functools.partial, a type that no stored model should be trusted with
            "categorical_features": None,
            "early_stopping": False,
            "random_state": self.random_state,
        }

    def _tree_columns(self, values: Floats) -> Floats:
        """Take the trees' features, and blank what nothing was learnt of."""
        return np.where(self.unknown_[:TREE_FEATURES], 0.0, values[:, :TREE_FEATURES])

    def _fit_horizon(self, place: int, horizon: int, columns: Floats, reads: Floats, days: Floats) -> None:
        known = np.isfinite(reads)
        self.any_.append(None)
        self.reads_.append(None)
        if known.sum() < min(_LEAST_ROWS, len(reads)):
            return
        self.learnt_[place] = True
        columns, reads, days = columns[known], reads[known], days[known]
        was_read = reads > 0
        self.constant_any_[place], self.constant_reads_[place] = was_read.mean(), reads.mean()
        settings = self._settings(len(reads))
        binned = _binnable(_on_a_grid(columns))
        if not was_read.any():
            return
        self.reads_[place] = HistGradientBoostingRegressor(loss="poisson", **settings).fit(binned, reads)
        if was_read.all():
            return
        self.any_[place] = HistGradientBoostingClassifier(**settings).fit(binned, was_read)
        early, late = _earlier_and_later(days, horizon)
        if _tells_apart(was_read[early]) and _tells_apart(was_read[late]):
            settings = self._settings(int(early.sum()))
            model = HistGradientBoostingClassifier(**settings).fit(_binnable(binned[early]), was_read[early])
            said = model.predict_proba(columns[late])[:, 1]
            self.calibration_[place] = _proven_platt(said, was_read[late], days[late])

    def _fit_tiers(self, values: Floats, reads: Floats, days: Floats) -> None:
        rates, habits = _relative_inputs(values)
        self.exceeds_: HistGradientBoostingClassifier | None = self._fit_exceeding(rates, habits, reads)
        self.tier_thresholds_ = np.array([0.5, 0.5])
        if self.exceeds_ is None:
            return
        early, late = _earlier_and_later(days, HORIZONS[MONTH])
        model = self.exceeds_
        if early.any():
            earlier = self._fit_exceeding(rates[early], habits[early], reads[early])
            warm = reads[late] > _TIER_READS[1]
            if earlier is not None and _tells_apart(warm):
                model = earlier
        probabilities = self._tier_probabilities(values[late], model)
        self.tier_thresholds_ = best_thresholds(probabilities)

    def _fit_exceeding(self, rates: Floats, habits: Floats, reads: Floats) -> HistGradientBoostingClassifier | None:
        rng = np.random.default_rng(self.random_state)
        inputs, labels = [], []
        spread = np.log2(rates[:, [list(_RATE_DAYS).index(name) for name in _NEAR]] + 0.5)
        for number in _LEARNT_READS:
            # objects that are read about as often teach where the border runs; of the others, one in twenty will do
            near = (np.abs(spread - np.log2(number)) < 2.5).any(axis=1) | (rng.random(len(reads)) < 0.05)
            inputs.append(_relative(rates[near], habits[near], np.full(int(near.sum()), number)))
            labels.append(reads[near] > number)
        label, stacked = np.concatenate(labels), np.concatenate(inputs)
        if not _tells_apart(label, 2):
            return None
        return HistGradientBoostingClassifier(
            # who was read more will not be read less, all else being equal
            monotonic_cst=[1] * len(_RATE_DAYS) + [0] * (len(_HABITS) + 1),
            **self._settings(len(label)),
        ).fit(_binnable(stacked), label)

    def _tier_probabilities(self, values: Floats, model: HistGradientBoostingClassifier | None = None) -> Floats:
        model = model or self.exceeds_
        above = np.zeros((len(values), len(_TIER_READS)))
        if model is not None and len(values):
            rates, habits = _relative_inputs(values)
            # when all the bucket is read a tenth more, an object needs a tenth less of its own to pass the number
            trend = np.clip(values[:, FEATURE_NAMES.index("bucket_trend")], -np.log(2.0), np.log(2.0))
            expected_growth = np.exp(_TREND_LASTS * np.nan_to_num(trend))
            for place, number in enumerate(_TIER_READS):
                said = model.predict_proba(_relative(rates, habits, number / expected_growth))[:, 1]
                above[:, place] = np.clip(said, _CERTAIN, 1.0 - _CERTAIN)
        above[:, 0] = np.minimum(above[:, 0], above[:, 1])
        return np.column_stack([above[:, 0], above[:, 1] - above[:, 0], 1.0 - above[:, 1]])

    def _recommendation(self, probabilities: Floats) -> TierRecommendation:
        tier = _tiers_by(probabilities, self.tier_thresholds_)
        return TierRecommendation(tier, np.take_along_axis(probabilities, tier[:, None], axis=1)[:, 0])

    def _probability_any(self, place: int, columns: Floats) -> Floats:
        model = self.any_[place]
        if model is None or not len(columns):
            return np.full(len(columns), np.clip(self.constant_any_[place], _CERTAIN, 1.0 - _CERTAIN))
        return _calibrated(model.predict_proba(columns)[:, 1], self.calibration_[place])

    def _expected(self, place: int, columns: Floats) -> Floats:
        model = self.reads_[place]
        if model is None or not len(columns):
            return np.full(len(columns), self.constant_reads_[place])
        expected: Floats = np.maximum(model.predict(columns), 0.0)
        return expected

    def _derived(self, any_read: Floats, reads: Floats) -> tuple[Floats, Floats]:
        """Fill the horizons that were not learnt: rate and hazard go on as between the last two that were."""
        learnt = np.flatnonzero(self.learnt_)
        hazard = -np.log1p(-any_read)
        for place in np.flatnonzero(~self.learnt_):
            days = np.array([HORIZONS[known] for known in learnt])
            for array in (reads, hazard):
                known = np.maximum.accumulate(array[:, learnt], axis=1)
                array[:, place] = _at(known, HORIZONS[place], days)
        return -np.expm1(-hazard), reads


_UNCALIBRATED: Final = np.array([1.0, 0.0])
_NEAR: Final = ("reads_30_days", "rate_halved_14_days", "rate_halved_45_days")


def data_frame(values: Floats) -> pd.DataFrame:
    """Give a feature matrix the names that the forecaster was fitted with."""
    return pd.DataFrame(values, columns=list(FEATURE_NAMES))


def best_thresholds(probabilities: Floats) -> Floats:
    """Find the thresholds for hot and warm with the highest expected macro-F1 plus accuracy.

    probabilities : of each tier, shape (n, 3). They say what to expect of any labelling, so that no label is needed: of
    a tier's chosen objects as many are right as their probabilities add up to. Shape (2,).
    """
    steps = np.linspace(0.2, 0.6, 21)
    total = probabilities.sum(axis=0)
    best, chosen = -1.0, np.array([0.5, 0.5])
    occurring = total >= 0.5
    for hot in steps if occurring[0] else (0.5,):
        for warm in steps if occurring[1] else (0.5,):
            tier = _tiers_by(probabilities, np.array([hot, warm]))
            right = np.bincount(tier, weights=probabilities[np.arange(len(tier)), tier], minlength=len(total))
            f1 = 2.0 * right / (np.bincount(tier, minlength=len(total)) + total + 1e-9)
            expected = f1[occurring].mean() + right.sum() / max(1, len(tier)) if occurring.any() else 0.0
            if expected > best:
                best, chosen = float(expected), np.array([hot, warm])
    return chosen


def _tiers_by(probabilities: Floats, thresholds: Floats) -> Integers:
    hot = probabilities[:, 0] > thresholds[0]
    warm = probabilities[:, 0] + probabilities[:, 1] > thresholds[1]
    tier: Integers = np.where(hot, 0, np.where(warm, 1, 2)).astype(np.int64)
    return tier


def _labels(y: ArrayLike) -> Floats:
    given = np.asarray(y, dtype=np.float64)
    if given.ndim == 1:
        alone = given
        given = np.full((len(alone), len(HORIZONS)), np.nan)
        given[:, MONTH] = alone
    if given.ndim != 2 or given.shape[1] != len(HORIZONS):
        raise ValueError(f"y has shape {given.shape}: (n,) or (n, {len(HORIZONS)}) is wanted")
    if not np.isfinite(given[:, MONTH]).all() or (given < 0).any() or np.isinf(given).any():
        raise ValueError("y holds reads: not negative, and known for 30 days")
    return given


def _on_a_grid(columns: Floats) -> Floats:
    """Round what is counted to twelve steps a doubling, so that the trees' 255 bins reach into the long tail.

    They cut a column at its quantiles, and hardly any of those lies among the few objects that are read very often. A
    tree that was grown on rounded figures cuts between them, so that it takes figures as they are.
    """
    rounded = columns.copy()
    for place, name in enumerate(FEATURE_NAMES[: columns.shape[1]]):
        if name.startswith(("reads_", "rate_", "sibling_reads", "content_sibling_reads", "writes_")):
            steps = np.round(np.log2(1.0 + np.maximum(columns[:, place], 0.0)) * 12.0)
            rounded[:, place] = np.exp2(steps / 12.0) - 1.0
    return rounded


def _binnable(columns: Floats) -> Floats:
    """Blank the columns without any value, which the trees cannot bin; nothing is learnt of a constant."""
    return np.where(np.isnan(columns).all(axis=0), 0.0, columns)


def _relative_inputs(values: Floats) -> tuple[Floats, Floats]:
    """Give rates per 30 days, shape (n, 8), and habits, shape (n, 5).

    A rate that the history is too short for is that of the decayed reads.
    """
    rates = np.column_stack([values[:, FEATURE_NAMES.index(name)] * (30.0 / days) for name, days in _RATE_DAYS.items()])
    rates = np.where(np.isnan(rates), rates[:, -1:], rates)
    return rates, values[:, [FEATURE_NAMES.index(name) for name in _HABITS]]


def _relative(rates: Floats, habits: Floats, number: Floats) -> Floats:
    """Give the inputs of ``exceeds_`` for one number of reads a row. Shape (n, 14)."""
    return np.column_stack([np.log2((rates + 0.5) / (number[:, None] + 0.5)), habits, number])


def _earlier_and_later(days: Floats, horizon: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split rows by time: the newest third of the cutoffs, and the rows whose labels end before the first of those."""
    cutoffs = np.unique(days)
    first = cutoffs[-max(1, len(cutoffs) // 3)]
    return days + horizon <= first, days >= first


def _tells_apart(label: NDArray[np.bool_], least: int = _LEAST_OF_A_KIND) -> bool:
    positive = int(label.sum())
    return positive >= least and len(label) - positive >= least


def _proven_platt(probability: Floats, label: NDArray[np.bool_], days: Floats) -> Floats:
    """Fit a calibration, and keep it only if one that the older half of the rows teaches is right for the newer half.

    Shape (2,): slope and intercept.
    """
    cutoffs = np.unique(days)
    older = days < cutoffs[len(cutoffs) // 2]
    if not _tells_apart(label[older]) or not _tells_apart(label[~older]):
        return _UNCALIBRATED.copy()
    taught = _platt(probability[older], label[older])
    before, after = (
        log_loss(label[~older], _calibrated(probability[~older], calibration))
        for calibration in (_UNCALIBRATED, taught)
    )
    return _platt(probability, label) if after < before else _UNCALIBRATED.copy()


def _platt(probability: Floats, label: NDArray[np.bool_]) -> Floats:
    """Fit slope and intercept of the log-odds (Platt, 1999), the mean probability staying as it was. Shape (2,).

    How much more or less was read altogether in one window is its season, which the next will not share; how far the
    probabilities should be apart is the model's own trait.
    """
    odds = _log_odds(probability)
    slope = float(LogisticRegression(C=1e3, max_iter=200).fit(odds[:, None], label).coef_[0, 0])
    if slope <= 0:
        return _UNCALIBRATED.copy()
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2.0
        if float(_calibrated(probability, np.array([slope, middle])).mean()) < float(probability.mean()):
            low = middle
        else:
            high = middle
    return np.array([slope, (low + high) / 2.0])


def _calibrated(probability: Floats, calibration: Floats) -> Floats:
    slope, intercept = calibration
    calibrated: Floats = 1.0 / (1.0 + np.exp(-(slope * _log_odds(probability) + intercept)))
    return np.clip(calibrated, _CERTAIN, 1.0 - _CERTAIN)


def _log_odds(probability: Floats) -> Floats:
    kept = np.clip(probability, 1e-7, 1.0 - 1e-7)
    odds: Floats = np.log(kept) - np.log1p(-kept)
    return odds


def _at(figures: Floats, day: int, known_days: NDArray[Any] | None = None) -> Floats:
    """Interpolate cumulative figures, shape (n, k), at one day; 0 at day 0, the last slope beyond. Shape (n,)."""
    days = np.concatenate([[0], np.array(HORIZONS) if known_days is None else known_days])
    from_zero = np.column_stack([np.zeros(len(figures)), figures])
    place = int(np.clip(np.searchsorted(days, day), 1, len(days) - 1))
    share = (day - days[place - 1]) / (days[place] - days[place - 1])
    at: Floats = from_zero[:, place - 1] + share * (from_zero[:, place] - from_zero[:, place - 1])
    return at


def tiers_of_reads(reads_month: ArrayLike) -> Integers:
    """Give the tier of reads seen in 30 days, as its position in ``FORECAST_TIERS``. Shape (n,)."""
    codes: Integers = tier_codes(reads_month).astype(np.int64)
    return codes
