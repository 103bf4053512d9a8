"""When drift asks for training."""

from __future__ import annotations

from datetime import date

import pytest

from cloudflux.domain.drift import (
    DriftKind,
    DriftLimits,
    DriftMeasure,
    reasons_to_retrain,
    refuted_measure,
    worth_training,
)

DAY = date(2026, 10, 1)


def a_measure(kind: DriftKind, value: float, *, objects: int = 1_000) -> DriftMeasure:
    feature = kind is DriftKind.FEATURE
    return DriftMeasure(kind, "age_days" if feature else "30", value, objects, None if feature else DAY)


@pytest.mark.parametrize(
    ("kind", "usual", "beyond"),
    [
        (DriftKind.FEATURE, 0.25, 0.26),
        (DriftKind.REALISED_READS, 1.5, 1.51),
        (DriftKind.REALISED_READS, 0.67, 0.66),
        (DriftKind.CALIBRATION, 0.1, 0.11),
        (DriftKind.REFUTED, 0.05, 0.0511),
    ],
)
def test_training_is_asked_for_when_a_figure_is_beyond_its_limit(kind: DriftKind, usual: float, beyond: float) -> None:
    assert reasons_to_retrain([a_measure(kind, usual)], DriftLimits()) == []
    [reason] = reasons_to_retrain([a_measure(kind, beyond)], DriftLimits())
    assert (f"{beyond:.2%}" if kind is DriftKind.REFUTED else f"{beyond:.2f}") in reason
    assert reasons_to_retrain([a_measure(kind, beyond, objects=99)], DriftLimits()) == [], "too few objects to tell"


def test_share_of_refuted_objects_is_a_figure_only_where_the_chain_speaks() -> None:
    assert refuted_measure(200, 11) == [DriftMeasure(DriftKind.REFUTED, "chain", 0.055, 200)]
    assert refuted_measure(0, 0) == []


def test_worst_feature_is_named_first_when_several_drift() -> None:
    measures = [DriftMeasure(DriftKind.FEATURE, name, value, 500) for name, value in (("a", 0.3), ("b", 2.0))]
    assert [reason.split()[0] for reason in reasons_to_retrain(measures, DriftLimits())] == ["b", "a"]
    assert [reason.split()[0] for reason in reasons_to_retrain(measures, DriftLimits(), ageing={"b"})] == ["a"]


@pytest.mark.parametrize(
    ("reasons", "last_logged", "trained_until", "worth"),
    [
        (["age_days differs"], date(2026, 10, 5), date(2026, 10, 5), True),
        (["age_days differs"], date(2026, 10, 4), date(2026, 10, 5), False),  # it would learn the same again, for ever
        (["age_days differs"], date(2026, 10, 4), None, True),
        (["age_days differs"], None, None, False),
        ([], date(2026, 10, 5), date(2026, 9, 5), False),
    ],
)
def test_training_is_worth_it_when_there_is_a_reason_and_something_new(
    reasons: list[str], last_logged: date | None, trained_until: date | None, worth: bool
) -> None:
    assert worth_training(reasons, last_logged=last_logged, trained_until=trained_until) is worth
