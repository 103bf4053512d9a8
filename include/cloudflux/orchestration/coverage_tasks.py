"""The last task of `collect_access_logs`: how much of each bucket's days the logs tell."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import Any

from cloudflux.orchestration.edge import engine, lake, now, settings, terminal_errors_fail


@terminal_errors_fail
def measure_coverage(days: Collection[str], collected_until: str) -> dict[str, Any]:
    """Measure the coverage of the days (ISO dates) that a batch touched, and of the last month.

    collected_until : ISO time, with its offset, at which the last of the log sources had been listed.
    """
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.workflows.coverage import measure

    return measure(
        lake(),
        CoverageLog(engine()),
        settings().load_estate(),
        days=[date.fromisoformat(day) for day in days],
        collected_until=datetime.fromisoformat(collected_until),
        clock=now,
    )
