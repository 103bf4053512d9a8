"""States of use and the chain between them: features and labels against plain ones, calibration, and odd histories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from cloudflux_ml.usage import (
    HALF_LIVES_DAYS,
    USAGE_FEATURES,
    CrawlWatch,
    Transitions,
    UsageStates,
    UsageTracker,
    crawl_days,
    first_day_of,
    fit_usage_states,
    join_transitions,
    label_days_of,
    sample_transitions,
)

Matrix = NDArray[np.float64]


class History:
    """Reads of a matrix, shape (objects, days)."""

    def __init__(self, reads: Matrix, created: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        self.reads = np.asarray(reads, dtype=np.float64)
        self._created = np.zeros(len(self.reads), dtype=np.int64) if created is None else np.asarray(created)
        self.asked: list[int] = []

    @property
    def created(self) -> NDArray[np.int64]:
        return self._created

    def on(self, day: int) -> tuple[NDArray[np.intp], Matrix]:
        self.asked.append(day)
        rows = np.flatnonzero(self.reads[:, day])
        return rows, self.reads[rows, day]


def random_history(objects: int, days: int, seed: int = 1) -> History:
    """Give objects of very different rates, a third of them created on the way."""
    rng = np.random.default_rng(seed)
    created = np.where(rng.random(objects) < 0.3, rng.integers(0, days, objects), 0)
    rate = rng.gamma(0.3, 1.0, objects)
    reads = rng.poisson(rate[:, None], (objects, days)) * (np.arange(days) >= created[:, None])
    return History(reads, created)


def plain_features(reads: Matrix, created: int, day: int) -> list[float]:
    """Compute one object's features the way they are described. ``reads`` is its row."""
    before = [(past, count) for past, count in enumerate(reads[:day]) if count]
    decayed = [sum(count * 0.5 ** ((day - 1 - past) / days) for past, count in before) for days in HALF_LIVES_DAYS]
    age = day - created
    return [day - before[-1][0] if before else age + 1, age, *(math.log(total + 1e-4) for total in decayed)]


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 80))
def test_features_equal_the_plain_ones(seed: int, day: int) -> None:
    history = random_history(20, 80, seed)
    tracker = UsageTracker(history.created)
    for past in range(day):
        if past % 3 or len(history.on(past)[0]):  # days without reads may be left out
            tracker.observe(past, *history.on(past))
    rows = np.flatnonzero(history.created <= day)[::-1]
    values = tracker.features(rows, day)
    assert values.shape == (len(rows), len(USAGE_FEATURES))
    for row, said in zip(rows, values, strict=True):
        assert said == pytest.approx(plain_features(history.reads[row], int(history.created[row]), day), rel=1e-9)


def test_tracker_never_sees_the_future() -> None:
    tracker = UsageTracker(np.zeros(3, dtype=np.int64))
    tracker.observe(4, np.array([1]), np.array([2.0]))
    everything = np.arange(3)
    with pytest.raises(ValueError, match="day 4 has been observed: nothing can be told as of day 4"):
        tracker.features(everything, 4)
    with pytest.raises(ValueError, match="day 4 comes too late: 4 has been observed"):
        tracker.observe(4, np.array([1]), np.array([2.0]))
    with pytest.raises(ValueError, match="day 2 comes too late"):
        tracker.observe(2, np.array([1]), np.array([2.0]))
    assert tracker.features(everything, 5)[:, 0].tolist() == [6.0, 1.0, 6.0]


@pytest.mark.parametrize(("end", "first", "longest"), [(200, 50, 50), (30, 7, 20), (400, 200, 66)])
def test_labels_equal_the_plain_ones(end: int, first: int, longest: int) -> None:
    history = random_history(15, end + 50)
    drawn = sample_transitions(history, end=end, most=10**9)
    assert max(history.asked) < end
    spans = label_days_of(longest)
    assert drawn.labels.shape == (len(drawn), 2 * len(spans))
    place = 0
    for day in range(first, end - 1):
        for row in np.flatnonzero(history.created < day):
            reads, created = history.reads[row], int(history.created[row])
            assert drawn.today[place] == pytest.approx(plain_features(reads, created, day))
            assert drawn.tomorrow[place] == pytest.approx(plain_features(reads, created, day + 1))
            assert drawn.reads[place] == reads[day]
            expected: list[float] = []
            for span in spans:
                after = reads[day : day + span].sum()
                expected += [float(after > 0), math.log1p(after)] if day + span <= end else [math.nan, math.nan]
            assert drawn.labels[place] == pytest.approx(expected, nan_ok=True)
            place += 1
    assert place == len(drawn)


@pytest.mark.parametrize(
    ("end", "first"), [(0, 1), (3, 1), (30, 7), (200, 50), (300, 120), (347, 167), (400, 200), (2028, 1014)]
)
def test_the_newer_half_teaches_but_half_a_year_where_there_is_as_much(end: int, first: int) -> None:
    assert first_day_of(end) == first


def test_what_was_long_ago_teaches_nothing() -> None:
    """Of 600 days, the objects were read daily on the first 250, and never since."""
    reads = np.zeros((30, 600))
    reads[:, :250] = 1
    transitions = sample_transitions(History(reads), end=600)
    assert transitions.reads.sum() == 0
    assert sample_transitions(History(reads), end=600, begin=200).reads.sum() > 0


def test_sample_is_even_over_the_days_and_seeded() -> None:
    history = random_history(200, 100)
    first, again, other = (sample_transitions(history, end=100, most=3000, seed=seed) for seed in (1, 1, 2))
    assert 2500 < len(first) <= 3000
    np.testing.assert_array_equal(first.today, again.today)
    assert not np.array_equal(first.today, other.today)
    joined = join_transitions([first, other])
    assert len(joined) == len(first) + len(other)
    np.testing.assert_array_equal(joined.labels[len(first) :], other.labels)


def test_estimator_keeps_scikit_learns_manners() -> None:
    transitions = sample_transitions(random_history(200, 100), end=100)
    estimator = UsageStates(max_states=30, min_samples_leaf=20)
    assert vars(estimator) == estimator.get_params()
    with pytest.raises(NotFittedError):
        estimator.predict(transitions.today)
    with pytest.raises(NotFittedError):
        _ = estimator.chain
    before = transitions.today.copy()
    kwargs = {"tomorrow": transitions.tomorrow, "reads": transitions.reads}
    assert estimator.fit(transitions.today, transitions.labels, **kwargs) is estimator
    np.testing.assert_array_equal(transitions.today, before)
    check_is_fitted(estimator)
    assert estimator.n_features_in_ == len(USAGE_FEATURES)
    states = estimator.predict(transitions.today)
    assert states.shape == (len(transitions),)
    assert 2 <= len(estimator.chain) <= 30
    assert set(states.tolist()) <= set(range(len(estimator.chain)))
    twin = clone(estimator).fit(transitions.today, transitions.labels, **kwargs)
    for name in ("unread_", "read_", "reads_", "seen_", "state_of_node_"):
        np.testing.assert_array_equal(getattr(estimator, name), getattr(twin, name))
    assert estimator.predict(transitions.today[:0]).shape == (0,)
    estimator.require_sound()


def test_chain_counts_what_was_sampled() -> None:
    transitions = sample_transitions(random_history(150, 100), end=100)
    usage = fit_usage_states(transitions, max_states=20)
    today, tomorrow = usage.predict(transitions.today), usage.predict(transitions.tomorrow)
    chain = usage.chain
    for state in range(len(chain)):
        mine = today == state
        assert chain.seen[state] == mine.sum() > 0
        assert chain.reads[state] == pytest.approx(transitions.reads[mine].mean())
        for read, table in ((transitions.reads[mine] > 0, chain.read), (transitions.reads[mine] == 0, chain.unread)):
            counted = np.bincount(tomorrow[mine][read], minlength=len(chain)) / mine.sum()
            np.testing.assert_allclose(table[state], counted)


def calibration_error(true: Matrix, said: Matrix) -> float:
    """Give how far chances are from true ones, in ten bins of equal width that weigh as much as they hold."""
    place = np.minimum((said * 10).astype(int), 9)
    return float(np.abs(np.bincount(place, weights=said - true)).sum() / len(said))


def test_chance_of_reads_in_30_days_is_calibrated_when_the_rates_are_known() -> None:
    rng = np.random.default_rng(8)
    objects, days = 3000, 200
    rate = rng.choice([0.001, 0.01, 0.05, 0.3, 1.0], objects, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    history = History(rng.random((objects, days)) < rate[:, None])
    usage = fit_usage_states(sample_transitions(history, end=days))
    tracker = UsageTracker(history.created)
    for day in range(days):
        tracker.observe(day, *history.on(day))
    said = usage.chain.chance_of_reads(30)[usage.predict(tracker.features(np.arange(objects), days))]
    true = 1 - (1 - rate) ** 30
    assert said.mean() == pytest.approx(true.mean(), abs=0.03)
    assert calibration_error(true, said) < 0.03
    expected = usage.chain.daily_reads(30).sum(axis=1)[usage.predict(tracker.features(np.arange(objects), days))]
    assert expected.sum() == pytest.approx(30 * rate.sum(), rel=0.05)


def watched(counts: Sequence[int], objects: int = 100) -> list[int]:
    watch = CrawlWatch()
    told = [day for day, count in enumerate(counts) if watch.is_crawl(day, count, objects)]
    assert told == [watch.first] if told else watch.first is None
    return [] if watch.recurs else told


def test_crawl_is_told_when_it_comes_once() -> None:
    counts = [3] * 100
    counts[40] = 90
    assert watched(counts) == [40]
    assert watched(counts, objects=200) == [], "less than half of all objects"


@pytest.mark.parametrize("every", [30, 70, 91, 120])
def test_crawl_is_taken_back_when_it_comes_again(every: int) -> None:
    counts = [90 if day % every == every - 1 else 3 for day in range(2 * every)]
    assert watched(counts[:-1]) == [every - 1]
    assert watched(counts) == []


def test_features_are_the_same_when_a_day_is_recalled() -> None:
    rng = np.random.default_rng(3)
    history = History(rng.poisson(0.3, (30, 60)))
    everyone = np.arange(30)
    whole, recalled = UsageTracker(history.created), UsageTracker(history.created)
    for day in range(60):
        whole.observe(day, *history.on(day))
        if day != 20:
            recalled.observe(day, *history.on(day))
    recalled.recall(20, *history.on(20))
    np.testing.assert_allclose(recalled.features(everyone, 60), whole.features(everyone, 60))


def test_crawl_is_not_told_when_most_objects_are_read_every_day_or_the_logs_have_just_begun() -> None:
    assert watched([95] * 100) == []
    assert watched([3] * 10 + [95] + [3] * 60) == [], "ten days are too few to tell"
    assert watched([0] * 40 + [1] + [0] * 40, objects=1) == [], "a read of the only object is no crawl"


def test_crawls_of_several_buckets_are_told_apart() -> None:
    read = np.full((3, 100), 3)
    read[0, 40] = read[2, 70] = 90
    read[1, [30, 95]] = 90
    crawled = crawl_days(read, np.full((3, 100), 100))
    assert np.argwhere(crawled).tolist() == [[0, 40], [2, 70]]


def test_one_state_is_enough_when_nothing_is_ever_read() -> None:
    usage = fit_usage_states(sample_transitions(History(np.zeros((50, 60))), end=60))
    chain = usage.chain
    assert len(chain) == 1
    assert chain.chance_of_reads(365).tolist() == [0.0]
    assert chain.daily_reads(3).tolist() == [[0.0, 0.0, 0.0]]


def test_one_object_is_enough_when_it_is_known_for_long() -> None:
    reads = (np.arange(120) % 4 == 0)[None, :]
    usage = fit_usage_states(sample_transitions(History(reads), end=120))
    assert usage.chain.daily_reads(40).sum(axis=1).mean() == pytest.approx(10.0, rel=0.2)


def test_objects_that_are_all_the_same_are_fitted() -> None:
    usage = fit_usage_states(sample_transitions(History(np.ones((30, 60))), end=60))
    assert usage.chain.chance_of_reads(1) == pytest.approx(np.ones(len(usage.chain)))


def test_history_of_three_days_gives_no_label() -> None:
    transitions = sample_transitions(History(np.ones((10, 3))), end=3)
    assert len(transitions) == 10
    with pytest.raises(ValueError, match="no row of y is complete: the history is too short for any label"):
        fit_usage_states(transitions)


@pytest.mark.parametrize(("objects", "end"), [(0, 50), (5, 1), (5, 0)])
def test_nothing_is_sampled_when_there_is_nothing(objects: int, end: int) -> None:
    transitions = sample_transitions(History(np.zeros((objects, max(1, end)))), end=end)
    assert isinstance(transitions, Transitions)
    assert len(transitions) == 0
    assert transitions.today.shape == (0, len(USAGE_FEATURES))


def test_state_that_no_sampled_day_began_in_stays_unread() -> None:
    rng = np.random.default_rng(2)
    today, reads = rng.random((400, 5)), np.zeros(400)
    labels = np.where(np.arange(400) < 100, (today[:, 0] > 0.5), np.nan)[:, None]
    today[100:, 0] = 0.1
    usage = UsageStates(min_samples_leaf=10).fit(today, labels, tomorrow=today, reads=reads)
    usage.seen_[:] = 0
    usage._count(np.zeros(5, dtype=np.intp), np.zeros(5, dtype=np.intp), np.zeros(5), len(usage.chain))
    assert (usage.chain.unread[1:] == np.eye(len(usage.chain))[1:]).all()
