"""Google Cloud Storage: an object changes its class by being rewritten in place.

The rewrite is conditional on the generation and metageneration that were seen, of the source as of the destination, and
carries the object's metadata and, where buckets still use them, its ACL. It makes a new generation: in a versioned
bucket the one before, which would be billed for ever, is deleted once the new one is seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Final

import pyarrow as pa
import requests
from google.api_core.exceptions import (
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
    TooManyRequests,
)
from google.auth.exceptions import TransportError

from cloudflux.domain.errors import CloudFluxError, ObjectLocked, ObjectNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.protocol import (
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
    map_concurrently,
    unknown_class,
)

_FAULTS: Final = (GoogleAPICallError, RetryError, TransportError, requests.RequestException)
_KEPT_HEADERS: Final = (
    ("cacheControl", "cache-control"),
    ("contentDisposition", "content-disposition"),
    ("contentEncoding", "content-encoding"),
    ("contentLanguage", "content-language"),
    ("customTime", "custom-time"),
    ("kmsKeyName", "kms-key-name"),
)


@dataclass(frozen=True, slots=True)
class _BucketFacts:
    """What of a bucket decides how its objects are rewritten."""

    versioned: bool
    autoclass: bool


class GcpTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a ``google.cloud.storage.Client``, as ``GCSHook.get_conn()`` gives it.

    ``in_flight`` requests run at once, each in a thread. Our name in the user agent is up to whoever makes the client
    (``client_info``): afterwards it cannot be set.
    """

    provider: Provider = Provider.GCP
    capabilities: TierCapabilities = CAPABILITIES[Provider.GCP]

    def __init__(
        self, client: Any, *, in_flight: int = 10, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._in_flight = in_flight
        self._clock = clock  # tells only whether a retention is over
        self._facts: dict[str, _BucketFacts] = {}
        self._facts_lock = threading.Lock()

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket without ACLs; one that is ours already is fine."""
        wanted = self._client.bucket(bucket)
        wanted.iam_configuration.uniform_bucket_level_access_enabled = True
        try:
            self._client.create_bucket(wanted)
        except Conflict:
            self._bucket_facts(bucket)  # refused when it is somebody else's
        except _FAULTS as exc:
            raise _translated(exc, f"bucket {bucket!r}") from exc

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
            raise _translated(exc, ref.uri) from exc
        return self._state(ref, blob._properties)

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
            raise _translated(exc, ref.uri) from exc
        return content

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces, all of one generation. Raises ``ObjectNotFound``."""
        try:
            blob = self._load(ref)
            for start in range(0, blob.size, block_bytes):
                end = min(start + block_bytes, blob.size) - 1
                yield blob.download_as_bytes(start=start, end=end, if_generation_match=blob.generation)
        except _FAULTS as exc:
            raise _translated(exc, ref.uri) from exc

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete an object; one that is gone already is fine. Raises ``ObjectLocked``."""
        try:
            self._blob(ref).delete()
        except NotFound:
            return
        except _FAULTS as exc:
            raise _translated(exc, ref.uri) from exc

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live objects by key, at most 1000 at a time."""
        for page in self._listing(bucket, prefix):
            states = (self._state(ObjectRef(Provider.GCP, bucket, item["name"]), item) for item in page)
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
                last_modified_at=[_at(item["updated"]) for item in page],
                class_since_at=[_class_since(item) for item in page],
                version_ids=[item["generation"] for item in page],
                content_types=[item.get("contentType") for item in page],
                lock_reasons=[self._lock_reason(item) for item in page],
            )

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""
        for page in self._listing(bucket, prefix, start_from):
            for item in page:
                yield StoredFile(bucket, item["name"], item["etag"], int(item["size"]), _at(item["updated"]))

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        return self._state(ref, self._load(ref)._properties)

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | None]:
        """Look at many objects at once, in order; None for one that is not there."""

        def head(ref: ObjectRef) -> ObjectState | None:
            try:
                return self.head(ref, tags=tags)
            except ObjectNotFound:
                return None

        return map_concurrently(head, refs, self._in_flight)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        return map_concurrently(self._change, changes, self._in_flight)

    def _change(self, change: TierChange) -> TierChangeResult:
        if change.to_class not in self.capabilities.classes:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, unknown_class(Provider.GCP, change.to_class))
        try:
            facts = self._bucket_facts(change.ref.bucket)
            blob = self._load(change.ref, projection="full")  # with the ACL, where there is one
            obstacle = self._obstacle(change, self._state(change.ref, blob._properties), facts)
            return obstacle if obstacle is not None else self._rewrite(change, blob, facts)
        except ObjectNotFound:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the object is gone")
        except ObjectLocked as exc:
            return TierChangeResult(change.ref, ChangeOutcome.LOCKED, str(exc))
        except TerminalError as exc:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, str(exc))

    @staticmethod
    def _obstacle(change: TierChange, now: ObjectState, facts: _BucketFacts) -> TierChangeResult | None:
        """Tell why nothing needs to be rewritten, or must not be; None when the rewrite can go ahead."""
        outcome, detail = None, ""
        generation = change.seen.ref.version_id
        unchanged = now.ref.version_id == generation if generation else now.etag == change.seen.etag
        if now.storage_class == change.to_class and (unchanged or same_content(change.seen, now)):
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif not unchanged:
            was = f"generation {generation}" if generation else f"ETag {change.seen.etag}"
            outcome, detail = ChangeOutcome.CONFLICT, f"it was {was} and is generation {now.ref.version_id}"
        elif now.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif facts.autoclass:
            outcome = ChangeOutcome.ERROR
            detail = f"Autoclass decides the classes in bucket {change.ref.bucket!r}: take the bucket off the estate"
        return None if outcome is None else TierChangeResult(change.ref, outcome, detail)

    def _rewrite(self, change: TierChange, blob: Any, facts: _BucketFacts) -> TierChangeResult:
        generation, metageneration = int(blob.generation), int(blob.metageneration)
        # A rewrite takes the metadata of its body alone: the blob, which was loaded, carries all of it.
        blob.storage_class = change.to_class
        if "kmsKeyName" in blob._properties:
            # Named with a key's version, the library would not pass the key on, and the bucket's default would be used.
            blob._properties["kmsKeyName"] = _without_key_version(blob._properties["kmsKeyName"])
        source = self._client.bucket(change.ref.bucket).blob(change.ref.key, generation=generation)
        token: str | None = None
        try:
            while True:
                token, _, _ = blob.rewrite(
                    source,
                    token=token,
                    if_generation_match=generation,
                    if_metageneration_match=metageneration,
                    if_source_generation_match=generation,
                    if_source_metageneration_match=metageneration,
                )
                if token is None:
                    break
        except (PreconditionFailed, NotFound):
            # Overwritten or deleted; or the library repeated a request whose answer was lost, and met what it had made.
            return self._settled(change, None)
        except (RetryError, TransportError, requests.RequestException) as exc:
            return self._settled(change, exc)
        except _FAULTS as exc:
            raise _translated(exc, change.ref.uri) from exc
        if facts.versioned and (left_behind := self._remove_old_generation(change, generation, blob)):
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, left_behind)
        return TierChangeResult(change.ref, ChangeOutcome.CHANGED)

    def _settled(self, change: TierChange, lost: Exception | None) -> TierChangeResult:
        """Let the object itself tell what became of a rewrite."""
        now = self.head(change.ref)
        if now.storage_class == change.to_class and same_content(change.seen, now):
            return TierChangeResult(change.ref, ChangeOutcome.CHANGED, "an answer was lost, the object has moved")
        if lost is not None:
            raise _translated(lost, change.ref.uri) from lost
        return TierChangeResult(change.ref, ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile")

    def _remove_old_generation(self, change: TierChange, old: int, blob: Any) -> str | None:
        """Delete the generation that was rewritten, once the new one is seen; tells what is left when it cannot."""
        now = self._state(change.ref, blob._properties)
        if now.size_bytes != change.seen.size_bytes or now.storage_class != change.to_class:
            return f"generation {now.ref.version_id} is not the copy of {old} that it should be: both are kept"
        try:
            self._client.bucket(change.ref.bucket).blob(change.ref.key, generation=old).delete()
        except NotFound:
            return None
        except _FAULTS as exc:
            error = _translated(exc, change.ref.uri)
            return f"it moved, but its old generation {old} is left and billed: {error}"
        return None

    def _bucket_facts(self, bucket: str) -> _BucketFacts:
        with self._facts_lock:
            if bucket not in self._facts:
                try:
                    found = self._client.get_bucket(bucket)
                except NotFound as exc:
                    raise TerminalError(f"there is no bucket {bucket!r}") from exc
                except _FAULTS as exc:
                    raise _translated(exc, f"bucket {bucket!r}") from exc
                self._facts[bucket] = _BucketFacts(bool(found.versioning_enabled), bool(found.autoclass_enabled))
            return self._facts[bucket]

    def _blob(self, ref: ObjectRef) -> Any:
        return self._client.bucket(ref.bucket).blob(ref.key)

    def _load(self, ref: ObjectRef, projection: str = "noAcl") -> Any:
        blob = self._blob(ref)
        try:
            blob.reload(projection=projection)
        except _FAULTS as exc:
            raise _translated(exc, ref.uri) from exc
        return blob

    def _listing(self, bucket: str, prefix: str, start_from: str = "") -> Iterator[list[Mapping[str, Any]]]:
        found = self._client.list_blobs(
            bucket, prefix=prefix or None, start_offset=start_from or None, page_size=PAGE_OBJECTS
        )
        try:
            for page in found.pages:
                if items := [blob._properties for blob in page]:
                    yield items
        except _FAULTS as exc:
            raise _translated(exc, f"bucket {bucket!r}") from exc

    def _state(self, ref: ObjectRef, item: Mapping[str, Any]) -> ObjectState:
        digests = [
            f"{name}:{item[field]}" for field, name in (("md5Hash", "md5"), ("crc32c", "crc32c")) if field in item
        ]
        kept = {name: _without_key_version(str(item[field])) for field, name in _KEPT_HEADERS if field in item}
        return ObjectState(
            ref=replace(ref, version_id=str(item["generation"])),
            size_bytes=int(item["size"]),
            storage_class=item["storageClass"],
            etag=item["etag"],
            last_modified_at=_at(item["updated"]),
            class_since_at=_class_since(item),
            content_type=item.get("contentType"),
            checksum=" ".join(digests) or None,
            metadata=dict(item.get("metadata", {})),
            lock_reason=self._lock_reason(item),
            headers=kept,
        )

    def _lock_reason(self, item: Mapping[str, Any]) -> str | None:
        if item.get("temporaryHold"):
            return "temporary hold"
        if item.get("eventBasedHold"):
            return "event-based hold"
        retained = (item.get("retentionExpirationTime"), item.get("retention", {}).get("retainUntilTime"))
        until = max((_at(text) for text in retained if text), default=None)
        if until is not None and until > self._clock():
            return f"retention until {until:%Y-%m-%d %H:%M} UTC"
        return None


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _without_key_version(text: str) -> str:
    """Give an encryption key's name alone: a rewrite takes the key's newest version."""
    return text.partition("/cryptoKeyVersions/")[0]


def _class_since(item: Mapping[str, Any]) -> datetime:
    return _at(item.get("timeStorageClassUpdated") or item["timeCreated"])


def _translated(exc: Exception, what: str) -> CloudFluxError:
    if not isinstance(exc, GoogleAPICallError):
        return TransientError(f"the connection to Google Cloud Storage failed at {what}: {exc}")
    if isinstance(exc, NotFound):
        return ObjectNotFound(f"there is no object {what}")
    if isinstance(exc, TooManyRequests) or (exc.code or 0) >= 500 or exc.code == 408:
        return TransientError(f"Google Cloud Storage could not serve {what} now ({exc.code}): try again later")
    if isinstance(exc, Forbidden) and any(word in exc.message.lower() for word in ("hold", "retention")):
        return ObjectLocked(f"{what} is locked: {exc.message}")
    return TerminalError(f"Google Cloud Storage refused {what} with {exc.code}: {exc.message}")
