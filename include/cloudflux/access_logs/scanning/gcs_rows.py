"""Plainly regular rows of GCS usage logs: every field in quotes, none with a quote inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloudflux.access_logs.scanning.compiled import compiled
from cloudflux.access_logs.scanning.texts import (
    SCRATCH,
    SEED,
    Bytes,
    NumberedTexts,
    Places,
    Words,
    digits,
    next_line,
    next_quote,
    number_of,
    table_size,
)

_QUOTE: Final = 34
_COMMA: Final = 44
_LINE_END: Final = 10
_MOST_DIGITS: Final = 17
BUCKET, OPERATION, KEY, AGENT = range(4)
"""The texts that are numbered, by their place in the columns."""
TIME, STATUS, SENT, REQUEST_ID, URI = range(4, 9)


@dataclass(frozen=True, slots=True)
class GcsRows(NumberedTexts):
    """The fields of a block's rows; what is not ``regular`` has no meaning in the other columns. Shape (lines,)."""

    at_micros: npt.NDArray[np.int64]
    """Since 1970, UTC."""
    status: npt.NDArray[np.int16]
    bytes_sent: npt.NDArray[np.int64]
    request_ids: Places
    """Start and length of each row's; shape (2, lines)."""
    uris: Places
    """The same of the request URI."""


def scan(data: Bytes, words: Words, size: int, lines: int, columns: npt.NDArray[np.int64]) -> GcsRows:
    """Read a text of so many bytes and lines, each with a line end, in UTF-8 and without NUL.

    ``columns`` tells which field a column is, ``BUCKET`` to ``URI``, or -1. What is found is valid until this thread
    scans the next text.
    """
    zeros = SCRATCH.zeros
    found = GcsRows(
        regular=zeros("regular", (lines,), np.bool_),
        begins=zeros("begins", (lines + 1,), np.int32),
        texts=zeros("texts", (4, lines), np.int32),
        starts=zeros("starts", (4, lines), np.int32),
        lengths=zeros("lengths", (4, lines), np.int32),
        distinct=zeros("distinct", (4,), np.int64),
        at_micros=zeros("at_micros", (lines,), np.int64),
        status=zeros("status", (lines,), np.int16),
        bytes_sent=zeros("bytes_sent", (lines,), np.int64),
        request_ids=zeros("request_ids", (2, lines), np.int32),
        uris=zeros("uris", (2, lines), np.int32),
    )
    tables = zeros("tables", (4, table_size(lines)), np.int32)
    fields = np.zeros((2, 9), dtype=np.int64)
    _scanned(
        data, words, size, SEED, columns, fields, tables, found.regular, found.begins, found.texts, found.starts,
        found.lengths, found.distinct, found.at_micros, found.status, found.bytes_sent, found.request_ids, found.uris,
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
        for field in range(4):
            known = distinct[field]
            number = number_of(words, fields[0, field], fields[1, field], seed, field, tables, starts, lengths, known)
            if number == known:
                distinct[field] = known + 1
            texts[field, row] = number
        request_ids[0, row] = fields[0, REQUEST_ID]
        request_ids[1, row] = fields[1, REQUEST_ID]
        uris[0, row] = fields[0, URI]
        uris[1, row] = fields[1, URI]
    begins[row + 1] = size
