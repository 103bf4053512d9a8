"""States of use and the chain between them, learnt from daily reads: what the placement policy decides by.

A state is a leaf of a regression tree over a few features of an object's past: days since its last read, its age, and
its reads, each counting half as much after 7, 60 and 200 days. The features are few on purpose, and each says by
itself where it will be tomorrow: a chain between leaves that other features had cut would soon forget what they knew.
The tree is grown on how many reads followed within a week, a month and a season; the transitions are counted from one
day to the next, so that every day but the last teaches something, however short the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from cloudflux.domain.usage import UsageChain

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Rows = NDArray[np.intp]

HALF_LIVES_DAYS: Final = (7, 60, 200)
USAGE_FEATURES: Final = ("recency_days", "age_days", *(f"log_reads_half_life_{days}" for days in HALF_LIVES_DAYS))
"""Column order of a usage matrix."""
LABEL_DAYS: Final = (7, 30, 90)
"""How far behind a day the reads are counted that the tree is grown on; shorter where the history is."""
MOST_TRANSITIONS: Final = 300_000
"""Days of objects that a chain is learnt from."""
_WARM_UP_DAYS: Final = 90
_ENOUGH_DAYS: Final = 180
_LEAST_READS: Final = 1e-4  # the logarithm of decayed reads ends here: a read forgotten for years
_DAY_COLUMNS: Final = 2
_CRAWL_WARM_UP_DAYS: Final = 14
_CRAWL_LEAST_OBJECTS: Final = 20  # of one object, every first read in two months would be of everything
_CRAWL_SHARE: Final = 0.5
_CRAWL_FACTOR: Final = 5.0


class DailyReads(Protocol):
    """Reads by day of N objects that are numbered from 0."""

    @property
    def created(self) -> Integers:
        """First day of each object, as a number of days; shape (N,)."""

    def on(self, day: int) -> tuple[Rows, Floats]:
        """Give the objects read on a day, each once, and their reads."""


class UsageTracker:
    """The usage features of N objects, brought forward day by day. Costs what is read, not what there is."""

    def __init__(self, created: Integers) -> None:
        self.created = np.asarray(created, dtype=np.int64)
        count = len(self.created)
        self.today = 0
        """The first day that has not been observed."""
        self._last = np.full(count, np.iinfo(np.int64).min // 2)
        self._decayed = np.zeros((len(HALF_LIVES_DAYS), count))  # as of the day after the last read

    def observe(self, day: int, rows: Rows, reads: Floats) -> None:
        """Take in a day's reads, each object once. Days come in order; days without reads may be left out.

        Raises ``ValueError`` when the day has been observed already.
        """
        if day < self.today:
            raise ValueError(f"day {day} comes too late: {self.today - 1} has been observed")
        gap = (day - self._last[rows]).astype(np.float64)
        for place, half_life in enumerate(HALF_LIVES_DAYS):
            self._decayed[place, rows] = self._decayed[place, rows] * np.exp2(-gap / half_life) + reads
        self._last[rows] = day
        self.today = day + 1

    def recall(self, day: int, rows: Rows, reads: Floats) -> None:
        """Take in the reads of an earlier day that had been left out."""
        later = self._last[rows]
        newest = np.maximum(later, day)
        for place, half_life in enumerate(HALF_LIVES_DAYS):
            kept = self._decayed[place, rows] * np.exp2((later - newest).astype(np.float64) / half_life)
            self._decayed[place, rows] = kept + reads * np.exp2((day - newest).astype(np.float64) / half_life)
        self._last[rows] = newest

    def features(self, rows: Rows, day: int) -> Floats:
        """Give the features of some objects at the start of a day, from the days before it; shape (rows, 5).

        Raises ``ValueError`` when that day has been observed: it would be looking ahead.
        """
        if day < self.today:
            raise ValueError(f"day {self.today - 1} has been observed: nothing can be told as of day {day}")
        last = self._last[rows]
        return usage_matrix(
            last_read_days=np.where(last < 0, np.inf, day - last),
            age_days=day - self.created[rows],
            decayed_reads=[
                self._decayed[place, rows] * np.exp2(-(day - 1 - last) / half_life)
                for place, half_life in enumerate(HALF_LIVES_DAYS)
            ],
        )


class CrawlWatch:
    """Tells the day on which somebody read everything, once: no use of the objects, and no sign of what comes.

    A day looks like a crawl's when more than half of all objects are read on it (and there are 20 at least), and five
    times as many as on any other day before. What comes again is a rhythm, be it as slow as a quarter's end: it counts,
    and so does the first of its days from then on.
    """

    def __init__(self) -> None:
        self._days = self._most = 0
        self.first: int | None = None
        """The first day that looked like a crawl's."""
        self.recurs = False
        """Whether another day did since: the first was no crawl."""

    def is_crawl(self, day: int, read_objects: int, objects: int) -> bool:
        """Tell of one day; days come in order. What is told of the first may be taken back: see ``recurs``."""
        looks_like_it = (
            self._days >= _CRAWL_WARM_UP_DAYS
            and objects >= _CRAWL_LEAST_OBJECTS
            and read_objects > _CRAWL_SHARE * objects
            and read_objects > _CRAWL_FACTOR * self._most
        )
        self._days += 1
        if not looks_like_it:
            self._most = max(self._most, read_objects)
            return False
        if self.first is None:
            self.first = day
            return True
        self.recurs = True
        return False


def crawl_days(read_objects: Integers, objects: Integers) -> NDArray[np.bool_]:
    """Tell the crawl of each of several buckets, watched by a ``CrawlWatch`` from the first day to the last.

    read_objects, objects : how many were read, and how many there were, by bucket and day; shape (buckets, days).
    """
    crawled = np.zeros(read_objects.shape, dtype=np.bool_)
    for bucket in np.flatnonzero((read_objects > _CRAWL_SHARE * objects).any(axis=1)):  # no other can have one
        watch = CrawlWatch()
        for day, (read, there) in enumerate(zip(read_objects[bucket], objects[bucket], strict=True)):
            watch.is_crawl(day, int(read), int(there))
        if watch.first is not None and not watch.recurs:
            crawled[bucket, watch.first] = True
    return crawled


def usage_matrix(last_read_days: ArrayLike, age_days: ArrayLike, decayed_reads: list[Floats]) -> Floats:
    """Put the figures of N objects into the columns of ``USAGE_FEATURES``, shape (N, 5).

    last_read_days : 1 for a read on the day before; infinite when there was none, which counts as since its creation.
    age_days : days since the object came.
    decayed_reads : one array for each of ``HALF_LIVES_DAYS``; a read on the day before counts 1.
    """
    age = np.asarray(age_days, dtype=np.float64)
    last = np.asarray(last_read_days, dtype=np.float64)
    recency = np.where(np.isinf(last), age + 1.0, last)
    return np.column_stack([recency, age, *(np.log(reads + _LEAST_READS) for reads in decayed_reads)])


@dataclass(frozen=True, slots=True)
class Transitions:
    """Days of objects: how each began, what was read on it and after it, and how the next one began."""

    today: Floats
    """Usage features at the day's start, shape (n, 5)."""
    tomorrow: Floats
    """The same a day later."""
    reads: Floats
    """On the day, shape (n,)."""
    labels: Floats
    """For each of the label days: any read, and the logarithm of reads, from the day on; NaN where the history ends
    before; shape (n, 2 * label days)."""

    def __len__(self) -> int:
        return len(self.reads)


def sample_transitions(
    history: DailyReads, *, end: int, begin: int | None = None, most: int = MOST_TRANSITIONS, seed: int = 20
) -> Transitions:
    """Draw days of objects from the days before ``end``, evenly over the days and over the objects of each.

    Objects count from the day after their creation on. ``begin``: the first day that is drawn, at least 1; left out,
    what ``first_day_of`` says.
    """
    created = history.created
    first = first_day_of(end) if begin is None else max(1, begin)
    longest = min(end, max(20, (end - first) // 3))
    label_days = label_days_of(longest)
    days = np.arange(first, end - 1)
    each = max(1, most // max(1, len(days)))
    rng = np.random.default_rng(seed)
    tracker, parts, drawn = UsageTracker(created), [], []
    for day in range(end - 1):
        if day >= first:
            alive = np.flatnonzero(created < day)
            if len(alive):
                rows = alive if len(alive) <= each else np.sort(rng.choice(alive, each, replace=False))
                drawn.append((day, rows, tracker.features(rows, day)))
        rows_read, reads = history.on(day)
        tracker.observe(day, rows_read, reads)
        if drawn and drawn[-1][0] == day:
            _, rows, today = drawn[-1]
            counted = np.zeros(len(created))
            counted[rows_read] = reads
            parts.append((today, tracker.features(rows, day + 1), counted[rows]))
    if not parts:
        width = len(USAGE_FEATURES)
        nothing = np.empty((0, width))
        return Transitions(nothing, nothing, np.empty(0), np.empty((0, _DAY_COLUMNS * len(label_days))))
    labels = _labels(history, [(day, rows) for day, rows, _ in drawn], label_days, end)
    today, tomorrow, reads = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Transitions(today, tomorrow, reads, labels)


def first_day_of(end: int) -> int:
    """Give the first day that a history of ``end`` days teaches from.

    The newer half teaches, as the world changes; where that is less than half a year, as much more as there is, but
    neither the first 90 days nor the first quarter of a shorter history: then, little is known of any object's past.
    """
    warm_up = max(1, min(_WARM_UP_DAYS, end // 4))
    return min(max(warm_up, end - _ENOUGH_DAYS), max(warm_up, end // 2))


def join_transitions(parts: Sequence[Transitions]) -> Transitions:
    """Put the samples of several shards, whose histories end on the same day, one after another."""
    return Transitions(
        today=np.concatenate([part.today for part in parts]),
        tomorrow=np.concatenate([part.tomorrow for part in parts]),
        reads=np.concatenate([part.reads for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def label_days_of(longest: int) -> tuple[int, ...]:
    """Give the label days that a history allows whose longest label may have so many days."""
    return tuple(sorted({*(days for days in LABEL_DAYS if days < longest), min(longest, LABEL_DAYS[-1])}))


class UsageStates(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Cut usage features into states, and count how objects go from one to the next.

    Parameters
    ----------
    max_states : int
        Most leaves of the tree.
    min_samples_leaf : int
        Fewest days of objects in a state.

    Attributes
    ----------
    tree_ : DecisionTreeRegressor
    state_of_node_ : ndarray of shape (nodes,), the state of each leaf, -1 for inner nodes.
    unread_, read_, reads_, seen_ : the chain's arrays, see ``cloudflux.domain.usage.UsageChain``.
    n_features_in_ : as in scikit-learn.
    """

    def __init__(self, *, max_states: int = 250, min_samples_leaf: int = 150, random_state: int = 20) -> None:
        self.max_states = max_states
        self.min_samples_leaf = min_samples_leaf
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, *, tomorrow: ArrayLike, reads: ArrayLike) -> Self:
        """Grow the tree on the rows whose labels are known, and count the transitions of all.

        X : features at the start of a day, shape (n, n_features).
        y : what followed, shape (n, labels); a row with a NaN is not used for the tree.
        tomorrow : features a day later, shape (n, n_features).
        reads : reads on the day, shape (n,).
        Raises ``ValueError`` when no row has all its labels.
        """
        today = validate_data(self, X, dtype=np.float64)
        following = np.asarray(tomorrow, dtype=np.float64)
        labels, counted = np.asarray(y, dtype=np.float64), np.asarray(reads, dtype=np.float64)
        known = np.isfinite(labels).all(axis=1)
        if not known.any():
            raise ValueError("no row of y is complete: the history is too short for any label")
        spread = labels[known].std(axis=0)
        scaled = labels[known][:, spread > 0] / spread[spread > 0]
        if scaled.shape[1] == 0:
            scaled = np.zeros((int(known.sum()), 1))  # nothing tells the objects apart: one state
        self.tree_ = DecisionTreeRegressor(
            max_leaf_nodes=max(2, self.max_states),
            min_samples_leaf=int(min(self.min_samples_leaf, max(1, known.sum() // 10))),
            random_state=self.random_state,
        ).fit(today[known], scaled)
        leaves = np.flatnonzero(self.tree_.tree_.children_left < 0)
        self.state_of_node_ = np.full(self.tree_.tree_.node_count, -1, dtype=np.int64)
        self.state_of_node_[leaves] = np.arange(len(leaves))
        self._count(self.predict(today), self.predict(following), counted, len(leaves))
        return self

    def predict(self, X: Any) -> Rows:
        """Give each row's state, shape (n,)."""
        check_is_fitted(self)
        values = np.asarray(X, dtype=np.float32)
        if not len(values):  # an empty shard, which scikit-learn's trees refuse
            return np.empty(0, dtype=np.intp)
        states: Rows = self.state_of_node_[self.tree_.apply(values)].astype(np.intp)
        return states

    @property
    def chain(self) -> UsageChain:
        """The transitions between the states."""
        check_is_fitted(self)
        return UsageChain(unread=self.unread_, read=self.read_, reads=self.reads_, seen=self.seen_)

    def require_sound(self) -> None:
        """Raise ``ValueError`` when a stored tree or chain is damaged: scikit-learn follows any index it is given."""
        tree = self.tree_.tree_
        count, nodes = tree.node_count, np.arange(tree.node_count)
        for children in (tree.children_left, tree.children_right):
            inner = tree.children_left >= 0
            if bool((children[inner] <= nodes[inner]).any() or (children >= count).any()):
                raise ValueError("the tree's nodes do not follow each other")
        if bool((tree.feature >= self.n_features_in_).any() or (tree.feature[inner] < 0).any()):
            raise ValueError("the tree asks for a feature that does not exist")
        states = self.state_of_node_
        if states.shape != (count,) or states.max() >= len(self.chain) or bool((states[~inner] < 0).any()):
            raise ValueError("the tree has other leaves than the chain has states")

    def _count(self, today: Rows, tomorrow: Rows, reads: Floats, states: int) -> None:
        pairs = today * states + tomorrow
        was_read = reads > 0
        seen = np.bincount(today, minlength=states).astype(np.float64)
        counts = [
            np.bincount(pairs[rows], minlength=states * states).reshape(states, states).astype(np.float64)
            for rows in (~was_read, was_read)
        ]
        # a state that no sampled day began in stays as it is, unread: it is never looked up but for odd rows
        counts[0][seen == 0, seen == 0] = 1.0
        total = np.maximum(seen, 1.0)
        self.unread_, self.read_ = counts[0] / total[:, None], counts[1] / total[:, None]
        self.reads_ = np.bincount(today, weights=reads, minlength=states) / total
        self.seen_ = seen


def fit_usage_states(transitions: Transitions, **params: Any) -> UsageStates:
    """Learn states and chain from sampled transitions. Raises ``ValueError`` when there are none with labels."""
    return UsageStates(**params).fit(
        transitions.today, transitions.labels, tomorrow=transitions.tomorrow, reads=transitions.reads
    )


def _labels(history: DailyReads, drawn: list[tuple[int, Rows]], label_days: tuple[int, ...], end: int) -> Floats:
    """Count the reads of each drawn row from its day on, for each of the label days."""
    count = len(history.created)
    running = np.zeros(count)  # reads before the current day
    starts = {day: place for place, (day, _) in enumerate(drawn)}
    befores: dict[int, Floats] = {}
    columns = [[np.full(len(rows), np.nan) for _, rows in drawn] for _ in label_days]
    for day in range(end + 1):
        for column, span in zip(columns, label_days, strict=True):
            place = starts.get(day - span)
            if place is not None:
                column[place] = running[drawn[place][1]] - befores[place]
        if day in starts:
            befores[starts[day]] = running[drawn[starts[day]][1]]
        if day < end:
            rows, reads = history.on(day)
            running[rows] += reads
    counted = [np.concatenate(column) for column in columns]
    return np.column_stack(
        [part for reads in counted for part in (np.where(np.isnan(reads), np.nan, reads > 0), np.log1p(reads))]
    )
