"""Blocks of log files have every line once, numbered as it stands in its file, however the files come and are cut."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from access_log_lines import source
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.access_logs import blocks, unpacked
from cloudflux.access_logs.blocks import Block, ahead, one_piece, read_blocks
from cloudflux.access_logs.scanning import texts

_LONGEST = 40
_LINES = st.lists(
    st.sampled_from([b"", b" ", b"\r", b"plain", b"\xff\xfe", b"a\0b", "\u00e9\u20ac".encode(), b"x" * (_LONGEST + 1)])
    | st.binary(max_size=_LONGEST + 4),
    max_size=12,
).map(b"\n".join)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _expected(content: bytes) -> tuple[dict[int, str], dict[int, str]]:
    """Split a file as plainly as possible: the lines that are read, and those that are too long, by number."""
    lines, too_long = {}, {}
    parts = content.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    for number, line in enumerate(parts, 1):
        if len(line) > _LONGEST:
            too_long[number] = _text(line)
        elif _text(line).strip():
            lines[number] = _text(line)
    return lines, too_long


@given(
    files=st.lists(_LINES.filter(lambda content: content[:2] != b"\x1f\x8b" and content[:4] != b"\x28\xb5\x2f\xfd")),
    piece=st.integers(1, 50),
    block=st.integers(1, 120),
)
def test_every_line_is_in_one_block_with_its_number(files: list[bytes], piece: int, block: int) -> None:
    sources = [source(key=f"log-{number}") for number in range(len(files))]
    contents = [content.removeprefix(b"\xef\xbb\xbf") for content in files]

    def pieces(content: bytes) -> Iterator[bytes]:
        return (content[start : start + piece] for start in range(0, len(content), piece))

    found: dict[tuple[str, int], str] = {}
    too_long: dict[tuple[str, int], str] = {}
    # a line is known to be too long when a piece has no end: pieces as small as that find all
    with patch.object(blocks, "MAX_LINE_BYTES", _LONGEST), patch.object(unpacked, "READ_BYTES", 1):
        made = list(read_blocks(zip(sources, map(pieces, contents), strict=True), block_bytes=block))
    for one in made:
        assert one.text is None or one.text.size == len(one.text.data) - texts.PADDING
        assert one.text is None or not one.text.data[one.text.size :].any()
        for row in one.lines.to_pylist():
            place = one.files[row["file"]].key, row["line"]
            assert place not in found
            found[place] = row["text"].removesuffix("\n")
        for file, line, _, raw in one.whole:
            too_long[one.files[file].key, line] = raw
        for file, head in one.heads.items():
            lines = contents[sources.index(one.files[file])].split(b"\n")
            first = next(line for line in lines if line.strip() and len(line) <= _LONGEST)
            assert head == _text(first.rstrip(b"\r"))
    expected = [_expected(content) for content in contents]
    assert found == {
        (file.key, number): line
        for file, (lines, _) in zip(sources, expected, strict=True)
        for number, line in lines.items()
    }
    assert set(too_long) == {
        (file.key, number) for file, (_, lines) in zip(sources, expected, strict=True) for number in lines
    }


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"\n" * 200, b"text " * 60, b"\xff" * 130, b"\0"])),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_bytes_are_looked_at_between_two_places(pieces: list[bytes], one: int, other: int) -> None:
    data = b"".join(pieces)
    begin, end = sorted((min(one, len(data)), min(other, len(data))))
    room = np.frombuffer(data + bytes(texts.PADDING), dtype=np.uint8)
    part = data[begin:end]
    assert texts.looked_at(room, begin, end) == (part.count(b"\n"), b"\0" in part, part.isascii())


def test_memory_of_a_text_is_used_again_only_when_nothing_looks_at_it() -> None:
    buffers = blocks._Buffers()
    first = buffers.take(5)
    first[:5] = np.frombuffer(b"first", dtype=np.uint8)
    seen = first[1:3]
    words = texts.as_words(first)[2:3]
    del first
    second = buffers.take(5)
    second[:5] = np.frombuffer(b"other", dtype=np.uint8)
    assert bytes(seen) == b"ir"
    assert not np.shares_memory(seen, second)
    place = seen.ctypes.data - 1
    del seen
    third = buffers.take(5)
    assert third.ctypes.data != place  # its words are still looked at
    assert words.tobytes()[:3] == b"rst"
    del words
    assert buffers.take(5).ctypes.data == place


def test_a_text_that_outgrows_its_room_keeps_what_is_written() -> None:
    pieces = [bytes([65 + number]) * number + b"\n" for number in range(20)]
    small = {"BLOCK_BYTES": 8, "_BUFFERS": blocks._Buffers()}
    with patch.multiple(blocks, **small), patch.object(unpacked, "READ_BYTES", 8):
        writing = blocks._Writing()
        assert sum(writing.add([piece]) for piece in pieces) == 20
    whole = b"".join(pieces)
    assert writing.text().tobytes() == whole + bytes(texts.PADDING)


_CHARACTERS = st.characters(exclude_characters="\r\n\0", codec="utf-8")


@given(
    st.lists(st.lists(st.text(_CHARACTERS, min_size=1, max_size=30), max_size=40), max_size=5),
    st.integers(100, 2000),
)
def test_sampled_lines_are_lines_of_their_files(files: list[list[str]], block_bytes: int) -> None:
    given_files = [(source(f"f{number}"), "\n".join(lines).encode()) for number, lines in enumerate(files)]
    for block in read_blocks(one_piece(given_files), block_bytes=block_bytes):
        for place, line in block.sampled():
            key = block.files[place].key
            assert line in files[int(key.rpartition("f")[2])]


def test_each_line_is_sampled_when_they_are_few() -> None:
    data = b"".join(b"%d\n" % number for number in range(30))
    (block,) = read_blocks(one_piece([(source(), data)]))
    assert {line for _, line in block.sampled()} == {str(number) for number in range(30)}


def test_a_line_is_not_sampled_when_it_is_very_long() -> None:
    (block,) = read_blocks(one_piece([(source(), b"a\n" + b"x" * (1 << 18) + b"\nb\n")]))
    assert {line for _, line in block.sampled()} <= {"a", "b"}


# --- one ahead


def _blocks(count: int, made: list[int]) -> Iterator[Block]:
    for number in range(count):
        made.append(number)
        yield Block(files=[], whole=[(0, number, "", "")])


def test_blocks_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    seen = []
    for block in ahead(_blocks(20, made)):
        number = block.whole[0][1]
        assert len(made) <= number + 2
        seen.append(number)
    assert seen == list(range(20))


def test_an_error_is_raised_where_the_blocks_are_taken() -> None:
    def broken() -> Iterator[Any]:
        yield Block(files=[])
        raise ValueError("the third")

    with pytest.raises(ValueError, match="the third"):
        list(ahead(broken()))


def test_nothing_more_is_made_when_nobody_takes_it() -> None:
    made: list[int] = []
    before = threading.active_count()
    with closing(ahead(_blocks(1_000_000, made))) as taken:
        list(itertools.islice(taken, 3))
    assert threading.active_count() == before
    assert len(made) <= 5
