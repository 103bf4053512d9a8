"""Collect inventories: every object of the estate with its size, class and lock state, as one snapshot a day."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.lake.schemas import INVENTORY

_PART_ROWS: Final = 100_000


class InventoryClient(Protocol):
    """The part of a provider's client that a live inventory needs."""

    def list_inventory(self, bucket: str, day: date) -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""


class Lake(Protocol):
    """The lake's partitions, staged and published."""

    def stage_part(self, dataset: str, part: str, table: pa.Table, batch: str) -> None:
        """Write a piece of a partition."""

    def discard_part(self, dataset: str, part_prefix: str, batch: str) -> None:
        """Delete the pieces whose name starts so."""

    def merge_parts(self, dataset: str, day: date, batch: str) -> list[tuple[date, int]]:
        """Join the pieces of every shard into staged partitions of one day."""

    def staged(self, dataset: str, batch: str) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def dataset(self, dataset: str, *, days: Collection[date]) -> Any:
        """Give the published rows of some days, as a ``pyarrow.dataset.Dataset``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""


Audit = Callable[[str, Any, str], Any]
"""Checks (suite, data, batch) and gives a report with ``raise_if_failed()``."""


def list_bucket(
    client: InventoryClient, lake: Lake, *, batch: str, provider: str, bucket: str, day: date
) -> dict[str, int]:
    """List one bucket live and stage its objects as pieces of the day's snapshot."""
    part = f"{provider}-{bucket}-"
    lake.discard_part("inventory", part, batch)  # of an attempt that was cut off
    objects = size = number = 0
    pending: list[pa.RecordBatch] = []
    pending_rows = 0
    for rows in client.list_inventory(bucket, day):
        objects += rows.num_rows
        size += pc.sum(rows["size_bytes"]).as_py() or 0
        pending.append(rows)
        pending_rows += rows.num_rows
        if pending_rows >= _PART_ROWS:
            lake.stage_part("inventory", f"{part}{number:06d}", pa.Table.from_batches(pending, INVENTORY), batch)
            number, pending, pending_rows = number + 1, [], 0
    if pending_rows:
        lake.stage_part("inventory", f"{part}{number:06d}", pa.Table.from_batches(pending, INVENTORY), batch)
    return {"objects": objects, "bytes": size}


def publish_inventory(lake: Lake, audit: Audit, *, batch: str, day: date) -> dict[str, Any]:
    """Join the buckets' pieces into the day's snapshot, audit and publish it.

    Returns objects and bytes in all and by tier. Raises ``AuditFailed``; then the snapshot before stays in force.
    """
    written = lake.merge_parts("inventory", day, batch)
    snapshot = lake.staged("inventory", batch)
    if snapshot.count_rows():
        audit("inventory", snapshot, batch).raise_if_failed()
        lake.publish("inventory", batch)
        lake.keep_only("inventory", [day], written)
    tiers: dict[str, dict[str, int]] = {}
    for rows in lake.dataset("inventory", days=[day]).to_batches(columns=["tier", "size_bytes"]):
        by_tier = pa.Table.from_batches([rows]).group_by("tier").aggregate([("size_bytes", "sum"), ([], "count_all")])
        for row in by_tier.to_pylist():
            tier = tiers.setdefault(row["tier"], {"objects": 0, "bytes": 0})
            tier["objects"] += row["count_all"]
            tier["bytes"] += row["size_bytes_sum"]
    lake.discard(batch)
    return {
        "objects": sum(tier["objects"] for tier in tiers.values()),
        "bytes": sum(tier["bytes"] for tier in tiers.values()),
        "tiers": tiers,
    }
