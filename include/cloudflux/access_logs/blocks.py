"""From log files of any size to blocks of numbered lines: unpacked, cut at line ends, bounded in memory.

Files are streamed: a block joins many small files, or is a piece of a large one. A format whose records cross lines
(one JSON document a file) asks for whole files instead.
"""

from __future__ import annotations

import mmap
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs import unpacked
from cloudflux.access_logs.scanning.texts import PADDING, looked_at
from cloudflux.access_logs.unpacked import Content, Unpacked
from cloudflux.domain.source_files import SourceFile

BLOCK_BYTES: Final = 24 << 20
"""How much text is parsed at once. Larger blocks are slower: their buffers are mapped anew each time."""
MAX_WHOLE_BYTES: Final = 1 << 30
"""A file that must be read as a whole may not grow beyond this when it is unpacked."""
MAX_LINE_BYTES: Final = 8 << 20
"""No provider writes a longer line (an S3 key has 1,024 bytes, a request line some thousands)."""

_BATCH_ROWS: Final = 8192  # DuckDB works on the record batches of a table in parallel
_SCAN_BYTES: Final = 128 << 10
"""How much is looked at in one step: the temporary arrays stay in a core's own cache."""
_BUFFERS_KEPT: Final = 4
_LINES_AT_ONCE: Final = 64
_SAMPLED_LINES: Final = 64
"""Lines of a block that are looked at for what is new in the format."""
_SAMPLED_BYTES: Final = 1 << 16
"""A line that is longer to one side of its place is not."""
_LINE_END: Final = 10
_BLANK_BYTES: Final = 64
"""A line is looked at for being blank when it is shorter."""


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a block in one piece, and where its lines come from; files that are read whole are not in it."""

    data: npt.NDArray[np.uint8]
    """UTF-8 without NUL, each line with its end; ``PADDING`` zeros behind it."""
    size: int
    """Bytes without the padding."""
    file: npt.NDArray[np.int32]
    """Position in ``Block.files`` of each run of lines; shape (runs,)."""
    first: npt.NDArray[np.int64]
    """Number of each run's first line; the same shape."""
    count: npt.NDArray[np.int64]
    """Lines of each run, blank ones included; the same shape."""

    def places(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Give the file and the number of every line, blank ones included; shape (lines,)."""
        before = np.cumsum(self.count) - self.count
        file = np.repeat(self.file, self.count)
        return file, np.arange(len(file)) + np.repeat(self.first - before, self.count)

    def table(self) -> pa.Table:
        """Give the lines that are not blank, without a copy of the text."""
        begins = np.zeros(int(self.count.sum()) + 1, dtype=np.int32)
        begins[1:] = _line_ends(self.data, self.size) + 1
        table, _ = self._written(begins, np.arange(len(begins) - 1))
        # No combine_chunks: it would copy the text.
        return pa.Table.from_batches(table.to_batches(max_chunksize=_BATCH_ROWS), _LINES)

    def some(
        self, begins: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]
    ) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """Give some lines, without the blank ones, and their places among all lines that are not blank.

        ``begins`` tells where every line begins, and where the last one ends. Every line not in ``rows`` has text.
        """
        table, is_blank = self._written(begins, rows)
        return table, (rows - np.cumsum(is_blank))[~is_blank]

    def sampled(self, most: int) -> Iterator[tuple[int, str]]:
        """Give some lines spread evenly over the text, each with the position of its file; without their ends."""
        ends = np.cumsum(self.count)
        line = counted = 0
        for place in dict.fromkeys(self.size * number // most for number in range(most)):
            if len(self.file) > 1:
                line += int(np.count_nonzero(self.data[counted:place] == _LINE_END))
                counted = place
            first = max(0, place - _SAMPLED_BYTES)
            around = self.data[first : min(place + _SAMPLED_BYTES, self.size)].tobytes()
            begin = around.rfind(b"\n", 0, place - first) + 1
            end = around.find(b"\n", place - first)
            if end < 0 or (begin == 0 and first > 0):
                continue  # longer than what is looked at
            run = int(np.searchsorted(ends, line, side="right")) if len(self.file) > 1 else 0
            yield int(self.file[run]), around[begin:end].decode().rstrip("\r")

    def _written(
        self, begins: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]
    ) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
        """Give the lines of some rows that are not blank, and which rows are."""
        file, line = self.places()
        text = pa.StringArray.from_buffers(len(begins) - 1, pa.py_buffer(begins), pa.py_buffer(self.data))
        if len(rows) < len(text):
            file, line, text = file[rows], line[rows], text.take(pa.array(rows))
        table = pa.Table.from_arrays([pa.array(file), pa.array(line), text], schema=_LINES)
        is_blank = np.zeros(len(rows), dtype=np.bool_)
        short = np.flatnonzero(np.diff(begins)[rows] < _BLANK_BYTES)
        if len(short):
            trimmed = pc.utf8_trim_whitespace(text.take(pa.array(short)))
            is_blank[short] = pc.equal(trimmed, "").to_numpy(zero_copy_only=False)
            if is_blank.any():
                table = table.filter(pa.array(~is_blank))
        return table, is_blank


@dataclass(slots=True)
class Block:
    """Lines of one or more files of one format, and what went wrong with files as a whole."""

    files: list[SourceFile]
    text: Text | None = None
    """The lines, blank ones included, as one text; None when there are none."""
    documents: list[tuple[int, bytes]] = field(default_factory=list)
    """(position in ``files``, UTF-8 without NUL) of files that are read whole."""
    heads: dict[int, str] = field(default_factory=dict)
    """The first line of each file that is not blank, without its line end; a header, where a format has one."""
    whole: list[tuple[int, int, str, str]] = field(default_factory=list)
    """(file, line, reason, raw) of files, or lines, that could not be read at all; line 0 is the whole file."""
    binary: set[int] = field(default_factory=set)
    """Files with bytes that no text has; these are escaped in ``lines``."""
    first_line: bool = True
    """Whether every file of the block begins in it: only then may a first line be taken for a header."""

    _lines: pa.Table | None = field(default=None, init=False, repr=False)

    @property
    def lines(self) -> pa.Table:
        """Columns ``file`` (int32, position in ``files``), ``line`` (int64, 1-based), ``text`` (string, with its line
        end where it has one); blank lines are left out. Of a file that is read whole: one row, its text, line 1."""
        if self._lines is None:
            tables = [self.text.table()] if self.text is not None else []
            tables += [_document(file, data) for file, data in self.documents]
            self._lines = pa.concat_tables(tables) if tables else _LINES.empty_table()
        return self._lines

    def sampled(self) -> list[tuple[int, str]]:
        """Give the first line of each file and some others, each with the position of its file: what is new is there.

        What comes with one line in ten thousand may be missed here, and is met in another block.
        """
        some = self.text.sampled(_SAMPLED_LINES) if self.text is not None else ()
        return list(dict.fromkeys((*self.heads.items(), *some)))

    def frame(self) -> pl.DataFrame:
        """Give the lines as a frame, without their line ends."""
        lines = pl.DataFrame(pl.from_arrow(self.lines))
        return lines.with_columns(
            pl.col("file").cast(pl.Int64), pl.col("text").str.strip_suffix("\n").str.strip_suffix("\r")
        )


Lined = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Rewrites a file's text, piece by piece, so that each record stands on a line of its own."""


def one_piece(files: Iterable[tuple[SourceFile, bytes]]) -> Iterator[tuple[SourceFile, Content]]:
    """Give files that are in memory as streams."""
    return ((source, iter((data,))) for source, data in files)


def read_blocks(
    files: Iterable[tuple[SourceFile, Content]],
    *,
    whole: Callable[[bytes], bool] = lambda head: False,
    lined: Callable[[bytes], Lined | None] = lambda head: None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Unpack, cut and number the lines of files, in their order.

    ``whole`` tells from the first bytes of a file (unpacked, at least its first line or 64 KiB) that its records cross
    lines. ``lined`` gives, for a file whose records can be told apart while it streams, what puts each on a line of its
    own: its lines are then numbered as they come out. The same files give the same blocks whatever the size of the
    pieces that they come in.
    """
    pending = _Pending()
    for source, content in files:
        file = pending.begin(source)
        unpacking = Unpacked(content)
        head = unpacking.peek()
        if whole(head):
            pending.add_whole(file, unpacking.rest(MAX_WHOLE_BYTES))
        else:
            relined = lined(head)
            pieces = iter(unpacking) if relined is None else relined(iter(unpacking))
            yield from _cut(pending, file, pieces, block_bytes)
        if unpacking.reason is not None:
            pending.whole.append((pending.current(file), 0, unpacking.reason, unpacking.first.hex(" ")))
        if pending.size >= block_bytes:
            yield pending.block()
    if pending.files:
        yield pending.block()


def ahead(blocks: Iterator[Block]) -> Generator[Block]:
    """Make one block more in a thread of its own while the last one is worked on. Raises what ``blocks`` raises."""
    ready: queue.SimpleQueue[Block | BaseException | None] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stopped = threading.Event()

    def make() -> None:
        try:
            while wanted.acquire() and not stopped.is_set() and (block := next(blocks, None)) is not None:
                ready.put(block)
                del block
            ready.put(None)
        except BaseException as exc:  # noqa: BLE001  # it is raised where the blocks are taken
            ready.put(exc)

    maker = threading.Thread(target=make, name="blocks", daemon=True)
    maker.start()
    try:
        while (item := ready.get()) is not None:
            wanted.release()
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        stopped.set()
        wanted.release()
        maker.join()


def _cut(pending: _Pending, file: SourceFile, pieces: Iterator[bytes], block_bytes: int) -> Iterator[Block]:
    """Add a file's lines; give each block that becomes full on the way."""
    begun: list[bytes] = []  # a line whose end is still to come
    begun_size = 0
    skipping = False
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if skipping:
            start = piece.find(b"\n") + 1
            if not start:
                continue
            piece, end, skipping = piece[start:], max(end - start, 0), False  # noqa: PLW2901  # what is left of it
        if not end:
            begun.append(piece)
            begun_size += len(piece)
            if begun_size > MAX_LINE_BYTES:
                pending.too_long(file, b"".join(begun))
                begun, begun_size, skipping = [], 0, True
            continue
        pending.add(file, [*begun, memoryview(piece)[:end]])
        begun, begun_size = [piece[end:]], len(piece) - end
        if pending.size >= block_bytes:
            yield pending.block(carry=file)
    if begun_size:
        pending.add(file, [*begun, b"\n"])


_Piece = bytes | memoryview


@dataclass(slots=True)
class _Run:
    """Lines of one file behind one another."""

    file: int
    """Position in the block's files."""
    begin: int
    end: int
    """Where they are in the text."""
    lines: int = 0
    first: int | None = None
    """Number of the first one; None: not counted yet, and more may follow."""


class _Pending:
    """The lines of a block to be."""

    def __init__(self) -> None:
        self._next_line: dict[SourceFile, int] = {}
        self._heads: dict[SourceFile, str] = {}
        self._clear()

    def _clear(self) -> None:
        self.files: list[SourceFile] = []
        self.size = 0
        self.whole: list[tuple[int, int, str, str]] = []
        self._writing = _Writing()
        self._runs: list[_Run] = []
        self._documents: list[tuple[int, bytes]] = []
        self._begun: set[int] = set()

    def begin(self, source: SourceFile) -> SourceFile:
        self._next_line[source] = 1
        self._begun.add(self.current(source))
        return source

    def current(self, source: SourceFile) -> int:
        """Give the file's position in this block."""
        if not self.files or self.files[-1] != source:
            self.files.append(source)
        return len(self.files) - 1

    def add(self, source: SourceFile, pieces: Sequence[_Piece]) -> None:
        """Add whole lines, in pieces."""
        file, begin = self.current(source), self._writing.size
        run = self._runs[-1] if self._runs else None
        if run is None or run.file != file or run.first is not None:
            run = _Run(file, begin, begin)
            self._runs.append(run)
        run.lines += self._writing.add(pieces)
        run.end = self._writing.size
        self.size += run.end - begin
        if source not in self._heads:
            head = _first_line(pieces)
            if head is not None:
                self._heads[source] = head.rstrip(b"\r").decode("utf-8", "backslashreplace").replace("\0", "\\x00")

    def add_whole(self, source: SourceFile, data: bytes) -> None:
        if data.strip():
            self._documents.append((self.current(source), data))
            self.size += len(data)

    def too_long(self, source: SourceFile, data: bytes) -> None:
        self._number()
        raw = data[:2000].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
        reason = f"a line of more than {MAX_LINE_BYTES} bytes"
        self.whole.append((self.current(source), self._next_line[source], reason, raw))
        self._next_line[source] += 1

    def _number(self) -> list[int]:
        """Number the first lines of the runs, those that have no number yet from what came before."""
        for run in self._runs:
            if run.first is None:
                run.first = self._next_line[self.files[run.file]]
                self._next_line[self.files[run.file]] += run.lines
        return [run.first for run in self._runs if run.first is not None]

    def block(self, carry: SourceFile | None = None) -> Block:
        binary: set[int] = set()
        block = Block(
            files=self.files,
            text=self._text(binary) if self._runs else None,
            documents=[(file, _escaped(data, file, binary)) for file, data in self._documents],
            heads={place: self._heads[source] for place, source in enumerate(self.files) if source in self._heads},
            whole=self.whole,
            binary=binary,
            first_line=len(self._begun) == len(self.files),
        )
        kept = {carry} if carry is not None else set()
        self._next_line = {source: line for source, line in self._next_line.items() if source in kept}
        self._heads = {source: head for source, head in self._heads.items() if source in kept}
        self._clear()
        return block

    def _text(self, binary: set[int]) -> Text:
        data, size = self._writing.text(), self._writing.size
        if self._writing.has_nul or not (self._writing.is_ascii or _is_utf8(data, size)):
            escaped = _Writing()
            for run in self._runs:
                escaped.add([_escaped(data[run.begin : run.end].tobytes(), run.file, binary)])
            data, size = escaped.text(), escaped.size
        return Text(
            data=data,
            size=size,
            file=np.array([run.file for run in self._runs], dtype=np.int32),
            first=np.array(self._number(), dtype=np.int64),
            count=np.array([run.lines for run in self._runs], dtype=np.int64),
        )


_LINES: Final = pa.schema([("file", pa.int32()), ("line", pa.int64()), ("text", pa.string())])


def _first_line(pieces: Sequence[_Piece]) -> bytes | None:
    """Give the first line that is not blank, without its end."""
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n", _LINES_AT_ONCE)
        while whole:
            if line := next((line for line in whole if line.strip()), None):
                return line
            *whole, held = held.split(b"\n", _LINES_AT_ONCE)
    return held if held.strip() else None


class _Buffers:
    """Memory for the texts of blocks, used again when nothing looks at it any more.

    The first touch of new memory costs more than all the rest of reading a log file.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._choosing = threading.Lock()  # giving back takes no lock: it may happen anywhere

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Give room for a text of so many bytes and the padding; more where there is more."""
        with self._choosing:
            fitting = (place for place, one in enumerate(self._free) if len(one) >= size + PADDING)
            place = next(fitting, None)
            storage = None if place is None else self._free.pop(place)
        if storage is None:
            length = max(size, BLOCK_BYTES + unpacked.READ_BYTES) + PADDING
            storage = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux: the first touch then costs a fraction
                storage.madvise(mmap.MADV_HUGEPAGE)
        # All views have this array as their base: when it goes, so have they. (It must be no view of another array:
        # numpy would give them that one as their base.)
        room = np.frombuffer(storage, dtype=np.uint8)
        weakref.finalize(room, self._give_back, storage).atexit = False
        return room

    def _give_back(self, storage: mmap.mmap) -> None:
        if len(self._free) < _BUFFERS_KEPT and len(storage) <= 2 * BLOCK_BYTES:
            self._free.append(storage)


_BUFFERS: Final = _Buffers()
_NO_ROOM: Final = np.empty(0, dtype=np.uint8)


class _Writing:
    """A text that is being written: each piece is copied and looked at while it is in the processor's cache."""

    def __init__(self) -> None:
        self.size = 0
        self.has_nul = False
        self.is_ascii = True
        self._room = _NO_ROOM

    def add(self, pieces: Sequence[_Piece]) -> int:
        """Write pieces behind one another; gives how many line ends they have."""
        begin = self.size
        end = begin + sum(map(len, pieces))
        room = self._room
        if end + PADDING > len(room):
            room = _BUFFERS.take(max(end, 2 * begin))
            room[:begin] = self._room[:begin]
            self._room = room
        with room.data as target:
            for piece in pieces:
                target[self.size : self.size + len(piece)] = piece
                self.size += len(piece)
        lines, has_nul, is_ascii = looked_at(room, begin, end)
        self.has_nul |= has_nul
        self.is_ascii &= is_ascii
        return lines

    def text(self) -> npt.NDArray[np.uint8]:
        """Give the text with its padding. Something must have been written."""
        self._room[self.size : self.size + PADDING] = 0
        return self._room[: self.size + PADDING]


def _document(file: int, data: bytes) -> pa.Table:
    offsets = np.array([0, len(data)], dtype=np.int32)
    text = pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))
    return pa.Table.from_arrays([pa.array([file], pa.int32()), pa.array([1], pa.int64()), text], schema=_LINES)


def _is_utf8(data: bytes | npt.NDArray[np.uint8], size: int) -> bool:
    offsets = np.array([0, size], dtype=np.int32)
    try:
        pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _escaped(data: bytes, file: int, binary: set[int]) -> bytes:
    r"""Escape the bytes that no text has (``\xff``): the other lines are read all the same, and these stay visible."""
    if b"\0" not in data and _is_utf8(data, len(data)):
        return data
    binary.add(file)
    return data.decode("utf-8", "backslashreplace").replace("\0", "\\x00").encode()


def _line_ends(data: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.int64]:
    """Give the positions of all line ends. In small steps: large temporary arrays cost more than the search."""
    text = data[:size]
    found = [np.flatnonzero(text[start : start + _SCAN_BYTES] == 10) + start for start in range(0, size, _SCAN_BYTES)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
