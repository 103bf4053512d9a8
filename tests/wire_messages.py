"""Requests, answers and batches of calls as they are on the wire, for what stands between a client and a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Message:
    """A request or an answer, as it is on the wire."""

    first_line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.headers if key.lower() == name), default)

    @property
    def status(self) -> int:
        return int(self.first_line.split(" ", 2)[1])

    def wire(self) -> bytes:
        lines = [self.first_line, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Read the first line and the headers of a request or an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    first_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Message(first_line, [(name.strip(), value.strip()) for name, _, value in pairs])


async def read_body(reader: asyncio.StreamReader, message: Message, *, until_end: bool = False) -> None:
    """Read the body that belongs to a head. Chunks are joined."""
    chunked = "chunked" in message.header("transfer-encoding").lower()
    length = message.header("content-length")
    if chunked:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            message.body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif length:
        message.body = await reader.readexactly(int(length))
    elif until_end:
        message.body = await reader.read()
    if chunked or (until_end and not length):
        framing = ("transfer-encoding", "content-length")
        message.headers = [pair for pair in message.headers if pair[0].lower() not in framing]
        message.headers.append(("Content-Length", str(len(message.body))))


async def read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    """Read the answer to a request."""
    answer = await read_head(reader)
    while answer.status == 100:
        answer = await read_head(reader)
    if method != "HEAD" and answer.status not in (204, 304):
        await read_body(reader, answer, until_end=True)
    return answer


@dataclass
class Part:
    """One call of a batch."""

    headers: str
    """Of the part itself, with its Content-ID."""
    message: Message


def batch_parts(message: Message) -> list[Part]:
    """Take a batch, or the answer to one, apart."""
    boundary = message.header("content-type").partition("boundary=")[2].split(";")[0].strip('" ')
    found = []
    for raw in message.body.decode("latin-1").replace("\r\n", "\n").split(f"--{boundary}")[1:]:
        if raw.startswith("--"):
            break
        outer, _, inner = raw.lstrip("\n").partition("\n\n")
        head, _, body = inner.lstrip("\n").partition("\n\n")
        first_line, *lines = head.strip("\n").split("\n")
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        found.append(Part(outer, Message(first_line, headers, body.strip("\n").encode("latin-1"))))
    return found


def content_id(part: Part) -> str:
    found = re.search(r"^content-id:\s*<?(?:response-)?(.*?)>?\s*$", part.headers, re.IGNORECASE | re.MULTILINE)
    return found[1] if found else ""


def set_parts(message: Message, parts: Sequence[Part]) -> None:
    """Write the parts of a batch."""
    boundary = message.header("content-type").partition("boundary=")[2].split(";")[0].strip('" ')
    body = b""
    for part in parts:
        outer = part.headers.strip("\n").replace("\n", "\r\n").encode("latin-1")
        body += f"--{boundary}\r\n".encode() + outer + b"\r\n\r\n" + part.message.wire() + b"\r\n"
    message.body = body + f"--{boundary}--\r\n".encode()
    message.headers = [pair for pair in message.headers if pair[0].lower() != "content-length"]
    message.headers.append(("Content-Length", str(len(message.body))))
