"""Measure what moves that are done have saved: by the accesses since then, and against the objects that were held out.

Everything is computed anew from the lake: late log files change days that were measured before. The lake is read shard
by shard and day by day; memory holds one shard's moves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.accounting import EARLY_DELETION, Account, Tariff, tariff_of
from cloudflux.domain.costs import usd
from cloudflux.domain.coverage import CoveredDay
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.prices import MONTH_DAYS, PriceBook
from cloudflux.domain.reports import HeldOut, MovesMeasured, PlanSavings, SavingsDay, UsdEstimate, UsdFigure
from cloudflux.domain.savings import CostSums, Estimate, against_hold_out

_USD_PLACES: Final = 10
_OBJECT: Final = ["provider", "bucket", "key"]
_NEVER: Final = np.iinfo(np.int64).max // 2

_SETTLES_DAYS: Final = 2
"""So many days after a move an inventory must be to contradict it: S3's reports may lack changes of the last two days
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html, "eventually consistent")."""

_LEAST_COVERAGE: Final = 1e-9
"""A day without any covered hour tells nothing, even of a bucket whose owner lets decisions be made without logs."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MEASURED_MOVES: Final = pa.schema(
    [
        pa.field("plan_id", pa.string(), nullable=False),
        pa.field("provider", pa.string(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("class_since_at", pa.timestamp("us", tz="UTC"), nullable=False),  # of the class it came from
        pa.field("from_class", pa.string(), nullable=False),
        pa.field("to_class", pa.string(), nullable=False),
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("monthly_saving_usd", pa.float64(), nullable=False),
        pa.field("planned_cost_usd", pa.float64(), nullable=False),
        pa.field("done_at", pa.timestamp("us", tz="UTC")),  # of a hold-out: when half of its plan's moves were done
        pa.field("undone_at", pa.timestamp("us", tz="UTC")),
        pa.field("cost_usd", pa.float64()),
        pa.field("undo_cost_usd", pa.float64()),
        pa.field("expected_class", pa.string(), nullable=False),  # by the newest move of any plan
        pa.field("expected_etag", pa.string(), nullable=False),
        pa.field("expected_since_at", pa.timestamp("us", tz="UTC")),  # null: it never moved
        pa.field("moved_on_at", pa.timestamp("us", tz="UTC")),  # a hold-out that a later plan did move
    ]
)
"""Moves that are done, those undone since, and what was held out; one row for each object of a plan."""


class MoveSource(Protocol):
    """Where the ledger tells which moves are done."""

    def measured_moves(self, plan_ids: Sequence[str], shard: int, shards: int) -> pa.Table:
        """Give the done, undone and held-out moves of some plans whose objects lie in a shard, ``MEASURED_MOVES``."""


class Lake(Protocol):
    """The published partitions."""

    @property
    def shards(self) -> int:
        """How many shards a day has."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""

    def dataset(self, dataset: str, *, days: Collection[date], shard: int) -> pads.Dataset:
        """Open one shard's rows of some days."""


def measure_savings(
    plans: Sequence[MigrationPlan],
    *,
    moves: MoveSource,
    lake: Lake,
    estate: Estate,
    books: Mapping[str, PriceBook],
    coverage: Mapping[tuple[str, str], Sequence[CoveredDay]],
    at: datetime,
) -> list[PlanSavings]:
    """Measure what the moves of some plans have saved until the day before ``at``, plan by plan.

    A move counts from the day after it was done: on whole days that the bucket's access logs cover (``coverage``
    reaches its ``min_coverage``), as long as the object is there, with its content, where the ledger put it, and not
    longer than the plan's horizon.
    """
    if not plans:
        return []
    first = min(plan.created_at for plan in plans).date()
    axis = _Axis(first, max(0, (at.date() - first).days), _covered(estate, coverage, first, at.date()))
    sums = _Sums.empty(len(plans), axis.days)
    named = {(str(bucket.provider), bucket.bucket): bucket for bucket in estate.buckets}
    for shard in range(lake.shards):
        table = moves.measured_moves([plan.plan_id for plan in plans], shard, lake.shards)
        if table.num_rows:
            _measure_shard(_Rows.of(table, plans, named, axis), lake, shard, plans=plans, books=books, sums=sums)
    return [_plan_savings(plan, number, sums, axis) for number, plan in enumerate(plans)]


@dataclass(frozen=True, slots=True)
class _Axis:
    """The days that can be measured, by number from the first plan's on."""

    first: date
    days: int
    covered: Mapping[tuple[str, str], Flags]

    def number(self, column: pa.ChunkedArray, missing: int = _NEVER) -> Ints:
        """Give the numbers of the days that times fall on."""
        days = pc.cast(pc.cast(column, pa.date32()), pa.int32()).to_pandas().to_numpy(dtype=np.float64)
        start = (self.first - date(1970, 1, 1)).days
        return np.where(np.isnan(days), missing, np.nan_to_num(days) - start).astype(np.int64)


def _covered(
    estate: Estate, coverage: Mapping[tuple[str, str], Sequence[CoveredDay]], first: date, end: date
) -> dict[tuple[str, str], Flags]:
    count = max(0, (end - first).days)
    found = {}
    for bucket in estate.buckets:
        place = (str(bucket.provider), bucket.bucket)
        flags = np.zeros(count, dtype=np.bool_)
        for told in coverage.get(place, ()):
            if first <= told.day < end:
                flags[(told.day - first).days] = told.coverage >= max(bucket.min_coverage, _LEAST_COVERAGE)
        found[place] = flags
    return found


_ENDS: Final = ("deleted", "overwritten", "reclassified")


@dataclass(slots=True)
class _Rows:
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
    """0, or which of ``_ENDS``, from 1 on."""
    before: Floats
    """Projected running cost of a month in the class that it came from; NaN where nobody knows."""

    @classmethod
    def of(
        cls,
        table: pa.Table,
        plans: Sequence[MigrationPlan],
        named: Mapping[tuple[str, str], BucketSettings],
        axis: _Axis,
    ) -> _Rows:
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
        start = np.minimum(done + 1, _NEVER)
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
            size_bytes=table["size_bytes"].to_numpy(),
            held_days=np.where(start < _NEVER, np.maximum(start - since, 0), 0),
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
        self.ended[rows[sooner]] = _ENDS.index(reason) + 1


@dataclass(slots=True)
class _Sums:
    """What is added up over the shards, by plan; and by plan and day, as it stands at the day's end."""

    realised: Floats
    projected: Floats
    one_time: Floats
    planned_cost: Floats
    compared_cost: Floats
    """What was paid once for the moves that are compared with the hold-out."""
    one_time_total: Floats
    """What was paid once up to now, the last day that cannot be measured yet included; shape (plans,)."""
    planned_total: Floats
    compared_total: Floats
    moved: Floats
    """``CostSums``, shape (plans, days, 6)."""
    held: Floats
    moved_month: Floats
    """The same by the month, at the end; shape (plans, 6)."""
    held_month: Floats
    realised_month: Floats
    projected_month: Floats
    excluded_usd: Floats
    counts: list[dict[str, int]]
    first: Ints
    """The first day that may count."""

    @classmethod
    def empty(cls, plans: int, days: int) -> _Sums:
        """Begin with nothing."""
        by_day = ("realised", "projected", "one_time", "planned_cost", "compared_cost")
        by_plan = (
            "one_time_total", "planned_total", "compared_total", "realised_month", "projected_month", "excluded_usd",
        )  # fmt: skip
        return cls(
            **{name: np.zeros((plans, days)) for name in by_day},
            **{name: np.zeros(plans) for name in by_plan},
            moved=np.zeros((plans, days, 6)),
            held=np.zeros((plans, days, 6)),
            moved_month=np.zeros((plans, 6)),
            held_month=np.zeros((plans, 6)),
            counts=[dict.fromkeys(_COUNTED, 0) for _ in range(plans)],
            first=np.full(plans, _NEVER, dtype=np.int64),
        )

    def count(self, name: str, plans: Ints, amounts: npt.NDArray[Any] | None = None) -> None:
        """Add to a count of each plan."""
        found = np.bincount(plans, weights=amounts, minlength=len(self.counts))
        for counts, more in zip(self.counts, found.tolist(), strict=True):
            counts[name] += int(more)


_COUNTED: Final = (
    "done", "measured", "compared", "undone", "deleted", "overwritten", "reclassified", "unpriced", "costs_unknown",
    "held_out", "held_out_measured", "object_days", "left_out_days", "excluded_reads",
)  # fmt: skip


def _measure_shard(
    rows: _Rows,
    lake: Lake,
    shard: int,
    *,
    plans: Sequence[MigrationPlan],
    books: Mapping[str, PriceBook],
    sums: _Sums,
) -> None:
    axis_first = min(plan.created_at for plan in plans).date()
    days = sums.realised.shape[1]
    _judge_by_inventories(rows, lake, shard, axis_first, days)
    _read_projections(rows, lake, shard, plans)
    ledgers = []
    for name in sorted(set(rows.books.tolist())):
        chosen = np.flatnonzero(rows.books == name)
        book = books.get(name)
        if book is None:
            sums.count("unpriced", rows.plans[chosen][~rows.held_out[chosen]])
            continue
        known = (book.codes_of(rows.from_class[chosen]) >= 0) & (book.codes_of(rows.to_class[chosen]) >= 0)
        sums.count("unpriced", rows.plans[chosen[~known]][~rows.held_out[chosen[~known]]])
        if known.any():
            ledgers.append(_Book(rows, chosen[known], book, sums))
    published = set(lake.days("daily_access"))
    begin = max(0, min((one.begin for one in ledgers), default=days))
    for day in range(days):
        if day >= begin:
            when = axis_first + timedelta(days=day)
            access = _access(rows, lake, shard, when) if when in published else None
            if access is not None:
                _notice_writes(rows, access[:, 1], day)
            for one in ledgers:
                one.pass_day(day, access)
            for one in ledgers:
                one.add_up(day)
    for one in ledgers:
        one.close()


def _access(rows: _Rows, lake: Lake, shard: int, day: date) -> Ints:
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


def _notice_writes(rows: _Rows, writes: Ints, day: int) -> None:
    """End the rows whose objects got new content on a day: what is there now is not what was moved.

    The write of a later move by CloudFlux itself is none: S3's batch jobs copy under a role of their own.
    """
    written = (writes[rows.objects] > 0) & (day >= rows.start) & (day < rows.end)
    ours = (day <= rows.moved_again) & (day >= rows.moved_again - 1)
    rows.finish(np.flatnonzero(written & ~ours), day, "overwritten")


class _Book:
    """The rows of one price book: what they cost, and what the same accesses would have cost where they came from."""

    def __init__(self, rows: _Rows, chosen: Ints, book: PriceBook, sums: _Sums) -> None:
        self.rows, self.chosen, self.sums = rows, chosen, sums
        self.held_out = rows.held_out[chosen]
        self.moved = ~self.held_out
        self.tariff: Tariff = tariff_of(book, rows.size_bytes[chosen])
        source, target = book.codes_of(rows.from_class[chosen]), book.codes_of(rows.to_class[chosen])
        self.source, self.target = source, np.where(self.held_out, source, target)
        held = rows.held_days[chosen]
        # A move starts the clocks of the new class; what was not moved has been idle for as long as it can have been.
        self.actual = Account(
            self.tariff, self.target, np.where(self.held_out, held, 0), np.where(self.held_out, held, 0)
        )
        self.unmoved = Account(self.tariff, source, held, held)
        self.days = np.zeros(len(chosen), dtype=np.int64)
        self.left_out = np.zeros(len(chosen), dtype=np.int64)
        self.excluded = np.zeros(len(chosen), dtype=np.int64)
        cost = rows.cost[chosen]
        self.cost = np.where(np.isnan(cost), rows.planned_cost[chosen], cost)
        self.plans = rows.plans[chosen]
        starts = rows.start[chosen]
        self.begin = int(starts.min()) - 1  # the moves' own day, on which they are paid for

    def pass_day(self, day: int, access: Ints | None) -> None:
        """Charge one day's holding and reads, where the logs tell of them; clocks go on where they do not."""
        rows, chosen = self.rows, self.chosen
        alive = (day >= rows.start[chosen]) & (day < rows.end[chosen])
        covered = alive & rows.covered[rows.buckets[chosen], day]
        counted, silent = np.flatnonzero(covered), np.flatnonzero(alive & ~covered)
        mine = np.zeros((len(chosen), 4), dtype=np.int64) if access is None else access[rows.objects[chosen]]
        read = counted[mine[counted, 0] > 0]
        for account in (self.actual, self.unmoved):
            account.pass_day(counted, read, mine[read, 0], mine[read, 2])
            account.days_in_class[silent] += 1
            account.idle_days[silent] += 1
        self.days[counted] += 1
        self.left_out[silent] += 1
        self.excluded[counted] += mine[counted, 3]
        gone = (rows.end[chosen] == day) & (rows.start[chosen] <= day) & np.isin(rows.ended[chosen], (1, 2))
        leaving = np.flatnonzero(gone)
        if len(leaving):
            for account in (self.actual, self.unmoved):
                account.usd[leaving, EARLY_DELETION] += _owed(account, leaving)

    def add_up(self, day: int) -> None:
        """Add what each row has come to by a day's end."""
        rows, chosen, sums = self.rows, self.chosen, self.sums
        actual, unmoved = self.actual.usd.sum(axis=1), self.unmoved.usd.sum(axis=1)
        once = np.where(rows.done[chosen] <= day, self.cost, 0.0) + np.where(
            rows.undone[chosen] <= day, rows.undo_cost[chosen], 0.0
        )
        planned = np.where(rows.done[chosen] <= day, rows.planned_cost[chosen], 0.0)
        months = self.days / MONTH_DAYS
        moved = self.moved
        count = len(sums.counts)
        of_plan = self.plans[moved]

        def added(amounts: Floats) -> Floats:
            return np.bincount(of_plan, weights=amounts[moved], minlength=count).astype(np.float64)

        sums.realised[:, day] += added(unmoved - actual)
        sums.projected[:, day] += added(rows.monthly_saving[chosen] * months)
        sums.one_time[:, day] += added(once)
        sums.planned_cost[:, day] += added(planned)
        projected = rows.before[chosen] * months
        compared = (self.days > 0) & ~np.isnan(projected)
        sums.compared_cost[:, day] += added(np.where(compared, once, 0.0))
        sums.moved[:, day] += _cost_sums(self.plans, moved & compared, projected, actual, count)
        sums.held[:, day] += _cost_sums(self.plans, self.held_out & compared, projected, actual, count)

    def close(self) -> None:
        """Add up the monthly figures and the counts."""
        rows, chosen, sums, moved = self.rows, self.chosen, self.sums, self.moved
        count = len(sums.counts)
        measured = self.days > 0
        rate = np.divide(MONTH_DAYS, self.days, out=np.zeros(len(chosen)), where=measured)
        actual = self.actual.usd.sum(axis=1) * rate
        saved = self.unmoved.usd.sum(axis=1) * rate - actual
        known = moved & measured
        sums.realised_month += np.bincount(self.plans[known], weights=saved[known], minlength=count)
        sums.projected_month += np.bincount(
            self.plans[known], weights=rows.monthly_saving[chosen][known], minlength=count
        )
        before = rows.before[chosen]
        compared = measured & ~np.isnan(before)
        sums.moved_month += _cost_sums(self.plans, moved & compared, before, actual, count)
        sums.held_month += _cost_sums(self.plans, self.held_out & compared, before, actual, count)
        once = self.cost + np.where(rows.undone[chosen] < _NEVER, rows.undo_cost[chosen], 0.0)
        planned = rows.planned_cost[chosen]
        sums.one_time_total += np.bincount(self.plans[moved], weights=once[moved], minlength=count)
        sums.planned_total += np.bincount(self.plans[moved], weights=planned[moved], minlength=count)
        both = moved & compared
        sums.compared_total += np.bincount(self.plans[both], weights=once[both], minlength=count)
        sums.count("done", self.plans[moved])
        sums.count("measured", self.plans[known])
        sums.count("compared", self.plans[moved & compared])
        sums.count("undone", self.plans[moved & (rows.undone[chosen] < _NEVER)])
        for number, name in enumerate(_ENDS):
            sums.count(name, self.plans[moved & (rows.ended[chosen] == number + 1)])
        sums.count("costs_unknown", self.plans[moved & np.isnan(rows.cost[chosen])])
        sums.count("held_out", self.plans[self.held_out])
        sums.count("held_out_measured", self.plans[self.held_out & compared])
        sums.count("object_days", self.plans[moved], self.days[moved])
        sums.count("left_out_days", self.plans[moved], self.left_out[moved])
        sums.count("excluded_reads", self.plans[moved], self.excluded[moved])
        tariff = self.tariff
        a_read = tariff.request_usd + tariff.size_gib[:, None] * tariff.retrieval_usd_gib
        place = np.arange(len(chosen))
        dearer = (a_read[place, self.target] - a_read[place, self.source]) * self.excluded
        sums.excluded_usd += np.bincount(self.plans[moved], weights=dearer[moved], minlength=count)
        np.minimum.at(sums.first, self.plans[moved], rows.start[chosen][moved])


def _cost_sums(plans: Ints, chosen: Flags, projected: Floats, cost: Floats, count: int) -> Floats:
    """Give the ``CostSums`` of each plan, shape (plans, 6)."""
    p, y, of_plan = projected[chosen], cost[chosen], plans[chosen]
    parts = (np.ones(len(p)), p, y, y * y, y * p, p * p)
    return np.stack([np.bincount(of_plan, weights=part, minlength=count) for part in parts], axis=1)


def _owed(account: Account, rows: Ints) -> Floats:
    """Give the early deletion that objects owe which are deleted or overwritten now."""
    tariff, codes = account.tariff, account.class_codes[rows]
    watched = np.array([found is not None for found in tariff.autopilots])
    missing = np.where(watched[codes], 0, np.maximum(tariff.min_days[codes] - account.days_in_class[rows], 0))
    owed: Floats = missing * tariff.storage_usd_day[rows, codes]
    return owed


def _judge_by_inventories(rows: _Rows, lake: Lake, shard: int, first: date, days: int) -> None:
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
        for place, reason in enumerate(_ENDS):
            ending = suspects[verdicts == place + 1]
            rows.finish(ending, good[ending], reason)
        suspects = suspects[verdicts <= 0]


_AGREES: Final = 0
_NOT_TOLD: Final = -1


def _verdicts(
    rows: _Rows, lake: Lake, shard: int, snapshot: date, *, suspects: Ints, first: date
) -> npt.NDArray[np.int8]:
    """Say what a snapshot tells of rows: it agrees, it cannot tell, or which of ``_ENDS`` (from 1 on) it shows."""
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


def _read_projections(rows: _Rows, lake: Lake, shard: int, plans: Sequence[MigrationPlan]) -> None:
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


def _plan_savings(plan: MigrationPlan, number: int, sums: _Sums, axis: _Axis) -> PlanSavings:
    counts = sums.counts[number]
    moved, held = _last(sums.moved[number]), _last(sums.held[number])
    any_day = counts["measured"] > 0
    realised, projected = _total(sums.realised[number]), _total(sums.projected[number])
    once, planned = float(sums.one_time_total[number]), float(sums.planned_total[number])
    first = int(sums.first[number])
    begins = first if first < axis.days else None
    return PlanSavings(
        plan_id=plan.plan_id,
        first_day=None if begins is None else axis.first + timedelta(days=begins),
        last_day=None if begins is None else axis.first + timedelta(days=axis.days - 1),
        moves=MovesMeasured(**{name: counts[name] for name in MovesMeasured.__dataclass_fields__}),
        object_days=counts["object_days"],
        left_out_days=counts["left_out_days"],
        one_time_usd=_usd(once),
        projected=UsdFigure(_usd(sums.projected_month[number]) if any_day else None, _usd(projected - planned)),
        realised=UsdFigure(_usd(sums.realised_month[number]) if any_day else None, _usd(realised - once)),
        held_out=_held_out(counts, _cost(sums.held_month[number]), held),
        against_hold_out_month=_estimate(
            against_hold_out(_cost(sums.moved_month[number]), _cost(sums.held_month[number]))
        ),
        against_hold_out_since=_estimate(against_hold_out(moved, held, float(sums.compared_total[number]))),
        excluded_reads=counts["excluded_reads"],
        excluded_reads_usd=_usd(sums.excluded_usd[number]),
        days=() if begins is None else tuple(_days(number, begins, sums, axis)),
    )


def _days(number: int, begins: int, sums: _Sums, axis: _Axis) -> Iterator[SavingsDay]:
    for day in range(begins, axis.days):
        compared = against_hold_out(
            _cost(sums.moved[number, day]), _cost(sums.held[number, day]), float(sums.compared_cost[number, day])
        )
        error = None if compared is None else compared.standard_error_usd
        yield SavingsDay(
            day=axis.first + timedelta(days=day),
            projected_usd=_usd(sums.projected[number, day] - sums.planned_cost[number, day]),
            realised_usd=_usd(sums.realised[number, day] - sums.one_time[number, day]),
            against_hold_out_usd=None if compared is None else _usd(compared.usd),
            standard_error_usd=None if error is None else _usd(error),
        )


def _held_out(counts: Mapping[str, int], month: CostSums, since: CostSums) -> HeldOut | None:
    if not counts["held_out"]:
        return None
    measured = month.objects > 0
    return HeldOut(
        objects=counts["held_out"],
        measured=counts["held_out_measured"],
        projected=UsdFigure(_usd(month.projected_usd) if measured else None, _usd(since.projected_usd)),
        realised=UsdFigure(_usd(month.cost_usd) if measured else None, _usd(since.cost_usd)),
    )


def _estimate(found: Estimate | None) -> UsdEstimate | None:
    if found is None:
        return None
    rest = (found.standard_error_usd, found.low_usd, found.high_usd)
    error, low, high = (None if amount is None else _usd(amount) for amount in rest)
    return UsdEstimate(_usd(found.usd), error, low, high)


def _last(by_day: Floats) -> CostSums:
    return _cost(by_day[-1]) if len(by_day) else CostSums()


def _total(by_day: Floats) -> float:
    return float(by_day[-1]) if len(by_day) else 0.0


def _cost(parts: Floats) -> CostSums:
    return CostSums(int(parts[0]), *map(float, parts[1:]))


def _usd(amount: float) -> Decimal:
    return usd(float(amount), _USD_PLACES)


def _names(rows: pa.Table | pa.RecordBatch) -> Any:
    """Give each row's object as one text."""
    names = pc.binary_join_element_wise(rows["provider"], rows["bucket"], rows["key"], "\0")
    return names.to_numpy(zero_copy_only=False) if isinstance(names, pa.Array) else names.to_numpy()


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.to_pandas(), dtype=np.float64)
