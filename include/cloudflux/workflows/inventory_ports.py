"""What collecting inventories asks of the providers, the report formats, the lake and the stores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.inventory_reports import InventoryReport, ReportFile
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider


class InventoryClient(Protocol):
    """The part of a provider's client that inventories need."""

    def list_inventory(self, bucket: str, day: date) -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""

    def list_files(self, bucket: str, prefix: str = "") -> Iterator[StoredFile]:
        """List files by key."""

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read a file in pieces. Raises ``ObjectNotFound``."""


class StoredFile(Protocol):
    """One file of a bucket, as a listing shows it."""

    @property
    def key(self) -> str:
        """Its name in the bucket."""

    @property
    def size_bytes(self) -> int:
        """Its size."""


class DataFile(Protocol):
    """An open data file of a report."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Its columns."""


class ReportRows(Protocol):
    """What a batch of a data file's records gave."""

    @property
    def objects(self) -> pl.DataFrame:
        """Live objects, in the inventory's columns."""

    @property
    def quarantine(self) -> pa.Table:
        """Records that could not be read."""

    @property
    def records(self) -> int:
        """All records."""

    @property
    def bad(self) -> int:
        """Records that could not be read, also those that are counted only."""

    @property
    def elsewhere(self) -> int:
        """Records of other buckets."""

    @property
    def noncurrent_objects(self) -> int:
        """Old versions and the like."""

    @property
    def noncurrent_bytes(self) -> int:
        """Their size."""

    @property
    def notices(self) -> tuple[FormatNotice, ...]:
        """What is new in the records."""


class ReportFormat(Protocol):
    """The reader of one report format."""

    def taken_at(self, key: str, bucket: str) -> datetime | None:
        """Tell when the report was begun whose manifest ``key`` may be; None when it is none of this bucket."""

    def configuration(self, manifest: str) -> str:
        """Name the configuration that a manifest's report was made by."""

    def scope(self, manifest: str, content: bytes, bucket: str) -> str:
        """Tell which objects of the bucket a report lists: reports of one scope stand for one another.

        Raises ``UnusableReport`` when it does not tell of the bucket.
        """

    def checksum_key(self, manifest: str) -> str | None:
        """Name the file with the manifest's MD5; None where the format has none."""

    def read_manifest(self, holder: str, manifest: str, content: bytes, bucket: str) -> InventoryReport:
        """Read a manifest. Raises ``UnusableReport``."""

    def check(self, report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a manifest. Raises ``TerminalError`` when a column is missing that is needed."""

    def open_file(self, report: InventoryReport, path: Path) -> Any:
        """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""

    def notices(self, report: InventoryReport, file: ReportFile, fields: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a data file. Raises ``TerminalError`` when a column is missing that is needed."""

    def rows(
        self, report: InventoryReport, file: ReportFile, data: Any, *, bucket: str, day: date
    ) -> Iterable[ReportRows]:
        """Map the records of an open data file. Raises ``DamagedFile``."""


class RecordedReport(Protocol):
    """A report that was read into a published snapshot."""

    @property
    def format(self) -> str:
        """The name of its reader."""

    @property
    def manifest(self) -> str:
        """Bucket and key of its manifest."""

    @property
    def day(self) -> date:
        """Of the snapshot."""

    @property
    def taken_at(self) -> datetime:
        """When it was made."""

    @property
    def objects(self) -> int:
        """How many objects the snapshot has of the bucket."""


class InventoryReports(Protocol):
    """Which report every snapshot was made of."""

    def latest(self, provider: str, bucket: str) -> RecordedReport | None:
        """Give what the newest snapshot of a bucket was made of."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record what a snapshot was made of."""


class QuarantineLog(Protocol):
    """What was kept out of the published data."""

    def add(self, rows: pa.Table) -> int:
        """Add rows once; returns how many were new."""


class Lake(Protocol):
    """The lake's snapshots, staged and published, and the notes that the tasks of a run share."""

    def stage_run(self, provider: str, bucket: str, run: str, objects: pl.DataFrame, batch: str) -> None:
        """Write objects of one bucket as a run; writing it again replaces it."""

    def discard_runs(self, batch: str, provider: str, bucket: str, run: str | None = None) -> None:
        """Delete a bucket's runs, or one of them."""

    def merge_runs(
        self, runs: Iterable[tuple[str, str, str]], day: date, batch: str
    ) -> tuple[list[tuple[date, int]], Mapping[tuple[str, str], Any]]:
        """Join runs (provider, bucket, run) into staged partitions; gives these, and the counts of every bucket."""

    def stage_rows(self, dataset: str, table: pa.Table, part: str, batch: str) -> list[date]:
        """Stage rows as they come, in a file named ``part``."""

    def stage(self, dataset: str, day: date, shard: int, table: pa.Table, batch: str) -> str:
        """Write one partition beside the published data."""

    def staged(self, dataset: str, batch: str) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def dataset(self, dataset: str, *, days: Collection[date]) -> Any:
        """Give the published rows of some days, as a ``pyarrow.dataset.Dataset``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read."""

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""

    def discard_staged(self, batch: str) -> None:
        """Delete all that a batch has staged; its notes stay."""


ClientOf = Callable[[Provider, str], InventoryClient]
FormatOf = Callable[[str], ReportFormat]


class Audit(Protocol):
    """The audit of a batch."""

    def __call__(self, suite: str, data: Any, batch: str, *, taken_at: Mapping[tuple[str, str], datetime]) -> Any:
        """Check a batch whose buckets were listed or reported at these times.

        Gives a report with ``raise_if_failed()``, ``rejected`` and ``kept(rows)``.
        """
