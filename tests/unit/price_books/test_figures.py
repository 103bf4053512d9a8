"""Every figure of the shipped books, typed a second time from the price pages, in their own units."""

from __future__ import annotations

import dataclasses
from datetime import date

import numpy as np
import pytest

from cloudflux.domain.prices import (
    Autopilot,
    AutopilotScope,
    AutopilotStep,
    ClassPrices,
    Latency,
    MoveCharge,
    PriceBook,
    banded_storage_usd_month,
    marginal_storage_usd_gib_month,
)
from cloudflux.domain.tiers import Provider
from cloudflux.price_books import available_books, load_book
from cloudflux.price_books.loader import is_derived, path_of, read_book
from cloudflux.price_books.schema import shared_meters

KIB = 1024
K, TEN_K = 1000, 10_000

# book: requests are by the ..., then per class: storage, write, read, retrieval, transition in, minimum days, minimum
# KiB, overhead KiB at the class's and at the standard rate, restore request
TABLE = {
    "aws-us-east-1": (
        K,
        {
            "STANDARD": (0.023, 0.005, 0.0004, 0, None, 0, 0, 0, 0, 0),
            "INTELLIGENT_TIERING": (0.023, 0.005, 0.0004, 0, 0.01, 0, 0, 0, 0, 0),
            "STANDARD_IA": (0.0125, 0.01, 0.001, 0.01, 0.01, 30, 128, 0, 0, 0),
            "ONEZONE_IA": (0.01, 0.01, 0.001, 0.01, 0.01, 30, 128, 0, 0, 0),
            "GLACIER_IR": (0.004, 0.02, 0.01, 0.03, 0.02, 90, 128, 0, 0, 0),
            "GLACIER": (0.0036, 0.03, 0.0004, 0.01, 0.03, 90, 0, 32, 8, 0.05),
            "DEEP_ARCHIVE": (0.00099, 0.05, 0.0004, 0.02, 0.05, 180, 0, 32, 8, 0.1),
        },
    ),
    "azure-eastus-lrs": (
        TEN_K,
        {
            "Hot": (0.0208, 0.05, 0.004, 0, None, 0, 0, 0, 0, 0),
            "Smart": (0.0208, 0.05, 0.004, 0, None, 0, 0, 0, 0, 0),
            "Cool": (0.0152, 0.1, 0.01, 0.01, 0.1, 30, 0, 0, 0, 0),
            "Cold": (0.0036, 0.18, 0.1, 0.03, 0.18, 90, 0, 0, 0, 0),
            "Archive": (0.00099, 0.1, 5.0, 0.02, 0.1, 180, 0, 0, 0, 0),
        },
    ),
    "gcs-us-central1": (
        K,
        {
            "STANDARD": (0.02, 0.005, 0.0004, 0, None, 0, 0, 0, 0, 0),
            "AUTOCLASS": (0.02, 0.005, 0.0004, 0, None, 0, 0, 0, 0, 0),
            "NEARLINE": (0.01, 0.01, 0.001, 0.01, 0.01, 30, 0, 0, 0, 0),
            "COLDLINE": (0.004, 0.02, 0.01, 0.02, 0.02, 90, 0, 0, 0, 0),
            "ARCHIVE": (0.0012, 0.05, 0.05, 0.05, 0.05, 365, 0, 0, 0, 0),
        },
    ),
    "gcs-us-multi": (
        K,
        {
            "STANDARD": (0.026, 0.01, 0.0004, 0, None, 0, 0, 0, 0, 0),
            "AUTOCLASS": (0.026, 0.01, 0.0004, 0, None, 0, 0, 0, 0, 0),
            "NEARLINE": (0.015, 0.02, 0.001, 0.01, 0.02, 30, 0, 0, 0, 0),
            "COLDLINE": (0.00875, 0.04, 0.01, 0.02, 0.04, 90, 0, 0, 0, 0),
            "ARCHIVE": (0.003, 0.1, 0.05, 0.05, 0.1, 365, 0, 0, 0, 0),
        },
    ),
}

# book: class, scope, monitoring of one object and month, steps
AUTOPILOTS = {
    "aws-us-east-1": ("INTELLIGENT_TIERING", "object", 0.0025 / K, [(30, 0.0125), (90, 0.004)]),
    "azure-eastus-lrs": ("Smart", "account", 0.04 / TEN_K, [(30, 0.0152), (90, 0.0036)]),
    "gcs-us-central1": ("AUTOCLASS", "bucket", 0.0025 / K, [(30, 0.01), (90, 0.004), (365, 0.0012)]),
    "gcs-us-multi": ("AUTOCLASS", "bucket", 0.0025 / K, [(30, 0.015), (90, 0.00875), (365, 0.003)]),
}

# book, class: name, request, retrieval, soonest and latest minutes; the default is marked
RESTORES = {
    ("aws-us-east-1", "GLACIER"): [
        ("expedited", 10.0 / K, 0.03, 1, 5),
        ("standard*", 0.05 / K, 0.01, 180, 300),
        ("bulk", 0.0, 0.0, 300, 720),
    ],
    ("aws-us-east-1", "DEEP_ARCHIVE"): [
        ("standard*", 0.1 / K, 0.02, 0, 720),
        ("bulk", 0.025 / K, 0.0025, 0, 2880),
    ],
    ("azure-eastus-lrs", "Archive"): [("high", 0.0, 0.1, 0, 60), ("standard*", 0.0, 0.02, 0, 900)],
}


def restores_of(options):
    return [
        (
            option.name + "*" * option.is_default,
            option.request_usd,
            option.retrieval_usd_gib,
            option.soonest_minutes,
            option.within_minutes,
        )
        for option in options
    ]


def autopilot_of(name):
    autopilot = load_book(name).prices_of(AUTOPILOTS[name][0]).autopilot
    assert autopilot is not None
    return autopilot


def approximately(rows):
    return [tuple(pytest.approx(cell) if isinstance(cell, float) else cell for cell in row) for row in rows]


def test_every_book_and_class_is_in_the_table():
    assert set(TABLE) == {name for name in available_books() if not is_derived(path_of(name))}
    for name, (_, classes) in TABLE.items():
        assert load_book(name).class_names == tuple(classes)


@pytest.mark.parametrize(
    ("name", "storage_class"), [(name, storage_class) for name, (_, rows) in TABLE.items() for storage_class in rows]
)
def test_prices_and_rules_of_a_class_are_the_published_ones(name, storage_class):
    count, rows = TABLE[name]
    storage, write, read, retrieval, transition, days, min_kib, at_class, at_standard, restore = rows[storage_class]
    prices = load_book(name).prices_of(storage_class)
    assert prices.storage_usd_gib_month == storage
    assert prices.write_usd == pytest.approx(write / count)
    assert prices.read_usd == pytest.approx(read / count)
    assert prices.retrieval_usd_gib == retrieval
    assert prices.transition_in_usd == (None if transition is None else pytest.approx(transition / count))
    assert prices.min_days == days
    assert prices.min_billable_bytes == min_kib * KIB
    assert (prices.overhead_class_bytes, prices.overhead_standard_bytes) == (at_class * KIB, at_standard * KIB)
    assert prices.restore_request_usd == pytest.approx(restore / count)


@pytest.mark.parametrize("name", AUTOPILOTS)
def test_autopilots_have_their_own_steps_and_fees(name):
    storage_class, scope, monitoring, steps = AUTOPILOTS[name]
    book = load_book(name)
    assert [c.storage_class for c in book.classes if c.autopilot is not None] == [storage_class]
    autopilot = autopilot_of(name)
    assert autopilot.scope == AutopilotScope(scope)
    assert autopilot.monitoring_usd_month == pytest.approx(monitoring)
    assert autopilot.monitored_min_bytes == 128 * KIB
    assert [(step.idle_days, step.storage_usd_gib_month) for step in autopilot.steps] == steps
    assert all(step.name for step in autopilot.steps)


def test_archive_options_of_intelligent_tiering_are_opt_in_and_restored_for_nothing():
    access, deep = autopilot_of("aws-us-east-1").archive_steps
    assert (access.name, access.min_idle_days, access.max_idle_days) == ("Archive Access", 90, 730)
    assert (deep.name, deep.min_idle_days, deep.max_idle_days) == ("Deep Archive Access", 180, 730)
    assert (access.storage_usd_gib_month, deep.storage_usd_gib_month) == (0.0036, 0.00099)
    assert restores_of(access.restores) == [
        ("expedited", None, None, 1, 5),  # nobody's published price
        ("standard*", 0.0, 0.0, 180, 300),
        ("bulk", 0.0, 0.0, 300, 720),
    ]
    assert restores_of(deep.restores) == [("standard*", 0.0, 0.0, 0, 720), ("bulk", 0.0, 0.0, 0, 2880)]
    assert [(step.overhead_class_bytes, step.overhead_standard_bytes) for step in (access, deep)] == [
        (32 * KIB, 8 * KIB)
    ] * 2
    assert (access.from_idle_days, deep.from_idle_days) == (None, None)
    others = [name for name in AUTOPILOTS if name != "aws-us-east-1"]
    assert all(autopilot_of(name).archive_steps == () for name in others)


def test_the_book_with_archive_tiers_differs_in_intelligent_tiering_only():
    base, book = load_book("aws-us-east-1"), load_book("aws-us-east-1-archive")
    name = "INTELLIGENT_TIERING"
    was, prices = base.prices_of(name), book.prices_of(name)
    assert [c for c in book.classes if c is not prices] == [c for c in base.classes if c is not was]
    assert dataclasses.replace(book, name=base.name, classes=base.classes) == base
    assert [(step.idle_days, step.storage_usd_gib_month, step.name) for step in prices.autopilot.steps] == [
        (30, 0.0125, "Infrequent Access"),
        (90, 0.0036, "Archive Access"),
        (180, 0.00099, "Deep Archive Access"),
    ]
    overheads = [(32 * rate + 8 * 0.023) / 1024**2 for rate in (0.0036, 0.00099)]
    assert [step.object_usd_month for step in prices.autopilot.steps] == pytest.approx([0.0, *overheads])
    assert (was.latency, prices.latency) == (Latency.MS, Latency.HOURS)
    assert restores_of(prices.restores) == [("standard*", 0.0, 0.0, 0, 720), ("bulk", 0.0, 0.0, 0, 2880)]


def test_the_book_with_soft_delete_differs_in_that_only():
    base, book = load_book("gcs-us-central1"), load_book("gcs-us-central1-soft-delete")
    assert book.soft_delete_days == 7
    assert dataclasses.replace(book, name=base.name, soft_delete_days=0) == base


@pytest.mark.parametrize(("name", "class_a"), [("gcs-us-central1", 0.005), ("gcs-us-multi", 0.01)])
def test_autoclass_charges_promotions_from_coldline_on_and_being_switched_on(name, class_a):
    autopilot = autopilot_of(name)
    assert autopilot.promotion_usd == pytest.approx(class_a / K)
    assert autopilot.promotion_from_idle_days == 90
    assert [step.name for step in autopilot.steps] == ["NEARLINE", "COLDLINE", "ARCHIVE"]
    assert autopilot.enable_usd == pytest.approx(class_a / K)
    assert (autopilot.enable_retrieval, autopilot.enable_early_deletion) == (True, True)
    assert (autopilot.leave_usd, autopilot.reenter, autopilot.redundancies) == (None, True, ())


def test_smart_tier_is_left_for_one_cool_write_and_for_good():
    book = load_book("azure-eastus-lrs")
    autopilot = autopilot_of("azure-eastus-lrs")
    assert autopilot.leave_usd == book.prices_of("Cool").write_usd == pytest.approx(0.1 / TEN_K)
    assert not autopilot.reenter
    assert autopilot.redundancies == ("ZRS", "GZRS", "RA-GZRS")
    assert book.redundancy == "LRS"
    assert (autopilot.promotion_usd, autopilot.enable_usd) == (0.0, 0.0)


@pytest.mark.parametrize(("name", "storage_class"), RESTORES)
def test_restores_are_priced_and_timed_by_their_speed(name, storage_class):
    prices = load_book(name).prices_of(storage_class)
    assert restores_of(prices.restores) == approximately(RESTORES[name, storage_class])
    (default,) = [option for option in prices.restores if option.is_default]
    assert default.request_usd == prices.restore_request_usd
    assert default.retrieval_usd_gib == prices.retrieval_usd_gib


def test_only_archives_have_restores_and_a_high_priority_read_has_its_own_price():
    for name in TABLE:
        for prices in load_book(name).classes:
            assert bool(prices.restores) == ((name, prices.storage_class) in RESTORES)
    high, standard = load_book("azure-eastus-lrs").prices_of("Archive").restores
    assert high.read_usd == pytest.approx(50.0 / TEN_K)
    assert standard.read_usd is None


@pytest.mark.parametrize(
    ("name", "storage_class", "bands"),
    [
        ("aws-us-east-1", "STANDARD", [(51200, 0.023), (512000, 0.022), (None, 0.021)]),
        ("azure-eastus-lrs", "Hot", [(51200, 0.0208), (512000, 0.019968), (None, 0.019136)]),
        ("azure-eastus-lrs", "Smart", [(51200, 0.0208), (512000, 0.019968), (None, 0.019136)]),
    ],
)
def test_volume_bands_are_the_published_ones(name, storage_class, bands):
    prices = load_book(name).prices_of(storage_class)
    assert [(band.up_to_gib, band.usd_gib_month) for band in prices.storage_bands] == bands


def test_lifecycle_rules_differ_by_provider():
    aws, azure, gcs, multi = (load_book(name) for name in sorted(TABLE))
    assert all(load_book(name).soft_delete_days == 0 for name in TABLE)
    assert [b.lifecycle_early_deletion for b in (aws, azure, gcs, multi)] == [True, True, False, False]
    assert [b.lifecycle_retrieval for b in (aws, azure, gcs, multi)] == [False] * 4
    assert [b.lifecycle_min_bytes for b in (aws, azure, gcs, multi)] == [128 * KIB, 0, 0, 0]
    young = {c.storage_class: c.lifecycle_in_min_age_days for c in aws.classes if c.lifecycle_in_min_age_days}
    assert young == {"STANDARD_IA": 30, "ONEZONE_IA": 30}
    for book in (gcs, multi):
        assert dataclasses.astuple(book.client_move_down) == (True, False, True, True)
        assert dataclasses.astuple(book.client_move_up) == (True, False, True, True)
    assert dataclasses.astuple(aws.client_move_up) == (True, True, True, True)
    assert dataclasses.astuple(azure.client_move_down) == (True, False, False, True)
    assert dataclasses.astuple(azure.client_move_up) == (False, True, True, True)


def test_lifecycle_is_a_waterfall_and_reaches_only_classes_of_the_book():
    assert {c.storage_class: c.lifecycle_to for c in load_book("aws-us-east-1").classes} == {
        "STANDARD": ("INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
        "INTELLIGENT_TIERING": ("ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
        "STANDARD_IA": ("INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
        "ONEZONE_IA": ("GLACIER", "DEEP_ARCHIVE"),
        "GLACIER_IR": ("GLACIER", "DEEP_ARCHIVE"),
        "GLACIER": ("DEEP_ARCHIVE",),
        "DEEP_ARCHIVE": (),
    }


def test_fees_for_many_objects_are_there_with_what_they_are_for():
    aws = load_book("aws-us-east-1")
    assert aws.list_usd == pytest.approx(0.005 / K)
    assert {fee.name: (fee.usd, fee.per) for fee in aws.fees} == {
        "S3 Inventory": (0.0025, "1000000 objects"),
        "S3 Batch Operations, a job": (0.25, "job"),
        "S3 Batch Operations, its objects": (1.0, "1000000 objects"),
        "S3 Storage Class Analysis": (0.1, "1000000 objects-month"),
        "S3 Storage Lens, advanced": (0.2, "1000000 objects-month"),
        "CloudTrail data events": (0.1, "100000 events"),
    }
    for name in ("gcs-us-central1", "gcs-us-multi"):
        assert [(fee.usd, fee.per) for fee in load_book(name).fees] == [
            (2.5, "1000000 objects-month"),
            (0.0025, "1000000 objects"),
        ]


@pytest.mark.parametrize("name", ["azure-eastus-lrs", "gcs-us-central1", "gcs-us-multi"])
def test_autopilots_on_other_classes_meters_cost_what_those_classes_cost(name):
    book = read_book(name)
    by_name = {prices.storage_class: prices for prices in book.classes}
    meters = [meter for prices in book.classes for meter in shared_meters(prices)]
    assert len(meters) >= 5
    for key, as_class, price, its_key in meters:
        assert price.usd == getattr(by_name[as_class], its_key).usd, key
    if name.startswith("azure"):
        assert by_name["Smart"].storage_bands[1].usd == by_name["Hot"].storage_bands[1].usd


@pytest.mark.parametrize(
    ("total_gib", "usd"),
    [
        (0, 0),
        (1, 0.023),
        (51200, 51200 * 0.023),
        (51201, 51200 * 0.023 + 0.022),
        (512000, 51200 * 0.023 + 460800 * 0.022),
        (1_000_000, 51200 * 0.023 + 460800 * 0.022 + 488000 * 0.021),
    ],
)
def test_total_is_priced_over_the_bands_when_there_are_any(total_gib, usd):
    prices = load_book("aws-us-east-1").prices_of("STANDARD")
    assert float(banded_storage_usd_month(prices, total_gib)) == pytest.approx(usd)


def test_total_is_priced_by_the_one_price_when_there_are_no_bands():
    prices = load_book("aws-us-east-1").prices_of("STANDARD_IA")
    totals = np.array([[0.0, 1.0], [1e6, 2.5]])
    assert banded_storage_usd_month(prices, totals) == pytest.approx(totals * 0.0125)
    assert marginal_storage_usd_gib_month(prices, 1e9) == 0.0125


@pytest.mark.parametrize(
    ("total_gib", "usd"), [(0, 0.023), (51200, 0.023), (51201, 0.022), (512000, 0.022), (1e7, 0.021)]
)
def test_last_gib_costs_what_its_band_does(total_gib, usd):
    prices = load_book("aws-us-east-1").prices_of("STANDARD")
    assert marginal_storage_usd_gib_month(prices, total_gib) == usd
    step = banded_storage_usd_month(prices, np.array([max(total_gib - 1, 0), max(total_gib, 1)]))
    assert step[1] - step[0] == pytest.approx(usd)


def test_old_fields_are_enough_when_values_are_made_elsewhere():
    autopilot = Autopilot(AutopilotScope.OBJECT, 0.0, 0, (AutopilotStep(30, 0.01),))
    prices = ClassPrices("STANDARD", 0.02, 0, 0, 0, None, (), 0, 0, 0, 0, Latency.MS, False, 0.0, 0, autopilot)
    free = MoveCharge(False, False, False, False)
    book = PriceBook("mine", Provider.AWS, "here", date(2026, 11, 1), (prices,), free, free, False)
    assert (prices.restores, prices.storage_bands, autopilot.archive_steps, book.fees) == ((), (), (), ())
    assert (autopilot.leave_usd, autopilot.reenter, book.lifecycle_min_bytes, book.list_usd) == (None, True, 0, None)
