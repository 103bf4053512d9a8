"""The stores of collecting, in memory."""

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from cloudflux.access_logs.formats import log_format, parse_files


def parser_of(form: str) -> Any:
    return partial(parse_files, log_format(form))


class RecordedFiles:
    """Source files."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str, str, str], dict[str, Any]] = {}

    @property
    def rows(self) -> dict[tuple[str, str, str, str], dict[str, Any]]:
        """Those that are published."""
        return {key: row for key, row in self.all.items() if row["published_at"]}

    def published(self, provider: str, bucket: str, keys: Collection[str]) -> set[tuple[str, str]]:
        return {
            (key, etag) for of, where, key, etag in self.rows if (of, where) == (provider, bucket) and key in set(keys)
        }

    def intend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.all.setdefault(_key(row), {**row, "published_at": None})

    def earlier(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[date]]:
        wanted = {_key(row)[:3]: row["etag"] for row in rows}
        found: dict[str, set[date]] = {}
        for key, row in self.all.items():
            if key[:3] in wanted and (row["published_at"] is None or key[3] != wanted[key[:3]]):
                found.setdefault(row["file_id"], set()).update(row["days"])
        return {file_id: sorted(days) for file_id, days in found.items()}

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        for row in rows:
            self.all[_key(row)] = {**row, "published_at": at}


class KeptLines:
    """Quarantine."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}

    def forget(self, file_ids: Collection[str]) -> int:
        before = len(self.rows)
        self.rows = {key: row for key, row in self.rows.items() if key[0] not in file_ids}
        return before - len(self.rows)

    def add(self, rows: pa.Table) -> int:
        before = len(self.rows)
        for row in rows.to_pylist():
            self.rows.setdefault((row["source_file"], row["line"]), row)
        return len(self.rows) - before


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["provider"], row["bucket"], row["key"], row["etag"]
