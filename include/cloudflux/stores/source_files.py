"""Which log files have been published: a file is collected once, and again only when its content changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from sqlalchemy import ARRAY, Engine, Text, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert

from cloudflux.stores.tables import SourceFileRow

_AT_ONCE = 1000
_REQUIRED = ("provider", "bucket", "key", "etag", "file_id")
_OPTIONAL = ("size_bytes", "last_modified_at", "lines", "events", "quarantined", "part", "days")
_KEY = ("provider", "bucket", "key", "etag")


class SourceFiles:
    """The log files whose events are published."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def published(self, provider: str, bucket: str, keys: Collection[str]) -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of the published ones among some files of a log bucket."""
        wanted = select(SourceFileRow.key, SourceFileRow.etag).where(
            SourceFileRow.provider == provider,
            SourceFileRow.bucket == bucket,
            SourceFileRow.published_at.is_not(None),
            SourceFileRow.key == func.any(literal(list(keys), ARRAY(Text))),
        )
        with self._engine.connect() as connection:
            return {(row.key, row.etag) for row in connection.execute(wanted)}

    def intend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record, before anything is swapped in, that files are about to be published, and where their rows will be.

        The row of a file that is published already stays as it is.
        """
        statement = insert(SourceFileRow)
        changed = {name: statement.excluded[name] for name in ("part", "days")}
        self._write(
            statement.on_conflict_do_update(
                index_elements=_KEY, set_=changed, where=SourceFileRow.published_at.is_(None)
            ),
            rows,
            None,
        )

    def earlier(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[date]]:
        """Give the days that other takes of these files may have rows on, by ``file_id``.

        Another take is one of other content (an hour's file that grew), or one that was cut off while it was published.
        """
        wanted = {(row["provider"], row["bucket"], row["key"]): row["etag"] for row in rows}
        found: dict[str, set[date]] = {}
        columns = tuple_(SourceFileRow.provider, SourceFileRow.bucket, SourceFileRow.key)
        names = list(wanted)
        with self._engine.connect() as connection:
            for first in range(0, len(names), _AT_ONCE):
                chosen = select(SourceFileRow).where(columns.in_(names[first : first + _AT_ONCE]))
                for row in connection.execute(chosen):
                    if row.published_at is None or row.etag != wanted[row.provider, row.bucket, row.key]:
                        found.setdefault(row.file_id, set()).update(row.days or ())
        return {file_id: sorted(days) for file_id, days in found.items()}

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published; the same file (provider, bucket, key, etag) again replaces its row.

        Each row has ``provider, bucket, key, etag, file_id`` and may have ``size_bytes, last_modified_at, lines,
        events, quarantined, part, days``; other keys are ignored.
        """
        statement = insert(SourceFileRow)
        changed = {name: statement.excluded[name] for name in ("file_id", *_OPTIONAL, "published_at")}
        self._write(statement.on_conflict_do_update(index_elements=_KEY, set_=changed), rows, at)

    def _write(self, statement: Insert, rows: Iterable[Mapping[str, Any]], at: datetime | None) -> None:
        values = [
            {name: row[name] for name in _REQUIRED} | {name: row.get(name) for name in _OPTIONAL} | {"published_at": at}
            for row in rows
        ]
        if values:
            with self._engine.begin() as connection:
                connection.execute(statement, values)

    def count(self) -> int:
        """Count all published files."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(SourceFileRow)).scalar_one()
