"""What a demo came to: the tables it ends with, the JSON it writes, and whether all of it is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudflux.domain.plans import PlanGroup, PlanTotals
from cloudflux.local.demo.airflow_api import DagRun
from cloudflux.local.demo.upload import Uploaded

TIER_ORDER: Final = ("hot", "warm", "cold", "archive", "auto")


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of the plan's moves."""

    planned: int = 0
    verified: int = 0
    failed: int = 0
    skipped: int = 0
    again: int = 0
    """Planned of objects that another plan had moved: an object that reached its tier stays there."""
    day: date | None = None
    """The day that the plan's decisions are of."""
    reasons: tuple[tuple[str, str, int], ...] = ()
    """State, reason and moves, of those that failed or were skipped."""
    rejected: bool = False
    """A person rejected the plan: nothing moved, and nothing is wrong."""

    @property
    def unsettled(self) -> int:
        """Moves of a plan that was not rejected and that are neither verified, failed nor skipped."""
        return 0 if self.rejected else self.planned - self.verified - self.failed - self.skipped


@dataclass(frozen=True, slots=True)
class Forecaster:
    """The trained forecaster against the baselines, on the newest window, which it has not seen."""

    run_id: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class KafkaCounts:
    """What became of the messages."""

    produced: int
    """By this demo."""
    staged: int
    """Rows that are staged now, of all demos on this stack."""
    dead_lettered: int
    """Dead letters of all demos on this stack."""
    staged_now: int
    duplicates: int
    """Messages of this demo that were staged already: a producer's retry."""
    reasons: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """All facts of one demo."""

    world: str
    objects: int
    object_bytes: int
    days: int
    left_out_objects: int
    left_out_reads: int
    max_object_bytes: int
    uploaded: Uploaded
    tiers_before: pl.DataFrame
    tiers_after: pl.DataFrame
    totals: PlanTotals | None
    plan_id: str | None
    after_usd_month: Decimal | None
    """What a month costs with every object where it is now; None when there is no plan."""
    moves: Moves
    forecaster: Forecaster | None
    kafka: KafkaCounts
    quarantined: tuple[tuple[str, int], ...]
    dag_runs: tuple[DagRun, ...]
    seconds: float
    peak_bytes: int
    withheld: tuple[tuple[str, str], ...] = ()
    """Buckets whose access logs tell too little for decisions, each with the reason."""
    addresses: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Name all that makes the exit status non-zero."""
        found = [
            f"the DAG run {run.dag_id} {run.run_id} is {run.state}" for run in self.dag_runs if run.state == "failed"
        ]
        if self.moves.failed:
            found.append(f"{self.moves.failed:,} moves failed")
        if self.moves.unsettled:
            found.append(f"{self.moves.unsettled:,} moves are not verified")
        if self.kafka.staged_now + self.kafka.duplicates > self.kafka.produced:
            found.append("more rows were staged from Kafka than messages were produced")
        return found

    def as_json(self) -> dict[str, Any]:
        """Give the facts for ``--json``."""
        metrics = self.forecaster.metrics if self.forecaster else {}
        before = self.totals.before_usd_month if self.totals else None
        return {
            "world": self.world,
            "objects": self.objects,
            "object_bytes": self.object_bytes,
            "days": self.days,
            "left_out": {
                "objects": self.left_out_objects,
                "reads": self.left_out_reads,
                "larger_than_bytes": self.max_object_bytes,
            },
            "tiers": {"before": _tier_rows(self.tiers_before), "after": _tier_rows(self.tiers_after)},
            "moves": {
                "planned": self.moves.planned,
                "verified": self.moves.verified,
                "failed": self.moves.failed,
                "skipped": self.moves.skipped,
                "again": self.moves.again,
                "day": None if self.moves.day is None else self.moves.day.isoformat(),
                "rejected": self.moves.rejected,
                "reasons": [
                    {"state": state, "reason": reason, "moves": moves} for state, reason, moves in self.moves.reasons
                ],
            },
            "cost": {
                "before_usd_month": _number(before),
                "after_usd_month": _number(self.after_usd_month),
                "one_time_usd": _number(self.totals.one_time_usd if self.totals else None),
            },
            "forecaster": {
                name: metrics.get(name)
                for name in (
                    "accuracy",
                    "macro_f1",
                    "persistence_accuracy",
                    "persistence_macro_f1",
                    "rules_accuracy",
                    "rules_macro_f1",
                )
            },
            "kafka": {
                "produced": self.kafka.produced,
                "staged": self.kafka.staged,
                "dead_lettered": self.kafka.dead_lettered,
                "staged_now": self.kafka.staged_now,
                "duplicates": self.kafka.duplicates,
                "reasons": dict(self.kafka.reasons),
            },
            "withheld": dict(self.withheld),
            "quarantined": sum(rows for _, rows in self.quarantined),
            "quarantined_by_reason": dict(self.quarantined),
            "dag_runs": [
                {"dag_id": run.dag_id, "run_id": run.run_id, "state": run.state, "seconds": run.seconds}
                for run in self.dag_runs
            ],
            "seconds": round(self.seconds, 1),
            "peak_bytes": self.peak_bytes,
        }

    def print(self, console: Console) -> None:
        """Print the tables."""
        for table in (
            self._tiers(),
            self._facts(),
            self._runs(),
        ):
            console.print()
            console.print(table)

    def _tiers(self) -> Table:
        table = _table("Objects by tier, as the buckets list them", "cloud", "class", "tier")
        for title in ("objects before", "after", "MiB before", "after"):
            table.add_column(title, justify="right")
        keys = ("provider", "storage_class", "tier")
        joined = (
            self.tiers_before.join(self.tiers_after, on=keys, how="full", coalesce=True, suffix="_after")
            .fill_null(0)
            .sort(
                "provider", pl.col("tier").replace_strict(_ranks(), default=9, return_dtype=pl.Int64), "storage_class"
            )
        )
        for provider, name, tier, objects, size, objects_after, size_after in joined.select(
            *keys, "objects", "bytes", "objects_after", "bytes_after"
        ).iter_rows():
            table.add_row(provider, name, tier, f"{objects:,}", f"{objects_after:,}", _mib(size), _mib(size_after))
        totals = joined.select("objects", "objects_after", "bytes", "bytes_after").sum().row(0)
        table.add_row(
            "together", "", "", f"{totals[0]:,}", f"{totals[1]:,}", _mib(totals[2]), _mib(totals[3]), style="bold"
        )
        return table

    def _facts(self) -> Table:
        table = _table("What it came to", "", "")
        rows: list[tuple[str, str]] = [
            (
                "world",
                f"{self.world}: {self.objects:,} objects, {_mib(self.object_bytes)} MiB, {self.days} days of accesses",
            )
        ]
        if self.left_out_objects:
            rows.append(
                (
                    "left out",
                    f"{self.left_out_objects:,} objects larger than {self.max_object_bytes:,} bytes, with their "
                    f"{self.left_out_reads:,} reads",
                )
            )
        rows.append(
            (
                "uploaded",
                f"{self.uploaded.objects:,} objects and {self.uploaded.log_files:,} log files; there already: "
                f"{self.uploaded.objects_there:,} and {self.uploaded.log_files_there:,}",
            )
        )
        moves = self.moves
        rows.append(
            (
                "moves",
                f"{moves.planned:,} planned, {moves.verified:,} verified, {moves.failed:,} failed, "
                f"{moves.skipped:,} skipped"
                + (f"; {moves.again:,} of objects that an earlier plan had moved" if moves.again else "")
                + ("; the plan was rejected" if moves.rejected else ""),
            )
        )
        rows += [("", f"{state}: {count:,} {reason}") for state, reason, count in moves.reasons]
        rows += [("withheld", f"{bucket}: {reason.removeprefix('withheld: ')}") for bucket, reason in self.withheld]
        rows.append(("a month", self._cost()))
        rows.append(("forecaster", self._forecast()))
        kafka = self.kafka
        rows.append(
            (
                "Kafka",
                f"{kafka.produced:,} produced; {kafka.staged_now:,} staged now, {kafka.duplicates:,} were there "
                f"already; in all {kafka.staged:,} staged, {kafka.dead_lettered:,} dead letters",
            )
        )
        rows += [("", f"dead letters: {count:,} {reason}") for reason, count in kafka.reasons]
        rows.append(("quarantine", f"{sum(count for _, count in self.quarantined):,} log lines or files"))
        rows += [("", f"{count:,} {reason}") for reason, count in self.quarantined]
        rows.append(("time, memory", f"{self.seconds:.0f} s; {self.peak_bytes / 2**30:.2f} GiB at most, all processes"))
        for name, value in rows:
            table.add_row(name, Text(value))  # reasons hold what strangers wrote: never markup
        return table

    def _cost(self) -> str:
        if self.totals is None or self.after_usd_month is None:
            return "nothing was planned"
        before, after = self.totals.before_usd_month, self.after_usd_month
        percent = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
        return (
            f"USD {before:.6f} before, {after:.6f} after{percent}; the moves cost {self.totals.one_time_usd:.6f} once"
        )

    def _forecast(self) -> str:
        if self.forecaster is None:
            return "not trained: too little history; the rules decided"
        metrics = self.forecaster.metrics
        names = {"": "accuracy", "persistence_": "persistence", "rules_": "rules"}
        return "; ".join(
            f"{name} {metrics[f'{prefix}accuracy']:.3f} (macro F1 {metrics[f'{prefix}macro_f1']:.3f})"
            for prefix, name in names.items()
            if f"{prefix}accuracy" in metrics
        )

    def _runs(self) -> Table:
        table = _table("DAG runs", "DAG", "run")
        table.add_column("state")
        table.add_column("seconds", justify="right")
        for run in self.dag_runs:
            colour = "green" if run.state == "success" else "red"
            seconds = f"{run.seconds:.1f}" if run.seconds is not None else ""
            table.add_row(run.dag_id, run.run_type, Text(run.state, colour), seconds)
        return table


def plan_table(groups: Sequence[PlanGroup], totals: PlanTotals) -> Table:
    """Show a plan's moves by bucket and classes, with its totals."""
    table = _table(f"The plan: {totals.objects:,} moves of {totals.scored_objects:,} objects", "bucket", "from", "to")
    for title in ("moves", "MiB", "USD net saving", "payback days, most"):
        table.add_column(title, justify="right")
    for group in groups:
        table.add_row(
            group.bucket,
            group.from_class,
            group.to_class,
            f"{group.objects:,}",
            _mib(group.bytes),
            f"{group.saving_usd:.6f}",
            "" if group.longest_payback_days is None else f"{group.longest_payback_days:.0f}",
        )
    table.caption = (
        f"A month costs USD {totals.before_usd_month:.6f} now and {totals.after_usd_month:.6f} afterwards; "
        f"the moves cost {totals.one_time_usd:.6f} once."
    )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _ranks() -> dict[str, int]:
    return {tier: rank for rank, tier in enumerate(TIER_ORDER)}


def _tier_rows(tiers: pl.DataFrame) -> list[dict[str, Any]]:
    return tiers.select("provider", "storage_class", "tier", "objects", "bytes").to_dicts()


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f}"


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
