"""A seeded history of accesses with the traits of real ones, and a lake in memory that serves it to the forecaster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.lake.schemas import DAILY_ACCESS, INVENTORY, SCHEMAS

FIRST_DAY = date(2025, 1, 1)


def daily_access(rows: Sequence[tuple[str, date, int]] | Sequence[tuple[str, date, int, int]]) -> pa.Table:
    """Make ``DAILY_ACCESS`` rows from (key, day, reads[, writes]) of one bucket."""
    return pa.Table.from_pylist(
        [
            {
                "provider": "aws",
                "bucket": "data",
                "key": row[0],
                "day": row[1],
                "reads": row[2],
                "writes": row[3] if len(row) > 3 else 0,
                "bytes_read": row[2] * 1000,
                "excluded_reads": 0,
                "excluded_writes": 0,
            }
            for row in rows
        ],
        schema=DAILY_ACCESS,
    )


def inventory(keys: Sequence[str], *, snapshot: date, modified: date = FIRST_DAY, **overrides: Any) -> pa.Table:
    """Make ``INVENTORY`` rows of one bucket; ``overrides`` give other columns, one value for all rows."""
    at = datetime(modified.year, modified.month, modified.day, tzinfo=UTC)
    row = {
        "provider": "aws",
        "bucket": "data",
        "version_id": None,
        "size_bytes": 1_000_000,
        "storage_class": "STANDARD",
        "tier": "hot",
        "etag": "e",
        "last_modified_at": at,
        "class_since_at": at,
        "content_type": None,
        "lock_reason": None,
        "day": snapshot,
    } | overrides
    return pa.Table.from_pylist([row | {"key": key} for key in keys], schema=INVENTORY)


def rhythmic_history(*, objects: int = 500, days: int = 150, seed: int = 7) -> tuple[pa.Table, pa.Table]:
    """Make a history with Zipf popularity, ageing and a weekly rhythm, and its inventory on the day after its last.

    A third of the objects live all the time, the others are born on some day and are read less and less.
    """
    rng = np.random.default_rng(seed)
    born = np.where(np.arange(objects) % 3 == 0, -200, rng.integers(-30, days - 5, objects))
    popularity = 25.0 / (1 + rng.permutation(objects)) ** 0.6
    halving = np.where(np.arange(objects) % 3 == 0, 5000.0, rng.choice([6.0, 15.0, 40.0], objects))
    day = np.arange(days)
    age = day[None, :] - born[:, None]
    weekday = (day + FIRST_DAY.weekday()) % 7
    rhythm = np.where((weekday[None, :] >= 5) == (np.arange(objects)[:, None] % 2 == 0), 0.2, 1.3)
    rate = np.where(age >= 0, popularity[:, None] * np.exp2(-np.maximum(age, 0) / halving[:, None]) * rhythm, 0.0)
    reads = rng.poisson(rate)
    writes = (age == 0).astype(np.int64)
    owner, at = np.nonzero((reads > 0) | (writes > 0))
    keys = np.array([f"set-{index % 5}/object-{index:04d}" for index in range(objects)], dtype=object)
    access = pa.table(
        {
            "provider": ["aws"] * len(owner),
            "bucket": ["data"] * len(owner),
            "key": keys[owner],
            "day": np.datetime64(FIRST_DAY, "D") + at,
            "reads": reads[owner, at],
            "writes": writes[owner, at],
            "bytes_read": reads[owner, at] * 1000,
            "excluded_reads": np.zeros(len(owner), dtype=np.int64),
            "excluded_writes": np.zeros(len(owner), dtype=np.int64),
        },
        schema=DAILY_ACCESS,
    )
    listed = inventory(list(keys), snapshot=FIRST_DAY + timedelta(days=days))
    modified = pa.array((np.datetime64(FIRST_DAY, "D") + born).astype("datetime64[us]"), pa.timestamp("us", tz="UTC"))
    place = listed.schema.get_field_index("last_modified_at")
    return access.sort_by([("day", "ascending"), ("key", "ascending")]), listed.set_column(
        place, INVENTORY.field("last_modified_at"), modified
    )


class MemoryLake:
    """Published daily access and inventory, in one shard or spread over several by row."""

    def __init__(self, access: pa.Table, listed: pa.Table | None = None, *, shards: int = 1) -> None:
        self.shards = shards
        self._tables = {"daily_access": access, "inventory": listed if listed is not None else INVENTORY.empty_table()}

    def days(self, dataset: str) -> list[date]:
        return sorted(set(self._tables[dataset]["day"].to_pylist()))

    def read(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        table = self._tables[dataset]
        if isinstance(days, tuple):
            table = table.filter(pc.and_(pc.greater_equal(table["day"], days[0]), pc.less_equal(table["day"], days[1])))
        elif days is not None:
            table = table.filter(pc.is_in(table["day"], pa.array(days, SCHEMAS[dataset].field("day").type)))
        if shard is not None and self.shards > 1:
            mine = [sum(key.encode()) % self.shards == shard for key in table["key"].to_pylist()]
            table = table.filter(pa.array(mine, pa.bool_()))
        return table.select(columns) if columns else table
