"""Reads reports that lie in memory, as the workflow does it, without a lake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.inventory_reports import InventoryReport
from cloudflux.inventories.formats import FORMATS

DAY = date(2026, 3, 10)


@dataclass
class Read:
    report: InventoryReport
    objects: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    notices: list[FormatNotice]
    records: int
    bad: int
    elsewhere: int
    noncurrent: tuple[int, int]

    @property
    def keys(self) -> list[str]:
        return [row["key"] for row in self.objects]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(row["line"], row["reason"]) for row in self.quarantine]


ReadReport = Callable[..., Read]


@pytest.fixture
def read_report(tmp_path: Path) -> ReadReport:
    def read(form: str, files: Mapping[str, bytes], bucket: str = "media", day: date = DAY) -> Read:
        reader = FORMATS[form]
        manifest = next(key for key in files if reader.taken_at(key, bucket) is not None)
        report = reader.read_manifest("reports", manifest, files[manifest], bucket)
        found = Read(report, [], [], list(reader.check(report, ())), 0, 0, 0, (0, 0))
        for number, file in enumerate(report.files):
            path = tmp_path / f"{form}-{number}"
            path.write_bytes(files[file.key])
            data = reader.open_file(report, path)
            found.notices += reader.notices(report, file, data.fields)
            for rows in reader.rows(report, file, data, bucket=bucket, day=day):
                found.objects += rows.objects.to_dicts()
                found.quarantine += rows.quarantine.to_pylist()
                found.notices += rows.notices
                found.records += rows.records
                found.bad += rows.bad
                found.elsewhere += rows.elsewhere
                objects, size = found.noncurrent
                found.noncurrent = (objects + rows.noncurrent_objects, size + rows.noncurrent_bytes)
        return found

    return read
