"""Hold the usage chain to account: which objects refute it by their own reads, so that break-even decides for them.

The rule is ``cloudflux.domain.surprise``. What it needs is published already: the decisions of a day say in which class
each object was and how many reads the chain expected of it on that day, daily access says how many came. The accounts
as of each scored day's morning are the dataset ``surprises``, a row for each object whose account is not empty.

Scoring begins with the accounts of some days ago and weighs the days since then anew, so that log files which came late
count, and scoring a day twice gives the same bytes. Without those accounts it weighs the last month's days: the dataset
follows from published decisions and daily access.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cloudflux.config import BucketSettings
from cloudflux.domain.accounting import Days, tariff_of
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.prices import GIB_BYTES, PriceBook
from cloudflux.domain.surprise import (
    REFUTED_DAYS,
    REFUTED_SHARE,
    SurpriseAccounts,
    surprise_terms,
    training_pause_days,
)
from cloudflux.lake.schemas import SURPRISES
from cloudflux.workflows.lake_ports import PublishedLake

WEIGHED_ANEW_DAYS: Final = 3
"""Log files that come so many days late still count."""
REBUILT_DAYS: Final = REFUTED_DAYS + 1
"""How many days are weighed where no accounts are kept: what was refuted before them is over."""

_CHUNK_ROWS: Final = 131_072  # of matrices with a column for each class
_KEY: Final = ["provider", "bucket", "key"]
_DECIDED: Final = [*_KEY, "current_class", "expected_reads_day"]


@dataclass(frozen=True, slots=True)
class Surprises:
    """The accounts of one shard's objects in the morning of a day. Arrays have the order of its inventory."""

    day: date
    accounts: SurpriseAccounts
    """Its days are ordinals of ``datetime.date``."""
    model: str | None
    """Whose chain the accounts began with; None before any chain has spoken."""
    since: date
    """When they began: in the last morning on which all were empty, or when a new chain began them."""
    due: date
    """From this day on a new chain begins new accounts."""

    @classmethod
    def new(cls, day: date, objects: int, model: str | None, history_days: int) -> Surprises:
        """Begin empty accounts."""
        due = day + timedelta(days=training_pause_days(history_days))
        return cls(day, SurpriseAccounts(objects), model, day, due)

    def refuted(self) -> NDArray[np.bool_]:
        """Tell which objects refute the chain, shape (N,)."""
        return self.accounts.refuted(self.day.toordinal())

    def until(self) -> Days:
        """Give the day from which on the chain decides again, as an ordinal; 0 where it does. Shape (N,)."""
        return np.where(self.refuted(), self.accounts.refuted_until, 0)

    def in_the_morning(self, day: date, model: str | None, history_days: int, placed: int) -> Surprises:
        """Give the accounts that are decided with on a day on which ``model`` speaks.

        They begin anew for another chain than they began with, once the chain's time is over: so long as the backtest
        lets one stand, or 30 days from when more than 5 % of the ``placed`` objects refuted it. Champions that follow
        sooner, as training after each publication makes them, go on with the accounts: else no account would ever
        hold more than a day, and no object would be refuted for longer.
        """
        found = replace(self, day=day)
        empty = not (found.accounts.usd.any() or found.refuted().any())
        another = model is not None and model != self.model
        if empty or (another and (self.model is None or day >= self.due)):
            return Surprises.new(day, len(self.accounts.usd), model, history_days)
        if found.refuted().sum() > REFUTED_SHARE * placed:
            return replace(found, due=min(self.due, day + timedelta(days=REFUTED_DAYS)))
        return found

    def table(self, inventory: pa.Table) -> pa.Table:
        """Give the rows of the dataset ``surprises``."""
        refuted = self.refuted()
        rows = np.flatnonzero((self.accounts.usd > 0) | refuted) if self.model is not None else np.empty(0, np.intp)
        some, count = inventory.select(_KEY).take(pa.array(rows)), len(rows)
        # Arrow's days begin in 1970
        until = self.accounts.refuted_until[rows] - date(1970, 1, 1).toordinal()
        columns = {
            **{name: some[name] for name in _KEY},
            "day": pa.repeat(pa.scalar(self.day, pa.date32()), count),
            "model": pa.repeat(pa.scalar(self.model or "", pa.string()), count),
            "since": pa.repeat(pa.scalar(self.since, pa.date32()), count),
            "due": pa.repeat(pa.scalar(self.due, pa.date32()), count),
            "surprise_usd": pa.array(self.accounts.usd[rows], pa.float64()),
            "refuted_until": pa.array(until, pa.int32(), mask=~refuted[rows]).cast(pa.date32()),
        }
        return pa.table(columns, schema=SURPRISES)


def weigh_surprises(
    *,
    day: date,
    shard: int,
    lake: PublishedLake,
    inventory: pa.Table,
    daily_access: pa.Table,
    forecasts: AccessForecasts,
    logged_from: date | None,
    buckets: Mapping[tuple[str, str], BucketSettings],
    books: Mapping[str, PriceBook],
) -> Surprises:
    """Give the accounts of one shard's objects in the morning of ``day``.

    inventory : the objects, of the estate's buckets only.
    daily_access : what was logged of them before ``day``; the last days are looked at.
    forecasts : theirs, of ``day``: who speaks today, and how much a read is expected to read.
    logged_from : the first day that the logs cover.
    """
    placed = 0 if forecasts.usage_state is None else int((forecasts.usage_state >= 0).sum())

    def history_days(on: date) -> int:
        return 0 if logged_from is None else max((on - logged_from).days, 0)

    decided = [known for known in lake.days("decisions") if day - timedelta(days=REBUILT_DAYS) <= known < day]
    base = max((known for known in lake.days("surprises") if _is_settled(known, day)), default=None)
    if base is not None:
        decided = [known for known in decided if known >= base]
    elif not decided:
        return Surprises.new(day, inventory.num_rows, speaker_of(forecasts), history_days(day))
    first = decided[0] if base is None else base
    guarded = _Guarded(inventory, forecasts, buckets, books)
    found = Surprises.new(first, inventory.num_rows, _speaker_on(lake, first, shard), history_days(first))
    if base is not None:
        found = _kept(lake.dataset("surprises", days=[base], shard=shard).to_table(), guarded, found)
    reads = guarded.reads_of(daily_access, first, day)
    for place, scored in enumerate(decided):
        if scored != first:
            found = found.in_the_morning(scored, _speaker_on(lake, scored, shard), history_days(scored), placed)
        later = decided[place + 1] if place + 1 < len(decided) else day
        now = reads.filter(pl.col("day").is_between(scored, later, closed="left"))
        expected = guarded.expected(lake, scored, shard, now, found.accounts)
        guarded.weigh(found.accounts, expected, now, scored, later)
    return found.in_the_morning(day, speaker_of(forecasts), history_days(day), placed)


def speaker_of(forecasts: AccessForecasts) -> str | None:
    """Name the model whose chain places objects; None where the rules speak."""
    modelled = np.flatnonzero(~forecasts.from_rules)
    return None if forecasts.usage_chain is None or not len(modelled) else str(forecasts.source[modelled[0]])


def told_so_far(lake: PublishedLake, inventory: pa.Table, day: date, shard: int) -> Surprises | None:
    """Give what the newest kept accounts up to ``day`` say of a shard's objects; None where none are kept."""
    kept = max((known for known in lake.days("surprises") if known <= day), default=None)
    if kept is None:
        return None
    empty = Surprises(day, SurpriseAccounts(inventory.num_rows), None, kept, kept)
    table = lake.dataset("surprises", days=[kept], shard=shard).to_table()
    return replace(_kept(table, _Guarded(inventory, None, {}, {}), empty), day=day)


def _is_settled(known: date, day: date) -> bool:
    """Tell whether accounts are of so long ago that no late log is waited for, and not of too long ago."""
    return WEIGHED_ANEW_DAYS <= (day - known).days <= REBUILT_DAYS


def _speaker_on(lake: PublishedLake, day: date, shard: int) -> str | None:
    """Name the model that spoke on a scored day; None where the rules did."""
    forecasts = lake.dataset("forecasts", days=[day], shard=shard)
    spoken = pc.starts_with(pc.field("source"), "model:")
    found: list[str] = forecasts.head(1, columns=["source"], filter=spoken)["source"].to_pylist()
    return found[0] if found else None


def _kept(table: pa.Table, guarded: _Guarded, begun: Surprises) -> Surprises:
    """Take up the accounts that a partition keeps; ``begun`` where it keeps none."""
    rows = guarded.places(pl.DataFrame(pl.from_arrow(table)))
    if not table.num_rows:
        return begun
    accounts = SurpriseAccounts(len(begun.accounts.usd))
    place = rows["place"].to_numpy()
    accounts.usd[place] = rows["surprise_usd"].to_numpy()
    ordinals = rows["refuted_until"].cast(pl.Int64).fill_null(-date(1970, 1, 1).toordinal())
    accounts.refuted_until[place] = ordinals.to_numpy() + date(1970, 1, 1).toordinal()
    whole = table.slice(0, 1).to_pylist()[0]
    return Surprises(begun.day, accounts, whole["model"], whole["since"], whole["due"])


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a scored day's decisions say of the objects that the guard looks at; shape (n,)."""

    rows: Codes
    classes: NDArray[np.object_]
    expected_usd: Floats
    """Of a day: what the reads were expected to cost more than in the standard class, shape (N,)."""


class _Guarded:
    """A shard's objects by name, with their sizes and price books."""

    def __init__(
        self,
        inventory: pa.Table,
        forecasts: AccessForecasts | None,
        buckets: Mapping[tuple[str, str], BucketSettings],
        books: Mapping[str, PriceBook],
    ) -> None:
        self._names = pl.DataFrame(pl.from_arrow(inventory.select(_KEY))).with_row_index("place")
        self._sizes: Floats = inventory["size_bytes"].to_numpy().astype(np.float64)
        self._books = {bucket: books[settings.price_book] for bucket, settings in buckets.items()}
        self._read_bytes = self._sizes
        if forecasts is not None:
            reads = forecasts.expected_reads
            self._read_bytes = np.divide(forecasts.expected_read_bytes, reads, out=self._sizes.copy(), where=reads > 0)

    def places(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Give rows with their objects' places in the inventory; those of objects that are gone are left out."""
        return rows.join(self._names, on=_KEY, how="inner", maintain_order="left").with_columns(
            pl.col("place").cast(pl.Int64)
        )

    def reads_of(self, daily_access: pa.Table, first: date, day: date) -> pl.DataFrame:
        """Give the reads of some days: day, place, reads, bytes_read."""
        since = pc.and_(
            pc.and_(pc.greater_equal(daily_access["day"], first), pc.less(daily_access["day"], day)),
            pc.greater(daily_access["reads"], 0),
        )
        rows = pl.DataFrame(pl.from_arrow(daily_access.select([*_KEY, "day", "reads", "bytes_read"]).filter(since)))
        return self.places(rows)

    def expected(
        self, lake: PublishedLake, day: date, shard: int, reads: pl.DataFrame, accounts: SurpriseAccounts
    ) -> _Expected:
        """Read a scored day's decisions on the objects that have an account, and on those whose reads open one.

        Of the others nothing is taken down: what was expected is taken off an empty account.
        """
        dear = sorted({name for book in self._books.values() for name in _dear_classes(book)})
        held = self._names["key"].gather(np.flatnonzero(accounts.usd > 0)).to_arrow()
        read = reads["key"].unique().to_arrow()
        wanted = pc.field("current_class").isin(dear) & pc.field("key").isin(read.cast(pa.string()))
        wanted |= pc.field("key").isin(held.cast(pa.string()))
        table = lake.dataset("decisions", days=[day], shard=shard).to_table(columns=_DECIDED, filter=wanted)
        rows = self.places(pl.DataFrame(pl.from_arrow(table)))
        expected = np.zeros(len(accounts.usd))
        per_read = rows["expected_reads_day"].fill_null(0.0).to_numpy()
        for mine, places, names, book in self._by_book(rows):
            read_gib = self._read_bytes[places] / GIB_BYTES
            premium, _ = _terms(book, self._sizes[places], names, read_gib)
            expected[places] = premium * per_read[mine]
        return _Expected(rows["place"].to_numpy(), rows["current_class"].to_numpy(), expected)

    def weigh(
        self, accounts: SurpriseAccounts, expected: _Expected, reads: pl.DataFrame, first: date, later: date
    ) -> None:
        """Take in the days from ``first`` until before ``later``, on which what was decided on ``first`` held.

        reads : those of these days.
        """
        classes = pl.DataFrame(
            {"place": expected.rows, "current_class": expected.classes},
            schema={"place": pl.Int64, "current_class": pl.String},
        )
        mine = reads.join(classes, on="place", how="inner", maintain_order="left")
        counts, transferred = mine["reads"].to_numpy().astype(np.float64), mine["bytes_read"].to_numpy()
        places, days = mine["place"].to_numpy(), mine["day"].to_numpy()
        whole = self._sizes[places]
        # a log that counts no bytes says nothing of parts: each read is taken for the whole object
        read_gib = np.where(transferred > 0, transferred / np.maximum(counts, 1.0), whole) / GIB_BYTES
        read_usd, round_trip_usd = np.zeros(len(mine)), np.zeros(len(mine))
        for some, rows, names, book in self._by_book(mine):
            premium, round_trip_usd[some] = _terms(book, self._sizes[rows], names, read_gib[some])
            read_usd[some] = premium * counts[some]
        for number in range(first.toordinal(), later.toordinal()):
            today = days == np.datetime64(date.fromordinal(number))
            accounts.weigh(number, expected.expected_usd, places[today], read_usd[today], round_trip_usd[today])

    def _by_book(self, rows: pl.DataFrame) -> Iterator[tuple[Codes, Codes, NDArray[np.object_], PriceBook]]:
        """Give positions among rows, places and classes by bucket; classes that its book does not know are left out."""
        numbered = rows.select("provider", "bucket", "place", "current_class").with_row_index("row")
        for (provider, bucket), some in sorted(numbered.group_by(["provider", "bucket"]), key=lambda item: item[0]):
            book = self._books.get((str(provider), str(bucket)))
            if book is None:
                continue
            known = some.filter(pl.col("current_class").is_in(list(book.class_names))).sort("row")
            yield (
                known["row"].to_numpy().astype(np.intp),
                known["place"].to_numpy().astype(np.intp),
                known["current_class"].to_numpy(),
                book,
            )


def _dear_classes(book: PriceBook) -> list[str]:
    """Name the classes in which a read costs more than in the standard class."""
    premium = surprise_terms(tariff_of(book, [float(GIB_BYTES)], by_client=True)).premium_usd[0]
    return [name for name, usd in zip(book.class_names, premium, strict=True) if usd > 0]


def _terms(book: PriceBook, sizes: Floats, class_names: NDArray[np.object_], read_gib: Floats) -> tuple[Floats, Floats]:
    """Give what a read costs more than in the standard class, and a round trip, of N objects in their classes."""
    codes, parts = book.codes_of(class_names), [(np.empty(0), np.empty(0))]
    for start in range(0, len(sizes), _CHUNK_ROWS):
        some = slice(start, start + _CHUNK_ROWS)
        terms = surprise_terms(tariff_of(book, sizes[some], by_client=True), read_gib[some])
        rows = np.arange(len(terms.premium_usd))
        parts.append((terms.premium_usd[rows, codes[some]], terms.round_trip_usd[rows, codes[some]]))
    premium, round_trip = (np.concatenate(column) for column in zip(*parts, strict=True))
    return premium, round_trip
