"""How much an object is used, in words: bands of reads in a 30-day month."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.tiers import Tier


class AccessBand(StrEnum):
    """How often an object is read in a 30-day month."""

    HOT = "hot"  # more than 100
    WARM = "warm"  # 5 to 100
    COLD = "cold"  # 1 to 4
    ARCHIVE = "archive"  # not at all


HOT_ABOVE_READS: Final = 100
WARM_FROM_READS: Final = 5
COLD_FROM_READS: Final = 1

BANDS: Final = (AccessBand.HOT, AccessBand.WARM, AccessBand.COLD, AccessBand.ARCHIVE)
"""From the most to the least used."""


def band_codes(reads_month: ArrayLike) -> NDArray[np.int8]:
    """Give each object's position in ``BANDS``, from its reads in a 30-day month.

    Expected reads may be fractions: fewer than one read a month is ``archive``, so that the bands leave no gap.
    Raises ``ValueError`` when a figure is negative or not a number.
    """
    reads = np.asarray(reads_month, dtype=np.float64)
    if reads.size and not bool(np.all(reads >= 0)):
        raise ValueError("reads of a month must be numbers of at least 0")
    codes = (
        (reads <= HOT_ABOVE_READS).astype(np.int8)
        + (reads < WARM_FROM_READS).astype(np.int8)
        + (reads < COLD_FROM_READS).astype(np.int8)
    )
    return codes.astype(np.int8)


def band_of(reads_month: ArrayLike) -> NDArray[np.object_]:
    """Give each object's band as text (``hot``, ``warm``, ``cold``, ``archive``), from its reads in a 30-day month."""
    names = np.array([band.value for band in BANDS], dtype=object)
    bands: NDArray[np.object_] = names[band_codes(reads_month)]
    return bands


HOT_TIER_ABOVE_READS: Final = 100
WARM_TIER_ABOVE_READS: Final = 10

FORECAST_TIERS: Final = (Tier.HOT, Tier.WARM, Tier.COLD)
"""The tiers that a month's reads are sorted into: more than 100, more than 10, and all others."""


def tier_codes(reads_month: ArrayLike) -> NDArray[np.int8]:
    """Give each object's position in ``FORECAST_TIERS``, from its reads in a 30-day month.

    Raises ``ValueError`` when a figure is negative or not a number.
    """
    reads = np.asarray(reads_month, dtype=np.float64)
    if reads.size and not bool(np.all(reads >= 0)):
        raise ValueError("reads of a month must be numbers of at least 0")
    codes = (reads <= HOT_TIER_ABOVE_READS).astype(np.int8) + (reads <= WARM_TIER_ABOVE_READS).astype(np.int8)
    return codes.astype(np.int8)


def tier_names(codes: ArrayLike) -> NDArray[np.object_]:
    """Give tiers as text (``hot``, ``warm``, ``cold``), from their positions in ``FORECAST_TIERS``."""
    names = np.array([tier.value for tier in FORECAST_TIERS], dtype=object)
    tiers: NDArray[np.object_] = names[np.asarray(codes, dtype=np.int64)]
    return tiers
