"""Objects in memory: the client of tests, with each provider's capabilities and ways."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

import pyarrow as pa

from cloudflux.domain.errors import BucketNotFound, ObjectLocked, ObjectNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, RestoreState, Unseen
from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.protocol import CAPABILITIES, PAGE_OBJECTS, StoredFile, TierCapabilities, unknown_class


class MemoryTierClient:
    """A ``TierClient`` and ``ObjectStore`` whose objects live as long as it does. Safe between threads.

    As on Google Cloud, a client of that provider gives every content and every move a new generation. A restore that
    was asked for runs until ``finish_restore``: then there is a copy beside the archived object, or on Azure the blob
    is in the class it was restored to.
    """

    def __init__(self, provider: Provider, clock: Callable[[], datetime]) -> None:
        self.provider = provider
        self.capabilities: TierCapabilities = CAPABILITIES[provider]
        self._clock = clock
        self._buckets: dict[str, dict[str, tuple[ObjectState, bytes]]] = {}
        self._generation = 0
        self._restored_to: dict[ObjectRef, str] = {}
        self._denied: set[ObjectRef] = set()
        self._throttled: set[ObjectRef] = set()
        self._lock = threading.RLock()

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; one that is there already is fine."""
        with self._lock:
            self._buckets.setdefault(bucket, {})

    def put_object(
        self,
        ref: ObjectRef,
        data: bytes,
        *,
        storage_class: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ObjectState:
        """Write an object, over the one that is there. Raises ``ObjectLocked``."""
        storage_class = storage_class or STANDARD_CLASS[self.provider]
        if storage_class not in self.capabilities.classes:
            raise TerminalError(unknown_class(self.provider, storage_class))
        if tags and not self.capabilities.has_tags:
            raise TerminalError(f"{ref.uri}: {self.provider} has no tags on objects, put them into metadata")
        now = self._clock()
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self._lock:
            there = self._bucket(ref.bucket).get(ref.key)
            if there is not None:
                _refuse_when_locked(there[0])
            state = ObjectState(
                ref=replace(ref, version_id=None),
                size_bytes=len(data),
                storage_class=storage_class,
                etag=digest,
                last_modified_at=now,
                class_since_at=now,
                content_type=content_type or "application/octet-stream",
                checksum=f"md5:{digest}",
                metadata=dict(metadata or {}),
                tags=dict(tags or {}),
                headers={},
            )
            state = self._with_new_generation(state)
            self._buckets[ref.bucket][ref.key] = (state, data)
        return state

    def write_object(
        self,
        ref: ObjectRef,
        data: bytes,
        *,
        storage_class: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object; the answer tells its state anyway."""
        self.put_object(ref, data, storage_class=storage_class, content_type=content_type, metadata=metadata, tags=tags)

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read an object. Raises ``ObjectNotFound``."""
        with self._lock:
            return self._find(ref)[1]

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete an object; one that is gone already is fine. Raises ``ObjectLocked``."""
        with self._lock:
            there = self._bucket(ref.bucket).get(ref.key)
            if there is not None:
                _refuse_when_locked(there[0])
                del self._buckets[ref.bucket][ref.key]

    def lock(self, ref: ObjectRef, reason: str | None) -> None:
        """Put an object under a lock for ``reason``, or take it off with None."""
        with self._lock:
            state, data = self._find(ref)
            self._buckets[ref.bucket][ref.key] = (replace(state, lock_reason=reason), data)

    def deny(self, ref: ObjectRef) -> None:
        """Refuse every look at an object and every change of it from now on."""
        self._denied.add(replace(ref, version_id=None))

    def throttle(self, ref: ObjectRef, throttled: bool = True) -> None:
        """Serve changes of an object no longer, or again."""
        (self._throttled.add if throttled else self._throttled.discard)(replace(ref, version_id=None))

    def finish_restore(self, ref: ObjectRef) -> None:
        """Let the restore of an object be done."""
        with self._lock:
            state, data = self._find(ref)
            if state.restore is not RestoreState.RUNNING:
                raise ValueError(f"no restore of {ref.uri} is running")
            to_class = self._restored_to.pop(replace(ref, version_id=None))
            done = replace(state, restore=RestoreState.READY)
            if self.provider is Provider.AZURE:
                done = replace(state, restore=None, storage_class=to_class, class_since_at=self._clock())
            self._buckets[ref.bucket][ref.key] = (done, data)

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live objects by key, at most 1000 at a time."""
        with self._lock:
            found = [state for key, (state, _) in sorted(self._bucket(bucket).items()) if key.startswith(prefix)]
        for first in range(0, len(found), PAGE_OBJECTS):
            page = found[first : first + PAGE_OBJECTS]
            yield [replace(state, metadata={}, tags={}, headers=None) for state in page]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""
        for page in self.list_pages(bucket, prefix):
            yield inventory_batch(
                self.provider,
                bucket,
                day,
                keys=[state.ref.key for state in page],
                sizes_bytes=[state.size_bytes for state in page],
                storage_classes=[state.storage_class for state in page],
                etags=[state.etag for state in page],
                last_modified_at=[state.last_modified_at for state in page],
                class_since_at=[state.class_since_at for state in page],
                version_ids=[state.ref.version_id for state in page],
                content_types=[state.content_type for state in page],
                lock_reasons=[state.lock_reason for state in page],
            )

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces. Raises ``ObjectNotFound``."""
        content = self.get_object(ref)
        yield from (content[start : start + block_bytes] for start in range(0, len(content), block_bytes))

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""
        for page in self.list_pages(bucket, prefix):
            for state in (state for state in page if state.ref.key >= start_from):
                yield StoredFile(bucket, state.ref.key, state.etag, state.size_bytes, state.last_modified_at)

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        with self._lock:
            if replace(ref, version_id=None) in self._denied:
                raise TerminalError(f"{ref.uri} is denied")
            state = self._find(ref)[0]
        return state if tags else replace(state, tags={})

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects, in order; None for one that is not there."""
        found: list[ObjectState | Unseen | None] = []
        for ref in refs:
            try:
                found.append(self.head(ref, tags=tags))
            except ObjectNotFound:
                found.append(None)
            except BucketNotFound:
                raise
            except (TerminalError, TransientError) as exc:
                found.append(Unseen(ref, str(exc), isinstance(exc, TransientError)))
        return found

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        with self._lock:
            return [self._change(change) for change in changes]

    def _change(self, change: TierChange) -> TierChangeResult:
        outcome, detail = self._refused(change)
        if outcome is None:
            state, data = self._find(change.ref)
            now = self._clock()
            moved = replace(state, storage_class=change.to_class, class_since_at=now, restore=None)
            if not self.capabilities.keeps_last_modified:
                moved = replace(moved, last_modified_at=now)
            self._buckets[change.ref.bucket][change.ref.key] = (self._with_new_generation(moved), data)
            outcome = ChangeOutcome.CHANGED
        return TierChangeResult(change.ref, outcome, detail)

    def _refused(self, change: TierChange) -> tuple[ChangeOutcome | None, str]:
        """Tell why an object needs no change, or must not be changed; None when it is to be changed."""
        there = self._bucket(change.ref.bucket).get(change.ref.key)
        name = replace(change.ref, version_id=None)
        outcome: ChangeOutcome | None = None
        detail = ""
        if change.to_class not in self.capabilities.classes:
            outcome, detail = ChangeOutcome.ERROR, unknown_class(self.provider, change.to_class)
        elif name in self._denied:
            outcome, detail = ChangeOutcome.ERROR, "access is denied"
        elif name in self._throttled:
            outcome, detail = ChangeOutcome.UNAVAILABLE, "it was not served"
        elif there is None:
            outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
        else:
            outcome, detail = self._obstacle(change, there[0])
        return outcome, detail

    def _obstacle(self, change: TierChange, state: ObjectState) -> tuple[ChangeOutcome | None, str]:
        outcome: ChangeOutcome | None = None
        detail = ""
        unchanged = state.etag == change.seen.etag
        if state.storage_class == change.to_class and (unchanged or same_content(change.seen, state)):
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif not unchanged or (change.now is not None and state.etag != change.now.etag):
            outcome, detail = ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {state.etag}"
        elif state.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, state.lock_reason
        elif state.restore is RestoreState.RUNNING:
            outcome, detail = ChangeOutcome.RESTORING, "its restore is running"
        elif state.storage_class in self.capabilities.restore_needed_from and state.restore is not RestoreState.READY:
            if change.restore is None:
                return ChangeOutcome.ERROR, f"it is in {state.storage_class}: restore it first"
            data = self._buckets[change.ref.bucket][change.ref.key][1]
            restoring = replace(state, restore=RestoreState.RUNNING)
            self._buckets[change.ref.bucket][change.ref.key] = (restoring, data)
            self._restored_to[replace(change.ref, version_id=None)] = change.to_class
            outcome, detail = ChangeOutcome.RESTORING, f"a restore of priority {change.restore.priority} has begun"
        return outcome, detail

    def _with_new_generation(self, state: ObjectState) -> ObjectState:
        if self.capabilities.conditional_on != "generation":
            return state
        self._generation += 1
        return replace(state, ref=replace(state.ref, version_id=str(self._generation)), etag=f"g{self._generation}")

    def _bucket(self, bucket: str) -> dict[str, tuple[ObjectState, bytes]]:
        try:
            return self._buckets[bucket]
        except KeyError:
            raise BucketNotFound(f"there is no bucket {bucket!r}: create it first") from None

    def _find(self, ref: ObjectRef) -> tuple[ObjectState, bytes]:
        try:
            return self._bucket(ref.bucket)[ref.key]
        except KeyError:
            raise ObjectNotFound(f"there is no object {ref.uri}") from None


def _refuse_when_locked(state: ObjectState) -> None:
    if state.lock_reason is not None:
        raise ObjectLocked(f"{state.ref.uri} is locked: {state.lock_reason}")
