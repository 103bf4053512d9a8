"""From what a compiled scanner found in a block's lines to records, the same way for all formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloudflux.access_logs.blocks import Block, Text
from cloudflux.access_logs.parsed import KIND_CODES, KIND_NAMES, NO_KIND, bounds_of, numbered
from cloudflux.access_logs.scanning.lines import ScannedLines
from cloudflux.access_logs.scanning.texts import Words, strings_of
from cloudflux.domain.objects import MAX_OBJECT_BYTES


def kinds_of(operations: Sequence[str], kinds: Mapping[str, str]) -> npt.NDArray[np.int8]:
    """Give the kind of access of each distinct operation, ``NO_KIND`` where it is none; shape (operations,)."""
    return np.array([KIND_CODES[kinds[name]] if name in kinds else NO_KIND for name in operations], dtype=np.int8)


def succeeded(lines: ScannedLines) -> npt.NDArray[np.bool_]:
    """Tell which requests were answered with what was asked for, or with that it has not changed; shape (lines,)."""
    found: npt.NDArray[np.bool_] = ((lines.status >= 200) & (lines.status <= 299)) | (lines.status == 304)
    return found


def plausible(block: Block, lines: ScannedLines) -> npt.NDArray[np.bool_]:
    """Tell which lines are regular, with a time and a size that can be; shape (lines,)."""
    first, latest = bounds_of(block)
    sure = lines.regular & (lines.at_micros >= first) & (lines.at_micros <= latest)
    found: npt.NDArray[np.bool_] = sure & (lines.bytes_sent <= MAX_OBJECT_BYTES)
    return found


def records_of(
    text: Text,
    words: Words,
    lines: ScannedLines,
    rows: npt.NDArray[np.int64],
    texts: Mapping[str, tuple[int, pa.StringArray]],
    **columns: npt.NDArray[Any],
) -> pa.Table:
    """Give the records of some rows of a block's text, in their order.

    ``texts`` tells for ``bucket``, ``key`` and ``operation`` the column of numbers and the distinct texts. ``columns``
    are of all lines, shape (lines,): ``kind`` as codes, ``excluded``, and what else the format's rules give.
    """
    file, line = text.places()
    kind = columns.pop("kind")
    return pa.table(
        {
            "file": file[rows],
            "line": line[rows],
            "at": pa.array(lines.at_micros[rows]).view(pa.timestamp("us")),
            "kind": numbered(kind[rows], KIND_NAMES),
            "bytes_sent": lines.bytes_sent[rows],
            "request_id": strings_of(words, *lines.request_ids[:, rows]),
            **{name: numbered(lines.texts[column, rows], distinct) for name, (column, distinct) in texts.items()},
            **{name: values[rows] for name, values in columns.items()},
        }
    )
