"""Collect inventories: every object of the estate with its size, class and lock state, as one snapshot a day.

``inventory_reports`` finds what a bucket's objects are read from, ``inventory_parts`` reads them, and here the parts
become the published snapshot. Every step may be killed and repeated. What the tasks of one run share stands in the
lake's notes of its batch (``inventory_notes``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.inventory_reports import InventoryReport
from cloudflux.domain.tiers import Provider
from cloudflux.lake.schemas import QUARANTINE
from cloudflux.workflows.inventory_notes import LIVE, OUTCOME, digest, part_name, plan_name, run_name
from cloudflux.workflows.inventory_parts import Runs
from cloudflux.workflows.inventory_ports import Audit, InventoryReports, Lake, QuarantineLog, RecordedReport
from cloudflux.workflows.inventory_reports import MAX_REPORT_AGE

MOST_BAD_ROWS: Final = 0.01
"""Share of a report's rows that may be unreadable: more tells of damage, or of a format that has changed."""
LEAST_OBJECTS_LEFT: Final = 0.01
"""Share of a bucket's objects that a report must list of those that the last snapshot has: fewer tell rather of a
report of a part of the bucket, or of another one, than of a bucket that was emptied."""
_MANY_OBJECTS: Final = 100
"""Of fewer objects a bucket may well lose all within a day."""
_EXAMPLES: Final = 3


@dataclass(slots=True)
class _Collected:
    """What the parts of one bucket gave."""

    provider: str
    bucket: str
    report: InventoryReport | None = None
    taken_at: datetime | None = None
    runs: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notices: list[FormatNotice] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    refused: str | None = None
    """Why nothing of it must become a snapshot."""
    kept: str = ""
    """What the snapshot has in its place."""


def publish_inventory(
    lake: Lake,
    reports: InventoryReports,
    quarantine: QuarantineLog,
    audit: Audit,
    *,
    batch: str,
    day: date,
    clock: Callable[[], datetime],
    providers: Collection[Provider] = tuple(Provider),
) -> dict[str, Any]:
    """Join all buckets' parts into the day's snapshot, audit and publish it, and record which reports it is made of.

    Gives objects and bytes in all and by tier, what was counted apart, the ``notices`` of what is new in formats, and
    as ``refused`` the buckets that have no report which can be used: one that is short of rows, has too many bad ones
    or has lost nearly all objects is none. Such a bucket keeps the objects of its last snapshot, for as long as a
    report of that age would be read, and has none after that. Raises ``AuditFailed``, and ``TerminalError`` when all
    buckets are refused; then the snapshot before stays in force.
    """
    outcome = lake.noted(batch, OUTCOME)
    found = _collected(lake, batch, providers) if outcome is None else None
    if found is None:  # an earlier attempt finished
        refused = [] if outcome is None else list(outcome["refused"])
        _tidy_up(lake, batch, providers, refused)
        return _totals(lake, day) | {"notices": [], "refused": refused}
    collected: list[_Collected] = []
    for of in found:
        of.refused = of.refused or _problem(of, reports.latest(of.provider, of.bucket), day)
        if of.refused is None:
            collected.append(of)
    if found and not collected:
        raise TerminalError("; ".join(str(of.refused) for of in found))
    kept = [_kept(lake, reports.latest(of.provider, of.bucket), of, batch, clock()) for of in found if of.refused]
    refused = [f"{of.refused} ({of.kept})" for of in kept]
    runs = [(of.provider, of.bucket, run) for of in [*collected, *kept] for run in of.runs]
    written, merged = lake.merge_runs(runs, day, batch)
    snapshot = lake.staged("inventory", batch)
    rejected = 0
    if snapshot.count_rows():
        taken_at = {(of.provider, of.bucket): of.taken_at for of in [*collected, *kept] if of.taken_at is not None}
        report = audit("inventory", snapshot, batch, taken_at=taken_at)
        report.raise_if_failed()
        if report.rejected is not None:
            rejected = report.rejected.num_rows
            written = _without_rejected(lake, report, written, batch)
            quarantine.add(_rejected_rows(report.rejected, day))
        lake.publish("inventory", batch)
        lake.keep_only("inventory", [day], written)
    bad = lake.staged("quarantine", batch).to_table()
    ours = {of.report.file_id(file) for of in collected if of.report is not None for file in of.report.files}
    quarantine.add(bad.filter(pl.Series(bad["source_file"].to_pylist(), dtype=pl.String).is_in(list(ours)).to_arrow()))
    reports.record([_record(of, merged, day) for of in collected], clock())
    result = _totals(lake, day) | {
        "noncurrent_objects": sum(of.counts.get("noncurrent_objects", 0) for of in collected),
        "noncurrent_bytes": sum(of.counts.get("noncurrent_bytes", 0) for of in collected),
        "quarantined": sum(of.counts.get("bad", 0) for of in collected) + rejected,
        "doubled": sum(counts.doubled for counts in merged.values()),
        "reports": sum(of.report is not None for of in collected),
        "passed_over": [reason for of in collected for reason in of.passed_over],
        "notices": sorted({notice for of in collected for notice in of.notices}),
        "refused": refused,
    }
    lake.note(batch, OUTCOME, {"refused": refused})
    _tidy_up(lake, batch, providers, refused)
    return result


def _tidy_up(lake: Lake, batch: str, providers: Collection[Provider], refused: Sequence[str]) -> None:
    """Delete what the run has staged, and its notes, unless they say who was refused, which another attempt tells."""
    # The plan goes first: a discard that is cut off must not leave half of it for the next attempt to publish.
    for provider in providers:
        lake.note(batch, run_name(provider), None)
    if refused:
        lake.discard_staged(batch)
    else:
        lake.discard(batch)


def _collected(lake: Lake, batch: str, providers: Collection[Provider]) -> list[_Collected] | None:
    """Read what all parts gave; None when no plan is there any more. Raises ``TerminalError`` when one is missing."""
    planned = {provider: lake.noted(batch, run_name(provider)) for provider in providers}
    if all(buckets is None for buckets in planned.values()):
        return None
    found: list[_Collected] = []
    for provider, buckets in planned.items():
        if buckets is None:
            raise TerminalError(
                f"what the buckets of {provider} gave is not in the notes of batch {batch} any more: start a new run, "
                "it replaces the day's snapshot"
            )
        for bucket in buckets:
            plan = lake.noted(batch, plan_name(provider, bucket)) or {"chunks": {"any": []}}
            parts: list[Mapping[str, Any]] = []
            for chunk in plan["chunks"]:
                part = lake.noted(batch, part_name(provider, bucket, chunk))
                if part is None:
                    raise TerminalError(
                        f"{provider} bucket {bucket!r}: part {chunk} was not collected: run the list tasks again"
                    )
                parts.append(part)
            found.append(_joined(provider, bucket, plan, parts))
    return found


def _joined(provider: Provider, bucket: str, plan: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> _Collected:
    report = InventoryReport.from_json(plan["report"]) if plan["report"] is not None else None
    refused = next((told["refused"] for told in (plan, *parts) if "refused" in told), None)
    if refused is not None:
        return _Collected(provider.value, bucket, refused=refused)
    noted = [*plan["notices"], *(notice for part in parts for notice in part.get("notices", ()))]
    names = ("records", "objects", "bad", "elsewhere", "noncurrent_objects", "noncurrent_bytes")
    return _Collected(
        provider=provider.value,
        bucket=bucket,
        report=report,
        taken_at=report.taken_at if report is not None else datetime.fromisoformat(parts[0]["taken_at"]),
        runs=[run for part in parts for run in part["runs"]],
        counts={name: sum(part.get(name, 0) for part in parts) for name in names},
        notices=[
            FormatNotice(**{**one, "provider": Provider(one["provider"]), "kind": NoticeKind(one["kind"])})
            for one in noted
        ],
        examples=[example for part in parts for example in part.get("examples", ())],
        passed_over=list(plan["passed_over"]),
    )


def _kept(lake: Lake, last: RecordedReport | None, of: _Collected, batch: str, now: datetime) -> _Collected:
    """Take a refused bucket's objects from its last snapshot, unless what that was made of is too old by now.

    They are read from the snapshot of the day that is recorded, so that another attempt and another day find the same.
    """
    kept = _Collected(of.provider, of.bucket, refused=of.refused, kept="the snapshot has none of its objects")
    if last is None or now - last.taken_at > MAX_REPORT_AGE:
        return kept
    named = (pc.field("provider") == of.provider) & (pc.field("bucket") == of.bucket)
    with Runs(lake, of.provider, of.bucket, "kept", batch) as runs:
        for rows in lake.dataset("inventory", days=[last.day]).to_batches(filter=named):
            runs.add(pl.DataFrame(pl.from_arrow(rows)))
    if runs.names:
        until = last.taken_at + MAX_REPORT_AGE
        kept.runs, kept.taken_at = runs.names, last.taken_at
        kept.kept = f"its objects are those of the snapshot of {last.day}, until {until:%Y-%m-%d %H:%M} UTC"
    return kept


def _problem(of: _Collected, last: RecordedReport | None, day: date) -> str | None:
    """Say why a report must not become a snapshot, or None; ``last`` is what the newest snapshot was made of."""
    report = of.report
    if report is None:
        return None
    records, bad, elsewhere = of.counts["records"], of.counts["bad"], of.counts["elsewhere"]
    who = f"inventory report {report.uri} of {of.provider} bucket {of.bucket!r} is refused"
    if report.rows is not None and records < report.rows:
        return f"{who}: its manifest counts {report.rows} rows, its data files have {records}"
    if bad > MOST_BAD_ROWS * (records - elsewhere):
        shown = "; ".join(of.examples[:_EXAMPLES])
        return f"{who}: {bad} of {records - elsewhere} rows cannot be read, e.g. {shown}"
    if records and records == elsewhere and not report.of_account:
        return f"{who}: it tells of another bucket only; check the estate's inventory.prefix"
    objects = of.counts["objects"]
    if (
        last is not None
        and day - last.day <= MAX_REPORT_AGE
        and last.objects >= _MANY_OBJECTS
        and objects < LEAST_OBJECTS_LEFT * last.objects
    ):
        return (
            f"{who}: it lists {objects} objects, the snapshot of {last.day} has {last.objects}; look whether its "
            "configuration lists a part of the bucket. If the bucket was emptied, leave inventory out of the estate to "
            f"have it listed live; from {last.day + MAX_REPORT_AGE + timedelta(days=1)} on such a report is taken"
        )
    return None


def _without_rejected(
    lake: Lake, report: Any, written: Sequence[tuple[date, int]], batch: str
) -> list[tuple[date, int]]:
    """Stage the partitions again without the rows that the audit leaves out; a shard is in memory at a time."""
    kept: list[tuple[date, int]] = []
    for day, shard in written:
        rows = report.kept(_partition(lake, batch, day, shard))
        lake.stage("inventory", day, shard, rows, batch)
        kept.append((day, shard))
    return kept


def _partition(lake: Lake, batch: str, day: date, shard: int) -> Any:
    staged = lake.staged("inventory", batch)
    name = f"day={day.isoformat()}/shard={shard:04d}.parquet"
    fragment = next(piece for piece in staged.get_fragments() if piece.path.endswith(name))
    return fragment.to_table(schema=staged.schema)


def _rejected_rows(rejected: pa.Table, day: date) -> pa.Table:
    """Put objects that the audit left out into the quarantine's columns.

    They were listed live, and so have no file and no line: the object itself is named, and numbered. What the audit
    would leave out of a report is quarantined when that is read, with its data file and row.
    """
    rows = [
        {
            "source_file": digest("inventory", row["provider"] or "", row["bucket"] or "", day.isoformat()),
            "provider": row["provider"] or "",
            "bucket": row["bucket"] or "",
            "key": row["key"] or "",
            "line": number,
            "reason": row["reason"],
            "raw": row["raw"],
            "day": day,
        }
        for number, row in enumerate(rejected.to_pylist(), start=1)
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def _record(of: _Collected, merged: Mapping[tuple[str, str], Any], day: date) -> dict[str, Any]:
    counts = merged.get((of.provider, of.bucket))
    assert of.taken_at is not None  # noqa: S101  # nothing is recorded of a refused bucket
    return {
        "provider": of.provider,
        "bucket": of.bucket,
        "day": day,
        "format": of.report.format if of.report is not None else LIVE,
        "manifest": of.report.uri if of.report is not None else "",
        "taken_at": of.taken_at.astimezone(UTC),
        "objects": counts.objects if counts is not None else 0,
        "bytes": counts.bytes if counts is not None else 0,
        "noncurrent_objects": of.counts["noncurrent_objects"],
        "noncurrent_bytes": of.counts["noncurrent_bytes"],
        "quarantined": of.counts["bad"],
    }


def _totals(lake: Lake, day: date) -> dict[str, Any]:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("snapshot", lake.dataset("inventory", days=[day]))
        found = connection.execute(
            "SELECT tier, count(*), sum(size_bytes)::BIGINT FROM snapshot GROUP BY tier ORDER BY tier"
        ).fetchall()
    tiers = {tier: {"objects": objects, "bytes": size} for tier, objects, size in found}
    return {
        "objects": sum(tier["objects"] for tier in tiers.values()),
        "bytes": sum(tier["bytes"] for tier in tiers.values()),
        "tiers": tiers,
    }
