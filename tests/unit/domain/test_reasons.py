from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.domain.placement_factories import KIB, MIB, objects_of

from cloudflux.domain.policy import OwnerLimits, decide
from cloudflux.domain.reasons import Phrases, _rounded
from cloudflux.price_books import load_book
from cloudflux.workflows.scored_tables import phrase_column

AWS = load_book("aws-us-east-1")
FIGURES = st.floats(min_value=0.0, max_value=1e9) | st.floats(min_value=0.0, max_value=120.0) | st.just(math.nan)


def two_digits(figure):
    """A figure to two significant digits, a whole one from 100 on: one at a time."""
    if not math.isfinite(figure) or figure < 1e-300:
        return 0.0
    if figure >= 100:
        return float(np.round(figure))
    magnitude = np.power(10.0, np.floor(np.log10(figure)) - 1)
    return float(np.round(figure / magnitude) * magnitude)


@given(st.lists(FIGURES, max_size=60))
def test_figures_are_rounded_as_one_by_one_when_they_are_coded(figures):
    codes, said = _rounded(np.array(figures, dtype=np.float64))
    assert [said[code] for code in codes] == [two_digits(figure) for figure in figures]


def test_few_words_are_formed_when_many_figures_round_alike():
    _, said = _rounded(np.random.default_rng(1).uniform(1.0, 99.0, 20_000))
    assert len(said) < 200


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"excluded": True}, "keep STANDARD: excluded by its owner"),
        ({"lock_reason": "legal hold", "expected_reads": 9.0}, "keep STANDARD: locked (legal hold)"),
        (
            {"current_class": "REDUCED_REDUNDANCY"},
            "keep REDUCED_REDUNDANCY: price book aws-us-east-1 does not know this class",
        ),
        ({"retained": True}, "keep STANDARD: younger than its owner's minimum retention"),
        ({"pinned_class": "GLACIER_IR"}, "move STANDARD -> GLACIER_IR: pinned there by its owner"),
        ({"pinned_class": "STANDARD"}, "keep STANDARD: pinned there by its owner"),
        (
            {"size_bytes": 10 * MIB, "expected_reads": 4.0},
            "move STANDARD -> INTELLIGENT_TIERING: 4 reads expected in 180 days; saves $0.00028, pays back in 4 days",
        ),
        (
            {"size_bytes": 100 * KIB, "expected_reads": 0.004},
            "keep STANDARD: GLACIER_IR would run cheaper, but within 180 days it does not earn its move and risk "
            "(0.004 reads expected in 180 days)",
        ),
        (
            {"expected_reads": 1.0, "size_bytes": KIB},
            "keep STANDARD: no allowed class is cheaper (1 read expected in 180 days)",
        ),
        ({"expected_reads": 1234.4}, "keep STANDARD: no allowed class is cheaper (1234 reads expected in 180 days)"),
    ],
)
def test_reason_says_why_when_an_object_is_decided(overrides, reason):
    assert decide(objects_of(**overrides), AWS).reason.tolist() == [reason]


def test_reason_names_the_cheaper_class_when_the_forecast_is_too_weak_for_it():
    limits = OwnerLimits(allowed_classes=("GLACIER_IR",))
    assert decide(objects_of(size_bytes=10 * MIB, from_rules=True), AWS, limits).reason.tolist() == [
        "keep STANDARD: GLACIER_IR is expected to be cheaper, but the forecast is too weak for it "
        "(0 reads expected in 180 days)"
    ]


def test_each_object_has_its_own_words_when_reasons_differ():
    objects = objects_of(
        5,
        lock_reason=["lease", None, "legal hold", None, None],
        current_class=["STANDARD", "GLACIER_IR", "STANDARD_IA", "OUTPOSTS", "REDUCED_REDUNDANCY"],
        excluded=[False, True, False, False, False],
    )
    assert decide(objects, AWS).reason.tolist() == [
        "keep STANDARD: locked (lease)",
        "keep GLACIER_IR: excluded by its owner",
        "keep STANDARD_IA: locked (legal hold)",
        "keep OUTPOSTS: price book aws-us-east-1 does not know this class",
        "keep REDUCED_REDUNDANCY: price book aws-us-east-1 does not know this class",
    ]


@given(st.lists(st.lists(st.sampled_from(["", "a", "é, ", "x y"]), max_size=5), min_size=1, max_size=4))
def test_texts_stay_the_same_when_columns_of_phrases_are_joined(columns):
    parts = [
        Phrases((tuple(texts), ("!", "?")), (np.arange(len(texts), dtype=np.int32), np.arange(len(texts)) % 2))
        for texts in columns
    ]
    joined = Phrases.joined(parts)
    expected = [text for part in parts for text in part.texts()]
    assert joined.texts().tolist() == expected
    assert phrase_column(joined).to_pylist() == expected


def test_text_is_said_of_all_when_it_is_the_same():
    assert phrase_column(Phrases.same("withheld: no logs", 3)).to_pylist() == ["withheld: no logs"] * 3
    assert len(Phrases.same("withheld: no logs", 0)) == 0
