"""What only Azure has: batches with statuses of their own, rehydration, leases, blobs without a tier."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    StandardBlobTier,
    generate_account_sas,
    generate_container_sas,
)

from cloudflux.domain.errors import CredentialsRefused
from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange
from cloudflux.domain.objects import ObjectRef, RestoreState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.azure import AzureTierClient
from cloudflux.providers.workers import Workers

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


@pytest.fixture
def patient(azure: Any) -> AzureTierClient:
    """A client that does not wait before it sends again."""
    return AzureTierClient(azure, attempts=4, sleep=lambda seconds: None)


def _intercept(monkeypatch: pytest.MonkeyPatch, azure: Any, answered: Callable[[Any, Callable[[], Any]], Any]) -> None:
    """Let ``answered`` send each batch, or not: it gets the request and what sends it."""
    transport = azure._pipeline._transport
    original = transport.send

    def send(request: Any, **options: Any) -> Any:
        if "comp=batch" not in request.url:
            return original(request, **options)
        return answered(request, lambda: original(request, **options))

    monkeypatch.setattr(transport, "send", send)


def test_every_change_is_an_error_when_azure_refuses_the_batch_as_a_whole(client: AzureTierClient, bucket: str) -> None:
    # 257 give one answer with status 400 in a batch's answer of 202
    refs = [_ref(bucket, f"n/{number}") for number in range(257)]
    seen = Workers(10).map(lambda ref: client.put_object(ref, b"x"), refs)
    client.capabilities = replace(client.capabilities, batch_size=257)
    results = client.change_tiers([TierChange(state, "Cool") for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.ERROR}
    assert "400 ExceedsMaxBatchRequestCount" in results[0].detail


def test_an_archived_blob_comes_back(client: AzureTierClient, bucket: str) -> None:
    seen = client.put_object(_ref(bucket), b"content")
    (down,) = client.change_tiers([TierChange(seen, "Archive")])
    assert down.outcome is ChangeOutcome.CHANGED
    archived = client.head(_ref(bucket))
    (up,) = client.change_tiers([TierChange(archived, "Hot", restore=RestoreOrder("high", 1))])
    assert up.outcome is ChangeOutcome.CHANGED  # Azurite does not wait; Azure answers RESTORING for hours
    assert differences(seen, client.head(_ref(bucket)), "Hot", keeps_etag=True) == ()


@pytest.mark.parametrize("priority", ["standard", "high"])
def test_the_priority_of_a_rehydration_is_passed_on(
    client: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, priority: str
) -> None:
    archived = client.put_object(_ref(bucket, "archived"), b"content", storage_class="Archive")
    online = client.put_object(_ref(bucket, "online"), b"content", storage_class="Cool")
    sent = []

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        sent.append(bytes(request.data))
        return send()

    _intercept(monkeypatch, azure, answered)
    order = RestoreOrder(priority, 1)
    client.change_tiers([TierChange(archived, "Hot", restore=order), TierChange(online, "Cold", restore=order)])
    (rehydration,) = (body for body in sent if b"/archived?" in body)
    (other,) = (body for body in sent if b"/online?" in body)
    assert f"x-ms-rehydrate-priority: {priority.title()}\r\n".encode() in rehydration
    assert b"rehydrate" not in other


def test_a_rehydration_of_unknown_priority_is_an_error(client: AzureTierClient, bucket: str) -> None:
    archived = client.put_object(_ref(bucket), b"content", storage_class="Archive")
    (result,) = client.change_tiers([TierChange(archived, "Hot", restore=RestoreOrder("bulk", 1))])
    assert result.outcome is ChangeOutcome.ERROR
    assert "'bulk'" in result.detail
    assert client.head(_ref(bucket)) == archived


def test_a_blob_that_is_rehydrated_is_restoring(
    client: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.put_object(_ref(bucket), b"content", storage_class="Archive")
    transport = azure._pipeline._transport
    original = transport.send

    def send(request: Any, **options: Any) -> Any:
        answer = original(request, **options)
        if request.method == "HEAD":
            answer.headers["x-ms-archive-status"] = "rehydrate-pending-to-hot"
        return answer

    monkeypatch.setattr(transport, "send", send)
    assert client.head(_ref(bucket)).restore is RestoreState.RUNNING
    (result,) = client.change_tiers([TierChange(seen, "Hot", restore=RestoreOrder("standard", 1))])
    assert result.outcome is ChangeOutcome.RESTORING


@pytest.mark.parametrize("many", [False, True], ids=["one-by-one", "listed"])
def test_a_listing_tells_what_a_look_tells(client: AzureTierClient, azure: Any, bucket: str, many: bool) -> None:
    settings = ContentSettings(
        content_type="text/x", content_encoding="gzip", content_language="de", cache_control="no-store",
        content_disposition="inline",
    )  # fmt: skip
    blob = azure.get_blob_client(bucket, "n/00 <full> & 'quoted'")
    blob.upload_blob(b"c", content_settings=settings, metadata={"Owner": "ann & bob"}, tags={"a": "1 + 2", "b": "x/y"})
    azure.get_blob_client(bucket, "n/01 leased").upload_blob(b"c")
    azure.get_blob_client(bucket, "n/01 leased").acquire_lease()
    azure.get_blob_client(bucket, "n/02 append").create_append_blob()
    azure.get_blob_client(bucket, "n/03 empty").upload_blob(b"", standard_blob_tier=StandardBlobTier.COLD)
    azure.get_blob_client(bucket, "n/04 no digest").stage_block("YQ==", b"c")
    azure.get_blob_client(bucket, "n/04 no digest").commit_block_list(["YQ=="])
    for number in range(5, 20 if many else 5):
        azure.get_blob_client(bucket, f"n/{number:02}").upload_blob(b"c", metadata={"n": str(number)})
    names = [blob.name for blob in azure.get_container_client(bucket).list_blobs()]
    looked = [client.head(_ref(bucket, name)) for name in names]
    assert client.head_many([_ref(bucket, name) for name in names]) == looked
    assert client.head_many([_ref(bucket, name) for name in names], tags=False) == [
        replace(state, tags={}) for state in looked
    ]
    assert looked[0].tags == {"a": "1 + 2", "b": "x/y"}
    assert looked[0].metadata == {"Owner": "ann & bob"}
    assert "leased" in (looked[1].lock_reason or "")


def test_snapshots_keep_their_tier_when_the_blob_moves(client: AzureTierClient, azure: Any, bucket: str) -> None:
    seen = client.put_object(_ref(bucket), b"content")
    blob = azure.get_blob_client(bucket, "a.bin")
    snapshot = azure.get_blob_client(bucket, "a.bin", snapshot=blob.create_snapshot()["snapshot"])
    before = snapshot.get_blob_properties()
    (result,) = client.change_tiers([TierChange(seen, "Cold")])
    assert result.outcome is ChangeOutcome.CHANGED
    after = snapshot.get_blob_properties()
    assert (after.blob_tier, after.etag) == (before.blob_tier, before.etag)
    assert len(list(azure.get_container_client(bucket).list_blobs(include=["snapshots"]))) == 2


def test_a_new_content_gets_its_tier_back_when_the_blob_was_overwritten_in_between(
    client: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.put_object(_ref(bucket), b"old", storage_class="Cool")
    overwritten = itertools.count()

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        if next(overwritten) == 0:
            azure.get_blob_client(bucket, "a.bin").upload_blob(b"new", overwrite=True)
        return send()

    _intercept(monkeypatch, azure, answered)
    (result,) = client.change_tiers([TierChange(seen, "Cold", now=seen)])
    assert result.outcome is ChangeOutcome.CONFLICT
    assert "its tier was set back to Cool" in result.detail
    assert client.head(_ref(bucket)).storage_class == "Cool"
    assert client.get_object(_ref(bucket)) == b"new"


def test_nothing_is_set_back_when_the_blob_was_overwritten_after_it_moved(
    client: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.put_object(_ref(bucket), b"old", storage_class="Cool")

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        answer = send()
        azure.get_blob_client(bucket, "a.bin").upload_blob(b"new", overwrite=True)
        return answer

    _intercept(monkeypatch, azure, answered)
    (result,) = client.change_tiers([TierChange(seen, "Hot", now=seen)])
    assert result.outcome is ChangeOutcome.CONFLICT
    assert "its tier is Hot" in result.detail
    assert azure.get_blob_client(bucket, "a.bin").get_blob_properties().blob_tier_inferred


def test_a_leased_move_cannot_be_overwritten_in_between(
    azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = AzureTierClient(azure, lease_moves=True)
    seen = [client.put_object(_ref(bucket, key), b"old") for key in ("a.bin", "b.bin")]
    refused = []

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        for key in ("a.bin", "b.bin"):
            with pytest.raises(HttpResponseError) as error:
                azure.get_blob_client(bucket, key).upload_blob(b"new", overwrite=True)
            refused.append(error.value.error_code)
        return send()

    _intercept(monkeypatch, azure, answered)
    results = client.change_tiers([TierChange(state, "Cool", now=state) for state in seen])
    assert [result.outcome for result in results] == [ChangeOutcome.CHANGED] * 2
    assert refused == ["LeaseIdMissing"] * 2
    for was in seen:
        assert differences(was, client.head(was.ref), "Cool", keeps_etag=True) == ()
        assert client.head(was.ref).lock_reason is None  # given back: it can be overwritten again
        client.put_object(was.ref, b"new")


def test_a_leased_move_is_refused_when_the_blob_was_overwritten_before_its_lease(azure: Any, bucket: str) -> None:
    client = AzureTierClient(azure, lease_moves=True)
    seen = client.put_object(_ref(bucket), b"old")
    newer = client.put_object(_ref(bucket), b"new")
    (result,) = client.change_tiers([TierChange(seen, "Cool", now=seen)])
    assert result.outcome is ChangeOutcome.CONFLICT
    assert client.head(_ref(bucket)) == newer  # no tier had to be set back


def test_a_leased_move_goes_on_under_the_lease_of_a_killed_attempt_and_not_under_anothers(
    azure: Any, bucket: str
) -> None:
    client = AzureTierClient(azure, lease_moves=True)
    ours, theirs = (client.put_object(_ref(bucket, key), b"x") for key in ("ours", "theirs"))
    azure.get_blob_client(bucket, "theirs").acquire_lease()
    assert client._acquire(TierChange(ours, "Cool")) is None
    assert "leased" in (AzureTierClient(azure).head(ours.ref).lock_reason or "")
    looked = AzureTierClient(azure, lease_moves=True).head_many([ours.ref, theirs.ref])
    assert [state.lock_reason for state in looked] == [None, "leased (leased)"]
    assert client._acquire(TierChange(ours, "Cool")) is None
    results = AzureTierClient(azure, lease_moves=True).change_tiers([TierChange(s, "Cool") for s in (ours, theirs)])
    assert [result.outcome for result in results] == [ChangeOutcome.CHANGED, ChangeOutcome.LOCKED]
    assert client.head(_ref(bucket, "ours")).lock_reason is None
    assert client.head(_ref(bucket, "theirs")).storage_class == "Hot"


def test_only_what_was_throttled_is_sent_again(
    patient: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [patient.put_object(_ref(bucket, f"n/{number}"), b"x") for number in range(5)]
    sent: list[int] = []

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        sent.append(bytes(request.data).count(b"PUT /"))
        answer = send()
        if len(sent) == 1:
            content = answer.internal_response.content
            busy = content.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Server Busy", 2)
            answer.internal_response._content = busy
        return answer

    _intercept(monkeypatch, azure, answered)
    results = patient.change_tiers([TierChange(state, "Cool", now=state) for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    assert sent == [5, 2]


def test_only_what_did_not_move_is_sent_again_when_an_answer_was_lost(
    patient: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [patient.put_object(_ref(bucket, f"n/{number}"), b"x") for number in range(5)]
    sent: list[int] = []

    def answered(request: Any, send: Callable[[], Any]) -> Any:
        calls = bytes(request.data).count(b"PUT /")
        sent.append(calls)
        if len(sent) == 1:  # the service gets no further than two blobs
            AzureTierClient(azure).change_tiers([TierChange(state, "Cool") for state in seen[:2]])
            raise ServiceResponseError("the connection broke")
        return send()

    with monkeypatch.context() as patch:
        _intercept(patch, azure, answered)
        results = patient.change_tiers([TierChange(state, "Cool", now=state) for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    assert sent[0] == 5
    assert sent[1:] == [2, 3]  # those two by the other client, then the rest by ours


def _with_key(azure: Any, credential: Any) -> Any:
    return BlobServiceClient(f"{azure.scheme}://{azure.primary_hostname}", credential=credential)


def test_credentials_are_refused_when_the_key_or_the_signature_is_wrong(
    client: AzureTierClient, azure: Any, bucket: str
) -> None:
    seen = [client.put_object(_ref(bucket, f"n/{number}"), b"x") for number in range(10)]
    wrong_key = {"account_name": azure.account_name, "account_key": base64.b64encode(b"wrong").decode()}
    expired = generate_account_sas(
        azure.account_name,
        azure.credential.account_key,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, list=True, tag=True),
        expiry=datetime.now(UTC) - timedelta(hours=1),
        start=datetime.now(UTC) - timedelta(hours=2),
    )
    for credential in (wrong_key, expired):
        with _with_key(azure, credential) as service:
            refused = AzureTierClient(service, sleep=lambda seconds: None)
            for refs in (seen[:1], seen):
                with pytest.raises(CredentialsRefused):
                    refused.head_many([state.ref for state in refs])
            with pytest.raises(CredentialsRefused) as error:
                refused.change_tiers([TierChange(state, "Cool", now=state) for state in seen])
            assert "sig" not in str(error.value)
    assert client.head_many([state.ref for state in seen]) == seen


def test_blobs_move_when_a_signature_gives_access(client: AzureTierClient, azure: Any, bucket: str) -> None:
    seen = [client.put_object(_ref(bucket, f"n/{number} ü"), b"x", tags={"a": "b"}) for number in range(10)]
    # Azurite answers batches under an account's signature with 500
    signature = generate_container_sas(
        azure.account_name,
        bucket,
        azure.credential.account_key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, tag=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    for credential in (signature, AzureSasCredential(signature)):
        with _with_key(azure, credential) as service:
            signed = AzureTierClient(service)
            now = signed.head_many([state.ref for state in seen])
            to_class = "Cold" if credential is signature else "Cool"
            results = signed.change_tiers(
                [TierChange(was, to_class, now=state) for was, state in zip(seen, now, strict=True)]
            )
            assert {(result.outcome, result.detail) for result in results} == {(ChangeOutcome.CHANGED, "")}
            assert client.head(seen[0].ref).storage_class == to_class


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


def test_requests_name_us_when_they_are_sent(
    client: AzureTierClient, azure: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    AzureTierClient(azure)  # a second one on the same service client
    agents = []
    azure.get_blob_client(bucket, "a.bin").upload_blob(
        b"x", raw_request_hook=lambda request: agents.append(request.http_request.headers["User-Agent"])
    )
    assert [agent.count("cloudflux/") for agent in agents] == [1]
    original = azure._pipeline._transport.send

    def send(request: Any, **options: Any) -> Any:
        agents.append(request.headers["User-Agent"])
        return original(request, **options)

    monkeypatch.setattr(azure._pipeline._transport, "send", send)
    client.change_tiers([TierChange(client.head(_ref(bucket)), "Cool")])
    assert [agent.count("cloudflux/") for agent in agents] == [1] * len(agents)
