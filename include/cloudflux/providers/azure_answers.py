"""What Azure Blob Storage tells of a blob, and what its errors mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

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
from cloudflux.domain.objects import ObjectRef, ObjectState, RestoreState
from cloudflux.providers.azure_requests import Blob, Properties
from cloudflux.providers.batches import NOT_ACTED_ON, UNCERTAIN

_LEASED: Final = frozenset(
    {"LeaseAlreadyPresent", "LeaseIdMissing", "LeaseIdMismatchWithBlobOperation", "LeaseNotPresentWithBlobOperation"}
)
LOCKED: Final = _LEASED | {"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"}
_NO_SUCH_CONTAINER: Final = frozenset({"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"})
_NO_CREDENTIALS: Final = frozenset(
    # AuthorizationFailure is not about one blob: the account lets nobody in from here, or not who we say we are
    {"AuthenticationFailed", "AuthorizationFailure", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
)
_ACCOUNT_REFUSED: Final = frozenset({"AccountIsDisabled", "InsufficientAccountPermissions", "AccountLimitExceeded"})
_KEPT_HEADERS: Final = ("cache-control", "content-disposition", "content-encoding", "content-language")
LEASED_REASON: Final = "leased"
"""What begins the reason why a leased blob is locked."""


def state_of(ref: ObjectRef, blob: Blob) -> ObjectState:
    """Read a blob's properties."""
    told = blob.properties
    headers = {name: value for name in _KEPT_HEADERS if (value := told.get(name))}
    if scope := told.get("encryption-scope"):
        headers["encryption-scope"] = scope
    md5 = told.get("content-md5")
    # A version's id is no part of it: a listing does not tell it, and the ETag names the content.
    return ObjectState(
        ref=replace(ref, version_id=None),
        size_bytes=int(told["content-length"]),
        storage_class=tier_of(told),
        etag=told["etag"].strip('"'),
        last_modified_at=at(told["last-modified"]),
        class_since_at=class_since(told),
        content_type=told.get("content-type") or None,
        checksum=f"md5:{md5}" if md5 else None,
        metadata=blob.metadata,
        tags=blob.tags,
        lock_reason=lock_reason(told),
        headers=headers,
        restore=RestoreState.RUNNING if told.get("archive-status") else None,
    )


def tier_of(told: Properties) -> str:
    """Tell the tier; append and page blobs have none, and are priced like hot ones."""
    return told.get("access-tier") or "Hot"


def class_since(told: Properties) -> datetime:
    """Tell since when a blob is in its tier.

    Without a change of tier that is its last write: the creation time outlives overwriting, which starts the clock
    anew.
    """
    return at(told.get("access-tier-change-time") or told["last-modified"])


def lock_reason(told: Properties) -> str | None:
    """Tell why the tier must not be changed."""
    if told.get("lease-status") == "locked":
        return f"{LEASED_REASON} ({told.get('lease-state')})"
    kind = told.get("blob-type") or "BlockBlob"
    return None if kind == "BlockBlob" else f"a {kind} has no tier that could be changed"


@lru_cache(maxsize=4096)
def at(text: str) -> datetime:
    """Read a time."""
    return parsedate_to_datetime(text)


def refusal(status: int, code: str, message: str, what: str) -> CloudFluxError:
    """Give the error for what Azure refused."""
    said = f"{status} {code}".strip()
    error: CloudFluxError = TerminalError(f"Azure refused {what} with {said}: {message}")
    if code in _NO_CREDENTIALS or status == 401:
        # its message would repeat the signature
        error = CredentialsRefused(f"Azure does not accept our credentials ({said}, at {what}): renew them")
    elif code in _ACCOUNT_REFUSED:
        error = AccountRefused(f"Azure serves this storage account no longer ({said}, at {what}): {message}")
    elif code in _NO_SUCH_CONTAINER:
        error = BucketNotFound(f"there is no such container ({code}): {what}")
    elif status in NOT_ACTED_ON | UNCERTAIN:
        error = TransientError(f"Azure could not serve {what} now ({said}): try again later")
    elif status == 404:
        error = ObjectNotFound(f"there is no object {what}")
    elif code in LOCKED:
        error = ObjectLocked(f"{what} is locked: {code}")
    return error


def translated(exc: AzureError, what: str) -> CloudFluxError:
    """Give the error for what the SDK raised."""
    if isinstance(exc, ClientAuthenticationError) and exc.response is None:
        return CredentialsRefused(
            f"Azure does not accept our credentials ({type(exc).__name__}, at {what}): renew them"
        )
    if isinstance(exc, (ServiceRequestError, ServiceResponseError)) or not isinstance(exc, HttpResponseError):
        return TransientError(f"the connection to Azure failed at {what}: {exc}")
    code = getattr(exc, "error_code", None) or exc.reason or ""
    code = str(getattr(code, "value", code))  # an enumeration, where the SDK knows the code
    return refusal(exc.status_code or 0, code, exc.message, what)
