"""Moves by jobs of S3 Batch Operations: one job whatever is repeated, and only for what a job can carry."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from contract.aws.batch.jobs import (
    ACCOUNT,
    Counted,
    changes_of,
    files_of,
    jobs_made,
    outcomes_of,
    put,
    settled,
)

from cloudflux.domain.errors import CredentialsRefused
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient

pytestmark = pytest.mark.contract


def test_a_job_moves_objects_as_they_are(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = put(looker, bucket)
    client = new_client()
    assert set(outcomes_of(client.change_tiers(changes_of(seen)))) <= {ChangeOutcome.PENDING, ChangeOutcome.CHANGED}
    results = settled(client, changes_of(seen))
    assert set(outcomes_of(results)) == {ChangeOutcome.CHANGED}
    for before in seen:
        assert differences(before, looker.head(before.ref), "GLACIER_IR", keeps_etag=False) == ()
        assert looker.get_object(before.ref) == before.ref.key.encode()
    assert control.calls.count("create_job") == 1
    job_id = s3.get_object(Bucket=f"{bucket}-jobs", Key=files_of(s3, bucket, ".job")[0])["Body"].read().decode()
    assert {result.request_id for result in results} == {job_id}


def test_the_request_says_what_the_service_is_to_do(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str, held: Any
) -> None:
    seen = put(looker, bucket)
    new_client().change_tiers(changes_of(seen))
    (manifest,) = [key for key in files_of(s3, bucket, ".csv") if "/reports/" not in key]
    (described,) = files_of(s3, bucket, ".json")
    request = json.loads(s3.get_object(Bucket=f"{bucket}-jobs", Key=described)["Body"].read())["request"]
    copy = request["Operation"]["S3PutObjectCopy"]
    assert copy.pop("UnModifiedSinceConstraint") == max(state.last_modified_at for state in seen).isoformat()
    assert copy == {
        "TargetResource": f"arn:aws:s3:::{bucket}",
        "StorageClass": "GLACIER_IR",
        "MetadataDirective": "COPY",
    }
    assert request["ConfirmationRequired"] is False
    assert request["Report"]["ReportScope"] == "AllTasks"
    assert request["Manifest"]["Location"]["ObjectArn"] == f"arn:aws:s3:::{bucket}-jobs/{manifest}"
    rows = list(csv.reader(io.StringIO(s3.get_object(Bucket=f"{bucket}-jobs", Key=manifest)["Body"].read().decode())))
    assert sorted(row[:2] for row in rows) == sorted(
        [
            [bucket, "a.bin"],
            [bucket, "dir/with%20space%2Bplus.bin"],
            [bucket, "dir/%C3%BCn%C3%AFcode%2Ccomma%22quote.bin"],
            [bucket, "dir/percent%2520.bin"],
            [bucket, "dir/percent%20.bin"],
        ]
    )


def test_a_pending_job_is_told_with_its_progress(
    new_client: Any, looker: AwsTierClient, bucket: str, held: Any
) -> None:
    changes = changes_of(put(looker, bucket))
    client = new_client()
    first = client.change_tiers(changes)
    assert set(outcomes_of(first)) == {ChangeOutcome.PENDING}
    assert "is ready: 0 of" in first[0].detail
    assert client.change_tiers(changes) == first
    held()
    assert set(outcomes_of(settled(client, changes))) == {ChangeOutcome.CHANGED}


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4], ids=["manifest", "description", "job", "its id"])
@pytest.mark.parametrize("acted", [True, False], ids=["after it acted", "before it acted"])
def test_there_is_one_job_whenever_the_first_attempt_was_killed(
    new_client: Any,
    control: Counted,
    looker: AwsTierClient,
    s3: Any,
    bucket: str,
    *,
    killed_at: int,
    acted: bool,
) -> None:
    changes = changes_of(put(looker, bucket))
    steps = 0

    def kill(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == killed_at and not acted:
                raise KeyboardInterrupt
            answer = original(**arguments)
            if steps == killed_at:
                raise KeyboardInterrupt
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "put_object", kill(s3.put_object))
        control.failing["create_job"] = kill(control._client.create_job)
        with pytest.raises(KeyboardInterrupt):
            new_client().change_tiers(changes)
    control.failing.clear()
    assert set(outcomes_of(settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert jobs_made(control, bucket) == 1


def test_the_same_job_answers_when_only_some_of_its_objects_are_submitted_again(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, held: Any
) -> None:
    changes = changes_of(put(looker, bucket))
    new_client().change_tiers(changes)
    assert set(outcomes_of(new_client().change_tiers(changes[1:3]))) == {ChangeOutcome.PENDING}
    held()
    assert outcomes_of(settled(new_client(), changes[2:])) == [ChangeOutcome.CHANGED] * 3
    assert outcomes_of(settled(new_client(), changes[:1])) == [ChangeOutcome.CHANGED]
    assert jobs_made(control, bucket) == 1


def test_more_objects_get_a_job_of_their_own(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    changes = changes_of(put(looker, bucket))
    new_client().change_tiers(changes[:2])
    assert set(outcomes_of(settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert jobs_made(control, bucket) == 2


def test_a_job_is_found_by_its_token_when_its_id_was_never_written_down(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = changes_of(put(looker, bucket))
    new_client().change_tiers(changes)
    (job_key,) = files_of(s3, bucket, ".job")
    s3.delete_object(Bucket=f"{bucket}-jobs", Key=job_key)  # as if the attempt had been killed just before
    assert set(outcomes_of(new_client().change_tiers(changes[:2]))) == {ChangeOutcome.PENDING}
    held()
    assert set(outcomes_of(settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert control.calls.count("create_job") == 1


def _refusing(code: str, status: int) -> Callable[..., Any]:
    def refuse(**_: Any) -> Any:
        response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(response, "Some")

    return refuse


def test_nothing_moves_and_the_reason_is_told_when_jobs_are_denied(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    seen = put(looker, bucket)
    control.failing["create_job"] = _refusing("AccessDenied", 403)
    results = new_client().change_tiers(changes_of(seen))
    assert set(outcomes_of(results)) == {ChangeOutcome.ERROR}
    assert "AccessDenied" in results[0].detail
    assert all(looker.head(state.ref).storage_class == "STANDARD" for state in seen)


@pytest.mark.parametrize("acted", [True, False], ids=["after it acted", "before it acted"])
def test_the_same_job_is_asked_for_again_when_the_answer_was_lost(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, *, acted: bool
) -> None:
    changes = changes_of(put(looker, bucket))

    def lost(**arguments: Any) -> Any:
        if acted:
            control._client.create_job(**arguments)
        raise EndpointConnectionError(endpoint_url="http://s3-control")

    control.failing["create_job"] = lost
    assert set(outcomes_of(new_client().change_tiers(changes))) == {ChangeOutcome.UNAVAILABLE}
    control.failing.clear()
    assert set(outcomes_of(settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert jobs_made(control, bucket) == 1


@pytest.mark.parametrize("operation", ["create_job", "describe_job"])
def test_objects_wait_when_the_service_is_busy(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, *, operation: str
) -> None:
    changes = changes_of(put(looker, bucket))
    control.failing[operation] = _refusing("TooManyRequestsException", 400)
    assert set(outcomes_of(new_client().change_tiers(changes))) == {ChangeOutcome.UNAVAILABLE}
    control.failing.clear()
    assert set(outcomes_of(settled(new_client(), changes))) == {ChangeOutcome.CHANGED}


def test_the_whole_call_ends_when_our_credentials_have_expired(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    control.failing["create_job"] = _refusing("ExpiredToken", 400)
    with pytest.raises(CredentialsRefused):
        new_client().change_tiers(changes_of(put(looker, bucket)))


class Recorder:
    """A plain client that tells what it was given to move."""

    def __init__(self, client: AwsTierClient) -> None:
        self._client = client
        self.moved: list[str] = []

    @property
    def capabilities(self) -> Any:
        return self._client.capabilities

    def head_many(self, refs: Any, *, tags: bool = True) -> Any:
        return self._client.head_many(refs, tags=tags)

    def change_tiers(self, changes: Any) -> Any:
        self.moved += [change.ref.key for change in changes]
        return self._client.change_tiers(changes)


def test_the_plain_client_moves_what_a_job_cannot(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/11111111-1111-4111-8111-111111111111"
    put(looker, bucket, ("by job", "archived"))
    s3.put_object(Bucket=bucket, Key="kms", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    s3.put_object(Bucket=bucket, Key="redirect", Body=b"x", WebsiteRedirectLocation="/elsewhere")
    s3.put_object(Bucket=bucket, Key="archived", Body=b"x", StorageClass="GLACIER")
    s3.put_object(Bucket=bucket, Key="there", Body=b"x", StorageClass="GLACIER_IR")
    keys = ["by job", "kms", "redirect", "archived", "there"]
    seen = [looker.head(ObjectRef(Provider.AWS, bucket, name)) for name in keys]
    plain = Recorder(looker)
    results = settled(new_client(looker=plain), changes_of(seen))
    assert set(plain.moved) == {"kms", "redirect", "archived", "there"}
    assert outcomes_of(results) == [
        ChangeOutcome.CHANGED,
        ChangeOutcome.CHANGED,
        ChangeOutcome.CHANGED,
        ChangeOutcome.ERROR,
        ChangeOutcome.CHANGED,
    ]
    assert "restore" in results[3].detail
    assert looker.head(seen[1].ref).headers == seen[1].headers
    assert control.calls.count("create_job") == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"write_once": False},
        {"from_objects": 3},
        {"clock": lambda: datetime.now(UTC)},
    ],
    ids=["may be overwritten", "too few", "just written"],
)
def test_the_plain_client_moves_all_when_no_job_may_be_made(
    s3: Any, control: Counted, looker: AwsTierClient, bucket: str, *, settings: dict[str, Any]
) -> None:
    seen = put(looker, bucket, ("one", "two"))
    client = BatchOperationsTierClient(
        s3,
        control,
        looker,
        account_id=ACCOUNT,
        role_arn="arn:aws:iam::123456789012:role/jobs",
        manifest_bucket=f"{bucket}-jobs",
        manifest_prefix="plans/one",
        **{
            "clock": lambda: datetime.now(UTC) + timedelta(hours=2),
            "write_once": True,
            "from_objects": 1,
            **settings,
        },
    )
    assert set(outcomes_of(client.change_tiers(changes_of(seen)))) == {ChangeOutcome.CHANGED}
    assert control.calls == []


def test_no_job_is_made_in_a_bucket_with_versions_or_acls_or_object_lock_that_it_must_not_touch(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    seen = put(looker, versioned, ("versions",))
    new_client(remove_superseded=False, looker=Recorder(looker)).change_tiers(changes_of(seen))
    s3.create_bucket(Bucket=f"{versioned}-acls", ObjectOwnership="ObjectWriter")
    s3.create_bucket(Bucket=f"{versioned}-lock", ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    for name in ("acls", "lock"):
        plain = Recorder(looker)
        new_client(looker=plain).change_tiers(changes_of(put(looker, f"{versioned}-{name}", (name,))))
        assert plain.moved == [name]
    assert control.calls == []


def test_each_bucket_and_class_has_its_own_job(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    other = f"{bucket}-other"
    looker.create_bucket(other)
    changes = [
        *changes_of(put(looker, bucket, ("a", "b")), "GLACIER_IR"),
        *changes_of(put(looker, bucket, ("c", "d")), "STANDARD_IA"),
        *changes_of(put(looker, other, ("a",)), "GLACIER_IR"),
        *changes_of(put(looker, other, ("b",)), "LUKEWARM"),
    ]
    results = settled(new_client(), changes)
    assert outcomes_of(results) == [*[ChangeOutcome.CHANGED] * 5, ChangeOutcome.ERROR]
    assert len({result.request_id for result in results[:5]}) == 3
    assert [looker.head(change.ref).storage_class for change in changes[:5]] == [
        change.to_class for change in changes[:5]
    ]


def test_a_submission_of_hundreds_asks_for_no_object_by_itself(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    keys = [f"{number:04}" for number in range(400)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    seen = looker.head_many([ObjectRef(Provider.AWS, bucket, key) for key in keys])
    changes = [TierChange(state, "GLACIER_IR", state) for state in seen if isinstance(state, ObjectState)]
    sent: list[str] = []
    s3.meta.events.register("before-send.s3", lambda request, **_: sent.append(request.url), unique_id="count")
    try:
        client = new_client()
        results = client.change_tiers(changes)
        requests = len(sent)
        results = settled(client, changes)
    finally:
        s3.meta.events.unregister("before-send.s3", unique_id="count")
    assert len(results) == 400
    assert set(outcomes_of(results)) == {ChangeOutcome.CHANGED}
    assert requests < 15
    assert control.calls.count("create_job") == 1


def test_nothing_is_asked_of_s3_but_what_is_written_down(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    seen = put(looker, versioned)
    asked: set[tuple[str, str]] = set()

    def note(model: Any, context: Any, **_: Any) -> None:
        bucket = context["input_params"]["Bucket"]
        asked.add((model.name, "jobs" if bucket.endswith("-jobs") else "data"))

    s3.meta.events.register("before-call.s3", note, unique_id="asked")
    try:
        settled(new_client(), changes_of(seen))
    finally:
        s3.meta.events.unregister("before-call.s3", unique_id="asked")
    assert asked - {("HeadObject", "data")} == {  # that is the plain client's
        ("ListObjectsV2", "jobs"),
        ("GetObject", "jobs"),
        ("PutObject", "jobs"),
        ("GetBucketVersioning", "data"),
        ("GetBucketOwnershipControls", "data"),
        ("GetBucketEncryption", "data"),
        ("GetObjectLockConfiguration", "data"),
        ("ListObjectVersions", "data"),
    }
    assert set(control.calls) == {"create_job", "describe_job"}


def test_every_object_knows_the_size_of_its_job_also_for_a_process_that_did_not_make_it(
    new_client: Callable[..., BatchOperationsTierClient], looker: AwsTierClient, bucket: str
) -> None:
    seen = put(looker, bucket)
    changes = [*changes_of(seen[:3]), *changes_of(seen[3:], "STANDARD_IA")]
    settled(new_client(), changes)
    in_none = changes_of(seen[3:]) + changes_of(put(looker, bucket, ["left-alone.bin"]))
    assert new_client().job_sizes(changes + in_none) == [3, 3, 3, 2, 2, 0, 0, 0]
