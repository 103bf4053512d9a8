"""Azure Blob Storage: a blob changes its tier in place, in batches of up to 256.

Set Blob Tier takes no ETag condition, so the client looks at ETag and lease just before, and at the ETag again just
after: a blob that was overwritten in between keeps its new content, and the result is a conflict.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final

import pyarrow as pa
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import ContentSettings, StandardBlobTier

from cloudflux.domain.errors import CloudFluxError, ObjectLocked, ObjectNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.protocol import (
    AGENT,
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
    map_concurrently,
    unknown_class,
)

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_LEASED: Final = frozenset({"LeaseIdMissing", "LeaseIdMismatchWithBlobOperation", "LeaseNotPresentWithBlobOperation"})
_LOCKED: Final = _LEASED | {"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"}
_NO_SUCH_BLOB: Final = frozenset({"BlobNotFound", "ContainerNotFound"})
_REHYDRATING: Final = frozenset({"BlobBeingRehydrated", "BlobArchived"})
_KEPT_HEADERS: Final = ("cache_control", "content_disposition", "content_encoding", "content_language")


class AzureTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a ``BlobServiceClient``, as ``WasbHook.get_conn()`` gives it.

    ``in_flight`` requests run at once, each in a thread.
    """

    provider: Provider = Provider.AZURE
    capabilities: TierCapabilities = CAPABILITIES[Provider.AZURE]

    def __init__(self, service: Any, *, in_flight: int = 10) -> None:
        self._service = service
        self._in_flight = in_flight
        policy = service._config.user_agent_policy
        if AGENT not in policy.user_agent:
            policy.add_user_agent(AGENT)

    def create_bucket(self, bucket: str) -> None:
        """Create a container; one that is there already is fine."""
        try:
            self._service.create_container(bucket)
        except ResourceExistsError as exc:
            if exc.error_code != "ContainerAlreadyExists":  # e.g. it is being deleted
                raise _translated(exc, f"container {bucket!r}") from exc
        except AzureError as exc:
            raise _translated(exc, f"container {bucket!r}") from exc

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
            raise _translated(exc, ref.uri) from exc

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read a blob. Raises ``ObjectNotFound``."""
        try:
            content: bytes = self._blob(ref).download_blob().readall()
        except AzureError as exc:
            raise _translated(exc, ref.uri) from exc
        return content

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read a blob in pieces of the SDK's own size, all conditional on one ETag. Raises ``ObjectNotFound``."""
        try:
            yield from self._blob(ref).download_blob().chunks()
        except AzureError as exc:
            raise _translated(exc, ref.uri) from exc

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete a blob; one that is gone already is fine. Raises ``ObjectLocked``."""
        try:
            self._blob(ref).delete_blob(delete_snapshots="include")
        except ResourceNotFoundError:
            return
        except AzureError as exc:
            raise _translated(exc, ref.uri) from exc

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live blobs by name, at most 1000 at a time."""
        for page in self._listing(bucket, prefix):
            yield [_listed_state(ObjectRef(Provider.AZURE, bucket, blob.name), blob) for blob in page]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live blobs as batches in the inventory's schema."""
        for page in self._listing(bucket, prefix):
            yield inventory_batch(
                Provider.AZURE,
                bucket,
                day,
                keys=[blob.name for blob in page],
                sizes_bytes=[blob.size for blob in page],
                storage_classes=[_tier(blob) for blob in page],
                etags=[blob.etag.strip('"') for blob in page],
                last_modified_at=[blob.last_modified for blob in page],
                class_since_at=[_class_since(blob) for blob in page],
                content_types=[blob.content_settings.content_type for blob in page],
                lock_reasons=[_lock_reason(blob) for blob in page],
            )

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on; Azure lists those before it too, and they are left out here."""
        for page in self._listing(bucket, prefix):
            for blob in (blob for blob in page if blob.name >= start_from):
                yield StoredFile(bucket, blob.name, blob.etag.strip('"'), blob.size, blob.last_modified)

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live blob of that name. Raises ``ObjectNotFound``."""
        state = _state(ref, properties := self._properties(ref))
        if not tags or not properties.tag_count:
            return state
        try:
            return replace(state, tags=dict(self._blob(ref).get_blob_tags()))
        except AzureError as exc:
            raise _translated(exc, ref.uri) from exc

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | None]:
        """Look at many blobs at once, in order; None for one that is not there."""

        def head(ref: ObjectRef) -> ObjectState | None:
            try:
                return self.head(ref, tags=tags)
            except ObjectNotFound:
                return None

        return map_concurrently(head, refs, self._in_flight)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each blob to its tier, if it is still the one that was seen."""
        results: dict[int, TierChangeResult] = {}
        for number, obstacle in enumerate(map_concurrently(self._obstacle, changes, self._in_flight)):
            if obstacle is not None:
                results[number] = obstacle
        wanted: dict[tuple[str, str], list[int]] = {}
        for number, change in enumerate(changes):
            if number not in results:
                wanted.setdefault((change.ref.bucket, change.to_class), []).append(number)
        for (bucket, to_class), numbers in wanted.items():
            for first in range(0, len(numbers), self.capabilities.batch_size):
                batch = numbers[first : first + self.capabilities.batch_size]
                answers = self._set_tiers(bucket, to_class, [changes[number] for number in batch])
                results.update(zip(batch, answers, strict=True))
        return [results[number] for number in range(len(changes))]

    def _obstacle(self, change: TierChange) -> TierChangeResult | None:
        """Tell why the tier needs no change, or must not be changed; None when the change can go ahead."""

        def result(outcome: ChangeOutcome, detail: str) -> TierChangeResult:
            return TierChangeResult(change.ref, outcome, detail)

        if change.to_class not in self.capabilities.classes:
            return result(ChangeOutcome.ERROR, unknown_class(Provider.AZURE, change.to_class))
        try:
            properties = self._properties(change.ref)
        except ObjectNotFound:
            return result(ChangeOutcome.NOT_FOUND, "the blob is gone")
        except TerminalError as exc:
            return result(ChangeOutcome.ERROR, str(exc))
        now = _state(change.ref, properties)
        found = None
        if now.etag != change.seen.etag:
            found = result(ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {now.etag}")
        elif now.storage_class == change.to_class and not properties.blob_tier_inferred:
            found = result(ChangeOutcome.CHANGED, "already there")
        elif now.lock_reason is not None:
            found = result(ChangeOutcome.LOCKED, now.lock_reason)
        elif properties.archive_status:
            found = result(ChangeOutcome.RESTORING, properties.archive_status)
        return found

    def _set_tiers(self, bucket: str, to_class: str, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        container = self._service.get_container_client(bucket)
        names = [change.ref.key for change in changes]
        try:
            answers = list(container.set_standard_blob_tier_blobs(to_class, *names, raise_on_any_failure=False))
        except (ServiceRequestError, ServiceResponseError) as exc:
            return [self._settled(change, exc) for change in changes]
        except AzureError as exc:
            error = _translated(exc, f"a batch of {len(changes)} blobs in container {bucket!r}")
            if isinstance(error, TransientError):
                raise error from exc
            return [TierChangeResult(change.ref, ChangeOutcome.ERROR, str(error)) for change in changes]
        # A batch that is refused as a whole comes back as one part with its status, and no exception.
        if len(answers) != len(changes):
            statuses = ", ".join(str(answer.status_code) for answer in answers[:3])
            detail = f"Azure answered a batch of {len(changes)} with {len(answers)} parts ({statuses})"
            return [TierChangeResult(change.ref, ChangeOutcome.ERROR, detail) for change in changes]
        throttled = [answer.status_code for answer in answers if answer.status_code in _PASSING]
        if throttled:
            raise TransientError(
                f"Azure answered {len(throttled)} of {len(answers)} changes in container {bucket!r} with "
                f"{throttled[0]}: try again later"
            )
        return map_concurrently(self._result, list(zip(changes, answers, strict=True)), self._in_flight)

    def _result(self, pair: tuple[TierChange, Any]) -> TierChangeResult:
        """Read one part of a batch's answer, and look at the blob again when it was changed."""
        change, answer = pair
        code = answer.headers.get("x-ms-error-code", "")
        request_id = answer.headers.get("x-ms-request-id")
        outcome, detail = ChangeOutcome.ERROR, f"Azure answered {answer.status_code} {code}".strip()
        if answer.status_code in (200, 202):
            return self._confirmed(change, request_id)
        if answer.status_code == 404 or code in _NO_SUCH_BLOB:
            outcome, detail = ChangeOutcome.NOT_FOUND, "the blob is gone"
        elif code in _LOCKED:
            outcome = ChangeOutcome.LOCKED
        elif code in _REHYDRATING:
            outcome = ChangeOutcome.RESTORING
        return TierChangeResult(change.ref, outcome, detail, request_id)

    def _confirmed(self, change: TierChange, request_id: str | None, note: str = "") -> TierChangeResult:
        try:
            properties = self._properties(change.ref)
        except ObjectNotFound:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the blob was deleted meanwhile", request_id)
        if properties.etag.strip('"') != change.seen.etag:
            detail = f"it was overwritten meanwhile; the new content is untouched, its tier is {properties.blob_tier}"
            return TierChangeResult(change.ref, ChangeOutcome.CONFLICT, detail, request_id)
        if properties.archive_status:
            return TierChangeResult(change.ref, ChangeOutcome.RESTORING, properties.archive_status, request_id)
        if _tier(properties) != change.to_class:
            detail = f"Azure accepted the change, but its tier is {properties.blob_tier}"
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, detail, request_id)
        return TierChangeResult(change.ref, ChangeOutcome.CHANGED, note, request_id)

    def _settled(self, change: TierChange, lost: Exception) -> TierChangeResult:
        """Let the blob itself tell what became of a change whose answer was lost."""
        result = self._confirmed(change, None, "the answer was lost, the blob has moved")
        if result.outcome is ChangeOutcome.ERROR:
            raise _translated(lost, change.ref.uri) from lost
        return result

    def _blob(self, ref: ObjectRef) -> Any:
        return self._service.get_blob_client(ref.bucket, ref.key)

    def _properties(self, ref: ObjectRef) -> Any:
        try:
            return self._blob(ref).get_blob_properties()
        except AzureError as exc:
            raise _translated(exc, ref.uri) from exc

    def _listing(self, bucket: str, prefix: str) -> Iterator[list[Any]]:
        container = self._service.get_container_client(bucket)
        try:
            for page in container.list_blobs(name_starts_with=prefix or None, results_per_page=PAGE_OBJECTS).by_page():
                if blobs := list(page):
                    yield blobs
        except AzureError as exc:
            raise _translated(exc, f"container {bucket!r}") from exc


def _listed_state(ref: ObjectRef, blob: Any) -> ObjectState:
    """Give what a listing tells: no metadata, no headers."""
    return replace(_state(ref, blob), metadata={}, headers=None)


def _state(ref: ObjectRef, blob: Any) -> ObjectState:
    settings = blob.content_settings
    headers = {name.replace("_", "-"): value for name in _KEPT_HEADERS if (value := getattr(settings, name))}
    if blob.encryption_scope:
        headers["encryption-scope"] = blob.encryption_scope
    md5 = base64.b64encode(bytes(settings.content_md5)).decode() if settings.content_md5 else None
    return ObjectState(
        ref=replace(ref, version_id=blob.version_id),
        size_bytes=blob.size,
        storage_class=_tier(blob),
        etag=blob.etag.strip('"'),
        last_modified_at=blob.last_modified,
        class_since_at=_class_since(blob),
        content_type=settings.content_type,
        checksum=f"md5:{md5}" if md5 else None,
        metadata=dict(blob.metadata or {}),
        lock_reason=_lock_reason(blob),
        headers=headers,
    )


def _tier(blob: Any) -> str:
    """Tell the tier; append and page blobs have none, and are priced like hot ones."""
    return str(blob.blob_tier or "Hot")


def _class_since(blob: Any) -> datetime:
    """Tell since when a blob is in its tier.

    Without a change of tier that is its last write: the creation time outlives overwriting, which starts the clock
    anew.
    """
    since: datetime = blob.blob_tier_change_time or blob.last_modified
    return since


def _lock_reason(blob: Any) -> str | None:
    """Tell why the tier must not be changed.

    Immutability policies and legal holds do not forbid it: a tier is no part of the content.
    """
    if blob.lease.status == "locked":
        return f"leased ({blob.lease.state})"
    if blob.blob_type is not None and blob.blob_type != "BlockBlob":
        return f"a {getattr(blob.blob_type, 'value', blob.blob_type)} has no tier that could be changed"
    return None


def _translated(exc: Exception, what: str) -> CloudFluxError:
    if isinstance(exc, (ServiceRequestError, ServiceResponseError)) or not isinstance(exc, HttpResponseError):
        return TransientError(f"the connection to Azure failed at {what}: {exc}")
    code = getattr(exc, "error_code", None) or exc.reason or ""
    code = str(getattr(code, "value", code))  # an enumeration, where the SDK knows the code
    if isinstance(exc, ResourceNotFoundError) and code != "ContainerNotFound":
        return ObjectNotFound(f"there is no object {what}")
    if exc.status_code in _PASSING:
        return TransientError(f"Azure could not serve {what} now ({exc.status_code} {code}): try again later")
    if code in _LOCKED:
        return ObjectLocked(f"{what} is locked: {code}")
    return TerminalError(f"Azure refused {what} with {exc.status_code} {code}: {exc.message}")
