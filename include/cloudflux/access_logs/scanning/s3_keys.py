"""Object keys as S3's log encodes them, decoded: once or twice, as the request URI tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloudflux.access_logs.scanning.compiled import compiled, inlined
from cloudflux.access_logs.scanning.texts import PADDING, Bytes, Places, Words, as_words, is_same_in

PLAIN, ONCE, TWICE, UNSURE = range(4)
"""What becomes of a key: it is not encoded; it is decoded once; twice, if the request URI has it decoded once; or only
the slower rules can tell."""
_PERCENT: Final = 37
_PLUS: Final = 43
_BLANK: Final = 32


@dataclass(frozen=True, slots=True)
class DecodedKeys:
    """Distinct keys decoded; shape (keys,)."""

    how: npt.NDArray[np.uint8]
    keys: pa.StringArray
    """As they are stored; no meaning where it is unsure."""
    once: Bytes
    """Those of ``TWICE`` decoded once, behind one another, and ``PADDING`` bytes."""
    once_ends: Places
    """Where each ends in ``once``; shape (keys + 1,), the first is 0."""


def decode(data: Bytes, starts: Places, lengths: Places) -> DecodedKeys:
    """Decode distinct keys, given by their places in a text."""
    room = int(lengths.sum()) + PADDING
    how = np.empty(len(starts), dtype=np.uint8)
    texts = np.empty(room, dtype=np.uint8)
    ends = np.zeros(len(starts) + 1, dtype=np.int32)
    once = np.empty(room, dtype=np.uint8)
    once_ends = np.zeros(len(starts) + 1, dtype=np.int32)
    _decoded(data, starts, lengths, how, texts, ends, once, once_ends)
    keys = pa.StringArray.from_buffers(len(starts), pa.py_buffer(ends), pa.py_buffer(texts))
    return DecodedKeys(how, keys, once, once_ends)


@inlined
def _hex(byte: Any) -> Any:
    if 48 <= byte <= 57:
        return byte - 48
    if 65 <= byte <= 70:
        return byte - 55
    if 97 <= byte <= 102:
        return byte - 87
    return -1


@inlined
def _decoded_once(source: Bytes, start: int, length: int, target: Bytes, place: int) -> int:
    """Decode ``%XX`` and ``+``; give where the text ends in ``target``, or -1 when an escape is none."""
    at = start
    end = start + length
    while at < end:
        byte: Any = np.int64(source[at])
        if byte == _PERCENT:
            if at + 2 >= end:
                return -1
            high = _hex(np.int64(source[at + 1]))
            low = _hex(np.int64(source[at + 2]))
            if high < 0 or low < 0:
                return -1
            byte = 16 * high + low
            at += 2
        elif byte == _PLUS:
            byte = _BLANK
        target[place] = byte
        place += 1
        at += 1
    return place


@inlined
def _is_encoded(data: Bytes, start: int, end: int) -> bool:
    for place in range(start, end):
        if data[place] == _PERCENT or data[place] == _PLUS:
            return True
    return False


@inlined
def _is_text(data: Bytes, start: int, end: int) -> bool:
    """Tell whether bytes are UTF-8 (RFC 3629) without NUL."""
    place = start
    while place < end:
        byte = np.int64(data[place])
        place += 1
        if byte == 0:
            return False
        if byte < 0x80:
            continue
        if 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more = 2
        elif 0xF0 <= byte <= 0xF4:
            more = 3
        else:
            return False
        if place + more > end:
            return False
        second = np.int64(data[place])
        least, most = 0x80, 0xBF
        if byte == 0xE0:
            least = 0xA0
        elif byte == 0xED:
            most = 0x9F
        elif byte == 0xF0:
            least = 0x90
        elif byte == 0xF4:
            most = 0x8F
        if second < least or second > most:
            return False
        for following in range(place + 1, place + more):
            if data[following] & 0xC0 != 0x80:
                return False
        place += more
    return True


@compiled
def _decoded(
    data: Bytes,
    starts: Places,
    lengths: Places,
    how: Bytes,
    texts: Bytes,
    ends: Places,
    once: Bytes,
    once_ends: Places,
) -> None:
    for number in range(len(starts)):
        start = starts[number]
        length = lengths[number]
        place = ends[number]
        held = once_ends[number]
        end = place + length
        once_end = held
        if not _is_encoded(data, start, start + length):
            how[number] = PLAIN
            for step in range(length):
                texts[place + step] = data[start + step]
        else:
            end = _decoded_once(data, start, length, texts, place)
            if end < 0 or not _is_text(texts, place, end):
                how[number] = UNSURE
                end = place
            elif not _is_encoded(texts, place, end):
                how[number] = ONCE
            else:
                how[number] = TWICE
                once_end = held + end - place
                for step in range(end - place):
                    once[held + step] = texts[place + step]
                end = _decoded_once(once, held, once_end - held, texts, place)
                if end < 0 or not _is_text(texts, place, end):
                    how[number] = UNSURE
                    end = place
                    once_end = held
        ends[number + 1] = end
        once_ends[number + 1] = once_end


@compiled
def _contain(
    words: Words, uris: Places, keys: Places, rows: Places, once: Words, once_ends: Places, found: npt.NDArray[np.bool_]
) -> None:
    before = 0  # how far into the request the last key was: most often the next one is where it was
    for number in range(len(rows)):
        row = rows[number]
        start = uris[0, row]
        last = start + uris[1, row]
        key = keys[row]
        begin = once_ends[key]
        length = once_ends[key + 1] - begin
        if start + before + length <= last and is_same_in(words, start + before, once, begin, length):
            found[number] = True
            continue
        found[number] = False
        while start + length <= last:
            if is_same_in(words, start, once, begin, length):
                found[number] = True
                before = start - uris[0, row]
                break
            start += 1


def are_in_uris(words: Words, uris: Places, keys: Places, rows: Places, decoded: DecodedKeys) -> npt.NDArray[np.bool_]:
    """Tell for some rows whether the request URI contains the key, decoded once; shape (rows,)."""
    found = np.zeros(len(rows), dtype=np.bool_)
    _contain(words, uris, keys, rows, as_words(decoded.once), decoded.once_ends, found)
    return found
