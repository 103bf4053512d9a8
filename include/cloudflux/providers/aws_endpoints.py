"""Where a bucket of S3 is served: botocore's to say."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
)

from cloudflux.domain.errors import BucketNotFound, CredentialsRefused, TerminalError

ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DIRECTORY_BUCKET: Final = "--x-s3"
_SCOPE: Final = re.compile(r"Credential=[^/]*(?:/[^/]*)*?/\d{8}/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is served, as botocore resolves it."""

    origin: str
    host: str
    """With the port, where it is not the scheme's own: as the Host header tells it."""
    path: str
    """The quoted path that a quoted key is put behind: ``/`` or ``/bucket/``."""
    region: str
    service: str
    signed: bool
    """Whether requests are signed at all: ``signature_version=UNSIGNED`` asks for none."""


class EndpointResolver:
    """Asks botocore where a bucket is, by letting it make a request that is never sent."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3
        self._asked = threading.local()
        s3.meta.events.register_first("before-send.s3.HeadObject", self._catch)

    def resolve(self, bucket: str) -> Endpoint:
        """Give the bucket's endpoint. Raises ``CredentialsRefused`` and ``TerminalError``."""
        if bucket.endswith(_DIRECTORY_BUCKET):
            raise TerminalError(f"{bucket!r} is a directory bucket (S3 Express): its objects have one class only")
        caught: list[Any] = []
        self._asked.requests = caught
        try:
            self._s3.head_object(Bucket=bucket, Key="k")
        except NoCredentialsError as exc:
            raise CredentialsRefused(f"the connection to S3 has no credentials: {exc}") from exc
        except ClientError:
            pass  # our own answer, below
        except ParamValidationError as exc:
            raise BucketNotFound(f"{bucket!r} cannot be a bucket's name: {exc}") from exc
        except BotoCoreError as exc:
            raise TerminalError(f"botocore cannot tell where bucket {bucket!r} is: {exc}") from exc
        finally:
            self._asked.requests = None
        if not caught:
            raise TerminalError(f"botocore made no request to bucket {bucket!r}, so where it is cannot be told")
        request = caught[-1]
        return _endpoint(request.url, str(request.headers.get("Authorization") or ""), bucket)

    def redirect(self, bucket: str, key: str) -> Endpoint:
        """Ask for an object of a bucket that lies in another region, so that botocore finds out where; then resolve."""
        with contextlib.suppress(ClientError, BotoCoreError, HTTPClientError):  # told to who asks next
            self._s3.head_object(Bucket=bucket, Key=key)
        return self.resolve(bucket)

    def _catch(self, request: Any, **_: Any) -> Any:
        caught = getattr(self._asked, "requests", None)
        if caught is None:
            return None
        caught.append(request)
        answer = AWSResponse(request.url, 404, {}, None)
        answer._content = b""
        return answer


def _endpoint(url: str, authorization: str, bucket: str) -> Endpoint:
    parts = urlsplit(url)
    authorization = authorization.removeprefix("b'")
    scope = _SCOPE.search(authorization)
    if authorization and (scope is None or not authorization.startswith(ALGORITHM)):
        raise TerminalError(
            f"requests to bucket {bucket!r} are signed with {authorization.partition(' ')[0]!r}: only Signature "
            "Version 4 is supported, set signature_version to s3v4 in the connection's config_kwargs"
        )
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if parts.port not in (None, default_port):
        host = f"{host}:{parts.port}"
    return Endpoint(
        origin=f"{parts.scheme}://{host}",
        host=host,
        path=parts.path.removesuffix("k"),
        region=scope[1] if scope else "",
        service=scope[2] if scope else "",
        signed=scope is not None,
    )
