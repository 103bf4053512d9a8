"""The placement tables that scoring needs, solved once for each chain, price book and set of limits."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # published without types

from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.policy import LearntUsage, OwnerLimits, PolicySettings, allowed_classes
from cloudflux.domain.prices import AutopilotScope, PriceBook
from cloudflux.domain.usage import UsageChain

_Key = tuple[str, str, frozenset[str], frozenset[str], int, float, float]


class Placements:
    """Solves placement tables, and keeps them: solving takes seconds, looking up does not.

    Moves are charged as a client's, because that is how CloudFlux moves objects.
    """

    def __init__(self) -> None:
        self._solved: dict[_Key, LearntUsage] = {}

    @property
    def solved(self) -> int:
        """How many tables were solved."""
        return len(self._solved)

    def usage(
        self,
        chain: UsageChain,
        book: PriceBook,
        limits: OwnerLimits,
        settings: PolicySettings,
        *,
        present: Collection[str],
        read_share: float,
    ) -> LearntUsage:
        """Give the tables for objects in the classes ``present``, of which a read reads ``read_share``."""
        allowed = frozenset(allowed_classes(book, limits))
        settled = {
            prices.storage_class
            for prices in book.classes
            if prices.autopilot is not None and prices.autopilot.scope != AutopilotScope.OBJECT
        }
        classes = allowed | (frozenset(book.class_names) & frozenset(present) - settled)
        classes |= {book.class_names[book.standard_code]}
        key = (
            chain.fingerprint,
            book.name,
            classes,
            allowed,
            settings.horizon_days,
            settings.deleted_share_year,
            read_share,
        )
        if key not in self._solved:
            # many small products: threads that meet at each of them take several times as long on a busy machine
            with threadpool_limits(1):
                tables = solve_placement(
                    chain,
                    book,
                    sorted(classes, key=book.code_of),
                    horizon_days=settings.horizon_days,
                    deleted_share_year=settings.deleted_share_year,
                    read_share=read_share,
                    by_client=True,
                    may_enter=allowed,
                )
            self._solved[key] = LearntUsage(chain, tables)
        return self._solved[key]


def read_share_of(forecasts: AccessForecasts, size_bytes: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """Give how much of an object one read is expected to read, 0 to 1: over all, rounded up to one digit."""
    whole = float(forecasts.expected_reads @ size_bytes.astype(np.float64))
    if whole <= 0:
        return 1.0
    share = min(float(forecasts.expected_read_bytes.sum()) / whole, 1.0)
    if share <= 0:
        return 1.0
    digit = 10.0 ** math.floor(math.log10(share))
    return min(math.ceil(share / digit - 1e-9) * digit, 1.0)
