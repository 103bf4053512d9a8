"""Plainly regular rows of GCS usage logs: every field in quotes, none with a quote inside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloudflux.access_logs.scanning.compiled import compiled
from cloudflux.access_logs.scanning.lines import ScannedLines
from cloudflux.access_logs.scanning.texts import (
    LINES_AT_ONCE,
    SEED,
    Bytes,
    Places,
    Words,
    digits,
    next_line,
    next_quote,
    number_texts,
    room_to_wait,
)

_QUOTE: Final = 34
_COMMA: Final = 44
_LINE_END: Final = 10
_MOST_DIGITS: Final = 17
BUCKET, OPERATION, KEY, AGENT = range(4)
"""The texts that are numbered, by their place in the columns."""
_TEXTS: Final = AGENT + 1
TIME, STATUS, SENT, REQUEST_ID, URI = range(4, 9)


def scan(data: Bytes, words: Words, size: int, lines: int, columns: npt.NDArray[np.int64]) -> ScannedLines:
    """Read a text of so many bytes and lines, each with a line end, in UTF-8 and without NUL.

    ``columns`` tells which field a column is, ``BUCKET`` to ``URI``, or -1. What is found is valid until this thread
    scans the next text.
    """
    found = ScannedLines.zeros(lines, _TEXTS, with_uris=True)
    fields = np.zeros((2, 9), dtype=np.int64)
    _scanned(
        data, words, size, SEED, columns, fields, room_to_wait(_TEXTS), found.tables(), found.regular, found.begins,
        found.texts, found.starts, found.lengths, found.distinct, found.at_micros, found.status, found.bytes_sent,
        found.request_ids, found.uris,
    )  # fmt: skip
    return found


@compiled
def _scanned(
    data: Bytes,
    words: Words,
    size: int,
    seed: Any,
    columns: npt.NDArray[np.int64],
    fields: npt.NDArray[np.int64],
    waiting: Places,
    tables: Places,
    regular: npt.NDArray[np.bool_],
    begins: Places,
    texts: Places,
    starts: Places,
    lengths: Places,
    distinct: npt.NDArray[np.int64],
    at_micros: npt.NDArray[np.int64],
    status: npt.NDArray[np.int16],
    bytes_sent: npt.NDArray[np.int64],
    request_ids: Places,
    uris: Places,
) -> None:
    row = -1
    place = 0
    ready = 0
    width = len(columns)
    while place < size:
        row += 1
        begin = place
        begins[row] = begin
        column = 0
        while column < width and data[place] == _QUOTE:
            start = place + 1
            end = next_quote(data, words, start)
            if data[end] != _QUOTE:
                place = end
                break
            place = end + 1
            field = columns[column]
            if field >= 0:
                fields[0, field] = start
                fields[1, field] = end - start
            column += 1
            if column < width:
                if data[place] != _COMMA:
                    break
                place += 1
        if column < width or data[place] != _LINE_END:
            place = next_line(data, words, place) + 1
            continue
        place += 1
        micros = digits(data, fields[0, TIME], fields[1, TIME]) if 0 < fields[1, TIME] < _MOST_DIGITS + 2 else -1
        code = digits(data, fields[0, STATUS], 3) if fields[1, STATUS] == 3 else -1
        sent = digits(data, fields[0, SENT], fields[1, SENT]) if fields[1, SENT] < _MOST_DIGITS else -1
        if micros < 0 or code < 100 or sent < 0:
            continue
        regular[row] = True
        at_micros[row] = micros
        status[row] = code
        bytes_sent[row] = sent
        request_ids[0, row] = fields[0, REQUEST_ID]
        request_ids[1, row] = fields[1, REQUEST_ID]
        uris[0, row] = fields[0, URI]
        uris[1, row] = fields[1, URI]
        waiting[0, _TEXTS, ready] = row
        for field in range(_TEXTS):
            waiting[0, field, ready] = fields[0, field]
            waiting[1, field, ready] = fields[1, field]
        ready += 1
        if ready == LINES_AT_ONCE:
            number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
            ready = 0
    number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
    begins[row + 1] = size
