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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from cloudflux.domain.batch_jobs import JOB_MOVES, LEAST_JOB_OBJECTS, MOST_JOB_BYTES
from cloudflux.domain.errors import CloudFluxError, ObjectNotFound, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws_batch_buckets import BucketFacts, facts_of
from cloudflux.providers.aws_batch_calls import BatchCalls
from cloudflux.providers.aws_batch_jobs import BatchJobs, JobRecord
from cloudflux.providers.aws_batch_settling import WHOLE_CALL, JobSettling, PlainClient
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import TierCapabilities, unknown_class

_LEFT_ALONE: Final = timedelta(hours=1)
_ENDED: Final = frozenset({"Complete", "Failed", "Cancelled"})


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
        pace = Pace(max_in_flight=in_flight)
        self._calls = BatchCalls(
            s3,
            s3control,
            account_id=account_id,
            manifest_bucket=manifest_bucket,
            pace_of=pace_of or (lambda _bucket: pace),
        )
        self._jobs = BatchJobs(self._calls, role_arn=role_arn, priority=priority)
        self._settling = JobSettling(self._calls, looker, in_flight=in_flight)
        self._looker = looker
        self._manifest_prefix = f"{manifest_prefix.strip('/')}/"
        self._clock = clock
        self._remove_superseded = remove_superseded
        self._write_once = write_once
        self._from_objects = from_objects
        self._facts: dict[str, BucketFacts] = {}

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
            except WHOLE_CALL:
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
            for record, members in self._jobs.assigned(folder, group)[0]:
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
        jobs, new = self._jobs.assigned(folder, group)
        plain = []
        if new:
            new = self._looked_at(new)
            facts = self._bucket_facts(bucket)
            carried = {number: change for number, change in new.items() if self._carries(facts, change)}
            if len(carried) < self._from_objects:
                carried = {}
            plain = [number for number in new if number not in carried]
            if carried:
                jobs.append((self._jobs.record(folder, bucket, to_class, list(carried.values())), carried))
        results: dict[int, TierChangeResult] = {}
        for record, members in jobs:
            results |= self._poll(record, members)
        return results, plain

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

    def _carries(self, facts: BucketFacts, change: TierChange) -> bool:
        """Tell whether a job can move this object without loss; the plain client knows what to say of all others."""
        now, seen = change.now, change.seen
        if now is None or not facts.lose_nothing_of(now):
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
        )

    def _poll(self, record: JobRecord, members: Mapping[int, TierChange]) -> dict[int, TierChangeResult]:
        """Have the job made, or tell what it came to."""
        try:
            job_id = self._jobs.job_id(record)
            job = self._calls.ask("describe_job", JobId=job_id)["Job"]
        except ObjectNotFound as exc:
            return self._settling.settled(members, {}, f"S3 does not know the job any more: {exc}", None)
        except WHOLE_CALL:
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
        tasks = self._jobs.report(record, job_id, {change.ref.key for change in members.values()})
        return self._settling.settled(members, tasks, told, job_id)

    def _bucket_facts(self, bucket: str) -> BucketFacts:
        if bucket not in self._facts:
            self._facts[bucket] = facts_of(self._calls, bucket)
        return self._facts[bucket]


def _all(
    changes: Mapping[int, TierChange], outcome: ChangeOutcome, detail: str, job_id: str | None = None
) -> dict[int, TierChangeResult]:
    return {number: TierChangeResult(change.ref, outcome, detail, job_id) for number, change in changes.items()}
