"""A client of S3 whose requests are recorded, and broken where a test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_http import Answer, AnswerLost, Patience
from cloudflux.providers.pace import Pace


def _pace(_bucket: str) -> Pace:
    return Pace(max_in_flight=32, random=lambda: 0.0)  # retries do not wait


def new_client(s3: Any, **settings: Any) -> AwsTierClient:
    return AwsTierClient(s3, **{"patience": Patience(attempts=3), "pace_of": _pace, **settings})


ACTED = "acted"
"""S3 acts, and its answer is lost."""


@dataclass
class Wire:
    """What goes between a client and S3: recorded, and broken where a test wants it."""

    sent: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    faults: list[tuple[str, str, list[Any]]] = field(default_factory=list)

    def fail(self, method: str, part_of_url: str, *faults: Any) -> None:
        """Give the next requests of a kind these answers or exceptions, or lose S3's answer after it acted."""
        self.faults.append((method, part_of_url, list(faults)))

    def count(self, method: str, part_of_url: str = "") -> int:
        return sum(method == sent and part_of_url in url for sent, url, _ in self.sent)


def tap(client: AwsTierClient, monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire, transport = Wire(), client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        wire.sent.append((method, url, headers))
        for wanted, part_of_url, faults in wire.faults:
            if wanted == method and part_of_url in url and faults:
                fault = faults.pop(0)
                if isinstance(fault, Answer):
                    return fault
                if isinstance(fault, Exception):
                    raise fault
                await original(method, url, headers, body)
                raise AnswerLost("the connection broke")
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    return wire


def refused(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def move(client: AwsTierClient, seen: ObjectState, to_class: str = "STANDARD_IA") -> TierChangeResult:
    return client.change_tiers([TierChange(seen, to_class)])[0]


def ref(bucket: str, key: str = "a.bin") -> ObjectRef:
    return ObjectRef(Provider.AWS, bucket, key)


def put_many(client: AwsTierClient, bucket: str, count: int) -> list[ObjectState]:
    client.create_bucket(bucket)
    for number in range(count):
        client.write_object(ref(bucket, f"{number:03}"), b"content %d" % number, tags={"n": str(number)})
    looks = client.head_many([ref(bucket, f"{number:03}") for number in range(count)])
    states = [state for state in looks if isinstance(state, ObjectState)]
    assert states == looks
    return states
