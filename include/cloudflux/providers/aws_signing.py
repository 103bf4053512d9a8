"""Signature Version 4: a request to S3 with the headers that prove who sent it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from cloudflux.providers.aws_endpoints import ALGORITHM, Endpoint

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_UNRESERVED: Final = "-_.~"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of S3, before it is signed."""

    method: str
    bucket: str
    key: str
    query: str
    """Quoted, its parts sorted."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class RequestSigner:
    """Signs requests with Signature Version 4, as S3 wants it. Not safe between threads.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str, str], bytes] = {}

    def headers(
        self, request: Request, credentials: Credentials, endpoint: Endpoint, at: str, path: str
    ) -> dict[str, str]:
        """Give the headers (names in lower case) with the signature and what belongs to it.

        ``at`` is ``20261124T163500Z``; ``path`` is quoted as it is sent.
        """
        payload_sha256 = hashlib.sha256(request.body).hexdigest() if request.body else EMPTY_SHA256
        signed = {**request.headers, "host": endpoint.host, "x-amz-content-sha256": payload_sha256, "x-amz-date": at}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        listed = ";".join(names)
        lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
        canonical = f"{request.method}\n{path}\n{request.query}\n{lines}\n{listed}\n{payload_sha256}"
        day = at[:8]
        scope = f"{day}/{endpoint.region}/{endpoint.service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = self._key(credentials.secret_key, day, endpoint.region, endpoint.service)
        signature = hmac.digest(key, f"{ALGORITHM}\n{at}\n{scope}\n{digest}".encode(), "sha256").hex()
        signed["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
        )
        return signed

    def _key(self, secret: str, day: str, region: str, service: str) -> bytes:
        name = (secret, day, region, service)
        found = self._keys.get(name)
        if found is None:
            if len(self._keys) >= 64:  # days and renewed secrets of a long life
                self._keys.clear()
            found = f"AWS4{secret}".encode()
            for part in (day, region, service, "aws4_request"):
                found = hmac.digest(found, part.encode(), "sha256")
            self._keys[name] = found
        return found


def quoted_key(key: str) -> str:
    """Quote a key for a path: every byte but letters, digits, ``-_.~`` and ``/``."""
    return quote(key, safe="/" + _UNRESERVED)


def quoted_query(query: Mapping[str, str]) -> str:
    """Quote a query and sort its parts, as the signature needs them."""
    parts = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in parts)
