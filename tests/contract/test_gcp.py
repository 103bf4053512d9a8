"""What only Google Cloud Storage has: generations, long rewrites, Autoclass, retention."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.storage import Blob

from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.gcp import GcpTierClient

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


def test_a_rewrite_is_continued_until_it_is_done(
    client: GcpTierClient, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    original, tokens = Blob.rewrite, []

    def in_rounds(self: Any, *arguments: Any, token: str | None = None, **options: Any) -> Any:
        tokens.append(token)
        if len(tokens) < 3:
            return f"token-{len(tokens)}", 1, 7
        return original(self, *arguments, **options)

    monkeypatch.setattr(Blob, "rewrite", in_rounds)
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert tokens == [None, "token-1", "token-2"]


def test_a_change_of_metadata_alone_between_look_and_rewrite_is_a_conflict(
    client: GcpTierClient, gcs: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", metadata={"a": "1"})
    original = Blob.rewrite

    def rewrite(self: Any, *arguments: Any, **options: Any) -> Any:
        blob = gcs.bucket(new_bucket).blob("a.bin")
        blob.metadata = {"a": "2"}
        blob.patch()
        return original(self, *arguments, **options)

    monkeypatch.setattr(Blob, "rewrite", rewrite)
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
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    monkeypatch.setattr(client, "_lock_reason", lambda item: None)  # the look came too early to see it
    blob = gcs.bucket(new_bucket).get_blob("a.bin")
    blob.event_based_hold = True
    blob.patch()
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.LOCKED
    assert "hold" in result.detail
