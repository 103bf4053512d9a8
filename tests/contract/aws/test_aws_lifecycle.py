"""Moves by tag and lifecycle rule: S3 changes the class in place, and what others set up in the bucket stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sdk_clients import s3_admin

from cloudflux.domain.errors import BucketNotFound, CredentialsRefused
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_lifecycle import RULE, TAG, LifecycleTierClient

pytestmark = pytest.mark.contract

NOT_OURS: list[dict[str, Any]] = [
    {
        "ID": "logs",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": "logs/", "ObjectSizeGreaterThan": 500}},
        "Transitions": [{"Days": 90, "StorageClass": "GLACIER"}],
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30, "NewerNoncurrentVersions": 3},
    },
    {
        "ID": "uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    },
]


@pytest.fixture
def looker(s3: Any) -> AwsTierClient:
    return AwsTierClient(s3)


@pytest.fixture
def client(s3: Any, looker: AwsTierClient) -> LifecycleTierClient:
    return LifecycleTierClient(s3, looker, clock=lambda: datetime.now(UTC), in_flight=4)


@pytest.fixture
def bucket(s3: Any, looker: AwsTierClient, new_bucket: str) -> str:
    looker.create_bucket(new_bucket)
    s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": "Enabled"})
    return new_bucket


@pytest.fixture
def midnight(s3: Any, bucket: str) -> Callable[[], int]:
    """Let S3 run the rules as on a day to come; gives how many objects changed their class."""

    def run() -> int:
        at = (datetime.now(UTC) + timedelta(days=40)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return int(s3_admin(s3, f"lifecycle?bucket={bucket}&at={at}")["transitioned"])

    return run


def _put(looker: AwsTierClient, bucket: str, key: str = "a.bin", **arguments: Any) -> ObjectState:
    return looker.put_object(ObjectRef(Provider.AWS, bucket, key), b"content", **arguments)


def _move(client: LifecycleTierClient, seen: ObjectState, to_class: str = "GLACIER_IR") -> TierChangeResult:
    """Submit as the workflow does: with the object as it is now."""
    (now,) = client.head_many([seen.ref])
    assert isinstance(now, ObjectState)
    return client.change_tiers([TierChange(seen, to_class, now)])[0]


def _rules(s3: Any, bucket: str) -> list[dict[str, Any]]:
    try:
        return list(s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"])
    except ClientError as exc:
        if exc.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []


def _versions(s3: Any, bucket: str) -> list[str]:
    return [version["VersionId"] for version in s3.list_object_versions(Bucket=bucket).get("Versions", [])]


def _tags(s3: Any, seen: ObjectState) -> dict[str, str]:
    which = {"Bucket": seen.ref.bucket, "Key": seen.ref.key, "VersionId": seen.ref.version_id}
    return {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(**which)["TagSet"]}


def _edit(s3: Any, bucket: str) -> None:
    """Give the object other metadata, by a copy onto itself: the new version inherits the tags."""
    s3.copy_object(
        Bucket=bucket,
        Key="a.bin",
        CopySource={"Bucket": bucket, "Key": "a.bin"},
        MetadataDirective="REPLACE",
        Metadata={"edited": "1"},
    )


@pytest.mark.parametrize("tags", [{}, {"owner": "a", "empty": ""}], ids=["no tags", "tags"])
def test_an_object_is_moved_in_place_and_is_then_what_it_was(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any, *, tags: dict[str, str]
) -> None:
    seen = _put(looker, bucket, tags=tags, metadata={"kept": "1"})
    assert _move(client, seen).outcome is ChangeOutcome.PENDING
    assert _tags(s3, seen) == {**tags, TAG: "GLACIER_IR"}
    assert _move(client, seen).outcome is ChangeOutcome.PENDING
    assert midnight() == 1
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    after = looker.head(seen.ref)
    assert differences(seen, after, "GLACIER_IR", keeps_etag=True) == ()
    assert after.tags == tags
    assert (after.ref, after.etag, after.last_modified_at) == (seen.ref, seen.etag, seen.last_modified_at)
    assert len(_versions(s3, bucket)) == 1
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED


@pytest.mark.parametrize("to_class", ["INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE", "STANDARD_IA", "ONEZONE_IA"])
def test_every_colder_class_can_be_reached(
    looker: AwsTierClient, s3: Any, bucket: str, midnight: Any, to_class: str
) -> None:
    seen = _put(looker, bucket, tags={"a": "1"})
    later = LifecycleTierClient(s3, looker, clock=lambda: datetime.now(UTC) + timedelta(days=31))
    assert _move(later, seen, to_class).outcome is ChangeOutcome.PENDING
    midnight()
    assert _move(later, seen, to_class).outcome is ChangeOutcome.CHANGED
    assert looker.head(seen.ref).tags == {"a": "1"}


def test_the_rules_of_others_stay_word_for_word(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    small = "varies_by_storage_class"
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": NOT_OURS}, TransitionDefaultMinimumObjectSize=small
    )
    for key, to_class in (("a", "GLACIER_IR"), ("b", "DEEP_ARCHIVE")):
        assert _move(client, _put(looker, bucket, key), to_class).outcome is ChangeOutcome.PENDING
    found = s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert found["Rules"][:2] == NOT_OURS
    assert [rule["ID"] for rule in found["Rules"][2:]] == [f"{RULE}GLACIER_IR", f"{RULE}DEEP_ARCHIVE"]
    assert found["TransitionDefaultMinimumObjectSize"] == small
    client.retire(bucket)
    found = s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert found["Rules"] == NOT_OURS
    assert found["TransitionDefaultMinimumObjectSize"] == small


def test_no_configuration_is_left_when_there_was_none(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    client.retire(bucket)
    _move(client, _put(looker, bucket))
    client.retire(bucket)
    assert _rules(s3, bucket) == []
    client.retire(bucket)


def test_our_rule_comes_back_beside_theirs_when_another_writer_replaced_the_configuration(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _put(looker, bucket)
    original, writes = s3.put_bucket_lifecycle_configuration, []

    def overtaken(**arguments: Any) -> Any:
        answer = original(**arguments)
        writes.append(arguments)
        if len(writes) == 1:  # somebody who had read before us writes after us
            original(Bucket=bucket, LifecycleConfiguration={"Rules": NOT_OURS})
        return answer

    monkeypatch.setattr(s3, "put_bucket_lifecycle_configuration", overtaken)
    assert _move(client, seen).outcome is ChangeOutcome.PENDING
    assert [rule["ID"] for rule in _rules(s3, bucket)] == ["logs", "uploads", f"{RULE}GLACIER_IR"]
    original(Bucket=bucket, LifecycleConfiguration={"Rules": NOT_OURS})
    assert _move(client, seen).outcome is ChangeOutcome.PENDING
    assert [rule["ID"] for rule in _rules(s3, bucket)] == ["logs", "uploads", f"{RULE}GLACIER_IR"]


def test_rules_of_the_old_form_are_not_touched(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    old = [{"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 9}}]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": old})
    seen = _put(looker, bucket)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "old form" in result.detail
    client.retire(bucket)
    assert _rules(s3, bucket) == old
    assert _tags(s3, seen) == {}


def test_our_rule_is_mended_when_somebody_changed_it(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = _put(looker, bucket)
    _move(client, seen)
    (ours,) = _rules(s3, bucket)
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [ours | {"Status": "Disabled"}]}
    )
    _move(client, seen)
    assert _rules(s3, bucket) == [ours]


@pytest.mark.parametrize("operation", ["put_bucket_lifecycle_configuration", "put_object_tagging"])
@pytest.mark.parametrize("acted", [True, False], ids=["after it acted", "before it acted"])
def test_a_submission_can_be_repeated_when_it_was_killed(
    client: LifecycleTierClient,
    looker: AwsTierClient,
    s3: Any,
    bucket: str,
    midnight: Any,
    *,
    operation: str,
    acted: bool,
) -> None:
    seen = _put(looker, bucket, tags={"a": "1"})
    original = getattr(s3, operation)

    def killed(**arguments: Any) -> Any:
        if acted:
            original(**arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, operation, killed)
        with pytest.raises(KeyboardInterrupt):
            _move(client, seen)
    assert _move(client, seen).outcome is ChangeOutcome.PENDING
    assert _tags(s3, seen) == {"a": "1", TAG: "GLACIER_IR"}
    assert midnight() == 1
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert looker.head(seen.ref).tags == {"a": "1"}


def test_the_tag_is_taken_off_by_the_next_submission_when_the_last_was_killed_at_it(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    seen = _put(looker, bucket)
    _move(client, seen)
    midnight()

    def killed(**_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "delete_object_tagging", killed)
        with pytest.raises(KeyboardInterrupt):
            _move(client, seen)
    assert TAG in looker.head(seen.ref).tags
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert looker.head(seen.ref).tags == {}


def test_new_content_is_left_alone_when_it_was_written_while_the_move_was_pending(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    seen = _put(looker, bucket, tags={"a": "1"})
    _move(client, seen)
    newer = looker.put_object(seen.ref, b"newer", tags={"b": "2"})
    assert midnight() == 0
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.CONFLICT
    assert _tags(s3, seen) == {"a": "1"}  # the version that we had tagged
    after = looker.head(seen.ref)
    assert (after.storage_class, after.tags, after.ref) == ("STANDARD", {"b": "2"}, newer.ref)
    assert looker.get_object(seen.ref) == b"newer"


def test_our_tag_is_taken_off_a_newer_version_that_inherited_it(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = _put(looker, bucket)
    _move(client, seen)
    _edit(s3, bucket)
    assert looker.head(seen.ref).tags == {TAG: "GLACIER_IR"}
    assert _move(client, seen).outcome is ChangeOutcome.CONFLICT
    assert looker.head(seen.ref).tags == {}
    assert _tags(s3, seen) == {}


def test_the_object_is_not_found_and_its_version_untagged_when_it_was_deleted_meanwhile(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = _put(looker, bucket)
    _move(client, seen)
    s3.delete_object(Bucket=bucket, Key="a.bin")
    assert client.change_tiers([TierChange(seen, "GLACIER_IR")])[0].outcome is ChangeOutcome.NOT_FOUND
    assert _tags(s3, seen) == {}
    s3.delete_object(Bucket=bucket, Key="a.bin", VersionId=seen.ref.version_id)
    assert client.change_tiers([TierChange(seen, "GLACIER_IR")])[0].outcome is ChangeOutcome.NOT_FOUND


@pytest.mark.parametrize(
    ("from_class", "to_class", "reason"),
    [
        ("GLACIER_IR", "STANDARD", "nothing from GLACIER_IR to STANDARD"),
        ("ONEZONE_IA", "GLACIER_IR", "nothing from ONEZONE_IA to GLACIER_IR"),
        ("INTELLIGENT_TIERING", "STANDARD_IA", "nothing from INTELLIGENT_TIERING to STANDARD_IA"),
        ("GLACIER", "GLACIER_IR", "nothing from GLACIER to GLACIER_IR"),
        ("STANDARD", "STANDARD_IA", "before 30 days"),
        ("STANDARD", "ONEZONE_IA", "before 30 days"),
    ],
)
def test_what_rules_cannot_do_is_an_error_that_names_the_setting(
    client: LifecycleTierClient,
    looker: AwsTierClient,
    s3: Any,
    bucket: str,
    *,
    from_class: str,
    to_class: str,
    reason: str,
) -> None:
    seen = _put(looker, bucket, storage_class=from_class)
    result = _move(client, seen, to_class)
    assert result.outcome is ChangeOutcome.ERROR
    assert reason in result.detail
    assert "remove_superseded_versions" in result.detail
    assert _rules(s3, bucket) == []
    assert _tags(s3, seen) == {}


def test_a_class_that_does_not_exist_is_an_error(
    client: LifecycleTierClient, looker: AwsTierClient, bucket: str
) -> None:
    result = _move(client, _put(looker, bucket), "LUKEWARM")
    assert result.outcome is ChangeOutcome.ERROR
    assert "LUKEWARM" in result.detail


def test_an_object_with_ten_tags_has_no_room_for_ours(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    tags = {f"tag-{number}": "x" for number in range(10)}
    seen = _put(looker, bucket, tags=tags)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "10 tags" in result.detail
    assert _tags(s3, seen) == tags


def test_a_tag_written_since_the_look_is_kept(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = _put(looker, bucket)
    s3.put_object_tagging(Bucket=bucket, Key="a.bin", Tagging={"TagSet": [{"Key": "late", "Value": "1"}]})
    assert client.change_tiers([TierChange(seen, "GLACIER_IR", seen)])[0].outcome is ChangeOutcome.PENDING
    assert _tags(s3, seen) == {"late": "1", TAG: "GLACIER_IR"}


def test_an_object_under_legal_hold_is_locked_and_loses_our_tag(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, new_bucket: str
) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    seen = _put(looker, new_bucket)
    _move(client, seen)
    s3.put_object_legal_hold(Bucket=new_bucket, Key="a.bin", LegalHold={"Status": "ON"})
    result = _move(client, seen)
    assert (result.outcome, result.detail) == (ChangeOutcome.LOCKED, "legal hold")
    assert _tags(s3, seen) == {}


def test_our_tag_is_withdrawn_when_moves_are_called_off(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    seen = [_put(looker, bucket, key, tags={"a": "1"}) for key in ("one", "two", "three", "overwritten", "gone")]
    client.change_tiers([TierChange(state, "GLACIER_IR") for state in (*seen[:2], *seen[3:])])
    looker.put_object(seen[3].ref, b"newer")
    s3.delete_object(Bucket=bucket, Key="gone")
    assert client.withdraw([state.ref for state in seen]) == 4
    assert client.withdraw([state.ref for state in seen]) == 0
    assert all(_tags(s3, state) == {"a": "1"} for state in seen)
    assert midnight() == 0


def test_a_current_version_that_inherited_our_tag_loses_it_when_the_move_is_withdrawn(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    seen = _put(looker, bucket)
    _move(client, seen)
    _edit(s3, bucket)
    assert client.withdraw([seen.ref]) == 1
    assert looker.head(seen.ref).tags == {}
    assert midnight() == 0


def test_many_moves_to_several_classes_share_one_configuration(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    classes = ["GLACIER_IR", "GLACIER", "INTELLIGENT_TIERING"]
    seen = [_put(looker, bucket, f"{number:02}") for number in range(12)]
    changes = [TierChange(state, classes[number % 3]) for number, state in enumerate(seen)]
    assert {result.outcome for result in client.change_tiers(changes)} == {ChangeOutcome.PENDING}
    assert len(_rules(s3, bucket)) == 3
    assert midnight() == 12
    results = client.change_tiers(changes)
    assert [result.ref for result in results] == [change.ref for change in changes]
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    for change in changes:
        assert differences(change.seen, looker.head(change.ref), change.to_class, keeps_etag=True) == ()


def _refusing(code: str, status: int) -> Callable[..., Any]:
    def refuse(**_: Any) -> Any:
        response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(response, "Some")

    return refuse


@pytest.mark.parametrize(
    ("operation", "code", "outcome"),
    [
        ("put_bucket_lifecycle_configuration", "AccessDenied", ChangeOutcome.ERROR),
        ("put_bucket_lifecycle_configuration", "SlowDown", ChangeOutcome.UNAVAILABLE),
        ("put_object_tagging", "AccessDenied", ChangeOutcome.ERROR),
        ("put_object_tagging", "SlowDown", ChangeOutcome.UNAVAILABLE),
    ],
)
def test_a_refusal_ends_only_what_it_concerns(
    client: LifecycleTierClient,
    looker: AwsTierClient,
    s3: Any,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    operation: str,
    code: str,
    outcome: ChangeOutcome,
) -> None:
    seen = _put(looker, bucket)
    there = _put(looker, bucket, "there", storage_class="GLACIER_IR")
    monkeypatch.setattr(s3, operation, _refusing(code, 403))
    moved, fine = client.change_tiers([TierChange(seen, "GLACIER_IR"), TierChange(there, "GLACIER_IR")])
    assert (moved.outcome, fine.outcome) == (outcome, ChangeOutcome.CHANGED)
    assert code in moved.detail
    assert operation in moved.detail
    assert looker.head(seen.ref).tags == {}


@pytest.mark.parametrize(("code", "error"), [("ExpiredToken", CredentialsRefused), ("NoSuchBucket", BucketNotFound)])
def test_the_whole_call_ends_when_nothing_more_can_be_done(
    client: LifecycleTierClient,
    looker: AwsTierClient,
    s3: Any,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: str,
    error: type[Exception],
) -> None:
    seen = _put(looker, bucket)
    monkeypatch.setattr(s3, "put_object_tagging", _refusing(code, 400))
    with pytest.raises(error):
        client.change_tiers([TierChange(seen, "GLACIER_IR")])


def test_nothing_is_asked_of_s3_but_tags_and_lifecycle_rules(
    client: LifecycleTierClient, looker: AwsTierClient, s3: Any, bucket: str, midnight: Any
) -> None:
    seen = [_put(looker, bucket, key, tags=tags) for key, tags in (("a", {"a": "1"}), ("b", {}))]
    asked: set[str] = set()
    s3.meta.events.register("before-call.s3", lambda model, **_: asked.add(model.name), unique_id="asked")
    try:
        client.change_tiers([TierChange(state, "GLACIER_IR") for state in seen])
        midnight()
        client.change_tiers([TierChange(state, "GLACIER_IR") for state in seen])
        client.withdraw([state.ref for state in seen])
        client.retire(bucket)
    finally:
        s3.meta.events.unregister("before-call.s3", unique_id="asked")
    assert asked - {"HeadObject"} == {  # that is the plain client's
        "GetBucketLifecycleConfiguration",
        "PutBucketLifecycleConfiguration",
        "DeleteBucketLifecycle",
        "GetObjectTagging",
        "PutObjectTagging",
        "DeleteObjectTagging",
    }
