"""What every provider's client offers, and what each provider can do, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Final, Literal, Protocol

import pyarrow as pa

from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider

AGENT: Final = "cloudflux/0.1"
"""The part of our requests' user agent by which access logs leave us out."""

PAGE_OBJECTS: Final = 1000


@dataclass(frozen=True, slots=True)
class TierCapabilities:
    """What a provider's API can do for a change of class. Callers ask here, never for the provider's name."""

    classes: frozenset[str]
    """The classes that an object can be moved to by a request of its own."""
    batch_size: int
    """How many changes one request takes."""
    conditional_change: bool
    """Whether the provider itself refuses the change of an object that is not the one that was seen. Where it cannot,
    the client looks just before and just after."""
    conditional_on: Literal["etag", "generation", "none"]
    restore_needed_from: frozenset[str]
    """Classes whose objects cannot be read or copied before a restore of hours."""
    keeps_etag: bool
    """Whether an unchanged object always has the ETag it had before the move."""
    keeps_last_modified: bool
    has_tags: bool
    max_change_bytes: int | None
    """The largest object that one change takes; None when there is no limit."""


CAPABILITIES: Final = MappingProxyType(
    {
        Provider.AWS: TierCapabilities(
            classes=frozenset(
                {
                    "STANDARD",
                    "STANDARD_IA",
                    "ONEZONE_IA",
                    "GLACIER_IR",
                    "GLACIER",
                    "DEEP_ARCHIVE",
                    "INTELLIGENT_TIERING",
                }
            ),
            batch_size=1,
            conditional_change=True,
            conditional_on="etag",
            restore_needed_from=frozenset({"GLACIER", "DEEP_ARCHIVE"}),
            keeps_etag=False,  # of an object uploaded in parts or under KMS, a copy has another
            keeps_last_modified=False,
            has_tags=True,
            max_change_bytes=None,  # above 5 GiB it is copied in parts
        ),
        Provider.AZURE: TierCapabilities(
            classes=frozenset({"Hot", "Cool", "Cold", "Archive"}),
            batch_size=256,
            conditional_change=False,  # Set Blob Tier knows leases and tags, but no ETag
            conditional_on="none",
            restore_needed_from=frozenset({"Archive"}),
            keeps_etag=True,
            keeps_last_modified=True,
            has_tags=True,
            max_change_bytes=None,
        ),
        Provider.GCP: TierCapabilities(
            classes=frozenset({"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"}),
            batch_size=1,
            conditional_change=True,
            conditional_on="generation",
            restore_needed_from=frozenset(),
            keeps_etag=False,  # a rewrite makes a new generation
            keeps_last_modified=False,
            has_tags=False,
            max_change_bytes=None,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a bucket as a listing shows it."""

    bucket: str
    key: str
    etag: str
    """Without quotes."""
    size_bytes: int
    last_modified_at: datetime


class TierClient(Protocol):
    """Looks at objects and changes their class."""

    @property
    def provider(self) -> Provider:
        """Whose objects these are."""

    @property
    def capabilities(self) -> TierCapabilities:
        """What the provider can do."""

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live objects by key, at most 1000 at a time; metadata and tags are left empty."""

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema, as the snapshot of ``day``."""

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name, whatever version ``ref`` names.

        Tags cost one more request for an object that has any. Raises ``ObjectNotFound``, ``TransientError``, and
        ``TerminalError`` when access is refused.
        """

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order; None for one that is not there, ``Unseen`` for one that does not say.

        Raises ``CredentialsRefused``, ``BucketNotFound`` or ``AccountRefused`` when none of them can be looked at.
        """

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen; one result for each, in order.

        An object's own fault is its outcome. An object that is in its class already, unchanged, counts as changed, and
        what an earlier attempt left undone behind it (a superseded version) is done now. Throttling is waited out
        within the client's limits; what is then still not served is ``UNAVAILABLE``. A request whose answer was lost
        is never sent again before the object was looked at: nothing is moved twice. Raises ``CredentialsRefused``,
        ``BucketNotFound`` or ``AccountRefused`` when nothing more can be done there; calling again later is safe.
        """


class ObjectStore(Protocol):
    """Reads and writes files. The same classes offer it."""

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; one that is ours already is fine."""

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
        """Write an object, over the one that is there, and look at it."""

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
        """Write an object, over the one that is there, in one request: for uploads of thousands."""

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read an object. Raises ``ObjectNotFound``."""

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces of about ``block_bytes``, all of the same content. Raises ``ObjectNotFound``."""

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete an object; one that is gone already is fine. Raises ``ObjectLocked``."""

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key; ``start_from`` leaves out the keys before it, unlisted where the provider can."""


def unknown_class(provider: Provider, to_class: str) -> str:
    """Say that an object cannot be moved to a class, and to which it can."""
    known = ", ".join(sorted(CAPABILITIES[provider].classes))
    return f"{provider} cannot move an object to {to_class!r}: choose one of {known}"
