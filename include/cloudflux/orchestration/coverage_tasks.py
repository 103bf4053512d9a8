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
    ``unlisted``: (provider, bucket) whose logs could not be listed: nothing new is known of them, so that their days
    stay as they were measured before, and those to come without coverage.
    """
    if published["collected_until"] is None:  # an attempt that found all done: the attempt before it told the days
        return {}
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.workflows.coverage import measure

    estate = settings().load_estate()
    unlisted = {tuple(name) for name in published["unlisted"]}
    listed = tuple(bucket for bucket in estate.buckets if (bucket.provider.value, bucket.bucket) not in unlisted)
    return measure(
        lake(),
        CoverageLog(engine()),
        estate.model_copy(update={"buckets": listed}),
        days=[day for first, last in published["touched"] for day in _days(first, last)],
        collected_until=datetime.fromisoformat(published["collected_until"]),
        clock=now,
    )


def _days(first: str, last: str) -> Iterator[date]:
    day = date.fromisoformat(first)
    while day <= date.fromisoformat(last):
        yield day
        day += timedelta(days=1)
