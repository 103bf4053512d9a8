"""What boto3's exceptions mean for us: whom a refusal concerns, and whether it may pass."""

from __future__ import annotations

from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    ObjectNotFound,
    TerminalError,
    TransientError,
)

THROTTLED: Final = frozenset(
    {
        "429",
        "503",
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
_PASSING: Final = THROTTLED | {
    "500",
    "502",
    "504",
    "ConditionalRequestConflict",
    "InternalError",
    "InternalServiceException",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeTooSkewed",
}
_CREDENTIALS: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_ACCOUNT: Final = frozenset({"AccountProblem", "AllAccessDisabled", "NotSignedUp"})
_NOT_FOUND: Final = frozenset(
    {"404", "MethodNotAllowed", "NoSuchKey", "NoSuchVersion", "NotFound", "NotFoundException"}
)
"""``MethodNotAllowed`` is what S3 says of a delete marker."""
_NO_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)


def code_of(exc: Exception) -> str:
    """Give the service's code of a refusal; empty when the service did not answer."""
    return str(exc.response.get("Error", {}).get("Code", "")) if isinstance(exc, ClientError) else ""


def refusal(exc: ClientError | BotoCoreError, what: str) -> CloudFluxError:
    """Give our error for boto3's; ``what`` names what was asked for, of what."""
    if isinstance(exc, _NO_CREDENTIALS):
        return CredentialsRefused(f"there are no credentials for {what}: {exc}")
    if not isinstance(exc, ClientError):
        return TransientError(f"the connection to S3 failed at {what}: {exc}")
    code, message = code_of(exc), exc.response.get("Error", {}).get("Message", "")
    status = str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    told = f"({code}: {message})"
    if code in _CREDENTIALS:
        error: CloudFluxError = CredentialsRefused(f"S3 does not accept our credentials for {what} {told}: renew them")
    elif code == "NoSuchBucket":
        error = BucketNotFound(f"there is no bucket for {what} {told}")
    elif code in _ACCOUNT:
        error = AccountRefused(f"S3 serves this account no longer, {what} included {told}")
    elif code in _NOT_FOUND:
        error = ObjectNotFound(f"S3 finds nothing for {what} {told}")
    elif code in _PASSING or status in _PASSING:
        error = TransientError(f"S3 could not serve {what} now {told}: try again later")
    else:
        error = TerminalError(f"S3 refused {what} {told}")
    return error
