"""What a move costs once, at the prices and on the day of the move; and how an archived object is best restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

import numpy as np

from cloudflux.domain.costs import early_deletion_usd, lifecycle_move_usd, one_time_usd, usd
from cloudflux.domain.migrations import RestoreOrder
from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import PlannedMove
from cloudflux.domain.prices import ClassPrices, PriceBook, RestoreOption

_DAY_SECONDS: Final = 86_400
_GIB: Final = 2**30
_USD_PLACES: Final = 10

CostsOf = Callable[[Sequence[PlannedMove], Sequence[ObjectState], datetime], Sequence[Decimal | None]]


def move_costs(
    book: PriceBook,
    *,
    by_lifecycle: bool = False,
    restore_of: Callable[[PlannedMove], RestoreOrder | None] = lambda _: None,
) -> CostsOf:
    """Give the function that tells what moves cost: by what each object was before its move, and when it moved.

    ``by_lifecycle``: the provider's lifecycle rules moved them, and not a copy of ours. ``restore_of`` tells how an
    archived object was restored first; None: in the book's usual way. A class that the book does not know has no cost
    (None).
    """

    def costs_of(moves: Sequence[PlannedMove], before: Sequence[ObjectState], at: datetime) -> Sequence[Decimal | None]:
        alike: dict[RestoreOrder | None, list[int]] = {}
        for number, move in enumerate(moves):
            alike.setdefault(None if by_lifecycle else restore_of(move), []).append(number)
        costs: list[Decimal | None] = [None] * len(moves)
        for order, numbers in alike.items():
            some = _costs(
                with_restore(book, order),
                [moves[number] for number in numbers],
                [before[number] for number in numbers],
                at,
                by_lifecycle=by_lifecycle,
            )
            for number, cost in zip(numbers, some, strict=True):
                costs[number] = cost
        return costs

    return costs_of


def _costs(
    book: PriceBook, moves: Sequence[PlannedMove], before: Sequence[ObjectState], at: datetime, *, by_lifecycle: bool
) -> list[Decimal | None]:
    sizes = np.array([state.size_bytes for state in before], dtype=np.float64)
    days = np.array([(at - state.class_since_at).total_seconds() for state in before]) / _DAY_SECONDS
    sources = book.codes_of(np.array([state.storage_class for state in before]))
    targets = book.codes_of(np.array([move.to_class for move in moves]))
    known = (sources >= 0) & (targets >= 0)
    sources, targets = np.where(known, sources, 0), np.where(known, targets, 0)
    if by_lifecycle:
        owed = early_deletion_usd(book, sizes, sources, days)
        costs = lifecycle_move_usd(book, sources)[np.arange(len(moves)), targets] + owed
    else:
        costs = one_time_usd(book, sizes, sources, days)[np.arange(len(moves)), targets]
    return [
        usd(float(cost), _USD_PLACES) if fine else None
        for cost, fine in zip(costs, known & np.isfinite(costs), strict=True)
    ]


def with_restore(book: PriceBook, order: RestoreOrder | None) -> PriceBook:
    """Price archived objects' reads by the restore that is asked for, where the book has its default."""
    if order is None:
        return book
    classes = []
    for prices in book.classes:
        option = next((option for option in prices.restores if option.name == order.priority), None)
        if option is None or option.request_usd is None or option.retrieval_usd_gib is None:
            classes.append(prices)
            continue
        classes.append(
            replace(
                prices,
                restore_request_usd=option.request_usd,
                retrieval_usd_gib=option.retrieval_usd_gib,
                read_usd=prices.read_usd if option.read_usd is None else option.read_usd,
                restored_copy_days=order.keep_days if prices.restored_copy_days else 0,
            )
        )
    return replace(book, classes=tuple(classes))


def restore_orders(
    book: PriceBook, *, within_hours: int, keep_days: int
) -> Callable[[PlannedMove], RestoreOrder | None]:
    """Give the function that chooses how to restore an object: the cheapest option that is done in time.

    When none is fast enough, the fastest one. None for a class that needs no restore. What a request costs and what a
    GiB costs decide by the object's size. An object of an autopilot with archive tiers may lie in one of them, also
    where the book does not know that its owner has switched them on: then it is restored as these say.
    """
    patience_minutes = within_hours * 60
    options_of = {prices.storage_class: list(filter(_is_priced, _restores_of(prices))) for prices in book.classes}

    def order_of(move: PlannedMove) -> RestoreOrder | None:
        options = options_of.get(move.from_class)
        if not options:
            return None
        in_time = [option for option in options if option.within_minutes <= patience_minutes]
        if not in_time:
            in_time = [min(options, key=lambda option: option.within_minutes)]
        gib = move.size_bytes / _GIB
        chosen = min(in_time, key=lambda option: (restore_usd(option, gib), option.within_minutes))
        return RestoreOrder(chosen.name, keep_days)

    return order_of


def _restores_of(prices: ClassPrices) -> Sequence[RestoreOption]:
    if prices.restores or prices.autopilot is None or not prices.autopilot.archive_steps:
        return prices.restores
    return prices.autopilot.archive_steps[-1].restores


def restore_usd(option: RestoreOption, gib: float) -> float:
    """Give what restoring one object costs in a way whose prices are known."""
    return (option.request_usd or 0.0) + (option.read_usd or 0.0) + gib * (option.retrieval_usd_gib or 0.0)


def _is_priced(option: RestoreOption) -> bool:
    return option.request_usd is not None and option.retrieval_usd_gib is not None
