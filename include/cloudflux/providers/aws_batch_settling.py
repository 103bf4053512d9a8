"""Jobs of S3 Batch Operations that have ended: what became of each object, and what was overtaken meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.verification import same_content
from cloudflux.providers.aws_batch_calls import BatchCalls
from cloudflux.providers.aws_batch_jobs import Task
from cloudflux.providers.protocol import TierCapabilities
from cloudflux.providers.workers import Workers

WHOLE_CALL: Final = (CredentialsRefused, BucketNotFound, AccountRefused)
"""What ends all changes of a call, and not only those of one job."""


class PlainClient(Protocol):
    """The plain client of the same buckets: it looks at objects, and moves what a job cannot."""

    @property
    def capabilities(self) -> TierCapabilities:
        """What it can do."""

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""


class JobSettling:
    """Tells what ended jobs did, and lets nothing be lost that was written while they ran."""

    def __init__(self, calls: BatchCalls, looker: PlainClient, *, in_flight: int) -> None:
        self._calls = calls
        self._looker = looker
        self._workers = Workers(in_flight)

    def settled(
        self, members: Mapping[int, TierChange], tasks: Mapping[str, Task], told: str, job_id: str | None
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
        overtaken = self._workers.map(lambda number: self._overtaken(members[number]), versioned)
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
                self._calls.call("delete_object", ref.bucket, Key=ref.key, VersionId=copy["VersionId"])
        except WHOLE_CALL:
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
            answer = self._calls.call("list_object_versions", ref.bucket, Prefix=ref.key, MaxKeys=50, **start)
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
