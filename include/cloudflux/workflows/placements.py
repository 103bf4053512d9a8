"""The placement tables that scoring needs, solved once for each chain, price book and set of limits.

Solving takes seconds and each task is a process of its own: what one has solved is kept in the lake, and the others
read it there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # published without types

from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.placement import PlacementTables, solve_placement
from cloudflux.domain.policy import LearntUsage, OwnerLimits, PolicySettings, allowed_classes, may_leave
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.usage import UsageChain
from cloudflux.workflows.placement_files import (
    KIND,
    PlacementFileDamaged,
    PlacementKey,
    book_digest,
    placement_bytes,
    placement_tables,
    solver_digest,
)

_log = logging.getLogger(__name__)


class ArtefactStore(Protocol):
    """Where solved tables are kept."""

    def artefact(self, kind: str, name: str) -> bytes | None:
        """Read an artefact, or None when there is none."""

    def keep_artefact(self, kind: str, name: str, content: bytes) -> str:
        """Write an artefact, all or nothing."""


class Placements:
    """Solves placement tables, and keeps them: solving takes seconds, looking up does not.

    Moves are charged as a client's, because that is how CloudFlux moves objects.

    store : where tables are looked for before they are solved; None: nowhere.
    keeps : whether what was solved is written there, for the next.
    only_one : keeps other processes from solving the tables of a name while this one does, and waits while another
        does; who waited finds them in the store.
    """

    def __init__(
        self,
        store: ArtefactStore | None = None,
        *,
        keeps: bool = True,
        only_one: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._store = store
        self._keeps = keeps
        self._only_one = only_one
        self._known: dict[PlacementKey, LearntUsage] = {}
        self.solved = 0
        """How many tables were solved here."""
        self.read = 0
        """How many were found in the store."""

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
            if prices.is_setting_of_whole and not may_leave(prices, limits)
        }
        classes = allowed | (frozenset(book.class_names) & frozenset(present) - settled)
        classes |= {book.class_names[book.standard_code]}
        key = PlacementKey(
            chain=chain.fingerprint,
            book=book_digest(book),
            classes=tuple(sorted(classes, key=book.code_of)),
            may_enter=tuple(sorted(allowed, key=book.code_of)),
            horizon_days=settings.horizon_days,
            deleted_share_year=settings.deleted_share_year,
            read_share=read_share,
            solver=solver_digest(),
        )
        if key not in self._known:
            self._known[key] = LearntUsage(chain, self._tables(key, chain, book))
        return self._known[key]

    def _tables(self, key: PlacementKey, chain: UsageChain, book: PriceBook) -> PlacementTables:
        tables = self._stored(key, book)
        if tables is not None or self._store is None or not self._keeps:
            return self._solve(key, chain, book) if tables is None else tables
        with self._only_one(f"{KIND}/{key.name}"):
            tables = self._stored(key, book)
            if tables is None:
                tables = self._solve(key, chain, book)
                self._store.keep_artefact(KIND, key.name, placement_bytes(key, tables))
        return tables

    def _stored(self, key: PlacementKey, book: PriceBook) -> PlacementTables | None:
        """Read tables from the store; None when there are none, or they are damaged: then they are solved again."""
        content = None if self._store is None else self._store.artefact(KIND, key.name)
        if content is None:
            return None
        try:
            tables = placement_tables(key, book, content)
        except PlacementFileDamaged as exc:
            _log.warning("%s; they are solved again", exc)
            return None
        self.read += 1
        return tables

    def _solve(self, key: PlacementKey, chain: UsageChain, book: PriceBook) -> PlacementTables:
        self.solved += 1
        # many small products: threads that meet at each of them take several times as long on a busy machine
        with threadpool_limits(1):
            return solve_placement(
                chain,
                book,
                key.classes,
                horizon_days=key.horizon_days,
                deleted_share_year=key.deleted_share_year,
                read_share=key.read_share,
                by_client=True,
                may_enter=key.may_enter,
            )


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
