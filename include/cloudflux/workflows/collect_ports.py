"""What collecting access logs asks of the providers, the parsers, the lake, the stores and the audits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa

from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.source_files import SourceFile
from cloudflux.workflows import daily_access


class StoredFile(Protocol):
    """One file of a bucket, as a listing shows it."""

    @property
    def key(self) -> str:
        """Its name in the bucket."""

    @property
    def etag(self) -> str:
        """Changes with its content."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def last_modified_at(self) -> datetime:
        """When it was written."""


class LogStore(Protocol):
    """The part of a provider's client that log files need."""

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""

    def get_object(self, ref: Any) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""

    def read_blocks(self, ref: Any, block_bytes: int) -> Iterator[bytes]:
        """Read a file in pieces. Raises ``ObjectNotFound``."""


class SourceFiles(Protocol):
    """The log files whose events are published."""

    def published(self, provider: str, bucket: str, keys: Collection[str]) -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of the published ones among some files of a log bucket."""

    def intend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record where the rows of files will be, before anything is swapped in."""

    def earlier(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[date]]:
        """Give the days that other takes of these files may have rows on, by ``file_id``."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published."""


class QuarantineLog(Protocol):
    """What was kept out of the published data."""

    def forget(self, file_ids: Collection[str]) -> int:
        """Delete the rows of source files."""

    def add(self, rows: pa.Table) -> int:
        """Add rows once; returns how many were new."""


class Part(Protocol):
    """Rows that are staged as one part."""

    def add(self, table: pa.Table) -> None:
        """Write more rows."""

    def close(self) -> list[date]:
        """Stage what was added; give its days."""


class Lake(daily_access.Lake, Protocol):
    """The lake's partitions, staged and published, and the notes that the tasks of a run share."""

    def stage_rows(self, dataset: str, table: pa.Table, part: str, batch: str) -> list[date]:
        """Stage rows as they come, one file named ``part`` per day; give the days."""

    def open_part(self, dataset: str, part: str, batch: str) -> Part:
        """Begin such a part, whose rows come little by little."""

    def unstage(self, dataset: str, batch: str) -> None:
        """Delete what a batch has staged of one dataset."""

    def staged_parts(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Give (day, name) of what a batch has staged."""

    def rewrite_staged(self, dataset: str, batch: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace each staged part by what ``change`` makes of it."""

    def remove_rows(
        self,
        dataset: str,
        days: Collection[date],
        source_files: Collection[str],
        keep: Collection[tuple[date, str]] = (),
    ) -> int:
        """Delete the published rows of source files on some days, but not those of the parts in ``keep``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def publish_files(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Swap in staged partitions by day and part."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read."""

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""


class Parsed(Protocol):
    """What a block of log files gave."""

    @property
    def events(self) -> pa.Table:
        """Access events."""

    @property
    def quarantine(self) -> pa.Table:
        """Lines that could not be read."""

    @property
    def hours(self) -> pa.Table:
        """All readable records by bucket and hour."""

    @property
    def lines(self) -> int:
        """Records found."""

    @property
    def lines_by_file(self) -> Mapping[str, int]:
        """The same by ``file_id``."""

    @property
    def notices(self) -> Sequence[FormatNotice]:
        """What the parser does not know."""


Parse = Callable[[Iterable[tuple[SourceFile, Iterator[bytes]]], Exclusions], Iterator[Parsed]]
"""Parses files of one format, block by block."""
PassedOver = Callable[[str, str, date], str]
"""Gives (format, key, day) where a listing goes on behind a file that was delivered before a day; the key of any other
as it is."""
AccountOf = Callable[[str, str], str | None]
"""Gives (format, key) the account that a log file tells of, where its name says so."""


class AuditReport(Protocol):
    """How a batch met its suite."""

    @property
    def rejected(self) -> pa.Table | None:
        """Rows to leave out, in the lake's ``QUARANTINE`` columns."""

    def kept(self, rows: Any) -> pa.Table:
        """Give rows of the batch without the rejected ones."""

    def raise_if_failed(self) -> None:
        """Raise ``AuditFailed`` when the batch must stay unpublished."""


Audit = Callable[[str, Any, str], AuditReport]
"""Checks (suite, data, batch)."""
