from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from cloudflux.stores.inventory_reports import InventoryReports, RecordedInventory

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def a_report(**overrides: Any) -> dict[str, Any]:
    return {
        "provider": "aws",
        "bucket": "media",
        "day": date(2026, 11, 1),
        "format": "s3_inventory",
        "manifest": "reports/media/daily/2026-11-01T01-00Z/manifest.json",
        "taken_at": AT - timedelta(hours=11),
        "objects": 3,
        "bytes": 30,
        "noncurrent_objects": 1,
        "noncurrent_bytes": 10,
        "quarantined": 2,
        **overrides,
    }


def test_newest_report_of_a_bucket_is_given_when_there_are_several(engine: Engine) -> None:
    reports = InventoryReports(engine)
    assert reports.latest("aws", "media") is None
    reports.record([a_report(), a_report(bucket="other"), a_report(day=date(2026, 10, 31), objects=1)], AT)
    reports.record([], AT)
    found = reports.latest("aws", "media")
    assert found == RecordedInventory(**a_report(), published_at=AT)
    assert reports.latest("gcp", "media") is None


def test_report_is_replaced_when_the_day_is_published_again(engine: Engine) -> None:
    reports = InventoryReports(engine)
    reports.record([a_report()], AT)
    reports.record([a_report(format="live", manifest="", objects=4, ignored=1)], AT + timedelta(hours=1))
    found = reports.latest("aws", "media")
    assert found is not None
    assert (found.format, found.manifest, found.objects, found.published_at) == ("live", "", 4, AT + timedelta(hours=1))


def test_manifest_is_stored_when_its_key_has_what_postgresql_cannot_hold(engine: Engine) -> None:
    reports = InventoryReports(engine)
    reports.record([a_report(manifest="reports/a\x00b")], AT)
    found = reports.latest("aws", "media")
    assert found is not None
    assert found.manifest == "reports/a\\x00b"
