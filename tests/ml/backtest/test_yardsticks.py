"""The yardsticks: what they are told of the window, and what they are not."""

from __future__ import annotations

import numpy as np
import pytest
from backtest_traces import Recorded, random_trace, trace_with

from cloudflux.domain.accounting import Tariff, tariff_of
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import Latency
from cloudflux.price_books import load_book
from cloudflux_ml.backtest.replay import replay
from cloudflux_ml.backtest.run import OPTIMUM, YARDSTICKS, backtest, classes_of, policy_names
from cloudflux_ml.backtest.trace import Trace
from cloudflux_ml.backtest.yardsticks import LearntBound

AWS = load_book("aws-us-east-1")
OBJECTS, DAYS, EVAL_FROM = 40, 240, 120
CHANGED_FROM = 180


def tariff_for(trace: Trace) -> Tariff:
    return tariff_of(AWS, trace.size_bytes, classes_of(AWS, Latency.MS))


def hot_from(first: int, last: int) -> Trace:
    """Give objects that are read about twice a day from one day to another, and else never."""
    reads = np.zeros((OBJECTS, DAYS), dtype=np.int64)
    reads[:, first:last] = 1 + np.random.default_rng(1).poisson(1, (OBJECTS, last - first))
    return trace_with(reads, eval_from=EVAL_FROM)


def test_yardsticks_are_shown_only_when_they_are_asked_for() -> None:
    assert not set(YARDSTICKS) & set(policy_names())
    result = backtest(random_trace(1), AWS, ["stay", *YARDSTICKS])
    assert list(result.policies) == ["stay", *YARDSTICKS, OPTIMUM]
    assert all(result.policies[name].usd >= result.policies[OPTIMUM].usd * (1 - 1e-9) for name in YARDSTICKS)


@pytest.mark.parametrize(("trace", "rival"), [(hot_from(EVAL_FROM, DAYS), "stay"), (hot_from(0, EVAL_FROM), OPTIMUM)])
def test_what_the_population_will_do_is_known_to_the_learnt_bound(trace: Trace, rival: str) -> None:
    """What was dead and turns hot stays where it is; what was hot and dies goes down at once."""
    result = backtest(trace, AWS, ["stay", "cloudflux", LearntBound.name])
    usd = {name: found.usd for name, found in result.policies.items()}
    assert usd[LearntBound.name] == pytest.approx(usd[rival], rel=0.05)
    assert usd["cloudflux"] > 1.2 * usd[LearntBound.name]


def test_an_objects_own_future_is_not_known_to_the_learnt_bound() -> None:
    trace = random_trace(6, objects=OBJECTS, days=DAYS, eval_from=EVAL_FROM)
    reads = np.zeros((trace.objects, trace.days), dtype=np.int64)
    for day in range(trace.days):
        rows, counts = trace.on(day)
        reads[rows, day] = counts
    row = int(np.flatnonzero(trace.created < EVAL_FROM)[5])
    other = reads.copy()
    other[row, CHANGED_FROM:] = np.where(reads[row, CHANGED_FROM:] > 0, 0, 5)
    classes = []
    for version in (reads, other):
        changed = trace_with(version, trace.size_bytes, trace.created, EVAL_FROM)
        tariff = tariff_for(changed)
        recorded = Recorded(LearntBound(changed, tariff))
        replay(changed, tariff, LearntBound.name, recorded)
        classes.append([codes[row] for _, codes, _ in recorded.decided])
    until = CHANGED_FROM - EVAL_FROM
    assert classes[0][: until + 1] == classes[1][: until + 1]


def test_crawls_teach_the_learnt_bound_nothing() -> None:
    trace = hot_from(0, 1)
    crawled = hot_from(EVAL_FROM + 90, EVAL_FROM + 91)
    moves = [
        replay(found, tariff_for(found), LearntBound.name, LearntBound(found, tariff_for(found))).moves
        for found in (trace, crawled)
    ]
    assert moves == [OBJECTS, OBJECTS]


@pytest.mark.parametrize(
    "trace",
    [trace_with([[1] * 30], eval_from=15), trace_with([[1] * 9] * 9, eval_from=8)],
    ids=["one object", "a window of one day"],
)
def test_the_learnt_bound_is_refused_when_there_is_nothing_to_learn_from(trace: Trace) -> None:
    with pytest.raises(SettingsError, match="learnt-bound needs more days or objects than"):
        LearntBound(trace, tariff_for(trace))
