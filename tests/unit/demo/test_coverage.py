"""The demo's logs are complete, although they come in few files and, on Azure, in few hours: nothing is withheld."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from cloudflux.domain.coverage import CoveredDay, LoggedHours, coverage_of, recent_coverage
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.log_writers import log_sources, write_logs
from cloudflux.local.demo.world import World, synthetic_world

LAST = date(2026, 11, 22)
_TIMES = {
    Provider.AWS: re.compile(rb"^\S+ (?P<bucket>\S+) \[(?P<at>[^\]]+) \+0000\]", re.MULTILINE),
    Provider.AZURE: re.compile(rb'"time":\s*"(?P<at>[^"]{13}).*?blob.core.windows.net:443/(?P<bucket>[^/?"]+)'),
    Provider.GCP: re.compile(rb'^"(?P<at>\d{16})".*,"(?P<bucket>[^",]+)","(?:[^"]|"")*"$', re.MULTILINE),
}


def hour_of(provider: Provider, text: str) -> tuple[date, int]:
    if provider is Provider.GCP:
        at = datetime.fromtimestamp(int(text) / 1e6, UTC)
    else:
        form = "%d/%b/%Y:%H:%M:%S" if provider is Provider.AWS else "%Y-%m-%dT%H"
        at = datetime.strptime(text, form).replace(tzinfo=UTC)
    return at.date(), at.hour


def logged(world: World) -> LoggedHours:
    counts: Counter[tuple[str, date, int]] = Counter()
    for file in write_logs(world):
        for found in _TIMES[file.provider].finditer(file.data):
            counts[found["bucket"].decode(), *hour_of(file.provider, found["at"].decode())] += 1
    buckets = [bucket for _, bucket in world.buckets]
    records = np.zeros((len(buckets), world.days, 24), dtype=np.int64)
    for (bucket, day, hour), count in counts.items():
        records[buckets.index(bucket), (day - world.first_day).days, hour] = count
    return LoggedHours(
        records=records,
        first_day=records.any(axis=2).argmax(axis=1),
        usual_day=np.full(len(buckets), np.nan),
        source=np.arange(len(buckets)),
        settled_until=np.full(len(buckets), np.inf),
        delivered_until=np.full(len(buckets), np.inf),
        quarantined=np.zeros((len(buckets), world.days)),
    )


@pytest.mark.parametrize(("objects", "days"), [(60, 14), (300, 40)])
def test_no_decision_is_withheld_when_a_world_s_logs_are_collected(objects: int, days: int) -> None:
    world = synthetic_world(last_day=LAST, objects=objects, days=days)
    logs = logged(world)
    assert logs.records.any(axis=(1, 2)).all()
    measured = coverage_of(logs)
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    for number, (provider, bucket) in enumerate(world.buckets):
        assert log_sources(world, provider, bucket)
        covered = [
            CoveredDay(world.first_day + timedelta(days=place), float(figure), "", at)
            for place, figure in enumerate(measured.coverage[number])
        ]
        first = world.first_day + timedelta(days=int(logs.first_day[number]))
        recent = recent_coverage(covered, first, LAST + timedelta(days=1), timedelta(hours=6))
        assert recent.withheld(0.85) is None, f"{bucket}: {recent}"
