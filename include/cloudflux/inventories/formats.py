"""Which reader reads which report format: found by the name that the estate file gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.inventory_reports import InventoryReport, ReportFile
from cloudflux.inventories import azure_inventory, gcs_insights, s3_inventory
from cloudflux.inventories.rows import ReportRows
from cloudflux.inventories.tables import DataFile


class ReportFormat(Protocol):
    """What the module of a report format offers."""

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
        """Read the manifest of a report that lies in ``holder`` and tells of ``bucket``. Raises ``UnusableReport``."""

    def check(self, report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a manifest. Raises ``TerminalError`` when a column is missing that is needed."""

    def open_file(self, report: InventoryReport, path: Path) -> DataFile:
        """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""

    def notices(self, report: InventoryReport, file: ReportFile, fields: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a data file. Raises ``TerminalError`` when a column is missing that is needed."""

    def rows(
        self, report: InventoryReport, file: ReportFile, data: DataFile, *, bucket: str, day: date
    ) -> Iterator[ReportRows]:
        """Map the records of an open data file. Raises ``DamagedFile``."""


FORMATS: Final[Mapping[str, ReportFormat]] = MappingProxyType(
    {"s3_inventory": s3_inventory, "azure_inventory": azure_inventory, "gcs_insights": gcs_insights}
)
"""Reader by the name of its format."""


def format_of(name: str) -> ReportFormat:
    """Give the reader of a format."""
    return FORMATS[name]
