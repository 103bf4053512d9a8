"""What an object is: its name in three clouds, and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, unquote

from cloudflux.domain.tiers import Provider

MAX_OBJECT_BYTES: Final = 2**50
"""More than the largest object of any provider (S3: 50 TB)."""

_SCHEME: Final = MappingProxyType({Provider.AWS: "s3", Provider.AZURE: "az", Provider.GCP: "gs"})
_PROVIDER: Final = MappingProxyType({scheme: provider for provider, scheme in _SCHEME.items()})


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """The name of one object. Azure's container is our bucket; ``version_id`` is S3's version or GCS's generation."""

    provider: Provider
    bucket: str
    key: str
    version_id: str | None = None

    @property
    def uri(self) -> str:
        """The address: ``s3://bucket/key``, ``az://container/key`` or ``gs://bucket/key`` (key URL-quoted)."""
        return f"{_SCHEME[self.provider]}://{self.bucket}/{quote(self.key, safe='/')}"

    @classmethod
    def from_uri(cls, uri: str) -> ObjectRef:
        """Parse what ``uri`` gives. Raises ``ValueError`` naming the text when it is none of ours."""
        scheme, separator, rest = uri.partition("://")
        bucket, slash, key = rest.partition("/")
        if not separator or scheme not in _PROVIDER or not bucket or not slash or not key:
            raise ValueError(f"not an object address (s3://, az:// or gs:// with bucket and key): {uri!r}")
        return cls(_PROVIDER[scheme], bucket, unquote(key))


@dataclass(frozen=True, slots=True)
class ObjectPrefix:
    """All objects of a bucket whose keys begin alike; all of the bucket when ``prefix`` is empty."""

    provider: Provider
    bucket: str
    prefix: str

    @classmethod
    def from_uri(cls, uri: str) -> ObjectPrefix:
        """Parse ``s3://bucket``, ``az://container/logs/`` or ``gs://bucket/a%20b``: the prefix is URL-quoted.

        Raises ``ValueError`` naming the text when it is none of ours.
        """
        scheme, separator, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        if not separator or scheme not in _PROVIDER or not bucket:
            raise ValueError(f"not a prefix of objects (s3://, az:// or gs:// with a bucket): {uri!r}")
        return cls(_PROVIDER[scheme], bucket, unquote(prefix))

    @property
    def uri(self) -> str:
        """The address, as ``from_uri`` takes it."""
        return f"{_SCHEME[self.provider]}://{self.bucket}/{quote(self.prefix, safe='/')}"


class RestoreState(StrEnum):
    """Where the restore of an object of an archive class stands."""

    RUNNING = "running"
    READY = "ready"  # a readable copy lies beside the archived object, for some days


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What a provider says of one object at one moment."""

    ref: ObjectRef
    size_bytes: int
    storage_class: str
    etag: str
    """Without quotes. Changes with the content on S3 and Azure, with the generation on GCS."""
    last_modified_at: datetime
    class_since_at: datetime
    """Since when it is in its class: the early-deletion clock."""
    content_type: str | None = None
    checksum: str | None = None
    """Digests of the content that survive a move, as ``name:value`` with spaces between, e.g. ``md5:... crc32c:...``;
    base64 or hex as the provider gives them. None when it gives none."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lock_reason: str | None = None
    """Why it may not be touched (lease, legal hold, retention), or None."""
    headers: Mapping[str, str] | None = None
    """What else a move must keep: cache control, content encoding, disposition and language, encryption. None when
    nobody looked."""
    restore: RestoreState | None = None
    """None when no restore was asked for, or when its copy has expired."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """An object that nobody could look at: whether it is there is not known."""

    ref: ObjectRef
    reason: str
    passing: bool
    """Whether looking again later may help (throttling, a lost connection); else access is refused."""
