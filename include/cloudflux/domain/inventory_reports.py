"""An inventory report that a provider delivered: its manifest, its data files, and why one cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider


class UnusableReport(TerminalError):
    """A report is incomplete or damaged; the text is the reason, and the report before it may do."""


class OtherBucketsReport(UnusableReport):
    """A report does not tell of the bucket, or not of all its objects."""


class DamagedFile(TerminalError):
    """A data file cannot be read as what it should be; the text says why."""


class DataFormat(StrEnum):
    """How the data files of a report are written."""

    CSV = "csv"
    ORC = "orc"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One data file of a report."""

    key: str
    size_bytes: int | None = None
    """As the manifest says; None where it says nothing."""
    md5: str | None = None
    """In hex digits; None where the manifest says nothing."""


@dataclass(frozen=True, slots=True)
class InventoryReport:
    """What a manifest says."""

    provider: Provider
    format: str
    """The name of its reader: ``s3_inventory``, ``azure_inventory`` or ``gcs_insights``."""
    bucket: str
    """The bucket that holds the report, not the one that it tells of."""
    manifest: str
    """The manifest's key."""
    taken_at: datetime
    data_format: DataFormat
    files: tuple[ReportFile, ...]
    fields: tuple[str, ...] = ()
    """The columns in their order, by the provider's names; empty where the manifest does not tell."""
    rows: int | None = None
    """How many rows all data files have; None where the manifest says nothing."""
    delimiter: str | None = None
    """Between the columns of a CSV; None where the manifest says nothing."""
    configuration: str = ""
    """The name of the configuration that the provider made it by, for messages."""
    unknown_version: str | None = None
    """The manifest's version, where it is none that the reader knows."""
    of_account: bool = False
    """Whether it tells of all buckets of an account, so that it may have no object of one of them."""

    @property
    def uri(self) -> str:
        """The manifest's address, for messages and records."""
        return f"{self.bucket}/{self.manifest}"

    @property
    def report_id(self) -> str:
        """Tell this very report from others, a replaced one of the same name included; 12 hex digits."""
        told = repr((self.provider, self.uri, self.taken_at, self.files))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def file_id(self, file: ReportFile) -> str:
        """Give the id by which the quarantine names a data file: that of a log file of the same place."""
        size = file.size_bytes or 0
        return SourceFile(self.provider, self.bucket, file.key, "", size, self.format, self.taken_at).file_id

    def to_json(self) -> dict[str, Any]:
        """Give what ``from_json`` reads."""
        return asdict(self) | {"taken_at": self.taken_at.isoformat()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        return cls(
            **{
                **content,
                "provider": Provider(content["provider"]),
                "taken_at": datetime.fromisoformat(content["taken_at"]),
                "data_format": DataFormat(content["data_format"]),
                "files": tuple(ReportFile(**file) for file in content["files"]),
                "fields": tuple(content["fields"]),
            }
        )
