"""The exact account of N objects, day by day, under any sequence of storage classes: the reference for every cost.

A day goes in this order: moves are charged, the day is held in the class that the object is then in, the day's reads
are charged in that class, and the clocks go on. A month has 30 days, a GiB 2**30 bytes; what a class charges follows
from the price book alone.

What a move is charged as: a move down (to a later class of the book) that the provider's lifecycle rules can make is a
lifecycle transition, every other one a client's copy. They differ: S3's promotion is a copy with retrieval, GCS waives
retrieval and early deletion for lifecycle rules only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.costs import Codes, Floats, read_request_usd, retrieval_usd_gib, storage_usd_month
from cloudflux.domain.prices import GIB_BYTES, MONTH_DAYS, PriceBook

Days = NDArray[np.int64]

PARTS: Final = ("storage", "monitoring", "requests", "retrieval", "moves", "early_deletion")
"""What an account is made of, in the order of its columns. ``moves`` has all that a move costs but early deletion."""
STORAGE, MONITORING, REQUESTS, RETRIEVAL, MOVES, EARLY_DELETION = range(len(PARTS))
LONG_HELD_DAYS: Final = 1_000_000
"""Days in class of an object that owes nothing, however long the minimum."""


@dataclass(frozen=True, slots=True)
class AutopilotTariff:
    """What an autopilot's class charges N objects beside its requests."""

    usd_gib_day: Floats
    """Storage by days idle, shape (K + 1,); the last holds for K days and more."""
    usd_object_day: Floats
    """What each watched object is charged on top, whatever its size, of the same shape: an archive tier's overhead."""
    watched: NDArray[np.bool_]
    """Whether the object is large enough to be tiered, shape (N,)."""
    monitoring_usd_day: Floats
    """Shape (N,); 0 for objects that are not watched."""
    promotion_usd: float
    promotion_from_idle_days: int


@dataclass(frozen=True, slots=True)
class Tariff:
    """What N objects are charged in each of C storage classes. Make it with ``tariff_of``."""

    book: PriceBook
    class_names: tuple[str, ...]
    size_gib: Floats
    """Shape (N,)."""
    storage_usd_day: Floats
    """Shape (N, C), of the billable size; an autopilot's class at its warmest price."""
    request_usd: Floats
    """One read's requests, shape (C,); the restore request included."""
    retrieval_usd_gib: Floats
    """Reading a GiB, shape (C,); the restored copy's days included."""
    move_usd: Floats
    """One object's move from class to class, shape (C, C); ``inf`` where there is no way back in."""
    move_usd_gib: Floats
    """What a move costs for each GiB on top, shape (C, C)."""
    owes: NDArray[np.bool_]
    """Whether a move pays for the days that the source's minimum lacks, shape (C, C)."""
    min_days: Days
    """Shape (C,)."""
    autopilots: tuple[AutopilotTariff | None, ...]
    """By class."""
    never_again: NDArray[np.bool_]
    """Whether a class can be entered by those alone that were never moved, shape (C,): Azure's smart tier takes no blob
    that was given a tier of its own, the standard one too."""

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.size_gib)

    def code_of(self, storage_class: str) -> int:
        """Give a class's place. Raises ``KeyError`` naming it when it is not among this tariff's classes."""
        try:
            return self.class_names.index(storage_class)
        except ValueError:
            raise KeyError(
                f"no storage class {storage_class!r} here: there are {', '.join(self.class_names)}"
            ) from None

    @property
    def standard_code(self) -> int:
        """The place of the class that an upload gets when it names none."""
        return self.code_of(self.book.class_names[self.book.standard_code])

    def holding_usd(self, rows: Codes, codes: Codes, idle_days: Days) -> tuple[Floats, Floats]:
        """Give one day's storage and monitoring of some objects in their classes; all of the shape of ``rows``."""
        storage = self.storage_usd_day[rows, codes]
        monitoring = np.zeros(len(rows))
        for code, autopilot in enumerate(self.autopilots):
            if autopilot is None:
                continue
            inside = np.flatnonzero((codes == code) & autopilot.watched[rows])
            watched = rows[inside]
            steps = np.minimum(idle_days[inside], len(autopilot.usd_gib_day) - 1)
            storage[inside] = autopilot.usd_gib_day[steps] * self.size_gib[watched] + autopilot.usd_object_day[steps]
            monitoring[inside] = autopilot.monitoring_usd_day[watched]
        return storage, monitoring

    def moving_usd(self, rows: Codes, sources: Codes, targets: Codes, days_in_class: Days) -> tuple[Floats, Floats]:
        """Give what moves cost, and the early deletion that they owe; all of the shape of ``rows``."""
        moves = self.move_usd[sources, targets] + self.size_gib[rows] * self.move_usd_gib[sources, targets]
        missing = np.where(self.owes[sources, targets], np.maximum(self.min_days[sources] - days_in_class, 0), 0)
        owed: Floats = missing * self.storage_usd_day[rows, sources]
        return moves, owed


def tariff_of(
    book: PriceBook, size_bytes: ArrayLike, class_names: Sequence[str] | None = None, *, by_client: bool = False
) -> Tariff:
    """Price N objects in some of a book's classes (all of them when left out), in the book's order.

    by_client : every move is a client's, as CloudFlux's own are; else moves down are lifecycle transitions where they
        can be.
    Raises ``KeyError`` naming a class that the book does not have.
    """
    for name in class_names or ():
        book.code_of(name)
    names = tuple(name for name in book.class_names if class_names is None or name in class_names)
    codes = np.array([book.code_of(name) for name in names], dtype=np.intp)
    sizes = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))
    gib = sizes / GIB_BYTES
    request, retrieval = read_request_usd(book), retrieval_usd_gib(book)
    count = len(names)
    move, move_gib = np.zeros((count, count)), np.zeros((count, count))
    owes = np.zeros((count, count), dtype=np.bool_)
    for source in range(count):
        for target in range(count):
            if source != target:
                move[source, target], move_gib[source, target], owes[source, target] = _move(
                    book, (int(codes[source]), int(codes[target])), request, retrieval, by_client=by_client
                )
    return Tariff(
        book=book,
        class_names=names,
        size_gib=gib,
        storage_usd_day=storage_usd_month(book, sizes)[:, codes] / MONTH_DAYS,
        request_usd=request[codes],
        retrieval_usd_gib=retrieval[codes],
        move_usd=move,
        move_usd_gib=move_gib,
        owes=owes,
        min_days=np.array([book.classes[code].min_days for code in codes], dtype=np.int64),
        autopilots=tuple(_autopilot(book, int(code), sizes) for code in codes),
        never_again=np.array(
            [found is not None and not found.reenter for found in (book.classes[code].autopilot for code in codes)]
        ),
    )


class Account:
    """What N objects have been charged so far, and what state they are in. All arrays have shape (N,)."""

    def __init__(
        self, tariff: Tariff, class_codes: ArrayLike, days_in_class: ArrayLike = 0, idle_days: ArrayLike = 0
    ) -> None:
        count = len(tariff)
        self.tariff = tariff
        self.class_codes: Codes = np.array(np.broadcast_to(np.asarray(class_codes, dtype=np.intp), (count,)))
        self.days_in_class: Days = np.array(np.broadcast_to(np.asarray(days_in_class, dtype=np.int64), (count,)))
        self.idle_days: Days = np.array(np.broadcast_to(np.asarray(idle_days, dtype=np.int64), (count,)))
        """The autopilot's clock: days since the object came there or was read."""
        self.usd: Floats = np.zeros((count, len(PARTS)))
        """What was charged, shape (N, 6), in the order of ``PARTS``."""
        self.moves: Days = np.zeros(count, dtype=np.int64)

    def move(self, rows: Codes, targets: Codes) -> int:
        """Move some objects and charge it; gives how many moved. Who is there already does not move.

        Raises ``ValueError`` for a move that the provider does not offer.
        """
        moving = self.class_codes[rows] != targets
        rows, targets = rows[moving], targets[moving]
        if not len(rows):
            return 0
        sources = self.class_codes[rows]
        moves, owed = self.tariff.moving_usd(rows, sources, targets, self.days_in_class[rows])
        moves = np.where(self.tariff.never_again[targets] & (self.moves[rows] > 0), np.inf, moves)
        if not bool(np.isfinite(moves).all()):
            first = int(np.flatnonzero(~np.isfinite(moves))[0])
            names = self.tariff.class_names
            raise ValueError(f"no object can be moved from {names[sources[first]]} to {names[targets[first]]}")
        self.usd[rows, MOVES] += moves
        self.usd[rows, EARLY_DELETION] += owed
        self.class_codes[rows] = targets
        self.days_in_class[rows] = 0
        self.idle_days[rows] = 0
        self.moves[rows] += 1
        return len(rows)

    def pass_day(self, rows: Codes, read_rows: Codes, reads: ArrayLike, read_bytes: ArrayLike | None = None) -> None:
        """Hold ``rows`` for a day, and charge the day's reads of ``read_rows`` (each object once).

        ``read_bytes``: bytes read of each of ``read_rows`` in all; left out, every read reads the whole object.
        """
        tariff = self.tariff
        storage, monitoring = tariff.holding_usd(rows, self.class_codes[rows], self.idle_days[rows])
        self.usd[rows, STORAGE] += storage
        self.usd[rows, MONITORING] += monitoring
        count = np.asarray(reads, dtype=np.float64)
        gib = count * tariff.size_gib[read_rows] if read_bytes is None else np.asarray(read_bytes) / GIB_BYTES
        codes = self.class_codes[read_rows]
        self.usd[read_rows, REQUESTS] += count * tariff.request_usd[codes]
        self.usd[read_rows, RETRIEVAL] += gib * tariff.retrieval_usd_gib[codes]
        for code, autopilot in enumerate(tariff.autopilots):
            if autopilot is not None and autopilot.promotion_usd > 0:
                promoted = read_rows[
                    (codes == code)
                    & autopilot.watched[read_rows]
                    & (self.idle_days[read_rows] >= autopilot.promotion_from_idle_days)
                    & (count > 0)
                ]
                self.usd[promoted, MOVES] += autopilot.promotion_usd
        self.days_in_class[rows] += 1
        self.idle_days[rows] += 1
        self.idle_days[read_rows[count > 0]] = 0

    @property
    def total_usd(self) -> float:
        """All that was charged."""
        return float(self.usd.sum())

    @property
    def owed_usd(self) -> float:
        """What early deletion would charge on top if all objects were deleted now, whatever took them there."""
        tariff = self.tariff
        autopilot = np.array([found is not None for found in tariff.autopilots])
        missing = np.where(
            autopilot[self.class_codes], 0, np.maximum(tariff.min_days[self.class_codes] - self.days_in_class, 0)
        )
        return float((missing * tariff.storage_usd_day[np.arange(len(tariff)), self.class_codes]).sum())

    def parts_usd(self) -> dict[str, float]:
        """Give all that was charged, by part."""
        return dict(zip(PARTS, map(float, self.usd.sum(axis=0)), strict=True))


def account_for(
    tariff: Tariff, codes_by_day: NDArray[np.integer], reads_by_day: ArrayLike, start_codes: ArrayLike | None = None
) -> Account:
    """Account for a whole life of N objects under a given sequence of classes.

    codes_by_day : the class that each object is in on each day, shape (N, T); a change is a move at the day's start.
    reads_by_day : shape (N, T).
    start_codes : the class before the first day, held there for long; left out, that of the first day.
    """
    codes = np.asarray(codes_by_day, dtype=np.intp)
    reads = np.asarray(reads_by_day, dtype=np.float64)
    if codes.shape != reads.shape or codes.ndim != 2 or len(codes) != len(tariff):
        raise ValueError(f"classes {codes.shape} and reads {reads.shape} must both be ({len(tariff)}, days)")
    first = codes[:, 0] if start_codes is None else np.asarray(start_codes, dtype=np.intp)
    account = Account(tariff, first, LONG_HELD_DAYS)
    everything = np.arange(len(tariff))
    for day in range(codes.shape[1]):
        account.move(everything, codes[:, day])
        read = np.flatnonzero(reads[:, day])
        account.pass_day(everything, read, reads[read, day])
    return account


def _move(
    book: PriceBook, pair: tuple[int, int], request: Floats, retrieval: Floats, *, by_client: bool
) -> tuple[float, float, bool]:
    """Give what one move costs: for the object, for each GiB, and whether it owes early deletion."""
    source, target = pair
    here, there = book.classes[source], book.classes[target]
    if there.autopilot is not None and not there.autopilot.is_object_setting:
        if not there.autopilot.reenter and source != book.standard_code:
            return np.inf, 0.0, False
        back = retrieval[source] if there.autopilot.enable_retrieval else 0.0
        return there.autopilot.enable_usd, float(back), there.autopilot.enable_early_deletion
    if here.leave_usd is not None:
        return here.leave_usd, 0.0, False
    by_lifecycle = target > source and there.storage_class in here.lifecycle_to and not by_client
    if by_lifecycle and there.transition_in_usd is not None:
        back = retrieval[source] if book.lifecycle_retrieval else 0.0
        return there.transition_in_usd, float(back), book.lifecycle_early_deletion
    charge = book.client_move_down if target > source else book.client_move_up
    usd = charge.write_at_destination * there.write_usd + charge.read_at_source * request[source]
    per_gib = charge.retrieval_at_source * retrieval[source] + book.left_behind_usd_gib(source)
    return float(usd), float(per_gib), charge.early_deletion


def _autopilot(book: PriceBook, code: int, sizes: Floats) -> AutopilotTariff | None:
    prices = book.classes[code]
    autopilot = prices.autopilot
    if autopilot is None:
        return None
    by_day = np.full(autopilot.steps[-1].idle_days + 1, prices.storage_usd_gib_month / MONTH_DAYS)
    by_object = np.zeros_like(by_day)
    for step in autopilot.steps:
        by_day[step.idle_days :] = step.storage_usd_gib_month / MONTH_DAYS
        by_object[step.idle_days :] = step.object_usd_month / MONTH_DAYS
    watched = sizes >= autopilot.monitored_min_bytes
    return AutopilotTariff(
        usd_gib_day=by_day,
        usd_object_day=by_object,
        watched=watched,
        monitoring_usd_day=np.where(watched, autopilot.monitoring_usd_month / MONTH_DAYS, 0.0),
        promotion_usd=autopilot.promotion_usd,
        promotion_from_idle_days=autopilot.promotion_from_idle_days,
    )
