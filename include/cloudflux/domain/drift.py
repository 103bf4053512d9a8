"""How far the present is from what the forecaster learnt, and when that is far enough to train again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from cloudflux.domain.surprise import REFUTED_SHARE


class DriftKind(StrEnum):
    """What is compared with what."""

    FEATURE = "feature"
    """A feature of the scored objects with that of the training rows: population stability index, from 0 on. The
    credit scorers' rule of thumb is: below 0.1 the same, above 0.25 another population (Siddiqi, Credit Risk
    Scorecards, 2006)."""
    REALISED_READS = "realised_reads"
    """Reads seen over a horizon that is over, divided by the reads that were expected of it."""
    CALIBRATION = "calibration"
    """How far the probabilities of any read were from the share of objects read, 0 to 1."""
    REFUTED = "refuted"
    """Share of the objects that the usage chain speaks for whose own reads have refuted it: see ``domain.surprise``."""


@dataclass(frozen=True, slots=True)
class DriftMeasure:
    """One figure of one day."""

    kind: DriftKind
    subject: str
    """The feature's name; ``chain`` of refuted objects; else the horizon in days."""
    value: float
    objects: int
    """How many objects it was measured on."""
    forecast_day: date | None = None
    """The first day of the horizon; None for a feature and for refuted objects."""


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """Beyond these the forecaster is to be trained again."""

    max_psi: float = 0.25
    max_ratio: float = 1.5
    """Realised reads may be so many times the expected ones, and the expected ones so many times the realised."""
    max_calibration_error: float = 0.1
    max_refuted_share: float = REFUTED_SHARE


LEAST_OBJECTS: Final = 100
"""A figure of fewer objects is shown, but asks for nothing."""


def reasons_to_retrain(
    measures: Iterable[DriftMeasure], limits: DriftLimits, *, ageing: Collection[str] = ()
) -> Sequence[str]:
    """Say which figures are beyond the limits, the features' worst first; nothing when none is.

    ageing : features that differ from the training's because time has passed, though objects are used as before: they
    give no reason.
    """
    features, others = [], []
    for measure in measures:
        if measure.objects < LEAST_OBJECTS or (measure.kind is DriftKind.FEATURE and measure.subject in ageing):
            continue
        if measure.kind is DriftKind.FEATURE and measure.value > limits.max_psi:
            features.append(measure)
        elif measure.kind is DriftKind.REALISED_READS:
            if not 1.0 / limits.max_ratio <= measure.value <= limits.max_ratio:
                others.append(
                    f"{measure.value:.2f} reads for each that was expected over {measure.subject} days from "
                    f"{measure.forecast_day} (between {1 / limits.max_ratio:.2f} and {limits.max_ratio:g} are usual)"
                )
        elif measure.kind is DriftKind.CALIBRATION and measure.value > limits.max_calibration_error:
            others.append(
                f"calibration error {measure.value:.3f} over {measure.subject} days from {measure.forecast_day} "
                f"(limit {limits.max_calibration_error:g})"
            )
        elif measure.kind is DriftKind.REFUTED and measure.value > limits.max_refuted_share:
            others.append(
                f"{measure.value:.2%} of the objects refute the usage chain by their own reads "
                f"(limit {limits.max_refuted_share:.0%})"
            )
    features.sort(key=lambda measure: -measure.value)
    return [
        *others,
        *(
            f"{measure.subject} differs from training: PSI {measure.value:.2f} (limit {limits.max_psi:g})"
            for measure in features
        ),
    ]


def refuted_measure(placed: int, refuted: int) -> list[DriftMeasure]:
    """Give the share of refuted objects as a figure; nothing where the chain speaks for no object."""
    return [DriftMeasure(DriftKind.REFUTED, "chain", refuted / placed, placed)] if placed else []


def worth_training(reasons: Sequence[str], *, last_logged: date | None, trained_until: date | None) -> bool:
    """Tell whether training again can help: there is a reason, and days that the newest training did not see.

    trained_until : the day before which that training's data ends; None when nothing was trained yet.
    """
    if not reasons or last_logged is None:
        return False
    return trained_until is None or last_logged >= trained_until
