"""Thousands of requests a second to S3 from one thread: aiohttp, with our own signing.

boto3 spends about a millisecond of processor time on each request, most of it on turning Python values into HTTP and
back. A move needs no more than a few headers, so these requests are made by hand. Who we are, where a bucket is and how
it is addressed (region, virtual host or path, dual stack, a custom endpoint) is still botocore's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import html
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ProxyConnectionError,
)
from botocore.httpsession import get_cert_path
from yarl import URL

from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TerminalError, TransientError
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import AGENT

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = "-_.~"

NOT_ACTED_ON: Final = frozenset(
    {
        "429",
        "503",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",  # another conditional write of the same key was under way
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",  # S3 did not get the whole request in time
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
"""Codes and statuses by which S3 says that it did nothing, and that asking later may help."""
_NO_MATTER_OF_RATE: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
PERHAPS_ACTED_ON: Final = frozenset({"500", "502", "504", "InternalError"})
"""Codes and statuses after which nobody knows."""
REFUSED_CREDENTIALS: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
REFUSED_ACCOUNT: Final = frozenset(
    {
        "507",
        "AccountProblem",
        "AllAccessDisabled",
        "InsufficientStorage",
        "NotSignedUp",
        "QuotaExceeded",
        "XMinioStorageFull",
    }
)
_DIRECTORY_BUCKET: Final = "--x-s3"
_CODE: Final = re.compile(rb"<Code>\s*([^<]*?)\s*</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")
_SCOPE: Final = re.compile(r"Credential=[^/]*(?:/[^/]*)*?/\d{8}/([^/]+)/([^/]+)/aws4_request")
_CREDENTIALS_SECONDS: Final = 5.0
_CONFIRMED_SECONDS: Final = 60.0
_THREADS: Final = 64
_CORRECTIONS: Final = 2
"""How often one request is mended: the clock, the region and the credentials may each be wrong."""

_Result = TypeVar("_Result")


class NotServed(TransientError):
    """The client's patience ran out: throttled, or no connection. Nothing is known to have been done."""


class AnswerLost(Exception):
    """Nobody knows whether S3 acted: the connection broke after the request was sent, or the answer says as much."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


class _NeverSent(Exception):
    """There was no connection to send a request over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names in lower case, values as Latin-1 text, as botocore has them."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """S3's code of an error; the status where there is no body (HEAD), nothing when all is well."""
        found = _CODE.search(self.body) if b"<Error" in self.body else None
        if found is not None:
            return html.unescape(found[1].decode("utf-8", "replace"))
        return "" if self.status < 300 else str(self.status)

    @property
    def message(self) -> str:
        """What S3 says about an error."""
        found = _MESSAGE.search(self.body)
        return html.unescape(found[1].decode("utf-8", "replace")) if found else ""

    @property
    def request_id(self) -> str | None:
        """The id under which S3 knows the request."""
        return self.headers.get("x-amz-request-id") or self.headers.get("x-amzn-requestid")

    @property
    def retry_after(self) -> float | None:
        """How many seconds S3 asks us to wait."""
        text = self.headers.get("retry-after", "")
        if text.isdigit():
            return float(text)
        try:
            until = parsedate_to_datetime(text).timestamp()
        except ValueError:
            return None
        return max(0.0, until - self.answered_at.timestamp())

    @property
    def answered_at(self) -> datetime:
        """S3's own clock; the beginning of time when it did not say, so that a retention counts as running."""
        text = self.headers.get("date")
        return parsedate_to_datetime(text) if text else datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


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
        signature = hmac.digest(key, f"{_ALGORITHM}\n{at}\n{scope}\n{digest}".encode(), "sha256").hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
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


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request is tried, and how long one try may take."""

    attempts: int = 8
    seconds: float = 60.0
    """From a request's first failure on, the waits between its attempts included."""
    connect_seconds: float = 10.0
    silent_seconds: float = 60.0
    """Without a single byte. S3 sends blanks while a large copy is being made."""
    answer_seconds: float = 900.0


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
    if authorization and (scope is None or not authorization.startswith(_ALGORITHM)):
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


class LoopThread:
    """An event loop in a thread of its own, which starts when it is first needed. Safe between threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0
        self._starters: list[Callable[[], None]] = []
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def on_start(self, begin: Callable[[], None]) -> None:
        """Call this before a loop starts: what belongs to an earlier one is of no use."""
        self._starters.append(begin)

    def on_stop(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this coroutine in the loop before it ends."""
        self._closers.append(close)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop and wait for what it gives; whoever is interrupted cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:  # also an interrupt: nobody waits for the work any more
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread; the next ``run`` starts them again."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._process != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._close(), loop).add_done_callback(
            lambda _: loop.call_soon_threadsafe(loop.stop)
        )
        if thread is not threading.current_thread():
            thread.join(10)

    async def _close(self) -> None:
        for close in self._closers:
            await close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # a fork has the loop, but not its thread
                for begin in self._starters:
                    begin()
                self._loop = loop = _new_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                self._process = os.getpid()
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _AiohttpTransport:
    """Sends over connections that are kept; never twice by itself."""

    def __init__(self, patience: Patience, verify: bool | str, certificate: tuple[str | None, str | None]) -> None:
        self._patience = patience
        self._verify = verify
        self._certificate = certificate
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        session = self._session if self._session is not None else self._open()
        try:
            async with session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise _NeverSent(f"there is no connection to {urlsplit(url).netloc}: {exc}") from exc
        except TimeoutError as exc:
            raise AnswerLost("no answer came in time") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise AnswerLost(f"the connection broke: {exc or type(exc).__name__}") from exc
        raw = response.raw_headers
        return Answer(
            response.status, {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}, content
        )

    def start_over(self) -> None:
        self._session = None

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        patience = self._patience
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl(), ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(
                total=patience.answer_seconds,
                sock_connect=patience.connect_seconds,
                sock_read=patience.silent_seconds,
            ),
        )
        # aiohttp would send a PUT again, unasked, when a kept connection breaks: that could move an object twice.
        self._session._retry_connection = False
        return self._session

    def _ssl(self) -> ssl.SSLContext | bool:
        certificate, key = self._certificate
        if not self._verify and certificate is None:
            return False
        context = ssl.create_default_context(cafile=get_cert_path(self._verify) if self._verify else None)
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context


class _BotocoreTransport:
    """Sends through botocore's own connections, in threads: for what only they know, such as proxies."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudflux-s3")

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._send, method, url, headers, body)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
        try:
            response = self._session.send(request.prepare())
            content = response.content
        except (EndpointConnectionError, ProxyConnectionError) as exc:
            raise _NeverSent(str(exc)) from exc
        except HTTPClientError as exc:
            raise AnswerLost(f"the connection broke: {exc}") from exc
        named = {str(name).lower(): str(value) for name, value in response.headers.items()}
        return Answer(response.status_code, named, content)

    def start_over(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudflux-s3")

    async def close(self) -> None:
        self._threads.shutdown(wait=False)


class S3Requests:
    """Sends requests to S3 within each bucket's pace, and tells what kind of failure a failure is.

    Everything but the constructor runs in one event loop. What passes is tried again: throttling always, a lost answer
    only where the request may be repeated without harm. Proxies are left to botocore's own connections, in threads.
    """

    def __init__(self, s3: Any, pace_of: Callable[[str], Pace], patience: Patience) -> None:
        self._s3 = s3
        self._pace_of = pace_of
        self.patience = patience
        self._resolver = EndpointResolver(s3)
        self._signer = RequestSigner()
        self._agent = f"{s3.meta.config.user_agent} {AGENT}"
        self._endpoints: dict[str, Endpoint] = {}
        self._paces: dict[str, tuple[Pace, asyncio.Semaphore]] = {}
        self._credentials: Credentials | None = None
        self._credentials_until = 0.0
        self._credentials_lock = asyncio.Lock()
        self._clock_ahead = 0.0
        self._second: tuple[int, str] = (0, "")
        self._confirmed: dict[str, float] = {}
        self._confirming: dict[str, asyncio.Lock] = {}
        session = s3._endpoint.http_session
        self._transport: _AiohttpTransport | _BotocoreTransport
        if session._proxy_config.proxy_url_for(s3.meta.endpoint_url):
            self._transport = _BotocoreTransport(session)
        else:
            self._transport = _AiohttpTransport(patience, session._verify, (session._cert_file, session._key_file))

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._transport.start_over()
        self._paces.clear()
        self._confirming.clear()
        self._credentials_lock = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def pace(self, bucket: str) -> Pace:
        """Give the pace of a bucket."""
        return self._lane(bucket)[0]

    async def send(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        repeatable: bool,
    ) -> Answer:
        """Send a request until it is answered; one that is ``repeatable`` also when an answer was lost.

        Gives S3's answer, also a refusal that concerns this request only. Raises ``NotServed`` when patience runs out,
        ``AnswerLost`` when the request is not repeatable and may have been acted on, and ``CredentialsRefused``,
        ``BucketNotFound`` or ``AccountRefused``.
        """
        request = Request(method, bucket, key, quoted_query(query) if query else "", headers or {}, body)
        pace, places = self._lane(bucket)
        failed_at: float | None = None
        attempt, corrections = 0, 0
        while True:
            attempt += 1
            retry_after: float | None = None
            credentials = await self._current_credentials()
            try:
                async with places:
                    await pace.admit_async()
                    answer = await self._send_once(request, credentials)
            except _NeverSent as exc:
                reason = str(exc)
            except AnswerLost as exc:
                if not repeatable:
                    raise
                reason = str(exc)
            else:
                if not self._is_passing(answer, pace, bucket, repeatable):
                    if corrections < _CORRECTIONS and await self._corrected(answer, credentials, request):
                        corrections += 1
                        continue
                    _raise_for_all(answer, bucket)
                    return answer
                retry_after = answer.retry_after
                reason = f"S3 could not serve it ({answer.code}: {answer.message})"
            failed_at = time.monotonic() if failed_at is None else failed_at
            wait = pace.backoff(attempt, retry_after)
            if attempt >= self.patience.attempts or time.monotonic() + wait - failed_at > self.patience.seconds:
                raise NotServed(f"{reason}; gave up after {attempt} attempts")
            await asyncio.sleep(wait)

    def _is_passing(self, answer: Answer, pace: Pace, bucket: str, repeatable: bool) -> bool:
        """Tell the pace what came; True when the same request may be answered otherwise later.

        Raises ``AnswerLost`` when nobody knows whether it was acted on and it must not be sent again unseen.
        """
        code, status = answer.code, str(answer.status)
        if not code:
            pace.served()
            self._confirmed[bucket] = time.monotonic()
            return False
        if code in NOT_ACTED_ON or status in NOT_ACTED_ON:
            if code not in _NO_MATTER_OF_RATE:
                pace.throttled(answer.retry_after)
            return True
        if answer.status < 300 or code in PERHAPS_ACTED_ON or status in PERHAPS_ACTED_ON:
            pace.throttled(answer.retry_after)
            if not repeatable:
                raise AnswerLost(f"S3 answered {status} ({code}: {answer.message})", answer)
            return True
        pace.served()
        return False

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> Answer:
        """Look at an object. HEAD's refusals have no body, so the bucket is asked what is behind one."""
        query = {} if version_id is None else {"versionId": version_id}
        while True:
            asked_at, identity = time.monotonic(), (await self._current_credentials(), self._clock_ahead)
            answer = await self.send(
                "HEAD", bucket, key, query=query, headers={"x-amz-checksum-mode": "ENABLED"}, repeatable=True
            )
            if answer.status not in (400, 403, 404):
                return answer
            enough = asked_at if answer.status != 404 else asked_at - _CONFIRMED_SECONDS
            await self._confirm(bucket, enough)
            if answer.status == 404 or identity == (self._credentials, self._clock_ahead):
                return answer

    async def _confirm(self, bucket: str, since: float) -> None:
        """Make sure that the bucket exists and knows us: raise if not. One question serves all who ask meanwhile."""
        async with self._confirming.setdefault(bucket, asyncio.Lock()):
            if self._confirmed.get(bucket, -1.0) >= since:
                return
            asked_at = time.monotonic()
            await self.send("GET", bucket, query={"versioning": ""}, repeatable=True)
            self._confirmed[bucket] = asked_at

    def _lane(self, bucket: str) -> tuple[Pace, asyncio.Semaphore]:
        found = self._paces.get(bucket)
        if found is None:
            pace = self._pace_of(bucket)
            found = self._paces[bucket] = (pace, asyncio.Semaphore(pace.max_in_flight))
        return found

    async def _send_once(self, request: Request, credentials: Credentials | None) -> Answer:
        endpoint = self._endpoints.get(request.bucket)
        if endpoint is None:
            endpoint = await asyncio.to_thread(self._resolver.resolve, request.bucket)
            self._endpoints[request.bucket] = endpoint
        path = endpoint.path + quoted_key(request.key)
        if endpoint.signed and credentials is not None:
            headers = self._signer.headers(request, credentials, endpoint, self._now(), path)
        else:
            headers = dict(request.headers)
        headers["user-agent"] = self._agent
        url = f"{endpoint.origin}{path}"
        if request.query:
            url = f"{url}?{request.query}"
        return await self._transport.send(request.method, url, headers, request.body)

    def _now(self) -> str:
        """Tell the time for a signature, by S3's clock as far as it is known."""
        second = int(time.time() + self._clock_ahead)
        if self._second[0] != second:
            self._second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ"))
        return self._second[1]

    async def _current_credentials(self) -> Credentials | None:
        """Give the credentials, which botocore renews where they are of the kind that can be."""
        if time.monotonic() < self._credentials_until:
            return self._credentials
        async with self._credentials_lock:
            if time.monotonic() >= self._credentials_until:
                self._credentials = await asyncio.to_thread(self._frozen_credentials)
                self._credentials_until = time.monotonic() + _CREDENTIALS_SECONDS
        return self._credentials

    def _frozen_credentials(self) -> Credentials | None:
        found = self._s3._request_signer._credentials
        if found is None:
            return None
        try:
            frozen = found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as exc:
            raise CredentialsRefused(f"the credentials of the connection to S3 cannot be renewed: {exc}") from exc
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    async def _corrected(self, answer: Answer, credentials: Credentials | None, request: Request) -> bool:
        """Mend what of a refusal is ours to mend: a wrong clock, a bucket elsewhere, credentials just renewed."""
        code, bucket = answer.code, request.bucket
        if not code:
            return False
        if code == "RequestTimeTooSkewed" and "date" in answer.headers:
            self._clock_ahead = answer.answered_at.timestamp() - time.time()
            return True
        region, endpoint = answer.headers.get("x-amz-bucket-region"), self._endpoints[bucket]
        if region and region != endpoint.region and answer.status in (301, 307, 400):
            found = await asyncio.to_thread(self._resolver.redirect, bucket, request.key or "k")
            self._endpoints[bucket] = found if found.region == region else replace(endpoint, region=region)
            return True
        if code in REFUSED_CREDENTIALS:
            self._credentials_until = 0.0
            return await self._current_credentials() != credentials
        return False


def _raise_for_all(answer: Answer, bucket: str) -> None:
    """Raise for a refusal that concerns every request to come."""
    code = answer.code
    if not code:
        return
    said = f"{code}: {answer.message}"
    if code in REFUSED_CREDENTIALS:
        raise CredentialsRefused(
            f"S3 does not accept the credentials for bucket {bucket!r} ({said}): renew those of the Airflow connection"
        )
    if code == "RequestTimeTooSkewed":
        raise CredentialsRefused(f"S3 finds this machine's clock wrong, also when set by its own ({said})")
    if code == "NoSuchBucket":
        raise BucketNotFound(f"there is no bucket {bucket!r} ({answer.message})")
    if code in REFUSED_ACCOUNT or str(answer.status) in REFUSED_ACCOUNT:
        raise AccountRefused(f"S3 no longer serves the account of bucket {bucket!r} ({said})")


async def for_each(
    items: Sequence[Any], function: Callable[[Any], Coroutine[Any, Any, _Result]], in_flight: int
) -> list[_Result]:
    """Apply ``function`` to every item, at most ``in_flight`` at once; results in order.

    After the first error nothing new begins; what is under way is brought to its end, and then the error is raised.
    """
    results: list[Any] = [None] * len(items)
    numbered = iter(enumerate(items))
    errors: list[TerminalError | TransientError] = []

    async def work() -> None:
        for number, item in numbered:
            try:
                results[number] = await function(item)
            except (TerminalError, TransientError) as exc:
                errors.append(exc)
            if errors:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(items))):
            group.create_task(work())
    if errors:
        raise errors[0]
    return results
