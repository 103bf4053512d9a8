"""Daily access is what a plain count of the events gives, each request once."""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import ACCESS_EVENTS
from cloudflux.workflows import daily_access

FIRST = date(2026, 11, 1)
_EVENT = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(["aws", "gcp"]),
        "bucket": st.sampled_from(["a", "b"]),
        "key": st.sampled_from(["k", "ü/0"]),
        "day": st.sampled_from([FIRST, FIRST + timedelta(days=1)]),
        "kind": st.sampled_from(["read", "write", "delete", "tier", "part"]),
        "operation": st.sampled_from(["REST.GET.OBJECT", "REST.COPY.OBJECT", "REST.COPY.PART_GET"]),
        "bytes_sent": st.integers(0, 1 << 50),
        "request_id": st.sampled_from(["1", "2", "3", "4"]),
        "excluded": st.booleans(),
    }
)


def plain(events: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Count the slow way: by object and day reads, writes, bytes read, excluded reads, excluded writes."""
    used = [event for event in events if event["kind"] in ("read", "write")]
    ours = {
        (event["provider"], event["day"], event["request_id"])
        for event in events
        if event["excluded"] and event["kind"] in ("write", "part") and "COPY" in event["operation"]
    }
    requests: dict[tuple[Any, ...], list[tuple[str, int, bool]]] = defaultdict(list)
    for event in used:
        is_source = event["kind"] == "read" and "COPY" in event["operation"]
        excluded = event["excluded"] or (is_source and (event["provider"], event["day"], event["request_id"]) in ours)
        named = tuple(event[name] for name in ("provider", "bucket", "key", "day", "request_id", "operation"))
        requests[named].append((event["kind"], event["bytes_sent"], excluded))
    days: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 5)
    for named, told in requests.items():
        kind, excluded = min(kind for kind, _, _ in told), all(excluded for _, _, excluded in told)
        counts = days[named[:4]]
        counts[("read", "write").index(kind) + 3 * excluded] += 1
        if kind == "read" and not excluded:
            counts[2] += max(sent for _, sent, _ in told)
    return {named: tuple(counts) for named, counts in days.items()}


def counted(events: list[dict[str, Any]], parts: int) -> dict[tuple[Any, ...], tuple[int, ...]]:
    lake = Lake(f"memory://daily-{uuid.uuid4().hex}", shards=2)
    rows = [
        {**event, "at": datetime(*event["day"].timetuple()[:3], tzinfo=UTC), "source_file": "f", "line": line}
        for line, event in enumerate(events)
    ]
    for part in range(parts):
        if rows[part::parts]:
            lake.stage_rows("access_events", pa.Table.from_pylist(rows[part::parts], ACCESS_EVENTS), f"p{part}", "b")
    daily_access.rebuild_daily_access(lake, sorted({event["day"] for event in events}), "b")
    lake.publish("daily_access", "b")
    names = ("reads", "writes", "bytes_read", "excluded_reads", "excluded_writes")
    return {
        (row["provider"], row["bucket"], row["key"], row["day"]): tuple(row[name] for name in names)
        for row in lake.read("daily_access").to_pylist()
    }


@given(st.lists(_EVENT, min_size=1, max_size=30), st.integers(1, 3))
def test_daily_access_is_the_plain_count_of_requests(events: list[dict[str, Any]], parts: int) -> None:
    assert counted(events, parts) == plain(events)


@pytest.mark.parametrize("at_once", [0, 5_000_000])
@settings(max_examples=40)
@given(events=st.lists(_EVENT, min_size=1, max_size=30))
def test_daily_access_is_the_same_when_all_requests_share_a_hash(at_once: int, events: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daily_access, "_IDENTITY", "0::UBIGINT")
        patch.setattr(daily_access, "_EVENTS_AT_ONCE", at_once)  # hashes are sorted in memory, or grouped by DuckDB
        assert counted(events, 1) == plain(events)
