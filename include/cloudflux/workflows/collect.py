"""Collect access logs: what was found is audited beside the published data, and published.

New files are found in `collect_files`, and parsed into the lake in `collect_chunks`.

Every step may be killed and repeated. What the tasks of one run share stands in the lake's notes of its batch; a source
file is recorded as published last of all, so that a run that was cut off takes its files again and publishes the same
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.tiers import Provider
from cloudflux.workflows.collect_ports import (
    Audit,
    AuditReport,
    Lake,
    QuarantineLog,
    SourceFiles,
)
from cloudflux.workflows.daily_access import rebuild_daily_access

_QUARANTINED_LINES: Final = 1000
"""How many lines of one file are kept in the database; the lake has all of them."""


def audit_and_publish(
    lake: Lake,
    source_files: SourceFiles,
    quarantine: QuarantineLog,
    audit: Audit,
    *,
    batch: str,
    clock: Callable[[], datetime],
) -> dict[str, Any]:
    """Audit a batch's events and the daily access of all days that they touch, made anew; publish both.

    A file that was taken before, with other content, or that an earlier run was publishing when it was cut off, is
    replaced: its old rows go, and the days that they were on are rebuilt too. Raises ``AuditFailed`` when an
    expectation is not met: what is staged then stays unpublished, with its files.
    """
    noted = [lake.noted(batch, f"chunks-{provider}") for provider in Provider]
    if all(names is None for names in noted):
        return _NOTHING_LEFT  # an earlier attempt finished and tidied up
    names = [name for names in noted for name in names or []]
    rows = [_row_of(row) for name in names for row in lake.noted(batch, f"parsed-{name}") or []]
    replaced = source_files.earlier(rows)
    old_days = {day for old in replaced.values() for day in old}
    days = sorted({day for row in rows for day in row["event_days"]} | old_days)
    written = _audited(lake, audit, rows, days=days, replaced=replaced, batch=batch)

    source_files.intend(rows)
    for dataset in ("access_events", "log_hours", "quarantine"):
        _replace_files(lake, dataset, replaced, batch)
    lake.publish("daily_access", batch)
    lake.keep_only("daily_access", days, written)

    quarantine.forget(sorted(replaced))
    new_in_quarantine = _quarantine(lake, quarantine, rows)
    touched = sorted({day for row in rows for day in row["days"]} | old_days)
    listed = [at for provider in Provider if (at := lake.noted(batch, f"listed-{provider}"))]
    source_files.record(rows, clock())
    notices = [FormatNotice(**notice) for name in names for notice in lake.noted(batch, f"notices-{name}") or []]
    refused = [note for provider in Provider if (note := lake.noted(batch, f"refused-{provider}"))]
    lake.discard(batch)
    return {
        "files": len(rows),
        "lines": sum(row["lines"] for row in rows),
        "events": sum(row["events"] for row in rows),
        "quarantined": new_in_quarantine,
        "replaced": len(replaced),
        "days": len(days),
        "touched": _runs_of(touched),
        "collected_until": min(listed, default=None),
        "refused": [reason for note in refused for reason in note["reasons"]],
        "unlisted": [name for note in refused for name in note["unlisted"]],
        "notices": notices,
    }


_NOTHING_LEFT: Final[dict[str, Any]] = {
    **dict.fromkeys(("files", "lines", "events", "quarantined", "replaced", "days"), 0),
    "touched": [],
    "collected_until": None,
    "refused": [],
    "unlisted": [],
    "notices": [],
}


def _runs_of(days: Sequence[date]) -> list[tuple[str, str]]:
    """Give days, in order, as ranges (first, last) without a gap."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and day - runs[-1][1] == timedelta(days=1):
            runs[-1] = runs[-1][0], day
        else:
            runs.append((day, day))
    return [(first.isoformat(), last.isoformat()) for first, last in runs]


def _audited(
    lake: Lake,
    audit: Audit,
    rows: Sequence[Mapping[str, Any]],
    *,
    days: Sequence[date],
    replaced: Mapping[str, Sequence[date]],
    batch: str,
) -> list[tuple[date, int]]:
    """Audit the staged events and the daily access that comes of them; give its partitions.

    Both are done before anything is published, and at once: the audit mostly waits for Great Expectations.
    """
    rebuild = partial(
        rebuild_daily_access,
        lake,
        days,
        batch,
        replaced=sorted(replaced),
        kept=_staged_parts(lake, "access_events", batch),
    )
    with ThreadPoolExecutor(1) as beside:
        rebuilding = beside.submit(rebuild)
        events = lake.staged("access_events", batch)
        if events.count_rows():
            report = audit("access_events", events, batch)
            report.raise_if_failed()
            if report.rejected is not None:
                rebuilding.result()
                _leave_out(lake, report, rows, batch)
                lake.unstage("daily_access", batch)
                rebuilding = beside.submit(rebuild)
        written = rebuilding.result()
    daily = lake.staged("daily_access", batch)
    if daily.count_rows():
        audit("daily_access", daily, batch).raise_if_failed()
    return written


def _staged_parts(lake: Lake, dataset: str, batch: str) -> list[tuple[date, str]]:
    """Give the parts of a batch; noted before the first of them is swapped in, for an attempt that follows."""
    noted = lake.noted(batch, f"staged-{dataset}")
    if noted is None:
        noted = [(day.isoformat(), name) for day, name in lake.staged_parts(dataset, batch)]
        lake.note(batch, f"staged-{dataset}", noted)
    return [(date.fromisoformat(day), name) for day, name in noted]


def _leave_out(lake: Lake, report: AuditReport, rows: Sequence[Mapping[str, Any]], batch: str) -> None:
    """Put the rows that the audit rejects into quarantine, and take them out of what is staged."""
    rejected = report.rejected
    assert rejected is not None  # noqa: S101  # asked by the caller
    named = {row["file_id"]: row for row in rows}
    for column in ("bucket", "key"):
        names = [named[file_id][column] if file_id in named else "" for file_id in rejected["source_file"].to_pylist()]
        place = rejected.schema.get_field_index(column)
        rejected = rejected.set_column(place, rejected.schema.field(column), pa.array(names, pa.string()))
    # First into quarantine: after a kill between the two, the rows are there twice, and not nowhere.
    lake.stage_rows("quarantine", rejected, f"audit-{hashlib.sha256(batch.encode()).hexdigest()[:24]}", batch)
    lake.rewrite_staged("access_events", batch, report.kept)


def _replace_files(lake: Lake, dataset: str, replaced: Mapping[str, Sequence[date]], batch: str) -> None:
    """Swap in what is staged, after the rows of the files that it replaces are gone."""
    kept = _staged_parts(lake, dataset, batch)
    lake.remove_rows(dataset, sorted({day for old in replaced.values() for day in old}), sorted(replaced), kept)
    lake.publish_files(dataset, batch)


def _quarantine(lake: Lake, quarantine: QuarantineLog, rows: Sequence[Mapping[str, Any]]) -> int:
    """Give the database the first lines of each file that are in quarantine."""
    published = lake.dataset("quarantine", days=sorted({day for row in rows for day in row["days"]}))
    files = pa.array(sorted(row["file_id"] for row in rows), pa.string())
    listed = published.to_table(filter=pc.field("source_file").isin(files))
    if not listed.num_rows:
        return 0
    listed = listed.sort_by([("source_file", "ascending"), ("line", "ascending")])
    ids = listed["source_file"].combine_chunks().dictionary_encode().indices.to_numpy()
    places = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return quarantine.add(listed.filter(pa.array(places < _QUARANTINED_LINES)))


def _row_of(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **noted,
        "last_modified_at": datetime.fromisoformat(noted["last_modified_at"]),
        "days": [date.fromisoformat(day) for day in noted["days"]],
        "event_days": [date.fromisoformat(day) for day in noted["event_days"]],
    }
