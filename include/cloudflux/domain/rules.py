"""The rule-based classifier: the rule of a cold start, and a baseline for everything that claims to be better."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.tiers import Provider, Tier

HOT_ABOVE_ACCESSES: Final = 100
WARM_ABOVE_ACCESSES: Final = 10
WARM_SEEN_WITHIN_DAYS: Final = 30
COLD_UNSEEN_FROM_DAYS: Final = 90
COLD_BELOW_ACCESSES: Final = 5
HOT_BELOW_LATENCY_MS: Final = 100

CLASS_OF_TIER: Final = MappingProxyType(
    {
        # GLACIER_IR is S3's cold class because it answers in milliseconds, as Azure's Cold and GCS's COLDLINE do
        Provider.AWS: MappingProxyType(
            {Tier.HOT: "STANDARD", Tier.WARM: "STANDARD_IA", Tier.COLD: "GLACIER_IR", Tier.ARCHIVE: "GLACIER"}
        ),
        Provider.AZURE: MappingProxyType(
            {Tier.HOT: "Hot", Tier.WARM: "Cool", Tier.COLD: "Cold", Tier.ARCHIVE: "Archive"}
        ),
        Provider.GCP: MappingProxyType(
            {Tier.HOT: "STANDARD", Tier.WARM: "NEARLINE", Tier.COLD: "COLDLINE", Tier.ARCHIVE: "ARCHIVE"}
        ),
    }
)
"""The storage class that stands for a tier at each provider."""


@dataclass(frozen=True, slots=True)
class RuleTiers:
    """The classifier's answer for N objects."""

    tiers: NDArray[np.object_]
    """``hot``, ``warm`` or ``cold``, as text."""
    rule: NDArray[np.intp]
    """Which rule decided."""
    figure: NDArray[np.int64]
    """The figure that its reason names."""

    @property
    def reasons(self) -> NDArray[np.object_]:
        """Why, in words. Made when they are asked for: scoring many objects needs none."""
        pairs, inverse = np.unique(np.stack([self.rule, self.figure]), axis=1, return_inverse=True)
        texts = np.array([_reason(int(which), int(value)) for which, value in pairs.T], dtype=object)
        reasons: NDArray[Any] = texts[inverse.reshape(-1)] if texts.size else np.empty(0, dtype=object)
        return reasons

    def storage_classes(self, provider: Provider) -> NDArray[np.object_]:
        """Give the provider's storage class of each object's tier."""
        classes = np.empty(self.tiers.shape, dtype=object)
        for tier, storage_class in CLASS_OF_TIER[provider].items():
            classes[self.tiers == tier.value] = storage_class
        return classes


def classify(accesses_month: ArrayLike, idle_days: ArrayLike, latency_need_ms: ArrayLike | None = None) -> RuleTiers:
    """Sort N objects into tiers by rules; the first that applies decides.

    1. The owner needs the first byte in less than 100 ms: hot.
    2. More than 100 accesses in the last 30 days: hot.
    3. More than 10, and seen within 30 days: warm.
    4. Unseen for 90 days or longer, or fewer than 5 accesses: cold.
    5. Else: warm.

    ``accesses_month``, ``idle_days`` (since the last access; ``inf`` or NaN when it was never seen) and
    ``latency_need_ms`` (NaN or None: no need stated) have shape (N,) or are scalars.
    """
    accesses, idle, latency = np.broadcast_arrays(
        np.atleast_1d(np.asarray(accesses_month, dtype=np.float64)),
        np.asarray(idle_days, dtype=np.float64),
        np.asarray(np.nan if latency_need_ms is None else latency_need_ms, dtype=np.float64),
    )
    idle = np.where(np.isnan(idle), np.inf, idle)
    conditions = [
        latency < HOT_BELOW_LATENCY_MS,
        accesses > HOT_ABOVE_ACCESSES,
        (accesses > WARM_ABOVE_ACCESSES) & (idle <= WARM_SEEN_WITHIN_DAYS),
        np.isinf(idle),
        idle >= COLD_UNSEEN_FROM_DAYS,
        accesses < COLD_BELOW_ACCESSES,
    ]
    rule = np.select(conditions, list(range(len(conditions))), default=len(conditions))
    tiers = np.array(
        [Tier.HOT.value, Tier.HOT.value, Tier.WARM.value, *[Tier.COLD.value] * 3, Tier.WARM.value], dtype=object
    )[rule]
    # whole: few distinct texts for any number of objects
    figure = np.select(
        [rule == 0, rule == 3, rule == 4], [latency, np.zeros_like(idle), np.floor(idle)], np.floor(accesses)
    ).astype(np.int64)
    return RuleTiers(tiers, rule, figure)


def _reason(rule: int, figure: int) -> str:
    return (
        f"hot: the first byte is needed within {figure} ms (less than {HOT_BELOW_LATENCY_MS})",
        f"hot: {figure} accesses a month (more than {HOT_ABOVE_ACCESSES})",
        f"warm: {figure} accesses a month (more than {WARM_ABOVE_ACCESSES}), seen within {WARM_SEEN_WITHIN_DAYS} days",
        "cold: never seen in the history",
        f"cold: unseen for {figure} days ({COLD_UNSEEN_FROM_DAYS} or more)",
        f"cold: {figure} accesses a month (fewer than {COLD_BELOW_ACCESSES})",
        f"warm: {figure} accesses a month, no other rule applies",
    )[rule]
