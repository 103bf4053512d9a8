"""The cost engine against a plain one: one object, one day and one rule at a time, straight from the price book."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import (
    EARLY_DELETION,
    LONG_HELD_DAYS,
    MOVES,
    PARTS,
    STORAGE,
    Account,
    account_for,
    tariff_of,
)
from cloudflux.domain.prices import AutopilotScope, PriceBook
from cloudflux.price_books import available_books, load_book

GIB = 2**30
BOOKS = {name: load_book(name) for name in available_books()}


class NotOffered(Exception):
    """The provider has no such move."""


@dataclass
class PlainObject:
    """One object's life, in the words of the price pages."""

    book: PriceBook
    size: int
    storage_class: str
    days_in_class: int
    idle_days: int = 0
    moves: int = 0
    bill: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @property
    def prices(self):
        return self.book.prices_of(self.storage_class)

    def month_of_storage(self) -> float:
        here = self.prices
        standard = self.book.classes[self.book.standard_code].storage_usd_gib_month
        billed = max(self.size, here.min_billable_bytes) + here.overhead_class_bytes
        return (billed * here.storage_usd_gib_month + here.overhead_standard_bytes * standard) / GIB

    def read_of_one_gib(self, prices) -> float:
        standard = self.book.classes[self.book.standard_code].storage_usd_gib_month
        return prices.retrieval_usd_gib + prices.restored_copy_days * standard / 30

    def move_to(self, storage_class: str) -> None:
        if storage_class == self.storage_class:
            return
        here, there = self.prices, self.book.prices_of(storage_class)
        names = self.book.class_names
        down = names.index(storage_class) > names.index(self.storage_class)
        retrieval = self.size / GIB * self.read_of_one_gib(here)
        if there.autopilot is not None and there.autopilot.scope is not AutopilotScope.OBJECT:
            # a switch: what it costs stands in the book
            # who was moved has a class of its own, even if it is the standard one
            if not there.autopilot.reenter and (self.moves or self.storage_class != names[self.book.standard_code]):
                raise NotOffered
            usd = there.autopilot.enable_usd + (retrieval if there.autopilot.enable_retrieval else 0)
            owes = there.autopilot.enable_early_deletion
        elif here.autopilot is not None and here.autopilot.leave_usd is not None:
            usd, owes = here.autopilot.leave_usd, False
        elif down and storage_class in here.lifecycle_to and there.transition_in_usd is not None:
            usd = there.transition_in_usd + (retrieval if self.book.lifecycle_retrieval else 0)
            owes = self.book.lifecycle_early_deletion
        else:
            charge = self.book.client_move_down if down else self.book.client_move_up
            usd = 0.0
            if charge.write_at_destination:
                usd += there.write_usd
            if charge.read_at_source:
                usd += here.read_usd + here.restore_request_usd
            if charge.retrieval_at_source:
                usd += retrieval
            # soft delete holds on to what was overwritten, at the price of a GiB in its class
            usd += self.size / GIB * here.storage_usd_gib_month / 30 * self.book.soft_delete_days
            owes = charge.early_deletion
        self.bill["moves"] += usd
        if owes and self.days_in_class < here.min_days:
            self.bill["early_deletion"] += (here.min_days - self.days_in_class) * self.month_of_storage() / 30
        self.storage_class, self.days_in_class, self.idle_days = storage_class, 0, 0
        self.moves += 1

    def pass_day(self, reads: int) -> None:
        here = self.prices
        month = self.month_of_storage()
        if here.autopilot is not None and self.size >= here.autopilot.monitored_min_bytes:
            self.bill["monitoring"] += here.autopilot.monitoring_usd_month / 30
            for step in here.autopilot.steps:
                if self.idle_days >= step.idle_days:
                    month = self.size / GIB * step.storage_usd_gib_month
            standard = self.book.classes[self.book.standard_code].storage_usd_gib_month
            for tier in here.autopilot.archive_steps:
                if tier.from_idle_days is not None and self.idle_days >= tier.from_idle_days:
                    month = (self.size + tier.overhead_class_bytes) / GIB * tier.storage_usd_gib_month
                    month += tier.overhead_standard_bytes / GIB * standard
            if reads and self.idle_days >= here.autopilot.promotion_from_idle_days:
                self.bill["moves"] += here.autopilot.promotion_usd
        self.bill["storage"] += month / 30
        self.bill["requests"] += reads * (here.read_usd + here.restore_request_usd)
        self.bill["retrieval"] += reads * self.size / GIB * self.read_of_one_gib(here)
        self.days_in_class += 1
        self.idle_days = 0 if reads else self.idle_days + 1


SIZES = st.one_of(st.sampled_from([0, 1, 40_000, 131_071, 131_072, 131_073, GIB]), st.integers(0, 2**43))
LENGTHS = st.sampled_from([1, 2, 5, 29, 30, 31, 59, 60, 89, 90, 91, 92, 179, 180, 200])


@st.composite
def lives(draw):
    """A book, some objects with a sequence of classes each, and their reads."""
    book = BOOKS[draw(st.sampled_from(sorted(BOOKS)))]
    count = draw(st.integers(1, 3))
    sizes = [draw(SIZES) for _ in range(count)]
    stays = [
        [(draw(st.sampled_from(book.class_names)), draw(LENGTHS)) for _ in range(draw(st.integers(1, 5)))]
        for _ in range(count)
    ]
    days = min(max(sum(length for _, length in stay) for stay in stays), 500)
    names = [([name for name, length in stay for _ in range(length)] + [stay[-1][0]] * days)[:days] for stay in stays]
    reads = np.zeros((count, days), dtype=int)
    for _ in range(draw(st.integers(0, 8))):
        reads[draw(st.integers(0, count - 1)), draw(st.integers(0, days - 1))] = draw(
            st.sampled_from([1, 2, 7, 1_000_000])
        )
    starts = [draw(st.sampled_from(book.class_names)) for _ in range(count)]
    return book, sizes, names, reads, starts


@settings(max_examples=400)
@given(lives())
def test_agrees_with_the_plain_engine_to_the_last_part(life):
    book, sizes, names, reads, starts = life
    codes = np.array([[book.code_of(name) for name in row] for row in names])
    start_codes = [book.code_of(name) for name in starts]
    plain = []
    offered = True
    for size, row, read, start in zip(sizes, names, reads, starts, strict=True):
        one = PlainObject(book, size, start, LONG_HELD_DAYS)
        try:
            for name, count in zip(row, read, strict=True):
                one.move_to(name)
                one.pass_day(int(count))
        except NotOffered:
            offered = False
            break
        plain.append(one)
    tariff = tariff_of(book, sizes)
    if not offered:
        with pytest.raises(ValueError, match="no object can be moved from"):
            account_for(tariff, codes, reads, start_codes)
        return
    account = account_for(tariff, codes, reads, start_codes)
    for row, one in enumerate(plain):
        for part, usd in zip(PARTS, account.usd[row], strict=True):
            assert math.isclose(usd, one.bill[part], rel_tol=1e-9, abs_tol=1e-15), (part, row)
        assert account.moves[row] == one.moves
        assert account.days_in_class[row] == one.days_in_class
        assert account.idle_days[row] == one.idle_days
        assert book.class_names[account.class_codes[row]] == one.storage_class


@settings(max_examples=50)
@given(lives(), st.data())
def test_some_of_the_classes_cost_what_all_of_them_cost(life, data):
    book, sizes, _, reads, _ = life
    some = data.draw(st.lists(st.sampled_from(book.class_names), min_size=1, unique=True))
    names = [name for name in book.class_names if name in some]  # in the book's order, however they were named
    chosen = [data.draw(st.sampled_from(names)) for _ in sizes]
    few, all_of_them = tariff_of(book, sizes, some), tariff_of(book, sizes)
    assert few.class_names == tuple(names)
    days = np.ones((1, reads.shape[1]), dtype=int)
    one = account_for(few, np.array([[few.code_of(name)] for name in chosen]) * days, reads)
    other = account_for(all_of_them, np.array([[book.code_of(name)] for name in chosen]) * days, reads)
    np.testing.assert_array_equal(one.usd, other.usd)


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_every_pair_of_classes_is_charged_as_the_plain_engine_says(name):
    book = BOOKS[name]
    size = 3 * GIB
    for source in book.class_names:
        for target in book.class_names:
            for held in (0, 1, 29, 30, 89, 90, 180, 364, 365):
                plain = PlainObject(book, size, source, held)
                account = Account(tariff_of(book, [size]), book.code_of(source), held)
                try:
                    plain.move_to(target)
                except NotOffered:
                    with pytest.raises(ValueError, match=f"from {source} to {target}"):
                        account.move(np.array([0]), np.array([book.code_of(target)]))
                    continue
                assert account.move(np.array([0]), np.array([book.code_of(target)])) == (source != target)
                assert account.usd[0, MOVES] == pytest.approx(plain.bill["moves"], rel=1e-12)
                assert account.usd[0, EARLY_DELETION] == pytest.approx(plain.bill["early_deletion"], rel=1e-12)


def test_archive_tiers_of_intelligent_tiering_hold_from_the_days_that_were_set_with_their_overhead():
    book = BOOKS["aws-us-east-1-archive"]
    tariff = tariff_of(book, [GIB], ["INTELLIGENT_TIERING"])
    account = Account(tariff, 0)
    everything = np.array([0])
    daily = []
    for day in range(200):
        before = account.usd[0, STORAGE]
        account.pass_day(everything, everything[:0], [])
        daily.append(30 * (account.usd[0, STORAGE] - before))
        if day == 184:
            account.pass_day(everything, everything, [1])
    for_metadata = 8 / 1024**2 * 0.023
    access, deep = 0.0036 * (1 + 32 / 1024**2) + for_metadata, 0.00099 * (1 + 32 / 1024**2) + for_metadata
    assert daily[:30] == pytest.approx([0.023] * 30)
    assert daily[30:90] == pytest.approx([0.0125] * 60)
    assert daily[90:180] == pytest.approx([access] * 90)  # never Archive Instant Access: the archive begins at once
    assert daily[180:185] == pytest.approx([deep] * 5)
    assert daily[185:] == pytest.approx([0.023] * 15)  # read: for nothing but the request
    assert account.parts_usd()["retrieval"] == 0
    assert account.parts_usd()["requests"] == pytest.approx(4e-7)


def test_what_a_rewrite_leaves_to_soft_delete_is_billed_for_seven_days_and_lifecycle_rules_leave_nothing():
    book, without = BOOKS["gcs-us-central1-soft-delete"], BOOKS["gcs-us-central1"]
    standard, nearline = book.code_of("STANDARD"), book.code_of("NEARLINE")
    paid = {}
    for by_client in (True, False):
        for source, target in ((standard, nearline), (nearline, standard)):
            accounts = [Account(tariff_of(b, [GIB], by_client=by_client), source, 5) for b in (book, without)]
            for account in accounts:
                account.move(np.array([0]), np.array([target]))
            paid[by_client, source] = accounts[0].total_usd - accounts[1].total_usd
    assert paid[True, standard] == pytest.approx(0.020 * 7 / 30)
    assert paid[True, nearline] == paid[False, nearline] == pytest.approx(0.010 * 7 / 30)
    assert paid[False, standard] == 0


def test_who_has_left_azures_smart_tier_never_goes_back_in_and_pays_one_write_for_leaving():
    book = BOOKS["azure-eastus-lrs"]
    hot, smart, cold = (book.code_of(name) for name in ("Hot", "Smart", "Cold"))
    account = Account(tariff_of(book, [GIB]), hot, LONG_HELD_DAYS)
    only = np.array([0])
    account.move(only, np.array([smart]))
    assert account.total_usd == 0
    account.move(only, np.array([cold]))
    assert account.total_usd == pytest.approx(book.prices_of("Cool").write_usd)
    account.move(only, np.array([hot]))
    with pytest.raises(ValueError, match="no object can be moved from Hot to Smart"):
        account.move(only, np.array([smart]))


def test_bytes_read_can_be_given_where_not_the_whole_object_is_read():
    book = BOOKS["aws-us-east-1"]
    account = Account(tariff_of(book, [4 * GIB]), book.code_of("GLACIER_IR"), LONG_HELD_DAYS)
    account.pass_day(np.array([0]), np.array([0]), [10], [GIB])
    prices = book.prices_of("GLACIER_IR")
    assert account.parts_usd()["retrieval"] == pytest.approx(prices.retrieval_usd_gib)
    assert account.parts_usd()["requests"] == pytest.approx(10 * prices.read_usd)
    assert account.total_usd == pytest.approx(sum(account.parts_usd().values()))


def test_an_object_that_is_not_held_costs_nothing_and_does_not_age():
    book = BOOKS["aws-us-east-1"]
    account = Account(tariff_of(book, [GIB, GIB]), book.standard_code)
    account.pass_day(np.array([1]), np.array([], dtype=int), [])
    assert account.usd[0].sum() == 0
    assert account.usd[1, STORAGE] > 0
    assert account.days_in_class.tolist() == [0, 1]
    assert account.idle_days.tolist() == [0, 1]


def test_zero_bytes_cost_requests_and_what_is_billed_for_each_object():
    book = BOOKS["aws-us-east-1"]
    for prices in book.classes:
        tariff = tariff_of(book, [0], [prices.storage_class])
        account = account_for(tariff, [[0] * 30], [[1] + [0] * 29])
        parts = account.parts_usd()
        assert parts["retrieval"] == 0
        assert parts["requests"] == pytest.approx(prices.read_usd + prices.restore_request_usd)
        overhead = prices.min_billable_bytes + prices.overhead_class_bytes + prices.overhead_standard_bytes
        assert (parts["storage"] > 0) == (overhead > 0)


def test_what_does_not_fit_is_refused_by_name():
    book = BOOKS["aws-us-east-1"]
    with pytest.raises(KeyError, match="GLACIER_ID"):
        tariff_of(book, [1], ["GLACIER_ID"])
    with pytest.raises(KeyError, match="no storage class 'GLACIER' here"):
        tariff_of(book, [1], ["STANDARD"]).code_of("GLACIER")
    with pytest.raises(ValueError, match="must both be"):
        account_for(tariff_of(book, [1, 2]), [[0, 0]], [[0, 0]])
