"""The ingestion events: valid, one per object, the same on every call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pytest

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.events.schema import parse_messages
from cloudflux.local.demo.events import WRONG_MESSAGES, ingestion_messages
from cloudflux.local.demo.world import World, synthetic_world


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes
    partition: int = 0
    timestamp: int = 0


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(last_day=date(2026, 11, 22), objects=300, days=30)


def test_events_are_valid_and_name_each_object_once_when_made(world: World) -> None:
    messages = ingestion_messages(world)["message"].to_list()
    parsed = parse_messages(Record(number, text.encode()) for number, text in enumerate(messages))
    assert parsed.dead_letters.num_rows == 0
    uris = {
        ObjectRef(Provider(provider), bucket, key).uri
        for provider, bucket, key in world.objects.select("provider", "bucket", "key").iter_rows()
    }
    assert sorted(parsed.events.column("file_id").to_pylist()) == sorted(uris)
    assert set(parsed.events.column("source").to_pylist()) == {"iot_sensor", "app_log", "user_upload"}
    assert set(parsed.events.column("content_type").to_pylist()) == {"video", "log", "document", "image"}
    total_gb = sum(parsed.events.column("size_gb").to_pylist())
    assert total_gb == pytest.approx(world.objects["size_bytes"].sum() / 2**30)


def test_events_are_the_same_when_made_twice(world: World) -> None:
    assert ingestion_messages(world).equals(ingestion_messages(world))


def test_wrong_messages_become_dead_letters_for_different_reasons_when_parsed() -> None:
    parsed = parse_messages(Record(number, value) for number, value in enumerate(WRONG_MESSAGES))
    assert parsed.events.num_rows == 0
    assert len(set(parsed.dead_letters.column("reason").to_pylist())) == len(WRONG_MESSAGES)
