"""The last task of `collect_access_logs`: how much of each bucket's days the logs tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from cloudflux.orchestration.edge import engine, lake, now, settings, terminal_errors_fail


@terminal_errors_fail
def measure_coverage(published: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the coverage of the days that a batch touched, and of the last month.

    published : what ``publish_daily_access`` gives. ``touched``: ranges of days (ISO dates, first and last);
    ``collected_until``: ISO time, with its offset, at which the first of the log sources had been listed.
    """
    if published["collected_until"] is None:  # an attempt that found all done: the attempt before it told the days
        return {}
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.workflows.coverage import measure

    return measure(
        lake(),
        CoverageLog(engine()),
        settings().load_estate(),
        days=[day for first, last in published["touched"] for day in _days(first, last)],
        collected_until=datetime.fromisoformat(published["collected_until"]),
        clock=now,
    )


def _days(first: str, last: str) -> Iterator[date]:
    day = date.fromisoformat(first)
    while day <= date.fromisoformat(last):
        yield day
        day += timedelta(days=1)
