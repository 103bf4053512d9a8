"""What Google Cloud Storage's resources say of an object, and what its errors mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError, TransportError

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
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.batches import NOT_ACTED_ON, UNCERTAIN, Answer
from cloudflux.providers.gcp_requests import error_of

_ACCOUNT_REFUSED: Final = frozenset(
    {"accountDisabled", "dailyLimitExceeded", "quotaExceeded", "UserProjectAccountProblem"}
)
_LOCKED: Final = frozenset({"objectUnderActiveHold", "retentionPolicyNotMet"})
_KEPT_HEADERS: Final = (
    ("cacheControl", "cache-control"),
    ("contentDisposition", "content-disposition"),
    ("contentEncoding", "content-encoding"),
    ("contentLanguage", "content-language"),
    ("customTime", "custom-time"),
    ("kmsKeyName", "kms-key-name"),
)
_KEPT_FIELDS: Final = frozenset(field for field, _ in _KEPT_HEADERS)
_LOCKS: Final = frozenset({"temporaryHold", "eventBasedHold", "retentionExpirationTime", "retention"})


def state_of(bucket: str, item: Mapping[str, Any], clock: Callable[[], datetime]) -> ObjectState:
    """Read an object's resource; ``clock`` tells whether a retention is over."""
    updated, since = item["updated"], item.get("timeStorageClassUpdated") or item["timeCreated"]
    updated_at = at(updated)
    return ObjectState(
        ref=ObjectRef(Provider.GCP, bucket, item["name"], str(item["generation"])),
        size_bytes=int(item["size"]),
        storage_class=item["storageClass"],
        etag=item["etag"],
        last_modified_at=updated_at,
        class_since_at=updated_at if since == updated else at(since),
        content_type=item.get("contentType"),
        checksum=digests(item),
        metadata=item.get("metadata") or {},
        lock_reason=lock_reason(item, clock),
        headers={}
        if _KEPT_FIELDS.isdisjoint(item)
        else {name: without_key_version(str(item[field])) for field, name in _KEPT_HEADERS if field in item},
    )


def lock_reason(item: Mapping[str, Any], clock: Callable[[], datetime]) -> str | None:
    """Tell why an object may not be touched; None when it may."""
    if _LOCKS.isdisjoint(item):
        return None
    if item.get("temporaryHold"):
        return "temporary hold"
    if item.get("eventBasedHold"):
        return "event-based hold"
    retained = (item.get("retentionExpirationTime"), item.get("retention", {}).get("retainUntilTime"))
    until = max((at(text) for text in retained if text), default=None)
    if until is not None and until > clock():
        return f"retention until {until:%Y-%m-%d %H:%M} UTC"
    return None


def at(text: str) -> datetime:
    """Read a time."""
    return datetime.fromisoformat(text)


def class_since(item: Mapping[str, Any]) -> datetime:
    """Tell since when an object is in its class."""
    return at(item.get("timeStorageClassUpdated") or item["timeCreated"])


def digests(item: Mapping[str, Any]) -> str | None:
    """Give the digests of an object's content as ``ObjectState`` keeps them."""
    md5, crc32c = item.get("md5Hash"), item.get("crc32c")
    if md5 is not None and crc32c is not None:
        return f"md5:{md5} crc32c:{crc32c}"
    found = [f"{name}:{value}" for name, value in (("md5", md5), ("crc32c", crc32c)) if value is not None]
    return " ".join(found) or None


def named(state: ObjectState) -> str:
    """Name what was seen of an object."""
    return f"generation {state.ref.version_id} (ETag {state.etag})"


def without_key_version(text: str) -> str:
    """Give an encryption key's name alone: a rewrite takes the key's newest version."""
    return text.partition("/cryptoKeyVersions/")[0]


def refusal(answer: Answer, what: str) -> CloudFluxError:
    """Give the error for what Google Cloud Storage refused."""
    return _error(answer.status, *error_of(answer), what)


def _error(status: int, reason: str, message: str, what: str) -> CloudFluxError:
    said = f"{status} {reason}".strip()
    error: CloudFluxError = TerminalError(f"Google Cloud Storage refused {what} with {said}: {message}")
    if status == 401:
        error = CredentialsRefused(f"Google Cloud does not accept our credentials ({said}, at {what}): renew them")
    elif status == 403 and (reason in _ACCOUNT_REFUSED or "billing" in message.lower()):
        error = AccountRefused(f"Google Cloud serves this project no longer ({said}, at {what}): {message}")
    elif status == 404 and "bucket does not exist" in message:
        error = BucketNotFound(f"there is no bucket for {what}: {message}")
    elif status == 404:
        error = ObjectNotFound(f"there is no object {what}")
    elif status in NOT_ACTED_ON | UNCERTAIN or status >= 500:
        error = TransientError(f"Google Cloud Storage could not serve {what} now ({said}): try again later")
    elif status == 403 and (reason in _LOCKED or "retention" in message or " hold" in message):
        error = ObjectLocked(f"{what} is locked: {message}")
    return error


def translated(exc: Exception, what: str) -> CloudFluxError:
    """Give the error for what the library raised."""
    if isinstance(exc, GoogleAPICallError):
        reason = str(exc.errors[0].get("reason", "")) if exc.errors and isinstance(exc.errors[0], Mapping) else ""
        return _error(int(exc.code or 0), reason, exc.message, what)
    if isinstance(exc, GoogleAuthError) and not isinstance(exc, TransportError):
        kind = type(exc).__name__
        return CredentialsRefused(f"Google Cloud does not accept our credentials ({kind}, at {what}): renew them")
    return TransientError(f"the connection to Google Cloud Storage failed at {what}: {exc}")
