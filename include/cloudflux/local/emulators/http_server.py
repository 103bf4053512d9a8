"""A small HTTP/1.1 server for emulators: one thread, kept connections, a WSGI application and a way past it.

An emulator that holds its objects behind one lock gains nothing from threads, and loses by them: every request is
answered in the event loop itself, one after the other. Bodies are received before that, so a slow client holds up
nobody. Not meant for anything but loopback: there are no limits on sizes or on time.
"""

from __future__ import annotations

import asyncio
import io
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Any, Final
from urllib.parse import unquote

import httptools
from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
QuickAnswer = Callable[[bytes, bytes, Mapping[bytes, bytes]], "tuple[int, list[tuple[str, str]]] | None"]
"""Gives status and headers by method, target and headers of a request without a body; None leaves it to the app."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_SERVER: Final = "CloudFlux"


class EmulatorServer:
    """Serves ``app``, and what ``quick`` answers without it. Bound as soon as it is made; port 0 takes a free one."""

    def __init__(self, host: str, port: int) -> None:
        self.app: WSGIApplication = _not_ready
        self.quick: QuickAnswer | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.host, self.port = self._socket.getsockname()[:2]
        self.connections: set[asyncio.Transport] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()

    def serve_forever(self) -> None:
        """Serve until ``shutdown`` is called, from wherever."""
        self._loop = loop = _new_loop()
        try:
            server = loop.run_until_complete(loop.create_server(lambda: _Connection(self), sock=self._socket))
            if not self._stopping.is_set():
                loop.run_forever()
            server.close()
            for connection in list(self.connections):
                connection.abort()
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop = None
            loop.close()

    def shutdown(self) -> None:
        """Let ``serve_forever`` return."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def server_close(self) -> None:
        """Close the socket."""
        self._socket.close()


class _Connection(asyncio.Protocol):
    """One client's connection: requests one after the other."""

    def __init__(self, server: EmulatorServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.connections.add(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserCallbackError:  # the application's error
            traceback.print_exc()
            self._refuse(b"500 Internal Server Error")
        except httptools.HttpParserError:
            self._refuse(b"400 Bad Request")

    def _refuse(self, status: bytes) -> None:
        self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        self._transport.close()

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in self._headers):
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, keep = self._parser.get_method(), self._parser.should_keep_alive()
        quick = self._server.quick
        answer = None
        if quick is not None and not self._body:
            answer = quick(method, self._target, {name.lower(): value for name, value in self._headers})
        if answer is not None:
            self._send(HTTPStatus(answer[0]), answer[1], b"", keep=keep)
        else:
            self._answer_by_app(method, keep=keep)
        if not keep:
            self._transport.close()

    def _answer_by_app(self, method: bytes, *, keep: bool) -> None:
        told: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> Callable[..., Any]:
            told.append((status, headers))
            return written.append

        written: list[bytes] = []
        blocks = self._server.app(self._environ(method), start_response)
        try:
            written += blocks
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()
        status, headers = told[-1]
        self._send(status, headers, b"".join(written), keep=keep, is_head=method == b"HEAD")

    def _send(
        self, status: str | HTTPStatus, headers: list[tuple[str, str]], body: bytes, *, keep: bool, is_head: bool = True
    ) -> None:
        line = status if isinstance(status, str) else f"{status.value} {status.phrase}"
        lines = [f"HTTP/1.1 {line}", f"Server: {_SERVER}", f"Date: {_http_date()}"]
        lines += [f"{name}: {value}" for name, value in headers]
        has_length = is_head or line.startswith(("204", "304"))
        if not has_length and not any(name.lower() == "content-length" for name, _ in headers):
            lines.append(f"Content-Length: {len(body)}")
        if not keep:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._transport.write(head if is_head else head + body)

    def _environ(self, method: bytes) -> dict[str, Any]:
        """Make what WSGI wants, as werkzeug's server and moto's handler of requests make it."""
        target = self._target.decode("latin-1")
        path, _, query = target.partition("?")
        peer = self._transport.get_extra_info("peername") or ("", 0)
        environ: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self._body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": _SERVER,
            "REQUEST_METHOD": method.decode("latin-1"),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "REQUEST_URI": target,
            "RAW_URI": target,
            "REMOTE_ADDR": peer[0],
            "REMOTE_PORT": peer[1],
            "SERVER_NAME": self._server.host,
            "SERVER_PORT": str(self._server.port),
            "SERVER_PROTOCOL": "HTTP/1.1",
        }
        preserved: dict[str, str] = {}
        for raw_name, raw_value in self._headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            key = environ_key_for_header(name)
            if "_" in name:
                if not should_preserve_original_header_name(name):
                    continue
                preserved.setdefault(key, name)
            if key in environ and key.startswith("HTTP_"):
                value = f"{environ[key]},{value}"
            environ[key] = value
        environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = preserved
        if "HTTP_TRANSFER_ENCODING" not in environ:
            environ.setdefault("CONTENT_LENGTH", str(len(self._body)))
        return environ


_DATE: list[Any] = [0, ""]


def _http_date() -> str:
    second = int(time())
    if _DATE[0] != second:
        _DATE[:] = [second, formatdate(second, usegmt=True)]
    return str(_DATE[1])


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _not_ready(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("503 Service Unavailable", [])
    return [b""]
