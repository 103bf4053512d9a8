"""An S3 endpoint that answers every request after a fixed time: what a client can do when only distance holds it up.

It speaks as much as a move needs: HEAD, CopyObject with its conditions, and what a bucket says of itself. Any key
exists, with one byte in it, in `STANDARD` until it is copied into another class. Signatures are not checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import socket
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, Final

_HEAD_END: Final = b"\r\n\r\n"
_CLASS: Final = b"x-amz-storage-class"
_CONDITIONS: Final = (b"if-match", b"x-amz-copy-source-if-match")
_SHORTEST_WAIT_S: Final = 0.001
_CONNECTIONS: Final = 1024


class Endpoint:
    """The objects, and the answers that wait for their time."""

    def __init__(self, delay_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = 0
        self._delay = delay_seconds
        self._loop = loop
        self._classes: dict[bytes, bytes] = {}
        """Of what was moved, by path."""
        self._waiting: deque[tuple[float, asyncio.Transport, bytes]] = deque()
        self._armed = False
        self._written = formatdate(time.time(), usegmt=True).encode()
        self._second, self._date = 0, b""

    def ask(self, transport: asyncio.Transport, head: bytes) -> None:
        """Take a request, and answer it once its time has come: never earlier."""
        self.asked += 1
        answer = self._answer(head)
        if not self._delay:
            transport.write(answer)
            return
        self._waiting.append((time.monotonic() + self._delay, transport, answer))
        if not self._armed:
            self._arm(self._delay)

    def _arm(self, seconds: float) -> None:
        self._armed = True
        self._loop.call_later(max(seconds, _SHORTEST_WAIT_S), self._send_due)

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, transport, answer = self._waiting.popleft()
            if not transport.is_closing():
                transport.write(answer)
        self._armed = False
        if self._waiting:
            self._arm(self._waiting[0][0] - now)

    def _answer(self, head: bytes) -> bytes:
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.split(b" ", 2)
        path, _, query = target.partition(b"?")
        if method == b"HEAD":
            return self._object(path)
        if method == b"PUT" and not query:
            return self._copy(path, rest)
        if method == b"GET" and query.startswith(b"versioning"):
            return self._document(b"200 OK", b"<VersioningConfiguration/>")
        if method == b"GET" and query.startswith(b"ownershipControls"):
            rule = b"<Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule>"
            return self._document(b"200 OK", b"<OwnershipControls>" + rule + b"</OwnershipControls>")
        return self._error(b"501 Not Implemented", b"NotImplemented")

    def _object(self, path: bytes) -> bytes:
        stored = self._classes.get(path)
        named = b"" if stored is None else b"%s: %s\r\n" % (_CLASS, stored)
        return b'HTTP/1.1 200 OK\r\n%sLast-Modified: %s\r\nETag: "%s"\r\nContent-Length: 1\r\n%s\r\n' % (
            self._common(),
            self._written,
            etag_of(path).encode(),
            named,
        )

    def _copy(self, path: bytes, rest: bytes) -> bytes:
        headers = dict(line.split(b": ", 1) for line in rest.split(b"\r\n") if line)
        headers = {name.lower(): value for name, value in headers.items()}
        etag = etag_of(path).encode()
        if any(headers.get(name, etag).strip(b'"') != etag for name in _CONDITIONS):
            return self._error(b"412 Precondition Failed", b"PreconditionFailed")
        wanted = headers.get(_CLASS, b"STANDARD")
        if wanted == b"STANDARD":
            self._classes.pop(path, None)
        else:
            self._classes[path] = wanted
        result = b"<CopyObjectResult><ETag>&quot;%s&quot;</ETag></CopyObjectResult>" % etag
        return self._document(b"200 OK", result)

    def _error(self, status: bytes, code: bytes) -> bytes:
        return self._document(status, b"<Error><Code>%s</Code><Message>%s</Message></Error>" % (code, status))

    def _document(self, status: bytes, body: bytes) -> bytes:
        kind = b"Content-Type: application/xml\r\n"
        return b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s" % (status, self._common(), kind, len(body), body)

    def _common(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return b"Date: %s\r\nx-amz-request-id: %016X\r\n" % (self._date, self.asked)


class _Connection(asyncio.Protocol):
    """One kept connection; whatever bodies its requests have are read past."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: Any = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            head = self._buffer[: end + 2]
            after = end + len(_HEAD_END) + _body_bytes(head)
            if len(self._buffer) < after:
                return
            self._buffer = self._buffer[after:]
            self._endpoint.ask(self._transport, head)


def _body_bytes(head: bytes) -> int:
    lowered = head.lower()
    found = lowered.find(b"\r\ncontent-length:")
    return 0 if found < 0 else int(lowered[found + 17 : lowered.index(b"\r\n", found + 17)])


def etag_of(path: bytes) -> str:
    """Give the ETag of the object at a quoted path, `/bucket/key`."""
    return hashlib.md5(path, usedforsecurity=False).hexdigest()


@contextmanager
def answering_endpoint(delay_seconds: float, *, cores: set[int] | None = None) -> Generator[str]:
    """Serve in a process of its own, on a free port of loopback; gives the address."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sending, delay_seconds, cores), daemon=True)
    process.start()
    sending.close()
    try:
        try:
            port = receiving.recv()
        except EOFError:
            raise RuntimeError("the endpoint did not start") from None
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _serve(sending: Any, delay_seconds: float, cores: set[int] | None) -> None:
    import uvloop

    pin(cores)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        endpoint = Endpoint(delay_seconds, loop)
        server = await loop.create_server(lambda: _Connection(endpoint), "127.0.0.1", 0, backlog=4096)
        sending.send(server.sockets[0].getsockname()[1])
        sending.close()
        await server.serve_forever()

    uvloop.run(serve())


def pin(cores: set[int] | None) -> None:
    """Keep this process on some cores, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def endpoint_rate(url: str, requests: int, cores: set[int] | None) -> dict[str, float]:
    """Tell how many copies a second the endpoint answers when the client does next to nothing: one fixed request."""
    import uvloop

    pin(cores)
    host, port = url.removeprefix("http://").split(":")
    asked = b"PUT /b/k HTTP/1.1\r\nHost: b\r\nx-amz-storage-class: STANDARD_IA\r\nContent-Length: 0\r\n\r\n"

    async def ask() -> float:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        left = requests

        class Asking(asyncio.Protocol):
            transport: Any

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                nonlocal left
                left -= 1
                if left > 0:
                    self.transport.write(asked)
                elif not done.done():
                    done.set_result(None)

        connections = [
            (await loop.create_connection(Asking, host, int(port)))[0] for _ in range(min(_CONNECTIONS, requests))
        ]
        began = time.perf_counter()
        for transport in connections:
            transport.write(asked)
        await done
        seconds = time.perf_counter() - began
        for transport in connections:
            transport.close()
        return seconds

    return {"requests_per_second": requests / uvloop.run(ask())}
