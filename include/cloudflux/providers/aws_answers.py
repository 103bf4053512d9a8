"""What S3's headers and documents say of an object and of a bucket."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from xml.etree import ElementTree

from cloudflux.domain.errors import TransientError
from cloudflux.domain.objects import ObjectRef, ObjectState, RestoreState

KEPT_HEADERS: Final = {
    "cache-control": "cache-control",
    "content-disposition": "content-disposition",
    "content-encoding": "content-encoding",
    "content-language": "content-language",
    "expires": "expires",
    "x-amz-website-redirect-location": "website-redirect-location",
    "x-amz-server-side-encryption": "server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled": "bucket-key",
    "x-amz-missing-meta": "metadata-not-told",
    "x-amz-archive-status": "archive-status",
}
"""S3's header -> its name in ``ObjectState.headers``."""
_METADATA: Final = "x-amz-meta-"
_CHECKSUM: Final = "x-amz-checksum-"
CHECKSUMS: Final = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
_PLAIN_MD5: Final = re.compile(r"[0-9a-f]{32}")
_EXPIRY: Final = re.compile(r'expiry-date="([^"]+)"')
_PERMISSIONS: Final = {
    "FULL_CONTROL": "x-amz-grant-full-control",
    "READ": "x-amz-grant-read",
    "READ_ACP": "x-amz-grant-read-acp",
    "WRITE_ACP": "x-amz-grant-write-acp",
}
_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What of a bucket decides how its objects are copied."""

    versioning: str | None
    """``Enabled``, ``Suspended`` or None."""
    has_acls: bool
    locks_new_versions: bool
    """Whether a default retention begins for every new version."""


def state_of(ref: ObjectRef, headers: Mapping[str, str]) -> ObjectState:
    """Read an object's state from the headers of HEAD (names in lower case)."""
    version_id, modified_at = headers.get("x-amz-version-id"), _date(headers["last-modified"])
    metadata, kept = {}, {}
    for name, value in headers.items():
        if name.startswith(_METADATA):
            metadata[name[len(_METADATA) :]] = value
        elif name in KEPT_HEADERS:
            kept[KEPT_HEADERS[name]] = value
    if kept.get("bucket-key") == "false":  # some tell it, some leave it out
        del kept["bucket-key"]
    return ObjectState(
        ref=ObjectRef(ref.provider, ref.bucket, ref.key, None if version_id == "null" else version_id),
        size_bytes=int(headers["content-length"]),
        storage_class=headers.get("x-amz-storage-class", "STANDARD"),
        etag=headers["etag"].strip('"'),
        last_modified_at=modified_at,
        class_since_at=modified_at,
        content_type=headers.get("content-type"),
        checksum=_checksum(headers),
        metadata=metadata,
        lock_reason=_lock_reason(headers),
        headers=kept,
        restore=_restore(headers),
    )


def has_tags(headers: Mapping[str, str]) -> bool:
    """Tell whether HEAD counts any tags."""
    return headers.get("x-amz-tagging-count", "0") != "0"


@lru_cache(maxsize=4096)
def _date(text: str) -> datetime:
    """Parse an HTTP date; many objects of a bucket share one."""
    return parsedate_to_datetime(text).astimezone(UTC)


def _checksum(headers: Mapping[str, str]) -> str | None:
    """Give the digests of the whole content.

    An ETag is the content's MD5 only for an upload in one part that is not encrypted by KMS.
    """
    digests = []
    etag = headers["etag"].strip('"')
    if _PLAIN_MD5.fullmatch(etag) and not headers.get("x-amz-server-side-encryption", "").startswith("aws:kms"):
        digests.append(f"md5:{etag}")
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        digests += [f"{name}:{headers[_CHECKSUM + name]}" for name in CHECKSUMS if headers.get(_CHECKSUM + name)]
    return " ".join(digests) or None


def _lock_reason(headers: Mapping[str, str]) -> str | None:
    if headers.get("x-amz-object-lock-legal-hold") == "ON":
        return "legal hold"
    text = headers.get("x-amz-object-lock-retain-until-date")
    if text:
        until = datetime.fromisoformat(text)
        if until > _answered_at(headers):
            mode = headers.get("x-amz-object-lock-mode", "").lower()
            return f"{mode} retention until {until:%Y-%m-%d %H:%M} UTC"
    return None


def _restore(headers: Mapping[str, str]) -> RestoreState | None:
    text = headers.get("x-amz-restore", "")
    if 'ongoing-request="true"' in text:
        return RestoreState.RUNNING
    expiry = _EXPIRY.search(text)
    if expiry is None:
        return None
    return RestoreState.READY if parsedate_to_datetime(expiry[1]) > _answered_at(headers) else None


def _answered_at(headers: Mapping[str, str]) -> datetime:
    """Read S3's own clock; the beginning of time when it did not say, so that a retention counts as running."""
    text = headers.get("date")
    return _date(text) if text else datetime.min.replace(tzinfo=UTC)


def tags_of(document: bytes) -> dict[str, str]:
    """Read the answer to GetObjectTagging."""
    return {_text(tag, "Key"): _text(tag, "Value") for tag in _elements(document, "Tag")}


def grants_of(document: bytes) -> dict[str, str]:
    """Give an object's ACL as headers of a copy, which would else reset it to private."""
    grants: dict[str, list[str]] = {}
    for grant in _elements(document, "Grant"):
        (grantee,) = [child for child in grant if _name(child) == "Grantee"]
        group = grantee.get(_TYPE) == "Group"
        who = f'uri="{_text(grantee, "URI")}"' if group else f'id="{_text(grantee, "ID")}"'
        grants.setdefault(_PERMISSIONS[_text(grant, "Permission")], []).append(who)
    return {name: ", ".join(grantees) for name, grantees in grants.items()}


def text_of(document: bytes, name: str) -> str | None:
    """Give the text of the first element of that name; None when there is none."""
    return next((element.text or "" for element in _elements(document, name)), None)


def _elements(document: bytes, name: str) -> Iterable[ElementTree.Element]:
    if not document.strip():
        return []
    try:
        # Blanks come before a document that took its time.
        root = ElementTree.fromstring(document.strip())  # noqa: S314  # S3's own, as trusted as botocore finds it
    except ElementTree.ParseError as exc:
        raise TransientError(f"S3's answer is no document: {exc}") from exc
    return [element for element in root.iter() if _name(element) == name]


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, name: str) -> str:
    return next((child.text or "" for child in element if _name(child) == name), "")
