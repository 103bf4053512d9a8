"""However many steps ask one client at once, no more requests are under way than its bucket's owner allows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from moving import CONNECTIONS, Cloud

from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef
from cloudflux.providers.aws_requests import S3Requests
from cloudflux.providers.azure_requests import BlobRequests
from cloudflux.providers.gcp_requests import ObjectRequests
from cloudflux.providers.workers import Workers

pytestmark = pytest.mark.contract

STEPS = 5
IN_FLIGHT = 6
WARM = {"s3": "STANDARD_IA", "azure": "Cool", "gcs": "NEARLINE"}
OBJECTS = {"s3": 20, "azure": 300, "gcs": 300}
"""For each step: more than one request for each."""


class UnderWay:
    """Counts requests that have begun and not ended."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> UnderWay:
    """Count what each client sends, and let each request take a little longer, so that those at once meet."""
    counted = UnderWay()

    def threaded(send: Callable[..., Any]) -> Callable[..., Any]:
        def sending(*arguments: Any, **named: Any) -> Any:
            with counted:
                time.sleep(0.02)
                return send(*arguments, **named)

        return sending

    def awaited(send: Callable[..., Any]) -> Callable[..., Any]:
        async def sending(*arguments: Any, **named: Any) -> Any:
            with counted:
                await asyncio.sleep(0.02)
                return await send(*arguments, **named)

        return sending

    monkeypatch.setattr(S3Requests, "_send_once", awaited(S3Requests._send_once))
    monkeypatch.setattr(BlobRequests, "_send", threaded(BlobRequests._send))
    monkeypatch.setattr(ObjectRequests, "_send", threaded(ObjectRequests._send))
    return counted


@pytest.mark.parametrize("dialect", ["s3", "azure", "gcs"])
def test_steps_at_once_share_what_may_be_under_way(
    dialect: str, connection: Callable[[str, str], Mapping[str, Any]], new_bucket: str, under_way: UnderWay
) -> None:
    cloud = Cloud.of(dialect, connection(dialect, CONNECTIONS[dialect]))
    client = cloud.client(in_flight=IN_FLIGHT)
    client.create_bucket(new_bucket)
    steps = [
        [ObjectRef(cloud.provider, new_bucket, f"{step}/{number:04}") for number in range(OBJECTS[dialect])]
        for step in range(STEPS)
    ]
    Workers(16).map(lambda ref: client.write_object(ref, b"x"), [ref for refs in steps for ref in refs])
    under_way.most = 0

    def step(refs: list[ObjectRef]) -> set[ChangeOutcome]:
        seen = client.head_many(refs)
        changes = [TierChange(state, WARM[dialect], state) for state in seen]
        return {result.outcome for result in client.change_tiers(changes)}

    with ThreadPoolExecutor(STEPS) as pool:
        assert set.union(*pool.map(step, steps)) == {ChangeOutcome.CHANGED}
    assert 2 <= under_way.most <= IN_FLIGHT
