"""Google Cloud Storage: an object changes its class by being rewritten in place, in batches of up to 100.

The rewrite is conditional on the generation and metageneration that were seen, of the source as of the destination, and
carries the object's metadata and, where buckets still use them, its ACL. It makes a new generation: in a versioned
bucket the one before would be billed for ever. It is deleted once the new one is seen, if the bucket's owner allows
that; else nothing moves there.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pyarrow as pa
import requests
from google.api_core.exceptions import Conflict, GoogleAPICallError, NotFound, RetryError
from google.auth.exceptions import GoogleAuthError

from cloudflux.domain.errors import (
    BucketNotFound,
    CloudFluxError,
    ObjectLocked,
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers import gcp_requests
from cloudflux.providers.batches import (
    EVERYTHING_REFUSED,
    NOT_ACTED_ON,
    UNCERTAIN,
    Answer,
    Patience,
    ask,
    ask_in_batch,
    change_in_batch,
    look_at,
    unavailable_or_refused,
)
from cloudflux.providers.gcp_answers import (
    at,
    class_since,
    lock_reason,
    named,
    refusal,
    state_of,
    translated,
    without_key_version,
)
from cloudflux.providers.gcp_requests import BATCH_CALLS, Call, ObjectRequests
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import (
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
    map_concurrently,
    unknown_class,
)

_FAULTS: Final = (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException)
_CARRIED: Final = (
    "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType", "contexts", "customTime",
    "eventBasedHold", "kmsKeyName", "metadata", "temporaryHold",
)  # fmt: skip
"""What a rewrite must be told of an object, or it is lost. Retention is not: an object under it is not moved."""
_REMEMBERED: Final = 20_000
_DAY_SECONDS: Final = 86_400
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _BucketFacts:
    """What of a bucket decides how its objects are rewritten."""

    versioned: bool
    autoclass: bool
    has_acls: bool
    soft_delete_days: int
    """For how long the bucket keeps, and bills, what is deleted or overwritten."""


class _Source(NamedTuple):
    """What a rewrite needs to know of an object beside its state."""

    etag: str
    generation: str
    metageneration: str
    carried: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A change that can go ahead, with the object as it was just seen."""

    change: TierChange
    source: _Source | None
    """None: of an object that is in its class already."""


class GcpTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a ``google.cloud.storage.Client``, as ``GCSHook.get_conn()`` gives it.

    ``in_flight`` requests run at once, each in a thread; a batch is one request, and counts as its calls in a bucket's
    ``pace_of``. A request is sent ``attempts`` times until it is served. ``remove_superseded`` tells whether the
    generation that a move supersedes in a versioned bucket may be deleted, of all buckets or of one. Our name in the
    user agent is up to whoever makes the client (``client_info``): afterwards it cannot be set.
    """

    provider: Provider = Provider.GCP
    capabilities: TierCapabilities = CAPABILITIES[Provider.GCP]

    def __init__(
        self,
        client: Any,
        *,
        in_flight: int = 16,
        pace_of: Callable[[str], Pace] | None = None,
        remove_superseded: bool | Callable[[str], bool] = True,
        attempts: int = 8,
        timeout_seconds: float = 60,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._in_flight = in_flight
        self._pace_of = pace_of or lru_cache(maxsize=None)(lambda bucket: Pace(max_in_flight=in_flight))
        self._may_remove = remove_superseded if callable(remove_superseded) else lambda bucket: bool(remove_superseded)
        self._patience = Patience(attempts, sleep)
        self._requests = ObjectRequests(client, timeout_seconds, in_flight)
        self._clock = clock  # tells only whether a retention is over
        self._facts: dict[str, _BucketFacts] = {}
        self._facts_lock = threading.Lock()
        self._sources: OrderedDict[tuple[str, str], _Source] = OrderedDict()
        """Of the objects looked at last: a state has no metageneration, on which a rewrite is conditional."""
        self._sources_lock = threading.Lock()

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket without ACLs; one that is ours already is fine."""
        wanted = self._client.bucket(bucket)
        wanted.iam_configuration.uniform_bucket_level_access_enabled = True
        try:
            self._client.create_bucket(wanted)
        except Conflict:
            self._bucket_facts(bucket)  # refused when it is somebody else's
        except _FAULTS as exc:
            raise translated(exc, f"bucket {bucket!r}") from exc

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
        """Write an object, over the one that is there.

        Raises ``TerminalError`` when tags are given: objects have none here.
        """
        if tags:
            raise TerminalError(f"{ref.uri}: Google Cloud Storage has no tags on objects, put them into metadata")
        blob = self._blob(ref)
        if storage_class is not None:
            blob.storage_class = storage_class
        if metadata:
            blob.metadata = dict(metadata)
        try:
            blob.upload_from_string(data, content_type=content_type or "application/octet-stream")
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc
        return self._state(ref.bucket, blob._properties)

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
        try:
            content: bytes = self._blob(ref).download_as_bytes()
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc
        return content

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces, all of one generation. Raises ``ObjectNotFound``."""
        try:
            blob = self._load(ref)
            for start in range(0, blob.size, block_bytes):
                end = min(start + block_bytes, blob.size) - 1
                yield blob.download_as_bytes(start=start, end=end, if_generation_match=blob.generation)
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete an object; one that is gone already is fine. Raises ``ObjectLocked``."""
        try:
            self._blob(ref).delete()
        except NotFound:
            return
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live objects by key, at most 1000 at a time."""
        for page in self._listing(bucket, prefix):
            states = (self._state(bucket, item) for item in page)
            yield [replace(state, metadata={}, headers=None) for state in states]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""
        for page in self._listing(bucket, prefix):
            yield inventory_batch(
                Provider.GCP,
                bucket,
                day,
                keys=[item["name"] for item in page],
                sizes_bytes=[int(item["size"]) for item in page],
                storage_classes=[item["storageClass"] for item in page],
                etags=[item["etag"] for item in page],
                last_modified_at=[at(item["updated"]) for item in page],
                class_since_at=[class_since(item) for item in page],
                version_ids=[item["generation"] for item in page],
                content_types=[item.get("contentType") for item in page],
                lock_reasons=[lock_reason(item, self._clock) for item in page],
            )

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""
        for page in self._listing(bucket, prefix, start_from):
            for item in page:
                yield StoredFile(bucket, item["name"], item["etag"], int(item["size"]), at(item["updated"]))

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        call = gcp_requests.look(ref.bucket, ref.key)
        answer = ask(lambda: self._requests.call(call), self._pace_of(ref.bucket), self._patience, ref.uri)
        if answer.status != 200:
            raise refusal(answer, ref.uri)
        return self._seen(ref.bucket, [answer.content])[0]

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order; None for one that is not there.

        Where they lie close together they are listed, at most 1,000 in a request; the others are asked for in batches.
        """
        keys: dict[str, list[str]] = {}
        for ref in refs:
            keys.setdefault(ref.bucket, []).append(ref.key)
        found: dict[tuple[str, str], ObjectState | Unseen | None] = {}
        for bucket, wanted in keys.items():
            states = look_at(
                wanted,
                ref_of=partial(ObjectRef, Provider.GCP, bucket),
                list_from=self._list_from(bucket),
                look=self._look(bucket),
                page_objects=PAGE_OBJECTS,
                look_batch=BATCH_CALLS,
                in_flight=self._in_flight,
            )
            if len(keys) == 1:
                return [states[ref.key] for ref in refs]
            found.update(((bucket, key), state) for key, state in states.items())
        return [found[ref.bucket, ref.key] for ref in refs]

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        results: list[TierChangeResult | None] = [None] * len(changes)
        ready: dict[int, _Ready] = {}
        moves: dict[str, list[int]] = {}
        made: dict[str, list[int]] = {}
        standings: dict[str, _BucketFacts | CloudFluxError] = {}
        for number, (change, (state, source)) in enumerate(zip(changes, self._just_seen(changes), strict=True)):
            bucket = change.seen.ref.bucket
            standing = standings.get(bucket)
            if standing is None:
                standing = standings[bucket] = self._standing(bucket)
            decided = self._decided(change, state, standing)
            if decided is None and source is not None and isinstance(state, ObjectState):
                ready[number] = _Ready(_as_seen(change, state), source)
                moves.setdefault(bucket, []).append(number)
            elif decided is None:
                detail = f"more than {_REMEMBERED} objects were looked at before it was moved"
                results[number] = TierChangeResult(change.ref, ChangeOutcome.UNAVAILABLE, detail)
            else:
                results[number] = decided
                if decided.outcome is ChangeOutcome.CHANGED and isinstance(state, ObjectState):
                    ready[number] = _Ready(_as_seen(change, state), None)
                    made.setdefault(bucket, []).append(number)

        def finish(numbers: list[int]) -> list[TierChangeResult]:
            return self._finish([ready[number].change for number in numbers])

        def move(numbers: list[int]) -> list[TierChangeResult]:
            return self._move([ready[number] for number in numbers])

        for numbers, outcomes in self._batched(finish, made) + self._batched(move, moves):
            for number, outcome in zip(numbers, outcomes, strict=True):
                results[number] = outcome
        return [result for result in results if result is not None]

    def _batched(
        self, work: Callable[[list[int]], list[TierChangeResult]], numbers_of: Mapping[str, list[int]]
    ) -> list[tuple[list[int], list[TierChangeResult]]]:
        batches = [
            numbers[first : first + BATCH_CALLS]
            for numbers in numbers_of.values()
            for first in range(0, len(numbers), BATCH_CALLS)
        ]
        return list(zip(batches, map_concurrently(work, batches, self._in_flight), strict=True))

    def _just_seen(self, changes: Sequence[TierChange]) -> list[tuple[ObjectState | Unseen | None, _Source | None]]:
        """Give the objects' states of now: those that came with the changes, and looks at the others.

        A state that another process looked at does not tell the metageneration on which the rewrite is to depend: such
        an object is looked at again.
        """
        sources = [self._source(change.now) if change.now is not None else None for change in changes]
        bare = [change.ref for change, source in zip(changes, sources, strict=True) if source is None]
        looked = iter(self.head_many(bare))
        seen: list[tuple[ObjectState | Unseen | None, _Source | None]] = []
        for change, source in zip(changes, sources, strict=True):
            if source is not None:
                seen.append((change.now, source))
            else:
                state = next(looked)
                seen.append((state, self._source(state) if isinstance(state, ObjectState) else None))
        return seen

    def _standing(self, bucket: str) -> _BucketFacts | CloudFluxError:
        """Tell of a bucket what decides how its objects are rewritten, or why it does not say."""
        try:
            return self._bucket_facts(bucket)
        except EVERYTHING_REFUSED:
            raise
        except (TerminalError, TransientError) as exc:
            return exc

    def _decided(
        self, change: TierChange, now: ObjectState | Unseen | None, facts: _BucketFacts | CloudFluxError
    ) -> TierChangeResult | None:
        """Tell why nothing needs to be rewritten, or must not be; None: it can go ahead."""
        if now is None:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the object is gone")
        if isinstance(now, Unseen):
            return unavailable_or_refused(change, now)
        bucket = now.ref.bucket
        outcome, detail = None, ""
        if change.to_class not in self.capabilities.classes:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, unknown_class(Provider.GCP, change.to_class))
        if isinstance(facts, CloudFluxError):
            passing = isinstance(facts, TransientError)
            outcome = ChangeOutcome.UNAVAILABLE if passing else ChangeOutcome.ERROR
            return TierChangeResult(change.ref, outcome, str(facts))
        unchanged = now.etag == change.seen.etag
        if now.storage_class == change.to_class and (unchanged or same_content(change.seen, now)):
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif not unchanged or (change.now is not None and change.now.etag != now.etag):
            outcome, detail = ChangeOutcome.CONFLICT, f"it was {named(change.seen)} and is {named(now)}"
        elif now.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif facts.autoclass:
            outcome = ChangeOutcome.ERROR
            detail = f"Autoclass decides the classes in bucket {bucket!r}: say `autopilot: true` of it in the estate"
        elif facts.versioned and not self._may_remove(bucket):
            outcome = ChangeOutcome.ERROR
            detail = (
                f"bucket {bucket!r} keeps versions, and the one that a move supersedes would be billed for ever: "
                "allow remove_superseded_versions for it"
            )
        return None if outcome is None else TierChangeResult(change.ref, outcome, detail)

    def _finish(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Remove what an earlier attempt at changes that are made already has left behind."""
        done = [TierChangeResult(change.ref, ChangeOutcome.CHANGED, "already there") for change in changes]
        bucket = changes[0].ref.bucket
        if not self._bucket_facts(bucket).versioned:
            return done
        superseded = [
            number
            for number, change in enumerate(changes)
            if change.now is not None
            and change.seen.ref.version_id is not None
            and change.seen.ref.version_id != change.now.ref.version_id
        ]
        if superseded and self._may_remove(bucket):
            for number, left in zip(superseded, self._remove([changes[n] for n in superseded]), strict=True):
                if left is not None:
                    done[number] = TierChangeResult(changes[number].ref, ChangeOutcome.ERROR, left)
        return done

    def _move(self, batch: Sequence[_Ready]) -> list[TierChangeResult]:
        """Rewrite one batch of objects of one bucket."""
        changes = [ready.change for ready in batch]
        sources = {ready.change.seen.ref.key: ready.source for ready in batch if ready.source is not None}
        bucket = changes[0].seen.ref.bucket
        facts = self._bucket_facts(bucket)
        acls, refused = self._acls(changes) if facts.has_acls else ({}, {})
        tokens: dict[str, str] = {}

        def send(pending: Sequence[TierChange]) -> Answer | Sequence[Answer]:
            calls = []
            for change in pending:
                key = change.seen.ref.key
                source = sources[key]
                body = {**source.carried, **acls.get(key, _NOTHING), "storageClass": change.to_class}
                conditions = {"generation": source.generation, "metageneration": source.metageneration}
                calls.append(gcp_requests.rewrite(bucket, key, body, token=tokens.get(key), **conditions))
            answer = self._requests.batch(calls)
            if isinstance(answer, Answer) and answer.status not in NOT_ACTED_ON | UNCERTAIN:
                error = refusal(answer, f"a batch of {len(pending)} objects in bucket {bucket!r}")
                if isinstance(error, EVERYTHING_REFUSED):
                    raise error
            return answer

        results = dict(refused)
        pending = [change for change in changes if change.seen.ref.key not in refused]
        while pending:
            sent = change_in_batch(
                pending,
                send=send,
                read=self._read,
                look=self._settled,
                pace=self._pace_of(bucket),
                patience=self._patience,
            )
            results.update((result.ref.key, result) for result in sent)
            # A long rewrite gives a token, and goes on when it is called again with it.
            tokens = {result.ref.key: result.detail for result in sent if result.outcome is ChangeOutcome.PENDING}
            pending = [change for change in pending if change.seen.ref.key in tokens] if tokens else []
        if facts.versioned:
            moved = [change for change in changes if results[change.seen.ref.key].outcome is ChangeOutcome.CHANGED]
            for change, left in zip(moved, self._remove(moved) if moved else [], strict=True):
                if left is not None:
                    key = change.seen.ref.key
                    results[key] = replace(results[key], outcome=ChangeOutcome.ERROR, detail=left)
        return [results[change.seen.ref.key] for change in changes]

    def _acls(self, changes: Sequence[TierChange]) -> tuple[dict[str, Mapping[str, Any]], dict[str, TierChangeResult]]:
        """Read the access control lists that the rewrites must carry; and tell of which objects they cannot be read."""
        bucket = changes[0].ref.bucket
        acls: dict[str, Mapping[str, Any]] = {}
        refused: dict[str, TierChangeResult] = {}
        calls = {change.ref.key: gcp_requests.look(bucket, change.ref.key, acl=True) for change in changes}
        for change, answer in zip(changes, self._asked(bucket, calls), strict=True):
            outcome, detail = None, ""
            if answer is None:
                outcome, detail = ChangeOutcome.UNAVAILABLE, "its access control list could not be read"
            elif answer.status == 404:
                outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
            elif answer.status != 200:
                outcome, detail = ChangeOutcome.ERROR, str(refusal(answer, change.ref.uri))
            elif change.now is not None and answer.content.get("etag") != change.now.etag:
                outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            elif "acl" in answer.content:
                acls[change.ref.key] = {"acl": answer.content["acl"]}
            if outcome is not None:
                refused[change.ref.key] = TierChangeResult(change.ref, outcome, detail)
        return acls, refused

    def _read(self, change: TierChange, answer: Answer) -> TierChangeResult:
        """Read the answer to one rewrite; PENDING, with its token, when it has to be continued."""
        outcome, detail, after = ChangeOutcome.CHANGED, "", None
        content = answer.content
        if answer.status == 200 and not content.get("done"):
            outcome, detail = ChangeOutcome.PENDING, str(content["rewriteToken"])
        elif answer.status == 200:
            after = self._state(change.seen.ref.bucket, content["resource"])
            seen = change.seen
            same = after.checksum == seen.checksum or same_content(seen, after) is not False
            if after.size_bytes != seen.size_bytes or after.storage_class != change.to_class or not same:
                outcome = ChangeOutcome.ERROR
                detail = f"generation {after.ref.version_id} is not the copy that it should be"
                after = None
        elif answer.status == 412 or isinstance(refusal(answer, change.ref.uri), ObjectNotFound):
            # Overwritten, changed or deleted; or a call that was cut off was carried out after all, when we had looked.
            found = self._settled([change])[0]
            outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            if found is not None:
                return found
        else:
            error = refusal(answer, change.ref.uri)
            if isinstance(error, EVERYTHING_REFUSED):
                raise error
            outcome = ChangeOutcome.LOCKED if isinstance(error, ObjectLocked) else ChangeOutcome.ERROR
            detail = str(error)
        request_id = answer.headers.get("x-guploader-uploadid")
        return TierChangeResult(change.ref, outcome, detail, request_id, after)

    def _settled(self, changes: Sequence[TierChange]) -> list[TierChangeResult | None]:
        """Let the objects themselves tell what became of rewrites whose answers were lost; None: nothing."""
        settled: list[TierChangeResult | None] = []
        for change, state in zip(changes, self.head_many([change.ref for change in changes]), strict=True):
            outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            if state is None:
                outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
            elif isinstance(state, Unseen):
                settled.append(unavailable_or_refused(change, state))
                continue
            elif state.storage_class == change.to_class and same_content(change.seen, state):
                outcome, detail = ChangeOutcome.CHANGED, "an answer was lost, the object has moved"
            elif change.now is not None and state.etag == change.now.etag:
                settled.append(None)
                continue
            settled.append(TierChangeResult(change.ref, outcome, detail))
        return settled

    def _remove(self, changes: Sequence[TierChange]) -> list[str | None]:
        """Delete the generations that were seen, which are superseded; tells what is left where that cannot be."""
        bucket = changes[0].ref.bucket
        calls = {
            change.ref.key: gcp_requests.delete_generation(bucket, change.ref.key, change.seen.ref.version_id)
            for change in changes
            if change.seen.ref.version_id is not None
        }
        asked = dict(zip(calls, self._asked(bucket, calls), strict=True))
        left: list[str | None] = []
        for change in changes:
            generation = change.seen.ref.version_id
            answer = asked.get(change.ref.key)
            if answer is not None and answer.status in (200, 204, 404):
                left.append(None)
                continue
            why = "it was not served" if answer is None else str(refusal(answer, change.ref.uri))
            left.append(f"it moved, but its old generation {generation} is left and billed: {why}")
        return left

    def _asked(self, bucket: str, calls: Mapping[str, Call]) -> list[Answer | None]:
        """Send calls that may be repeated as one batch."""

        def send(keys: Sequence[str]) -> Answer | Sequence[Answer]:
            return self._requests.batch([calls[key] for key in keys])

        return ask_in_batch(list(calls), send, self._pace_of(bucket), self._patience)

    def _look(self, bucket: str) -> Callable[[Sequence[str]], list[ObjectState | Unseen | None]]:
        def look(keys: Sequence[str]) -> list[ObjectState | Unseen | None]:
            found: list[ObjectState | Unseen | None] = []
            calls = {key: gcp_requests.look(bucket, key) for key in keys}
            for key, answer in zip(keys, self._asked(bucket, calls), strict=True):
                ref = ObjectRef(Provider.GCP, bucket, key)
                if answer is None:
                    found.append(Unseen(ref, f"{ref.uri} could not be looked at: it was not served", passing=True))
                elif answer.status == 200:
                    found += self._seen(bucket, [answer.content])
                else:
                    error = refusal(answer, ref.uri)
                    if isinstance(error, EVERYTHING_REFUSED):
                        raise error
                    gone = isinstance(error, ObjectNotFound)
                    found.append(None if gone else Unseen(ref, str(error), passing=False))
            return found

        return look

    def _list_from(self, bucket: str) -> Callable[[str, str, int], tuple[list[ObjectState], bool]]:
        def page(start: str, prefix: str, limit: int) -> tuple[list[ObjectState], bool]:
            items, token = self._page(bucket, prefix, start=start, limit=limit)
            return self._seen(bucket, items), bool(token)

        return page

    def _seen(self, bucket: str, items: Sequence[Mapping[str, Any]]) -> list[ObjectState]:
        """Give objects' states, and remember what a rewrite of them needs beside."""
        sources = {(bucket, item["name"]): _source_of(item) for item in items}
        with self._sources_lock:
            # looked at again they become the newest
            for named_so in sources.keys() & self._sources.keys():
                del self._sources[named_so]
            self._sources.update(sources)
            while len(self._sources) > _REMEMBERED:
                self._sources.popitem(last=False)
        return [self._state(bucket, item) for item in items]

    def _source(self, state: ObjectState) -> _Source | None:
        """Give what a rewrite needs beside an object's state, if the object was looked at by this client."""
        with self._sources_lock:
            source = self._sources.get((state.ref.bucket, state.ref.key))
        return source if source is not None and source.etag == state.etag else None

    def soft_delete_days(self, bucket: str) -> int:
        """Tell for how many days a bucket keeps, and bills, the generation that a move overwrites; 0: not at all.

        Raises ``BucketNotFound``, or what the bucket's owner or network stands in the way with.
        """
        return self._bucket_facts(bucket).soft_delete_days

    def _bucket_facts(self, bucket: str) -> _BucketFacts:
        with self._facts_lock:
            if bucket not in self._facts:
                what = f"bucket {bucket!r}"
                answer = ask(lambda: self._requests.bucket(bucket), self._pace_of(bucket), self._patience, what)
                if answer.status == 404:
                    raise BucketNotFound(f"there is no bucket {bucket!r}")
                if answer.status != 200:
                    raise refusal(answer, what)
                told = answer.content
                uniform = told.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {}).get("enabled")
                kept = told.get("softDeletePolicy", {})
                self._facts[bucket] = _BucketFacts(
                    versioned=bool(told.get("versioning", {}).get("enabled")),
                    autoclass=bool(told.get("autoclass", {}).get("enabled")),
                    has_acls=not uniform,
                    soft_delete_days=-(-int(kept.get("retentionDurationSeconds", 0)) // _DAY_SECONDS),
                )
            return self._facts[bucket]

    def _blob(self, ref: ObjectRef) -> Any:
        return self._client.bucket(ref.bucket).blob(ref.key)

    def _load(self, ref: ObjectRef) -> Any:
        blob = self._blob(ref)
        try:
            blob.reload()
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc
        return blob

    def _listing(self, bucket: str, prefix: str, start: str = "") -> Iterator[list[Mapping[str, Any]]]:
        token = ""
        while True:
            items, token = self._page(bucket, prefix, start=start, token=token, limit=PAGE_OBJECTS)
            if items:
                yield items
            if not token:
                return

    def _page(self, bucket: str, prefix: str, **asked: Any) -> tuple[list[Mapping[str, Any]], str]:
        what = f"bucket {bucket!r}"
        answer = ask(
            lambda: self._requests.list_page(bucket, prefix, **asked), self._pace_of(bucket), self._patience, what
        )
        if answer.status == 404:
            raise BucketNotFound(f"there is no bucket {bucket!r}")
        if answer.status != 200:
            raise refusal(answer, what)
        return answer.content.get("items", []), answer.content.get("nextPageToken", "")

    def _state(self, bucket: str, item: Mapping[str, Any]) -> ObjectState:
        return state_of(bucket, item, self._clock)


def _source_of(item: Mapping[str, Any]) -> _Source:
    carried = {name: item[name] for name in _CARRIED if name in item}
    if "kmsKeyName" in carried:
        # Named with a key's version it would be refused: a rewrite takes the newest.
        carried["kmsKeyName"] = without_key_version(carried["kmsKeyName"])
    return _Source(item["etag"], item["generation"], item["metageneration"], carried)


def _as_seen(change: TierChange, now: ObjectState) -> TierChange:
    return change if change.now is now else replace(change, now=now)
