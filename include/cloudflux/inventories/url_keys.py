"""Keys that are URL-encoded, decoded in columns."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

_PERCENT: Final = ord("%")
_HEX: Final = np.full(256, -1, dtype=np.int16)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)


def decoded_keys(keys: pl.Series) -> pl.Series:
    """Decode URL-encoded text; null where it is none, or no UTF-8 comes out.

    A plus sign is a blank, as in all that S3 encodes: a plus itself comes as ``%2B``.
    """
    plain = keys.str.replace_all("+", " ", literal=True)
    if not plain.str.contains("%", literal=True).any():
        return plain
    array = plain.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_binary())
    data, offsets, bad = _decode(array)
    decoded = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(array), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    try:
        text = pl.Series(pl.from_arrow(decoded.cast(pa.large_string())))
    except pa.ArrowInvalid:
        text = pl.Series([_utf8(value) for value in decoded.to_pylist()], dtype=pl.String)
    unreadable = pl.Series(bad) | plain.is_null()
    return text.set(unreadable, None).alias(keys.name)


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _decode(array: pa.LargeBinaryArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give all values' decoded bytes, their offsets, and which values have a percent sign that encodes nothing."""
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    first = offsets[0]
    source = np.frombuffer(data_buffer, dtype=np.uint8)[first : offsets[-1]] if data_buffer else np.zeros(0, np.uint8)
    offsets = offsets - first
    percents = np.flatnonzero(source == _PERCENT)
    padded = np.append(source, [0, 0])
    high, low = _HEX[padded[percents + 1]], _HEX[padded[percents + 2]]
    rows = np.searchsorted(offsets, percents, side="right") - 1
    good = (percents + 2 < offsets[rows + 1]) & (high >= 0) & (low >= 0)
    bad = np.zeros(len(array), dtype=bool)
    bad[rows[~good]] = True
    data = source.copy()
    encoded = percents[good]
    data[encoded] = (high[good] * 16 + low[good]).astype(np.uint8)
    kept = np.ones(len(source), dtype=bool)
    kept[encoded + 1] = False
    kept[encoded + 2] = False
    before = np.concatenate([[0], np.cumsum(kept)])
    return data[kept], before[offsets].astype(np.int64), bad
