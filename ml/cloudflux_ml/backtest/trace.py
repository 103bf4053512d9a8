"""A trace: which object was read how often on which day. Read from a file, checked, and kept by day.

Its columns are ``object_id`` (text), ``day`` (date), ``reads`` (whole number), ``size_bytes`` (whole number) and
``created_day`` (date), nothing else; one row for each object and day. Rules that are no errors: rows may come in any
order, they are sorted; rows without reads count only as days of the trace; a zero-byte object costs its requests and
what a class bills for each object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cloudflux.domain.accounting import Days
from cloudflux.domain.costs import Codes
from cloudflux.domain.errors import SettingsError, TerminalError

EVAL_SHARE: Final = 0.5
SCHEMA: Final = {
    "object_id": pl.String,
    "day": pl.Date,
    "reads": pl.Int64,
    "size_bytes": pl.Int64,
    "created_day": pl.Date,
}
MOST_DAYS: Final = 20 * 366
MOST_READS: Final = 2**53
"""Of all objects and days: more, and sums are no longer exact."""
_KINDS: Final = {
    pl.String: (pl.String, pl.Categorical, pl.Enum),
    pl.Date: (pl.Date,),
    pl.Int64: (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
}
_WORDS: Final = {pl.String: "text", pl.Date: "a date", pl.Int64: "a whole number"}


class TraceError(TerminalError, ValueError):
    """The trace is not what a backtest reads; the text names the file, the object and the day."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Reads of N objects on D days, the first being day 0. Make it with ``read_trace`` or ``trace_of``."""

    name: str
    first_day: date
    days: int
    eval_from: int
    """The evaluation window's first day; all before it is history."""
    object_ids: NDArray[np.object_]
    """Shape (N,), sorted."""
    size_bytes: NDArray[np.int64]
    """Shape (N,)."""
    created: Days
    """The day on which each object was created, shape (N,); negative before the trace's first day."""
    read_rows: Codes
    """The objects that were read, day after day, and in rising order within a day; shape (R,)."""
    read_counts: NDArray[np.int64]
    """How often, at least once; shape (R,)."""
    starts: NDArray[np.intp]
    """Where each day begins in ``read_rows``, shape (D + 1,)."""
    known_days: int
    """Reads of this day and later ones are not told: see ``before``."""

    @property
    def objects(self) -> int:
        """Count the objects."""
        return len(self.size_bytes)

    def on(self, day: int) -> tuple[Codes, NDArray[np.int64]]:
        """Give the objects read on a day, each once, and how often. Raises ``ValueError`` for a day not known yet."""
        if not 0 <= day < self.known_days:
            raise ValueError(f"the reads of day {day} are not known: only those of day 0 to {self.known_days - 1} are")
        here = slice(self.starts[day], self.starts[day + 1])
        return self.read_rows[here], self.read_counts[here]

    def before(self, day: int) -> Trace:
        """Give the trace as it was known in the morning of ``day``: without that day's reads and all later ones."""
        day = min(day, self.known_days)
        end = int(self.starts[day])
        return replace(
            self,
            read_rows=self.read_rows[:end],
            read_counts=self.read_counts[:end],
            starts=np.minimum(self.starts, end),
            known_days=day,
        )

    def only(self, rows: Codes) -> Trace:
        """Give the trace of some of the objects, whose places are given in rising order."""
        place = np.full(self.objects, -1, dtype=np.intp)
        place[rows] = np.arange(len(rows))
        kept = place[self.read_rows] >= 0
        before = np.concatenate([[0], np.cumsum(kept)]).astype(np.intp)
        return replace(
            self,
            object_ids=self.object_ids[rows],
            size_bytes=self.size_bytes[rows],
            created=self.created[rows],
            read_rows=place[self.read_rows[kept]],
            read_counts=self.read_counts[kept],
            starts=before[self.starts],
        )


def read_trace(path: Path, eval_share: float = EVAL_SHARE) -> Trace:
    """Read a trace from a Parquet file, or from CSV where the name ends in ``.csv``.

    Raises ``TraceError`` for what is wrong in the file, ``SettingsError`` for an evaluation share that leaves no
    history or no window.
    """
    if not path.is_file():
        raise TraceError(f"there is no trace file {path}")
    kind = "CSV" if path.suffix.lower() == ".csv" else "Parquet"
    try:
        # CSV as text: what is no number must be refused by its row, not guessed to be a column of texts
        rows = pl.read_csv(path, infer_schema=False) if kind == "CSV" else pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise TraceError(f"{path} cannot be read as {kind}: {str(exc).splitlines()[0]}") from exc
    return trace_of(rows, eval_share, name=path.stem, source=str(path))


def trace_of(rows: pl.DataFrame, eval_share: float = EVAL_SHARE, *, name: str = "trace", source: str = "") -> Trace:
    """Check a trace's rows and put them in order. Raises as ``read_trace`` does; ``source`` stands in the texts."""
    source = source or name
    if not 0 < eval_share < 1:
        raise SettingsError(f"the evaluation share must lie between 0 and 1, it is {eval_share:g}")
    table = _typed(rows, source)
    _refuse(table, source)
    first, last = cast(date, table["day"].min()), cast(date, table["day"].max())
    days = (last - first).days + 1
    if days > MOST_DAYS:
        raise TraceError(
            f"{source} goes from {first} to {last}, which is {days:,} days: at most {MOST_DAYS:,} are replayed, day by "
            "day; is one of the two a mistake?"
        )
    if days < 2:
        raise TraceError(f"{source} has one day only, {first}: a backtest needs a day of history and one to evaluate")
    eval_from = round(days * (1 - eval_share))
    if not 0 < eval_from < days:
        left = "no history" if eval_from <= 0 else "no day to evaluate"
        raise SettingsError(f"an evaluation share of {eval_share:g} leaves {left} of the {days} days of {source}")
    objects = table.group_by("object_id").agg(pl.col("size_bytes", "created_day").first()).sort("object_id")
    read = (
        table.filter(pl.col("reads") > 0)
        .join(objects.select("object_id").with_row_index("row"), on="object_id")
        .select("row", "reads", (pl.col("day") - first).dt.total_days().alias("day"))
        .sort("day", "row")
    )
    return Trace(
        name=name,
        first_day=first,
        days=days,
        eval_from=eval_from,
        object_ids=objects["object_id"].to_numpy(),
        size_bytes=objects["size_bytes"].to_numpy(),
        created=(objects["created_day"] - first).dt.total_days().to_numpy(),
        read_rows=read["row"].cast(pl.Int64).to_numpy().astype(np.intp),
        read_counts=read["reads"].to_numpy(),
        starts=np.searchsorted(read["day"].to_numpy(), np.arange(days + 1)),
        known_days=days,
    )


def _typed(rows: pl.DataFrame, source: str) -> pl.DataFrame:
    """Give the five columns in their types. Raises ``TraceError`` naming the column, and the row counted from 1."""
    wanted = ", ".join(SCHEMA)
    if unknown := [name for name in rows.columns if name not in SCHEMA]:
        raise TraceError(f"{source} has unknown columns ({', '.join(unknown)}): a trace has {wanted}")
    if missing := [name for name in SCHEMA if name not in rows.columns]:
        raise TraceError(f"{source} lacks the columns {', '.join(missing)}: a trace has {wanted}")
    if rows.is_empty():
        raise TraceError(f"{source} has no rows")
    columns = []
    for name, kind in SCHEMA.items():
        column = rows[name]
        if column.dtype == pl.String and kind == pl.Date:
            typed = column.str.to_date("%Y-%m-%d", strict=False)
        elif isinstance(column.dtype, _KINDS[kind]) or column.dtype == pl.String:
            typed = column.cast(kind, strict=False)
        else:
            raise TraceError(f"{source}: column {name} must be {_WORDS[kind]}, it is {column.dtype}")
        bad = typed.is_null().arg_true()
        if len(bad):
            value = column[bad[0]]
            what = "empty" if value is None else f"{value!r}, which is not {_WORDS[kind]}"
            raise TraceError(f"{source}: column {name} is {what} in row {bad[0] + 1}")
        columns.append(typed)
    return pl.DataFrame(columns)


def _refuse(table: pl.DataFrame, source: str) -> None:
    """Raise ``TraceError`` for the first row that breaks a rule, naming its object and day."""
    size, created = (pl.col(name).first().over("object_id") for name in ("size_bytes", "created_day"))
    rules = {
        "negative reads": pl.col("reads") < 0,
        "a negative size": pl.col("size_bytes") < 0,
        "a day before its created_day": pl.col("day") < pl.col("created_day"),
        "two sizes": pl.col("size_bytes") != size,
        "two created_days": pl.col("created_day") != created,
        "the same day twice": ~pl.struct("object_id", "day").is_first_distinct(),
    }
    broken = table.select(rule.arg_true().first().alias(what) for what, rule in rules.items()).row(0, named=True)
    for what, place in broken.items():
        if place is not None:
            row = table.row(place, named=True)
            raise TraceError(
                f"{source}: object {row['object_id']!r} has {what}, on {row['day']} (row {place + 1}: reads "
                f"{row['reads']}, size_bytes {row['size_bytes']}, created_day {row['created_day']})"
            )
    reads = table.group_by("object_id").agg(pl.col("reads").cast(pl.Float64).sum())
    if cast(float, reads["reads"].sum()) > MOST_READS:
        most = reads.sort("reads", "object_id").row(-1, named=True)
        raise TraceError(
            f"{source}: more than {MOST_READS:,} reads in all, of which object {most['object_id']!r} has "
            f"{most['reads']:.3g}: they cannot be added up"
        )
