"""What is expected of objects over a horizon, and what was seen of them, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.usage import UsageChain

FORECAST_HORIZONS: Final = (7, 30, 90, 180)
"""The horizons in days that every forecast tells of, beside the one that was asked for."""


@dataclass(frozen=True, slots=True)
class AccessForecasts:
    """Forecasts of N objects, in the order of the objects that were asked for. Arrays have shape (N,) unless said."""

    horizon_days: int
    expected_reads: NDArray[np.float64]
    """Over the horizon."""
    expected_read_bytes: NDArray[np.float64]
    """Over the horizon."""
    bytes_per_read: NDArray[np.float64]
    """What one read is expected to transfer."""
    probability_any: NDArray[np.float64]
    """Of at least one read within the horizon."""
    horizon_expected_reads: NDArray[np.float64]
    """Over 7, 30, 90 and 180 days, shape (N, 4)."""
    horizon_probability_any: NDArray[np.float64]
    """The same, of at least one read, shape (N, 4)."""
    band: NDArray[Any]
    """The ``AccessBand`` of the next 30 days, as text."""
    tier: NDArray[Any]
    """The tier of the next 30 days, as text: ``hot`` (more than 100 reads), ``warm`` (more than 10) or ``cold``."""
    confidence: NDArray[np.float64]
    """0 to 1: the probability of the tier."""
    source: NDArray[Any]
    """``model:<version>`` or ``rules``, as text."""
    from_rules: NDArray[np.bool_]
    reads_30_days: NDArray[np.float64]
    """Reads seen in the last 30 days."""
    last_read_days: NDArray[np.float64]
    """Days since the last read; infinite when none was seen."""
    idle_days: NDArray[np.float64]
    """Days for which it is known that nobody read it: since the last read, or since the object came or the logs begin;
    0 when its bucket has no logs."""

    feature_counts: NDArray[np.int64] | None = None
    """Objects by bin of the model's reference, shape (features, bins): what drift is measured by; None without one."""

    usage_state: NDArray[np.intp] | None = None
    """The state of use of each object, -1 where the rules speak; None without a chain."""
    usage_chain: UsageChain | None = None
    """How objects go from one state of use to the next; what the placement is solved for."""

    @property
    def horizon_expected_read_bytes(self) -> NDArray[np.float64]:
        """Over 7, 30, 90 and 180 days, shape (N, 4)."""
        expected: NDArray[np.float64] = self.horizon_expected_reads * self.bytes_per_read[:, None]
        return expected

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.expected_reads)
