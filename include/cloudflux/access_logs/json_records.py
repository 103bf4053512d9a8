"""Log records that are JSON objects: what the three clouds' JSON formats share.

Most files have one object a line. Others wrap them in an envelope (``{"Records": [...]}``), in an array, print them
over many lines, or write one after the other. While such a file streams, each record is put on a line of its own: the
text between two records, ``},{"eventVersion":``, cannot stand inside a JSON string, whose quotes are escaped. So a file
of any size is read in blocks, and a record that is damaged takes no other with it. What is still no JSON object of its
own is looked at once more, slowly, by where objects begin and end; one that was cut inside, because the elements of a
list in it begin like a record, is put together again.

Of a key that stands twice in an object the first counts.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import MAX_LINE_BYTES, Block, Lined
from cloudflux.access_logs.columns import duckdb_with
from cloudflux.access_logs.parsed import CLOCK_SKEW, FIRST_AT

_LINES_TRIED: Final = 16
_NO_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")
_ENVELOPE: Final = rb'\{\s*"[Rr]ecords"\s*:\s*\['
_OPENING: Final = re.compile(rb"\s*(?:" + _ENVELOPE + rb"|\[)\s*(?=\{)")
_FIRST_KEY: Final = re.compile(rb'\s*\{\s*"([^"\\]{1,64})"\s*:')
_CLOSING: Final = re.compile(rb"\}\s*\]\s*\}?\s*$")
_NOTHING: Final = " \t\r\n,"
_DECODER: Final = json.JSONDecoder()
_OPENING_TEXT: Final = re.compile(r'(?:\{\s*"[Rr]ecords"\s*:\s*)?\[\s*(?=\{)')
_PASSES: Final = 16
"""How often the text of a damaged stretch may be gone over before its lines are given up."""

_LINES_REJOINED: Final = 32
"""Of so many pieces at most an object is put together again that was cut where a list inside it looked like records."""


def _nothing_else(document: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class JsonRecords:
    """What tells the records of a format from other JSON."""

    first_keys: tuple[str, ...]
    """The names that a record begins with."""
    is_other: Callable[[Mapping[str, Any]], bool] = _nothing_else
    """Tells a document that lies among the logs, and is none, so that it is passed over."""

    def lined(self, head: bytes) -> Lined | None:
        """Give what puts the records of a file on lines of their own, from its first bytes; none if they are there."""
        if any(_is_record(line) for line in head.lstrip().split(b"\n", _LINES_TRIED)[:_LINES_TRIED]):
            return None
        opening = _OPENING.match(head)
        start = opening.end() if opening else 0
        first = _FIRST_KEY.match(head, start)
        keys = {name.encode() for name in self.first_keys}
        if first and first[1] not in (b"records", b"Records"):
            keys.add(first[1])
        elif not any(b'"' + key + b'"' in head for key in keys):
            return None
        names = b"|".join(re.escape(key) for key in sorted(keys))
        # Bounded, and without a way back: a hostile run of braces or blanks costs no more than its length.
        between = re.compile(
            rb"\}\s{0,200}+(?:\]\s{0,200}+\}\s{0,200}+)?+,?+\s{0,200}+(?:" + _ENVELOPE + rb"\s{0,200}+)?+"
            rb'\{(?=\s{0,200}"(?:' + names + rb')"\s{0,20}:)'
        )
        compact = [(b'},{"' + key + b'"', b'}\n{"' + key + b'"') for key in sorted(keys)]
        is_compact = {found[0] for found in between.finditer(head)} == {b"},{"}

        def apart(text: bytes) -> bytes:
            if not is_compact:
                return between.sub(b"}\n{", text)
            for joint, cut in compact:  # five times faster
                text = text.replace(joint, cut)
            return text

        return lambda pieces: _one_a_line(pieces, start, apart)

    def found(
        self,
        lines: pa.Table,
        sql: str,
        parameters: Mapping[str, Any],
        places: npt.NDArray[np.int64] | None = None,
    ) -> pa.Table:
        """Ask the records of a block's lines, all or some of them.

        ``sql`` reads ``lines`` (file, line, text with one JSON object each) and gives a row for each, with the columns
        file, line, ``reason`` where it is refused, and ``regular``: that it is a record. Irregular lines are asked once
        more, cut into the objects that begin and end in them. The result has the column ``raw`` too: the text of what
        is refused. ``places`` tells where some lines stand among all: only neighbours are read together.
        """
        found = _asked(lines, sql, parameters)
        regular = found["regular"]
        if pc.all(regular).as_py():
            return found
        rows = np.flatnonzero(~regular.to_numpy())
        again = pa.Table.from_pylist(
            list(self._objects(lines.take(rows), rows if places is None else places[rows])), lines.schema
        )
        parts = [found.filter(regular)]
        if again.num_rows:
            parts.append(_asked(again, sql, parameters))
        return pa.concat_tables(parts).sort_by([("file", "ascending"), ("line", "ascending")])

    def _objects(self, lines: pa.Table, rows: np.ndarray[Any, Any]) -> Iterator[dict[str, Any]]:
        """Give the objects of lines that are none by themselves; lines that stood together are read together."""
        files = lines["file"].to_numpy()
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(files) != 0)) + 1
        numbers = lines["line"].to_pylist()
        texts = lines["text"].to_pylist()
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            for line, text in self._documents(numbers[begin:end], texts[begin:end]):
                yield {"file": int(files[begin]), "line": line, "text": text}

    def _documents(self, numbers: Sequence[int], texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Read JSON objects wherever they begin and end; the rest of a line that begins none is given as it is."""
        whole = "".join(texts)
        starts = np.cumsum([0, *(len(text) for text in texts)]).tolist()
        record = re.compile(r'\{\s{0,200}"(?:' + "|".join(map(re.escape, self.first_keys)) + r')"\s{0,20}:')
        budget = _PASSES * len(whole) + (1 << 20)
        position = opened = 0
        while position < len(whole):
            if whole[position] in _NOTHING or (opened and whole[position] in "]}"):
                position += 1
                continue
            if opening := _OPENING_TEXT.match(whole, position):
                opened += 1
                position = opening.end()
                continue
            line = bisect_right(starts, position) - 1
            if whole[position] == "{" and budget > 0:
                document, text, cost = _object_at(whole, position, starts, line)
                after = position + len(text)
                budget -= cost
                if document is not None:
                    for record_text in self._records_of(document, text):
                        yield numbers[line], record_text
                    position = after
                    continue
            line_end = starts[line + 1]
            following = record.search(whole, position + 1, line_end) if budget > 0 else None
            position_after = following.start() if following else line_end
            if text := whole[position:position_after].rstrip("\r\n"):
                yield numbers[line], text
            position = position_after

    def _records_of(self, document: Mapping[str, Any], text: str) -> Iterator[str]:
        if self.is_other(document):
            return
        for name in ("records", "Records"):
            if isinstance(document.get(name), list):
                yield from (_compact(record) for record in document[name] if not self._is_passed_over(record))
                return
        yield text

    def _is_passed_over(self, record: Any) -> bool:
        return isinstance(record, dict) and self.is_other(record)


def _object_at(whole: str, position: int, starts: Sequence[int], line: int) -> tuple[dict[str, Any] | None, str, int]:
    """Read the object that begins at a position: give it, its text, and how much text was gone over.

    More lines are taken only while those so far end too early: no string has a line end in it, so that one which is
    torn is known by the end of its line.
    """
    cost = 0
    lines = 1
    while True:
        end = starts[min(line + lines, len(starts) - 1)]
        window = whole[position:end]
        cost += len(window)
        try:
            document, after = _DECODER.raw_decode(window)
        except json.JSONDecodeError as exc:
            if window[max(exc.pos - 2, 0) : exc.pos + 1] == "}\n{":
                return _rejoined(whole, position, starts, line, cost)
            if end == len(whole) or exc.pos < len(window.rstrip()):
                return None, "", cost
        except RecursionError:
            return None, "", cost
        else:
            return document if isinstance(document, dict) else None, window[:after], cost
        lines *= 2


def _rejoined(
    whole: str, position: int, starts: Sequence[int], line: int, cost: int
) -> tuple[dict[str, Any] | None, str, int]:
    """Read an object in which a list was cut: its elements begin as records do. The cut took the comma between them."""
    lines = 2
    while lines <= _LINES_REJOINED and line + lines < len(starts):
        window = whole[position : starts[line + lines]].replace("}\n{", "},{")
        cost += len(window)
        try:
            document, after = _DECODER.raw_decode(window)
        except json.JSONDecodeError as exc:
            if exc.pos < len(window.rstrip()):
                return None, "", cost
        except RecursionError:
            return None, "", cost
        else:
            return document if isinstance(document, dict) else None, window[:after], cost
        lines += 1
    return None, "", cost


def _compact(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _asked(lines: pa.Table, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
    with duckdb_with(lines=lines) as connection:
        found: pa.Table = connection.sql(sql, params=dict(parameters)).to_arrow_table()
    # A query without joins keeps the order of its input. Carrying the text through it would cost a tenth of its time.
    if not found["line"].equals(lines["line"]):
        raise RuntimeError("DuckDB gave the lines in another order than it got them")
    refused = pc.is_valid(found["reason"])
    if pc.any(refused).as_py():
        raw = pc.if_else(refused.combine_chunks(), lines["text"].combine_chunks(), pa.scalar(None, pa.string()))
        raw = pc.utf8_rtrim(raw, "\r\n")
    else:
        raw = pa.nulls(found.num_rows, pa.string())
    return found.append_column("raw", raw)


def _is_record(line: bytes) -> bool:
    """Tell whether a line is a whole object, and no envelope of others."""
    if not line.startswith(b"{") or not line.rstrip().endswith(b"}"):
        return False
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return not any(isinstance(document.get(name), list) for name in ("records", "Records"))


def _one_a_line(pieces: Iterator[bytes], start: int, apart: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Put records on lines of their own. JSON has line ends between its tokens only: they become blanks.

    ``start`` bytes open the first envelope; ``apart`` cuts between records. All after the last brace but one is held
    back until what follows is known.
    """
    held = b""
    is_enveloped = start > 0
    for piece in pieces:
        dropped = min(start, len(piece))
        start -= dropped
        data = piece[dropped:]
        if b"\n" in data or b"\r" in data:
            data = data.translate(_NO_LINE_ENDS)
        data = held + data
        cut = data.rfind(b"}", 0, max(data.rfind(b"}"), 0))
        if cut < 0 and len(data) > MAX_LINE_BYTES:
            cut = len(data)
        if cut > 0:
            yield apart(data[:cut])
        held = data[max(cut, 0) :]
    if held:
        rest = apart(held)
        yield _CLOSING.sub(b"}", rest) if is_enveloped else rest


def moment(column: str) -> str:
    """Give the SQL of a UTC timestamp from ISO 8601 text with ``Z``, an offset, or neither."""
    return (
        f"CASE WHEN ends_with({column}, 'Z') OR NOT regexp_matches({column}, '[+-]\\d\\d:?\\d\\d$')"
        f" THEN try_cast({column} AS TIMESTAMP) ELSE timezone('UTC', try_cast({column} AS TIMESTAMPTZ)) END"
    )


def listed(names: Mapping[str, str], column: str = "operation") -> str:
    """Give the SQL of the kind that is listed for each operation."""
    return f"CASE {column} {' '.join(f'WHEN {name!r} THEN {kind!r}' for name, kind in names.items())} END"


def timed(happened: str = "happened") -> str:
    """Give the SQL's WHEN clauses of times that cannot be those of requests; needs the parameters of ``times``."""
    return (
        f"WHEN {happened} IS NULL THEN 'the time is not a date'"
        f" WHEN {happened} > $latest[file + 1] THEN 'the time lies after the file''s delivery'"
        f" WHEN {happened} < $first THEN 'the time lies before all cloud storage'"
    )


def times(block: Block) -> dict[str, Any]:
    """Give the parameters of ``timed``."""
    return {
        "first": FIRST_AT.replace(tzinfo=None),
        "latest": [
            (source.last_modified_at + CLOCK_SKEW).astimezone(UTC).replace(tzinfo=None) for source in block.files
        ],
    }


def sampled_records(block: Block) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the first record of each file and some others (the file's place, the object), where they are one."""
    for place, head in block.sampled():
        try:
            document = orjson.loads(head)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict):
            yield place, document
