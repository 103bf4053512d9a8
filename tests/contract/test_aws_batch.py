"""Moves by jobs of S3 Batch Operations: one job whatever is repeated, an outcome for each object, nothing lost."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from sdk_clients import s3_admin, s3_control_client

from cloudflux.domain.errors import CredentialsRefused
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient

pytestmark = pytest.mark.contract

ACCOUNT = "123456789012"
KEYS = ("a.bin", "dir/with space+plus.bin", 'dir/ünïcode,comma"quote.bin', "dir/percent%20.bin", "dir/percent .bin")


class Counted:
    """A boto3 client whose calls are counted, and can be made to fail."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[str] = []
        self.failing: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute) or name == "get_paginator":
            return attribute

        def call(**arguments: Any) -> Any:
            self.calls.append(name)
            return self.failing.get(name, attribute)(**arguments)

        return call


@pytest.fixture
def looker(s3: Any) -> AwsTierClient:
    return AwsTierClient(s3)


@pytest.fixture
def control(s3: Any) -> Iterator[Counted]:
    client = s3_control_client(s3.meta.endpoint_url)
    yield Counted(client)
    client.close()


@pytest.fixture
def bucket(looker: AwsTierClient, new_bucket: str) -> str:
    looker.create_bucket(new_bucket)
    looker.create_bucket(f"{new_bucket}-jobs")
    return new_bucket


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def held(s3: Any) -> Iterator[Callable[[], object]]:
    """Keep jobs from running until it is called."""
    s3_admin(s3, "jobs?hold=true")
    try:
        yield partial(s3_admin, s3, "jobs?hold=false")
    finally:
        s3_admin(s3, "jobs?hold=false")


@pytest.fixture
def new_client(
    s3: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> Callable[..., BatchOperationsTierClient]:
    """Make a client as a new process would have it, two hours after the objects were written."""

    def make(**settings: Any) -> BatchOperationsTierClient:
        return BatchOperationsTierClient(
            s3,
            control,
            settings.pop("looker", looker),
            account_id=ACCOUNT,
            role_arn=f"arn:aws:iam::{ACCOUNT}:role/jobs",
            manifest_bucket=f"{bucket}-jobs",
            manifest_prefix="plans/one",
            clock=lambda: datetime.now(UTC) + timedelta(hours=2),
            **{"write_once": True, "remove_superseded": True, "from_objects": 1, **settings},
        )

    return make


def _put(looker: AwsTierClient, bucket: str, keys: Sequence[str] = KEYS, **arguments: Any) -> list[ObjectState]:
    settings = {"tags": {"a": "1"}, "metadata": {"kept": "1"}, "content_type": "text/x-thing", **arguments}
    return [looker.put_object(ObjectRef(Provider.AWS, bucket, key), key.encode(), **settings) for key in keys]


def _changes(seen: Sequence[ObjectState], to_class: str = "GLACIER_IR") -> list[TierChange]:
    return [TierChange(state, to_class) for state in seen]


def _settled(client: BatchOperationsTierClient, changes: Sequence[TierChange]) -> list[TierChangeResult]:
    """Submit until nothing is pending any more, as the workflow does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        results = client.change_tiers(changes)
        if not {result.outcome for result in results} & {ChangeOutcome.PENDING, ChangeOutcome.UNAVAILABLE}:
            assert [result.ref for result in results] == [change.ref for change in changes]
            return results
    raise AssertionError(f"still pending: {results[0]}")


def _outcomes(results: Sequence[TierChangeResult]) -> list[ChangeOutcome]:
    return [result.outcome for result in results]


def _files(s3: Any, bucket: str, suffix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket=f"{bucket}-jobs").get("Contents", [])
    return [item["Key"] for item in found if item["Key"].endswith(suffix)]


def _versions(s3: Any, bucket: str, key: str) -> list[str]:
    found = s3.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", [])
    return [version["VersionId"] for version in found if version["Key"] == key]


def _overwrite(looker: AwsTierClient, seen: ObjectState, body: bytes = b"newer", **arguments: Any) -> ObjectState:
    """Write over an object in a later second than it was written: HTTP dates have no finer grain."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        written = looker.put_object(seen.ref, body, **arguments)
        if written.last_modified_at > seen.last_modified_at:
            return written
    raise AssertionError("the clock stands still")


def test_a_job_moves_objects_as_they_are(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    seen = _put(looker, bucket)
    client = new_client()
    assert set(_outcomes(client.change_tiers(_changes(seen)))) <= {ChangeOutcome.PENDING, ChangeOutcome.CHANGED}
    results = _settled(client, _changes(seen))
    assert set(_outcomes(results)) == {ChangeOutcome.CHANGED}
    for before in seen:
        assert differences(before, looker.head(before.ref), "GLACIER_IR", keeps_etag=False) == ()
        assert looker.get_object(before.ref) == before.ref.key.encode()
    assert control.calls.count("create_job") == 1
    job_id = s3.get_object(Bucket=f"{bucket}-jobs", Key=_files(s3, bucket, ".job")[0])["Body"].read().decode()
    assert {result.request_id for result in results} == {job_id}


def test_the_request_says_what_the_service_is_to_do(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str, held: Any
) -> None:
    seen = _put(looker, bucket)
    new_client().change_tiers(_changes(seen))
    (manifest,) = [key for key in _files(s3, bucket, ".csv") if "/reports/" not in key]
    (described,) = _files(s3, bucket, ".json")
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
    changes = _changes(_put(looker, bucket))
    client = new_client()
    first = client.change_tiers(changes)
    assert set(_outcomes(first)) == {ChangeOutcome.PENDING}
    assert "is ready: 0 of" in first[0].detail
    assert client.change_tiers(changes) == first
    held()
    assert set(_outcomes(_settled(client, changes))) == {ChangeOutcome.CHANGED}


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
    changes = _changes(_put(looker, bucket))
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
    assert set(_outcomes(_settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert _jobs(control, bucket) == 1


def _jobs(control: Counted, bucket: str) -> int:
    """Count the jobs that the service knows for a bucket."""
    jobs = control._client.list_jobs(AccountId=ACCOUNT, MaxResults=1000)["Jobs"]
    return sum(f" of {bucket} to " in job.get("Description", "") for job in jobs)


def test_the_same_job_answers_when_only_some_of_its_objects_are_submitted_again(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, held: Any
) -> None:
    changes = _changes(_put(looker, bucket))
    new_client().change_tiers(changes)
    assert set(_outcomes(new_client().change_tiers(changes[1:3]))) == {ChangeOutcome.PENDING}
    held()
    assert _outcomes(_settled(new_client(), changes[2:])) == [ChangeOutcome.CHANGED] * 3
    assert _outcomes(_settled(new_client(), changes[:1])) == [ChangeOutcome.CHANGED]
    assert _jobs(control, bucket) == 1


def test_more_objects_get_a_job_of_their_own(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    changes = _changes(_put(looker, bucket))
    new_client().change_tiers(changes[:2])
    assert set(_outcomes(_settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert _jobs(control, bucket) == 2


def test_a_job_is_found_by_its_token_when_its_id_was_never_written_down(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = _changes(_put(looker, bucket))
    new_client().change_tiers(changes)
    (job_key,) = _files(s3, bucket, ".job")
    s3.delete_object(Bucket=f"{bucket}-jobs", Key=job_key)  # as if the attempt had been killed just before
    assert set(_outcomes(new_client().change_tiers(changes[:2]))) == {ChangeOutcome.PENDING}
    held()
    assert set(_outcomes(_settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert control.calls.count("create_job") == 1


@pytest.mark.parametrize("where", ["bucket", "versioned"])
def test_new_content_is_kept_when_it_was_written_before_the_job_ran(
    new_client: Any, looker: AwsTierClient, s3: Any, held: Any, request: pytest.FixtureRequest, *, where: str
) -> None:
    name = request.getfixturevalue(where)
    seen = _put(looker, name)
    changes = _changes(seen)
    client = new_client()
    client.change_tiers(changes)
    written = _overwrite(looker, max(seen, key=lambda state: state.last_modified_at))
    held()
    outcomes = dict(zip([state.ref.key for state in seen], _settled(client, changes), strict=True))
    assert outcomes.pop(written.ref.key).outcome is ChangeOutcome.CONFLICT
    assert set(_outcomes(list(outcomes.values()))) == {ChangeOutcome.CHANGED}
    after = looker.head(written.ref)
    assert (after.storage_class, after.etag, after.ref) == ("STANDARD", written.etag, written.ref)
    assert looker.get_object(written.ref) == b"newer"


def test_every_object_gets_its_own_outcome_when_a_job_fails_in_part(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str, held: Any
) -> None:
    seen = _put(looker, bucket, ("fine", "gone", "moved before", "overwritten"))
    changes = _changes(seen)
    client = new_client()
    client.change_tiers(changes)
    _overwrite(looker, seen[3])
    s3.delete_object(Bucket=bucket, Key="gone")
    # somebody (a retry of the service itself, say) moved it before: for the job it is modified since
    s3.copy_object(
        Bucket=bucket,
        Key="moved before",
        CopySource={"Bucket": bucket, "Key": "moved before"},
        StorageClass="GLACIER_IR",
    )
    held()
    results = _settled(client, changes)
    assert _outcomes(results) == [
        ChangeOutcome.CHANGED,
        ChangeOutcome.NOT_FOUND,
        ChangeOutcome.CHANGED,
        ChangeOutcome.CONFLICT,
    ]
    assert "PreconditionFailed 412" in results[3].detail


def test_the_reports_message_is_told_when_a_task_failed_for_no_fault_of_the_object(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    changes = _changes(_put(looker, bucket, ("one", "two")))
    client = new_client()
    _settled_job_id(client, changes)
    (manifest,) = [key for key in _files(s3, bucket, "manifest.json") if "/reports/" in key]
    report = json.loads(s3.get_object(Bucket=f"{bucket}-jobs", Key=manifest)["Body"].read())
    row = f'{bucket},two,,failed,AccessDenied,403,"the role may not, ""says S3"""\n'
    s3.put_object(
        Bucket=f"{bucket}-jobs", Key=report["Results"][0]["Key"], Body=f"{bucket},one,,succeeded,200,,\n{row}"
    )
    s3.copy_object(Bucket=bucket, Key="two", CopySource={"Bucket": bucket, "Key": "two"}, StorageClass="STANDARD")
    one, two = client.change_tiers(changes)
    assert one.outcome is ChangeOutcome.CHANGED
    assert (two.outcome, two.detail) == (ChangeOutcome.ERROR, 'AccessDenied 403 the role may not, "says S3"')


def _settled_job_id(client: BatchOperationsTierClient, changes: Sequence[TierChange]) -> str:
    return str(_settled(client, changes)[0].request_id)


def test_the_reasons_are_told_when_the_job_failed(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = _changes(_put(looker, bucket))
    client = new_client()
    job_id = client.change_tiers(changes)[0].request_id
    (manifest,) = [key for key in _files(s3, bucket, ".csv") if "/reports/" not in key]
    content = s3.get_object(Bucket=f"{bucket}-jobs", Key=manifest)["Body"].read()
    s3.put_object(Bucket=f"{bucket}-jobs", Key=manifest, Body=content.splitlines(keepends=True)[0])
    results = client.change_tiers(changes)
    assert set(_outcomes(results)) == {ChangeOutcome.ERROR}
    assert "not as it was written" in results[0].detail
    held()
    deadline = time.monotonic() + 30
    while control.describe_job(AccountId=ACCOUNT, JobId=job_id)["Job"]["Status"] != "Failed":
        assert time.monotonic() < deadline
    s3.put_object(Bucket=f"{bucket}-jobs", Key=manifest, Body=content)
    results = client.change_tiers(changes)
    assert set(_outcomes(results)) == {ChangeOutcome.ERROR}
    assert f"job {job_id} is failed: the manifest" in results[0].detail
    assert _jobs(control, bucket) == 1


def test_what_a_cancelled_job_had_moved_counts(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = _changes(_put(looker, bucket, ("moved", "not moved")))
    client = new_client()
    job_id = client.change_tiers(changes)[0].request_id
    s3.copy_object(Bucket=bucket, Key="moved", CopySource={"Bucket": bucket, "Key": "moved"}, StorageClass="GLACIER_IR")
    control.update_job_status(AccountId=ACCOUNT, JobId=job_id, RequestedJobStatus="Cancelled")
    moved, left = _settled(client, changes)
    assert moved.outcome is ChangeOutcome.CHANGED
    assert (left.outcome, left.detail) == (ChangeOutcome.ERROR, f"job {job_id} is cancelled")


def _refusing(code: str, status: int) -> Callable[..., Any]:
    def refuse(**_: Any) -> Any:
        response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(response, "Some")

    return refuse


def test_nothing_moves_and_the_reason_is_told_when_jobs_are_denied(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    seen = _put(looker, bucket)
    control.failing["create_job"] = _refusing("AccessDenied", 403)
    results = new_client().change_tiers(_changes(seen))
    assert set(_outcomes(results)) == {ChangeOutcome.ERROR}
    assert "AccessDenied" in results[0].detail
    assert all(looker.head(state.ref).storage_class == "STANDARD" for state in seen)


@pytest.mark.parametrize("acted", [True, False], ids=["after it acted", "before it acted"])
def test_the_same_job_is_asked_for_again_when_the_answer_was_lost(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, *, acted: bool
) -> None:
    changes = _changes(_put(looker, bucket))

    def lost(**arguments: Any) -> Any:
        if acted:
            control._client.create_job(**arguments)
        raise EndpointConnectionError(endpoint_url="http://s3-control")

    control.failing["create_job"] = lost
    assert set(_outcomes(new_client().change_tiers(changes))) == {ChangeOutcome.UNAVAILABLE}
    control.failing.clear()
    assert set(_outcomes(_settled(new_client(), changes))) == {ChangeOutcome.CHANGED}
    assert _jobs(control, bucket) == 1


@pytest.mark.parametrize("operation", ["create_job", "describe_job"])
def test_objects_wait_when_the_service_is_busy(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str, *, operation: str
) -> None:
    changes = _changes(_put(looker, bucket))
    control.failing[operation] = _refusing("TooManyRequestsException", 400)
    assert set(_outcomes(new_client().change_tiers(changes))) == {ChangeOutcome.UNAVAILABLE}
    control.failing.clear()
    assert set(_outcomes(_settled(new_client(), changes))) == {ChangeOutcome.CHANGED}


def test_the_whole_call_ends_when_our_credentials_have_expired(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    control.failing["create_job"] = _refusing("ExpiredToken", 400)
    with pytest.raises(CredentialsRefused):
        new_client().change_tiers(_changes(_put(looker, bucket)))


def test_the_superseded_version_goes_and_history_stays_in_a_bucket_with_versions(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    _put(looker, versioned, ("a", "ab"))
    seen = _put(looker, versioned, ("a", "ab"))
    before = {state.ref.key: _versions(s3, versioned, state.ref.key) for state in seen}
    client = new_client()
    assert set(_outcomes(_settled(client, _changes(seen)))) == {ChangeOutcome.CHANGED}
    for state in seen:
        after = looker.head(state.ref)
        assert differences(state, after, "GLACIER_IR", keeps_etag=False) == ()
        assert _versions(s3, versioned, state.ref.key) == [after.ref.version_id, before[state.ref.key][1]]
    assert set(_outcomes(client.change_tiers(_changes(seen)))) == {ChangeOutcome.CHANGED}


def _copy_version(s3: Any, seen: ObjectState) -> None:
    """Do what a job does to an object that it began to copy before it was overwritten."""
    s3.copy_object(
        Bucket=seen.ref.bucket,
        Key=seen.ref.key,
        CopySource={"Bucket": seen.ref.bucket, "Key": seen.ref.key, "VersionId": seen.ref.version_id},
        StorageClass="GLACIER_IR",
    )


@pytest.mark.parametrize("deleted", [False, True], ids=["overwritten", "deleted"])
def test_what_happened_during_the_copy_is_current_again_in_a_bucket_with_versions(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str, held: Any, *, deleted: bool
) -> None:
    (seen,) = _put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(_changes([seen]))
    if deleted:
        s3.delete_object(Bucket=versioned, Key="a")
    else:
        _overwrite(looker, seen)
        for _ in range(60):  # more versions than one page of their listing has
            looker.put_object(seen.ref, b"newer")
    _copy_version(s3, seen)
    assert looker.get_object(seen.ref) == b"a"  # the old content came back
    held()
    (result,) = _settled(client, _changes([seen]))
    assert result.outcome is ChangeOutcome.CONFLICT
    assert "current again" in result.detail
    if deleted:
        assert client.head_many([seen.ref]) == [None]
    else:
        assert looker.get_object(seen.ref) == b"newer"
    assert seen.ref.version_id in _versions(s3, versioned, "a")


def test_all_versions_are_kept_when_an_object_is_overwritten_after_it_moved(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str, held: Any
) -> None:
    (seen,) = _put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(_changes([seen]))
    held()
    deadline = time.monotonic() + 30
    while looker.head(seen.ref).storage_class == "STANDARD" and time.monotonic() < deadline:
        pass
    looker.put_object(seen.ref, b"newer")
    (result,) = _settled(client, _changes([seen]))
    assert result.outcome is ChangeOutcome.CONFLICT
    assert looker.get_object(seen.ref) == b"newer"
    assert len(_versions(s3, versioned, "a")) == 3


def test_the_first_of_two_copies_goes_when_the_service_made_two(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str, held: Any
) -> None:
    (seen,) = _put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(_changes([seen]))
    _copy_version(s3, seen)
    _copy_version(s3, seen)
    held()
    (result,) = _settled(client, _changes([seen]))
    assert result.outcome is ChangeOutcome.CHANGED
    assert _versions(s3, versioned, "a") == [looker.head(seen.ref).ref.version_id]
    assert looker.get_object(seen.ref) == b"a"


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
    _put(looker, bucket, ("by job", "archived"))
    s3.put_object(Bucket=bucket, Key="kms", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    s3.put_object(Bucket=bucket, Key="redirect", Body=b"x", WebsiteRedirectLocation="/elsewhere")
    s3.put_object(Bucket=bucket, Key="archived", Body=b"x", StorageClass="GLACIER")
    s3.put_object(Bucket=bucket, Key="there", Body=b"x", StorageClass="GLACIER_IR")
    keys = ["by job", "kms", "redirect", "archived", "there"]
    seen = [looker.head(ObjectRef(Provider.AWS, bucket, name)) for name in keys]
    plain = Recorder(looker)
    results = _settled(new_client(looker=plain), _changes(seen))
    assert set(plain.moved) == {"kms", "redirect", "archived", "there"}
    assert _outcomes(results) == [
        ChangeOutcome.CHANGED,
        ChangeOutcome.CHANGED,
        ChangeOutcome.CHANGED,
        ChangeOutcome.ERROR,
        ChangeOutcome.CHANGED,
    ]
    assert "restore" in results[3].detail
    assert looker.head(seen[1].ref).headers == seen[1].headers
    assert control.calls.count("create_job") == 1


@pytest.mark.parametrize("how", ["by the job", "before the job"])
def test_an_object_uploaded_in_parts_is_known_when_it_has_moved(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str, held: Any, *, how: str
) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts", Metadata={"kept": "1"})["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"content")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=parts)
    seen = looker.head(ObjectRef(Provider.AWS, bucket, "parts"))
    assert seen.etag.endswith("-1")
    client = new_client()
    assert _outcomes(client.change_tiers(_changes([seen]))) == [ChangeOutcome.PENDING]
    if how == "before the job":  # with the ETag that a copy of S3's own would have
        moved = _overwrite(looker, seen, b"content", storage_class="GLACIER_IR", metadata={"kept": "1"})
        assert moved.etag != seen.etag
    held()
    assert _outcomes(_settled(client, _changes([seen]))) == [ChangeOutcome.CHANGED]
    assert looker.get_object(seen.ref) == b"content"


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
    seen = _put(looker, bucket, ("one", "two"))
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
    assert set(_outcomes(client.change_tiers(_changes(seen)))) == {ChangeOutcome.CHANGED}
    assert control.calls == []


def test_no_job_is_made_in_a_bucket_with_versions_or_acls_or_object_lock_that_it_must_not_touch(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    seen = _put(looker, versioned, ("versions",))
    new_client(remove_superseded=False, looker=Recorder(looker)).change_tiers(_changes(seen))
    s3.create_bucket(Bucket=f"{versioned}-acls", ObjectOwnership="ObjectWriter")
    s3.create_bucket(Bucket=f"{versioned}-lock", ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    for name in ("acls", "lock"):
        plain = Recorder(looker)
        new_client(looker=plain).change_tiers(_changes(_put(looker, f"{versioned}-{name}", (name,))))
        assert plain.moved == [name]
    assert control.calls == []


def test_each_bucket_and_class_has_its_own_job(
    new_client: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> None:
    other = f"{bucket}-other"
    looker.create_bucket(other)
    changes = [
        *_changes(_put(looker, bucket, ("a", "b")), "GLACIER_IR"),
        *_changes(_put(looker, bucket, ("c", "d")), "STANDARD_IA"),
        *_changes(_put(looker, other, ("a",)), "GLACIER_IR"),
        *_changes(_put(looker, other, ("b",)), "LUKEWARM"),
    ]
    results = _settled(new_client(), changes)
    assert _outcomes(results) == [*[ChangeOutcome.CHANGED] * 5, ChangeOutcome.ERROR]
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
        results = _settled(client, changes)
    finally:
        s3.meta.events.unregister("before-send.s3", unique_id="count")
    assert len(results) == 400
    assert set(_outcomes(results)) == {ChangeOutcome.CHANGED}
    assert requests < 15
    assert control.calls.count("create_job") == 1


def test_nothing_is_asked_of_s3_but_what_is_written_down(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    seen = _put(looker, versioned)
    asked: set[tuple[str, str]] = set()

    def note(model: Any, context: Any, **_: Any) -> None:
        bucket = context["input_params"]["Bucket"]
        asked.add((model.name, "jobs" if bucket.endswith("-jobs") else "data"))

    s3.meta.events.register("before-call.s3", note, unique_id="asked")
    try:
        _settled(new_client(), _changes(seen))
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
    seen = _put(looker, bucket)
    changes = [*_changes(seen[:3]), *_changes(seen[3:], "STANDARD_IA")]
    _settled(new_client(), changes)
    in_none = _changes(seen[3:]) + _changes(_put(looker, bucket, ["left-alone.bin"]))
    assert new_client().job_sizes(changes + in_none) == [3, 3, 3, 2, 2, 0, 0, 0]
