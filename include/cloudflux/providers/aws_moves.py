"""How one object of S3 gets into another class: looked at, restored if need be, copied onto itself, tidied up after.

All of it runs in one event loop, many objects at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    ObjectLocked,
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, RestoreState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.aws_answers import BucketFacts, grants_of, has_tags, state_of, tags_of, text_of
from cloudflux.providers.aws_http import Answer, AnswerLost
from cloudflux.providers.aws_requests import NOT_ACTED_ON, PERHAPS_ACTED_ON, NotServed, S3Requests
from cloudflux.providers.aws_signing import quoted_key
from cloudflux.providers.protocol import TierCapabilities, unknown_class

_NOT_FOUND: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion", "MethodNotAllowed", "405"})
_CHANGED_SINCE: Final = frozenset({"412", "PreconditionFailed"})
_FOR_ALL: Final = (CredentialsRefused, BucketNotFound, AccountRefused)
_FACTS_SECONDS: Final = 300.0
_REFUSED_FACTS_SECONDS: Final = 10.0
_MOST_PARTS: Final = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_FULL_OBJECT_CHECKSUMS: Final = ("crc64nvme", "crc32c", "crc32")
_COPIED_HEADERS: Final = {
    "cache-control": "cache-control",
    "content-disposition": "content-disposition",
    "content-encoding": "content-encoding",
    "content-language": "content-language",
    "expires": "expires",
}
_WITHOUT_A_WORD: Final = {
    # HEAD is refused without a body
    "400": ": perhaps it is encrypted with a key of its owner's own (SSE-C)",
    "403": ": access to it is denied, or it is gone and the bucket may not be listed",
}
_RESTORE_TIERS: Final = {"bulk": "Bulk", "standard": "Standard", "expedited": "Expedited"}


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """From which size on an object is copied in parts, and how large these are."""

    one_copy_bytes: int = 5 * 2**30  # API reference, CopyObject
    part_bytes: int = 512 * 2**20
    smallest_part_bytes: int = 5 * 2**20
    largest_part_bytes: int = 5 * 2**30


class _Unusable(Exception):
    """A result that was found on the way."""

    def __init__(self, outcome: ChangeOutcome, detail: str, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class _Upload:
    """A copy in parts under way."""

    id: str
    part_bytes: int
    algorithm: str
    checksum_type: str


class S3Moves:
    """Looks at objects and moves them, one coroutine each."""

    def __init__(
        self,
        requests: S3Requests,
        capabilities: TierCapabilities,
        limits: CopyLimits,
        may_remove: Callable[[str], bool],
    ) -> None:
        self._requests = requests
        self._capabilities = capabilities
        self._limits = limits
        self._may_remove = may_remove
        self._facts: dict[str, tuple[float, asyncio.Task[BucketFacts]]] = {}

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._facts.clear()

    async def look(self, ref: ObjectRef, *, tags: bool, version_id: str | None = None) -> ObjectState:
        """Look at the live object, or a version. Raises ``ObjectNotFound``, ``NotServed`` and ``TerminalError``."""
        answer = await self._requests.head(ref.bucket, ref.key, version_id)
        if answer.code:
            raise _refusal(answer, ref.uri)
        try:
            state = state_of(ref, answer.headers)
        except (KeyError, ValueError) as exc:
            raise NotServed(f"the answer about {ref.uri} is not one of S3's: {exc!r}") from exc
        if not tags or not has_tags(answer.headers):
            return state
        query = {"tagging": ""} if state.ref.version_id is None else {"tagging": "", "versionId": state.ref.version_id}
        tagging = await self._ask("GET", ref, query)
        return replace(state, tags=tags_of(tagging.body))

    async def seen(self, ref: ObjectRef, *, tags: bool) -> ObjectState | Unseen | None:
        """Look at an object among many: what it does not say is its own matter."""
        try:
            return await self.look(ref, tags=tags)
        except ObjectNotFound:
            return None
        except TransientError as exc:
            return Unseen(ref, str(exc), passing=True)
        except _FOR_ALL:
            raise
        except (ObjectLocked, TerminalError) as exc:
            return Unseen(ref, str(exc), passing=False)

    async def change(self, change: TierChange) -> TierChangeResult:
        """Move an object; whatever is its own matter is its outcome."""
        try:
            return await self._change(change)
        except _Unusable as exc:
            return TierChangeResult(change.ref, exc.outcome, str(exc), exc.request_id)
        except ObjectNotFound:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the object is gone")
        except ObjectLocked as exc:
            return TierChangeResult(change.ref, ChangeOutcome.LOCKED, str(exc))
        except TransientError as exc:
            return TierChangeResult(change.ref, ChangeOutcome.UNAVAILABLE, str(exc))
        except _FOR_ALL:
            raise
        except TerminalError as exc:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, str(exc))

    async def _change(self, change: TierChange) -> TierChangeResult:
        if change.to_class not in self._capabilities.classes:
            raise _Unusable(ChangeOutcome.ERROR, unknown_class(Provider.AWS, change.to_class))
        now = change.now
        if now is None or now.headers is None:
            now = await self.look(change.ref, tags=change.seen.size_bytes > self._limits.one_copy_bytes)
        there = self._is_there(change, now)
        if there is not None:
            return await self._arrived(change, now, change.seen, there)
        facts = await self._refuse_or_restore(change, now)
        patience = self._requests.patience
        lost: AnswerLost | None = None
        for attempt in range(1, patience.attempts + 1):
            try:
                if now.size_bytes > self._limits.one_copy_bytes:
                    answer = await self._copy_in_parts(change, now, facts)
                else:
                    answer = await self._copy(change, now, facts)
                break
            except AnswerLost as exc:
                lost = exc
            before, now = now, await self._look_after_loss(change, now, attempt)
            there = self._is_there(change, now)
            if there is not None:
                return await self._arrived(change, now, before, f"the answer was lost, the object has moved ({there})")
            if lost.answer is not None and lost.answer.status < 300:
                refusal = _refusal(lost.answer, change.ref.uri)
                if not isinstance(refusal, NotServed):
                    raise refusal
            facts = await self._refuse_or_restore(change, now)
        else:
            raise NotServed(f"{lost}; it has not moved, gave up after {patience.attempts} attempts")
        new = answer.headers.get("x-amz-version-id")
        if new is not None:
            await self._remove_superseded(change, now, new, answer.request_id)
        return TierChangeResult(change.ref, ChangeOutcome.CHANGED, "", answer.request_id)

    def _is_there(self, change: TierChange, now: ObjectState) -> str | None:
        """Tell how we know that the object is in its class with the content that was seen; None when it is not."""
        seen = change.seen
        if now.storage_class != change.to_class:
            return None
        if now.etag == seen.etag or same_content(seen, now):
            return "already there"
        # A copy of what was uploaded in parts, or is encrypted by KMS, has another ETag. Without a digest that both
        # have, everything else has to do: nobody else moves an object to this class and keeps all that.
        unlike = (
            same_content(seen, now) is False
            or now.size_bytes != seen.size_bytes
            or seen.storage_class == change.to_class
            or seen.headers is None
            or (now.content_type, now.metadata) != (seen.content_type, seen.metadata)
        )
        return None if unlike or not _etag_is_lost(seen) else "already there, by size and metadata"

    async def _arrived(self, change: TierChange, now: ObjectState, before: ObjectState, how: str) -> TierChangeResult:
        """Do what an attempt that got this far has left: a superseded version to remove."""
        old, new = before.ref.version_id, now.ref.version_id
        moved = before.storage_class != now.storage_class
        if old is None and before.headers is not None and new is not None:
            old = "null"
        if moved and old is not None and old != (new or "null") and self._may_remove(change.ref.bucket):
            await self._remove_left_behind(change, before, old, how)
        return TierChangeResult(change.ref, ChangeOutcome.CHANGED, how)

    async def _remove_left_behind(self, change: TierChange, before: ObjectState, old: str, how: str) -> None:
        """Delete the version that the object was moved from, if it is still there and still what was seen."""
        try:
            left = await self.look(change.ref, tags=False, version_id=old)
        except ObjectNotFound:
            return
        if left.etag != before.etag or left.storage_class != before.storage_class:
            return
        if "by size" in how:
            raise _Unusable(
                ChangeOutcome.ERROR,
                f"it seems to have moved, but no checksum proves that it is what version {old} is, which stays",
            )
        await self._delete_version(change, old, None)

    async def _refuse_or_restore(self, change: TierChange, now: ObjectState) -> BucketFacts:
        """Raise why the object must not be copied, or not yet; give what the copy must know of the bucket."""
        if now.etag != change.seen.etag:
            raise _Unusable(ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {now.etag}")
        if now.lock_reason is not None:
            raise _Unusable(ChangeOutcome.LOCKED, now.lock_reason)
        if now.restore is RestoreState.RUNNING:
            raise _Unusable(ChangeOutcome.RESTORING, f"it is being restored from {now.storage_class}")
        facts = await self._bucket_facts(change.ref.bucket)
        old = _superseded(now, facts)
        if old is not None and (facts.versioning == "Enabled" or now.ref.version_id is not None):
            self._refuse_when_versions_stay(change.ref.bucket, facts)
        archived = now.storage_class in self._capabilities.restore_needed_from or "archive-status" in (
            now.headers or {}
        )
        if archived and now.restore is not RestoreState.READY:
            if change.restore is None:
                raise _Unusable(
                    ChangeOutcome.ERROR,
                    f"it lies in {now.storage_class} and needs a restore before it can be copied: restore it first",
                )
            await self._restore(change.ref, now, change.restore)
        return facts

    async def leaves_versions(self, bucket: str) -> bool:
        """Tell whether copies in the bucket would leave versions behind that may not be deleted."""
        facts = await self._bucket_facts(bucket)
        return facts.locks_new_versions or (facts.versioning is not None and not self._may_remove(bucket))

    def _refuse_when_versions_stay(self, bucket: str, facts: BucketFacts) -> None:
        if facts.locks_new_versions:
            raise _Unusable(
                ChangeOutcome.ERROR,
                f"bucket {bucket!r} puts every new version under a retention of its own, and a copy is a new version: "
                "lifecycle rules can move its objects, a copy cannot",
            )
        if not self._may_remove(bucket):
            raise _Unusable(
                ChangeOutcome.ERROR,
                f"bucket {bucket!r} keeps versions: a copy would leave the version it was made from, billed for ever. "
                "Set `remove_superseded_versions: true` for it in the estate file, or let lifecycle rules do it",
            )

    async def _restore(self, ref: ObjectRef, now: ObjectState, order: RestoreOrder) -> None:
        """Ask for a restore; never returns."""
        tier = _RESTORE_TIERS.get(order.priority)
        if tier is None:
            known = ", ".join(_RESTORE_TIERS)
            raise _Unusable(ChangeOutcome.ERROR, f"S3 has no restore {order.priority!r}: choose one of {known}")
        # An object of Intelligent-Tiering comes back for good: it must not be told for how many days.
        days = "" if "archive-status" in (now.headers or {}) else f"<Days>{order.keep_days}</Days>"
        body = (
            f'<RestoreRequest xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{days}'
            f"<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        )
        query = {"restore": ""} if now.ref.version_id is None else {"restore": "", "versionId": now.ref.version_id}
        answer = await self._requests.send(
            "POST",
            ref.bucket,
            ref.key,
            query=query,
            headers={"content-type": "application/xml"},
            body=body.encode(),
            repeatable=True,  # a second request of the kind is refused while the first is under way
        )
        if answer.code and answer.code != "RestoreAlreadyInProgress":
            raise _refusal(answer, ref.uri)
        detail = f"it is being restored from {now.storage_class} ({order.priority})"
        raise _Unusable(ChangeOutcome.RESTORING, detail, answer.request_id)

    async def _copy(self, change: TierChange, now: ObjectState, facts: BucketFacts) -> Answer:
        """Copy the object onto itself in one request.

        The object must be the one that was seen by its ETag, which S3 checks at the destination, and by the time at
        which it was written. A copy keeps the ETag: only the time keeps a request from being acted on once another one
        has moved the object, however late it comes (from a process that has died, or whose answer was lost). S3 checks
        the time at the source alone, and does not if it is given the source's ETag as well (API reference, CopyObject).
        """
        headers = {
            **self._source(change.ref, now, facts),
            "if-match": f'"{now.etag}"',
            "x-amz-copy-source-if-unmodified-since": format_datetime(now.last_modified_at, usegmt=True),
            "x-amz-storage-class": change.to_class,
            "x-amz-metadata-directive": "COPY",
            "x-amz-tagging-directive": "COPY",
            **_kept(now),
        }
        if facts.has_acls:
            headers |= await self._grants(change.ref)
        answer = await self._requests.send("PUT", change.ref.bucket, change.ref.key, headers=headers, repeatable=False)
        if answer.code in _CHANGED_SINCE:  # by somebody else, or by a request of ours: a look tells
            raise AnswerLost("it changed after its state was looked at")
        if answer.code == "NoSuchVersion":
            raise _Unusable(ChangeOutcome.CONFLICT, "the version that was seen is gone", answer.request_id)
        if answer.code:
            raise _refusal(answer, change.ref.uri)
        if b"ETag" not in answer.body:
            raise AnswerLost("S3 answered 200 without the copy's ETag")
        return answer

    async def _copy_in_parts(self, change: TierChange, now: ObjectState, facts: BucketFacts) -> Answer:
        """Copy an object that is too large for one request onto itself; leave nothing behind when that fails.

        A process that is killed here leaves its parts: `cloudflux.workflows.tidy_uploads` finds them by the ledger, and
        a lifecycle rule ``AbortIncompleteMultipartUpload`` on the bucket removes them as well.
        """
        ref = change.ref
        # S3 tells other characters in an encoding of its own (RFC 2047), which is not what it takes.
        odd = [name for name, value in now.metadata.items() if not value.isascii() or value.startswith("=?")]
        if odd or "metadata-not-told" in (now.headers or {}):
            raise _Unusable(
                ChangeOutcome.ERROR,
                "S3 does not tell all of its metadata as it is, and a copy in parts would change it: "
                + (", ".join(odd) or "some has no printable name or value"),
            )
        part_bytes, checksum = await self._parts_of(ref, now)
        upload = _Upload(await self._begin_upload(change, now, facts, checksum), part_bytes, *checksum)
        finished = False
        try:
            parts = await self._copy_parts(ref, now, facts, upload)
            answer = await self._complete_upload(ref, now, upload, parts)
            finished = True
            return answer
        finally:
            if not finished:
                await asyncio.shield(self._abort_upload(ref, upload))

    async def _parts_of(self, ref: ObjectRef, now: ObjectState) -> tuple[int, tuple[str, str]]:
        """Choose the size of the parts, and the checksum's algorithm and type.

        A digest of the whole content is carried over. Without one, parts of the same size as the uploader's give the
        same ETag and the same checksum of checksums, by which the copy can be recognised.
        """
        least = max(self._limits.smallest_part_bytes, -(-now.size_bytes // _MOST_PARTS))
        part_bytes = min(max(self._limits.part_bytes, least), self._limits.largest_part_bytes)
        digests = dict(digest.split(":", 1) for digest in (now.checksum or "").split())
        for name in _FULL_OBJECT_CHECKSUMS:
            if name in digests:
                return part_bytes, (name, "FULL_OBJECT")
        count = now.etag.rpartition("-")[2]
        if "-" not in now.etag or not count.isdigit():
            return part_bytes, ("crc64nvme", "FULL_OBJECT")
        query = {"partNumber": "1"} | ({} if now.ref.version_id is None else {"versionId": now.ref.version_id})
        first = await self._requests.send(
            "HEAD", ref.bucket, ref.key, query=query, headers={"x-amz-checksum-mode": "ENABLED"}, repeatable=True
        )
        theirs = int(first.headers.get("content-length", "0"))
        same = theirs >= self._limits.smallest_part_bytes and -(-now.size_bytes // theirs) == int(count)
        algorithm = next(
            (name for name in ("sha256", "sha1", "crc32c", "crc32") if f"x-amz-checksum-{name}" in first.headers), None
        )
        return theirs if same else part_bytes, (algorithm, "COMPOSITE") if algorithm else ("crc64nvme", "FULL_OBJECT")

    async def _begin_upload(
        self, change: TierChange, now: ObjectState, facts: BucketFacts, checksum: tuple[str, str]
    ) -> str:
        ref, told = change.ref, now.headers or {}
        headers = {
            "x-amz-storage-class": change.to_class,
            "x-amz-checksum-algorithm": checksum[0].upper(),
            "x-amz-checksum-type": checksum[1],
            **{name: told[kept] for kept, name in _COPIED_HEADERS.items() if kept in told},
            **{f"x-amz-meta-{name}": value for name, value in now.metadata.items()},
            **_kept(now),
        }
        if now.content_type is not None:
            headers["content-type"] = now.content_type
        if now.tags:
            headers["x-amz-tagging"] = urlencode(dict(now.tags))
        if facts.has_acls:
            headers |= await self._grants(ref)
        # An upload that was begun twice is a stray without parts: nothing is moved by it.
        answer = await self._requests.send(
            "POST", ref.bucket, ref.key, query={"uploads": ""}, headers=headers, repeatable=True
        )
        upload = None if answer.code else text_of(answer.body, "UploadId")
        if upload is None:
            raise _refusal(answer, ref.uri)
        return upload

    async def _copy_parts(
        self,
        ref: ObjectRef,
        now: ObjectState,
        facts: BucketFacts,
        upload: _Upload,
    ) -> list[str]:
        """Copy all parts, as many at once as the bucket's pace lets; gives what completes the upload, in order."""
        source = {**self._source(ref, now, facts), "x-amz-copy-source-if-match": f'"{now.etag}"'}

        async def copy(number: int, first: int) -> str:
            last = min(first + upload.part_bytes, now.size_bytes) - 1
            answer = await self._requests.send(
                "PUT",
                ref.bucket,
                ref.key,
                query={"partNumber": str(number), "uploadId": upload.id},
                headers={**source, "x-amz-copy-source-range": f"bytes={first}-{last}"},
                repeatable=True,  # a part replaces the part of the same number
            )
            etag = None if answer.code else text_of(answer.body, "ETag")
            if etag is None:
                raise _refusal(answer, ref.uri)
            name = f"Checksum{upload.algorithm.upper()}"
            digest = text_of(answer.body, name)
            told = f"<{name}>{escape(digest)}</{name}>" if digest else ""
            return f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>{told}</Part>"

        starts = list(enumerate(range(0, now.size_bytes, upload.part_bytes), start=1))
        done: list[str] = []
        # In lots, so that an object of 10,000 parts does not mean 10,000 coroutines.
        lot = self._requests.pace(ref.bucket).max_in_flight
        for begin in range(0, len(starts), lot):
            tasks = [asyncio.ensure_future(copy(number, first)) for number, first in starts[begin : begin + lot]]
            try:
                done += await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return done

    async def _complete_upload(self, ref: ObjectRef, now: ObjectState, upload: _Upload, parts: list[str]) -> Answer:
        """Put the parts together in the object's place, if it is still the one that was seen."""
        headers = {
            "if-match": f'"{now.etag}"',
            "content-type": "application/xml",
            "x-amz-checksum-type": upload.checksum_type,
            "x-amz-mp-object-size": str(now.size_bytes),
        }
        digests = dict(digest.split(":", 1) for digest in (now.checksum or "").split())
        if upload.checksum_type == "FULL_OBJECT" and upload.algorithm in digests:
            headers[f"x-amz-checksum-{upload.algorithm}"] = digests[upload.algorithm]  # S3 itself compares
        body = (
            '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{''.join(parts)}</CompleteMultipartUpload>"
        )
        answer = await self._requests.send(
            "POST",
            ref.bucket,
            ref.key,
            query={"uploadId": upload.id},
            headers=headers,
            body=body.encode(),
            repeatable=False,
        )
        if answer.code:
            raise _refusal(answer, ref.uri)
        return answer

    async def _abort_upload(self, ref: ObjectRef, upload: _Upload) -> None:
        with contextlib.suppress(CloudFluxError):  # the failure that brought us here is what is told
            await self._requests.send("DELETE", ref.bucket, ref.key, query={"uploadId": upload.id}, repeatable=True)

    async def _look_after_loss(self, change: TierChange, now: ObjectState, attempt: int) -> ObjectState:
        """Look whether a request was acted on whose answer was lost; twice, as it may still be under way."""
        pace = self._requests.pace(change.ref.bucket)
        for wait in (0.0, pace.backoff(attempt + 1)):
            await asyncio.sleep(wait)
            found = await self.look(change.ref, tags=False)
            if found.etag != now.etag or found.last_modified_at != now.last_modified_at:
                break
        return replace(found, tags=now.tags)

    async def _remove_superseded(
        self, change: TierChange, before: ObjectState, new: str, request_id: str | None
    ) -> None:
        """Delete the version that was copied, once the copy is seen."""
        ref = change.ref
        facts = await self._bucket_facts(ref.bucket)
        old = _superseded(before, facts)
        if old is None:  # versioning was turned on since we asked
            self._facts.pop(ref.bucket, None)
            old = before.ref.version_id or "null"
        if old == new:
            return
        if not self._may_remove(ref.bucket):
            detail = (
                f"it moved, but version {old} is left and billed: bucket {ref.bucket!r} keeps versions since just now"
            )
            raise _Unusable(ChangeOutcome.ERROR, detail, request_id)
        state = await self.look(ref, tags=False, version_id=new)
        if (
            state.size_bytes != change.seen.size_bytes
            or state.storage_class != change.to_class
            or same_content(before, state) is False
        ):
            detail = f"version {new} is not the copy of version {old} that it should be: both are kept"
            raise _Unusable(ChangeOutcome.ERROR, detail, request_id)
        await self._delete_version(change, old, request_id)

    async def _delete_version(self, change: TierChange, old: str, request_id: str | None) -> None:
        said = f"it moved, but its old version {old} is left and billed"
        try:
            answer = await self._requests.send(
                "DELETE", change.ref.bucket, change.ref.key, query={"versionId": old}, repeatable=True
            )
        except NotServed as exc:
            raise _Unusable(ChangeOutcome.UNAVAILABLE, f"{said}: {exc}", request_id) from exc
        if answer.code and answer.code not in _NOT_FOUND:
            raise _Unusable(ChangeOutcome.ERROR, f"{said}: {_refusal(answer, change.ref.uri)}", request_id)

    def _source(self, ref: ObjectRef, now: ObjectState, facts: BucketFacts) -> dict[str, str]:
        infix = "object/" if ref.bucket.startswith("arn:") else ""
        source = quoted_key(f"{ref.bucket}/{infix}{ref.key}")
        version_id = _superseded(now, facts)
        return {"x-amz-copy-source": source if version_id is None else f"{source}?versionId={version_id}"}

    async def _grants(self, ref: ObjectRef) -> dict[str, str]:
        return grants_of((await self._ask("GET", ref, {"acl": ""})).body)

    async def _ask(self, method: str, ref: ObjectRef, query: dict[str, str]) -> Answer:
        answer = await self._requests.send(method, ref.bucket, ref.key, query=query, repeatable=True)
        if answer.code:
            raise _refusal(answer, ref.uri)
        return answer

    async def _bucket_facts(self, bucket: str) -> BucketFacts:
        """Give what of the bucket matters, asked for at most once in five minutes."""
        until, task = self._facts.get(bucket, (0.0, None))
        if task is not None and task.done() and task.exception() is None and time.monotonic() < until:
            return task.result()
        if task is None or time.monotonic() >= until:
            task = asyncio.ensure_future(self._read_bucket_facts(bucket))
            self._facts[bucket] = (time.monotonic() + _FACTS_SECONDS, task)
        try:
            return await asyncio.shield(task)
        except CloudFluxError:
            until, failed = self._facts.get(bucket, (0.0, None))
            if failed is task:
                self._facts[bucket] = (min(until, time.monotonic() + _REFUSED_FACTS_SECONDS), task)
            raise

    async def _read_bucket_facts(self, bucket: str) -> BucketFacts:
        async def ask(what: str, none_code: str | None = None) -> bytes:
            answer = await self._requests.send("GET", bucket, query={what: ""}, repeatable=True)
            if answer.code and answer.code == none_code:
                return b""
            if answer.code:
                raise TerminalError(
                    f"S3 does not tell the {what} of bucket {bucket!r}, without which its objects cannot be moved "
                    f"({answer.code}: {answer.message})"
                )
            return answer.body

        versioning = text_of(await ask("versioning"), "Status")
        ownership = text_of(await ask("ownershipControls", "OwnershipControlsNotFoundError"), "ObjectOwnership")
        lock = b""
        if versioning is not None:  # only such buckets can have locks
            lock = await ask("object-lock", "ObjectLockConfigurationNotFoundError")
        return BucketFacts(
            versioning=versioning,
            has_acls=ownership != "BucketOwnerEnforced",
            locks_new_versions=text_of(lock, "DefaultRetention") is not None,
        )


def _superseded(now: ObjectState, facts: BucketFacts) -> str | None:
    """Name the version that a copy takes the place of; None in a bucket that has never had versions."""
    return now.ref.version_id or ("null" if facts.versioning is not None else None)


def _etag_is_lost(state: ObjectState) -> bool:
    """Tell whether a copy of the object has another ETag."""
    encryption = (state.headers or {}).get("server-side-encryption", "")
    return "-" in state.etag or encryption.startswith("aws:kms")


def _kept(now: ObjectState) -> dict[str, str]:
    """Give the headers without which a copy would be encrypted or redirected otherwise."""
    told = now.headers or {}
    kept = {}
    if encryption := told.get("server-side-encryption"):
        kept["x-amz-server-side-encryption"] = encryption
        if key := told.get("kms-key-id"):
            kept["x-amz-server-side-encryption-aws-kms-key-id"] = key
        if encryption == "aws:kms":  # else the bucket's default would decide
            kept["x-amz-server-side-encryption-bucket-key-enabled"] = told.get("bucket-key", "false")
    if redirect := told.get("website-redirect-location"):
        kept["x-amz-website-redirect-location"] = redirect
    return kept


def _refusal(answer: Answer, what: str) -> CloudFluxError | _Unusable:
    """Say why S3 did not do what it was asked for one object."""
    code, message = answer.code, answer.message
    refusal: CloudFluxError | _Unusable
    if code in _CHANGED_SINCE:
        refusal = _Unusable(ChangeOutcome.CONFLICT, "it was overwritten meanwhile", answer.request_id)
    elif code in _NOT_FOUND:
        refusal = ObjectNotFound(f"there is no object {what}")
    elif code in NOT_ACTED_ON or code in PERHAPS_ACTED_ON:
        refusal = NotServed(f"S3 could not serve {what} ({code}: {message})")
    elif code == "AccessDenied" and "lock" in message.lower():
        refusal = ObjectLocked(f"{what} is under object lock: {message}")
    elif message:
        refusal = TerminalError(f"S3 refused {what} with {code}: {message}")
    else:
        hint = _WITHOUT_A_WORD.get(code, "")
        refusal = TerminalError(f"S3 refused {what} with {code}{hint}")
    return refusal
