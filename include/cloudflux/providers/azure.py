"""Azure Blob Storage: a blob changes its tier in place, in batches of up to 256.

Set Blob Tier takes no ETag condition. The client looks at ETag and lease just before, and at the ETag again just after:
a blob that was overwritten in between keeps its new content and gets its tier back, and the result is a conflict. With
``lease_moves`` the blob is leased on the condition of its ETag for the moment of the change: nobody can overwrite it
then, at the price of two more requests for each blob.

Snapshots and versions are left alone: only the base blob is named. Immutability policies and legal holds do not forbid
another tier (learn.microsoft.com/azure/storage/blobs/immutable-storage-overview): a tier is no part of the content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache, partial
from typing import Any, Final

import pyarrow as pa
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContentSettings, StandardBlobTier

from cloudflux.domain.errors import (
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, RestoreState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.azure_answers import (
    LEASED_REASON,
    LOCKED,
    at,
    class_since,
    lock_reason,
    refusal,
    state_of,
    tier_of,
    translated,
)
from cloudflux.providers.azure_requests import Blob, BlobRequests, TierSetting, error_of
from cloudflux.providers.batches import (
    EVERYTHING_REFUSED,
    NOT_ACTED_ON,
    UNCERTAIN,
    Answer,
    AnswerLost,
    Patience,
    ask,
    change_in_batch,
    look_at,
    look_in_each_bucket,
    unavailable_or_refused,
)
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.pace import LeftAlone, Pace
from cloudflux.providers.protocol import (
    AGENT,
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
    unknown_class,
)
from cloudflux.providers.workers import Workers

LISTED_PAGE: Final = 5000
"""The most that List Blobs gives at once."""
_REHYDRATING: Final = frozenset({"BlobBeingRehydrated"})
_PRIORITIES: Final = {"standard": "Standard", "high": "High"}
_LEASE_SECONDS: Final = 60
"""The longest that ends by itself: a batch that takes longer is refused, and its blobs are free again soon."""


class AzureTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a ``BlobServiceClient``, as ``WasbHook.get_conn()`` gives it.

    ``in_flight`` requests run at once (2 at least), each in a thread, whoever asks; a quarter is kept for looks. A
    batch of changes is one of them, and counts as its changes in a container's ``pace_of``. A request is sent
    ``attempts`` times until it is served. ``lease_moves`` leases every blob while its tier is changed.
    """

    provider: Provider = Provider.AZURE
    capabilities: TierCapabilities = CAPABILITIES[Provider.AZURE]

    def __init__(
        self,
        service: Any,
        *,
        in_flight: int = 16,
        pace_of: Callable[[str], Pace] | None = None,
        lease_moves: bool = False,
        attempts: int = 8,
        timeout_seconds: float = 60,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._service = service
        self._lookers, self._changers = Workers.for_looks_and_changes(in_flight)
        self._pace_of = pace_of or lru_cache(maxsize=None)(lambda bucket: Pace(max_in_flight=in_flight))
        self._lease_moves = lease_moves
        self._patience = Patience(attempts, sleep)
        self._requests = BlobRequests(service, timeout_seconds)
        policy = service._config.user_agent_policy
        if AGENT not in policy.user_agent:
            policy.add_user_agent(AGENT)

    def create_bucket(self, bucket: str) -> None:
        """Create a container; one that is there already is fine."""
        try:
            self._service.create_container(bucket)
        except ResourceExistsError as exc:
            if exc.error_code != "ContainerAlreadyExists":  # e.g. it is being deleted
                raise translated(exc, f"container {bucket!r}") from exc
        except AzureError as exc:
            raise translated(exc, f"container {bucket!r}") from exc

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
        """Write a block blob, over the one that is there. Raises ``ObjectLocked``."""
        self.write_object(
            ref, data, storage_class=storage_class, content_type=content_type, metadata=metadata, tags=tags
        )
        return self.head(ref)

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
        """Write a block blob without looking at it afterwards: one request. Raises ``ObjectLocked``."""
        if storage_class is not None and storage_class not in self.capabilities.classes:
            raise TerminalError(unknown_class(Provider.AZURE, storage_class))
        try:
            self._blob(ref).upload_blob(
                data,
                overwrite=True,
                standard_blob_tier=StandardBlobTier(storage_class) if storage_class else None,
                content_settings=ContentSettings(content_type=content_type) if content_type else None,
                metadata=dict(metadata) if metadata else None,
                tags=dict(tags) if tags else None,
            )
        except AzureError as exc:
            raise translated(exc, ref.uri) from exc

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read a blob. Raises ``ObjectNotFound``."""
        try:
            content: bytes = self._blob(ref).download_blob().readall()
        except AzureError as exc:
            raise translated(exc, ref.uri) from exc
        return content

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read a blob in pieces of the SDK's own size, all conditional on one ETag. Raises ``ObjectNotFound``."""
        try:
            yield from self._blob(ref).download_blob().chunks()
        except AzureError as exc:
            raise translated(exc, ref.uri) from exc

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete a blob; one that is gone already is fine. Raises ``ObjectLocked``."""
        try:
            self._blob(ref).delete_blob(delete_snapshots="include")
        except ResourceNotFoundError:
            return
        except AzureError as exc:
            raise translated(exc, ref.uri) from exc

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live blobs by name, at most 1000 at a time."""
        for page in self._listing(bucket, prefix):
            states = (state_of(ObjectRef(Provider.AZURE, bucket, blob.name), blob) for blob in page)
            yield [replace(state, metadata={}, headers=None) for state in states]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live blobs as batches in the inventory's schema."""
        for page in self._listing(bucket, prefix):
            told = [blob.properties for blob in page]
            yield inventory_batch(
                Provider.AZURE,
                bucket,
                day,
                keys=[blob.name for blob in page],
                sizes_bytes=[int(each["content-length"]) for each in told],
                storage_classes=[tier_of(each) for each in told],
                etags=[each["etag"].strip('"') for each in told],
                last_modified_at=[at(each["last-modified"]) for each in told],
                class_since_at=[class_since(each) for each in told],
                content_types=[each.get("content-type") for each in told],
                lock_reasons=[lock_reason(each) for each in told],
            )

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""
        for page in self._listing(bucket, prefix, start_from):
            # services before version 2026-02-06 list what comes before as well
            for blob in (blob for blob in page if blob.name >= start_from):
                told = blob.properties
                etag, size_bytes = told["etag"].strip('"'), int(told["content-length"])
                yield StoredFile(bucket, blob.name, etag, size_bytes, at(told["last-modified"]))

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live blob of that name. Raises ``ObjectNotFound``."""
        pace = self._pace_of(ref.bucket)
        answer = ask(lambda: self._requests.look(ref.bucket, ref.key), pace, self._patience, ref.uri)
        if answer.status != 200:
            raise refusal(answer.status, *error_of(answer), ref.uri)
        state = state_of(ref, answer.content)
        if not tags or answer.content.properties.get("tag-count", "0") == "0":
            return state
        answer = ask(lambda: self._requests.tags(ref.bucket, ref.key), pace, self._patience, ref.uri)
        if answer.status != 200:
            raise refusal(answer.status, *error_of(answer), ref.uri)
        return replace(state, tags=answer.content)

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many blobs at once, in order; None for one that is not there.

        Where they lie close together they are listed, at most 5,000 in a request; a listing tells what a look tells.
        With ``lease_moves`` a lease that a killed attempt of ours has left is given back.
        """
        states = self._looks(refs, tags=tags, include="metadata,tags" if tags else "metadata")
        return self._lookers.map(self._without_our_lease, states) if self._lease_moves else states

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each blob to its tier, if it is still the one that was seen."""
        results: dict[int, TierChangeResult] = {}
        ready: dict[int, TierChange] = {}
        wanted: dict[tuple[str, str], list[int]] = {}
        for number, (change, state) in enumerate(zip(changes, self._just_seen(changes), strict=True)):
            decided = self._decided(change, state)
            if isinstance(decided, TierChangeResult):
                results[number] = decided
            else:
                ready[number] = decided
                wanted.setdefault((change.ref.bucket, change.to_class), []).append(number)
        size = self.capabilities.batch_size
        batches = [
            numbers[first : first + size] for numbers in wanted.values() for first in range(0, len(numbers), size)
        ]

        def move(numbers: list[int]) -> list[TierChangeResult]:
            batch = [ready[number] for number in numbers]
            return self._move_leased(batch) if self._lease_moves else self._move(batch)

        # A batch under leases has requests of its own at once.
        outcomes = map(move, batches) if self._lease_moves else self._changers.map(move, batches)
        for numbers, moved in zip(batches, outcomes, strict=True):
            results.update(zip(numbers, moved, strict=True))
        doubtful = [number for number in sorted(ready) if results[number].outcome is ChangeOutcome.CHANGED]
        confirmed = self._confirmed([ready[number] for number in doubtful], [results[number] for number in doubtful])
        results.update(zip(doubtful, confirmed, strict=True))
        return [results[number] for number in range(len(changes))]

    def _looks(self, refs: Sequence[ObjectRef], *, tags: bool, include: str) -> list[ObjectState | Unseen | None]:
        """Look at blobs with the listing's ``include``, and one by one where listing does not pay."""

        def look(bucket: str, keys: Sequence[str]) -> Mapping[str, ObjectState | Unseen | None]:
            return look_at(
                keys,
                ref_of=partial(ObjectRef, Provider.AZURE, bucket),
                list_from=self._list_from(bucket, include),
                look=self._look_one(bucket, tags),
                page_objects=LISTED_PAGE,
                look_batch=1,
                workers=self._lookers,
            )

        return look_in_each_bucket(refs, look)

    def _list_from(self, bucket: str, include: str) -> Callable[[str, str, int], tuple[list[ObjectState], bool]]:
        def page(start: str, prefix: str, limit: int) -> tuple[list[ObjectState], bool]:
            blobs, marker = self._page(bucket, prefix, start=start, limit=limit, include=include)
            return [state_of(ObjectRef(Provider.AZURE, bucket, blob.name), blob) for blob in blobs], bool(marker)

        return page

    def _look_one(self, bucket: str, tags: bool) -> Callable[[Sequence[str]], list[ObjectState | Unseen | None]]:
        def look(keys: Sequence[str]) -> list[ObjectState | Unseen | None]:
            (key,) = keys
            ref = ObjectRef(Provider.AZURE, bucket, key)
            try:
                return [self.head(ref, tags=tags)]
            except ObjectNotFound:
                return [None]
            except EVERYTHING_REFUSED:
                raise
            except (TerminalError, TransientError) as exc:
                return [Unseen(ref, str(exc), isinstance(exc, TransientError))]

        return look

    def _just_seen(self, changes: Sequence[TierChange]) -> list[ObjectState | Unseen | None]:
        """Give the blobs' states of now: those that came with the changes, and looks at the others."""
        bare = [change.ref for change in changes if change.now is None]
        looked = iter(self.head_many(bare, tags=False))
        return [next(looked) if change.now is None else change.now for change in changes]

    def _decided(self, change: TierChange, now: ObjectState | Unseen | None) -> TierChangeResult | TierChange:
        """Tell why the tier needs no change, or must not be changed; else give the change, which can go ahead."""
        if now is None:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the blob is gone")
        if isinstance(now, Unseen):
            return unavailable_or_refused(change, now)
        outcome, detail = None, ""
        if change.to_class not in self.capabilities.classes:
            outcome, detail = ChangeOutcome.ERROR, unknown_class(Provider.AZURE, change.to_class)
        elif now.etag != change.seen.etag:
            outcome, detail = ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {now.etag}"
        elif now.restore is RestoreState.RUNNING:
            outcome, detail = ChangeOutcome.RESTORING, "it is being rehydrated"
        elif now.storage_class == change.to_class:
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif now.lock_reason is not None and not (self._lease_moves and now.lock_reason.startswith(LEASED_REASON)):
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif now.storage_class in self.capabilities.restore_needed_from:
            if change.restore is None:
                outcome, detail = ChangeOutcome.ERROR, f"it is in {now.storage_class}: restore it first"
            elif change.restore.priority not in _PRIORITIES:
                known = " or ".join(_PRIORITIES)
                outcome = ChangeOutcome.ERROR
                detail = f"Azure has no rehydration of priority {change.restore.priority!r}: choose {known}"
        return replace(change, now=now) if outcome is None else TierChangeResult(change.ref, outcome, detail)

    def _move(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Set the tiers of one batch; CHANGED is to be confirmed by a look."""
        bucket = changes[0].ref.bucket

        def send(pending: Sequence[TierChange]) -> Answer | Sequence[Answer]:
            answer = self._requests.set_tiers(bucket, [self._setting(change) for change in pending])
            if isinstance(answer, Answer) and answer.status not in NOT_ACTED_ON | UNCERTAIN:
                whole = f"a batch of {len(pending)} blobs in container {bucket!r}"
                error = refusal(answer.status, *error_of(answer), whole)
                if isinstance(error, EVERYTHING_REFUSED):
                    raise error
            return answer

        return change_in_batch(
            changes,
            send=send,
            read=self._read,
            look=self._settled,
            pace=self._pace_of(bucket),
            patience=self._patience,
        )

    def _setting(self, change: TierChange) -> TierSetting:
        restored = change.now is not None and change.now.storage_class in self.capabilities.restore_needed_from
        return TierSetting(
            change.ref.key,
            change.to_class,
            _PRIORITIES[change.restore.priority] if restored and change.restore is not None else None,
            self._requests.lease_id(change.ref.bucket, change.ref.key) if self._lease_moves else None,
        )

    def _move_leased(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Set the tiers of one batch, each blob leased on the condition of its ETag meanwhile."""
        refused = self._changers.map(self._acquire, changes)
        ours = [change for change, result in zip(changes, refused, strict=True) if result is None]
        try:
            moved = iter(self._move(ours) if ours else [])
        finally:
            self._changers.map(self._release, [change.ref for change in ours])
        return [result if result is not None else next(moved) for result in refused]

    def _acquire(self, change: TierChange) -> TierChangeResult | None:
        """Lease a blob if it is still the one that was seen; None when it is ours. An old lease of ours is renewed."""
        ref = change.ref
        headers = {
            "x-ms-lease-duration": str(_LEASE_SECONDS),
            "x-ms-proposed-lease-id": self._requests.lease_id(ref.bucket, ref.key),
            "If-Match": f'"{change.seen.etag}"',
        }
        try:
            answer = ask(
                lambda: self._requests.lease(ref.bucket, ref.key, "acquire", headers),
                self._pace_of(ref.bucket),
                self._patience,
                ref.uri,
            )
        except TransientError as exc:
            return TierChangeResult(ref, ChangeOutcome.UNAVAILABLE, str(exc))
        if answer.status in (200, 201):
            return None
        if answer.status == 412:
            return TierChangeResult(ref, ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile")
        return self._read(change, answer)

    def _release(self, ref: ObjectRef) -> bool:
        """Give our lease back, and tell whether there was one. What cannot be given back ends within a minute."""
        headers = {"x-ms-lease-id": self._requests.lease_id(ref.bucket, ref.key)}
        try:
            self._pace_of(ref.bucket).admit()
            answer = self._requests.lease(ref.bucket, ref.key, "release", headers)
        except (AnswerLost, LeftAlone):
            return False
        return answer.status == 200

    def _without_our_lease(self, state: ObjectState | Unseen | None) -> ObjectState | Unseen | None:
        """Give a lease back if it is ours: Azure tells that a blob is leased, but not by whom."""
        if not isinstance(state, ObjectState) or not (state.lock_reason or "").startswith(LEASED_REASON):
            return state
        return replace(state, lock_reason=None) if self._release(state.ref) else state

    def _read(self, change: TierChange, answer: Answer) -> TierChangeResult:
        """Read one answer of a batch. Raises what concerns more than this blob."""
        request_id = answer.headers.get("x-ms-request-id")
        if answer.status in (200, 202):
            return TierChangeResult(change.ref, ChangeOutcome.CHANGED, "", request_id)
        code, message = error_of(answer)
        error = refusal(answer.status, code, message, change.ref.uri)
        if isinstance(error, EVERYTHING_REFUSED):
            raise error
        outcome, detail = ChangeOutcome.ERROR, f"Azure answered {answer.status} {code}".strip()
        if isinstance(error, ObjectNotFound):
            outcome, detail = ChangeOutcome.NOT_FOUND, "the blob is gone"
        elif self._lease_moves and code == "LeaseNotPresentWithBlobOperation":
            outcome, detail = ChangeOutcome.UNAVAILABLE, "our lease had ended before the change was made"
        elif code in LOCKED:
            outcome = ChangeOutcome.LOCKED
        elif code in _REHYDRATING:
            outcome = ChangeOutcome.RESTORING
        return TierChangeResult(change.ref, outcome, detail, request_id)

    def _settled(self, changes: Sequence[TierChange]) -> list[TierChangeResult | None]:
        """Let the blobs themselves tell what became of changes whose answers were lost; None: nothing."""
        looked = self._looks([change.ref for change in changes], tags=False, include="")
        note = "the answer was lost, the blob has moved"
        return [self._become(change, state, None, note) for change, state in zip(changes, looked, strict=True)]

    def _confirmed(self, changes: Sequence[TierChange], results: Sequence[TierChangeResult]) -> list[TierChangeResult]:
        """Look at blobs whose tier was set: Azure had no condition that they must still be what was seen."""
        looked = self._looks([change.ref for change in changes], tags=True, include="metadata,tags")
        confirmed = []
        for change, result, state in zip(changes, results, looked, strict=True):
            found = self._become(change, state, result.request_id, result.detail)
            if found is not None and found.outcome is ChangeOutcome.CHANGED and isinstance(state, ObjectState):
                found = replace(found, after=state)
            elif found is None:
                is_in = state.storage_class if isinstance(state, ObjectState) else "unknown"
                detail = f"Azure accepted the change, but its tier is {is_in}"
                found = TierChangeResult(change.ref, ChangeOutcome.ERROR, detail, result.request_id)
            confirmed.append(found)
        return confirmed

    def _become(
        self, change: TierChange, state: ObjectState | Unseen | None, request_id: str | None, note: str
    ) -> TierChangeResult | None:
        """Tell from a look what became of a change; None when the blob is as it was before."""
        if state is None:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the blob was deleted meanwhile", request_id)
        if isinstance(state, Unseen):
            return replace(unavailable_or_refused(change, state), request_id=request_id)
        if state.etag != change.seen.etag:
            detail = f"it was overwritten meanwhile; the new content is untouched, {self._give_back(change, state)}"
            return TierChangeResult(change.ref, ChangeOutcome.CONFLICT, detail, request_id)
        if state.restore is RestoreState.RUNNING:
            return TierChangeResult(change.ref, ChangeOutcome.RESTORING, "it is being rehydrated", request_id)
        if state.storage_class != change.to_class:
            return None
        return TierChangeResult(change.ref, ChangeOutcome.CHANGED, note, request_id)

    def _give_back(self, change: TierChange, newer: ObjectState) -> str:
        """Give a blob that was overwritten its tier back, if our change met its new content; tells what was done."""
        ref, was = change.ref, (change.now or change.seen).storage_class
        pace = self._pace_of(ref.bucket)
        stays = f"its tier is {newer.storage_class}"
        try:
            answer = ask(lambda: self._requests.look(ref.bucket, ref.key), pace, self._patience, ref.uri)
            if answer.status != 200:
                return stays
            told = answer.content.properties
            changed_at = told.get("access-tier-change-time")
            ours = (
                tier_of(told) == change.to_class
                and told.get("access-tier-inferred") != "true"
                and changed_at is not None
                and at(changed_at) >= at(told["last-modified"])
            )
            if not ours:
                return stays
            setting = TierSetting(ref.key, was)
            answer = ask(
                lambda: _single(self._requests.set_tiers(ref.bucket, [setting])), pace, self._patience, ref.uri
            )
        except TransientError as exc:
            return f"{stays}, and could not be set back to {was}: {exc}"
        if answer.status not in (200, 202):
            return f"{stays}, and could not be set back to {was}: Azure answered {answer.status} {error_of(answer)[0]}"
        return f"its tier was set back to {was}"

    def _blob(self, ref: ObjectRef) -> Any:
        return self._service.get_blob_client(ref.bucket, ref.key)

    def _listing(self, bucket: str, prefix: str, start: str = "") -> Iterator[list[Blob]]:
        marker = ""
        while True:
            blobs, marker = self._page(bucket, prefix, start=start, marker=marker, limit=PAGE_OBJECTS)
            if blobs:
                yield blobs
            if not marker:
                return

    def _page(self, bucket: str, prefix: str, **asked: Any) -> tuple[list[Blob], str]:
        what = f"container {bucket!r}"
        answer = ask(
            lambda: self._requests.list_page(bucket, prefix, **asked), self._pace_of(bucket), self._patience, what
        )
        if answer.status != 200:
            raise refusal(answer.status, *error_of(answer), what)
        page: tuple[list[Blob], str] = answer.content
        return page


def _single(answer: Answer | Sequence[Answer]) -> Answer:
    return answer if isinstance(answer, Answer) else answer[0]
