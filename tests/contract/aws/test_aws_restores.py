"""Archive classes of S3: a restore is asked for once, waited for, and then the object is copied."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import format_datetime
from typing import Any

import pytest
from contract.aws.wire import Wire, move, ref, refused
from contract.backends import let_restores_take

from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_http import Answer

pytestmark = pytest.mark.contract

_ORDER = RestoreOrder("bulk", 3)


def test_a_restore_is_asked_for_as_it_was_ordered(
    client: AwsTierClient, wire: Wire, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"content", storage_class="DEEP_ARCHIVE")
    bodies: list[bytes] = []
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        bodies.append(body)
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    result = client.change_tiers([TierChange(seen, "STANDARD", restore=_ORDER)])[0]
    assert result.outcome is ChangeOutcome.RESTORING
    (body,) = [body for body in bodies if body]
    assert b"<Days>3</Days>" in body
    assert b"<Tier>Bulk</Tier>" in body


@pytest.mark.parametrize("to_class", ["STANDARD", "GLACIER_IR", "DEEP_ARCHIVE"])
def test_an_object_is_copied_when_its_restore_is_done(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str, to_class: str
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"content", storage_class="GLACIER")
    change = TierChange(seen, to_class, restore=_ORDER)
    let_restores_take(s3, 3600)
    for _ in range(3):
        assert client.change_tiers([change])[0].outcome is ChangeOutcome.RESTORING
    assert wire.count("POST", "restore") == 1
    let_restores_take(s3, 0)
    assert client.change_tiers([change])[0].outcome is ChangeOutcome.CHANGED
    after = client.head(seen.ref)
    assert after.storage_class == to_class
    assert after.restore is None


def test_a_restore_that_is_under_way_already_is_waited_for(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"content", storage_class="GLACIER")
    wire.fail("POST", "restore", refused(409, "RestoreAlreadyInProgress"))
    assert client.change_tiers([TierChange(seen, "STANDARD", restore=_ORDER)])[0].outcome is ChangeOutcome.RESTORING


def test_an_archived_object_of_intelligent_tiering_comes_back_for_good(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"content", storage_class="INTELLIGENT_TIERING")
    archived = {
        "last-modified": format_datetime(seen.last_modified_at, usegmt=True),
        "etag": f'"{seen.etag}"',
        "content-length": "7",
        "x-amz-storage-class": "INTELLIGENT_TIERING",
        "x-amz-archive-status": "DEEP_ARCHIVE_ACCESS",
    }
    wire.fail("HEAD", "", *[Answer(200, archived, b"")] * 2)
    wire.fail("POST", "restore", Answer(202, {}, b""))
    assert move(client, seen, "STANDARD").outcome is ChangeOutcome.ERROR
    order = RestoreOrder("standard", 3)
    result = client.change_tiers([TierChange(seen, "STANDARD", restore=order)])[0]
    assert result.outcome is ChangeOutcome.RESTORING
    assert move(client, seen, "STANDARD").outcome is ChangeOutcome.CHANGED
