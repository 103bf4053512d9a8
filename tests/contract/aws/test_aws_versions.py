"""Buckets of S3 with versions: none is left behind to be billed, and none goes that is still needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contract.aws.wire import ACTED, Wire, move, new_client, put_many, ref, refused

from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectState
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_http import Answer

pytestmark = pytest.mark.contract


def _versions(s3: Any, bucket: str) -> list[str]:
    return [version["VersionId"] for version in s3.list_object_versions(Bucket=bucket).get("Versions", [])]


def _set_versioning(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def test_the_error_names_the_setting_when_no_version_may_be_removed(s3: Any, new_bucket: str) -> None:
    client = new_client(s3, remove_superseded=lambda bucket: bucket != new_bucket)
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(ref(new_bucket), b"content")
    result = move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "remove_superseded_versions" in result.detail
    assert "lifecycle" in result.detail
    assert client.head(seen.ref) == seen
    client.close()


def test_a_bucket_without_versions_needs_no_leave_to_remove_them(s3: Any, new_bucket: str) -> None:
    client = new_client(s3, remove_superseded=False)
    client.create_bucket(new_bucket)
    assert move(client, client.put_object(ref(new_bucket), b"content")).outcome is ChangeOutcome.CHANGED
    client.close()


def test_the_object_moves_in_place_when_versioning_is_suspended(s3: Any, new_bucket: str) -> None:
    client = new_client(s3, remove_superseded=False)
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    client.put_object(ref(new_bucket, "old"), b"a version")
    _set_versioning(s3, new_bucket, "Suspended")
    seen = client.put_object(ref(new_bucket), b"content")
    assert seen.ref.version_id is None
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    assert sum(version == "null" for version in _versions(s3, new_bucket)) == 1
    versioned = client.head(ref(new_bucket, "old"))
    assert versioned.ref.version_id is not None
    assert move(client, versioned).outcome is ChangeOutcome.ERROR  # it would leave its version behind
    client.close()


def test_the_null_version_is_removed_when_it_is_superseded(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"from before there were versions")
    _set_versioning(s3, new_bucket, "Enabled")
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    after = client.head(ref(new_bucket))
    assert _versions(s3, new_bucket) == [after.ref.version_id]
    assert after.storage_class == "STANDARD_IA"


def test_a_version_that_a_killed_attempt_left_is_removed(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    client.put_object(ref(new_bucket), b"history")
    seen = client.put_object(ref(new_bucket), b"content")
    wire.fail("DELETE", "", *[refused(503, "SlowDown")] * 3)
    first = move(client, seen)
    assert first.outcome is ChangeOutcome.UNAVAILABLE
    assert str(seen.ref.version_id) in first.detail
    assert len(_versions(s3, new_bucket)) == 3
    (now,) = client.head_many([seen.ref])
    assert isinstance(now, ObjectState)
    again = client.change_tiers([TierChange(seen, "STANDARD_IA", now=now)])[0]
    assert (again.outcome, again.detail) == (ChangeOutcome.CHANGED, "already there")
    assert wire.count("PUT") == 1
    assert len(_versions(s3, new_bucket)) == 2
    assert seen.ref.version_id not in _versions(s3, new_bucket)
    assert client.get_object(seen.ref) == b"content"


def test_an_older_version_is_kept_when_it_is_not_what_was_seen(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(ref(new_bucket), b"content", storage_class="STANDARD_IA")
    client.put_object(ref(new_bucket), b"content", storage_class="STANDARD_IA")  # by its owner
    assert move(client, seen).detail == "already there"
    assert len(_versions(s3, new_bucket)) == 2


def test_the_superseded_version_is_removed_when_the_copys_answer_was_lost(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(ref(new_bucket), b"content")
    wire.fail("PUT", "", ACTED)
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    assert _versions(s3, new_bucket) == [client.head(seen.ref).ref.version_id]


def test_versions_are_noticed_when_they_are_turned_on_meanwhile(
    client: AwsTierClient, s3: Any, new_bucket: str
) -> None:
    first, second = put_many(client, new_bucket, 2)
    assert move(client, first).outcome is ChangeOutcome.CHANGED
    _set_versioning(s3, new_bucket, "Enabled")
    assert move(client, second).outcome is ChangeOutcome.CHANGED
    assert len(_versions(s3, new_bucket)) == 2


def test_objects_stay_when_every_new_version_is_locked(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    seen = client.put_object(ref(new_bucket), b"content")
    # moto takes a default retention for empty buckets only, and then every object is locked from its beginning
    rule = b"<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>"
    lock = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>%b</ObjectLockConfiguration>" % rule
    wire.fail("GET", "object-lock", Answer(200, {}, lock))
    result = move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "retention" in result.detail
    assert client.head(seen.ref) == seen


@pytest.mark.parametrize(("days", "outcome"), [(-1, ChangeOutcome.CHANGED), (1, ChangeOutcome.LOCKED)])
def test_only_a_running_retention_keeps_an_object(
    client: AwsTierClient, s3: Any, new_bucket: str, days: int, outcome: ChangeOutcome
) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    client.put_object(ref(new_bucket), b"content")
    until = datetime.now(UTC) + timedelta(days=days)
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    s3.put_object_retention(Bucket=new_bucket, Key="a.bin", Retention=retention)
    (seen,) = client.head_many([ref(new_bucket)])
    assert isinstance(seen, ObjectState)
    assert (seen.lock_reason is None) == (days < 0)
    assert client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])[0].outcome is outcome
