"""The access forecaster: expected reads, the probability of each access band, and what both say of a longer horizon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # published without types

from cloudflux.domain.access import BANDS, AccessBand, band_codes
from cloudflux_ml.features import FEATURE_NAMES, Floats, Integers

ARCHIVE_CODE: Final = BANDS.index(AccessBand.ARCHIVE)
"""Bands are handled by their position in ``domain.access.BANDS``; this one means: no read at all."""
PERIOD_DAYS: Final = 30
_LEAST_PROBABILITY: Final = 0.001
"""Spread evenly over the bands, so that no band that was never seen costs an infinite log loss."""
_PRIOR_READS: Final = 20.0
"""Reads' worth of belief that a band's rate goes on as it is; a band with few reads stays near that."""


@dataclass(frozen=True, slots=True)
class HorizonForecast:
    """What is expected of each object over a horizon. All arrays have shape (n,)."""

    expected_reads: Floats
    probability_any: Floats
    """Of at least one read."""
    band: Integers
    """The most probable band of the first 30 days, as its position in ``BANDS``."""
    confidence: Floats
    """Probability of that band."""


class AccessForecaster(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Forecast the reads of the next 30 days, and their band.

    A Poisson regression over boosted trees gives the expected reads, a boosted classifier the probability of each
    band. Both have a fixed number of trees: setting rows aside at random would mix later days into earlier ones.

    Parameters
    ----------
    max_iter, learning_rate, max_leaf_nodes, min_samples_leaf, l2_regularization :
        of both ``HistGradientBoosting`` models. With fewer than 20 rows a leaf, leaves may be smaller.
    threads : int
        Most threads that fitting and predicting may take. One is the default: the trees are small, and two threads that
        meet at every node of them take five times as long as one on a machine that has other work to do.
    random_state : int

    Attributes
    ----------
    regressor_, classifier_ : the fitted models.
    unknown_ : ndarray of shape (n_features_in_,)
        True for a feature that was NaN in all rows of the fit: nothing was learnt of it, and it is not looked at.
    classes_ : ndarray of shape (4,)
        Bands in the order of ``predict_proba``'s columns: ``domain.access.BANDS``.
    decay_ : ndarray of shape (4,)
        By predicted band: rate of reads after the first 30 days, divided by the rate in them. 1 where it was not seen.
    recurrence_ : ndarray of shape (4,)
        By predicted band: how many independent periods of 30 days each further period counts for, when the chance of at
        least one read is computed. 1 where it was not seen.
    n_features_in_, feature_names_in_ : as in scikit-learn.
    """

    def __init__(
        self,
        *,
        max_iter: int = 80,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 15,
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

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        later_reads: ArrayLike | None = None,
        later_days: ArrayLike | None = None,
    ) -> Self:
        """Fit to rows of features and the reads that followed.

        X : array or data frame of shape (n, n_features); NaN means unknown.
        y : reads of the 30 days after the cutoff, shape (n,), not negative.
        later_reads : mean reads per 30 days from day 31 to ``later_days``, NaN where unknown, shape (n,).
        later_days : where ``later_reads`` ends, in days from the cutoff, shape (n,).
        Raises ``ValueError`` when ``y`` is negative, or all of one band.
        """
        values = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        reads = np.asarray(y, dtype=np.float64)
        check_consistent_length(values, reads)
        if (reads < 0).any() or not np.isfinite(reads).all():
            raise ValueError("y holds reads: finite and not negative")
        codes = band_codes(reads)
        if (codes == codes[0]).all():
            raise ValueError(f"all rows are of one band, {BANDS[codes[0]]}: nothing to tell apart")
        # the trees cannot bin a column without a value, e.g. the reads of a last year that the logs do not reach
        self.unknown_ = np.isnan(values).all(axis=0)
        values = np.where(self.unknown_, 0.0, values)
        shared = {
            "max_iter": self.max_iter,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_samples_leaf": int(min(self.min_samples_leaf, max(2, len(reads) // 20))),
            "l2_regularization": self.l2_regularization,
            # provider and content family stay numbers, which trees cut apart as well: the encoder that scikit-learn
            # adds for categories holds a functools.partial, a type that no stored model should be trusted with
            "categorical_features": None,
            "early_stopping": False,
            "random_state": self.random_state,
        }
        self.classes_ = np.array([str(band) for band in BANDS])
        with threadpool_limits(self.threads):
            self.regressor_ = HistGradientBoostingRegressor(loss="poisson", **shared).fit(values, reads)
            self.classifier_ = HistGradientBoostingClassifier(**shared).fit(values, codes)
        self.decay_ = np.ones(len(BANDS))
        self.recurrence_ = np.ones(len(BANDS))
        if later_reads is not None and later_days is not None:
            self._fit_later(values, reads, np.asarray(later_reads, np.float64), np.asarray(later_days, np.float64))
        return self

    def predict(self, X: Any) -> Floats:
        """Expect reads in the next 30 days. Shape (n,)."""
        return self._expected(self._validated(X))

    def predict_proba(self, X: Any) -> Floats:
        """Give the probability of each band, in the order of ``classes_``. Shape (n, 4); rows sum to 1."""
        return self._probabilities(self._validated(X))

    def predict_band(self, X: Any) -> Integers:
        """Give the most probable band, as its position in ``BANDS``. Shape (n,)."""
        codes: Integers = self.predict_proba(X).argmax(axis=1)
        return codes

    def probability_any(self, X: Any) -> Floats:
        """Give the probability of at least one read in the next 30 days. Shape (n,)."""
        return 1.0 - self.predict_proba(X)[:, ARCHIVE_CODE]

    def forecast(self, X: Any, horizon_days: int) -> HorizonForecast:
        """Stretch the forecast of 30 days over ``horizon_days``.

        Days after the thirtieth have the rate of the first 30 times ``decay_`` of the predicted band; a horizon shorter
        than 30 days has its share of the 30.
        """
        values = self._validated(X)
        probabilities = self._probabilities(values)
        band = probabilities.argmax(axis=1)
        further = (horizon_days - PERIOD_DAYS) / PERIOD_DAYS
        periods = 1.0 + self.decay_[band] * further if further > 0 else np.full(len(band), 1.0 + further)
        chances = 1.0 + self.recurrence_[band] * further if further > 0 else periods
        return HorizonForecast(
            expected_reads=self._expected(values) * periods,
            probability_any=1.0 - probabilities[:, ARCHIVE_CODE] ** chances,
            band=band,
            confidence=probabilities.max(axis=1),
        )

    def _validated(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        values: NDArray[np.float64] = validate_data(
            self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
        )
        return np.where(self.unknown_, 0.0, values)

    def _expected(self, values: Floats) -> Floats:
        with threadpool_limits(self.threads):
            expected: Floats = np.maximum(self.regressor_.predict(values), 0.0)
        return expected

    def _probabilities(self, values: Floats) -> Floats:
        with threadpool_limits(self.threads):
            seen = self.classifier_.predict_proba(values)
        probabilities = np.zeros((len(values), len(BANDS)))
        probabilities[:, self.classifier_.classes_] = seen
        return (1.0 - _LEAST_PROBABILITY) * probabilities + _LEAST_PROBABILITY / len(BANDS)

    def _fit_later(self, values: Floats, reads: Floats, later_reads: Floats, later_days: Floats) -> None:
        known = np.isfinite(later_reads)
        if not known.any():
            return
        reads, later_reads, later_days = reads[known], later_reads[known], later_days[known]
        probabilities = self._probabilities(values[known])
        band = probabilities.argmax(axis=1)
        for code in range(len(BANDS)):
            rows = band == code
            if not rows.any():
                continue
            ratio = (later_reads[rows].sum() + _PRIOR_READS) / (reads[rows].sum() + _PRIOR_READS)
            self.decay_[code] = np.clip(ratio, 0.05, 4.0)
            further = (later_days[rows] - PERIOD_DAYS) / PERIOD_DAYS
            seen = float(((reads[rows] > 0) | (later_reads[rows] > 0)).mean())
            self.recurrence_[code] = _recurrence(probabilities[rows, ARCHIVE_CODE], further, seen)


def data_frame(values: Floats) -> pd.DataFrame:
    """Give a feature matrix the names that the forecaster was fitted with."""
    return pd.DataFrame(values, columns=list(FEATURE_NAMES))


def _recurrence(probability_none: Floats, further: Floats, seen: float) -> float:
    """Find the number, between 0 and 1, that makes the expected share of objects with a read equal to ``seen``."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2.0
        if float((1.0 - probability_none ** (1.0 + middle * further)).mean()) < seen:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
