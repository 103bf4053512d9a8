"""Amazon S3 moves millions of objects by jobs of S3 Batch Operations, which copy what a manifest names.

A job costs the copies that it makes, as if we made them, and fees for itself and for each object on top (of the price
book, see ``cloudflux.domain.batch_jobs``): it is never cheaper, but it needs none of our time. One process of ours
makes some thousand copies a second, so a job is worth its price where a plan's share in one bucket would keep it busy
for hours: set ``from_objects`` to some ten million objects. Below a thousand objects no job is made in any case.

What the service cannot do, and what is done about it:

- It knows no condition on ETags, and none at all on the target (user guide, "Copy objects"). The one that it has,
  ``UnModifiedSinceConstraint``, is set to the newest write of any object in the job, and only objects that have been
  left alone for an hour get into one: whatever is written after we looked is newer than that, and is left. (A look that
  is handed in, ``TierChange.now``, must not be older than that hour.)
- An object that is overwritten in the very moment in which it is copied may get its old content back. In a bucket with
  versions that shows afterwards: the new content is made the current version again, before anything is deleted. In a
  bucket without, it does not show, so jobs are made there only if the owner says that objects are written once.
- The manifest names keys without versions. With a version, the job would bring that one back over a newer one.
- Objects over 5 GB, archived and locked ones, those with ACLs, a website redirect, object lock, a composite checksum or
  another encryption than the bucket's own are left to the plain client, and so are those just written.

Which objects are in which job is written into the manifest bucket before the job is made, under a prefix of the plan's
own, and so is the token under which it is asked for. Whoever repeats a call, with all or some of its objects, finds
that job, or has it made if the first attempt was cut off; no object gets into a second one. A job that was cut off in
that moment may move an object that was called off since: it is in its manifest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.domain.batch_jobs import JOB_MOVES, LEAST_JOB_OBJECTS, MOST_JOB_BYTES
from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.aws_refusals import THROTTLED, code_of, refusal
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import TierCapabilities, map_concurrently, unknown_class

_LEFT_ALONE: Final = timedelta(hours=1)
_NOT_CARRIED: Final = frozenset({"website-redirect-location", "archive-status", "checksum-type"})
"""What an object's headers must not tell: a copy by a job would lose or change it."""
_ENDED: Final = frozenset({"Complete", "Failed", "Cancelled"})
_FIELDS: Final = ["Bucket", "Key", "Ignore"]
_WHOLE_CALL: Final = (CredentialsRefused, BucketNotFound, AccountRefused)
_NOT_SET_UP: Final = frozenset(
    {
        "ObjectLockConfigurationNotFoundError",
        "OwnershipControlsNotFoundError",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)


def use_endpoint_as_is(s3control: Any) -> None:
    """Let a boto3 ``s3control`` client send to its endpoint itself, and not to the account's host below it.

    boto3 puts ``123456789012.`` before the host's name, also before one that was given (``inject_host_prefix`` does not
    stop that: it comes from the endpoint rules). Of an address like 127.0.0.1 that makes no name that exists.
    """
    endpoint = urlsplit(s3control.meta.endpoint_url)

    def send_there(request: Any, **_: Any) -> None:
        request.url = urlunsplit(urlsplit(request.url)._replace(scheme=endpoint.scheme, netloc=endpoint.netloc))

    # before the request is signed, which comes with the same event
    s3control.meta.events.register_first("request-created.s3-control", send_there, unique_id="cloudflux-endpoint")


class PlainClient(Protocol):
    """The plain client of the same buckets: it looks at objects, and moves what a job cannot."""

    @property
    def capabilities(self) -> TierCapabilities:
        """What it can do."""

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""


@dataclass(frozen=True, slots=True)
class _BucketFacts:
    """What of a bucket decides which of its objects a job can carry."""

    versioned: bool
    has_acls: bool
    has_object_lock: bool
    encryption: tuple[str, str | None, bool]
    """Algorithm, key and whether bucket keys are used."""


@dataclass(frozen=True, slots=True)
class _JobRecord:
    """One job as it is written into the manifest bucket."""

    token: str
    folder: str
    first_key: str
    last_key: str
    objects: int
    request: Mapping[str, Any]

    @property
    def target(self) -> str:
        copy = self.request["Operation"]["S3PutObjectCopy"]
        return f"{copy['TargetResource'].removeprefix('arn:aws:s3:::')}/{copy['StorageClass']}"

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}{self.token}.csv"

    @property
    def id_key(self) -> str:
        return f"{self.folder}{self.token}.job"


@dataclass(frozen=True, slots=True)
class _Task:
    """What the completion report says of one object."""

    succeeded: bool
    reason: str


class BatchOperationsTierClient:
    """Moves objects by jobs of S3 Batch Operations. ``looker`` is the plain client of the same buckets.

    ``change_tiers`` answers ``PENDING`` until the job has ended; submit the same change again to find out. There is one
    job for each call, bucket and class. ``manifest_prefix`` must be the plan's own (``cloudflux/<plan id>``): by what
    lies there an object is known to be in a job. Manifests and reports stay there as a record.

    ``remove_superseded`` says that versions may be deleted once their copy is complete (by the plain client, which must
    be told the same), and ``write_once`` that nobody overwrites objects; a job is made in buckets with versions only if
    the first, in others only if the second holds. Fewer than ``from_objects`` objects go to the plain client.
    """

    provider: Provider = Provider.AWS

    def __init__(
        self,
        s3: Any,
        s3control: Any,
        looker: PlainClient,
        *,
        account_id: str,
        role_arn: str,
        manifest_bucket: str,
        manifest_prefix: str,
        clock: Callable[[], datetime],
        remove_superseded: bool = False,
        write_once: bool = False,
        from_objects: int = LEAST_JOB_OBJECTS,
        priority: int = 10,
        in_flight: int = 16,
        pace_of: Callable[[str], Pace] | None = None,
    ) -> None:
        self._s3 = s3
        self._control = s3control
        self._looker = looker
        self._account_id = account_id
        self._role_arn = role_arn
        self._manifest_bucket = manifest_bucket
        self._manifest_prefix = f"{manifest_prefix.strip('/')}/"
        self._clock = clock
        self._remove_superseded = remove_superseded
        self._write_once = write_once
        self._from_objects = from_objects
        self._priority = priority
        self._in_flight = in_flight
        pace = Pace(max_in_flight=in_flight)
        self._pace_of = pace_of or (lambda _bucket: pace)
        self._facts: dict[str, _BucketFacts] = {}
        self._records: dict[str, _JobRecord] = {}
        self._just_recorded: str | None = None
        self._last_claims: tuple[str, Mapping[str, str]] = ("", {})

    @property
    def capabilities(self) -> TierCapabilities:
        """What jobs can do, with the plain client for the rest."""
        return replace(self._looker.capabilities, batch_size=JOB_MOVES)

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""
        return self._looker.head_many(refs, tags=tags)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Have each object moved to its class by a job, if it is still the one that was seen; one result for each."""
        results: dict[int, TierChangeResult] = {}
        plain: list[int] = []
        groups: dict[tuple[str, str], list[int]] = {}
        for number, change in enumerate(changes):
            groups.setdefault((change.ref.bucket, change.to_class), []).append(number)
        for (bucket, to_class), numbers in groups.items():
            if to_class not in self._looker.capabilities.classes:
                told = unknown_class(Provider.AWS, to_class)
                for number in numbers:
                    results[number] = TierChangeResult(changes[number].ref, ChangeOutcome.ERROR, told)
                continue
            group = {number: changes[number] for number in numbers}
            try:
                found, left = self._change_group(bucket, to_class, group)
            except _WHOLE_CALL:
                raise
            except TransientError as exc:
                found, left = _all(group, ChangeOutcome.UNAVAILABLE, str(exc)), []
            except CloudFluxError as exc:
                found, left = _all(group, ChangeOutcome.ERROR, str(exc)), []
            results |= found
            plain += left
        if plain:
            moved = self._looker.change_tiers([changes[number] for number in plain])
            results |= dict(zip(plain, moved, strict=True))
        return [results[number] for number in range(len(changes))]

    def job_sizes(self, changes: Sequence[TierChange]) -> list[int]:
        """Tell how many objects are in the job that each change is in, by what was written before the job was made.

        0 for one that is in none: it was left to the plain client, which charges nothing of its own.
        """
        sizes = [0] * len(changes)
        groups: dict[str, dict[int, TierChange]] = {}
        for number, change in enumerate(changes):
            groups.setdefault(self._folder(change.ref.bucket, change.to_class), {})[number] = change
        for folder, group in groups.items():
            for record, members in self._assigned(folder, group)[0]:
                for number in members:
                    sizes[number] = record.objects
        return sizes

    def _folder(self, bucket: str, to_class: str) -> str:
        return f"{self._manifest_prefix}{bucket}/{to_class}/"

    def _change_group(
        self, bucket: str, to_class: str, group: Mapping[int, TierChange]
    ) -> tuple[dict[int, TierChangeResult], list[int]]:
        """Submit or poll changes of one bucket to one class; gives the results, and what is the plain client's."""
        folder = self._folder(bucket, to_class)
        jobs, new = self._assigned(folder, group)
        plain = []
        if new:
            new = self._looked_at(new)
            facts = self._bucket_facts(bucket)
            carried = {number: change for number, change in new.items() if self._carries(facts, change)}
            if len(carried) < self._from_objects:
                carried = {}
            plain = [number for number in new if number not in carried]
            if carried:
                jobs.append((self._record(folder, bucket, to_class, list(carried.values())), carried))
        results: dict[int, TierChangeResult] = {}
        for record, members in jobs:
            results |= self._poll(record, members)
        return results, plain

    def _assigned(
        self, folder: str, group: Mapping[int, TierChange]
    ) -> tuple[list[tuple[_JobRecord, dict[int, TierChange]]], dict[int, TierChange]]:
        """Tell which changes are in which job that was asked for already, and which are in none."""
        left = dict(group)
        keys = sorted(change.ref.key for change in group.values())
        jobs = []
        for record in self._job_records(folder):
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

    def _job_records(self, folder: str) -> Iterator[_JobRecord]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._manifest_bucket, Prefix=folder)
        try:
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"the manifests in s3://{self._manifest_bucket}/{folder}") from exc
        for key in keys:
            if not key.endswith(".json") or key.removeprefix(folder).count("/"):
                continue
            if key not in self._records:  # written once, never changed
                content = json.loads(self._read(key))
                token = key.removeprefix(folder).removesuffix(".json")
                self._records[key] = _JobRecord(
                    token, folder, content["first"], content["last"], content["objects"], content["request"]
                )
            yield self._records[key]

    def _claims(self, record: _JobRecord) -> Mapping[str, str]:
        """Give the objects of a job: key and what it was when it got into the manifest."""
        token, claims = self._last_claims
        if token != record.token:
            content = self._read(record.manifest_key)
            if _token(record.target, content) != record.token:
                raise TerminalError(
                    f"s3://{self._manifest_bucket}/{record.manifest_key} is not as it was written: which objects are "
                    "in its job is not known, so none of them is moved"
                )
            claims = {unquote(key): claim for _, key, claim in csv.reader(io.StringIO(content.decode()))}
            self._last_claims = (record.token, claims)
        return claims

    def _looked_at(self, changes: dict[int, TierChange]) -> dict[int, TierChange]:
        """Look at the objects at which nobody just did; what cannot be looked at stays without."""
        unseen = [number for number, change in changes.items() if change.now is None]
        if not unseen:
            return changes
        looks = self._looker.head_many([changes[number].ref for number in unseen])
        looked = {
            number: replace(changes[number], now=now)
            for number, now in zip(unseen, looks, strict=True)
            if isinstance(now, ObjectState)
        }
        return changes | looked

    def _carries(self, facts: _BucketFacts, change: TierChange) -> bool:
        """Tell whether a job can move this object without loss; the plain client knows what to say of all others."""
        now, seen = change.now, change.seen
        if now is None or now.headers is None or facts.has_acls or facts.has_object_lock:
            return False
        # The plain client knows what to do with a version from before the bucket had any (it is called "null"), and
        # removes one only if a checksum proves the copy.
        removable = self._remove_superseded and now.ref.version_id is not None and now.checksum is not None
        return (
            (removable if facts.versioned else self._write_once)
            and now.etag == seen.etag
            and now.ref.version_id == seen.ref.version_id
            and now.storage_class not in (change.to_class, *self._looker.capabilities.restore_needed_from)
            and now.lock_reason is None
            and now.size_bytes <= MOST_JOB_BYTES
            and now.last_modified_at <= self._clock() - _LEFT_ALONE
            and not _NOT_CARRIED & now.headers.keys()
            and _encryption_of(now.headers) == facts.encryption
        )

    def _record(self, folder: str, bucket: str, to_class: str, changes: Sequence[TierChange]) -> _JobRecord:
        """Write down which objects a job is to move, and the request that makes it."""
        ordered = sorted(changes, key=lambda change: change.ref.key)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (bucket, quote(change.ref.key, safe="/"), _claim(change)) for change in ordered
        )
        content = text.getvalue().encode()
        token = _token(f"{bucket}/{to_class}", content)
        manifest_key = f"{folder}{token}.csv"
        etag = self._write(manifest_key, content)
        newest = max(change.now.last_modified_at for change in ordered if change.now is not None)
        request = {
            "AccountId": self._account_id,
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
                "Bucket": f"arn:aws:s3:::{self._manifest_bucket}",
                "Format": "Report_CSV_20180820",
                "Enabled": True,
                "Prefix": f"{folder}reports",
                "ReportScope": "AllTasks",
            },
            "ClientRequestToken": token,
            "Manifest": {
                "Spec": {"Format": "S3BatchOperations_CSV_20180820", "Fields": _FIELDS},
                "Location": {"ObjectArn": f"arn:aws:s3:::{self._manifest_bucket}/{manifest_key}", "ETag": etag},
            },
            "Description": f"CloudFlux: {len(ordered)} objects of {bucket} to {to_class}, {token}",
            "Priority": self._priority,
            "RoleArn": self._role_arn,
            "Tags": [{"Key": "made-by", "Value": "cloudflux"}],
        }
        first, last = ordered[0].ref.key, ordered[-1].ref.key
        described = {"first": first, "last": last, "objects": len(ordered), "request": request}
        self._write(f"{folder}{token}.json", json.dumps(described, indent=1).encode())
        self._just_recorded = token
        return _JobRecord(token, folder, first, last, len(ordered), request)

    def _poll(self, record: _JobRecord, members: Mapping[int, TierChange]) -> dict[int, TierChangeResult]:
        """Have the job made, or tell what it came to."""
        try:
            job_id = self._job_id(record)
            job = self._ask("describe_job", JobId=job_id)["Job"]
        except ObjectNotFound as exc:
            return self._settled(members, {}, f"S3 does not know the job any more: {exc}", None)
        except _WHOLE_CALL:
            raise
        except TransientError as exc:
            return _all(members, ChangeOutcome.UNAVAILABLE, str(exc))
        except CloudFluxError as exc:
            return _all(members, ChangeOutcome.ERROR, str(exc))
        status, summary = job["Status"], job.get("ProgressSummary", {})
        if status not in _ENDED:
            done = summary.get("NumberOfTasksSucceeded", 0) + summary.get("NumberOfTasksFailed", 0)
            detail = f"job {job_id} is {status.lower()}: {done:,} of {summary.get('TotalNumberOfTasks', 0):,} objects"
            return _all(members, ChangeOutcome.PENDING, detail, job_id)
        reasons = "; ".join(reason["FailureReason"] for reason in job.get("FailureReasons", ()))
        told = f"job {job_id} is {status.lower()}" + (f": {reasons}" if reasons else "")
        tasks = self._report(record, job_id, {change.ref.key for change in members.values()})
        return self._settled(members, tasks, told, job_id)

    def _job_id(self, record: _JobRecord) -> str:
        """Give the job's id; have the job made if nobody did."""
        try:
            return self._read(record.id_key).decode()
        except ObjectNotFound:
            pass
        # An attempt that was cut off may have had it made. The token alone makes it the same job however often it is
        # asked for, but for how long the service remembers tokens is not documented; it lists jobs for 90 days.
        job_id = None if record.token == self._just_recorded else self._known_job(record)
        if job_id is None:
            job_id = self._created_job(record)
        self._write(record.id_key, job_id.encode())
        return job_id

    def _created_job(self, record: _JobRecord) -> str:
        request = json.loads(json.dumps(record.request))
        copy = request["Operation"]["S3PutObjectCopy"]
        copy["UnModifiedSinceConstraint"] = datetime.fromisoformat(copy["UnModifiedSinceConstraint"])
        try:
            return str(self._control.create_job(**request)["JobId"])
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"a job for s3://{self._manifest_bucket}/{record.manifest_key}") from exc

    def _known_job(self, record: _JobRecord) -> str | None:
        """Find a job by its token."""
        arguments: dict[str, Any] = {"MaxResults": 1000}
        while True:
            page = self._ask("list_jobs", **arguments)
            for job in page["Jobs"]:
                if str(job.get("Description", "")).endswith(record.token):
                    return str(job["JobId"])
            if not page.get("NextToken"):
                return None
            arguments["NextToken"] = page["NextToken"]

    def _report(self, record: _JobRecord, job_id: str, keys: set[str]) -> dict[str, _Task]:
        """Read the completion report as far as it tells of these keys; empty when there is none."""
        try:
            manifest = json.loads(self._read(f"{record.folder}reports/job-{job_id}/manifest.json"))
        except ObjectNotFound:
            return {}  # of a job that ended before it tried anything
        quoted = {quote(key, safe="/"): key for key in keys}
        tasks: dict[str, _Task] = {}
        for result in manifest["Results"]:
            for _, key, _, status, *codes, message in self._rows(result["Bucket"], result["Key"]):
                # As in our manifest; should a report give them plain, they are known as well.
                name = quoted.get(key, key)
                if name in keys:
                    # The guide's schema has the error before the HTTP status, its examples have it behind.
                    reason = " ".join(part for part in (*sorted(codes, key=str.isdigit), message) if part)
                    tasks[name] = _Task(status == "succeeded", reason)
        return tasks

    def _rows(self, bucket: str, key: str) -> Iterable[list[str]]:
        lines = self._open(bucket, key).iter_lines(chunk_size=2**16, keepends=True)
        return csv.reader(line.decode() for line in lines)

    def _settled(
        self, members: Mapping[int, TierChange], tasks: Mapping[str, _Task], told: str, job_id: str | None
    ) -> dict[int, TierChangeResult]:
        """Give the results of a job that has ended. What it does not call a success is looked at: it may be one."""
        results: dict[int, TierChangeResult] = {}
        moved: list[int] = []
        doubtful: list[int] = []
        for number, change in members.items():
            task = tasks.get(change.ref.key)
            (moved if task is not None and task.succeeded else doubtful).append(number)
        looks = self._looker.head_many([members[number].ref for number in doubtful]) if doubtful else []
        for number, now in zip(doubtful, looks, strict=True):
            change = members[number]
            task = tasks.get(change.ref.key)
            outcome, detail = _outcome(change, now, told if task is None else task.reason)
            if outcome is ChangeOutcome.CHANGED:
                moved.append(number)
            results[number] = TierChangeResult(change.ref, outcome, detail, job_id)
        for number in moved:
            results[number] = TierChangeResult(members[number].ref, ChangeOutcome.CHANGED, "", job_id)
        versioned = [number for number in moved if members[number].ref.version_id is not None]
        overtaken = map_concurrently(lambda number: self._overtaken(members[number]), versioned, self._in_flight)
        removable = []
        for number, problem in zip(versioned, overtaken, strict=True):
            if problem is None:
                removable.append(number)
            else:
                results[number] = replace(problem, request_id=job_id)
        if removable:
            # It finds them in their class, and removes the version that was copied.
            left = self._looker.change_tiers([replace(members[number], now=None) for number in removable])
            for number, result in zip(removable, left, strict=True):
                results[number] = replace(result, request_id=job_id)
        return results

    def _overtaken(self, change: TierChange) -> TierChangeResult | None:
        """Tell if an object was overwritten or deleted while it was copied, and make that the current state again.

        Gives None when the copy directly follows the version that was copied, or when that is removed already. Should
        the service have made its copy twice, the first of them goes.
        """
        ref, seen = change.ref, change.seen
        try:
            versions, markers = self._history(ref)
            if not versions or versions[-1]["VersionId"] != ref.version_id:
                return None
            *newer, source = versions
            copies = [
                version
                for version in newer
                if (version["Size"], version["StorageClass"], version["ETag"])
                == (seen.size_bytes, change.to_class, newer[0]["ETag"])
            ]
            deleted = any(marker["LastModified"] >= source["LastModified"] for marker in markers)
            if not copies or not copies[0]["IsLatest"]:
                detail = "it was overwritten or deleted after it moved: all its versions are kept"
                return TierChangeResult(ref, ChangeOutcome.CONFLICT, detail)
            overtaken = deleted or len(copies) < len(newer)
            for copy in copies if overtaken else copies[1:]:
                self._call("delete_object", ref.bucket, Key=ref.key, VersionId=copy["VersionId"])
        except _WHOLE_CALL:
            raise
        except TransientError as exc:
            return TierChangeResult(ref, ChangeOutcome.UNAVAILABLE, str(exc))
        except CloudFluxError as exc:
            return TierChangeResult(ref, ChangeOutcome.ERROR, f"its versions are kept: {exc}")
        if not overtaken:
            return None
        detail = "it was overwritten or deleted while it was copied: the copy is gone, and that is current again"
        return TierChangeResult(ref, ChangeOutcome.CONFLICT, detail)

    def _history(self, ref: ObjectRef) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Give the versions of an object from the newest back to the one named, if it is there, and delete markers."""
        versions: list[dict[str, Any]] = []
        markers: list[dict[str, Any]] = []
        start: dict[str, Any] = {}
        while True:
            answer = self._call("list_object_versions", ref.bucket, Prefix=ref.key, MaxKeys=50, **start)
            markers += [marker for marker in answer.get("DeleteMarkers", ()) if marker["Key"] == ref.key]
            for version in answer.get("Versions", ()):
                if version["Key"] == ref.key:
                    versions.append(version)
                if version["Key"] != ref.key or version["VersionId"] == ref.version_id:
                    return versions, markers
            if not answer.get("IsTruncated"):
                return versions, markers
            start = {"KeyMarker": answer["NextKeyMarker"]}
            if "NextVersionIdMarker" in answer:
                start["VersionIdMarker"] = answer["NextVersionIdMarker"]

    def _bucket_facts(self, bucket: str) -> _BucketFacts:
        if bucket not in self._facts:
            versioning = self._call("get_bucket_versioning", bucket)
            ownership = self._setting("get_bucket_ownership_controls", bucket, "OwnershipControls")
            encryption = self._setting("get_bucket_encryption", bucket, "ServerSideEncryptionConfiguration")
            lock = self._setting("get_object_lock_configuration", bucket, "ObjectLockConfiguration")
            (rule,) = encryption.get("Rules", [{}])[:1]
            default = rule.get("ApplyServerSideEncryptionByDefault", {})
            self._facts[bucket] = _BucketFacts(
                versioned=versioning.get("Status") is not None,
                has_acls=all(rule["ObjectOwnership"] != "BucketOwnerEnforced" for rule in ownership.get("Rules", ())),
                has_object_lock=bool(lock),
                encryption=(
                    default.get("SSEAlgorithm", "AES256"),
                    default.get("KMSMasterKeyID"),
                    bool(rule.get("BucketKeyEnabled")),
                ),
            )
        return self._facts[bucket]

    def _setting(self, operation: str, bucket: str, name: str) -> dict[str, Any]:
        """Give one of a bucket's settings; empty when it was never made."""
        try:
            return dict(self._call(operation, bucket)[name])
        except _NotSetUp:
            return {}

    def _read(self, key: str) -> bytes:
        return bytes(self._open(self._manifest_bucket, key).read())

    def _open(self, bucket: str, key: str) -> Any:
        return self._call("get_object", bucket, Key=key)["Body"]

    def _write(self, key: str, content: bytes) -> str:
        """Write into the manifest bucket; gives the ETag. A manifest under KMS would not be accepted."""
        answer = self._call("put_object", self._manifest_bucket, Key=key, Body=content, ServerSideEncryption="AES256")
        return str(answer["ETag"]).strip('"')

    def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._control, operation)(AccountId=self._account_id, **arguments)
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"{operation} {arguments}") from exc
        return answer

    def _call(self, operation: str, bucket: str, **arguments: Any) -> dict[str, Any]:
        pace = self._pace_of(bucket)
        pace.admit()
        try:
            answer: dict[str, Any] = getattr(self._s3, operation)(Bucket=bucket, **arguments)
        except (ClientError, BotoCoreError) as exc:
            if code_of(exc) in _NOT_SET_UP:
                raise _NotSetUp from exc
            if code_of(exc) in THROTTLED:
                pace.throttled()
            key = arguments.get("Key") or arguments.get("Prefix", "")
            raise refusal(exc, f"{operation} of s3://{bucket}/{key}") from exc
        pace.served()
        return answer


class _NotSetUp(CloudFluxError):
    """A bucket lacks the setting that was asked for."""


def _claim(change: TierChange) -> str:
    """Name the object as it was before its move: another one under the same key is not in the job."""
    seen = change.seen
    text = f"{seen.etag} {seen.ref.version_id} {seen.last_modified_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _token(target: str, manifest: bytes) -> str:
    """Name a job by what it is to move, and where to."""
    return hashlib.sha256(f"{target}\n".encode() + manifest).hexdigest()[:32]


def _encryption_of(headers: Mapping[str, str]) -> tuple[str, str | None, bool]:
    algorithm = headers.get("server-side-encryption", "AES256")
    return algorithm, headers.get("kms-key-id"), headers.get("bucket-key") == "true"


def _outcome(change: TierChange, now: ObjectState | Unseen | None, reason: str) -> tuple[ChangeOutcome, str]:
    """Judge an object that a job does not call a success by what it is now."""
    seen, outcome, detail = change.seen, ChangeOutcome.ERROR, reason
    if now is None:
        outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
    elif isinstance(now, Unseen):
        outcome = ChangeOutcome.UNAVAILABLE if now.passing else ChangeOutcome.ERROR
        detail = now.reason
    elif now.storage_class == change.to_class and _is_copy(seen, now):
        outcome = ChangeOutcome.CHANGED
    elif now.etag != seen.etag or now.ref.version_id != seen.ref.version_id:
        outcome, detail = ChangeOutcome.CONFLICT, f"it was overwritten ({reason})"
    elif now.lock_reason is not None:
        outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
    return outcome, detail


def _is_copy(seen: ObjectState, now: ObjectState) -> bool:
    """Tell whether an object that is in its class has the content that was seen.

    A copy of what was uploaded in parts, or lies under KMS, has another ETag. Without a digest that both have, the size
    and what came with it must do.
    """
    same = same_content(seen, now)
    if same is None:
        kept = (now.size_bytes, now.content_type, now.metadata) == (seen.size_bytes, seen.content_type, seen.metadata)
        return now.etag == seen.etag or (seen.checksum is None and kept)
    return same


def _all(
    changes: Mapping[int, TierChange], outcome: ChangeOutcome, detail: str, job_id: str | None = None
) -> dict[int, TierChangeResult]:
    return {number: TierChangeResult(change.ref, outcome, detail, job_id) for number, change in changes.items()}
