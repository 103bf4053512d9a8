"""Plainly regular records of Azure's resource logs: one JSON object a line, the fields that count as plain text.

The whole object is checked against JSON's grammar (RFC 8259), strictly. The scanner is not sure of a record that lacks
one of the fields, has one twice or with an escape in it, or nests deeply.
"""

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
    number_texts,
    room_to_wait,
)

_LINE_END: Final = 10
_QUOTE: Final = 34
_BACKSLASH: Final = 92
_DAY_MICROS: Final = 86_400_000_000
_MOST_DEPTH: Final = 16
BUCKET, OPERATION, KEY, AGENT, OBJECT_ID, UPN, APP_ID = range(7)
"""The texts that are numbered, by their place in the columns; the last three are the requester's, empty for none."""
(
    _TIME, _OPERATION, _STATUS, _ID, _STATUS_TEXT, _OBJECT, _SENT, _AGENT, _OBJECT_ID, _UPN, _APP_ID, _PROPERTIES,
    _IDENTITY, _REQUESTER, _FIELDS,
) = range(15)  # fmt: skip
_ONES: Final = np.uint64(0x0101010101010101)
_TOPS: Final = np.uint64(0x8080808080808080)
_QUOTES: Final = np.uint64(0x2222222222222222)
_BACKSLASHES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_BLANKS: Final = np.uint64(0x2020202020202020)
_NONE: Final = np.uint64(0)
_NETWORK_ERROR: Final = np.uint64(int.from_bytes(b"orkError", "little"))
"""How the statuses end that have a code of success, and where the client got no answer all the same."""


def scan(data: Bytes, words: Words, size: int, lines: int, *, with_requesters: bool) -> ScannedLines:
    """Read a text of so many bytes and lines, each with a line end, in UTF-8 and without NUL.

    The columns of the requester are there only where they are asked for. What is found is valid until this thread scans
    the next text.
    """
    found = ScannedLines.zeros(lines, APP_ID + 1 if with_requesters else OBJECT_ID, with_uris=False)
    fields = np.zeros((2, _FIELDS), dtype=np.int64)
    waiting = room_to_wait(len(found.texts))
    _scanned(
        data, words, size, SEED, _NAMES, _NAME_ENDS, fields, waiting, found.tables(), found.regular, found.begins,
        found.texts, found.starts, found.lengths, found.distinct, found.at_micros, found.status, found.bytes_sent,
        found.request_ids,
    )  # fmt: skip
    return found


# in the order of the numbers above; those of one object stand together
_LISTED: Final = (
    "time", "operationName", "statusCode", "correlationId", "statusText",
    "objectKey", "responseBodySize", "userAgentHeader",
    "objectId", "upn", "appId",
    "properties", "identity",
    "requester",
)  # fmt: skip
_NAMES: Final = np.frombuffer("".join(_LISTED).encode(), dtype=np.uint8).copy()
_NAME_ENDS: Final = np.cumsum([0, *map(len, _LISTED)]).astype(np.int64)


@inlined
def _string_end(data: Bytes, words: Words, place: int) -> Any:
    """Give the place of the next quote, backslash or control character."""
    while True:
        word = words[place]
        quotes = word ^ _QUOTES
        slashes = word ^ _BACKSLASHES
        found = ((quotes - _ONES) & ~quotes) | ((slashes - _ONES) & ~slashes) | ((word - _BLANKS) & ~word)
        if found & _TOPS == _NONE:
            place += 8
            continue
        while data[place] >= 32 and data[place] != _QUOTE and data[place] != _BACKSLASH:
            place += 1
        return place


@inlined
def _after_escape(data: Bytes, place: int) -> Any:
    """Give where the text goes on after the escape at a backslash, or -1; surrogates are left to others."""
    kind = data[place + 1]
    if kind == 34 or kind == 92 or kind == 47 or kind == 98 or kind == 102 or kind == 110 or kind == 114 or kind == 116:
        return place + 2
    if kind != 117:
        return -1
    for at in range(place + 2, place + 6):
        byte = data[at]
        if not (48 <= byte <= 57 or 65 <= byte <= 70 or 97 <= byte <= 102):
            return -1
    is_surrogate = (data[place + 2] == 68 or data[place + 2] == 100) and data[place + 3] >= 56
    return -1 if is_surrogate else place + 6


@inlined
def _after_number(data: Bytes, place: int) -> Any:
    """Give where a number without exponent ends, or -1."""
    if data[place] == 45:
        place += 1
    first = data[place]
    if first < 48 or first > 57:
        return -1
    place += 1
    if first != 48:
        while 48 <= data[place] <= 57:
            place += 1
    if data[place] == 46:
        place += 1
        if not 48 <= data[place] <= 57:
            return -1
        while 48 <= data[place] <= 57:
            place += 1
    return place


@inlined
def _field_of(
    data: Bytes, names: Bytes, ends: npt.NDArray[np.int64], first: int, last: int, start: int, end: int
) -> Any:
    """Give which of the names from ``first`` to ``last`` a key is, or -1."""
    for field in range(first, last):
        length = ends[field + 1] - ends[field]
        if length != end - start:
            continue
        same = 0
        while same < length and data[start + same] == names[ends[field] + same]:
            same += 1
        if same == length:
            return field
    return -1


@compiled
def _scanned(
    data: Bytes,
    words: Words,
    size: int,
    seed: Any,
    names: Bytes,
    name_ends: npt.NDArray[np.int64],
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
) -> None:
    row = -1
    place = 0
    ready = 0
    columns = len(texts)
    while place < size:
        row += 1
        begins[row] = place
        for field in range(_FIELDS):
            fields[0, field] = -1
            fields[1, field] = 0
        if data[place] != 123:
            place = next_line(data, words, place) + 1
            continue
        place += 1
        depth = 1
        arrays = 0  # a bit for each depth that is inside an array
        in_properties = in_identity = in_requester = 0  # the depth of the object, while in it
        good = True
        wants_item = True
        is_first = True
        while depth:
            while data[place] == 32:
                place += 1
            in_array = (arrays >> depth) & 1
            if data[place] == (93 if in_array else 125) and (is_first or not wants_item):
                if depth == in_properties:
                    in_properties = 0
                if depth == in_identity:
                    in_identity = 0
                if depth == in_requester:
                    in_requester = 0
                depth -= 1
                place += 1
                is_first = False
                wants_item = False
                continue
            if not wants_item:
                if data[place] != 44:
                    good = False
                    break
                place += 1
                wants_item = True
                is_first = False
                continue
            field = -1
            if not in_array:
                # "name" : value
                if data[place] != _QUOTE:
                    good = False
                    break
                start = place + 1
                end = _string_end(data, words, start)
                if data[end] != _QUOTE:
                    good = False
                    break
                place = end + 1
                while data[place] == 32:
                    place += 1
                if data[place] != 58:
                    good = False
                    break
                place += 1
                while data[place] == 32:
                    place += 1
                if depth == 1:
                    field = _field_of(data, names, name_ends, _TIME, _OBJECT, start, end)
                    if field < 0:
                        field = _field_of(data, names, name_ends, _PROPERTIES, _REQUESTER, start, end)
                elif depth == in_properties:
                    field = _field_of(data, names, name_ends, _OBJECT, _OBJECT_ID, start, end)
                elif depth == in_identity:
                    field = _field_of(data, names, name_ends, _REQUESTER, _FIELDS, start, end)
                elif depth == in_requester:
                    field = _field_of(data, names, name_ends, _OBJECT_ID, _PROPERTIES, start, end)
                if field >= 0 and fields[0, field] >= 0:  # the first of two counts
                    good = False
                    break
            wants_item = False
            is_first = False
            byte = data[place]
            if byte == 123 or byte == 91:
                if depth >= _MOST_DEPTH or (field >= 0 and (byte == 91 or field < _PROPERTIES)):
                    good = False
                    break
                depth += 1
                if byte == 91:
                    arrays |= 1 << depth
                else:
                    arrays &= ~(1 << depth)
                if field >= 0:
                    fields[0, field] = place
                    if field == _PROPERTIES:
                        in_properties = depth
                    elif field == _IDENTITY:
                        in_identity = depth
                    else:
                        in_requester = depth
                wants_item = True
                is_first = True
                place += 1
                continue
            start = place
            if byte == _QUOTE:
                start = place + 1
                place = _string_end(data, words, start)
                while data[place] == _BACKSLASH:
                    if field >= 0:
                        break
                    place = _after_escape(data, place)
                    if place < 0:
                        break
                    place = _string_end(data, words, place)
                if place < 0 or data[place] != _QUOTE:
                    good = False
                    break
                end = place
                place += 1
            elif byte == 116 and data[place + 1] == 114 and data[place + 2] == 117 and data[place + 3] == 101:
                place += 4
                end = -1
            elif byte == 110 and data[place + 1] == 117 and data[place + 2] == 108 and data[place + 3] == 108:
                # of the identity, where that is as good as none
                end = start if field >= _OBJECT_ID and field != _PROPERTIES else -1
                place += 4
            elif (
                byte == 102
                and data[place + 1] == 97
                and data[place + 2] == 108
                and data[place + 3] == 115
                and data[place + 4] == 101
            ):
                place += 5
                end = -1
            else:
                place = _after_number(data, place)
                if place < 0 or (field >= 0 and field != _STATUS and field != _SENT):
                    good = False
                    break
                end = place
            if field >= 0:
                if end < 0 or (field >= _PROPERTIES and end > start):
                    good = False
                    break
                fields[0, field] = start
                fields[1, field] = end - start
        if good and data[place] == 13:
            place += 1
        if not good or data[place] != _LINE_END:
            place = next_line(data, words, begins[row]) + 1
            continue
        place += 1
        for field in range(_OBJECT_ID):
            if fields[0, field] < 0 and field != _SENT and field != _STATUS_TEXT:
                good = False
        if not good:
            continue
        length = fields[1, _STATUS_TEXT]
        if length >= 12 and words[fields[0, _STATUS_TEXT] + length - 8] == _NETWORK_ERROR:
            continue
        # 2026-11-06T02:17:45.1234567Z
        time = fields[0, _TIME]
        length = fields[1, _TIME]
        fraction = 0
        if length < 20 or length > 28 or length == 21 or data[time + length - 1] != 90:
            continue
        if length > 20:
            kept = min(length - 21, 6)
            fraction = digits(data, time + 20, length - 21)
            if fraction < 0 or data[time + 19] != 46:
                continue
            fraction = digits(data, time + 20, kept)
            for _ in range(6 - kept):
                fraction *= 10
        day = days_since_1970(digits(data, time, 4), digits(data, time + 5, 2), digits(data, time + 8, 2))
        hour = digits(data, time + 11, 2)
        minute = digits(data, time + 14, 2)
        second = digits(data, time + 17, 2)
        if (
            day < 0
            or hour < 0
            or hour > 23
            or minute < 0
            or minute > 59
            or second < 0
            or second > 59
            or data[time + 4] != 45
            or data[time + 7] != 45
            or data[time + 10] != 84
            or data[time + 13] != 58
            or data[time + 16] != 58
        ):
            continue
        code = digits(data, fields[0, _STATUS], 3) if fields[1, _STATUS] == 3 else -1
        sent = 0
        if fields[0, _SENT] >= 0:
            sent = digits(data, fields[0, _SENT], fields[1, _SENT]) if 0 < fields[1, _SENT] < 17 else -1
        # /account/container/blob
        place_of_key = fields[0, _OBJECT]
        end_of_key = place_of_key + fields[1, _OBJECT]
        if code < 100 or sent < 0 or fields[1, _OBJECT] < 1 or data[place_of_key] != 47:
            continue
        bucket = place_of_key + 1
        while bucket < end_of_key and data[bucket] != 47:
            bucket += 1
        bucket += 1
        key = bucket
        while key < end_of_key and data[key] != 47:
            key += 1
        bucket_end = key
        key += 1
        if bucket >= bucket_end or key >= end_of_key:
            # of a container, or of the account: it has no name of a blob
            bucket = bucket_end = key = end_of_key = place_of_key
        regular[row] = True
        at_micros[row] = day * _DAY_MICROS + (hour * 3600 + minute * 60 + second) * 1_000_000 + fraction
        status[row] = code
        bytes_sent[row] = sent
        request_ids[0, row] = fields[0, _ID]
        request_ids[1, row] = fields[1, _ID]
        waiting[0, columns, ready] = row
        for column in range(columns):
            if column == BUCKET:
                start, end = bucket, bucket_end
            elif column == KEY:
                start, end = key, end_of_key
            else:
                field = _OPERATION if column == OPERATION else _AGENT + column - AGENT
                start, end = max(fields[0, field], 0), max(fields[0, field], 0) + fields[1, field]
            waiting[0, column, ready] = start
            waiting[1, column, ready] = end - start
        ready += 1
        if ready == LINES_AT_ONCE:
            number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
            ready = 0
    number_texts(words, seed, waiting, ready, tables, starts, lengths, distinct, texts)
    begins[row + 1] = size
