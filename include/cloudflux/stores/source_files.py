"""Which log files have been published: a file is collected once, and again only when its content changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from cloudflux.stores.tables import SourceFileRow

_REQUIRED = ("provider", "bucket", "key", "etag", "file_id")
_OPTIONAL = ("size_bytes", "last_modified_at", "lines", "events", "quarantined")


class SourceFiles:
    """The log files whose events are published."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def published(self, provider: str, bucket: str, prefix: str = "") -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of all published files of a log bucket whose key starts with ``prefix``."""
        wanted = select(SourceFileRow.key, SourceFileRow.etag).where(
            SourceFileRow.provider == provider,
            SourceFileRow.bucket == bucket,
            func.starts_with(SourceFileRow.key, prefix),
        )
        with self._engine.connect() as connection:
            return {(row.key, row.etag) for row in connection.execute(wanted)}

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published; the same file (provider, bucket, key, etag) again replaces its row.

        Each row has ``provider, bucket, key, etag, file_id`` and may have ``size_bytes, last_modified_at, lines,
        events, quarantined``; other keys are ignored.
        """
        values = [
            {name: row[name] for name in _REQUIRED} | {name: row.get(name) for name in _OPTIONAL} | {"published_at": at}
            for row in rows
        ]
        if not values:
            return
        statement = insert(SourceFileRow)
        statement = statement.on_conflict_do_update(
            index_elements=["provider", "bucket", "key", "etag"],
            set_={name: statement.excluded[name] for name in ("file_id", *_OPTIONAL, "published_at")},
        )
        with self._engine.begin() as connection:
            connection.execute(statement, values)

    def count(self) -> int:
        """Count all published files."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(SourceFileRow)).scalar_one()
