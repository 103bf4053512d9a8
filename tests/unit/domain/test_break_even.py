"""Break-even: which classes it opens, beside the same rule carried out day by day in a backtest."""

from __future__ import annotations

import numpy as np
import pytest
from backtest_traces import trace_with
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import LONG_HELD_DAYS, Account, tariff_of
from cloudflux.domain.break_even import Credits, open_classes
from cloudflux.domain.prices import GIB_BYTES
from cloudflux.price_books import load_book
from cloudflux_ml.backtest.rivals import BreakEven

AWS = load_book("aws-us-east-1")
NAMES = ("STANDARD", "STANDARD_IA", "GLACIER_IR")
NEVER = 10_000


def by_day(reads):
    return [(np.flatnonzero(day), day[np.flatnonzero(day)]) for day in np.asarray(reads).T]


def opened(reads, classes, *, since=-1, ruled_from=0, sizes=None):
    count = len(reads)
    tariff = tariff_of(AWS, [GIB_BYTES] * count if sizes is None else sizes, NAMES, by_client=True)
    table = open_classes(
        tariff,
        np.array([NAMES.index(name) for name in classes]),
        reads_by_day=by_day(reads),
        since=np.full(count, since),
        ruled_from=np.full(count, ruled_from),
    )
    return [[name for name, may in zip(NAMES, row, strict=True) if may] for row in table]


def test_colder_classes_open_when_the_days_have_saved_the_round_trip():
    idle = np.zeros((1, 400), dtype=np.int64)
    assert opened(idle[:, :20], ["STANDARD"]) == [["STANDARD"]]
    assert opened(idle, ["STANDARD"]) == [[*NAMES]]
    assert opened(idle, ["GLACIER_IR"]) == [["GLACIER_IR"]], "it is there already, and never called back"
    assert opened(idle, ["STANDARD"], since=390) == [["STANDARD"]], "it came ten days ago"
    assert opened(idle, ["STANDARD"], sizes=[1000]) == [["STANDARD"]], "too small to be moved"


def test_only_the_standard_class_opens_when_reads_have_used_up_the_credit():
    reads = np.zeros((2, 400), dtype=np.int64)
    reads[:, 395] = 5
    assert opened(reads, ["GLACIER_IR", "STANDARD"]) == [["STANDARD", "GLACIER_IR"], ["STANDARD"]]
    assert opened(reads, ["GLACIER_IR"] * 2, ruled_from=396) == [["GLACIER_IR"]] * 2, "the reads were before its rule"


def test_object_is_called_back_until_its_credit_is_full_again():
    reads = np.zeros((1, 800), dtype=np.int64)
    reads[:, 10] = 5
    assert opened(reads[:, :60], ["GLACIER_IR"]) == [["STANDARD", "GLACIER_IR"]]
    assert opened(reads, ["GLACIER_IR"]) == [["GLACIER_IR"]]


@settings(max_examples=6, phases=[Phase.generate])
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=25), min_size=1, max_size=5), st.integers(90, 140))
def test_same_moves_as_the_backtests_rule_on_random_reads(patterns, days):
    reads = np.array([(([0] * 75 + pattern) * days)[:days] for pattern in patterns], dtype=np.int64)
    trace = trace_with(reads.tolist(), [GIB_BYTES] * len(reads), eval_from=1)
    tariff = tariff_of(AWS, trace.size_bytes, NAMES, by_client=True)
    rule = BreakEven(trace.before(1), tariff)
    account = Account(tariff, 0, LONG_HELD_DAYS)
    for day, (rows, counts) in enumerate(by_day(reads)):
        rule.observe(day, rows, counts)
        up, to = rule.promote(day, account, rows, counts)
        may = open_classes(
            tariff,
            account.class_codes,
            reads_by_day=by_day(reads)[: day + 1],
            since=trace.created,
            ruled_from=np.full(len(reads), day),
        )
        called_back = may[:, 0] & (account.class_codes > 0)
        assert sorted(up[account.class_codes[up] != to]) == np.flatnonzero(called_back).tolist()
        account.move(up, to)
        down, to = rule.decide(day + 1, account, np.ones(len(reads), dtype=np.bool_))
        assert may[down, to].all()
        account.move(down, to)


def test_credit_never_leaves_its_bounds():
    tariff = tariff_of(AWS, [GIB_BYTES], NAMES)
    credits = Credits(tariff)
    for day in range(500):
        credits.pass_day(np.array([0]), np.array([day % 7 == 0]) * 1)
        assert (credits.usd >= 0).all()
        assert (credits.usd <= credits.full_usd).all()
    assert credits.full_usd[0, 1] == pytest.approx(0.042, rel=0.01)
