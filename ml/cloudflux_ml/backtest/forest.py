"""The naive ML rival: a random forest predicts tomorrow's reads, and thresholds on them choose the class.

It knows neither prices nor what a move costs, and takes tomorrow for the months that a class's minimum days last.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from cloudflux.domain.accounting import Account, Days, Tariff
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.tiers import Tier
from cloudflux_ml.backtest.replay import SMALL_BYTES, Moves
from cloudflux_ml.backtest.rivals import code_of_tier
from cloudflux_ml.backtest.trace import Trace

HOT_ABOVE_READS_DAY: Final = 14.0
WARM_ABOVE_READS_DAY: Final = 1.4
TREES: Final = 100
_SAMPLE_ROWS: Final = 50_000
"""Objects and days that it learns from, at most. More change its answers little and its time much."""
_LEAF_ROWS: Final = 5
_DEPTH: Final = 12
_MEAN_DAYS: Final = 7


class NaiveForest:
    """Predicts each object's reads of the day from the weekday, the hour, the day of the month, the previous day's
    reads and the mean of seven days; above 14 hot, above 1.4 warm, else cold, every day anew.

    It is trained once, on days before the window, and moves no objects below 128 KiB. The hour is 0: a trace has days.
    """

    name = "naive-forest"

    def __init__(self, trace: Trace, tariff: Tariff, seed: int) -> None:
        self._first_day = trace.first_day
        self._large = trace.size_bytes >= SMALL_BYTES
        self._codes = np.array(
            [code_of_tier(tariff, tier, self.name) for tier in (Tier.COLD, Tier.WARM, Tier.HOT)], dtype=np.intp
        )
        self._previous: Days = np.zeros(trace.objects, dtype=np.int64)
        self._week: Days = np.zeros(trace.objects, dtype=np.int64)
        self._recent: deque[tuple[Codes, NDArray[np.int64]]] = deque()
        self._known: dict[tuple[int, int, int, int], int] = {}
        """What the forest said before: the features without the hour, and the code."""
        values, reads = self._sample(trace, np.random.default_rng(seed))
        self._forest = RandomForestRegressor(
            TREES, min_samples_leaf=_LEAF_ROWS, max_depth=_DEPTH, random_state=seed, n_jobs=1
        ).fit(values, reads)

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Count the last seven days' reads."""
        self._previous[:] = 0
        self._previous[rows] = reads
        self._week[rows] += reads
        self._recent.append((rows, reads))
        if len(self._recent) > _MEAN_DAYS:
            gone, count = self._recent.popleft()
            self._week[gone] -= count

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Put every object into the class that the prediction for today names."""
        rows = np.flatnonzero(movable & self._large)
        # few histories differ: most objects were not read for a week
        key = self._previous[rows] * (self._week.max() + 1) + self._week[rows]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        codes = self._codes_of(day, self._previous[rows[first]], self._week[rows[first]])
        return rows, codes[inverse]

    def _codes_of(self, day: int, previous: Days, week: Days) -> Codes:
        date = self._first_day + timedelta(days=day)
        keys = [(date.weekday(), date.day, int(p), int(w)) for p, w in zip(previous, week, strict=True)]
        new = [key for key in keys if key not in self._known]
        if new:
            reads = self._forest.predict(_values(*np.array(new).T))
            level = (reads > WARM_ABOVE_READS_DAY).astype(int) + (reads > HOT_ABOVE_READS_DAY)
            self._known.update(zip(new, map(int, self._codes[level]), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.intp)

    def _sample(self, trace: Trace, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw days and objects of the history; give their features and the reads that followed."""
        days = trace.known_days
        alive = np.searchsorted(np.sort(trace.created), np.arange(days), side="left")  # created before each day
        share = min(1.0, _SAMPLE_ROWS / max(int(alive.sum()), 1))
        values: list[Floats] = [np.zeros((1, 5))]  # an object that was never read will not be: never without a row
        targets: list[Floats] = [np.zeros(1)]
        for day in range(days):
            rows, reads = trace.on(day)
            there = np.flatnonzero(trace.created < day)
            drawn = there[random.random(len(there)) < share]
            if len(drawn):
                date = trace.first_day + timedelta(days=day)
                count = np.zeros(trace.objects)
                count[rows] = reads
                weekday, month_day = np.full(len(drawn), date.weekday()), np.full(len(drawn), date.day)
                values.append(_values(weekday, month_day, self._previous[drawn], self._week[drawn]))
                targets.append(count[drawn])
            self.observe(day, rows, reads)
        # the replay tells of the history once more
        self._previous[:] = 0
        self._week[:] = 0
        self._recent.clear()
        return np.concatenate(values), np.concatenate(targets)


def _values(weekday: Days, month_day: Days, previous: Days, week: Days) -> Floats:
    """Give the five features, shape (n, 5)."""
    return np.stack([weekday, np.zeros(len(weekday)), month_day, previous, week / _MEAN_DAYS], axis=1)
