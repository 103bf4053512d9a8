"""Google Cloud Storage's requests that there are many of: looks, listings and rewrites, in batches made by hand.

The library's own ``client.batch()`` cannot change storage classes (it raises ``KeyError`` when it reads the answer).
These go through the same authorised session, once each.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import orjson
import requests
from google.auth.exceptions import GoogleAuthError, TransportError

from cloudflux.domain.errors import CredentialsRefused
from cloudflux.providers.batches import Answer, AnswerLost

Resource = Mapping[str, Any]

_ROOT: Final = "/storage/v1"
BATCH_CALLS: Final = 100
"""cloud.google.com/storage/docs/batch: no more calls in one batch."""
_READ_BYTES: Final = 2**20
_RATE_LIMITS: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.~/-]*")
_NUMBER: Final = re.compile(rb"^content-id:\s*<?response-[^\r\n]*?(\d+)>?\s*$", re.IGNORECASE | re.MULTILINE)
_STATUS: Final = re.compile(rb"HTTP/[0-9.]+ (\d+)")
_READ_HEADERS: Final = re.compile(rb"^(retry-after|x-guploader-uploadid):([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
"""Of the headers of a batch's parts, all that anybody reads."""
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_READ_FIELDS: Final = (
    "name,generation,metageneration,size,storageClass,etag,updated,timeCreated,timeStorageClassUpdated,contentType,"
    "md5Hash,crc32c,metadata,cacheControl,contentDisposition,contentEncoding,contentLanguage,customTime,kmsKeyName,"
    "temporaryHold,eventBasedHold,retentionExpirationTime,retention,contexts"
)
_REWRITTEN_FIELDS: Final = quote(f"done,rewriteToken,resource({_READ_FIELDS})", safe="")


class Call(NamedTuple):
    """One call of a batch."""

    method: str
    target: str
    """Path and query."""
    body: Resource | None = None


def look(bucket: str, key: str, *, acl: bool = False) -> Call:
    """Give the call for an object's resource; its access control list alone with ``acl``."""
    query = {"projection": "full", "fields": "etag,acl"} if acl else {"fields": _READ_FIELDS}
    return Call("GET", _target(_path(bucket, key), query))


def rewrite(
    bucket: str, key: str, body: Resource, *, generation: str, metageneration: str, token: str | None = None
) -> Call:
    """Give the call that rewrites one generation of an object in place, if it is as it was seen.

    The metadata of the result is that of the body, and of nothing else.
    """
    path = _path(bucket, key)
    target = (
        f"{path}/rewriteTo{path.removeprefix(_ROOT)}?sourceGeneration={generation}&ifGenerationMatch={generation}"
        f"&ifMetagenerationMatch={metageneration}&ifSourceGenerationMatch={generation}"
        f"&ifSourceMetagenerationMatch={metageneration}&fields={_REWRITTEN_FIELDS}"
    )
    if key_name := body.get("kmsKeyName"):
        target += f"&destinationKmsKeyName={_quoted(key_name)}"
    if token is not None:
        target += f"&rewriteToken={_quoted(token)}"
    return Call("POST", target, body)


def delete_generation(bucket: str, key: str, generation: str) -> Call:
    """Give the call that deletes one generation for good."""
    return Call("DELETE", _target(_path(bucket, key), {"generation": generation}))


class ObjectRequests:
    """Requests to one project's storage."""

    def __init__(self, client: Any, timeout_seconds: float, in_flight: int) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._root = client._connection.API_BASE_URL.rstrip("/")
        self._boundary = uuid.uuid4().hex
        """No key or metadata can hold it: nobody knows it."""
        self._batches = itertools.count()
        _settle_environment(client._http, self._root)
        for scheme in ("https://", "http://"):
            # ten connections are kept by default, and every further one is opened for one request
            kept = client._http.get_adapter(scheme)
            if getattr(kept, "_pool_maxsize", in_flight) < in_flight:
                client._http.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=in_flight))
                kept.close()

    def call(self, call: Call) -> Answer:
        """Send one call on its own; the content of an answer is its JSON."""
        body = None if call.body is None else orjson.dumps(call.body)
        answer = self._send(call.method, call.target, {"Content-Type": "application/json"}, body)
        return _read(answer.status, answer.headers, answer.content)

    def bucket(self, bucket: str) -> Answer:
        """Get what of a bucket decides how its objects are rewritten."""
        query = {"fields": "versioning,autoclass,iamConfiguration,softDeletePolicy"}
        return self.call(Call("GET", _target(f"{_ROOT}/b/{_quoted(bucket)}", query)))

    def list_page(self, bucket: str, prefix: str, *, start: str = "", token: str = "", limit: int) -> Answer:
        """List live objects; the content of a good answer has ``items`` and, if more follow, ``nextPageToken``."""
        query = {"maxResults": str(limit), "fields": f"nextPageToken,items({_READ_FIELDS})"}
        wanted = {"prefix": prefix, "startOffset": start, "pageToken": token}
        query.update((name, value) for name, value in wanted.items() if value)
        return self.call(Call("GET", _target(f"{_ROOT}/b/{_quoted(bucket)}/o", query)))

    def batch(self, calls: Sequence[Call]) -> Answer | list[Answer]:
        """Send calls as one batch: an answer for each, or the one that the batch got as a whole."""
        boundary = f"batch_{self._boundary}_{next(self._batches)}"
        parts = [_part(number, call, boundary) for number, call in enumerate(calls)]
        body = b"".join((*parts, f"--{boundary}--\r\n".encode()))
        answer = self._send(
            "POST", "/batch/storage/v1", {"Content-Type": f"multipart/mixed; boundary={boundary}"}, body
        )
        if answer.status != 200:
            return _read(answer.status, answer.headers, answer.content)
        answers = dict(_parts(answer))
        if not answers.keys() >= set(range(len(calls))):
            raise AnswerLost(f"the answer to a batch of {len(calls)} had {len(answers)} parts")
        return [answers[number] for number in range(len(calls))]

    def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Send one request once. Raises ``AnswerLost`` and ``CredentialsRefused``."""
        try:
            response = self._client._http.request(
                method,
                self._root + target,
                data=body,
                headers={**headers, "User-Agent": self._client._connection.user_agent},
                auth=_as_it_is,
                timeout=(min(20.0, self._timeout_seconds), self._timeout_seconds),
                stream=True,
            )
            # left to itself, requests puts an answer together of pieces of 10 KiB: four times the time for a page
            content = b"".join(response.iter_content(_READ_BYTES))
        except TransportError as exc:
            raise AnswerLost(f"no token for Google Cloud could be had: {exc}") from exc
        except GoogleAuthError as exc:
            kind = type(exc).__name__
            raise CredentialsRefused(f"Google Cloud does not accept our credentials ({kind}): renew them") from exc
        except requests.RequestException as exc:
            raise AnswerLost(f"{type(exc).__name__}: {exc}") from exc
        return Answer(response.status_code, response.headers, content)


def _settle_environment(session: requests.Session, url: str) -> None:
    """Read once what the environment says of proxies and certificates, which a session reads for each request anew."""
    if session.trust_env:
        settled = session.merge_environment_settings(url, {}, None, None, None)
        session.proxies, session.verify = dict(settled["proxies"]), settled["verify"]
        session.trust_env = False


def _as_it_is(request: Any) -> Any:
    """Leave the session's token alone: without an authentication of its own, a request looks for one in ~/.netrc."""
    return request


def error_of(answer: Answer) -> tuple[str, str]:
    """Give an error's reason and message."""
    error = answer.content.get("error") if isinstance(answer.content, dict) else None
    if not isinstance(error, dict):
        return "", ""
    details = error.get("errors") or [{}]
    return str(details[0].get("reason", "")), str(error.get("message", ""))


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    return quote(text, safe="")


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{'&'.join(f'{name}={_quoted(value)}' for name, value in query.items())}"


def _path(bucket: str, key: str) -> str:
    named = key.replace("/", "%2F") if _PLAIN_KEY.fullmatch(key) else quote(key, safe="")
    return f"{_ROOT}/b/{_quoted(bucket)}/o/{named}"


def _part(number: int, call: Call, boundary: str) -> bytes:
    body = b"" if call.body is None else orjson.dumps(call.body)
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = (
        f"--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
        f"Content-ID: <cloudflux+{number}>\r\n\r\n"
        f"{call.method} {call.target} HTTP/1.1\r\n{content}Accept: application/json\r\n\r\n"
    )
    return head.encode() + body + b"\r\n"


def _parts(answer: Answer) -> Iterator[tuple[int, Answer]]:
    boundary = (answer.headers.get("content-type") or "").partition("boundary=")[2].strip('"').encode()
    whole, closed, _ = answer.content.rpartition(b"--" + boundary + b"--")
    if not boundary or not closed:
        raise AnswerLost("the answer to a batch was cut off")
    for part in whole.split(b"--" + boundary + b"\r\n")[1:]:
        outer, _, inner = part.partition(b"\r\n\r\n")
        head, _, body = inner.partition(b"\r\n\r\n")
        number = _NUMBER.search(outer)
        status = _STATUS.match(head)
        if number is None or status is None:
            raise AnswerLost("a part of a batch's answer has no number, or no status")
        told = _READ_HEADERS.findall(head)
        headers = {name.decode().lower(): value.decode().strip() for name, value in told} if told else _NO_HEADERS
        yield int(number[1]), _read(int(status[1]), headers, body)


def _read(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an answer's JSON, and give a refusal for haste the status that says so."""
    try:
        content = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as exc:
        if status < 300:
            raise AnswerLost("the answer was cut off") from exc
        content = {}
    answer = Answer(status, headers, content)
    return Answer(429, headers, content) if status == 403 and error_of(answer)[0] in _RATE_LIMITS else answer
