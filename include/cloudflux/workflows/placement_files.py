"""Placement tables as files: named by all that they hang on, and refused when they are damaged or another's.

A file is a numpy archive without pickles, whose members carry check sums, and its name the digest of its key. The same
key and the same figures give the same bytes.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import struct
import zipfile
from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np

from cloudflux.domain import accounting, costs, placement, prices, usage
from cloudflux.domain.errors import CloudFluxError
from cloudflux.domain.placement import PlacementTables
from cloudflux.domain.prices import PriceBook

KIND: Final = "placements"
"""Where the lake keeps them."""
_SOLVED_BY: Final[tuple[ModuleType, ...]] = (placement, accounting, costs, prices, usage)
_ARRAYS: Final = (
    "size_edges_bytes",
    "clock_starts",
    "targets",
    "usd_gib",
    "usd_object",
    "keep_usd_gib",
    "keep_usd_object",
)


class PlacementFileDamaged(CloudFluxError, ValueError):
    """A file holds no tables, or others than its name says; the text says which file and why."""


@dataclass(frozen=True, slots=True)
class PlacementKey:
    """All that placement tables hang on."""

    chain: str
    """The chain's fingerprint, and so the model's version."""
    book: str
    """Digest of all prices and rules: a book that was refreshed under its old name is another."""
    classes: tuple[str, ...]
    may_enter: tuple[str, ...]
    horizon_days: int
    deleted_share_year: float
    read_share: float
    solver: str
    """Digest of the code that solves: another release may find other figures."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:40]

    def _text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def book_digest(book: PriceBook) -> str:
    """Give the SHA-256 of all of a book's prices and rules."""
    return hashlib.sha256(json.dumps(asdict(book), sort_keys=True, default=str).encode()).hexdigest()


@cache
def solver_digest() -> str:
    """Give the SHA-256 of the source text that solves tables."""
    return hashlib.sha256("".join(inspect.getsource(module) for module in _SOLVED_BY).encode()).hexdigest()


def placement_bytes(key: PlacementKey, tables: PlacementTables) -> bytes:
    """Give the file of solved tables."""
    written = {name: np.asarray(getattr(tables, name)) for name in _ARRAYS}
    buffer = io.BytesIO()
    header = np.frombuffer(key._text().encode(), dtype=np.uint8)
    np.savez(buffer, allow_pickle=False, key=header, class_names=np.array(tables.class_names), **written)
    return buffer.getvalue()


def placement_tables(key: PlacementKey, book: PriceBook, content: bytes) -> PlacementTables:
    """Read the tables of a key. Raises ``PlacementFileDamaged`` when the file holds anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
        told = held["key"].tobytes().decode()
        class_names = tuple(held["class_names"].tolist())
        arrays: dict[str, Any] = {name: held[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile) as exc:
        raise PlacementFileDamaged(f"the placement tables in {key.name} cannot be read: {exc!r}") from exc
    if told != key._text():
        raise PlacementFileDamaged(f"the placement tables in {key.name} are those of another key: {told[:200]}")
    clocks, sizes = int(arrays["clock_starts"][-1]), len(arrays["size_edges_bytes"]) + 1
    shapes = {arrays[name].shape[:2] for name in _ARRAYS[2:]}
    if shapes != {(clocks, sizes)} or len(arrays["clock_starts"]) != len(class_names) + 1:
        raise PlacementFileDamaged(f"the placement tables in {key.name} do not fit together")
    return PlacementTables(
        book=book,
        class_names=class_names,
        horizon_days=key.horizon_days,
        by_client=True,
        deleted_share_year=key.deleted_share_year,
        read_share=key.read_share,
        **arrays,
    )
