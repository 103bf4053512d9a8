"""The benchmark's report is a real one, and what it measures is the real thing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.dataset as pads
from foreign_warnings import GREAT_EXPECTATIONS

from cloudflux.local.bench import inventory

pytestmark = GREAT_EXPECTATIONS


def test_all_objects_are_published_and_audited_when_measured(tmp_path: Path) -> None:
    taken_at = datetime.now(UTC) - timedelta(hours=9)
    size = inventory.write_report(3000, tmp_path / "reports", taken_at)
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    found = inventory.collect_report(str(tmp_path), str(tmp_path / "lake"))
    assert found["objects"] == 3000
    assert found["steps"].keys() == {"read", "audit", "merge"}
    published = pads.dataset(tmp_path / "lake" / "inventory").to_table(columns=["key", "tier"])
    assert len(set(published["key"].to_pylist())) == 3000
    assert set(published["tier"].to_pylist()) == {"hot", "warm", "cold", "archive", "auto"}
