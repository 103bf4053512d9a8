"""What tests of jobs of S3 Batch Operations share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient

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


def put(looker: AwsTierClient, bucket: str, keys: Sequence[str] = KEYS, **arguments: Any) -> list[ObjectState]:
    settings = {"tags": {"a": "1"}, "metadata": {"kept": "1"}, "content_type": "text/x-thing", **arguments}
    return [looker.put_object(ObjectRef(Provider.AWS, bucket, key), key.encode(), **settings) for key in keys]


def changes_of(seen: Sequence[ObjectState], to_class: str = "GLACIER_IR") -> list[TierChange]:
    return [TierChange(state, to_class) for state in seen]


def settled(client: BatchOperationsTierClient, changes: Sequence[TierChange]) -> list[TierChangeResult]:
    """Submit until nothing is pending any more, as the workflow does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        results = client.change_tiers(changes)
        if not {result.outcome for result in results} & {ChangeOutcome.PENDING, ChangeOutcome.UNAVAILABLE}:
            assert [result.ref for result in results] == [change.ref for change in changes]
            return results
    raise AssertionError(f"still pending: {results[0]}")


def outcomes_of(results: Sequence[TierChangeResult]) -> list[ChangeOutcome]:
    return [result.outcome for result in results]


def files_of(s3: Any, bucket: str, suffix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket=f"{bucket}-jobs").get("Contents", [])
    return [item["Key"] for item in found if item["Key"].endswith(suffix)]


def versions_of(s3: Any, bucket: str, key: str) -> list[str]:
    found = s3.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", [])
    return [version["VersionId"] for version in found if version["Key"] == key]


def overwrite(looker: AwsTierClient, seen: ObjectState, body: bytes = b"newer", **arguments: Any) -> ObjectState:
    """Write over an object in a later second than it was written: HTTP dates have no finer grain."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        written = looker.put_object(seen.ref, body, **arguments)
        if written.last_modified_at > seen.last_modified_at:
            return written
    raise AssertionError("the clock stands still")


def jobs_made(control: Counted, bucket: str) -> int:
    """Count the jobs that the service knows for a bucket."""
    jobs = control._client.list_jobs(AccountId=ACCOUNT, MaxResults=1000)["Jobs"]
    return sum(f" of {bucket} to " in job.get("Description", "") for job in jobs)
