"""Let break-even decide for the objects whose own reads refute the usage chain.

Break-even (``cloudflux.domain.break_even``) opens classes, by what an object's reads and storage would have cost on all
days that the logs tell of; what each open class costs is then weighed by the object's own reads of the last month, not
by any forecast. So it moves down only what has earned the round trip, and up what its reads have used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cloudflux.domain.accounting import Days, tariff_of
from cloudflux.domain.break_even import open_classes
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.policy import Decisions, ObjectColumns
from cloudflux.domain.prices import MONTH_DAYS, PriceBook
from cloudflux.domain.reasons import Phrases
from cloudflux.domain.surprise import REFUTED_DAYS
from cloudflux.workflows.surprises import Surprises

REFUTED: Final = "refuted by its own reads"
"""How the reason of such a decision says it."""
_KEY: Final = ["provider", "bucket", "key"]


@dataclass(frozen=True, slots=True)
class Refutations:
    """Which of N objects refute the chain, and what was logged of them."""

    until: Days
    """The day from which on the chain decides again, as an ordinal; 0 where it decides. Shape (N,)."""
    daily_access: pa.Table
    day: date
    logged_from: date
    """The first day of the history that is looked at."""

    @classmethod
    def of(cls, surprises: Surprises, daily_access: pa.Table, logged_from: date) -> Refutations:
        """Take up what the accounts of a shard's objects say."""
        return cls(surprises.until(), daily_access, surprises.day, logged_from)

    def take(self, rows: NDArray[np.int64]) -> Refutations:
        """Give those of some objects."""
        return replace(self, until=self.until[rows])

    def rows(self) -> Codes:
        """Give the places of the objects that refute the chain."""
        return np.flatnonzero(self.until)

    def ruled(
        self, objects: ObjectColumns, inventory: pa.Table, forecasts: AccessForecasts, book: PriceBook
    ) -> ObjectColumns:
        """Give objects of one bucket as the policy is to take them: without a state of use where they refute the chain.

        ``inventory`` and ``forecasts`` have the same objects in the same order.
        """
        rows = self.rows()
        rows = rows[book.codes_of(objects.current_class[rows]) >= 0]
        if not len(rows):
            return objects
        opened = np.ones((len(objects), len(book.classes)), dtype=np.bool_)
        opened[rows] = self._opened(inventory.take(pa.array(rows)), objects.take(rows), book, self.until[rows])
        month = forecasts.reads_30_days[rows] / MONTH_DAYS * forecasts.horizon_days
        per_read = np.divide(
            objects.expected_read_bytes[rows],
            objects.expected_reads[rows],
            out=np.asarray(objects.size_bytes[rows], dtype=np.float64),
            where=objects.expected_reads[rows] > 0,
        )
        states = objects.usage_state

        def put(column: NDArray[Any], values: Any) -> NDArray[Any]:
            changed = column.copy()
            changed[rows] = values
            return changed

        return replace(
            objects,
            expected_reads=put(objects.expected_reads, month),
            expected_read_bytes=put(objects.expected_read_bytes, month * per_read),
            probability_any=put(objects.probability_any, -np.expm1(-month)),
            from_rules=put(objects.from_rules, True),
            usage_state=None if states is None else put(states, -1),
            break_even_opens=opened,
        )

    def told(self, decisions: Decisions, objects: ObjectColumns) -> Decisions:
        """Say in the reasons for whom break-even decided; ``objects`` are those that were decided."""
        rows = self.rows()
        free = ~(
            objects.excluded[rows] | np.not_equal(objects.lock_reason[rows], np.array(None, dtype=object)).astype(bool)
        )
        if objects.retained is not None:
            free &= ~objects.retained[rows]
        if objects.pinned_class is not None:
            free &= ~np.not_equal(objects.pinned_class[rows], np.array(None, dtype=object)).astype(bool)
        rows = rows[free]
        if not len(rows):
            return decisions
        days, place = np.unique(self.until[rows], return_inverse=True)
        words = ("", *(f"; {REFUTED}: break-even until {date.fromordinal(day)}" for day in days.tolist()))
        codes = np.zeros(len(decisions), dtype=np.int32)
        codes[rows] = place + 1
        said = decisions.reasons
        return replace(decisions, reasons=Phrases((*said.words, words), (*said.codes, codes)))

    def _opened(self, inventory: pa.Table, objects: ObjectColumns, book: PriceBook, until: Days) -> NDArray[np.bool_]:
        """Tell which of the book's classes break-even opens to N objects, shape (N, C)."""
        first = self.logged_from
        came = _days_from(inventory["last_modified_at"], first)
        in_class = _days_from(inventory["class_since_at"], first)
        refuting = until - first.toordinal() - REFUTED_DAYS - 1
        return open_classes(
            tariff_of(book, objects.size_bytes, by_client=True),
            book.codes_of(objects.current_class),
            reads_by_day=_reads_by_day(self.daily_access, inventory, first, self.day),
            since=came,
            ruled_from=np.maximum(in_class, refuting),
        )


def _reads_by_day(
    daily_access: pa.Table, inventory: pa.Table, first: date, day: date
) -> Sequence[tuple[Codes, Floats]]:
    """Give for each day from ``first`` until before ``day`` the places of the objects read, and how often."""
    places = pl.DataFrame(pl.from_arrow(inventory.select(_KEY))).with_row_index("place")
    mine = pc.is_in(daily_access["key"], inventory["key"].combine_chunks())
    rows = pl.DataFrame(pl.from_arrow(daily_access.select([*_KEY, "day", "reads"]).filter(mine)))
    found = rows.join(places, on=_KEY, how="inner").filter(pl.col("reads") > 0).sort("day", "place")
    starts = np.searchsorted(
        found["day"].to_numpy(), np.arange(np.datetime64(first), np.datetime64(day + timedelta(days=1)))
    )
    place, reads = found["place"].to_numpy().astype(np.intp), found["reads"].to_numpy().astype(np.float64)
    return [(place[one:end], reads[one:end]) for one, end in pairwise(starts)]


def _days_from(moments: pa.ChunkedArray, first: date) -> NDArray[np.int64]:
    """Give the number of each moment's day, counted from ``first``; negative before it."""
    days = moments.cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64()).to_numpy() // 86_400
    counted: NDArray[np.int64] = days - (first - date(1970, 1, 1)).days
    return counted
