"""Measure what moves that are done have saved: by the accesses since then, and against the objects that were held out.

Everything is computed anew from the lake: late log files change days that were measured before. The lake is read shard
by shard and day by day; memory holds one shard's moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from cloudflux.config import Estate
from cloudflux.domain.accounting import EARLY_DELETION, Account, Tariff, tariff_of
from cloudflux.domain.coverage import CoveredDay
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.prices import MONTH_DAYS, PriceBook
from cloudflux.domain.reports import PlanSavings
from cloudflux.workflows.realised_rows import (
    ENDS,
    NEVER,
    Axis,
    Flags,
    Floats,
    Ints,
    Lake,
    Rows,
    access_of,
    judge_by_inventories,
    notice_writes,
    read_projections,
)
from cloudflux.workflows.realised_sums import Sums, cost_sums, plan_savings

_LEAST_COVERAGE: Final = 1e-9
"""A day without any covered hour tells nothing, even of a bucket whose owner lets decisions be made without logs."""

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
        pa.field("pinned", pa.bool_(), nullable=False),  # none of them is held out: there is nothing to compare it with
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
    axis = Axis(first, max(0, (at.date() - first).days), _covered(estate, coverage, first, at.date()))
    sums = Sums.empty(len(plans), axis.days)
    named = {(str(bucket.provider), bucket.bucket): bucket for bucket in estate.buckets}
    for shard in range(lake.shards):
        table = moves.measured_moves([plan.plan_id for plan in plans], shard, lake.shards)
        if table.num_rows:
            _measure_shard(Rows.of(table, plans, named, axis), lake, shard, plans=plans, books=books, sums=sums)
    return [plan_savings(plan, number, sums, axis) for number, plan in enumerate(plans)]


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


def _measure_shard(
    rows: Rows,
    lake: Lake,
    shard: int,
    *,
    plans: Sequence[MigrationPlan],
    books: Mapping[str, PriceBook],
    sums: Sums,
) -> None:
    axis_first = min(plan.created_at for plan in plans).date()
    days = sums.realised.shape[1]
    judge_by_inventories(rows, lake, shard, axis_first, days)
    read_projections(rows, lake, shard, plans)
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
            access = access_of(rows, lake, shard, when) if when in published else None
            if access is not None:
                notice_writes(rows, access[:, 1], day)
            for one in ledgers:
                one.pass_day(day, access)
            for one in ledgers:
                one.add_up(day)
    for one in ledgers:
        one.close()


class _Book:
    """The rows of one price book: what they cost, and what the same accesses would have cost where they came from."""

    def __init__(self, rows: Rows, chosen: Ints, book: PriceBook, sums: Sums) -> None:
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
        compared = (self.days > 0) & ~np.isnan(projected) & ~rows.pinned[chosen]
        sums.compared_cost[:, day] += added(np.where(compared, once, 0.0))
        sums.moved[:, day] += cost_sums(self.plans, moved & compared, projected, actual, count)
        sums.held[:, day] += cost_sums(self.plans, self.held_out & compared, projected, actual, count)

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
        compared = measured & ~np.isnan(before) & ~rows.pinned[chosen]
        sums.moved_month += cost_sums(self.plans, moved & compared, before, actual, count)
        sums.held_month += cost_sums(self.plans, self.held_out & compared, before, actual, count)
        once = self.cost + np.where(rows.undone[chosen] < NEVER, rows.undo_cost[chosen], 0.0)
        planned = rows.planned_cost[chosen]
        sums.one_time_total += np.bincount(self.plans[moved], weights=once[moved], minlength=count)
        sums.planned_total += np.bincount(self.plans[moved], weights=planned[moved], minlength=count)
        both = moved & compared
        sums.compared_total += np.bincount(self.plans[both], weights=once[both], minlength=count)
        sums.count("done", self.plans[moved])
        sums.count("measured", self.plans[known])
        sums.count("compared", self.plans[moved & compared])
        sums.count("undone", self.plans[moved & (rows.undone[chosen] < NEVER)])
        for number, name in enumerate(ENDS):
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


def _owed(account: Account, rows: Ints) -> Floats:
    """Give the early deletion that objects owe which are deleted or overwritten now."""
    tariff, codes = account.tariff, account.class_codes[rows]
    watched = np.array([found is not None for found in tariff.autopilots])
    missing = np.where(watched[codes], 0, np.maximum(tariff.min_days[codes] - account.days_in_class[rows], 0))
    owed: Floats = missing * tariff.storage_usd_day[rows, codes]
    return owed
