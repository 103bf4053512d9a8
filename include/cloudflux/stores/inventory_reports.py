"""Which inventory report, or live listing, each bucket's snapshot of a day was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert

from cloudflux.stores.bulk import storable
from cloudflux.stores.tables import InventoryReportRow

_KEY = ("provider", "bucket", "day")
_TEXTS = ("format", "manifest")
_COUNTS = ("objects", "bytes", "noncurrent_objects", "noncurrent_bytes", "quarantined")


@dataclass(frozen=True, slots=True)
class RecordedInventory:
    """What one bucket's snapshot of a day was made of."""

    provider: str
    bucket: str
    day: date
    """Of the snapshot."""
    format: str
    """The name of the report's reader, or ``live``."""
    manifest: str
    """Bucket and key of the manifest; empty for a live listing."""
    taken_at: datetime
    objects: int
    bytes: int
    noncurrent_objects: int
    noncurrent_bytes: int
    quarantined: int
    published_at: datetime


class InventoryReports:
    """The reports of all snapshots."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record what a snapshot was made of; the same bucket and day again replaces its row.

        Each row has the fields of ``RecordedInventory`` but the last; other keys are ignored.
        """
        values = [
            {name: row[name] for name in (*_KEY, "taken_at", *_COUNTS)}
            | {name: storable(row[name]) for name in _TEXTS}
            | {"published_at": at}
            for row in rows
        ]
        if not values:
            return
        statement = insert(InventoryReportRow)
        statement = statement.on_conflict_do_update(
            index_elements=list(_KEY),
            set_={name: statement.excluded[name] for name in (*_TEXTS, "taken_at", *_COUNTS, "published_at")},
        )
        with self._engine.begin() as connection:
            connection.execute(statement, values)

    def latest(self, provider: str, bucket: str) -> RecordedInventory | None:
        """Give what the newest snapshot of a bucket was made of, or None."""
        wanted = (
            select(InventoryReportRow)
            .where(InventoryReportRow.provider == provider, InventoryReportRow.bucket == bucket)
            .order_by(InventoryReportRow.day.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        if row is None:
            return None
        return RecordedInventory(**{name: getattr(row, name) for name in RecordedInventory.__slots__})
