"""What changes between two reports of an inventory is noticed, once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from inventory_report_files import (
    s3_report,
    s3_row,
)
from unit.workflows.inventory.world import (
    World,
    a_bucket,
    days_before,
)

from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider


def kinds(result: Mapping[str, Any]) -> list[tuple[NoticeKind, str]]:
    return [(notice.kind, notice.name) for notice in result["notices"]]


def test_drift_is_noticed_once_when_it_comes(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    assert kinds(world.collect("one")) == []
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[swapped | {"Mood": "fine", "StorageClass": "FROZEN"}]], taken_at=days_before(2)))
    result = world.collect("two")
    assert [kind for kind, _ in kinds(result)] == [
        NoticeKind.CHANGED_ORDER,
        NoticeKind.NEW_FIELD,
        NoticeKind.NEW_FIELD,
        NoticeKind.UNKNOWN_CLASS,
    ]
    assert world.lake.read("inventory")["tier"].to_pylist() == ["hot"]
    # The same report again, a week long: what was new in its manifest is no news.
    assert [kind for kind, _ in kinds(world.collect("three"))] == [NoticeKind.NEW_FIELD, NoticeKind.UNKNOWN_CLASS]


def test_unknown_class_is_noticed_when_a_bucket_is_listed_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_bucket(live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "media", "a"), b"1")
    real = world.clients[Provider.AWS].list_inventory

    def listed(bucket: str, day: date) -> Any:
        for rows in real(bucket, day):
            place = rows.schema.get_field_index("storage_class")
            yield rows.set_column(place, rows.schema.field(place), pa.array(["SNOW"] * rows.num_rows))

    monkeypatch.setattr(world.clients[Provider.AWS], "list_inventory", listed)
    assert kinds(world.collect()) == [(NoticeKind.UNKNOWN_CLASS, "SNOW")]


def test_order_is_compared_with_the_report_that_was_read_last(world: World) -> None:
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    world.collect("one")
    world.deliver(s3_report([[swapped]], taken_at=days_before(2)))
    world.deliver(s3_report([[swapped]], taken_at=days_before(1)))
    assert [kind for kind, _ in kinds(world.collect("two"))] == [NoticeKind.CHANGED_ORDER]


def test_order_is_compared_with_the_report_before_when_none_was_read(world: World) -> None:
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    world.deliver(s3_report([[swapped]], taken_at=days_before(2)))
    assert [kind for kind, _ in kinds(world.collect())] == [NoticeKind.CHANGED_ORDER]
