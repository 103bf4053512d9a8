"""The demo's memory: the same world a day later, and nothing sent twice that has no identity."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from cloudflux.local.demo.remembered import MemoryUnreadable, Remembered, known_worlds, recall, remember
from cloudflux.local.demo.runner import DemoSettings, make_world


def settings() -> DemoSettings:
    return DemoSettings(
        objects=60, days=14, seed=7, trace=None, max_object_bytes=1024 * 1024, wrong="some", approve=True
    )


def test_world_is_the_same_when_the_second_demo_comes_a_day_later(tmp_path: Path) -> None:
    first = make_world(settings(), tmp_path, date(2026, 11, 23))
    assert first.last_day == date(2026, 11, 22)
    remember(tmp_path, first.name, Remembered(first.last_day))
    later = make_world(settings(), tmp_path, date(2026, 11, 24))
    assert later.last_day == first.last_day
    assert later.daily.equals(first.daily)


def test_memory_is_read_back_when_written(tmp_path: Path) -> None:
    assert recall(tmp_path, "demo") is None
    kept = Remembered(date(2026, 11, 22), wrong_messages_sent=True, gone=("s3://bucket/a",))
    remember(tmp_path / "demo", "demo", kept)
    assert recall(tmp_path / "demo", "demo") == kept
    assert known_worlds(tmp_path / "demo") == ["demo"]


def test_memory_is_refused_with_its_path_when_it_is_broken(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(MemoryUnreadable, match=r"demo\.json cannot be read .* delete it"):
        recall(tmp_path, "demo")
