"""Jobs of S3 Batch Operations: what is written down before one is made, and what its report says.

A job is known by its token, the digest of what it is to move and where to. Its manifest, the request that makes it and
its id lie in the manifest bucket, in the plan's own folder; they are written in that order, so that an attempt that was
cut off is taken up where it ended.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from cloudflux.domain.errors import ObjectNotFound, TerminalError
from cloudflux.domain.migrations import TierChange
from cloudflux.providers.aws_batch_calls import BatchCalls

_FIELDS: Final = ["Bucket", "Key", "Ignore"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as it is written into the manifest bucket."""

    token: str
    folder: str
    first_key: str
    last_key: str
    objects: int
    request: Mapping[str, Any]

    @property
    def target(self) -> str:
        """The bucket and the class that its objects get."""
        copy = self.request["Operation"]["S3PutObjectCopy"]
        return f"{copy['TargetResource'].removeprefix('arn:aws:s3:::')}/{copy['StorageClass']}"

    @property
    def manifest_key(self) -> str:
        """Where its manifest lies."""
        return f"{self.folder}{self.token}.csv"

    @property
    def id_key(self) -> str:
        """Where its id is written when it was made."""
        return f"{self.folder}{self.token}.job"


@dataclass(frozen=True, slots=True)
class Task:
    """What the completion report says of one object."""

    succeeded: bool
    reason: str


class BatchJobs:
    """The jobs of one plan, by what is written about them."""

    def __init__(self, calls: BatchCalls, *, role_arn: str, priority: int) -> None:
        self._calls = calls
        self._role_arn = role_arn
        self._priority = priority
        self._records: dict[str, JobRecord] = {}
        self._just_recorded: str | None = None
        self._last_claims: tuple[str, Mapping[str, str]] = ("", {})

    def assigned(
        self, folder: str, group: Mapping[int, TierChange]
    ) -> tuple[list[tuple[JobRecord, dict[int, TierChange]]], dict[int, TierChange]]:
        """Tell which changes are in which job that was asked for already, and which are in none."""
        left = dict(group)
        keys = sorted(change.ref.key for change in group.values())
        jobs = []
        for record in self._recorded(folder):
            at = bisect_left(keys, record.first_key)
            if not left or at == len(keys) or keys[at] > record.last_key:
                continue
            claims = self._claims(record)
            members = {
                number: change for number, change in left.items() if claims.get(change.ref.key) == _claim(change)
            }
            if members:
                jobs.append((record, members))
                left = {number: change for number, change in left.items() if number not in members}
        return jobs, left

    def _recorded(self, folder: str) -> Iterator[JobRecord]:
        for key in self._calls.keys_below(folder):
            if not key.endswith(".json") or key.removeprefix(folder).count("/"):
                continue
            if key not in self._records:  # written once, never changed
                content = json.loads(self._calls.read(key))
                token = key.removeprefix(folder).removesuffix(".json")
                self._records[key] = JobRecord(
                    token, folder, content["first"], content["last"], content["objects"], content["request"]
                )
            yield self._records[key]

    def _claims(self, record: JobRecord) -> Mapping[str, str]:
        """Give the objects of a job: key and what it was when it got into the manifest."""
        token, claims = self._last_claims
        if token != record.token:
            content = self._calls.read(record.manifest_key)
            if _token(record.target, content) != record.token:
                raise TerminalError(
                    f"s3://{self._calls.manifest_bucket}/{record.manifest_key} is not as it was written: which "
                    "objects are in its job is not known, so none of them is moved"
                )
            claims = {unquote(key): claim for _, key, claim in csv.reader(io.StringIO(content.decode()))}
            self._last_claims = (record.token, claims)
        return claims

    def record(self, folder: str, bucket: str, to_class: str, changes: Sequence[TierChange]) -> JobRecord:
        """Write down which objects a job is to move, and the request that makes it."""
        ordered = sorted(changes, key=lambda change: change.ref.key)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (bucket, quote(change.ref.key, safe="/"), _claim(change)) for change in ordered
        )
        content = text.getvalue().encode()
        token = _token(f"{bucket}/{to_class}", content)
        manifest_key = f"{folder}{token}.csv"
        etag = self._calls.write(manifest_key, content)
        newest = max(change.now.last_modified_at for change in ordered if change.now is not None)
        request = {
            "AccountId": self._calls.account_id,
            "ConfirmationRequired": False,
            "Operation": {
                "S3PutObjectCopy": {
                    "TargetResource": f"arn:aws:s3:::{bucket}",
                    "StorageClass": to_class,
                    "MetadataDirective": "COPY",
                    "UnModifiedSinceConstraint": newest.astimezone(UTC).isoformat(),
                }
            },
            "Report": {
                "Bucket": f"arn:aws:s3:::{self._calls.manifest_bucket}",
                "Format": "Report_CSV_20180820",
                "Enabled": True,
                "Prefix": f"{folder}reports",
                "ReportScope": "AllTasks",
            },
            "ClientRequestToken": token,
            "Manifest": {
                "Spec": {"Format": "S3BatchOperations_CSV_20180820", "Fields": _FIELDS},
                "Location": {"ObjectArn": f"arn:aws:s3:::{self._calls.manifest_bucket}/{manifest_key}", "ETag": etag},
            },
            "Description": f"CloudFlux: {len(ordered)} objects of {bucket} to {to_class}, {token}",
            "Priority": self._priority,
            "RoleArn": self._role_arn,
            "Tags": [{"Key": "made-by", "Value": "cloudflux"}],
        }
        first, last = ordered[0].ref.key, ordered[-1].ref.key
        described = {"first": first, "last": last, "objects": len(ordered), "request": request}
        self._calls.write(f"{folder}{token}.json", json.dumps(described, indent=1).encode())
        self._just_recorded = token
        return JobRecord(token, folder, first, last, len(ordered), request)

    def job_id(self, record: JobRecord) -> str:
        """Give the job's id; have the job made if nobody did."""
        try:
            return self._calls.read(record.id_key).decode()
        except ObjectNotFound:
            pass
        # An attempt that was cut off may have had it made. The token alone makes it the same job however often it is
        # asked for, but for how long the service remembers tokens is not documented; it lists jobs for 90 days.
        job_id = None if record.token == self._just_recorded else self._known_job(record)
        if job_id is None:
            job_id = self._created_job(record)
        self._calls.write(record.id_key, job_id.encode())
        return job_id

    def _created_job(self, record: JobRecord) -> str:
        request = json.loads(json.dumps(record.request))
        copy = request["Operation"]["S3PutObjectCopy"]
        copy["UnModifiedSinceConstraint"] = datetime.fromisoformat(copy["UnModifiedSinceConstraint"])
        return self._calls.create_job(request, f"a job for s3://{self._calls.manifest_bucket}/{record.manifest_key}")

    def _known_job(self, record: JobRecord) -> str | None:
        """Find a job by its token."""
        arguments: dict[str, Any] = {"MaxResults": 1000}
        while True:
            page = self._calls.ask("list_jobs", **arguments)
            for job in page["Jobs"]:
                if str(job.get("Description", "")).endswith(record.token):
                    return str(job["JobId"])
            if not page.get("NextToken"):
                return None
            arguments["NextToken"] = page["NextToken"]

    def report(self, record: JobRecord, job_id: str, keys: set[str]) -> dict[str, Task]:
        """Read the completion report as far as it tells of these keys; empty when there is none."""
        try:
            manifest = json.loads(self._calls.read(f"{record.folder}reports/job-{job_id}/manifest.json"))
        except ObjectNotFound:
            return {}  # of a job that ended before it tried anything
        quoted = {quote(key, safe="/"): key for key in keys}
        tasks: dict[str, Task] = {}
        for result in manifest["Results"]:
            for _, key, _, status, *codes, message in self._rows(result["Bucket"], result["Key"]):
                # As in our manifest; should a report give them plain, they are known as well.
                name = quoted.get(key, key)
                if name in keys:
                    # The guide's schema has the error before the HTTP status, its examples have it behind.
                    reason = " ".join(part for part in (*sorted(codes, key=str.isdigit), message) if part)
                    tasks[name] = Task(status == "succeeded", reason)
        return tasks

    def _rows(self, bucket: str, key: str) -> Iterable[list[str]]:
        lines = self._calls.opened(bucket, key).iter_lines(chunk_size=2**16, keepends=True)
        return csv.reader(line.decode() for line in lines)


def _claim(change: TierChange) -> str:
    """Name the object as it was before its move: another one under the same key is not in the job."""
    seen = change.seen
    text = f"{seen.etag} {seen.ref.version_id} {seen.last_modified_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _token(target: str, manifest: bytes) -> str:
    """Name a job by what it is to move, and where to."""
    return hashlib.sha256(f"{target}\n".encode() + manifest).hexdigest()[:32]
