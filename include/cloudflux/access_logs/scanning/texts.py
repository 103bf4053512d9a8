"""What all scanners do with pieces of text: find their ends, number distinct ones, copy them into Arrow's buffers.

A block's text is bytes with ``PADDING`` zeros behind them, seen twice: byte by byte, and as the eight bytes that begin
at each place (``words``), so that a step goes over eight bytes. Places and lengths are int32: blocks are far smaller.
"""

from __future__ import annotations

import math
import secrets
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloudflux.access_logs.scanning.compiled import compiled, inlined

PADDING: Final = 16
"""Bytes behind a text that may be read with it."""
LINES_AT_ONCE: Final = 32
"""Lines whose texts are numbered together: few enough to be in the nearest cache still."""
SEED: Final = np.uint64(secrets.randbits(64))
"""Of the hashes: no stranger can write texts that all share one. Numbers of texts do not depend on it."""

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int32]

_STRIDE: Final = 128
"""Bytes that are looked at in one go; fewer than a byte can count."""
_ONES: Final = np.uint64(0x0101010101010101)
_TOPS: Final = np.uint64(0x8080808080808080)
_UP_TO_QUOTE: Final = np.uint64(0x2323232323232323)  # one more than '"'
_LINE_ENDS: Final = np.uint64(0x0A0A0A0A0A0A0A0A)
_QUOTES: Final = np.uint64(0x2222222222222222)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)
_NONE: Final = np.uint64(0)
_WORD_BITS: Final = np.uint64(64)
_TURN: Final = np.uint64(23)


def as_words(data: Bytes) -> Words:
    """See padded bytes as the eight bytes that begin at each of them; shape (bytes - 7,)."""
    words: Words = np.ndarray(shape=(len(data) - 7,), dtype=np.uint64, buffer=data, strides=(1,))
    return words


@inlined
def next_special(data: Bytes, words: Words, place: int) -> int:
    """Give the next place with a byte up to ``"``: a blank, a quote, a line end or another control character."""
    while True:
        word = words[place]
        if (word - _UP_TO_QUOTE) & ~word & _TOPS == _NONE:
            place += 8
            continue
        while data[place] > 34:
            place += 1
        return place


@inlined
def next_quote(data: Bytes, words: Words, place: int) -> int:
    """Give the next place with a quote or a line end."""
    while True:
        word = words[place]
        ends = word ^ _LINE_ENDS
        quotes = word ^ _QUOTES
        if (((ends - _ONES) & ~ends) | ((quotes - _ONES) & ~quotes)) & _TOPS == _NONE:
            place += 8
            continue
        while data[place] != 34 and data[place] != 10:
            place += 1
        return place


@inlined
def next_line(data: Bytes, words: Words, place: int) -> int:
    """Give the place of the next line end."""
    while True:
        word = words[place] ^ _LINE_ENDS
        if (word - _ONES) & ~word & _TOPS == _NONE:
            place += 8
            continue
        while data[place] != 10:
            place += 1
        return place


@compiled
def _looked_at(data: Bytes, begin: int, end: int) -> Any:
    lines = np.int64(0)
    high, nuls = np.uint8(0), np.uint8(0)
    place = begin
    while place + _STRIDE <= end:
        # counted in a byte, and over a fixed number of them: so the compiler looks at 32 bytes at once
        part = data[place : place + _STRIDE]
        few = np.uint8(0)
        for at in range(_STRIDE):
            byte = part[at]
            few = np.uint8(few + np.uint8(byte == 10))
            nuls = np.uint8(nuls | np.uint8(byte == 0))
            high = np.uint8(high | byte)
        lines += np.int64(few)
        place += _STRIDE
    while place < end:
        byte = data[place]
        lines += np.int64(byte == 10)
        nuls |= np.uint8(byte == 0)
        high |= byte
        place += 1
    return lines, nuls != 0, high < 128


def looked_at(data: Bytes, begin: int, end: int) -> tuple[int, bool, bool]:
    """Tell of the bytes from ``begin`` to ``end`` how many are line ends, whether one is NUL, whether all are ASCII."""
    lines, has_nul, is_ascii = _looked_at(data, begin, end)
    return int(lines), bool(has_nul), bool(is_ascii)


@inlined
def digits(data: Bytes, place: int, count: int) -> Any:
    """Give the number that so many digits make, or -1 when one is none."""
    value: Any = 0
    for at in range(place, place + count):
        digit = np.int64(data[at]) - 48
        if digit < 0 or digit > 9:
            return -1
        value = 10 * value + digit
    return value


@inlined
def days_since_1970(year: int, month: int, day: int) -> int:
    """Give the days of a date of the Gregorian calendar since 1970-01-01, or -1 when there is no such day."""
    if month < 1 or month > 12 or day < 1 or year < 1970:
        return -1
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    longest = 30 + ((month + month // 8) & 1)
    if month == 2:
        longest = 29 if is_leap else 28
    if day > longest:
        return -1
    years = year - 1 if month <= 2 else year
    era = years // 400
    of_era = years - 400 * era
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@inlined
def mark_of(words: Words, start: int, length: int, seed: Any) -> Any:
    """Give a text's hash: eight bytes a step, in two lanes that need not wait for one another."""
    mark = seed ^ np.uint64(length)
    if length < 8:
        if length:
            mark = (mark ^ (words[start] << (_WORD_BITS - np.uint64(8 * length)))) * _MIX
        return mark ^ (mark >> _HALF)
    other = ~mark
    place = start
    last = start + length - 8  # the last eight bytes may overlap with those before
    while place + 8 < last:
        mark = (mark ^ words[place]) * _MIX
        other = (other ^ words[place + 8]) * _MIX
        mark ^= mark >> _HALF
        other ^= other >> _HALF
        place += 16
    if place < last:
        mark = (mark ^ words[place]) * _MIX
        mark ^= mark >> _HALF
    other = (other ^ words[last]) * _MIX
    other ^= other >> _HALF
    mark = (mark ^ ((other << _TURN) | (other >> (_WORD_BITS - _TURN)))) * _MIX
    return mark ^ (mark >> _HALF)


def room_to_wait(columns: int) -> Places:
    """Give room for the texts of ``LINES_AT_ONCE`` lines that are to be numbered, as ``number_texts`` takes them."""
    return np.empty((2, columns + 1, LINES_AT_ONCE), dtype=np.int32)


@compiled
def number_texts(
    words: Words,
    seed: Any,
    waiting: Places,
    count: int,
    tables: Places,
    starts: Places,
    lengths: Places,
    distinct: npt.NDArray[np.int64],
    texts: Places,
) -> None:
    """Number the texts of some lines among the distinct ones of their columns; new ones are noted.

    Column by column: texts of a column are alike, so that the processor foresees what comes, and fetches ahead.

    waiting : starts and lengths of the texts by column and line, and behind the columns the rows of the lines; the
        first ``count`` lines count. See ``room_to_wait``.
    tables : open hash tables of numbers + 1, one a column, of a power of two and more than twice the texts.
    """
    columns = len(tables)
    slots = tables.shape[1] - 1
    marks = np.empty(LINES_AT_ONCE, dtype=np.uint64)
    for column in range(columns):
        for at in range(count):
            marks[at] = mark_of(words, waiting[0, column, at], waiting[1, column, at], seed)
        known = distinct[column]
        for at in range(count):
            start = waiting[0, column, at]
            length = waiting[1, column, at]
            slot = np.int64(marks[at] & np.uint64(slots))
            while True:
                number = tables[column, slot] - 1
                if number < 0:
                    number = known
                    known += 1
                    tables[column, slot] = known
                    starts[column, number] = start
                    lengths[column, number] = length
                    break
                if lengths[column, number] == length and is_same(words, start, starts[column, number], length):
                    break
                slot = (slot + 1) & slots
            texts[column, waiting[0, columns, at]] = number
        distinct[column] = known


@inlined
def is_same(words: Words, one: int, other: int, length: int) -> Any:
    """Tell whether two pieces of the text are the same."""
    return is_same_in(words, one, words, other, length)


@inlined
def is_same_in(words: Words, one: int, other_words: Words, other: int, length: int) -> Any:
    """Tell whether a piece of one text is the same as one of another."""
    while length >= 8:
        if words[one] != other_words[other]:
            return False
        one += 8
        other += 8
        length -= 8
    if length:
        return (words[one] ^ other_words[other]) << (_WORD_BITS - np.uint64(8 * length)) == _NONE
    return True


@compiled
def _copied(words: Words, starts: Places, offsets: Places, target: Words) -> None:
    """Copy pieces behind one another; eight bytes at a time, the rest of which the next piece overwrites."""
    for number in range(len(starts)):
        source = starts[number]
        place = offsets[number]
        end = offsets[number + 1]
        while place < end:
            target[place] = words[source]
            place += 8
            source += 8


def strings_of(words: Words, starts: Places, lengths: Places) -> pa.StringArray:
    """Give pieces of a text as Arrow strings."""
    offsets = np.zeros(len(starts) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = np.empty(int(offsets[-1]) + PADDING, dtype=np.uint8)
    _copied(words, starts, offsets, as_words(data))
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(data))


class Scratch(threading.local):
    """Arrays of one thread that are filled anew for each block: new memory would cost more than filling it."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def zeros(self, name: str, shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Give an array of zeros, valid until its name is asked for again in this thread."""
        size = math.prod(shape)
        held = self._arrays.get(name)
        if held is None or len(held) < size or held.dtype != kind:
            held = self._arrays[name] = np.empty(size + size // 8, dtype=kind)
        found = held[:size]
        found[:] = 0
        return found.reshape(shape)


SCRATCH: Final = Scratch()


def table_size(texts: int) -> int:
    """Give the size of a hash table for so many texts."""
    return 1 << max(4, (2 * texts).bit_length())
