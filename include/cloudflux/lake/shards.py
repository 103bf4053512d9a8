"""Which shard an object belongs to: stable for ever, the same in Python, in Arrow and in SQL."""

from __future__ import annotations

import hashlib
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

SHARD_SQL: Final = "md5_number_lower(provider || chr(0) || bucket || chr(0) || key) % {shards}"
"""DuckDB expression over the columns provider, bucket and key; format it with ``shards``."""


def shard_of(provider: str, bucket: str, key: str, shards: int) -> int:
    """Give one object's shard, 0 to ``shards - 1``.

    DuckDB's ``md5_number_lower`` is the digest's last eight bytes, read little-endian.
    """
    digest = hashlib.md5(f"{provider}\0{bucket}\0{key}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") % shards


def shards_of(table: pa.Table, shards: int) -> npt.NDArray[np.int64]:
    """Give the shard of every row of a table with the columns provider, bucket and key; shape (rows,)."""
    if shards == 1:
        return np.zeros(table.num_rows, dtype=np.int64)
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("objects", table.select(["provider", "bucket", "key"]))
        found = connection.execute(
            f"SELECT CAST({SHARD_SQL.format(shards=int(shards))} AS BIGINT) AS shard FROM objects"  # noqa: S608  # an int
        ).fetchnumpy()
    return np.asarray(found["shard"], dtype=np.int64)
