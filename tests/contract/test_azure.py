"""What only Azure has: batches with statuses of their own, rehydration, leases, blobs without a tier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from azure.storage.blob import ContentSettings

from cloudflux.domain.errors import TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.azure import AzureTierClient
from cloudflux.providers.protocol import map_concurrently

pytestmark = pytest.mark.contract


@pytest.fixture
def client(azure: Any) -> AzureTierClient:
    return AzureTierClient(azure)


@pytest.fixture
def bucket(client: AzureTierClient, new_bucket: str) -> str:
    client.create_bucket(new_bucket)
    return new_bucket


def _ref(bucket: str, key: str = "a.bin") -> ObjectRef:
    return ObjectRef(Provider.AZURE, bucket, key)


def test_every_change_is_an_error_when_azure_refuses_the_batch_as_a_whole(client: AzureTierClient, bucket: str) -> None:
    # 257 give one answer with status 400, and the SDK raises nothing
    refs = [_ref(bucket, f"n/{number}") for number in range(257)]
    seen = map_concurrently(lambda ref: client.put_object(ref, b"x"), refs, 10)
    client.capabilities = replace(client.capabilities, batch_size=257)
    results = client.change_tiers([TierChange(state, "Cool") for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.ERROR}
    assert "1 parts (400)" in results[0].detail


def test_an_archived_blob_comes_back(client: AzureTierClient, bucket: str) -> None:
    seen = client.put_object(_ref(bucket), b"content")
    (down,) = client.change_tiers([TierChange(seen, "Archive")])
    assert down.outcome is ChangeOutcome.CHANGED
    archived = client.head(_ref(bucket))
    (up,) = client.change_tiers([TierChange(archived, "Hot")])
    assert up.outcome is ChangeOutcome.CHANGED  # Azurite does not wait; Azure answers RESTORING for hours
    assert differences(seen, client.head(_ref(bucket)), "Hot", keeps_etag=True) == ()


def test_a_blob_that_is_rehydrated_is_restoring(
    client: AzureTierClient, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.put_object(_ref(bucket), b"content", storage_class="Archive")
    original = client._properties

    def properties(ref: ObjectRef) -> Any:
        found = original(ref)
        found.archive_status = "rehydrate-pending-to-hot"
        return found

    monkeypatch.setattr(client, "_properties", properties)
    (result,) = client.change_tiers([TierChange(seen, "Hot")])
    assert (result.outcome, result.detail) == (ChangeOutcome.RESTORING, "rehydrate-pending-to-hot")


def test_a_lease_taken_at_the_last_moment_is_no_error_of_the_batch(
    client: AzureTierClient, azure: Any, bucket: str
) -> None:
    leased, free = (client.put_object(_ref(bucket, key), b"x") for key in ("leased", "free"))
    azure.get_blob_client(bucket, "leased").acquire_lease()
    outcomes = [result.outcome for result in client.change_tiers([TierChange(s, "Cool") for s in (leased, free)])]
    assert outcomes == [ChangeOutcome.LOCKED, ChangeOutcome.CHANGED]


def test_an_append_blob_stays_and_its_inventory_row_says_why(client: AzureTierClient, azure: Any, bucket: str) -> None:
    blob = azure.get_blob_client(bucket, "log")
    blob.create_append_blob()
    blob.append_block(b"line\n")
    seen = client.head(_ref(bucket, "log"))
    (result,) = client.change_tiers([TierChange(seen, "Cool")])
    assert result.outcome is ChangeOutcome.LOCKED
    assert "AppendBlob" in result.detail
    (listed,) = next(client.list_pages(bucket))
    assert listed.lock_reason == seen.lock_reason


def test_headers_are_kept_when_a_blob_moves(client: AzureTierClient, azure: Any, bucket: str) -> None:
    settings = ContentSettings(
        content_type="application/x-thing", content_encoding="gzip", content_language="de", cache_control="no-store"
    )
    azure.get_blob_client(bucket, "a.bin").upload_blob(b"content", content_settings=settings)
    seen = client.head(_ref(bucket))
    assert seen.headers == {"cache-control": "no-store", "content-encoding": "gzip", "content-language": "de"}
    client.change_tiers([TierChange(seen, "Cold")])
    assert differences(seen, client.head(_ref(bucket)), "Cold", keeps_etag=True) == ()


def test_the_error_is_transient_when_one_change_is_throttled(
    client: AzureTierClient, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ContainerClient

    seen = client.put_object(_ref(bucket), b"content")
    original = ContainerClient.set_standard_blob_tier_blobs

    def throttled(self: Any, *arguments: Any, **options: Any) -> Any:
        answers = list(original(self, *arguments, **options))
        answers[0].status_code = 503
        return iter(answers)

    monkeypatch.setattr(ContainerClient, "set_standard_blob_tier_blobs", throttled)
    with pytest.raises(TransientError, match="503"):
        client.change_tiers([TierChange(seen, "Cool")])


def test_requests_name_us_when_they_are_sent(client: AzureTierClient, azure: Any, bucket: str) -> None:
    AzureTierClient(azure)  # a second one on the same service client
    agents = []
    azure.get_blob_client(bucket, "a.bin").upload_blob(
        b"x", raw_request_hook=lambda request: agents.append(request.http_request.headers["User-Agent"])
    )
    assert [agent.count("cloudflux/") for agent in agents] == [1]
