"""What tests of collecting inventories share: buckets in memory, a lake in a folder, and the stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from cloudflux.config import BucketSettings, Estate, InventorySource
from cloudflux.domain.errors import AuditFailed
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.inventories.formats import format_of
from cloudflux.lake.snapshots import Snapshots
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import inventory, inventory_parts, inventory_reports

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = AT.date()
FORMAT_OF = {Provider.AWS: "s3_inventory", Provider.AZURE: "azure_inventory", Provider.GCP: "gcs_insights"}
PREFIX = {Provider.AWS: "inventory/media/", Provider.AZURE: "", Provider.GCP: "insights/"}


def a_bucket(bucket: str = "media", provider: Provider = Provider.AWS, *, live: bool = False) -> BucketSettings:
    source = InventorySource(bucket="reports", prefix=PREFIX[provider], format=FORMAT_OF[provider])  # type: ignore[arg-type]  # a str here, checked at run time
    return BucketSettings(
        provider=provider,
        bucket=bucket,
        price_book="any",
        connection_id="any",
        inventory=None if live else source,
    )


@dataclass(frozen=True)
class Recorded:
    format: str
    manifest: str
    day: date
    taken_at: datetime
    objects: int


class Reports:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Mapping[str, Any]] = {}

    def latest(self, provider: str, bucket: str) -> Recorded | None:
        row = self.rows.get((provider, bucket))
        return Recorded(**{field.name: row[field.name] for field in fields(Recorded)}) if row else None

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        for row in rows:
            self.rows[row["provider"], row["bucket"]] = row


class Quarantine:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}

    def add(self, rows: pa.Table) -> int:
        before = len(self.rows)
        for row in rows.to_pylist():
            self.rows.setdefault((row["source_file"], row["line"]), row)
        return len(self.rows) - before


class Passed:
    rejected: pa.Table | None = None

    def raise_if_failed(self) -> None:
        pass


class Failed(Passed):
    def raise_if_failed(self) -> None:
        raise AuditFailed("the batch is wrong")


class World:
    """Buckets in memory, a lake in a folder, and the stores."""

    def __init__(self, folder: Path, *buckets: BucketSettings, shards: int = 3) -> None:
        self.estate = Estate(buckets=buckets or (a_bucket(),))
        self.clients = {provider: MemoryTierClient(provider, lambda: AT) for provider in Provider}
        for settings in self.estate.buckets:
            for name in ("reports", settings.bucket):
                self.clients[settings.provider].create_bucket(name)
        self.folder = folder
        self.lake = Snapshots(str(folder), shards)
        self.reports = Reports()
        self.quarantine = Quarantine()
        self.audited: list[tuple[str, int]] = []
        self.taken_at: Mapping[tuple[str, str], datetime] = {}

    def deliver(self, files: Mapping[str, bytes], provider: Provider = Provider.AWS) -> None:
        for key, content in files.items():
            self.clients[provider].put_object(ObjectRef(provider, "reports", key), content)

    def remove(self, key: str, provider: Provider = Provider.AWS) -> None:
        self.clients[provider].delete_object(ObjectRef(provider, "reports", key))

    def audit(self, suite: str, data: Any, batch: str, *, taken_at: Mapping[tuple[str, str], datetime]) -> Passed:
        self.taken_at = taken_at
        self.audited.append((suite, data.count_rows()))
        return Passed()

    def find(
        self,
        batch: str = "b",
        *,
        now: datetime = AT,
        chunk_bytes: int = 1 << 28,
        providers: Iterable[Provider] = tuple(Provider),
        **options: Any,
    ) -> list[tuple[Provider, dict[str, str]]]:
        return [
            (provider, part)
            for provider in providers
            for part in inventory_reports.find_inventories(
                self.estate,
                lambda of, connection: self.clients[of],
                format_of,
                self.reports,
                self.lake,
                provider=provider,
                batch=batch,
                now=now,
                chunk_bytes=chunk_bytes,
                **options,
            )
        ]

    def read(
        self, parts: Iterable[tuple[Provider, dict[str, str]]], batch: str = "b", *, now: datetime = AT, **options: Any
    ) -> list[dict[str, int]]:
        return [
            inventory_parts.collect_part(
                self.estate,
                lambda of, connection: self.clients[of],
                format_of,
                self.lake,
                provider=provider.value,
                **part,
                batch=batch,
                day=now.date(),
                clock=lambda: now,
                **options,
            )
            for provider, part in parts
        ]

    def publish(
        self, batch: str = "b", audit: Callable[..., Any] | None = None, *, now: datetime = AT
    ) -> dict[str, Any]:
        return inventory.publish_inventory(
            self.lake,
            self.reports,
            self.quarantine,
            audit or self.audit,
            batch=batch,
            day=now.date(),
            clock=lambda: now,
        )

    def collect(self, batch: str = "b", *, now: datetime = AT, **options: Any) -> dict[str, Any]:
        self.read(self.find(batch, now=now, **options), batch, now=now)
        return self.publish(batch, now=now)

    def published_keys(self, day: date = DAY) -> list[str]:
        return sorted(row["key"] for row in self.lake.read("inventory", days=[day]).to_pylist())

    def published_bytes(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted((self.folder / "inventory").rglob("*.parquet"))
        }


def days_before(days: float) -> datetime:
    return (AT - timedelta(days=days)).replace(second=0)
