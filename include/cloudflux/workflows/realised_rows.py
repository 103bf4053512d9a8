"""One shard's moves as columns, and what the lake tells of them: accesses, new content, inventories, projections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from cloudflux.config import BucketSettings
from cloudflux.domain.plans import MigrationPlan

_OBJECT: Final = ["provider", "bucket", "key"]
NEVER: Final = np.iinfo(np.int64).max // 2
"""The number of a day that does not come."""

_SETTLES_DAYS: Final = 2
"""So many days after a move an inventory must be to contradict it: S3's reports may lack changes of the last two days
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html, "eventually consistent")."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Lake(Protocol):
    """The published partitions."""

    @property
    def shards(self) -> int:
        """How many shards a day has."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""

    def dataset(self, dataset: str, *, days: Collection[date], shard: int) -> pads.Dataset:
        """Open one shard's rows of some days."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The days that can be measured, by number from the first plan's on."""

    first: date
    days: int
    covered: Mapping[tuple[str, str], Flags]

    def number(self, column: pa.ChunkedArray, missing: int = NEVER) -> Ints:
        """Give the numbers of the days that times fall on."""
        days = pc.cast(pc.cast(column, pa.date32()), pa.int32()).to_pandas().to_numpy(dtype=np.float64)
        start = (self.first - date(1970, 1, 1)).days
        return np.where(np.isnan(days), missing, np.nan_to_num(days) - start).astype(np.int64)


ENDS: Final = ("deleted", "overwritten", "reclassified")


@dataclass(slots=True)
class Rows:
    """One shard's moves as columns, shape (N,)."""

    names: pd.Index
    """The shard's objects, each once."""
    objects: Ints
    """Which object each row is."""
    bucket_names: list[str]
    """Provider and bucket, with NUL between."""
    buckets: Ints
    """Which bucket, by its place in ``bucket_names``."""
    covered: Flags
    """Which days' logs can be believed, shape (buckets, days)."""
    plans: Ints
    held_out: Flags
    pinned: Flags
    size_bytes: Ints
    held_days: Ints
    """In the class that it came from."""
    from_class: npt.NDArray[Any]
    to_class: npt.NDArray[Any]
    monthly_saving: Floats
    planned_cost: Floats
    cost: Floats
    """NaN where the ledger has none."""
    undo_cost: Floats
    done: Ints
    undone: Ints
    start: Ints
    """The first day that may count."""
    end: Ints
    """The first day that does not count any more."""
    expected_class: npt.NDArray[Any]
    expected_etag: npt.NDArray[Any]
    judged_from: Ints
    """The first inventory that may contradict what is expected."""
    moved_again: Ints
    """The day of the newest move by any plan."""
    books: npt.NDArray[Any]
    ended: npt.NDArray[np.int8]
    """0, or which of ``ENDS``, from 1 on."""
    before: Floats
    """Projected running cost of a month in the class that it came from; NaN where nobody knows."""

    @classmethod
    def of(
        cls,
        table: pa.Table,
        plans: Sequence[MigrationPlan],
        named: Mapping[tuple[str, str], BucketSettings],
        axis: Axis,
    ) -> Rows:
        """Number what is named."""
        names, codes = np.unique(_names(table), return_inverse=True)
        number_of = {plan.plan_id: number for number, plan in enumerate(plans)}
        of_plan = np.array([number_of[plan_id] for plan_id in table["plan_id"].to_pylist()], dtype=np.int64)
        places = list(zip(table["provider"].to_pylist(), table["bucket"].to_pylist(), strict=True))
        known = sorted(set(places))
        number_in = {place: number for number, place in enumerate(known)}
        silent = np.zeros(axis.days, dtype=np.bool_)
        done = axis.number(table["done_at"])
        undone = axis.number(table["undone_at"])
        start = np.minimum(done + 1, NEVER)
        horizon = np.array([plan.horizon_days for plan in plans], dtype=np.int64)[of_plan]
        end = np.minimum.reduce([start + horizon, undone, axis.number(table["moved_on_at"])])
        since = axis.number(table["class_since_at"])
        # what never moved can be judged from the plan on
        moved_again = axis.number(table["expected_since_at"], missing=-1)
        return cls(
            names=pd.Index(names),
            objects=codes.astype(np.int64),
            bucket_names=["\0".join(place) for place in known],
            buckets=np.array([number_in[place] for place in places], dtype=np.int64),
            covered=np.array([axis.covered.get(place, silent) for place in known]).reshape(len(known), axis.days),
            plans=of_plan,
            held_out=table["held_out"].to_numpy(),
            pinned=table["pinned"].to_numpy(),
            size_bytes=table["size_bytes"].to_numpy(),
            held_days=np.where(start < NEVER, np.maximum(start - since, 0), 0),
            from_class=table["from_class"].to_numpy(),
            to_class=table["to_class"].to_numpy(),
            monthly_saving=table["monthly_saving_usd"].to_numpy(),
            planned_cost=table["planned_cost_usd"].to_numpy(),
            cost=_floats(table["cost_usd"]),
            undo_cost=np.nan_to_num(_floats(table["undo_cost_usd"])),
            done=done,
            undone=undone,
            start=start,
            end=np.maximum(end, start),
            expected_class=table["expected_class"].to_numpy(),
            expected_etag=table["expected_etag"].to_numpy(),
            judged_from=np.maximum(moved_again, done) + _SETTLES_DAYS,
            moved_again=moved_again,
            books=np.array([named[place].price_book if place in named else "" for place in places], dtype=object),
            ended=np.zeros(table.num_rows, dtype=np.int8),
            before=np.full(table.num_rows, np.nan),
        )

    def finish(self, rows: Ints, day: int | Ints, reason: str) -> None:
        """Let rows end on a day for a reason, unless they ended before."""
        ends = np.broadcast_to(np.asarray(day, dtype=np.int64), rows.shape)
        sooner = ends < self.end[rows]
        self.end[rows[sooner]] = np.maximum(ends[sooner], self.start[rows[sooner]])
        self.ended[rows[sooner]] = ENDS.index(reason) + 1


def access_of(rows: Rows, lake: Lake, shard: int, day: date) -> Ints:
    """Give each object's reads, writes, bytes read and excluded reads of a day, shape (objects, 4)."""
    found = np.zeros((len(rows.names), 4), dtype=np.int64)
    columns = ["reads", "writes", "bytes_read", "excluded_reads"]
    batches = lake.dataset("daily_access", days=[day], shard=shard).to_batches(columns=[*_OBJECT, *columns])
    for batch in batches:
        places = rows.names.get_indexer(_names(batch))
        ours = places >= 0
        for number, name in enumerate(columns):
            # a day's partition has an object once
            found[places[ours], number] = batch[name].to_numpy(zero_copy_only=False)[ours]
    return found


def notice_writes(rows: Rows, writes: Ints, day: int) -> None:
    """End the rows whose objects got new content on a day: what is there now is not what was moved.

    The write of a later move by CloudFlux itself is none: S3's batch jobs copy under a role of their own.
    """
    written = (writes[rows.objects] > 0) & (day >= rows.start) & (day < rows.end)
    ours = (day <= rows.moved_again) & (day >= rows.moved_again - 1)
    rows.finish(np.flatnonzero(written & ~ours), day, "overwritten")


def judge_by_inventories(rows: Rows, lake: Lake, shard: int, first: date, days: int) -> None:
    """End the rows that the inventories contradict: on the day after the last one that still agreed.

    The newest snapshot is looked at first: as a rule it agrees with all rows, and the older ones need not be read.
    """
    snapshots = [day for day in lake.days("inventory") if 0 <= (day - first).days < days]
    if not snapshots:
        return
    everything = np.arange(len(rows.objects))
    suspects = everything[_verdicts(rows, lake, shard, snapshots[-1], suspects=everything, first=first) > 0]
    good = rows.start.copy()
    for snapshot in snapshots:
        if not len(suspects):
            return
        number = (snapshot - first).days
        verdicts = _verdicts(rows, lake, shard, snapshot, suspects=suspects, first=first)
        fine = suspects[verdicts == _AGREES]
        good[fine] = np.maximum(good[fine], number + 1)
        for place, reason in enumerate(ENDS):
            ending = suspects[verdicts == place + 1]
            rows.finish(ending, good[ending], reason)
        suspects = suspects[verdicts <= 0]


_AGREES: Final = 0
_NOT_TOLD: Final = -1


def _verdicts(
    rows: Rows, lake: Lake, shard: int, snapshot: date, *, suspects: Ints, first: date
) -> npt.NDArray[np.int8]:
    """Say what a snapshot tells of rows: it agrees, it cannot tell, or which of ``ENDS`` (from 1 on) it shows."""
    verdicts = np.full(len(suspects), _NOT_TOLD, dtype=np.int8)
    judged = rows.judged_from[suspects] <= (snapshot - first).days
    if not judged.any():
        return verdicts
    count = len(rows.names)
    classes, etags = np.full(count, None, dtype=object), np.full(count, None, dtype=object)
    listed: set[str] = set()
    columns = [*_OBJECT, "storage_class", "etag"]
    for batch in lake.dataset("inventory", days=[snapshot], shard=shard).to_batches(columns=columns):
        listed |= set(pc.unique(pc.binary_join_element_wise(batch["provider"], batch["bucket"], "\0")).to_pylist())
        places = rows.names.get_indexer(_names(batch))
        ours = places >= 0
        classes[places[ours]] = batch["storage_class"].to_numpy(zero_copy_only=False)[ours]
        etags[places[ours]] = batch["etag"].to_numpy(zero_copy_only=False)[ours]
    # a bucket of which the shard lists nothing was perhaps not listed at all
    told = np.array([name in listed for name in rows.bucket_names])[rows.buckets[suspects]]
    found_class, found_etag = classes[rows.objects[suspects]], etags[rows.objects[suspects]]
    gone = np.array([found is None for found in found_class])
    new = ~gone & (found_etag != rows.expected_etag[suspects])
    elsewhere = ~gone & ~new & (found_class != rows.expected_class[suspects])
    shown = np.select([gone, new, elsewhere], [1, 2, 3], _AGREES).astype(np.int8)
    return np.where(judged & told, shown, verdicts)


def read_projections(rows: Rows, lake: Lake, shard: int, plans: Sequence[MigrationPlan]) -> None:
    """Find what each object was projected to cost in a month where it was, in the decisions that its plan was made of.

    Decisions of a later run of the same day, which found the object moved, do not tell it.
    """
    published = set(lake.days("decisions"))
    decided = [plan.decisions_day for plan in plans]
    for day in sorted(set(decided) & published):
        of_day = np.array([number for number, plan_day in enumerate(decided) if plan_day == day])
        mine = np.flatnonzero(np.isin(rows.plans, of_day))
        if not len(mine):
            continue
        monthly = np.full(len(rows.names), np.nan)
        classes = np.full(len(rows.names), None, dtype=object)
        columns = [*_OBJECT, "current_class", "current_monthly_usd"]
        for batch in lake.dataset("decisions", days=[day], shard=shard).to_batches(columns=columns):
            places = rows.names.get_indexer(_names(batch))
            ours = places >= 0
            monthly[places[ours]] = batch["current_monthly_usd"].to_numpy(zero_copy_only=False)[ours]
            classes[places[ours]] = batch["current_class"].to_numpy(zero_copy_only=False)[ours]
        objects = rows.objects[mine]
        same = classes[objects] == rows.from_class[mine]
        rows.before[mine] = np.where(same, monthly[objects], np.nan)


def _names(rows: pa.Table | pa.RecordBatch) -> Any:
    """Give each row's object as one text."""
    names = pc.binary_join_element_wise(rows["provider"], rows["bucket"], rows["key"], "\0")
    return names.to_numpy(zero_copy_only=False) if isinstance(names, pa.Array) else names.to_numpy()


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.to_pandas(), dtype=np.float64)
