"""Requests to S3 over HTTP/1.1 connections that are kept: each is sent once, by one thread, as cheaply as Python can.

A copy is one small request and one small answer, so that what a client does around them decides how many a processor
core can send: aiohttp took 60 % of a copy's time. Parsing is llhttp's (httptools), the search for an address that
answers is aiohttp's own (aiohappyeyeballs); what is left is to keep connections, and to say how far a request got.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools
from botocore.httpsession import get_cert_path

from cloudflux.providers.aws_http import Answer, AnswerLost, NeverSent, Patience

_IDLE_SECONDS: Final = 15.0
"""A server closes what is idle for long; a request that meets such a connection is lost."""
_ADDRESSES_SECONDS: Final = 30.0
"""S3 changes its addresses often, and a resolver does not take a question for each of 2,000 connections."""
_NEXT_ADDRESS_SECONDS: Final = 0.25
"""After which the next address is tried beside one that does not answer (RFC 8305)."""
_SWEEP_SECONDS: Final = 1.0
_LARGEST_HEAD: Final = 256 << 10
_ROUNDS_TO_CLOSE: Final = 10
"""Of the event loop, which tells a connection of its end in the next one, or a few later under TLS."""

_AddressInfo = tuple[Any, Any, int, str, Any]


class DirectTransport:
    """Sends over connections that are kept; never twice by itself. For one event loop."""

    def __init__(self, patience: Patience, verify: bool | str, certificate: tuple[str | None, str | None]) -> None:
        """``verify`` and ``certificate`` (its file and its key's) are botocore's."""
        self._patience = patience
        self._verify = verify
        self._certificate = certificate
        self._tls: ssl.SSLContext | None = None
        self.start_over()

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._idle: dict[str, deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._resolved: dict[tuple[str, int], tuple[float, list[_AddressInfo]]] = {}
        self._resolving = asyncio.Lock()
        self._opened = 0
        self._sweeping: asyncio.TimerHandle | None = None

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request once. Raises ``NeverSent`` and ``AnswerLost``."""
        scheme, _, rest = url.partition("://")
        host, _, target = rest.partition("/")
        begun = time.monotonic()
        message = _message(method, f"/{target}", host, headers, body)
        connection = self._take(f"{scheme}://{host}")
        if connection is None:
            connection = await self._connect(scheme, host)
        try:
            return await connection.ask(message, begun, is_head=method == "HEAD")
        except BaseException:  # also cancelled: an answer that still comes must not be taken for the next one's
            connection.abort()
            raise

    async def close(self) -> None:
        """Close the connections; who still waits for an answer learns that it is lost."""
        for connection in list(self._open):
            connection.abort()
        for _ in range(_ROUNDS_TO_CLOSE):
            if not self._open:
                break
            await asyncio.sleep(0)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.start_over()

    def _take(self, origin: str) -> _Connection | None:
        """Give the connection that was used last, so that those that are not needed grow old."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        return None

    async def _connect(self, scheme: str, host: str) -> _Connection:
        loop, (name, port) = asyncio.get_running_loop(), _name_and_port(scheme, host)
        connection = _Connection(loop, self._idle.setdefault(f"{scheme}://{host}", deque()), self._open)
        try:
            async with asyncio.timeout(self._patience.connect_seconds):
                addresses = await self._addresses(loop, name, port)
                self._opened += 1
                first = self._opened % len(addresses)  # S3's addresses share the work
                found = await aiohappyeyeballs.start_connection(
                    addresses[first:] + addresses[:first],
                    happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                    interleave=1,
                    loop=loop,
                )
                try:
                    tls = self._tls_context() if scheme == "https" else None
                    await loop.create_connection(
                        lambda: connection, sock=found, ssl=tls, server_hostname=None if tls is None else name
                    )
                except BaseException:  # also cancelled: no transport has taken the socket over
                    found.close()
                    raise
        except TimeoutError as exc:
            raise NeverSent(f"there is no connection to {host}: it did not come about in time") from exc
        except (OSError, UnicodeError) as exc:  # also a certificate that is not trusted, and a name that is not known
            self._resolved.pop((name, port), None)
            raise NeverSent(f"there is no connection to {host}: {exc}") from exc
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._sweep_seconds, self._sweep, loop)
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop, name: str, port: int) -> list[_AddressInfo]:
        """Give the addresses of a host; one question serves all who ask meanwhile."""
        async with self._resolving:
            until, found = self._resolved.get((name, port), (0.0, []))
            if time.monotonic() >= until:
                found = list(await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM))
                if not found:
                    raise OSError("its name has no address")
                self._resolved[name, port] = time.monotonic() + _ADDRESSES_SECONDS, found
            return found

    def _tls_context(self) -> ssl.SSLContext:
        """Make what says whom to trust, and who we are."""
        if self._tls is None:
            context = ssl.create_default_context(cafile=get_cert_path(self._verify) if self._verify else None)
            if not self._verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            certificate, key = self._certificate
            if certificate is not None:
                context.load_cert_chain(certificate, key)
            self._tls = context
        return self._tls

    @property
    def _sweep_seconds(self) -> float:
        return min(_SWEEP_SECONDS, self._patience.silent_seconds / 5, self._patience.answer_seconds / 5)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what takes too long: one timer for all connections, since one for each request costs more than it."""
        now, patience = time.monotonic(), self._patience
        for connection in list(self._open):
            connection.end_if_late(now, patience)
        self._sweeping = loop.call_later(self._sweep_seconds, self._sweep, loop) if self._open else None


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, each after the answer to the one before."""

    __slots__ = (
        "_answer",
        "_begun",
        "_body",
        "_headers",
        "_heard",
        "_idle",
        "_in_head",
        "_is_head",
        "_loop",
        "_open",
        "_parser",
        "_size",
        "_transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: deque[_Connection], opened: set[_Connection]) -> None:
        self._loop = loop
        self._idle = idle
        self._open = opened
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._is_head = False
        self._begun = self._heard = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._in_head = True
        self._size = 0

    # --- for the transport

    @property
    def is_usable(self) -> bool:
        """Whether it is open as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, message: bytes, begun: float, *, is_head: bool) -> asyncio.Future[Answer]:
        """Send a request whose time began at ``begun``, and promise its answer."""
        self._answer = answer = self._loop.create_future()
        self._is_head = is_head
        self._begun, self._heard = begun, time.monotonic()
        self._begin()
        if self._transport is None or self._transport.is_closing():
            self._give_up(NeverSent("the connection was closed at once"))
        else:
            self._transport.write(message)
        return answer

    def abort(self) -> None:
        """Close it without more ado."""
        if self._transport is not None:
            self._transport.abort()

    def end_if_late(self, now: float, patience: Patience) -> None:
        """Close it if it is idle, silent, or one answer has been coming for too long."""
        if self._answer is None:
            if now - self._heard > _IDLE_SECONDS:
                self.abort()
        elif now - self._heard > patience.silent_seconds or now - self._begun > patience.answer_seconds:
            self._give_up(AnswerLost("no answer came in time"))

    # --- for the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.abort()
            return
        self._heard = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the server wants another protocol")
        except httptools.HttpParserError as exc:
            self._fail(f"the answer is no HTTP: {exc}")
        if self._in_head:
            self._size += len(data)
            if self._size > _LARGEST_HEAD:
                self._fail(f"the answer has more than {_LARGEST_HEAD} bytes of headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        if self._answer is None:
            return
        headers = self._headers
        if exc is None and not self._in_head and "content-length" not in headers and "transfer-encoding" not in headers:
            self._finish(keep=False)  # an answer without a length ends with its connection
        else:
            self._fail(str(exc) if exc is not None else "the server closed it before the end of its answer")

    # --- for the parser

    def on_message_begin(self) -> None:
        if self._answer is None:  # a second answer to one question
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not what may follow a body
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._in_head = False
            if self._is_head:  # the parser would wait for the body that a GET had got
                keep = self._parser.should_keep_alive() or self._is_kept_by_headers()
                self._finish(keep=keep, status=status)
                self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        if self._answer is None:  # after the end of what HEAD is answered with
            self.abort()

    def on_message_complete(self) -> None:
        if self._in_head:  # 100 to 199: the answer is still to come
            self._begin()
        elif self._answer is not None:
            self._finish(keep=self._parser.should_keep_alive())

    # --- ends

    def _is_kept_by_headers(self) -> bool:
        return self._parser.get_http_version() == "1.1" and "close" not in self._headers.get("connection", "").lower()

    def _finish(self, *, keep: bool, status: int | None = None) -> None:
        answer, self._answer = self._answer, None
        found = Answer(status or self._parser.get_status_code(), self._headers, b"".join(self._body))
        transport = self._transport
        if transport is not None:
            if keep and not transport.is_closing() and not transport.get_write_buffer_size():
                self._idle.append(self)
            else:
                transport.close()
        if answer is not None and not answer.done():
            answer.set_result(found)

    def _fail(self, reason: str) -> None:
        self._give_up(AnswerLost(f"the connection broke: {reason}"))

    def _give_up(self, error: AnswerLost | NeverSent) -> None:
        answer, self._answer = self._answer, None
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)


def _name_and_port(scheme: str, host: str) -> tuple[str, int]:
    parts = urlsplit(f"{scheme}://{host}")
    return parts.hostname or "", parts.port or (443 if scheme == "https" else 80)


def _message(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    if "host" not in headers:
        lines.append(f"Host: {host}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if body or method not in ("GET", "HEAD"):
        lines.append(f"Content-Length: {len(body)}\r\n")
    head = "".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines) or "\0" in head:
        raise ValueError(f"{method} {target!r}: a header has a line break or NUL in it")
    return f"{head}\r\n".encode() + body
