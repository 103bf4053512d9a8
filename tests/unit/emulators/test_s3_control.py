"""The S3 emulator runs Batch Operations jobs and lifecycle rules as S3 documents them."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sdk_clients import s3_admin, s3_control_client

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/jobs"
Admin = Callable[[str], dict[str, Any]]


@pytest.fixture
def control(s3: Any) -> Iterator[Any]:
    client = s3_control_client(s3.meta.endpoint_url)
    yield client
    client.close()


@pytest.fixture
def admin(s3: Any) -> Admin:
    return partial(s3_admin, s3)


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    s3.create_bucket(Bucket=f"{name}-reports")
    return name


def _job(s3: Any, bucket: str, manifest: str, **changes: Any) -> dict[str, Any]:
    etag = s3.put_object(Bucket=f"{bucket}-reports", Key="manifests/one.csv", Body=manifest.encode())["ETag"]
    copy = {"TargetResource": f"arn:aws:s3:::{bucket}", "StorageClass": "GLACIER_IR", "MetadataDirective": "COPY"}
    return {
        "AccountId": ACCOUNT,
        "ConfirmationRequired": False,
        "Operation": {"S3PutObjectCopy": copy | changes.pop("copy", {})},
        "Report": {
            "Bucket": f"arn:aws:s3:::{bucket}-reports",
            "Format": "Report_CSV_20180820",
            "Enabled": True,
            "Prefix": "reports",
            "ReportScope": "AllTasks",
        },
        "ClientRequestToken": uuid.uuid4().hex,
        "Manifest": {
            "Spec": {"Format": "S3BatchOperations_CSV_20180820", "Fields": ["Bucket", "Key"]},
            "Location": {"ObjectArn": f"arn:aws:s3:::{bucket}-reports/manifests/one.csv", "ETag": etag},
        },
        "Priority": 1,
        "RoleArn": ROLE,
        **changes,
    }


def _finished(control: Any, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        job: dict[str, Any] = control.describe_job(AccountId=ACCOUNT, JobId=job_id)["Job"]
        if job["Status"] in ("Complete", "Failed", "Cancelled"):
            return job
    raise AssertionError("the job did not end")


def _report(s3: Any, bucket: str, job_id: str) -> dict[str, list[str]]:
    """Give the rows of a report by key."""

    def read(key: str) -> bytes:
        return bytes(s3.get_object(Bucket=f"{bucket}-reports", Key=key)["Body"].read())

    manifest = json.loads(read(f"reports/job-{job_id}/manifest.json"))
    rows = [row for result in manifest["Results"] for row in csv.reader(io.StringIO(read(result["Key"]).decode()))]
    return {row[1]: row[3:6] for row in rows}


def test_a_job_copies_what_its_manifest_names_and_reports_every_task(s3: Any, control: Any, bucket: str) -> None:
    for key in ("plain", "a b+ü", "not named"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x", Tagging="kept=1", Metadata={"kept": "1"})
    names = ["plain", "a%20b%2B%C3%BC", "gone"]
    job = _job(s3, bucket, "".join(f"{bucket},{name}\n" for name in names))
    job_id = control.create_job(**job)["JobId"]
    done = _finished(control, job_id)
    assert done["Status"] == "Complete", done.get("FailureReasons")
    summary = done["ProgressSummary"]
    assert [summary[f"NumberOfTasks{how}"] for how in ("Succeeded", "Failed")] == [2, 1]
    for key in ("plain", "a b+ü"):
        head = s3.head_object(Bucket=bucket, Key=key)
        assert (head["StorageClass"], head["TagCount"], head["Metadata"]) == ("GLACIER_IR", 1, {"kept": "1"})
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="not named")
    assert _report(s3, bucket, job_id) == {
        "plain": ["succeeded", "200", ""],
        "a%20b%2B%C3%BC": ["succeeded", "200", ""],
        "gone": ["failed", "404", "NoSuchKey"],
    }


def test_a_job_leaves_what_was_modified_since(s3: Any, control: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="young", Body=b"x")
    since = datetime.now(UTC) - timedelta(hours=1)
    job = _job(s3, bucket, f"{bucket},young\n", copy={"UnModifiedSinceConstraint": since})
    job_id = control.create_job(**job)["JobId"]
    _finished(control, job_id)
    assert _report(s3, bucket, job_id) == {"young": ["failed", "412", "PreconditionFailed"]}


def test_the_same_token_gives_the_same_job_and_no_other_request_may_use_it(s3: Any, control: Any, bucket: str) -> None:
    job = _job(s3, bucket, f"{bucket},a\n", Description=f"for {bucket}")
    job_id = control.create_job(**job)["JobId"]
    assert control.create_job(**job)["JobId"] == job_id
    with pytest.raises(ClientError, match="IdempotencyException"):
        control.create_job(**job | {"Priority": 2})
    _finished(control, job_id)
    listed = control.list_jobs(AccountId=ACCOUNT, JobStatuses=["Complete"])["Jobs"]
    assert [found["JobId"] for found in listed if found["Description"] == f"for {bucket}"] == [job_id]


def test_a_job_fails_when_its_manifest_is_another_one(s3: Any, control: Any, admin: Admin, bucket: str) -> None:
    admin("jobs?hold=true")
    job_id = control.create_job(**_job(s3, bucket, f"{bucket},a\n"))["JobId"]
    assert control.describe_job(AccountId=ACCOUNT, JobId=job_id)["Job"]["Status"] == "Ready"
    s3.put_object(Bucket=f"{bucket}-reports", Key="manifests/one.csv", Body=b"other")
    admin("jobs?hold=false")
    failed = _finished(control, job_id)
    assert failed["Status"] == "Failed"
    assert "is not the one of ETag" in failed["FailureReasons"][0]["FailureReason"]


def test_a_job_fails_when_of_a_thousand_objects_most_fail(s3: Any, control: Any, bucket: str) -> None:
    job = _job(s3, bucket, "".join(f"{bucket},missing-{number}\n" for number in range(1500)))
    failed = _finished(control, control.create_job(**job)["JobId"])
    assert failed["Status"] == "Failed"
    assert failed["ProgressSummary"]["NumberOfTasksFailed"] == 1001


def test_a_waiting_job_can_be_cancelled(s3: Any, control: Any, admin: Admin, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    admin("jobs?hold=true")
    job_id = control.create_job(**_job(s3, bucket, f"{bucket},a\n"))["JobId"]
    control.update_job_status(AccountId=ACCOUNT, JobId=job_id, RequestedJobStatus="Cancelled")
    admin("jobs?hold=false")
    assert _finished(control, job_id)["Status"] == "Cancelled"
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="a")


def test_an_unknown_job_is_not_found(control: Any) -> None:
    with pytest.raises(ClientError, match="NotFoundException"):
        control.describe_job(AccountId=ACCOUNT, JobId="no-such-job")


TOMORROW = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
IN_A_YEAR = (datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rule(to_class: str, days: int, name: str = "ours", **conditions: Any) -> dict[str, Any]:
    return {
        "ID": name,
        "Status": "Enabled",
        "Filter": conditions or {"Prefix": ""},
        "Transitions": [{"Days": days, "StorageClass": to_class}],
    }


def _put_rules(s3: Any, bucket: str, *rules: dict[str, Any], **arguments: Any) -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)}, **arguments)


def test_rules_are_given_back_word_for_word(s3: Any, bucket: str) -> None:
    rules = [
        _rule("GLACIER", 0, And={"Tags": [{"Key": "a", "Value": "1"}], "ObjectSizeGreaterThan": 1}),
        {
            "ID": "old",
            "Status": "Disabled",
            "Filter": {"Prefix": "logs/"},
            "Expiration": {"Days": 9},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 3, "NewerNoncurrentVersions": 2},
        },
    ]
    small = "varies_by_storage_class"
    _put_rules(s3, bucket, *rules, TransitionDefaultMinimumObjectSize=small)
    found = s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert found["Rules"] == rules
    assert found["TransitionDefaultMinimumObjectSize"] == small
    s3.delete_bucket_lifecycle(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)


def test_a_rule_that_moves_to_infrequent_access_too_early_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError, match="greater than or equal to 30"):
        _put_rules(s3, bucket, _rule("STANDARD_IA", 29))
    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)


def test_rules_with_a_filter_are_refused_beside_such_of_the_old_form(s3: Any, bucket: str) -> None:
    old = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 9}}
    with pytest.raises(ClientError, match="only be used in Lifecycle V2"):
        _put_rules(s3, bucket, old, _rule("GLACIER", 0))
    _put_rules(s3, bucket, old)
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == [old]


def test_a_transition_changes_the_class_and_nothing_else(s3: Any, admin: Admin, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key in ("tagged", "untagged"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"xx", Tagging="move=now" if key == "tagged" else "move=later")
    filters = {"And": {"Tags": [{"Key": "move", "Value": "now"}], "ObjectSizeGreaterThan": 1}}
    _put_rules(s3, bucket, _rule("GLACIER_IR", 0, **filters))
    before = s3.head_object(Bucket=bucket, Key="tagged")
    assert admin(f"lifecycle?bucket={bucket}") == {"transitioned": 0}  # not before midnight
    assert admin(f"lifecycle?bucket={bucket}&at={TOMORROW}") == {"transitioned": 1}
    assert admin(f"lifecycle?bucket={bucket}&at={TOMORROW}") == {"transitioned": 0}
    after = s3.head_object(Bucket=bucket, Key="tagged")
    assert after["StorageClass"] == "GLACIER_IR"
    assert all(before[name] == after[name] for name in ("ETag", "LastModified", "VersionId", "TagCount"))
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="untagged")
    assert len(s3.list_object_versions(Bucket=bucket, Prefix="tagged")["Versions"]) == 1


@pytest.mark.parametrize(
    ("filters", "default", "moves"),
    [
        ({"Prefix": "s"}, "all_storage_classes_128K", 0),
        ({"Prefix": "s"}, "varies_by_storage_class", 1),
        ({"ObjectSizeGreaterThan": 1}, "all_storage_classes_128K", 1),
        ({"ObjectSizeGreaterThan": 9}, "all_storage_classes_128K", 0),
    ],
)
def test_a_small_object_is_left_unless_the_rule_or_the_bucket_says_otherwise(
    s3: Any, admin: Admin, bucket: str, *, filters: dict[str, Any], default: str, moves: int
) -> None:
    s3.put_object(Bucket=bucket, Key="small", Body=b"xx")
    _put_rules(s3, bucket, _rule("DEEP_ARCHIVE", 0, **filters), TransitionDefaultMinimumObjectSize=default)
    assert admin(f"lifecycle?bucket={bucket}&at={TOMORROW}") == {"transitioned": moves}


@pytest.mark.parametrize(
    ("from_class", "to_class"), [("ONEZONE_IA", "GLACIER_IR"), ("INTELLIGENT_TIERING", "STANDARD_IA")]
)
def test_a_transition_up_the_waterfall_is_not_made(
    s3: Any, admin: Admin, bucket: str, from_class: str, to_class: str
) -> None:
    s3.put_object(Bucket=bucket, Key="cold", Body=b"xx", StorageClass=from_class)
    _put_rules(s3, bucket, _rule(to_class, 30, ObjectSizeGreaterThan=1))
    assert admin(f"lifecycle?bucket={bucket}&at={IN_A_YEAR}") == {"transitioned": 0}
    _put_rules(s3, bucket, _rule("GLACIER", 30, ObjectSizeGreaterThan=1))
    assert admin(f"lifecycle?bucket={bucket}&at={IN_A_YEAR}") == {"transitioned": 1}
