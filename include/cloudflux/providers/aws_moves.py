"""How one object of S3 gets into another class: looked at, restored if need be, copied, tidied up after.

All of it runs in one event loop, many objects at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

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
from cloudflux.providers.aws_answers import BucketFacts, has_tags, state_of, tags_of, text_of
from cloudflux.providers.aws_copies import CopyLimits, S3Copies, superseded
from cloudflux.providers.aws_http import AnswerLost
from cloudflux.providers.aws_outcomes import NOT_FOUND, Unusable, ask_of, refusal_of
from cloudflux.providers.aws_requests import NotServed, S3Requests
from cloudflux.providers.protocol import TierCapabilities, unknown_class

_FOR_ALL: Final = (CredentialsRefused, BucketNotFound, AccountRefused)
_FACTS_SECONDS: Final = 300.0
_REFUSED_FACTS_SECONDS: Final = 10.0
_RESTORE_TIERS: Final = {"bulk": "Bulk", "standard": "Standard", "expedited": "Expedited"}


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
        self._copies = S3Copies(requests, limits)
        self._may_remove = may_remove
        self._facts: dict[str, tuple[float, asyncio.Task[BucketFacts]]] = {}

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._facts.clear()

    async def look(self, ref: ObjectRef, *, tags: bool, version_id: str | None = None) -> ObjectState:
        """Look at the live object, or a version. Raises ``ObjectNotFound``, ``NotServed`` and ``TerminalError``."""
        answer = await self._requests.head(ref.bucket, ref.key, version_id)
        if answer.code:
            raise refusal_of(answer, ref.uri)
        try:
            state = state_of(ref, answer.headers)
        except (KeyError, ValueError) as exc:
            raise NotServed(f"the answer about {ref.uri} is not one of S3's: {exc!r}") from exc
        if not tags or not has_tags(answer.headers):
            return state
        query = {"tagging": ""} if state.ref.version_id is None else {"tagging": "", "versionId": state.ref.version_id}
        tagging = await ask_of(self._requests, ref, query)
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
        except Unusable as exc:
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
            raise Unusable(ChangeOutcome.ERROR, unknown_class(Provider.AWS, change.to_class))
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
                answer = await self._copies.copy(change, now, facts)
                break
            except AnswerLost as exc:
                lost = exc
            before, now = now, await self._look_after_loss(change, now, attempt)
            there = self._is_there(change, now)
            if there is not None:
                return await self._arrived(change, now, before, f"the answer was lost, the object has moved ({there})")
            if lost.answer is not None and lost.answer.status < 300:
                refusal = refusal_of(lost.answer, change.ref.uri)
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
            raise Unusable(
                ChangeOutcome.ERROR,
                f"it seems to have moved, but no checksum proves that it is what version {old} is, which stays",
            )
        await self._delete_version(change, old, None)

    async def _refuse_or_restore(self, change: TierChange, now: ObjectState) -> BucketFacts:
        """Raise why the object must not be copied, or not yet; give what the copy must know of the bucket."""
        if now.etag != change.seen.etag:
            raise Unusable(ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {now.etag}")
        if now.lock_reason is not None:
            raise Unusable(ChangeOutcome.LOCKED, now.lock_reason)
        if now.restore is RestoreState.RUNNING:
            raise Unusable(ChangeOutcome.RESTORING, f"it is being restored from {now.storage_class}")
        facts = await self._bucket_facts(change.ref.bucket)
        old = superseded(now, facts)
        if old is not None and (facts.versioning == "Enabled" or now.ref.version_id is not None):
            self._refuse_when_versions_stay(change.ref.bucket, facts)
        archived = now.storage_class in self._capabilities.restore_needed_from or "archive-status" in (
            now.headers or {}
        )
        if archived and now.restore is not RestoreState.READY:
            if change.restore is None:
                raise Unusable(
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
            raise Unusable(
                ChangeOutcome.ERROR,
                f"bucket {bucket!r} puts every new version under a retention of its own, and a copy is a new version: "
                "lifecycle rules can move its objects, a copy cannot",
            )
        if not self._may_remove(bucket):
            raise Unusable(
                ChangeOutcome.ERROR,
                f"bucket {bucket!r} keeps versions: a copy would leave the version it was made from, billed for ever. "
                "Set `remove_superseded_versions: true` for it in the estate file, or let lifecycle rules do it",
            )

    async def _restore(self, ref: ObjectRef, now: ObjectState, order: RestoreOrder) -> None:
        """Ask for a restore; never returns."""
        tier = _RESTORE_TIERS.get(order.priority)
        if tier is None:
            known = ", ".join(_RESTORE_TIERS)
            raise Unusable(ChangeOutcome.ERROR, f"S3 has no restore {order.priority!r}: choose one of {known}")
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
            raise refusal_of(answer, ref.uri)
        detail = f"it is being restored from {now.storage_class} ({order.priority})"
        raise Unusable(ChangeOutcome.RESTORING, detail, answer.request_id)

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
        old = superseded(before, facts)
        if old is None:  # versioning was turned on since we asked
            self._facts.pop(ref.bucket, None)
            old = before.ref.version_id or "null"
        if old == new:
            return
        if not self._may_remove(ref.bucket):
            detail = (
                f"it moved, but version {old} is left and billed: bucket {ref.bucket!r} keeps versions since just now"
            )
            raise Unusable(ChangeOutcome.ERROR, detail, request_id)
        state = await self.look(ref, tags=False, version_id=new)
        if (
            state.size_bytes != change.seen.size_bytes
            or state.storage_class != change.to_class
            or same_content(before, state) is False
        ):
            detail = f"version {new} is not the copy of version {old} that it should be: both are kept"
            raise Unusable(ChangeOutcome.ERROR, detail, request_id)
        await self._delete_version(change, old, request_id)

    async def _delete_version(self, change: TierChange, old: str, request_id: str | None) -> None:
        said = f"it moved, but its old version {old} is left and billed"
        try:
            answer = await self._requests.send(
                "DELETE", change.ref.bucket, change.ref.key, query={"versionId": old}, repeatable=True
            )
        except NotServed as exc:
            raise Unusable(ChangeOutcome.UNAVAILABLE, f"{said}: {exc}", request_id) from exc
        if answer.code and answer.code not in NOT_FOUND:
            raise Unusable(ChangeOutcome.ERROR, f"{said}: {refusal_of(answer, change.ref.uri)}", request_id)

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


def _etag_is_lost(state: ObjectState) -> bool:
    """Tell whether a copy of the object has another ETag."""
    encryption = (state.headers or {}).get("server-side-encryption", "")
    return "-" in state.etag or encryption.startswith("aws:kms")
