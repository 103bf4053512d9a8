"""Cases of real users whose answer is known: mostly moves that a rule of thumb would make and that lose money."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pytest
from unit.domain.placement_factories import KIB, MIB, TIB, objects_of

from cloudflux.domain.costs import (
    client_move_usd,
    demand_of,
    holding_usd,
    lifecycle_move_usd,
    reading_usd,
    running_month_usd,
    storage_usd_month,
    usd,
)
from cloudflux.domain.policy import decide
from cloudflux.domain.savings import projected_savings
from cloudflux.price_books import load_book

AWS = load_book("aws-us-east-1")
REGIONAL = load_book("gcs-us-central1")
MULTI = load_book("gcs-us-multi")


def of(book, array, storage_class):
    return float(array[0, book.code_of(storage_class)])


def with_storage_prices(book, **prices):
    return dataclasses.replace(
        book,
        classes=tuple(
            dataclasses.replace(c, storage_usd_gib_month=prices.get(c.storage_class, c.storage_usd_gib_month))
            for c in book.classes
        ),
    )


class TestGcsTwoBillionTinyObjects:
    """github.com/cal-itp/data-infra/issues/5431: 44 TiB in 2.2 billion objects of some 20 KB, 60 million more a month.

    About 1,036 USD of storage a month, which is 0.023 USD a GiB: a dearer region than us-central1. The maintainers
    worked out 43,400 USD once and 447 more a month for Coldline, 108,500 and 2,085 for Archive, and left it all alone.
    """

    OLD_OBJECTS = 2.17e9
    NEW_OBJECTS_MONTH = 60e6
    BYTES = 44 * TIB * 2.17 / 2.2  # those older than 30 days
    # Standard as billed, Archive as quoted in issue 2773 of the same project, Coldline between them
    THEIR_REGION = with_storage_prices(REGIONAL, STANDARD=0.023, COLDLINE=0.006, ARCHIVE=0.0025)

    @pytest.mark.parametrize("book", [REGIONAL, THEIR_REGION], ids=["us-central1", "their-region"])
    def test_no_object_moves_when_the_policy_decides(self, book):
        sizes = np.array([1, 5, 10, 20, 30, 40]) * KIB
        decisions = decide(objects_of(len(sizes), size_bytes=sizes), book)
        assert not decisions.moves.any()
        assert "does not earn its move" in decisions.reason[3]

    @pytest.mark.parametrize(("storage_class", "once"), [("COLDLINE", "43400.00"), ("ARCHIVE", "108500.00")])
    def test_one_time_cost_is_as_worked_out_when_old_objects_move(self, storage_class, once):
        standard = np.array([REGIONAL.standard_code])
        for moved in (client_move_usd(REGIONAL, 20 * KIB, standard), lifecycle_move_usd(REGIONAL, standard)):
            assert usd(self.OLD_OBJECTS * of(REGIONAL, moved, storage_class)) == Decimal(once)

    @pytest.mark.parametrize(
        ("storage_class", "more_a_month", "here_more_a_month"),
        [("COLDLINE", 447, 489), ("ARCHIVE", 2085, 2165)],
    )
    def test_month_gets_dearer_when_new_objects_have_to_follow(self, storage_class, more_a_month, here_more_a_month):
        for book, expected in ((self.THEIR_REGION, more_a_month), (REGIONAL, here_more_a_month)):
            held = storage_usd_month(book, self.BYTES)
            saved = of(book, held, "STANDARD") - of(book, held, storage_class)
            moved = lifecycle_move_usd(book, np.array([book.standard_code]))
            assert self.NEW_OBJECTS_MONTH * of(book, moved, storage_class) - saved == pytest.approx(expected, rel=0.01)

    def test_storage_costs_what_they_were_billed_when_priced_for_their_region(self):
        month = storage_usd_month(self.THEIR_REGION, 44 * TIB)
        assert of(self.THEIR_REGION, month, "STANDARD") == pytest.approx(1036, rel=0.001)


class TestGcsFifteenMillionObjectsToArchive:
    """inmotioncloud.com/blog/gcp-archive-billing-surprise: 15 million objects, 5 TB, to Archive for some 1,000 USD."""

    OBJECTS = 15_000_000
    SIZE = 5 * TIB // OBJECTS

    @pytest.mark.parametrize(("book", "once"), [(REGIONAL, "750.00"), (MULTI, "1500.00")], ids=["regional", "multi"])
    def test_one_time_cost_is_known_before_the_move_when_everything_goes_to_archive(self, book, once):
        moved = client_move_usd(book, self.SIZE, np.array([book.standard_code]))
        assert usd(self.OBJECTS * of(book, moved, "ARCHIVE")) == Decimal(once)

    @pytest.mark.parametrize(
        ("book", "once", "months"), [(REGIONAL, 750, "7.79"), (MULTI, 1500, "12.74")], ids=["regional", "multi"]
    )
    def test_payback_is_shown_when_the_move_is_projected(self, book, once, months):
        demand = demand_of(self.SIZE, 0.0, 180)
        before, after = (
            usd(self.OBJECTS * running_month_usd(book, demand, np.array([book.code_of(name)]))[0])
            for name in ("STANDARD", "ARCHIVE")
        )
        assert projected_savings(before, after, Decimal(once)).payback_months == Decimal(months)

    def test_archive_is_not_chosen_when_it_cannot_pay_back_in_half_a_year(self):
        decision = decide(objects_of(size_bytes=self.SIZE), MULTI)
        assert decision.chosen_class[0] != "ARCHIVE"


class TestGcsNearlineBurst:
    """github.com/opentargets/issues/issues/4495: some 1 TiB in Nearline; in May 19 TiB were read.

    Billed at rest 7.59, retrieval 191.49, operations 7.62; June 97.08 retrieval; July nothing.
    """

    BYTES = 759 * 2**30  # what 7.59 USD of Nearline hold
    READ_BYTES = 19_149 * 2**30
    READS = 7.62e6
    OBJECTS = 400_000

    def demand(self, share=1.0):
        return demand_of(self.BYTES, self.READS * share, 30, read_bytes=self.READ_BYTES * share)

    def test_may_costs_what_was_billed_when_the_wave_is_read_from_nearline(self):
        held, read = holding_usd(REGIONAL, self.demand()), reading_usd(REGIONAL, self.demand())
        assert of(REGIONAL, held, "NEARLINE") == pytest.approx(7.59)
        assert of(REGIONAL, read, "NEARLINE") == pytest.approx(191.49 + 7.62)

    @pytest.mark.parametrize("days_in_class", [0.0, 10.0, 400.0])
    def test_objects_are_promoted_when_the_wave_is_forecast(self, days_in_class):
        wave = objects_of(
            size_bytes=self.BYTES // self.OBJECTS,
            current_class="NEARLINE",
            days_in_class=days_in_class,
            expected_reads=self.READS * 1.5 / self.OBJECTS,  # May and June, within the horizon
            expected_read_bytes=self.READ_BYTES * 1.5 / self.OBJECTS,
            probability_any=1.0,
        )
        decision = decide(wave, REGIONAL)
        assert decision.chosen_class[0] == "STANDARD"
        # 288 USD of retrieval avoided, for one rewrite of 759 GiB and twice the storage for six months
        assert self.OBJECTS * decision.saving_usd[0] == pytest.approx(288.6 * 0.8, rel=0.1)

    def test_objects_are_not_promoted_when_no_wave_is_forecast(self):
        quiet = objects_of(size_bytes=self.BYTES // self.OBJECTS, current_class="NEARLINE", expected_reads=0.5)
        assert decide(quiet, REGIONAL).chosen_class[0] in ("NEARLINE", "COLDLINE")


class TestS3FiftyMillionSmallObjectsInIntelligentTiering:
    """michal-drozd.com/en/blog/s3-intelligent-tiering-trap claims 125 USD of monitoring for 50 million objects of 5 KB.

    Since September 2021 objects below 128 KB are neither monitored nor charged: the claim is out of date.
    """

    OBJECTS = 50_000_000
    SIZE = 5 * KIB

    def test_monitoring_costs_nothing_when_objects_are_small(self):
        held = holding_usd(AWS, demand_of(self.SIZE, 0.0, 30))
        assert self.OBJECTS * of(AWS, held, "INTELLIGENT_TIERING") == pytest.approx(
            self.OBJECTS * of(AWS, held, "STANDARD")
        )
        assert self.OBJECTS * of(AWS, held, "STANDARD") == pytest.approx(5.48, abs=0.01)

    @pytest.mark.parametrize("storage_class", ["STANDARD", "INTELLIGENT_TIERING"])
    def test_there_is_no_benefit_when_small_objects_could_change_class(self, storage_class):
        decision = decide(objects_of(size_bytes=self.SIZE, current_class=storage_class), AWS)
        assert not decision.moves[0]
        assert decision.current_monthly_usd[0] * self.OBJECTS == pytest.approx(5.48, abs=0.01)


class TestS3HundredMillionHotObjectsInIntelligentTiering:
    """cloudandclear.uk/?p=5493: 100 million objects, all hot: 250 USD of monitoring a month, some 11 % on top."""

    OBJECTS = 100_000_000

    def test_monitoring_is_a_pure_loss_when_everything_is_hot(self):
        demand = demand_of(MIB, 3_000.0, 30)
        held = holding_usd(AWS, demand)
        monitoring = self.OBJECTS * (of(AWS, held, "INTELLIGENT_TIERING") - of(AWS, held, "STANDARD"))
        assert monitoring == pytest.approx(250.0, rel=1e-6)
        assert monitoring / (self.OBJECTS * of(AWS, held, "STANDARD")) == pytest.approx(0.11, abs=0.002)

    def test_hot_objects_do_not_enter_and_leave_when_the_policy_decides(self):
        hot = {"size_bytes": MIB, "expected_reads": 18_000.0}
        assert decide(objects_of(**hot), AWS).chosen_class[0] == "STANDARD"
        assert decide(objects_of(current_class="INTELLIGENT_TIERING", **hot), AWS).chosen_class[0] == "STANDARD"
