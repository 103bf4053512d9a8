"""Collecting inventories: the same bytes whatever was cut off."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider


class Killed(BaseException):
    pass


def fill(world: World) -> None:
    rows = [s3_row(f"k{number:03d}", Size="junk" if number == 5 else number) for number in range(200)]
    world.deliver(s3_report([rows[:120], rows[120:]]))
    for number in range(20):
        world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", f"l{number}"), b"1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    world = World(tmp_path_factory.mktemp("whole"), a_bucket(), a_bucket("listed", live=True))
    fill(world)
    world.collect(chunk_bytes=1)
    return world.published_bytes()


STEPS = [
    *(("note", call) for call in range(1, 13)),
    *(("stage_run", call) for call in range(1, 4)),
    *((step, 1) for step in ("stage_rows", "merge_runs", "publish", "keep_only", "discard", "add", "record")),
    *(("staged", call) for call in (1, 2)),
]
"""All calls that change something, in one run of three parts."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}-{step[1]}")
def test_bytes_are_the_same_when_a_run_is_killed_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], step: tuple[str, int], after: bool
) -> None:
    name, call = step
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    fill(world)
    owner: Any = {"add": world.quarantine, "record": world.reports}.get(name, world.lake)
    real, calls = getattr(owner, name), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        parts = attempt(lambda: world.find(chunk_bytes=1), again=2)
        for part in parts:
            attempt(partial(world.read, [part]), again=2)
        attempt(world.publish, again=2)
    assert calls >= call, "the step was never killed"
    assert world.published_bytes() == undisturbed
    assert sorted(line for _, line in world.quarantine.rows) == [6]
    assert set(world.reports.rows) == {("aws", "media"), ("aws", "listed")}
    assert world.publish()["objects"] == 219
    assert world.published_bytes() == undisturbed


def attempt(task: Callable[[], Any], again: int) -> Any:
    """Run a task as Airflow does: anew after it was killed."""
    for _ in range(again):
        try:
            return task()
        except Killed:
            continue
    raise AssertionError("it was killed more than once")


def test_snapshot_is_whole_when_a_publication_is_killed_between_two_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    fill(world)
    world.read(world.find())
    real, calls = os.replace, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal calls
        if "_staging" not in str(target):
            calls += 1
            if calls == 2:
                raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            world.publish()
    world.publish()
    assert world.published_bytes() == undisturbed


def test_another_report_leaves_nothing_behind_when_it_comes_between_two_attempts(world: World) -> None:
    world.deliver(s3_report([[s3_row("old")], [s3_row("older")]], taken_at=days_before(2)))
    world.read(world.find(chunk_bytes=1))
    world.deliver(s3_report([[s3_row("new")]], taken_at=days_before(1)))
    world.read(world.find())
    assert world.publish()["objects"] == 1
    assert world.published_keys() == ["new"]
