"""A folder as a log bucket, and the stores of collecting in memory: what a benchmark measures is not their speed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from cloudflux.domain.errors import ObjectNotFound
from cloudflux.domain.objects import ObjectRef
from cloudflux.providers.protocol import StoredFile


class FolderStore:
    """A log store whose buckets are folders below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key."""
        root = self._folder / bucket
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            key = path.relative_to(root).as_posix()
            if key.startswith(prefix) and key >= start_from:
                found = path.stat()
                modified_at = datetime.fromtimestamp(found.st_mtime, UTC)
                yield StoredFile(bucket, key, f"{found.st_mtime_ns:x}-{found.st_size:x}", found.st_size, modified_at)

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""
        try:
            return (self._folder / ref.bucket / ref.key).read_bytes()
        except FileNotFoundError as exc:
            raise ObjectNotFound(f"{ref.uri} is not there") from exc

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read a file in pieces. Raises ``ObjectNotFound``."""
        try:
            with (self._folder / ref.bucket / ref.key).open("rb", buffering=0) as file:
                while piece := file.read(block_bytes):
                    yield piece
        except FileNotFoundError as exc:
            raise ObjectNotFound(f"{ref.uri} is not there") from exc


class FilesInMemory:
    """The log files whose events are published."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}

    def published(self, provider: str, bucket: str, keys: Collection[str]) -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of the published ones among some files."""
        wanted = set(keys)
        return {
            (key, etag) for of, where, key, etag in self._rows if (of, where) == (provider, bucket) and key in wanted
        }

    def intend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Do nothing: a benchmark's run is not cut off."""

    def earlier(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[date]]:
        """Give nothing: a benchmark's files are new."""
        return {}

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published."""
        for row in rows:
            self._rows[row["provider"], row["bucket"], row["key"], row["etag"]] = row


class QuarantineInMemory:
    """What was kept out of the published data."""

    def __init__(self) -> None:
        self.rows = 0

    def forget(self, file_ids: Collection[str]) -> int:
        """Do nothing: a benchmark's files are new."""
        return 0

    def add(self, rows: pa.Table) -> int:
        """Count the rows."""
        self.rows += rows.num_rows
        return int(rows.num_rows)
