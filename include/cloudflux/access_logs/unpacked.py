"""A file's bytes as they were before gzip or zstd packed them, streamed in even pieces."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

import zstandard

MAX_UNPACKED_BYTES: Final = 16 << 30
"""A packed file may not grow beyond this."""
READ_BYTES: Final = 1 << 20
"""The size of a piece."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""A frame that holds no text, which a file may begin with (RFC 8878, 3.1.2)."""
_ZSTD_BYTES: Final = 256
"""So much is unpacked at once: a few bytes may stand for 128 KiB, and this for 10 MiB at most."""
_BOM: Final = b"\xef\xbb\xbf"
_RAW_BYTES: Final = 64

Content = Iterator[bytes]
"""A file's bytes in pieces of any size."""


class Unpacked:
    """A file's bytes, unpacked, in pieces of at most 1 MiB; remembers why it ended too early."""

    def __init__(self, content: Content) -> None:
        self.reason: str | None = None
        self.first = b""
        self._pieces = self._unpack(_even_pieces(content))
        self._ahead: list[bytes] = []

    def peek(self) -> bytes:
        """Give the first line, or the first 64 KiB, without taking it."""
        head = b""
        for piece in self._pieces:
            self._ahead.append(piece)
            head += piece
            if b"\n" in head.lstrip() or len(head) >= 1 << 16:
                break
        return head

    def rest(self, limit: int) -> bytes:
        """Give all that follows; nothing when it is longer than ``limit``."""
        kept: list[bytes] = []
        size = 0
        for piece in self:
            size += len(piece)
            if size > limit:
                self.reason = f"more than {limit} bytes in one document"
                return b""
            kept.append(piece)
        return b"".join(kept)

    def __iter__(self) -> Iterator[bytes]:
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._pieces

    def _unpack(self, content: Content) -> Iterator[bytes]:
        first = next(content, b"")
        self.first = first[:_RAW_BYTES]
        if first.startswith(_GZIP):
            yield from self._gzip(first, content)
        elif first.startswith(_ZSTD) or _ZSTD_SKIPPED.match(first):
            yield from self._zstd(first, content)
        else:
            yield first.removeprefix(_BOM)
            yield from content

    def _gzip(self, first: bytes, content: Content) -> Iterator[bytes]:
        feed = chain((first,), content)
        packed = b""
        stream = None
        room = MAX_UNPACKED_BYTES
        start = True
        while packed := packed or next(feed, b""):
            if stream is None:  # a gzip file may have several members, and zeros after the last
                packed += next(feed, b"") if len(packed) < len(_GZIP) else b""
                if not packed.startswith(_GZIP):
                    if packed.strip(b"\0") or any(piece.strip(b"\0") for piece in feed):
                        self.reason = "gzip: something follows the last member"
                    return
                stream = zlib.decompressobj(wbits=31)
            try:
                piece = stream.decompress(packed, READ_BYTES)
            except zlib.error:
                self.reason = "gzip: the file is damaged"
                return
            room -= len(piece)
            if room < 0:
                self.reason = f"gzip: more than {MAX_UNPACKED_BYTES} bytes unpacked"
                return
            if piece:
                yield piece.removeprefix(_BOM) if start else piece
                start = False
            packed = stream.unconsumed_tail
            if stream.eof:
                packed, stream = stream.unused_data, None
        if stream is not None:
            self.reason = "gzip: the file ends too early"
            yield stream.flush()

    def _zstd(self, first: bytes, content: Content) -> Iterator[bytes]:
        unpacker = zstandard.ZstdDecompressor()
        stream = None
        room = MAX_UNPACKED_BYTES
        start = True
        held: list[bytes] = []
        size = 0
        for packed in chain((first,), content):
            place = 0
            while place < len(packed):
                stream = stream or unpacker.decompressobj()
                some = packed[place : place + _ZSTD_BYTES]
                try:
                    piece = stream.decompress(some)
                except zstandard.ZstdError:
                    self.reason = "zstd: the file is damaged"
                    yield b"".join(held)
                    return
                place += len(some)
                if stream.eof:  # a file may have several frames, and frames to be skipped
                    place -= len(stream.unused_data)
                    stream = None
                room -= len(piece)
                if room < 0:
                    self.reason = f"zstd: more than {MAX_UNPACKED_BYTES} bytes unpacked"
                    return
                held.append(piece.removeprefix(_BOM) if start else piece)
                size += len(piece)
                start = start and not piece
                if size >= READ_BYTES:
                    yield b"".join(held)
                    held.clear()
                    size = 0
        if stream is not None:
            self.reason = "zstd: the file ends too early"
        yield b"".join(held)


def _even_pieces(content: Content) -> Content:
    """Cut and join pieces to 1 MiB each, so that blocks do not depend on how a file was downloaded."""
    held = bytearray()
    for piece in content:
        if not held and len(piece) == READ_BYTES:
            yield piece
            continue
        held += piece
        if len(held) >= READ_BYTES:
            view = memoryview(bytes(held))
            whole = len(held) - len(held) % READ_BYTES
            for start in range(0, whole, READ_BYTES):
                yield bytes(view[start : start + READ_BYTES])
            held = bytearray(view[whole:])
    if held:
        yield bytes(held)
