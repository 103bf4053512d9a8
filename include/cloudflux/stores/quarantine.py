"""The log lines that could not be read, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, delete, func, select

from cloudflux.stores.bulk import copy_rows, storable, temporary_copy_of
from cloudflux.stores.tables import QuarantineRow

_TABLE = "cloudflux.quarantine"
_COLUMNS = ("source_file", "line", "provider", "bucket", "key", "reason", "raw", "day")


class QuarantineLog:
    """What was kept out of the published data."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, rows: pa.Table | Sequence[Mapping[str, Any]]) -> int:
        """Add rows in the lake's QUARANTINE columns; a line of a file that is there already is not added again.

        Returns how many were new. NUL bytes and lone surrogates, which binary junk has, are stored escaped.
        """
        if isinstance(rows, pa.Table):
            rows = rows.select(_COLUMNS).to_pylist()
        if not rows:
            return 0
        listed = ", ".join(_COLUMNS)
        with (
            self._engine.begin() as connection,
            temporary_copy_of(connection, _TABLE, _COLUMNS, name="quarantine_in"),
        ):
            copy_rows(
                connection,
                "quarantine_in",
                _COLUMNS,
                ([_cell(row[name]) for name in _COLUMNS] for row in rows),
            )
            return connection.exec_driver_sql(
                f"INSERT INTO {_TABLE} ({listed}) SELECT {listed} FROM quarantine_in "  # noqa: S608  # our own names
                "ORDER BY source_file, line ON CONFLICT DO NOTHING"
            ).rowcount

    def forget(self, file_ids: Collection[str]) -> int:
        """Delete the rows of source files that are about to be read anew; gives how many."""
        if not file_ids:
            return 0
        with self._engine.begin() as connection:
            return connection.execute(delete(QuarantineRow).where(QuarantineRow.source_file.in_(file_ids))).rowcount

    def count(self) -> int:
        """Count all rows."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(QuarantineRow)).scalar_one()

    def by_reason(self) -> list[tuple[str, int]]:
        """Count the rows of each reason, most first."""
        rows = func.count().label("rows")
        wanted = (
            select(QuarantineRow.reason, rows)
            .group_by(QuarantineRow.reason)
            .order_by(rows.desc(), QuarantineRow.reason)
        )
        with self._engine.connect() as connection:
            return [(row.reason, row.rows) for row in connection.execute(wanted)]


def _cell(value: object) -> object:
    return storable(value) if isinstance(value, str) else value
