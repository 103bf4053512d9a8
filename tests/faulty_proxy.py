"""A real proxy between a cloud's client and its emulator that breaks what goes through it, and keeps a record of it.

`FaultyProxy` runs it as a process of its own. Which request breaks, and how, follows from the seed, the request's
method and target, and how often that was sent before: not from the order in which a client's threads happen to send.
The record says what reached the server and what the server did about it, whatever the client was told: that is what
"moved twice" is judged by.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from wire_messages import Message, Part, batch_parts, content_id, read_answer, read_body, read_head, set_parts


class Fault(StrEnum):
    """What can happen to a request or its answer."""

    REFUSED = "refused"  # 503 as the service says it; the server never sees the request
    REFUSED_RETRY_AFTER = "refused_retry_after"  # the same, with `Retry-After: 1`
    TOO_MANY = "too_many"  # 429
    RESET_BEFORE = "reset_before"  # the connection breaks, the server never sees the request
    RESET_IN_ANSWER = "reset_in_answer"  # the server acts, the connection breaks in the middle of its answer
    LOST = "lost"  # the server acts, the connection ends without an answer
    SILENCE = "silence"  # no answer at all, the server never sees the request
    LOST_IN_SILENCE = "lost_in_silence"  # the server acts, no answer at all
    FAILED_AFTER = "failed_after"  # the server acts, the answer is a 500
    GATEWAY_AFTER = "gateway_after"  # the server acts, the answer is a 502 of something in between, in HTML
    TRICKLE = "trickle"  # the answer comes byte by byte
    ERROR_IN_200_AFTER = "error_in_200_after"  # CopyObject: the server acts, the answer is 200 with <Error>
    ERROR_IN_200_BEFORE = "error_in_200_before"  # the same, the server never sees the request
    PART_REFUSED = "part_refused"  # of a batch some parts are answered with 503, the server never sees those


ONLY_FOR: Final = {
    Fault.ERROR_IN_200_AFTER: "copy",
    Fault.ERROR_IN_200_BEFORE: "copy",
    Fault.PART_REFUSED: "batch",
}
UNSEEN_BY_SERVER: Final = frozenset(
    {
        Fault.REFUSED,
        Fault.REFUSED_RETRY_AFTER,
        Fault.TOO_MANY,
        Fault.RESET_BEFORE,
        Fault.SILENCE,
        Fault.ERROR_IN_200_BEFORE,
    }
)
HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect"})
RECORDED_HEADERS: Final = (
    "if-match", "x-amz-copy-source-if-match", "x-amz-storage-class", "x-amz-copy-source", "x-ms-access-tier",
    "x-ms-lease-id", "x-ms-rehydrate-priority",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Which share of the requests meets which fault."""

    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    most_per_target: int = 4
    """No request meets more faults than that: whoever keeps trying gets through."""
    kinds: Sequence[str] = ()
    """Only these kinds of request meet a fault (see `kind_of`); empty: all."""
    batch_shares: Mapping[str, float] | None = None
    """The shares for batches; None: as for all. One batch stands for a hundred requests."""
    holds: Mapping[str, str] = field(default_factory=dict)
    """The requests that are held `before` the server sees them or `after` it acted, for good: `7` is the seventh of
    all, `copy 7` the seventh of that kind.
    The proxy says so on its standard output, and drops such a request when the client is gone."""


@dataclass(frozen=True)
class Move:
    """What the server did about one wanted change of class."""

    bucket: str
    key: str
    status: int
    done: bool


@dataclass(frozen=True)
class Record:
    """One request."""

    number: int
    kind: str
    method: str
    target: str
    bucket: str
    key: str
    fault: str | None
    status: int | None
    """The server's answer; None when it never saw the request."""
    answered: int | None
    """What the client was told; None when nothing."""
    headers: Mapping[str, str]
    moves: Sequence[Move] = ()
    at: float = 0.0

    @classmethod
    def read(cls, line: str) -> Record:
        fields = json.loads(line)
        return cls(**fields | {"moves": tuple(Move(**move) for move in fields["moves"])})


def kind_of(dialect: str, method: str, target: str, headers: Mapping[str, str]) -> tuple[str, str, str]:
    """Tell what a request is for, its bucket and its key."""
    path, _, query_text = target.partition("?")
    query = parse_qs(query_text, keep_blank_values=True)
    if dialect == "gcs":
        found = re.match(r".*?/b/([^/]+)/o/([^/]+?)(/rewriteTo/b/[^/]+/o/[^/]+)?$", path)
        if path.startswith("/batch"):
            return "batch", "", ""
        if not found:
            return "other", "", ""
        kind = "rewrite" if found[3] else {"GET": "head", "DELETE": "delete", "PATCH": "patch"}.get(method, "other")
        return kind, unquote(found[1]), unquote(found[2])
    parts = path.lstrip("/")
    if dialect == "azure":
        _, _, parts = parts.partition("/")  # the account
    bucket, _, key = unquote(parts).partition("/")
    comp = query.get("comp", [""])[0]
    if dialect == "azure" and comp in ("tier", "batch"):
        kind = "set_tier" if comp == "tier" else "batch"
    elif method == "PUT" and "x-amz-copy-source" in headers:
        kind = "copy_part" if "uploadId" in query else "copy"
    elif method == "POST" and "uploadId" in query:
        kind = "complete_upload"
    else:
        kind = {"HEAD": "head", "DELETE": "delete", "GET": "get", "PUT": "put"}.get(method, "other")
    return kind, bucket, key


def moves_of(dialect: str, kind: str, bucket: str, key: str, answer: Message) -> list[Move]:
    """Tell what the server did about a wanted change of class, by its answer."""
    if kind in ("copy", "set_tier", "complete_upload"):
        failed_inside = answer.body.lstrip().startswith(b"<?xml") and b"<Error>" in answer.body
        return [Move(bucket, key, answer.status, answer.status in (200, 202) and not failed_inside)]
    if kind == "rewrite":
        done = answer.status == 200 and bool(json.loads(answer.body).get("done"))
        return [Move(bucket, key, answer.status, done)]
    return []


REFUSALS: Final = {
    "s3": (
        "application/xml",
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
        "</Message><RequestId>FAULTY</RequestId></Error>",
    ),
    "azure": (
        "application/xml",
        '<?xml version="1.0" encoding="utf-8"?><Error><Code>ServerBusy</Code><Message>The server is busy.</Message>'
        "</Error>",
    ),
    "gcs": (
        "application/json",
        '{"error": {"code": STATUS, "message": "Please reduce your request rate.", "errors": [{"message": '
        '"Please reduce your request rate.", "domain": "usageLimits", "reason": "REASON"}]}}',
    ),
}
REASONS: Final = {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Slow Down"}


def made_up(dialect: str, status: int, *more: tuple[str, str]) -> Message:
    """Make an error as the service itself makes it."""
    content_type, body = REFUSALS[dialect]
    if status == 500:
        body = body.replace("SlowDown", "InternalError").replace("ServerBusy", "InternalError")
    reason = "rateLimitExceeded" if status == 429 else "backendError"
    body = body.replace("STATUS", str(status)).replace("REASON", reason)
    code = {"azure": [("x-ms-error-code", "InternalError" if status == 500 else "ServerBusy")]}.get(dialect, [])
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *code, *more]
    return Message(f"HTTP/1.1 {status} {REASONS[status]}", headers, body.encode())


def error_in_200() -> Message:
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n\n<Error><Code>InternalError</Code><Message>We met an internal '
        b"error. Please try again.</Message><RequestId>FAULTY</RequestId></Error>"
    )
    return Message("HTTP/1.1 200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)


def refusal(dialect: str, fault: Fault | None) -> Message | None:
    """Give the answer to a request that the server never sees; None when there is none."""
    match fault:
        case Fault.REFUSED:
            return made_up(dialect, 503)
        case Fault.REFUSED_RETRY_AFTER:
            return made_up(dialect, 503, ("Retry-After", "1"))
        case Fault.TOO_MANY:
            return made_up(dialect, 429)
        case Fault.ERROR_IN_200_BEFORE:
            return error_in_200()
    return None


def disguised(dialect: str, fault: Fault | None, answer: Message) -> Message | None:
    """Give what the client is told when the server answered so; None when it is told nothing whole."""
    match fault:
        case Fault.FAILED_AFTER:
            return made_up(dialect, 500)
        case Fault.GATEWAY_AFTER:
            page = b"<html>Bad Gateway</html>"
            headers = [("Content-Type", "text/html"), ("Content-Length", str(len(page)))]
            return Message("HTTP/1.1 502 Bad Gateway", headers, page)
        case Fault.ERROR_IN_200_AFTER:
            return error_in_200()
        case Fault.LOST | Fault.LOST_IN_SILENCE | Fault.RESET_IN_ANSWER:
            return None
    return answer


class Proxy:
    """Passes requests on, or not."""

    def __init__(self, dialect: str, upstream: tuple[str, int], plan: Plan, record: Path) -> None:
        self._dialect = dialect
        self._upstream = upstream
        self._plan = plan
        self._number = 0
        self._of_kind: Counter[str] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[tuple[str, str]] = Counter()
        self._under_way = 0
        self._record = record.open("a", buffering=1)

    async def let_requests_end(self) -> None:
        """Wait until the server has answered all that was passed on, and the record has it."""
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0.01)
            quiet = 0 if self._under_way else quiet + 1

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        goes_on = True
        try:
            while goes_on:
                request = await read_head(reader)
                if "100-continue" in request.header("expect").lower():
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await read_body(reader, request)
                goes_on = await self._answer(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):  # the client may be gone
                await writer.wait_closed()

    async def _answer(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request, or do not; tells whether the connection goes on."""
        method, target, _ = request.first_line.split(" ", 2)
        headers = {name.lower(): value for name, value in request.headers}
        kind, bucket, key = kind_of(self._dialect, method, target, headers)
        if kind == "batch" and self._dialect == "gcs" and b"/rewriteTo/" not in request.body:
            kind = "other_batch"  # looks at objects, or deletes old generations
        self._number += 1
        self._of_kind[kind] += 1
        held = self._plan.holds.get(str(self._number)) or self._plan.holds.get(f"{kind} {self._of_kind[kind]}")
        kept = {name: headers[name] for name in RECORDED_HEADERS if name in headers}
        fault = self._fault(kind, method, target, request) if held is None else None
        record = Record(self._number, kind, method, target, bucket, key, fault, None, None, kept)
        if held == "before":
            await self._hold(record, reader)
            return False
        if fault in UNSEEN_BY_SERVER:
            told = refusal(self._dialect, fault)
            self._write(replace(record, answered=None if told is None else told.status))
            return await _send(fault, told, method, reader, writer)
        refused = self._take_parts_out(request, target) if fault is Fault.PART_REFUSED else {}
        answer = await self._forwarded(request, method)
        moves = self._moves(kind, bucket, key, request, answer)
        record = replace(record, status=answer.status, moves=moves)
        if held == "after":
            self._write(record)
            await self._hold(record, reader)
            return False
        if refused:
            self._put_refusals_in(answer, refused)
        told = disguised(self._dialect, fault, answer)
        self._write(replace(record, answered=None if told is None else told.status))
        return await _send(fault, answer if told is None else told, method, reader, writer)

    def _write(self, record: Record) -> None:
        self._record.write(json.dumps(asdict(replace(record, at=time.time()))) + "\n")

    def _fault(self, kind: str, method: str, target: str, request: Message) -> Fault | None:
        name = (method, self._told_apart(method, target))
        if kind.endswith("batch"):
            lines = (part.message.first_line.split(" ") for part in batch_parts(request))
            calls = sorted(f"{line[0]} {self._told_apart(line[0], line[1])}" for line in lines)
            name = (method, hashlib.sha256("\n".join(calls).encode()).hexdigest())
        self._sent[name] += 1
        if self._plan.kinds and kind not in self._plan.kinds:
            return None
        if self._faults[name] >= self._plan.most_per_target:
            return None
        shares = self._plan.shares
        if kind.endswith("batch") and self._plan.batch_shares is not None:
            shares = self._plan.batch_shares
        point = random.Random(f"{self._plan.seed}/{name}/{self._sent[name]}").random()
        for fault, share in shares.items():
            if ONLY_FOR.get(Fault(fault), kind) != kind:
                continue
            if point < share:
                self._faults[name] += 1
                return Fault(fault)
            point -= share
        return None

    def _told_apart(self, method: str, target: str) -> str:
        """Give what of a target decides about its faults: the same whenever the same test runs.

        Neither what a signature, a clock or a generation puts into the query, nor the name of the bucket, which is new
        in each run.
        """
        kind, bucket, _ = kind_of(self._dialect, method, target, {})
        path = urlsplit(target).path
        if self._dialect == "gcs":
            steady = re.sub(r"(?<=/b/)[^/]+", "-", path)
        else:
            steady = f"{path}/".replace(f"/{bucket}/", "/-/", 1)
        return f"{steady}?tier" if kind == "set_tier" else steady

    async def _forwarded(self, request: Message, method: str) -> Message:
        """Send a request on, on a connection of its own: what the server did must never be in doubt here."""
        self._under_way += 1
        try:
            return await self._upstream_answer(request, method)
        finally:
            self._under_way -= 1

    async def _upstream_answer(self, request: Message, method: str) -> Message:
        reader, writer = await asyncio.open_connection(*self._upstream, limit=2**20)
        headers = [pair for pair in request.headers if pair[0].lower() not in HOP_BY_HOP]
        framing = {"transfer-encoding", "content-length"}
        headers = [pair for pair in headers if pair[0].lower() not in framing]
        if request.body or method in ("PUT", "POST", "PATCH"):
            headers.append(("Content-Length", str(len(request.body))))
        headers.append(("Connection", "close"))
        try:
            writer.write(Message(request.first_line, headers, request.body).wire())
            await writer.drain()
            answer = await read_answer(reader, method)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):  # the client may be gone
                await writer.wait_closed()
        answer.first_line = "HTTP/1.1 " + answer.first_line.split(" ", 1)[1]
        answer.headers = [pair for pair in answer.headers if pair[0].lower() not in HOP_BY_HOP]
        return answer

    def _moves(self, kind: str, bucket: str, key: str, request: Message, answer: Message) -> list[Move]:
        if kind != "batch" or answer.status not in (200, 202):
            return moves_of(self._dialect, kind, bucket, key, answer)
        answers = {content_id(part): part.message for part in batch_parts(answer)}
        found = []
        for part in batch_parts(request):
            method, target, *_ = part.message.first_line.split(" ")
            # a GCS call names its whole address
            split = urlsplit(target)
            path = split.path + (f"?{split.query}" if split.query else "")
            part_headers = {name.lower(): value for name, value in part.message.headers}
            part_kind, part_bucket, part_key = kind_of(self._dialect, method, path, part_headers)
            if (part_answer := answers.get(content_id(part))) is not None:
                found += moves_of(self._dialect, part_kind, part_bucket, part_key, part_answer)
        return found

    def _take_parts_out(self, request: Message, target: str) -> dict[str, Part]:
        """Leave about a tenth of a batch's calls out; the server must see at least one."""
        parts = batch_parts(request)
        dice = random.Random(f"{self._plan.seed}/{target}/{self._number}")
        out = [part for part in parts[1:] if dice.random() < 0.1]
        if not out:
            return {}
        left = [part for part in parts if part not in out]
        length = len(request.body)
        set_parts(request, left)
        if self._dialect == "azure":
            # the length is signed: what follows the last boundary means nothing (RFC 2046, 5.1.1)
            request.body += b" " * (length - len(request.body))
            request.headers[-1] = ("Content-Length", str(length))
        return {content_id(part): part for part in out}

    def _put_refusals_in(self, answer: Message, refused: Mapping[str, Part]) -> None:
        parts = batch_parts(answer)
        for name in refused:
            headers = f"Content-Type: application/http\nContent-ID: {name}"
            if self._dialect == "gcs":
                headers = f"Content-Type: application/http\nContent-ID: <response-{name}>"
            parts.append(Part(headers, made_up(self._dialect, 503)))
        if self._dialect == "azure":
            parts.sort(key=lambda part: int(content_id(part)))
        set_parts(answer, parts)

    async def _hold(self, record: Record, reader: asyncio.StreamReader) -> None:
        """Say that a request is held, and hold it until its client is gone."""
        say({"held": record.number, "kind": record.kind, "key": record.key})
        with contextlib.suppress(ConnectionError):  # a reset ends it as well
            while await reader.read(4096):
                pass


def say(what: Mapping[str, Any]) -> None:
    """Tell whoever started the proxy."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _send(
    fault: Fault | None, told: Message | None, method: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Give the client its answer as the fault wants it; tells whether the connection goes on."""
    wire = (
        b"" if told is None else Message(told.first_line, told.headers, b"" if method == "HEAD" else told.body).wire()
    )
    match fault:
        case Fault.SILENCE | Fault.LOST_IN_SILENCE:
            await reader.read(1)  # until the client gives up
            _reset(writer)
        case Fault.RESET_BEFORE:
            _reset(writer)
        case Fault.RESET_IN_ANSWER:
            writer.write(wire[: len(wire) // 2])
            await writer.drain()
            _reset(writer)
        case Fault.TRICKLE:
            one_by_one = 600  # then in small pieces: the answer to a batch would take minutes
            piece = max(1, len(wire) // one_by_one)
            for at in [*range(min(one_by_one, len(wire))), *range(one_by_one, len(wire), piece)]:
                writer.write(wire[at : at + (1 if at < one_by_one else piece)])
                await writer.drain()
                await asyncio.sleep(0.0003)
            return True
        case Fault.LOST:
            pass
        case _:
            writer.write(wire)
            await writer.drain()
            return True
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with an RST: the other side gets ECONNRESET."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultyProxy:
    """A proxy in a process of its own, while the block runs; `url` is where clients find it."""

    def __init__(self, dialect: str, upstream: str, folder: Path, plan: Plan | None = None) -> None:
        self._path = folder / f"record-{uuid.uuid4().hex}.jsonl"
        self._command = [
            sys.executable, __file__, dialect, upstream.removeprefix("http://"), str(self._path),
            json.dumps(asdict(plan or Plan())),
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> FaultyProxy:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self.url = self.next_line()["url"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def next_line(self) -> dict[str, Any]:
        """Wait for what the proxy says next: its address first, then each request that it holds."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def next_line_or(self, ended: Callable[[], bool]) -> dict[str, Any] | None:
        """Wait for what the proxy says next, or until something else has ended."""
        assert self._process is not None
        while not select.select([self._process.stdout], [], [], 0.01)[0]:
            if ended():
                return None
        return self.next_line()

    def records(self) -> list[Record]:
        """Give all requests so far."""
        return list(self._read())

    def _read(self) -> Iterator[Record]:
        with self._path.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield Record.read(line)


def moved_more_than_once(records: Sequence[Record]) -> dict[tuple[str, str], int]:
    """Give the objects for which the server carried out more than one change of class, with their number."""
    done = Counter((move.bucket, move.key) for record in records for move in record.moves if move.done)
    return {name: times for name, times in done.items() if times > 1}


async def serve(dialect: str, upstream: str, record: Path, plan: Plan) -> None:
    """Serve until SIGTERM; what was passed on by then is still answered by the server, and recorded."""
    host, _, port = upstream.partition(":")
    proxy = Proxy(dialect, (host, int(port)), plan, record)
    server = await asyncio.start_server(proxy.serve_client, "127.0.0.1", 0, limit=2**20, backlog=1024)
    say({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()
    await proxy.let_requests_end()
    os._exit(0)  # connections of clients may still be open: nobody waits for those


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dialect", choices=["s3", "azure", "gcs"])
    parser.add_argument("upstream", help="host:port")
    parser.add_argument("record", type=Path)
    parser.add_argument("plan", help="JSON")
    options = parser.parse_args()
    asyncio.run(serve(options.dialect, options.upstream, options.record, Plan(**json.loads(options.plan))))


if __name__ == "__main__":
    main()
