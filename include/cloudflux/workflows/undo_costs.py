"""What taking moves back costs, by the class that each object is in now, and since when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np

from cloudflux.domain.batch_jobs import JobTerms
from cloudflux.domain.costs import one_time_usd
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.migrations import RestoreOrder
from cloudflux.domain.plans import PlannedMove
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.undo import DoneMove
from cloudflux.workflows.move_costs import with_restore

_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class BucketPrices:
    """What taking objects of one bucket back costs, and how its archived ones would be restored for it."""

    book: PriceBook
    restore_of: Callable[[PlannedMove], RestoreOrder | None]
    jobs: JobTerms | None = None
    """When S3's jobs would move them, and at which prices."""


PricesOf = Callable[[str, str], BucketPrices]
"""By provider and bucket. Raises ``SettingsError`` for a bucket that the estate does not name."""


def undo_usd(moves: Sequence[DoneMove], prices_of: PricesOf, at: datetime) -> list[float]:
    """Give what taking each move back costs once, in USD: by the class that the object is in now, and since when.

    Raises ``SettingsError`` when a price book does not know a class.
    """
    alike: dict[tuple[str, str, RestoreOrder | None], list[int]] = {}
    for number, done in enumerate(moves):
        ref = done.move.ref
        back = replace(done.move, from_class=done.move.to_class, to_class=done.move.from_class)
        order = prices_of(ref.provider.value, ref.bucket).restore_of(back)
        alike.setdefault((ref.provider.value, ref.bucket, order), []).append(number)
    costs = np.zeros(len(moves))
    for (provider, bucket, order), numbers in alike.items():
        some = [moves[number] for number in numbers]
        book = with_restore(prices_of(provider, bucket).book, order)
        sizes = np.array([done.left.size_bytes for done in some], dtype=np.float64)
        days = np.array([(at - in_class_since(done)).total_seconds() / _DAY_SECONDS for done in some])
        sources, targets = (
            _codes(book, [getattr(done.move, name) for done in some]) for name in ("to_class", "from_class")
        )
        costs[numbers] = one_time_usd(book, sizes, sources, days)[np.arange(len(some)), targets]
    return [float(cost) for cost in costs]


def in_class_since(done: DoneMove) -> datetime:
    """Tell since when the object is in the class that it was moved to.

    What S3's lifecycle rules moved shows no other time than before; then it is taken as there since it was verified.
    """
    return done.left.class_since_at if done.left.class_since_at >= done.began_at else done.left_at


def _codes(book: PriceBook, names: Sequence[str]) -> np.typing.NDArray[np.intp]:
    codes = book.codes_of(np.array(names, dtype=object))
    if (codes < 0).any():
        unknown = names[int(np.argmin(codes))]
        raise SettingsError(f"price book {book.name} has no storage class {unknown!r}: what it costs cannot be told")
    return codes
