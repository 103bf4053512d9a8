from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.domain.placement_factories import GIB, KIB, MIB, TIB, objects_of

from cloudflux.domain import policy
from cloudflux.domain.policy import OwnerLimits, PolicySettings, decide
from cloudflux.domain.prices import Latency
from cloudflux.lake.schemas import DECISIONS
from cloudflux.price_books import available_books, load_book

AWS = load_book("aws-us-east-1")
AZURE = load_book("azure-eastus-lrs")
GCS = load_book("gcs-us-central1")
BOOKS = {name: load_book(name) for name in available_books()}
HOURS = OwnerLimits(latency=Latency.HOURS)


def chosen(book, limits=None, **overrides):
    """The class chosen for one object."""
    return decide(objects_of(**overrides), book, limits).chosen_class[0]


# --- moves that make sense, checked by hand over 180 days ------------------------------------------------------------


@pytest.mark.parametrize(
    ("book", "standard", "kib", "expected"),
    [
        # 700 KiB unread: STANDARD 0.0000921; GLACIER_IR 0.0000160 + copy 0.0000204
        (AWS, "STANDARD", 700, "GLACIER_IR"),
        # Hot 0.0000833; Cold 0.0000144 + write 0.0000180
        (AZURE, "Hot", 700, "Cold"),
        # STANDARD 0.0000801; COLDLINE 0.0000160 + 0.0000200; ARCHIVE 0.0000048 + 0.0000500
        (GCS, "STANDARD", 700, "COLDLINE"),
        # the dearer operation of ARCHIVE is earned by ten MiB
        (GCS, "STANDARD", 10 * 1024, "ARCHIVE"),
        # billed as 128 KiB, and a copy that 64 KiB cannot earn
        (AWS, "STANDARD", 64, "STANDARD"),
        (AZURE, "Hot", 64, "Hot"),
        (GCS, "STANDARD", 64, "STANDARD"),
    ],
)
def test_unread_object_goes_where_its_size_pays_when_milliseconds_are_needed(book, standard, kib, expected):
    assert chosen(book, size_bytes=kib * KIB, current_class=standard) == expected


@pytest.mark.parametrize("latency", list(Latency))
def test_intelligent_tiering_with_archive_tiers_is_for_those_who_can_wait(latency):
    limits = OwnerLimits(latency=latency, allowed_classes=("STANDARD", "INTELLIGENT_TIERING"))
    book = BOOKS["aws-us-east-1-archive"]
    in_it = "INTELLIGENT_TIERING" if latency == Latency.HOURS else "STANDARD"
    assert chosen(book, limits, size_bytes=GIB, current_class="STANDARD") == in_it
    assert chosen(AWS, limits, size_bytes=GIB, current_class="STANDARD") == "INTELLIGENT_TIERING"


def test_a_move_has_to_earn_what_soft_delete_keeps_of_it():
    # ARCHIVE saves 0.0188 USD a GiB and month, over 180 days 0.1128; a read within that costs 0.05 and what comes of it
    with_it = decide(objects_of(size_bytes=GIB, current_class="STANDARD"), BOOKS["gcs-us-central1-soft-delete"])
    without = decide(objects_of(size_bytes=GIB, current_class="STANDARD"), GCS)
    assert with_it.chosen_class[0] == without.chosen_class[0] == "ARCHIVE"
    assert with_it.one_time_usd[0] - without.one_time_usd[0] == pytest.approx(0.020 * 7 / 30)
    assert without.saving_usd[0] - with_it.saving_usd[0] == pytest.approx(0.020 * 7 / 30)


@pytest.mark.parametrize(("book", "standard"), [(AWS, "STANDARD"), (AZURE, "Hot"), (GCS, "STANDARD")])
def test_object_stays_in_the_standard_class_when_it_is_read_daily(book, standard):
    assert chosen(book, size_bytes=MIB, current_class=standard, expected_reads=180.0) == standard


@pytest.mark.parametrize(
    ("book", "cold", "standard"),
    [(AWS, "GLACIER_IR", "STANDARD"), (AZURE, "Cold", "Hot"), (GCS, "COLDLINE", "STANDARD")],
)
def test_object_is_promoted_when_many_reads_are_expected(book, cold, standard):
    assert chosen(book, size_bytes=MIB, current_class=cold, expected_reads=300.0) == standard


def test_intelligent_tiering_is_chosen_when_reads_come_now_and_then():
    assert chosen(AWS, size_bytes=10 * MIB, expected_reads=4.0) == "INTELLIGENT_TIERING"


def test_decision_weighs_the_risk_of_early_deletion_when_minimum_days_are_long():
    unread = objects_of(size_bytes=2 * MIB)

    def archive_less_coldline(share):
        usd = decide(unread, GCS, settings=PolicySettings(deleted_share_year=share)).candidate_usd[0]
        return usd[GCS.code_of("ARCHIVE")] - usd[GCS.code_of("COLDLINE")]

    assert archive_less_coldline(0.0) < 0 < archive_less_coldline(0.5)


# --- what owners allow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("book", "standard", "archive"), [(AWS, "STANDARD", "DEEP_ARCHIVE"), (AZURE, "Hot", "Archive")]
)
def test_archive_is_chosen_only_when_the_owner_accepts_hours(book, standard, archive):
    large = {"size_bytes": 10 * MIB, "current_class": standard}
    assert chosen(book, HOURS, **large) == archive
    assert chosen(book, **large) != archive


def test_single_zone_class_is_chosen_only_when_it_is_named():
    assert not decide(objects_of(), AWS, HOURS).weighed[0, AWS.code_of("ONEZONE_IA")]
    assert chosen(AWS, OwnerLimits(allowed_classes=("ONEZONE_IA",)), size_bytes=10 * MIB) == "ONEZONE_IA"


def test_only_named_classes_are_weighed_when_the_owner_names_them():
    decisions = decide(objects_of(), AWS, OwnerLimits(allowed_classes=("STANDARD_IA", "DEEP_ARCHIVE")))
    assert np.array(AWS.class_names)[decisions.weighed[0]].tolist() == ["STANDARD", "STANDARD_IA"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"lock_reason": "legal hold"}, "locked (legal hold)"),
        ({"excluded": True}, "excluded by its owner"),
        ({"current_class": "REDUCED_REDUNDANCY"}, "price book aws-us-east-1 does not know this class"),
    ],
)
def test_object_is_kept_with_its_reason_when_it_may_not_move(override, words):
    decisions = decide(objects_of(size_bytes=10 * MIB, **override), AWS)
    assert not decisions.moves[0]
    assert decisions.chosen_class[0] == decisions.current_class[0]
    assert words in decisions.reason[0]
    assert decisions.weighed[0].sum() == 1
    assert decisions.saving_usd[0] == decisions.one_time_usd[0] == 0
    assert np.isnan(decisions.payback_days[0])
    assert decisions.stay_usd[0] == decisions.chosen_usd[0] > 0


@pytest.mark.parametrize(("book", "setting"), [(AZURE, "Smart"), (GCS, "AUTOCLASS")])
def test_autopilot_of_a_bucket_is_never_a_candidate_when_objects_are_decided(book, setting):
    standard = book.class_names[0]
    assert not decide(objects_of(current_class=standard), book).weighed[0, book.code_of(setting)]
    under = decide(objects_of(size_bytes=GIB, current_class=setting), book)
    assert not under.moves[0]
    assert "setting of the account or bucket" in under.reason[0]


# --- weak forecasts --------------------------------------------------------------------------------------------------

NO_AUTOPILOT = OwnerLimits(allowed_classes=("STANDARD", "STANDARD_IA", "GLACIER_IR"))


@pytest.mark.parametrize("weak", [{"from_rules": True}, {"confidence": 0.49}])
def test_weak_forecast_waits_for_the_break_even_when_a_move_down_would_save(weak):
    # 10 MiB in GLACIER_IR earn 0.000006185 a day; there, back and 90 days cost 0.0004456: 72.04 days
    unread = {"size_bytes": 10 * MIB, **weak}
    early = decide(objects_of(idle_days=72.0, **unread), AWS, OwnerLimits(allowed_classes=("GLACIER_IR",)))
    assert not early.moves[0]
    assert "too weak" in early.reason[0]
    assert chosen(AWS, OwnerLimits(allowed_classes=("GLACIER_IR",)), idle_days=72.1, **unread) == "GLACIER_IR"


def test_weak_forecast_moves_nothing_down_when_it_is_not_known_how_long_objects_were_idle():
    assert not decide(objects_of(size_bytes=GIB, from_rules=True, idle_days=0.0), AWS, NO_AUTOPILOT).moves[0]
    assert decide(objects_of(size_bytes=GIB, from_rules=False, idle_days=0.0), AWS, NO_AUTOPILOT).moves[0]


def test_weak_forecast_promotes_only_when_half_of_the_reads_would_do():
    cold = {"size_bytes": MIB, "current_class": "GLACIER_IR"}
    reads = np.arange(1.0, 40.0, 0.1)
    strong = decide(objects_of(len(reads), expected_reads=reads, **cold), AWS, NO_AUTOPILOT)
    weak = decide(objects_of(len(reads), expected_reads=reads, confidence=0.1, **cold), AWS, NO_AUTOPILOT)
    assert reads[weak.moves].min() >= 1.9 * reads[strong.moves].min()
    assert weak.moves[-1]


# --- properties ------------------------------------------------------------------------------------------------------


@st.composite
def estates(draw):
    book = BOOKS[draw(st.sampled_from(sorted(BOOKS)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = 64
    reads = rng.choice([0.0, 1.0], count) * rng.lognormal(1.0, 2.0, count)
    return (
        book,
        OwnerLimits(latency=draw(st.sampled_from(list(Latency)))),
        objects_of(
            count,
            size_bytes=rng.lognormal(13, 3, count).astype(np.int64),
            current_class=rng.choice(np.array(book.class_names, dtype=object), count),
            days_in_class=rng.integers(0, 400, count),
            idle_days=rng.integers(0, 400, count),
            expected_reads=reads,
            probability_any=rng.uniform(0, 1, count),
            confidence=rng.uniform(0.3, 1, count),
            from_rules=rng.random(count) < 0.3,
        ),
    )


@settings(max_examples=60)
@given(estates())
def test_moves_save_and_pay_back_when_anything_moves(case):
    book, limits, objects = case
    decisions = decide(objects, book, limits)
    moved = decisions.moves
    assert (decisions.saving_usd[moved] > 0).all()
    assert (decisions.payback_days[moved] <= 180).all()
    assert (decisions.chosen_monthly_usd[moved] < decisions.current_monthly_usd[moved]).all()
    assert np.isnan(decisions.payback_days[~moved]).all()
    assert (decisions.one_time_usd[~moved] == 0).all()
    np.testing.assert_allclose(decisions.stay_usd - decisions.chosen_usd, decisions.saving_usd, atol=1e-12)
    chosen_codes = book.codes_of(decisions.chosen_class)
    assert decisions.weighed[np.arange(64), chosen_codes].all()


@settings(max_examples=60)
@given(estates())
def test_moves_come_to_rest_when_the_forecast_stays_the_same(case):
    book, limits, objects = case
    moves = []
    for _ in range(3):
        decisions = decide(objects, book, limits)
        moves.append(decisions.moves)
        objects = dataclasses.replace(
            objects,
            current_class=decisions.chosen_class,
            days_in_class=np.where(decisions.moves, 0.0, objects.days_in_class),
        )
    weak = objects.from_rules | (objects.confidence < PolicySettings().min_confidence)
    # a weak forecast may take two careful steps (out of GLACIER_IR by way of INTELLIGENT_TIERING), never more
    assert not moves[1][~weak].any()
    assert not moves[2].any()


def test_chunks_decide_alike_when_rows_are_many(monkeypatch):
    sizes = np.linspace(1, 20 * MIB, 50).astype(np.int64)
    objects = objects_of(50, size_bytes=sizes, expected_reads=np.linspace(0, 9, 50), from_rules=np.arange(50) % 2 == 0)
    whole = decide(objects, AWS)
    monkeypatch.setattr(policy, "_CHUNK_ROWS", 7)
    chunked = decide(objects, AWS)
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(chunked.columns()[name], column, err_msg=name)
    assert chunked.reason.tolist() == whole.reason.tolist()


# --- what the lake gets ----------------------------------------------------------------------------------------------


def test_columns_fit_the_decisions_dataset_when_written():
    decisions = decide(objects_of(3, size_bytes=[KIB, MIB, TIB], lock_reason=[None, None, "lease"]), AWS)
    for name, column in decisions.columns().items():
        field = DECISIONS.field(name)
        array = pa.array(column, field.type, from_pandas=True)
        assert field.nullable or array.null_count == 0, name
    offsets, classes, costs = decisions.candidate_lists()
    kind = DECISIONS.field("candidates").type
    lists = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.StructArray.from_arrays(
            [pa.array(decisions.class_names).take(pa.array(classes)), pa.array(costs)], fields=list(kind.value_type)
        ),
    ).cast(kind)
    assert [len(candidates) for candidates in lists.to_pylist()] == [4, 4, 1]
    assert lists.to_pylist()[1][0] == {
        "storage_class": "STANDARD",
        "expected_usd": pytest.approx(decisions.stay_usd[1]),
    }


def test_nothing_is_decided_when_there_are_no_objects():
    decisions = decide(objects_of(0), AWS)
    assert len(decisions) == 0
    assert all(len(column) == 0 for column in decisions.columns().values())


def test_reason_says_what_it_rests_on_when_an_object_moves():
    reason = decide(objects_of(size_bytes=700 * KIB, expected_reads=0.1), AWS).reason[0]
    assert reason == (
        "move STANDARD -> GLACIER_IR: 0.1 reads expected in 180 days; saves $0.000053, pays back in 51 days"
    )


def test_reason_names_the_tempting_class_when_a_move_does_not_pay():
    reason = decide(objects_of(size_bytes=100 * KIB), AWS).reason[0]
    assert reason.startswith("keep STANDARD: GLACIER_IR would run cheaper, but within 180 days it does not earn")
