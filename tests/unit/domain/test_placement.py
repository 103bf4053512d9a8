"""Placement by dynamic programming: what the tables say is what the cost engine charges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import LONG_HELD_DAYS, PARTS, Account, tariff_of
from cloudflux.domain.expected_life import expected_life
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.usage import UsageChain
from cloudflux.price_books import load_book

AWS = load_book("aws-us-east-1")
MS = ("STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "GLACIER_IR")
BOOKS = {
    "aws": (AWS, MS),
    "aws-hours": (AWS, (*MS, "GLACIER", "DEEP_ARCHIVE")),
    "azure": (load_book("azure-eastus-lrs"), ("Hot", "Cool", "Cold", "Archive")),
    "gcs": (load_book("gcs-us-central1"), ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")),
    "autoclass": (load_book("gcs-us-central1"), ("STANDARD", "AUTOCLASS")),
}
SIZES = [1_000.0, 131_072.0, 700_000.0, 3e9]


def chain_of(states, reads, seed=0):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(2 * states, 0.3), states)
    return UsageChain(
        unread=chances[:, :states], read=chances[:, states:], reads=chances[:, states:].sum(axis=1) * reads,
        seen=np.ones(states),
    )  # fmt: skip


def rhythm(read_days, days):
    """A chain that knows the day: one state a day, a read on the given days for sure."""
    unread, read = np.zeros((days + 1, days + 1)), np.zeros((days + 1, days + 1))
    for day in range(days + 1):
        (read if day in read_days else unread)[day, min(day + 1, days)] = 1.0
    return UsageChain(unread=unread, read=read, reads=read.sum(axis=1), seen=np.ones(days + 1))


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize("by_client", [False, True], ids=["lifecycle", "client"])
def test_parts_add_up_to_the_tables_when_the_future_is_uncertain(name, by_client):
    book, classes = BOOKS[name]
    chain = chain_of(5, reads=1.7)
    tables = solve_placement(
        chain, book, classes, horizon_days=40, deleted_share_year=0.2, read_share=0.7, by_client=by_client
    )
    tariff = tariff_of(book, SIZES, classes, by_client=by_client)
    for row, size in enumerate(SIZES):
        for state, code, held, idle in ((0, 0, 5, 3), (3, len(classes) - 1, 40, 12), (4, 1, 29, 29)):
            arguments = (np.array([state]), [size], np.array([code]), [held], [idle])
            expected, kept = tables.expected_usd(*arguments)[0], tables.kept_usd(*arguments)[0]
            for target in range(len(classes)):
                moves, owed = tariff.moving_usd(np.array([row]), np.array([code]), np.array([target]), np.array([held]))
                if not np.isfinite(moves[0]):
                    continue
                once = 0.0 if target == code else float(moves[0] + owed[0])
                for stay, total in ((False, expected[target]), (True, kept[target])):
                    life = expected_life(
                        chain, tables, size_bytes=size, state=state, class_code=code, days_in_class=held,
                        idle_days=idle, target=target, stay=stay,
                    )  # fmt: skip
                    assert life.total_usd == pytest.approx(total + once, rel=2e-4, abs=1e-9)
                    assert life.daily_usd.sum() == pytest.approx(life.total_usd)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(BOOKS)),
    read_days=st.sets(st.integers(0, 24), max_size=9),
    size=st.sampled_from(SIZES),
    start=st.integers(0, 3),
)
def test_stated_cost_is_what_the_engine_charges_when_the_future_turns_out_as_forecast(name, read_days, size, start):
    book, classes = BOOKS[name]
    code, days = start % len(classes), 25
    chain = rhythm(read_days, days)
    tables = solve_placement(chain, book, classes, horizon_days=days)
    tariff = tariff_of(book, size, classes)
    reads = np.array([float(day in read_days) for day in range(days)])
    account = Account(tariff, code, LONG_HELD_DAYS)
    for day in range(days):
        best = tables.best_classes(
            np.array([day]), [size], account.class_codes, account.days_in_class, account.idle_days
        )
        account.move(np.array([0]), best)
        read = np.flatnonzero(reads[day : day + 1])
        account.pass_day(np.array([0]), read, reads[day : day + 1][read])
    life = expected_life(
        chain, tables, size_bytes=size, state=0, class_code=code, days_in_class=LONG_HELD_DAYS, idle_days=0
    )
    assert account.total_usd == pytest.approx(life.total_usd, rel=1e-9)
    np.testing.assert_allclose(account.usd[0], life.parts_usd, rtol=1e-9, atol=1e-15)


def test_engine_charges_the_expected_cost_on_average_when_futures_are_drawn_from_the_chain():
    chain, days, count = chain_of(4, reads=1.0, seed=3), 60, 20_000
    tables = solve_placement(chain, AWS, MS, horizon_days=days)
    size = 2e9
    account = Account(tariff_of(AWS, np.full(count, size), MS), 0, LONG_HELD_DAYS)
    rng, states, rows = np.random.default_rng(5), np.full(count, 1), np.arange(count)
    steps = np.concatenate([chain.unread, chain.read], axis=1).cumsum(axis=1)
    for _ in range(days):
        best = tables.best_classes(
            states, np.full(count, size), account.class_codes, account.days_in_class, account.idle_days
        )
        account.move(rows, best)
        drawn = (rng.random(count)[:, None] > steps[states]).sum(axis=1)
        read = np.flatnonzero(drawn >= len(chain))
        account.pass_day(rows, read, np.ones(len(read)))
        states = drawn % len(chain)
    life = expected_life(
        chain, tables, size_bytes=size, state=1, class_code=0, days_in_class=LONG_HELD_DAYS, idle_days=0
    )
    error = account.usd.sum(axis=1).std() / np.sqrt(count)
    assert account.total_usd / count == pytest.approx(life.total_usd, abs=5 * error)
    assert len(account.parts_usd()) == len(PARTS)


def test_no_rule_is_cheaper_in_expectation_when_the_chain_is_true():
    chain = chain_of(6, reads=1.0, seed=8)
    tables = solve_placement(chain, AWS, MS, horizon_days=90)
    for state in range(6):
        arguments = (np.array([state]), [5e8], np.array([0]), [LONG_HELD_DAYS], [0])
        best = (
            tables.expected_usd(*arguments)[0]
            + tariff_of(AWS, 5e8, MS).move_usd[0]
            + 5e8 / 2**30 * tariff_of(AWS, 5e8, MS).move_usd_gib[0]
        ).min()
        kept = tables.kept_usd(*arguments)[0] + tariff_of(AWS, 5e8, MS).move_usd[0]
        assert best <= kept.min() * (1 + 1e-5)


def test_dead_object_goes_to_the_coldest_class_and_a_busy_one_stays_when_only_that_pays():
    dead = UsageChain(np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1), np.ones(1))
    busy = UsageChain(np.zeros((1, 1)), np.ones((1, 1)), np.full(1, 5.0), np.ones(1))
    for chain, wanted in ((dead, "GLACIER_IR"), (busy, "STANDARD")):
        tables = solve_placement(chain, AWS, MS, horizon_days=180, with_costs=False)
        best = tables.best_classes(np.zeros(1, dtype=np.intp), [1e9], np.zeros(1, dtype=np.intp), [99], [0])
        assert tables.class_names[best[0]] == wanted


def test_costs_are_refused_when_only_targets_were_solved():
    tables = solve_placement(chain_of(2, 1.0), AWS, MS, horizon_days=3, with_costs=False)
    with pytest.raises(ValueError, match="without costs"):
        tables.expected_usd(np.zeros(1, dtype=np.intp), [1.0], np.zeros(1, dtype=np.intp), [0], [0])
