"""Plainly regular lines of S3 server access logs: one blank between fields, three quoted ones without quotes inside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloudflux.access_logs.scanning.compiled import compiled, inlined
from cloudflux.access_logs.scanning.lines import ScannedLines
from cloudflux.access_logs.scanning.texts import (
    LINES_AT_ONCE,
    SEED,
    Bytes,
    Places,
    Words,
    days_since_1970,
    digits,
    next_line,
    next_quote,
    next_special,
    number_texts,
    room_to_wait,
)

_BLANK: Final = 32
_QUOTE: Final = 34
_LINE_END: Final = 10
_DASH: Final = 45
_BRACKET: Final = 91
_MOST_SENT_DIGITS: Final = 17
_OFFSET: Final = np.uint64(int.from_bytes(b" +0000] ", "little"))
_DAY_MICROS: Final = 86_400_000_000
BUCKET, OPERATION, KEY, AGENT, REQUESTER = range(5)
"""The texts that are numbered, by their place in the columns."""
_TEXTS: Final = REQUESTER + 1


def scan(data: Bytes, words: Words, size: int, lines: int) -> ScannedLines:
    """Read a text of so many bytes and lines, each with a line end, in UTF-8 and without NUL.

    What is found is valid until this thread scans the next text.
    """
    found = ScannedLines.zeros(lines, _TEXTS, with_uris=True)
    _scanned(
        data, words, size, SEED, room_to_wait(_TEXTS), found.tables(), found.regular, found.begins, found.at_micros,
        found.status, found.bytes_sent, found.texts, found.starts, found.lengths, found.distinct, found.request_ids,
        found.uris,
    )  # fmt: skip
    return found


@inlined
def _month(data: Bytes, place: int) -> int:
    """Give the month, 1 to 12, of its name in three letters, or 0."""
    name = (np.int64(data[place]) << 16) | (np.int64(data[place + 1]) << 8) | np.int64(data[place + 2])
    months = (
        0x4A616E, 0x466562, 0x4D6172, 0x417072, 0x4D6179, 0x4A756E,
        0x4A756C, 0x417567, 0x536570, 0x4F6374, 0x4E6F76, 0x446563,
    )  # fmt: skip
    for month in range(12):
        if months[month] == name:
            return month + 1
    return 0


@inlined
def _field(data: Bytes, words: Words, place: int) -> int:
    """Give where a field ends that one blank follows, or -1."""
    end = next_special(data, words, place)
    while (data[end] < _BLANK and data[end] != _LINE_END) or data[end] == 33:
        end = next_special(data, words, end + 1)
    return end if data[end] == _BLANK and end > place else -1


@compiled
def _scanned(
    data: Bytes,
    words: Words,
    size: int,
    seed: Any,
    waiting: Places,
    tables: Places,
    regular: npt.NDArray[np.bool_],
    begins: Places,
    at_micros: npt.NDArray[np.int64],
    status: npt.NDArray[np.int16],
    bytes_sent: npt.NDArray[np.int64],
    texts: Places,
    starts: Places,
    lengths: Places,
    distinct: npt.NDArray[np.int64],
    request_ids: Places,
    uris: Places,
) -> None:
    line = 0
    place = 0
    ready = 0
    last_day = -1
    last_date = np.uint64(0)
    last_year = np.uint64(0)
    while place < size:
        row = line
        line += 1
        begin = place
        begins[row] = begin
        # Till the line is done, `place` is where it was seen to go on: never beyond its end.
        end = _field(data, words, place)  # owner
        if end < 0:
            place = next_line(data, words, begin) + 1
            continue
        bucket = end + 1
        bucket_end = _field(data, words, bucket)
        # [06/Nov/2026:00:00:38 +0000] and a blank
        time = bucket_end + 1
        if bucket_end < 0 or data[time] != _BRACKET or time + 29 > size or words[time + 21] != _OFFSET:
            place = next_line(data, words, begin) + 1
            continue
        if words[time + 1] != last_date or words[time + 4] != last_year:
            last_day = -1
            if data[time + 3] == 47 and data[time + 7] == 47:
                year = digits(data, time + 8, 4)
                day = digits(data, time + 1, 2)
                last_day = days_since_1970(year, _month(data, time + 4), day)
            last_date = words[time + 1]
            last_year = words[time + 4]
        hour = digits(data, time + 13, 2)
        minute = digits(data, time + 16, 2)
        second = digits(data, time + 19, 2)
        ip_end = _field(data, words, time + 29)
        if (
            ip_end < 0
            or last_day < 0
            or data[time + 12] != 58
            or data[time + 15] != 58
            or data[time + 18] != 58
            or hour < 0
            or hour > 23
            or minute < 0
            or minute > 59
            or second < 0
            or second > 59
        ):
            place = next_line(data, words, begin) + 1
            continue
        requester = ip_end + 1
        requester_end = _field(data, words, requester)
        request_id = requester_end + 1
        request_id_end = _field(data, words, request_id) if requester_end >= 0 else -1
        operation = request_id_end + 1
        operation_end = _field(data, words, operation) if request_id_end >= 0 else -1
        key = operation_end + 1
        key_end = _field(data, words, key) if operation_end >= 0 else -1
        if key_end < 0 or data[key_end + 1] != _QUOTE:
            place = next_line(data, words, begin) + 1
            continue
        uri = key_end + 2
        uri_end = next_quote(data, words, uri)
        # "..." 200 - 2048 2048 12 11 "
        code_at = uri_end + 2
        if data[uri_end] != _QUOTE or data[uri_end + 1] != _BLANK or data[code_at] == _LINE_END:
            place = next_line(data, words, begin) + 1
            continue
        code_end = _field(data, words, code_at)
        code = digits(data, code_at, 3) if code_end == code_at + 3 else -1
        error_end = _field(data, words, code_end + 1) if code_end >= 0 else -1
        if code < 300 and (data[code_end + 1] != _DASH or error_end != code_end + 2):  # a success that came to nothing
            error_end = -1
        sent_at = error_end + 1
        sent_end = _field(data, words, sent_at) if error_end >= 0 else -1
        size_end = _field(data, words, sent_end + 1) if sent_end >= 0 else -1
        total_end = _field(data, words, size_end + 1) if size_end >= 0 else -1
        turn_end = _field(data, words, total_end + 1) if total_end >= 0 else -1
        if code < 100 or turn_end < 0 or data[turn_end + 1] != _QUOTE:
            place = next_line(data, words, begin) + 1
            continue
        sent = -1
        if sent_end - sent_at < _MOST_SENT_DIGITS:
            sent = digits(data, sent_at, sent_end - sent_at)
            if sent_end == sent_at + 1 and data[sent_at] == _DASH:
                sent = 0
        referer_end = next_quote(data, words, turn_end + 2)
        if (
            sent < 0
            or data[referer_end] != _QUOTE
            or data[referer_end + 1] != _BLANK
            or data[referer_end + 2] != _QUOTE
        ):
            place = next_line(data, words, begin) + 1
            continue
        agent = referer_end + 3
        agent_end = next_quote(data, words, agent)
        if data[agent_end] != _QUOTE or data[agent_end + 1] != _BLANK or data[agent_end + 2] <= _BLANK:
            place = next_line(data, words, begin) + 1
            continue
        tail = next_quote(data, words, agent_end + 2)
        if data[tail] != _LINE_END:
            place = next_line(data, words, tail) + 1
            continue
        place = tail + 1
        regular[row] = True
        at_micros[row] = last_day * _DAY_MICROS + (hour * 3600 + minute * 60 + second) * 1_000_000
        status[row] = code
        bytes_sent[row] = sent
        request_ids[0, row] = request_id
        request_ids[1, row] = request_id_end - request_id
        uris[0, row] = uri
        uris[1, row] = uri_end - uri
        waiting[0, _TEXTS, ready] = row
        # in the order of the columns
        for column, (start, end) in enumerate(
            (
                (bucket, bucket_end),
                (operation, operation_end),
                (key, key_end),
                (agent, agent_end),
                (requester, requester_end),
            )
        ):
            waiting[0, column, ready] = start
            waiting[1, column, ready] = end - start
        ready += 1
        if ready == LINES_AT_ONCE:
            number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
            ready = 0
    number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
    begins[line] = size
