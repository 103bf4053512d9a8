"""Jobs of S3 Batch Operations that have ended: an outcome for each object, nothing lost."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from contract.aws.batch.jobs import (
    ACCOUNT,
    Counted,
    changes_of,
    files_of,
    jobs_made,
    outcomes_of,
    overwrite,
    put,
    settled,
    versions_of,
)

from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("where", ["bucket", "versioned"])
def test_new_content_is_kept_when_it_was_written_before_the_job_ran(
    new_client: Any, looker: AwsTierClient, s3: Any, held: Any, request: pytest.FixtureRequest, *, where: str
) -> None:
    name = request.getfixturevalue(where)
    seen = put(looker, name)
    changes = changes_of(seen)
    client = new_client()
    client.change_tiers(changes)
    written = overwrite(looker, max(seen, key=lambda state: state.last_modified_at))
    held()
    outcomes = dict(zip([state.ref.key for state in seen], settled(client, changes), strict=True))
    assert outcomes.pop(written.ref.key).outcome is ChangeOutcome.CONFLICT
    assert set(outcomes_of(list(outcomes.values()))) == {ChangeOutcome.CHANGED}
    after = looker.head(written.ref)
    assert (after.storage_class, after.etag, after.ref) == ("STANDARD", written.etag, written.ref)
    assert looker.get_object(written.ref) == b"newer"


def test_every_object_gets_its_own_outcome_when_a_job_fails_in_part(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str, held: Any
) -> None:
    seen = put(looker, bucket, ("fine", "gone", "moved before", "overwritten"))
    changes = changes_of(seen)
    client = new_client()
    client.change_tiers(changes)
    overwrite(looker, seen[3])
    s3.delete_object(Bucket=bucket, Key="gone")
    # somebody (a retry of the service itself, say) moved it before: for the job it is modified since
    s3.copy_object(
        Bucket=bucket,
        Key="moved before",
        CopySource={"Bucket": bucket, "Key": "moved before"},
        StorageClass="GLACIER_IR",
    )
    held()
    results = settled(client, changes)
    assert outcomes_of(results) == [
        ChangeOutcome.CHANGED,
        ChangeOutcome.NOT_FOUND,
        ChangeOutcome.CHANGED,
        ChangeOutcome.CONFLICT,
    ]
    assert "PreconditionFailed 412" in results[3].detail


def test_the_reports_message_is_told_when_a_task_failed_for_no_fault_of_the_object(
    new_client: Any, looker: AwsTierClient, s3: Any, bucket: str
) -> None:
    changes = changes_of(put(looker, bucket, ("one", "two")))
    client = new_client()
    _settled_job_id(client, changes)
    (manifest,) = [key for key in files_of(s3, bucket, "manifest.json") if "/reports/" in key]
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
    return str(settled(client, changes)[0].request_id)


def test_the_reasons_are_told_when_the_job_failed(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = changes_of(put(looker, bucket))
    client = new_client()
    job_id = client.change_tiers(changes)[0].request_id
    (manifest,) = [key for key in files_of(s3, bucket, ".csv") if "/reports/" not in key]
    content = s3.get_object(Bucket=f"{bucket}-jobs", Key=manifest)["Body"].read()
    s3.put_object(Bucket=f"{bucket}-jobs", Key=manifest, Body=content.splitlines(keepends=True)[0])
    results = client.change_tiers(changes)
    assert set(outcomes_of(results)) == {ChangeOutcome.ERROR}
    assert "not as it was written" in results[0].detail
    held()
    deadline = time.monotonic() + 30
    while control.describe_job(AccountId=ACCOUNT, JobId=job_id)["Job"]["Status"] != "Failed":
        assert time.monotonic() < deadline
    s3.put_object(Bucket=f"{bucket}-jobs", Key=manifest, Body=content)
    results = client.change_tiers(changes)
    assert set(outcomes_of(results)) == {ChangeOutcome.ERROR}
    assert f"job {job_id} is failed: the manifest" in results[0].detail
    assert jobs_made(control, bucket) == 1


def test_what_a_cancelled_job_had_moved_counts(
    new_client: Any, control: Counted, looker: AwsTierClient, s3: Any, bucket: str, *, held: Any
) -> None:
    changes = changes_of(put(looker, bucket, ("moved", "not moved")))
    client = new_client()
    job_id = client.change_tiers(changes)[0].request_id
    s3.copy_object(Bucket=bucket, Key="moved", CopySource={"Bucket": bucket, "Key": "moved"}, StorageClass="GLACIER_IR")
    control.update_job_status(AccountId=ACCOUNT, JobId=job_id, RequestedJobStatus="Cancelled")
    moved, left = settled(client, changes)
    assert moved.outcome is ChangeOutcome.CHANGED
    assert (left.outcome, left.detail) == (ChangeOutcome.ERROR, f"job {job_id} is cancelled")


def test_the_superseded_version_goes_and_history_stays_in_a_bucket_with_versions(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str
) -> None:
    put(looker, versioned, ("a", "ab"))
    seen = put(looker, versioned, ("a", "ab"))
    before = {state.ref.key: versions_of(s3, versioned, state.ref.key) for state in seen}
    client = new_client()
    assert set(outcomes_of(settled(client, changes_of(seen)))) == {ChangeOutcome.CHANGED}
    for state in seen:
        after = looker.head(state.ref)
        assert differences(state, after, "GLACIER_IR", keeps_etag=False) == ()
        assert versions_of(s3, versioned, state.ref.key) == [after.ref.version_id, before[state.ref.key][1]]
    assert set(outcomes_of(client.change_tiers(changes_of(seen)))) == {ChangeOutcome.CHANGED}


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
    (seen,) = put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(changes_of([seen]))
    if deleted:
        s3.delete_object(Bucket=versioned, Key="a")
    else:
        overwrite(looker, seen)
        for _ in range(60):  # more versions than one page of their listing has
            looker.put_object(seen.ref, b"newer")
    _copy_version(s3, seen)
    assert looker.get_object(seen.ref) == b"a"  # the old content came back
    held()
    (result,) = settled(client, changes_of([seen]))
    assert result.outcome is ChangeOutcome.CONFLICT
    assert "current again" in result.detail
    if deleted:
        assert client.head_many([seen.ref]) == [None]
    else:
        assert looker.get_object(seen.ref) == b"newer"
    assert seen.ref.version_id in versions_of(s3, versioned, "a")


def test_all_versions_are_kept_when_an_object_is_overwritten_after_it_moved(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str, held: Any
) -> None:
    (seen,) = put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(changes_of([seen]))
    held()
    deadline = time.monotonic() + 30
    while looker.head(seen.ref).storage_class == "STANDARD" and time.monotonic() < deadline:
        pass
    looker.put_object(seen.ref, b"newer")
    (result,) = settled(client, changes_of([seen]))
    assert result.outcome is ChangeOutcome.CONFLICT
    assert looker.get_object(seen.ref) == b"newer"
    assert len(versions_of(s3, versioned, "a")) == 3


def test_the_first_of_two_copies_goes_when_the_service_made_two(
    new_client: Any, looker: AwsTierClient, s3: Any, versioned: str, held: Any
) -> None:
    (seen,) = put(looker, versioned, ("a",))
    client = new_client()
    client.change_tiers(changes_of([seen]))
    _copy_version(s3, seen)
    _copy_version(s3, seen)
    held()
    (result,) = settled(client, changes_of([seen]))
    assert result.outcome is ChangeOutcome.CHANGED
    assert versions_of(s3, versioned, "a") == [looker.head(seen.ref).ref.version_id]
    assert looker.get_object(seen.ref) == b"a"


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
    assert outcomes_of(client.change_tiers(changes_of([seen]))) == [ChangeOutcome.PENDING]
    if how == "before the job":  # with the ETag that a copy of S3's own would have
        moved = overwrite(looker, seen, b"content", storage_class="GLACIER_IR", metadata={"kept": "1"})
        assert moved.etag != seen.etag
    held()
    assert outcomes_of(settled(client, changes_of([seen]))) == [ChangeOutcome.CHANGED]
    assert looker.get_object(seen.ref) == b"content"
