"""Google Cloud Storage: an object changes its class by being rewritten in place, in batches of up to 100.

The rewrite is conditional on the generation and metageneration that were seen, of the source as of the destination, and
carries the object's metadata and, where buckets still use them, its ACL. It makes a new generation: in a versioned
bucket the one before would be billed for ever. It is deleted once the new one is seen, if the bucket's owner allows
that; else nothing moves there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import requests
from google.api_core.exceptions import Conflict, GoogleAPICallError, NotFound, RetryError
from google.auth.exceptions import GoogleAuthError

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.batches import Patience
from cloudflux.providers.gcp_answers import at, class_since, lock_reason, translated
from cloudflux.providers.gcp_looks import ObjectLooks
from cloudflux.providers.gcp_moves import ObjectMoves
from cloudflux.providers.gcp_requests import ObjectRequests
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import CAPABILITIES, StoredFile, TierCapabilities
from cloudflux.providers.workers import Workers

_FAULTS: Final = (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException)


class GcpTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a ``google.cloud.storage.Client``, as ``GCSHook.get_conn()`` gives it.

    ``in_flight`` requests run at once (2 at least), each in a thread, whoever asks; a quarter is kept for looks. A
    batch is one of them, and counts as its calls in a bucket's ``pace_of``. A request is sent ``attempts`` times until
    it is served. ``remove_superseded`` tells whether the generation that a move supersedes in a versioned bucket may be
    deleted, of all buckets or of one. Our name in the user agent is up to whoever makes the client (``client_info``):
    afterwards it cannot be set.
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
        # For its traces, even if there are none, the library asks for each bucket in a thread of its own: a request
        # that nobody's policy needs to allow, and whose answer nobody reads (google-cloud-storage 3.17).
        client._bucket_metadata_cache = None
        paces = pace_of or lru_cache(maxsize=None)(lambda bucket: Pace(max_in_flight=in_flight))
        may_remove = remove_superseded if callable(remove_superseded) else lambda bucket: bool(remove_superseded)
        asking, patience = ObjectRequests(client, timeout_seconds, in_flight), Patience(attempts, sleep)
        lookers, changers = Workers.for_looks_and_changes(in_flight)
        self._clock = clock  # tells only whether a retention is over
        self._looks = ObjectLooks(asking, workers=lookers, pace_of=paces, patience=patience, clock=clock)
        self._moves = ObjectMoves(
            asking,
            self._looks,
            self.capabilities,
            workers=changers,
            pace_of=paces,
            patience=patience,
            may_remove=may_remove,
        )

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket without ACLs; one that is ours already is fine."""
        wanted = self._client.bucket(bucket)
        wanted.iam_configuration.uniform_bucket_level_access_enabled = True
        try:
            self._client.create_bucket(wanted)
        except Conflict:
            self._looks.bucket_facts(bucket)  # refused when it is somebody else's
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
        return self._looks.state(ref.bucket, blob._properties)

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
        for page in self._looks.listing(bucket, prefix):
            states = (self._looks.state(bucket, item) for item in page)
            yield [replace(state, metadata={}, headers=None) for state in states]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""
        for page in self._looks.listing(bucket, prefix):
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
        for page in self._looks.listing(bucket, prefix, start_from):
            for item in page:
                yield StoredFile(bucket, item["name"], item["etag"], int(item["size"]), at(item["updated"]))

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        return self._looks.head(ref)

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order; None for one that is not there.

        Where they lie close together they are listed, at most 1,000 in a request; the others are asked for in batches.
        """
        return self._looks.head_many(refs)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        return self._moves.change(changes)

    def soft_delete_days(self, bucket: str) -> int:
        """Tell for how many days a bucket keeps, and bills, the generation that a move overwrites; 0: not at all.

        Raises ``BucketNotFound``, or what the bucket's owner or network stands in the way with.
        """
        return self._looks.bucket_facts(bucket).soft_delete_days

    def _blob(self, ref: ObjectRef) -> Any:
        return self._client.bucket(ref.bucket).blob(ref.key)

    def _load(self, ref: ObjectRef) -> Any:
        blob = self._blob(ref)
        try:
            blob.reload()
        except _FAULTS as exc:
            raise translated(exc, ref.uri) from exc
        return blob
