"""What a scanner finds in the lines of a text: the same columns for all formats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloudflux.access_logs.scanning.texts import SCRATCH, Places, Words, strings_of, table_size


@dataclass(frozen=True, slots=True)
class ScannedLines:
    """The fields of a text's lines; what is not ``regular`` has no meaning in the other columns. Shape (lines,)."""

    regular: npt.NDArray[np.bool_]
    """Whether the scanner is sure of a line."""
    begins: Places
    """Where each line begins, and where the last one ends; shape (lines + 1,)."""
    texts: Places
    """Numbers of distinct texts; shape (columns, lines)."""
    starts: Places
    """Where each distinct text first begins; shape (columns, lines), the rest unused."""
    lengths: Places
    """How long it is; the same shape."""
    distinct: npt.NDArray[np.int64]
    """How many there are; shape (columns,)."""
    at_micros: npt.NDArray[np.int64]
    """Since 1970, UTC; cut to whole microseconds."""
    status: npt.NDArray[np.int16]
    bytes_sent: npt.NDArray[np.int64]
    request_ids: Places
    """Start and length of each line's; shape (2, lines)."""
    uris: Places
    """The same of the request URI, without its quotes; shape (2, 0) where it is not asked for."""

    @classmethod
    def zeros(cls, lines: int, columns: int, *, with_uris: bool) -> ScannedLines:
        """Give room for so many lines and columns of texts, valid until this thread asks for the next one."""
        zeros = SCRATCH.zeros
        return cls(
            regular=zeros("regular", (lines,), np.bool_),
            begins=zeros("begins", (lines + 1,), np.int32),
            texts=zeros("texts", (columns, lines), np.int32),
            starts=zeros("starts", (columns, lines), np.int32),
            lengths=zeros("lengths", (columns, lines), np.int32),
            distinct=zeros("distinct", (columns,), np.int64),
            at_micros=zeros("at_micros", (lines,), np.int64),
            status=zeros("status", (lines,), np.int16),
            bytes_sent=zeros("bytes_sent", (lines,), np.int64),
            request_ids=zeros("request_ids", (2, lines), np.int32),
            uris=zeros("uris", (2, lines if with_uris else 0), np.int32),
        )

    def tables(self) -> Places:
        """Give empty hash tables for the texts, one a column."""
        columns, lines = self.texts.shape
        return SCRATCH.zeros("tables", (columns, table_size(lines)), np.int32)

    def places(self, column: int) -> tuple[Places, Places]:
        """Give starts and lengths of the distinct texts of one column."""
        distinct = self.distinct[column]
        return self.starts[column, :distinct], self.lengths[column, :distinct]

    def strings(self, words: Words, column: int) -> pa.StringArray:
        """Give the distinct texts of one column, in the order of their numbers."""
        return strings_of(words, *self.places(column))
