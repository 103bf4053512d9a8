"""What only Google Cloud Storage has: generations, long rewrites, Autoclass, retention."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage._bucket_metadata_cache import BucketMetadataCache

from cloudflux.domain.errors import CredentialsRefused, ObjectNotFound
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers import gcp_requests
from cloudflux.providers.gcp import GcpTierClient
from cloudflux.providers.workers import Workers

pytestmark = pytest.mark.contract


@pytest.fixture
def client(gcs: Any) -> GcpTierClient:
    return GcpTierClient(gcs)


def _ref(bucket: str, key: str = "a.bin") -> ObjectRef:
    return ObjectRef(Provider.GCP, bucket, key)


def _move(client: GcpTierClient, seen: ObjectState, to_class: str = "NEARLINE") -> TierChangeResult:
    return client.change_tiers([TierChange(seen, to_class)])[0]


def test_the_old_generation_is_gone_when_an_object_of_a_versioned_bucket_moved(
    client: GcpTierClient, gcs: Any, new_bucket: str
) -> None:
    bucket = gcs.bucket(new_bucket)
    bucket.versioning_enabled = True
    gcs.create_bucket(bucket)
    client.put_object(_ref(new_bucket), b"history")
    seen = client.put_object(_ref(new_bucket), b"content")
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    generations = {str(blob.generation) for blob in gcs.list_blobs(new_bucket, versions=True)}
    after = client.head(_ref(new_bucket))
    assert len(generations) == 2  # the history before it stays
    assert after.ref.version_id in generations
    assert seen.ref.version_id not in generations


@pytest.mark.parametrize(("seconds", "days"), [(7 * 86_400, 7), (7 * 86_400 + 1, 8), (0, 0), (None, 0)])
def test_a_buckets_soft_delete_is_read_in_days(
    client: GcpTierClient, gcs: Any, new_bucket: str, seconds: int | None, days: int
) -> None:
    bucket = gcs.bucket(new_bucket)
    if seconds is not None:
        bucket.soft_delete_policy.retention_duration_seconds = seconds
    gcs.create_bucket(bucket)
    assert client.soft_delete_days(new_bucket) == days


def test_nothing_is_asked_of_a_bucket_behind_our_back(
    client: GcpTierClient, gcs: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permissions to collect logs do not allow it: each such request would be a denied one in somebody's audit."""
    asked: list[str] = []
    monkeypatch.setattr(BucketMetadataCache, "_fetch_background", lambda _, bucket: asked.append(bucket))
    client.create_bucket(new_bucket)
    options = {"api_endpoint": gcs._connection.API_BASE_URL}
    with storage.Client(project="test", credentials=AnonymousCredentials(), client_options=options) as other:
        reading = GcpTierClient(other)  # whoever makes a bucket knows all about it
        reading.put_object(_ref(new_bucket), b"content")
        assert reading.get_object(_ref(new_bucket)) == b"content"
        assert b"".join(reading.read_blocks(_ref(new_bucket), 3)) == b"content"
        reading.delete_object(_ref(new_bucket))
        with pytest.raises(ObjectNotFound):
            reading.get_object(_ref(new_bucket))
    assert asked == []


def test_all_metadata_is_kept_when_an_object_moves(client: GcpTierClient, gcs: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    blob = gcs.bucket(new_bucket).blob("a.bin")
    blob.metadata = {"owner": "ann", "päth": "wörld"}
    blob.cache_control = "no-store"
    blob.content_disposition = "inline"
    blob.content_language = "de"
    blob.upload_from_string(b"content", content_type="application/x-thing")
    seen = client.head(_ref(new_bucket))
    assert seen.headers == {"cache-control": "no-store", "content-disposition": "inline", "content-language": "de"}
    assert _move(client, seen, "ARCHIVE").outcome is ChangeOutcome.CHANGED
    assert differences(seen, client.head(_ref(new_bucket)), "ARCHIVE", keeps_etag=False) == ()


def _before_the_rewrite(monkeypatch: pytest.MonkeyPatch, gcs: Any, before: Callable[[], None]) -> None:
    """Run something just before the next batch of rewrites is sent."""
    original = gcs._http.request

    def request(method: str, url: str, data: Any = None, **options: Any) -> Any:
        if "/batch/" in url and b"/rewriteTo/" in data:
            before()
        return original(method, url, data=data, **options)

    monkeypatch.setattr(gcs._http, "request", request)


def test_a_change_of_metadata_alone_between_look_and_rewrite_is_a_conflict(
    client: GcpTierClient, gcs: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", metadata={"a": "1"})

    def change_metadata() -> None:
        blob = gcs.bucket(new_bucket).blob("a.bin")
        blob.metadata = {"a": "2"}
        blob.patch()

    _before_the_rewrite(monkeypatch, gcs, change_metadata)
    assert _move(client, seen).outcome is ChangeOutcome.CONFLICT
    after = client.head(_ref(new_bucket))
    assert (after.metadata, after.storage_class) == ({"a": "2"}, "STANDARD")


def test_nothing_moves_when_the_bucket_has_autoclass(client: GcpTierClient, gcs: Any, new_bucket: str) -> None:
    bucket = gcs.bucket(new_bucket)
    bucket.autoclass_enabled = True
    gcs.create_bucket(bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "Autoclass" in result.detail


def test_a_retained_object_stays(client: GcpTierClient, gcs: Any, new_bucket: str) -> None:
    bucket = gcs.bucket(new_bucket)
    bucket.retention_period = 3600
    gcs.create_bucket(bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    assert "retention until" in (seen.lock_reason or "")
    assert _move(client, seen).outcome is ChangeOutcome.LOCKED


def test_a_hold_set_at_the_last_moment_is_the_objects_own_outcome(
    client: GcpTierClient, gcs: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a hold raises the metageneration: without that condition the service refuses the rewrite as one of a held object
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    original = gcp_requests.rewrite

    def unconditional(*arguments: Any, **options: Any) -> Any:
        call = original(*arguments, **options)
        path, _, query = call.target.partition("?")
        left = "&".join(pair for pair in query.split("&") if "etageneration" not in pair)
        return call._replace(target=f"{path}?{left}")

    monkeypatch.setattr(gcp_requests, "rewrite", unconditional)

    def hold() -> None:
        blob = gcs.bucket(new_bucket).get_blob("a.bin")
        blob.event_based_hold = True
        blob.patch()

    _before_the_rewrite(monkeypatch, gcs, hold)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.LOCKED
    assert "hold" in result.detail


def _versioned(gcs: Any, name: str) -> None:
    bucket = gcs.bucket(name)
    bucket.versioning_enabled = True
    gcs.create_bucket(bucket)


def _generations(gcs: Any, bucket: str) -> set[str]:
    return {str(blob.generation) for blob in gcs.list_blobs(bucket, versions=True)}


@pytest.mark.parametrize("allowed", [False, lambda bucket: False], ids=["nowhere", "not-here"])
def test_nothing_moves_in_a_versioned_bucket_when_its_versions_may_not_be_removed(
    gcs: Any, new_bucket: str, allowed: Any
) -> None:
    client = GcpTierClient(gcs, remove_superseded=allowed)
    _versioned(gcs, new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "remove_superseded_versions" in result.detail
    assert client.head(_ref(new_bucket)) == seen


def test_what_a_killed_attempt_left_behind_is_removed_when_the_change_is_made_again(
    client: GcpTierClient, gcs: Any, new_bucket: str
) -> None:
    _versioned(gcs, new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    killed = gcs.bucket(new_bucket).get_blob("a.bin")
    killed.storage_class = "NEARLINE"
    killed.rewrite(killed)
    assert _generations(gcs, new_bucket) == {seen.ref.version_id, str(killed.generation)}
    (now,) = client.head_many([seen.ref])
    (result,) = client.change_tiers([TierChange(seen, "NEARLINE", now=now)])
    assert (result.outcome, result.detail) == (ChangeOutcome.CHANGED, "already there")
    assert _generations(gcs, new_bucket) == {str(killed.generation)}
    assert client.head(_ref(new_bucket)) == now


def test_many_objects_of_a_versioned_bucket_leave_nothing_behind(
    client: GcpTierClient, gcs: Any, new_bucket: str
) -> None:
    _versioned(gcs, new_bucket)
    keys = [f"n/{number:03}" for number in range(230)]
    seen = Workers(8).map(lambda key: client.put_object(_ref(new_bucket, key), key.encode()), keys)
    results = client.change_tiers([TierChange(state, "COLDLINE", now=state) for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    assert len(list(gcs.list_blobs(new_bucket, versions=True))) == len(keys)


def test_a_state_from_another_process_is_as_good_as_our_own(client: GcpTierClient, gcs: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    client.put_object(_ref(new_bucket), b"content", metadata={"a": "1"})
    seen = GcpTierClient(gcs).head(_ref(new_bucket))
    (result,) = GcpTierClient(gcs).change_tiers([TierChange(seen, "ARCHIVE", now=seen)])
    assert result.outcome is ChangeOutcome.CHANGED
    assert differences(seen, client.head(_ref(new_bucket)), "ARCHIVE", keeps_etag=False) == ()


def test_no_object_is_rewritten_twice_when_answers_are_lost(
    gcs: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = GcpTierClient(gcs, sleep=lambda seconds: None)
    client.create_bucket(new_bucket)
    keys = [f"n/{number:03}" for number in range(450)]
    seen = Workers(8).map(lambda key: client.put_object(_ref(new_bucket, key), b"x"), keys)
    original, answered = gcs._http.request, itertools.count()

    def request(method: str, url: str, data: Any = None, **options: Any) -> Any:
        answer = original(method, url, data=data, **options)
        if "/batch/" in url and b"/rewriteTo/" in data and next(answered) % 2 == 0:
            raise requests.exceptions.ChunkedEncodingError("the connection broke")
        return answer

    monkeypatch.setattr(gcs._http, "request", request)
    results = client.change_tiers([TierChange(state, "NEARLINE", now=state) for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    url = f"{gcs._connection.API_BASE_URL}/_cloudflux/requests"
    served = original("GET", url, params={"operation": "rewrite", "bucket": new_bucket}).json()
    assert served == {"rewrite": {f"{new_bucket}/{key}": 1 for key in keys}}


def test_the_error_says_that_credentials_are_refused_when_they_cannot_be_renewed(gcs: Any, new_bucket: str) -> None:
    from google.auth.exceptions import RefreshError

    class Expired(AnonymousCredentials):
        def before_request(self, *arguments: Any, **options: Any) -> None:
            raise RefreshError("invalid_grant: Token has been expired or revoked.")

    options = {"api_endpoint": gcs._connection.API_BASE_URL}
    expired = storage.Client(project="test", credentials=Expired(), client_options=options)
    client = GcpTierClient(expired)
    seen = GcpTierClient(gcs)
    seen.create_bucket(new_bucket)
    state = seen.put_object(_ref(new_bucket), b"content")
    with pytest.raises(CredentialsRefused):
        client.head_many([state.ref])
    with pytest.raises(CredentialsRefused):
        client.change_tiers([TierChange(state, "NEARLINE", now=state)])
    expired.close()
