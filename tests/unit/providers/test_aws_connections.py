"""Kept connections to S3: whatever a server sends and wherever it stops, each request gets its own answer or none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.providers import aws_connections
from cloudflux.providers.aws_connections import DirectTransport, _Connection
from cloudflux.providers.aws_http import Answer, AnswerLost, NeverSent, Patience

_CLOSE, _RESET, _WAIT = "close", "reset", "wait"
_Step = bytes | str
_Answers = list[list[_Step]]
"""For each request, in the order of their coming: what is sent, and what is done with the connection."""


class Server:
    """Answers with given bytes, and remembers the requests of each connection."""

    def __init__(self, answers: _Answers) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.ended = 0
        self._answers = iter(answers)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has closed it
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head)
                    lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                    self.bodies.append(await reader.readexactly(int(lengths[0])) if lengths else b"")
                    for step in next(self._answers):
                        if isinstance(step, bytes):
                            writer.write(step)
                            await writer.drain()
                            await asyncio.sleep(0.01)  # so that it comes in a piece of its own
                        elif step == _WAIT:
                            await reader.read()
                        else:
                            if step == _RESET:
                                await asyncio.sleep(0.05)  # what was sent before arrives
                                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                            return
        finally:
            self.ended += 1
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()


class Served:
    """A server, and a client of it."""

    def __init__(self, server: Server, url: str, transport: DirectTransport) -> None:
        self.server = server
        self.url = url
        self.transport = transport

    async def ask(self, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        return await self.transport.send(method, f"{self.url}/key?a=b", headers, body)

    async def all_closed(self) -> None:
        """Wait until the client has no connection."""
        async with asyncio.timeout(30):
            while self.transport._open:
                await asyncio.sleep(0.01)


def _transport(**patience: float) -> DirectTransport:
    return DirectTransport(Patience(**cast(Any, patience)), True, (None, None))


@asynccontextmanager
async def serving(answers: _Answers, **patience: float) -> AsyncIterator[Served]:
    server = Server(answers)
    listening = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    transport = _transport(**patience)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield Served(server, f"http://127.0.0.1:{port}", transport)
    finally:
        await transport.close()
        listening.close()
        for _ in range(100):
            if server.ended == server.connections:
                break
            await asyncio.sleep(0.01)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine in each kind of event loop."""

    def run_in(work: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)

    return run_in


_Run = Callable[[Coroutine[Any, Any, None]], None]
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


# --- answers

_WHOLE: dict[str, tuple[str, list[_Step], int, bytes]] = {
    "length": ("GET", [_OK], 200, b"ok"),
    "no body": ("PUT", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], 200, b""),
    "204": ("DELETE", [b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
    "304": ("GET", [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\n\r\n"], 304, b""),
    "refused": ("PUT", [b"HTTP/1.1 412 X\r\nContent-Length: 3\r\n\r\n<a>"], 412, b"<a>"),
    "chunks": (
        "PUT",
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n",
            b"2;x=y\r\nok\r\n",
            b"0\r\nTrailer: x\r\n\r\n",
        ],
        200,
        b" ok",
    ),
    "HEAD with a length": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n"], 200, b""),
    "HEAD with length 0": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], 200, b""),
    "HEAD without a length": ("HEAD", [b"HTTP/1.1 404 Not Found\r\nDate: x\r\n\r\n"], 404, b""),
    "HEAD in chunks": ("HEAD", [b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"], 404, b""),
    "continue": ("PUT", [b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", _OK], 200, b"ok"),
    "continue, at once": ("HEAD", [b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + _OK[:-2]], 200, b""),
    "in pieces": ("GET", [_OK[:10], _OK[10:30], _OK[30:-1], _OK[-1:]], 200, b"ok"),
}


@pytest.mark.parametrize("case", list(_WHOLE))
def test_an_answer_is_read_and_the_connection_kept(case: str, run: _Run) -> None:
    method, steps, status, body = _WHOLE[case]

    async def ask() -> None:
        async with serving([steps, steps, [_OK]]) as served:
            for _ in range(2):
                answer = await served.ask(method)
                assert (answer.status, answer.body) == (status, body)
                assert "x" not in answer.headers
                assert "trailer" not in answer.headers
            assert (await served.ask()).body == b"ok"
            assert served.server.connections == 1

    run(ask())


_LAST: dict[str, tuple[str, list[_Step], bytes]] = {
    "it says so": ("GET", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"], b"ok"),
    "HEAD, it says so": ("HEAD", [b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n"], b""),
    "HTTP/1.0": ("GET", [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], b"ok"),
    "HEAD, HTTP/1.0": ("HEAD", [b"HTTP/1.0 200 OK\r\n\r\n"], b""),
    "no length": ("GET", [b"HTTP/1.1 200 OK\r\n\r\no", b"k", _CLOSE], b"ok"),
    "HEAD with a body": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], b""),
    "HEAD with a body, later": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"], b""),
    "HEAD with a body, no length": ("HEAD", [b"HTTP/1.1 200 OK\r\n\r\nok"], b""),
    "two answers": ("GET", [_OK + _OK.replace(b"ok", b"no")], b"ok"),
    "one and a half": ("GET", [_OK + _OK[:20]], b"ok"),
    "two answers, apart": ("GET", [_OK, _OK], b"ok"),
    "two answers to HEAD": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2], b""),
    "closed when idle": ("GET", [_OK, _CLOSE], b"ok"),
    "reset when idle": ("GET", [_OK, _RESET], b"ok"),
}


@pytest.mark.parametrize("case", list(_LAST))
def test_a_connection_is_not_used_again_when_it_may_be_out_of_step(case: str, run: _Run) -> None:
    method, steps, body = _LAST[case]

    async def ask() -> None:
        async with serving([steps, [_OK]]) as served:
            answer = await served.ask(method)
            assert (answer.status, answer.body) == (200, body)
            await served.all_closed()  # what comes unasked has come
            assert (await served.ask()).body == b"ok"
            assert served.server.connections == 2

    run(ask())


_BROKEN: dict[str, tuple[str, list[_Step], str]] = {
    "before the answer": ("GET", [_CLOSE], "before the end"),
    "reset": ("GET", [_RESET], "broke"),
    "in the headers": ("GET", [b"HTTP/1.1 200 OK\r\nContent-Le", _CLOSE], "before the end"),
    "in HEAD's headers": ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", _CLOSE], "before the end"),
    "in the body": ("GET", [_OK[:-1], _CLOSE], "before the end"),
    "in a chunk": ("GET", [_CHUNKED + b"5\r\nok", _CLOSE], "before the end"),
    "before the last chunk": (
        "GET",
        [_CHUNKED + b"2\r\nok\r\n", _CLOSE],
        "before the end",
    ),
    "no length, then reset": ("GET", [b"HTTP/1.1 200 OK\r\n\r\no", _RESET], "broke"),
    "after continue": ("PUT", [b"HTTP/1.1 100 Continue\r\n\r\n", _CLOSE], "before the end"),
    "no HTTP": ("GET", [b"SSH-2.0-OpenSSH_9.2\r\n"], "no HTTP"),
    "two lengths": ("GET", [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"], "no HTTP"),
    "a wrong chunk": ("GET", [_CHUNKED + b"zz\r\n"], "no HTTP"),
    "another protocol": (
        "GET",
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
        "another protocol",
    ),
    "endless headers": ("GET", [b"HTTP/1.1 200 OK\r\n", *[b"x: " + b"y" * 70_000 + b"\r\n"] * 5], "bytes of headers"),
}


@pytest.mark.parametrize("case", list(_BROKEN))
def test_an_answer_that_breaks_off_is_lost_and_the_next_request_served(case: str, run: _Run) -> None:
    method, steps, reason = _BROKEN[case]

    async def ask() -> None:
        async with serving([steps, [_OK]]) as served:
            with pytest.raises(AnswerLost, match=reason):
                await served.ask(method)
            assert (await served.ask()).body == b"ok"
            assert len(served.server.heads) == 2  # sent once

    run(ask())


class _Sink(asyncio.Transport):
    """Where requests go that nobody answers."""

    closed = False

    def write(self, data: object) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0


_NAMES = st.from_regex(r"X-[A-Za-z0-9-]{0,12}", fullmatch=True)
_VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)


@given(
    headers=st.dictionaries(_NAMES, _VALUES, max_size=5),
    body=st.binary(max_size=60),
    chunked=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    continued=st.booleans(),
)
def test_an_answer_is_the_same_however_it_is_cut(
    headers: dict[str, str], body: bytes, cuts: list[int], *, chunked: bool, continued: bool
) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = body
    if chunked:
        middle = len(body) // 2
        parts = [part for part in (body[:middle], body[middle:]) if part]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    named = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    message = (b"HTTP/1.1 100 Continue\r\n\r\n" if continued else b"") + b"HTTP/1.1 200 OK\r\n" + named
    message += framing + b"\r\n\r\n" + sent

    async def ask() -> None:
        connection = _Connection(asyncio.get_running_loop(), idle := aws_connections.deque(), set())
        connection.connection_made(_Sink())
        promised = connection.ask(b"", 0.0, is_head=False)
        edges = [0, *sorted({cut for cut in cuts if cut < len(message)}), len(message)]
        for first, last in pairwise(edges):
            if first < last:
                connection.data_received(message[first:last])
        answer = await promised
        assert (answer.status, answer.body) == (200, body)
        expected = {name.lower(): value for name, value in headers.items()}
        assert {name: answer.headers[name] for name in expected} == expected
        assert list(idle) == [connection]

    asyncio.run(ask())


@given(st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([_OK, _OK[:20], b"\r\n"]), max_size=6))
def test_no_bytes_make_a_connection_raise(pieces: list[bytes]) -> None:
    async def ask() -> None:
        connection = _Connection(asyncio.get_running_loop(), aws_connections.deque(), set())
        connection.connection_made(_Sink())
        promised = connection.ask(b"", 0.0, is_head=False)
        for piece in pieces:
            connection.data_received(piece)
        connection.connection_lost(None)
        with contextlib.suppress(AnswerLost):  # a stream that was cut off or is no HTTP: all but a crash will do
            assert (await promised).status

    asyncio.run(ask())


# --- requests


def test_requests_are_what_http_wants(run: _Run) -> None:
    async def ask() -> None:
        async with serving([[_OK]] * 4) as served:
            host = served.url.removeprefix("http://").encode()
            await served.ask("GET", **{"x-a": "b  c", "x-u": "\u00e4"})
            await served.ask("PUT")
            await served.ask("POST", b"\x00\r\n\xff" * 50_000)
            await served.transport.send("GET", served.url + "/", {"host": "signed.example"}, b"")
            got, put, post, signed = served.server.heads
            assert got == b"GET /key?a=b HTTP/1.1\r\nHost: %b\r\nx-a: b  c\r\nx-u: \xc3\xa4\r\n\r\n" % host
            assert put == b"PUT /key?a=b HTTP/1.1\r\nHost: %b\r\nContent-Length: 0\r\n\r\n" % host
            assert post == b"POST /key?a=b HTTP/1.1\r\nHost: %b\r\nContent-Length: 200000\r\n\r\n" % host
            assert signed == b"GET / HTTP/1.1\r\nhost: signed.example\r\n\r\n"
            assert served.server.bodies == [b"", b"", b"\x00\r\n\xff" * 50_000, b""]

    run(ask())


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb", "a\0"])
def test_a_header_with_a_line_break_is_not_sent(value: str, run: _Run) -> None:
    async def ask() -> None:
        async with serving([[_OK]]) as served:
            with pytest.raises(ValueError, match="line break"):
                await served.ask(**{"x-amz-meta-a": value})
            assert not served.server.connections

    run(ask())


def test_many_requests_at_once_get_each_their_own_answer(run: _Run) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has closed it
            while True:
                key = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
                await asyncio.sleep(0.001 * (sum(key) % 5))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(key), key))
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = _transport()

        async def one(number: int) -> None:
            answer = await transport.send("GET", f"{url}/{number}", {}, b"")
            assert answer.body == b"/%d" % number

        for first in range(0, 2000, 200):
            await asyncio.gather(*(one(number) for number in range(first, first + 200)))
        assert len(transport._open) == 200
        await transport.close()
        server.close()
        await asyncio.sleep(0.05)

    run(ask())


# --- time


def test_an_answer_is_lost_when_the_server_is_silent(run: _Run) -> None:
    async def ask() -> None:
        async with serving([[_OK[:10], _WAIT], [_OK]], silent_seconds=0.2) as served:
            with pytest.raises(AnswerLost, match="in time"):
                await served.ask()
            assert (await served.ask()).body == b"ok"

    run(ask())


def test_blanks_keep_an_answer_alive_but_not_for_ever(run: _Run) -> None:
    blanks: list[_Step] = [b"1\r\n \r\n"] * 120  # 1.2 s and more

    async def ask() -> None:
        async with serving([[_CHUNKED, *blanks, b"0\r\n\r\n"]], silent_seconds=1.0) as served:
            assert (await served.ask("PUT")).body == b" " * 120
        async with serving([[_CHUNKED, *blanks, _WAIT]], silent_seconds=9.0, answer_seconds=0.2) as served:
            with pytest.raises(AnswerLost, match="in time"):
                await served.ask("PUT")

    run(ask())


def test_an_idle_connection_is_closed_after_a_while(run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_connections, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(aws_connections, "_SWEEP_SECONDS", 0.05)

    async def ask() -> None:
        async with serving([[_OK], [_OK]]) as served:
            await served.ask()
            await served.all_closed()
            async with asyncio.timeout(30):
                while served.transport._sweeping is not None:
                    await asyncio.sleep(0.01)
            await served.ask()
            assert served.server.connections == 2

    run(ask())


def test_who_is_cancelled_leaves_no_answer_to_the_next(run: _Run) -> None:
    async def ask() -> None:
        async with serving([[_OK[:-1], _WAIT], [_OK]]) as served:
            asking = asyncio.ensure_future(served.ask())
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert (await served.ask()).body == b"ok"
            assert served.server.connections == 2

    run(ask())


def test_who_waits_when_all_is_closed_learns_it(run: _Run) -> None:
    async def ask() -> None:
        async with serving([[_OK[:-1], _WAIT], [_OK]]) as served:
            asking = asyncio.ensure_future(served.ask())
            await asyncio.sleep(0.1)
            await served.transport.close()
            with pytest.raises(AnswerLost):
                await asking
            assert (await served.ask()).body == b"ok"  # it opens again

    run(ask())


# --- addresses

_Resolve = Callable[..., Awaitable[list[Any]]]


def _address(port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))


def _resolve_by(resolve: _Resolve) -> None:
    """Let this loop resolve names by that; uvloop asks also about addresses."""
    loop = asyncio.get_running_loop()
    original = loop.getaddrinfo

    async def getaddrinfo(name: str, port: int, **how: Any) -> list[Any]:
        return await (original if name == "127.0.0.1" else resolve)(name, port, **how)

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign,assignment]  # of this loop alone


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_the_error_names_the_host_when_nobody_listens(run: _Run) -> None:
    async def ask() -> None:
        port, transport = _closed_port(), _transport()
        with pytest.raises(NeverSent, match=rf"127\.0\.0\.1:{port}"):
            await transport.send("PUT", f"http://127.0.0.1:{port}/", {}, b"")
        with pytest.raises(NeverSent, match="no connection"):
            await transport.send("PUT", f"http://{'x' * 64}.example/", {}, b"")
        await transport.close()

    run(ask())


def test_a_name_is_asked_for_once_and_again_when_its_addresses_fail(run: _Run) -> None:
    async def ask() -> None:
        asked: list[tuple[Any, ...]] = []
        known = [[_address(_closed_port())]]

        async def resolve(name: str, port: int, **_: object) -> list[Any]:
            asked.append((name, port))
            await asyncio.sleep(0.01)
            return known[0]

        async with serving([[_OK]] * 9) as served:
            _resolve_by(resolve)
            url = "http://bucket.example:8080/"
            with pytest.raises(NeverSent):
                await served.transport.send("GET", url, {}, b"")
            known[0] = [_address(_closed_port()), _address(int(served.url.rpartition(":")[2]))]
            await asyncio.gather(*(served.transport.send("GET", url, {}, b"") for _ in range(8)))
            assert asked == [("bucket.example", 8080)] * 2

    run(ask())


def test_nothing_was_sent_when_a_name_is_not_known(run: _Run) -> None:
    async def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    async def empty(*_: object, **__: object) -> list[Any]:
        return []

    async def ask() -> None:
        for resolve, reason in ((unknown, "not known"), (empty, "no address")):
            async with serving([]) as served:
                _resolve_by(resolve)
                with pytest.raises(NeverSent, match=reason):
                    await served.transport.send("GET", "http://bucket.example/", {}, b"")

    run(ask())


def test_nothing_was_sent_when_tls_does_not_begin(run: _Run) -> None:
    async def ask() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            transport = _transport(connect_seconds=0.3)
            with pytest.raises(NeverSent, match="in time"):
                await transport.send("GET", f"https://127.0.0.1:{silent.getsockname()[1]}/", {}, b"")
            await transport.close()

    run(ask())


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("https", "b.s3.amazonaws.com", ("b.s3.amazonaws.com", 443)),
        ("http", "b.example", ("b.example", 80)),
        ("http", "127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("http", "[::1]:9000", ("::1", 9000)),
        ("https", "[::1]", ("::1", 443)),
    ],
)
def test_a_host_is_a_name_and_a_port(scheme: str, host: str, expected: tuple[str, int]) -> None:
    assert aws_connections._name_and_port(scheme, host) == expected
