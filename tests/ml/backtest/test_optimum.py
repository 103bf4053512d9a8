"""The clairvoyant optimum against trying everything, and against a plain dynamic programme over all states."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from backtest_traces import GIB, random_trace, small_books, trace_with
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import LONG_HELD_DAYS, Account, Tariff, tariff_of
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import AutopilotScope, Latency, PriceBook
from cloudflux.price_books import load_book
from cloudflux_ml.backtest import optimum as module
from cloudflux_ml.backtest.optimum import Scheduled, _SlidingMinimum, optimal_schedule
from cloudflux_ml.backtest.replay import replay
from cloudflux_ml.backtest.rivals import AutopilotRule
from cloudflux_ml.backtest.run import classes_of


def owed_at_the_end(account: Account) -> np.ndarray:
    """Give what early deletion would still charge each object, by a plain loop."""
    tariff, owed = account.tariff, np.zeros(len(account.tariff))
    for row, (code, held) in enumerate(zip(account.class_codes, account.days_in_class, strict=True)):
        if tariff.autopilots[code] is None:
            owed[row] = max(int(tariff.min_days[code]) - int(held), 0) * tariff.storage_usd_day[row, code]
    return owed


def account_of_all(tariff: Tariff, sequences: np.ndarray, reads, *, settled: bool) -> Account:
    """Charge each sequence of classes, shape (N, days), as an object of its own with the same reads."""
    account = Account(tariff, 0, LONG_HELD_DAYS if settled else 0)
    everything = np.arange(len(sequences))
    for day, count in enumerate(reads):
        account.move(everything, sequences[:, day])
        read = everything if count else everything[:0]
        account.pass_day(everything, read, np.full(len(read), count))
    return account


def cheapest_of_all(tariff_for, reads, settled: bool, movable: bool, owing: bool) -> float:
    """Try every sequence of classes of one object over some days, each as an object of its own."""
    classes = len(tariff_for(1).class_names)
    sequences = np.array(list(product(range(classes), repeat=len(reads))))
    if not movable:
        sequences = sequences[sequences[:, 0] == 0]
    account = account_of_all(tariff_for(len(sequences)), sequences, reads, settled=settled)
    owed = owed_at_the_end(account)
    assert account.owed_usd == pytest.approx(owed.sum())
    return float((account.usd.sum(axis=1) + owing * owed).min())


@settings(max_examples=300)
@given(
    small_books(),
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 40]), min_size=2, max_size=5),
    st.sampled_from([GIB - 1, GIB, 3 * GIB]),
    st.integers(-1, 1),
    st.booleans(),
)
def test_nothing_is_cheaper_than_the_optimum_when_everything_is_tried(book, reads, size, created, owing):
    # a day of history, then the window; the object is there before it, or comes on its first or second day
    window = [0 if day < created else count for day, count in enumerate(reads)]
    trace = trace_with([[0, *window]], [size], [created + 1], eval_from=1)
    schedule = optimal_schedule(trace, tariff_of(book, [size]), owed_at_end=owing)
    best = cheapest_of_all(
        lambda count: tariff_of(book, [size] * count), window[max(created, 0) :], created <= 0, created < 0, owing
    )
    assert schedule.usd[0] == pytest.approx(best, rel=1e-9, abs=1e-12)
    charged = replay(trace, tariff_of(book, [size]), "optimum", Scheduled(schedule))
    assert charged.usd + owing * charged.owed_usd == pytest.approx(best, rel=1e-9, abs=1e-12)


def with_an_accounts_autopilot(book: PriceBook, leave_usd: float) -> PriceBook:
    """Make the book's autopilot a setting of an account, which an object may leave for good."""
    own = {"scope": AutopilotScope.ACCOUNT, "leave_usd": leave_usd, "reenter": False}
    classes = (
        prices if prices.autopilot is None else replace(prices, autopilot=replace(prices.autopilot, **own))
        for prices in book.classes
    )
    return replace(book, classes=tuple(classes))


@settings(max_examples=200)
@given(
    small_books(),
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 40]), min_size=2, max_size=5),
    st.sampled_from([GIB - 1, GIB, 3 * GIB]),
    st.integers(-1, 1),
    st.sampled_from([0.0, 0.125, 1.0]),
)
def test_nothing_is_cheaper_where_every_object_begins_in_an_autopilot_that_it_may_leave(
    drawn, reads, size, created, leave_usd
):
    book, inside = with_an_accounts_autopilot(drawn, leave_usd), 1
    window = [0 if day < created else count for day, count in enumerate(reads)]
    trace = trace_with([[0, *window]], [size], [created + 1], eval_from=1)
    schedule = optimal_schedule(trace, tariff_of(book, [size]), inside=inside)
    lived, enters = window[max(created, 0) :], int(created >= 0)
    sequences = [
        sequence
        for sequence in product(range(4), repeat=len(lived))
        if sequence[:enters] == (0,) * enters and sequence[enters : enters + 1] in ((), (inside,))
        if inside not in sequence[enters:][sequence[enters:].count(inside) :]
    ]
    tariff = tariff_of(book, [size] * len(sequences))
    account = account_of_all(tariff, np.array(sequences), lived, settled=created <= 0)
    best = float(account.usd.sum(axis=1).min())
    assert schedule.usd[0] == pytest.approx(best, rel=1e-9, abs=1e-12)
    charged = replay(trace, tariff_of(book, [size]), "optimum", Scheduled(schedule))
    assert charged.usd == pytest.approx(best, rel=1e-9, abs=1e-12)


def plain_optimum(tariff: Tariff, reads, row: int = 0) -> float:
    """Give the least cost of one object that has been in the standard class for long: all states, one by one."""
    days, classes, size = len(reads), range(len(tariff.class_names)), tariff.size_gib[row]
    move = tariff.move_usd + size * tariff.move_usd_gib
    read = tariff.request_usd + size * tariff.retrieval_usd_gib

    @cache
    def held_for_a_day(code: int, idle: int, read_today: bool) -> float:
        at = np.array([row]), np.array([code]), np.array([idle])
        usd = float(sum(tariff.holding_usd(*at))[0])
        autopilot = tariff.autopilots[code]
        if autopilot and autopilot.watched[row] and read_today and idle >= autopilot.promotion_from_idle_days:
            usd += autopilot.promotion_usd
        return usd

    most = [int(tariff.min_days[code]) for code in classes]
    last = [len(autopilot.usd_gib_day) - 1 if autopilot else 0 for autopilot in tariff.autopilots]
    values = {
        (code, held, idle): 0.0 for code in classes for held in range(most[code] + 1) for idle in range(last[code] + 1)
    }
    for day in range(days - 1, -1, -1):
        count = reads[day]
        staying = {
            (code, held, idle): held_for_a_day(code, idle, count > 0)
            + count * read[code]
            + values[code, min(held + 1, most[code]), 0 if count else min(idle + 1, last[code])]
            for code, held, idle in values
        }
        values = {
            (code, held, idle): min(
                value,
                *(
                    move[code, target]
                    + tariff.owes[code, target] * (most[code] - held) * tariff.storage_usd_day[row, code]
                    + staying[target, 0, 0]
                    for target in classes
                    if target != code
                ),
            )
            for (code, held, idle), value in staying.items()
        }
    return values[tariff.standard_code, most[tariff.standard_code], 0]


@pytest.mark.parametrize(
    "name", ["aws-us-east-1", "aws-us-east-1-archive", "azure-eastus-lrs", "gcs-us-central1-soft-delete"]
)
@pytest.mark.parametrize("latency", list(Latency))
def test_agrees_with_a_plain_programme_by_the_shipped_books(name, latency):
    book = load_book(name)
    random = np.random.default_rng(7)
    days = 260
    sizes = [1_000, 200_000, 10**7, 10**9, 10**11]
    reads = np.zeros((len(sizes), days), dtype=np.int64)
    for row, often in enumerate((6, 5, 4, 3, 5)):
        reads[row, 1 + random.choice(days - 1, often, replace=False)] = random.integers(1, 5, often)
    trace = trace_with(reads, sizes)
    tariff = tariff_of(book, sizes, classes_of(book, latency))
    schedule = optimal_schedule(trace, tariff)
    for row in range(len(sizes)):
        assert schedule.usd[row] == pytest.approx(plain_optimum(tariff, reads[row, 1:].tolist(), row), rel=1e-9)


@pytest.mark.parametrize("owing", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["aws-us-east-1", "azure-eastus-lrs", "gcs-us-multi"])
def test_the_schedule_costs_what_the_programme_says(name, seed, owing, monkeypatch):
    book, trace = load_book(name), random_trace(seed)
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, Latency.HOURS))
    monkeypatch.setattr(module, "CHUNK_OBJECTS", 7)  # several chunks, the last one not full
    schedule = optimal_schedule(trace, tariff, owed_at_end=owing)
    assert (np.diff(schedule.days) >= 0).all()
    charged = replay(trace, tariff, "optimum", Scheduled(schedule))
    assert charged.usd + owing * charged.owed_usd == pytest.approx(schedule.usd.sum(), rel=1e-9)
    assert charged.moves == len(schedule.rows)


@pytest.mark.parametrize("seed", range(3))
def test_the_schedule_inside_smart_tier_costs_what_the_programme_says_and_no_more_than_staying(seed, monkeypatch):
    book, trace = load_book("azure-eastus-lrs"), random_trace(seed)
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, Latency.MS, switched=True))
    monkeypatch.setattr(module, "CHUNK_OBJECTS", 7)
    schedule = optimal_schedule(trace, tariff, inside=tariff.code_of("Smart"))
    charged = replay(trace, tariff, "optimum", Scheduled(schedule))
    assert charged.usd == pytest.approx(schedule.usd.sum(), rel=1e-9)
    assert charged.moves == len(schedule.rows)
    assert charged.usd < replay(trace, tariff, "autopilot", AutopilotRule(trace, tariff)).usd


def test_reads_that_dwarf_everything_else_do_not_drown_the_rest():
    book = load_book("aws-us-east-1")
    reads = np.zeros((1, 200), dtype=np.int64)
    reads[0, 60] = 10**12
    trace = trace_with(reads, [10**8])
    tariff = tariff_of(book, [10**8], classes_of(book, Latency.HOURS))
    schedule = optimal_schedule(trace, tariff)
    assert schedule.usd[0] == pytest.approx(plain_optimum(tariff, reads[0, 1:].tolist()), rel=1e-9)
    assert replay(trace, tariff, "optimum", Scheduled(schedule)).usd == pytest.approx(schedule.usd[0], rel=1e-9)


def test_an_autopilot_with_minimum_days_is_refused_by_name():
    book = load_book("gcs-us-central1")
    tariff = tariff_of(book, [GIB])
    tariff.min_days[tariff.code_of("AUTOCLASS")] = 30
    with pytest.raises(SettingsError, match=r"AUTOCLASS of price book gcs-us-central1 is an autopilot with minimum"):
        optimal_schedule(trace_with([[0, 1]]), tariff)


@given(st.integers(0, 5), st.lists(st.integers(0, 9), max_size=30))
def test_sliding_minimum_is_the_minimum_of_the_last_rows(length, numbers):
    window = _SlidingMinimum(length, 1)
    assert window.value()[0] == np.inf
    for place, number in enumerate(numbers, start=1):
        window.push(np.array([float(number)]))
        assert window.value()[0] == min(numbers[max(place - length, 0) : place], default=np.inf)
