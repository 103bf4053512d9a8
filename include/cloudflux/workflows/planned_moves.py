"""The moves of a plan as columns, as they are chosen and stored: there may be millions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from cloudflux.domain.plans import PlannedMove

_AT: Final = pa.timestamp("us", tz="UTC")

PLANNED_MOVES: Final = pa.schema(
    [
        pa.field("move_no", pa.int64(), nullable=False),
        pa.field("provider", pa.string(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("version_id", pa.string()),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("last_modified_at", _AT, nullable=False),
        pa.field("class_since_at", _AT, nullable=False),
        pa.field("from_class", pa.string(), nullable=False),
        pa.field("to_class", pa.string(), nullable=False),
        pa.field("saving_usd", pa.decimal128(20, 10), nullable=False),
        pa.field("one_time_usd", pa.decimal128(20, 10), nullable=False),
        pa.field("monthly_saving_usd", pa.decimal128(20, 10), nullable=False),
        pa.field("payback_days", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("undoes_move_no", pa.int64()),
    ]
)
"""One row for each move, by ``move_no`` from 0 on."""


def moves_table(moves: Iterable[PlannedMove]) -> pa.Table:
    """Give moves as columns: for plans that are made one move at a time, as an undo is."""
    rows = [
        {
            "move_no": move.move_no,
            "provider": move.ref.provider.value,
            "bucket": move.ref.bucket,
            "key": move.ref.key,
            "version_id": move.ref.version_id,
            "etag": move.etag,
            "size_bytes": move.size_bytes,
            "last_modified_at": move.last_modified_at,
            "class_since_at": move.class_since_at,
            "from_class": move.from_class,
            "to_class": move.to_class,
            "saving_usd": move.saving_usd,
            "one_time_usd": move.one_time_usd,
            "monthly_saving_usd": move.monthly_saving_usd,
            "payback_days": move.payback_days,
            "reason": move.reason,
            "role": move.role.value,
            "undoes_move_no": move.undoes_move_no,
        }
        for move in moves
    ]
    return pa.Table.from_pylist(rows, schema=PLANNED_MOVES)
