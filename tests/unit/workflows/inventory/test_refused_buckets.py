"""One bucket without a report that can be used: the others are published, and it is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from inventory_report_files import azure_report, azure_row, s3_report, s3_row
from unit.workflows.inventory.world import AT, DAY, World, a_bucket, days_before

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider

DAYS = timedelta(days=1)


def two_buckets(folder: Path) -> World:
    """Give a bucket with reports, and one that is listed live with an object ``l``."""
    world = World(folder, a_bucket(), a_bucket("listed", live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", "l"), b"1")
    return world


def damaged(rows: list[dict[str, Any]], **options: Any) -> dict[str, bytes]:
    files = s3_report([rows], **options)
    return {key: b"junk" + content[4:] if "/data/" in key else content for key, content in files.items()}


def test_others_are_published_when_a_first_report_has_not_come(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("media", Provider.AZURE), a_bucket("new"), a_bucket("newer"))
    world.deliver(s3_report([[s3_row("a")]]))
    world.deliver(azure_report([[azure_row("b")]]), Provider.AZURE)
    result = world.collect()
    assert world.published_keys() == ["a", "b"]
    assert [reason.split(" below", 1)[0] for reason in result["refused"]] == [
        "there is no complete s3_inventory report of aws bucket 'new'",
        "there is no complete s3_inventory report of aws bucket 'newer'",
    ]
    assert all("inventory.prefix" in reason for reason in result["refused"])
    assert all(reason.endswith("(the snapshot has none of its objects)") for reason in result["refused"])
    assert set(world.reports.rows) == {("aws", "media"), ("azure", "media")}


def test_others_are_published_when_no_bucket_of_a_provider_has_a_report(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("media", Provider.AZURE))
    world.deliver(azure_report([[azure_row("b")]]), Provider.AZURE)
    assert len(world.collect()["refused"]) == 1
    assert world.published_keys() == ["b"]


def away(world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise TransientError("the provider is away")

    for method in ("list_files", "list_inventory"):
        monkeypatch.setattr(world.clients[provider], method, breaks)


@pytest.mark.parametrize("live", [False, True])
def test_others_are_published_when_a_provider_is_away_at_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("media", Provider.AZURE, live=live))
    world.deliver(s3_report([[s3_row("a")]]))
    if live:
        world.clients[Provider.AZURE].put_object(ObjectRef(Provider.AZURE, "media", "b"), b"1")
    else:
        world.deliver(azure_report([[azure_row("b")]]), Provider.AZURE)
    world.collect("first")
    assert world.published_keys() == ["a", "b"]
    away(world, Provider.AZURE, monkeypatch)
    with pytest.raises(TransientError):  # not the last attempt: Airflow makes another
        world.collect("next")
    given_up = (TerminalError, TransientError)
    parts = world.find("next", given_up_on=given_up)
    told = world.read(parts, "next", given_up_on=given_up)
    assert {"refused": 1} in told or not live
    (reason,) = world.publish("next")["refused"]
    assert "the provider is away" in reason
    assert world.published_keys() == ["a", "b"]  # what was known of it a moment ago


def test_nothing_is_published_when_all_buckets_are_refused(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a")]]))
    world.collect()
    world.clients[Provider.AWS].delete_object(ObjectRef(Provider.AWS, "listed", "l"))
    only = World(tmp_path, a_bucket())
    only.reports = world.reports
    with pytest.raises(TerminalError, match="no complete s3_inventory report"):
        only.collect("next")
    assert only.published_keys() == ["a", "l"]


def test_others_are_published_when_a_data_file_is_damaged(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(damaged([s3_row("a")]))
    result = world.collect()
    assert world.published_keys() == ["l"]
    (reason,) = result["refused"]
    assert reason.startswith("aws bucket 'media': inventory report reports/inventory/media/daily/")
    assert ".csv.gz is damaged" in reason
    assert not world.quarantine.rows


def test_others_are_published_when_too_many_rows_are_bad(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a"), s3_row("b", Size="junk")]]))
    (reason,) = world.collect()["refused"]
    assert "1 of 2 rows cannot be read" in reason
    assert world.published_keys() == ["l"]
    assert not world.quarantine.rows


def test_others_are_published_when_a_bucket_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    world.deliver(s3_report([[s3_row("a")]]))
    monkeypatch.delitem(world.clients[Provider.AWS]._buckets, "listed")
    (reason,) = world.collect()["refused"]
    assert reason.startswith("aws bucket 'listed': ")
    assert world.published_keys() == ["a"]


def test_bucket_keeps_the_objects_of_its_last_snapshot_when_it_is_refused(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a"), s3_row("b")]], taken_at=days_before(1)))
    assert world.collect("day-0")["refused"] == []
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", "m"), b"1")
    for day in range(1, 8):
        now = AT + day * DAYS
        world.deliver(damaged([s3_row("c")], taken_at=now))
        result = world.collect(f"day-{day}", now=now)
        (reason,) = result["refused"]
        assert world.published_keys(now.date()) == ["a", "b", "l", "m"]
        assert reason.endswith("(its objects are those of the snapshot of 2026-03-10, until 2026-03-17 12:00 UTC)")
        assert world.taken_at["aws", "media"] == days_before(1)
        assert world.reports.rows["aws", "media"]["day"] == DAY
        assert world.reports.rows["aws", "listed"]["day"] == now.date()
    now = AT + 8 * DAYS
    world.deliver(damaged([s3_row("c")], taken_at=now))
    (reason,) = world.collect("day-8", now=now)["refused"]
    assert reason.endswith("(the snapshot has none of its objects)")
    assert world.published_keys(now.date()) == ["l", "m"]


def test_bucket_keeps_its_objects_when_the_same_day_is_collected_again(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a")]]))
    world.collect("morning")
    before = world.published_bytes()
    world.deliver(damaged([s3_row("b")], taken_at=days_before(0.1)))
    for batch in ("noon", "evening"):
        assert len(world.collect(batch)["refused"]) == 1
        assert world.published_bytes() == before


def many(count: int) -> list[dict[str, Any]]:
    return [s3_row(f"k{number:04d}") for number in range(count)]


@pytest.mark.parametrize(
    ("before", "left", "refused"), [(1000, 0, True), (1000, 9, True), (1000, 10, False), (100, 0, True), (99, 0, False)]
)
def test_report_is_refused_when_it_has_lost_nearly_all_objects(
    tmp_path: Path, before: int, left: int, refused: bool
) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([many(before)], taken_at=days_before(1)))
    world.collect("one")
    now = AT + DAYS
    world.deliver(s3_report([many(left)], taken_at=now))
    result = world.collect("two", now=now)
    if refused:
        (reason,) = result["refused"]
        assert f"it lists {left} objects, the snapshot of 2026-03-10 has {before}" in reason
        assert "aws bucket 'media'" in reason
        assert result["objects"] == before + 1
    else:
        assert (result["refused"], result["objects"]) == ([], left + 1)


def test_report_without_objects_is_taken_when_the_last_snapshot_is_too_old_to_tell(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([many(200)], taken_at=days_before(1)))
    world.collect("one")
    for days, refused in ((8, 1), (9, 0)):
        now = AT + days * DAYS
        world.deliver(s3_report([many(0)], taken_at=now))
        result = world.collect(f"day-{days}", now=now)
        assert len(result["refused"]) == refused
        assert "from 2026-03-19 on such a report is taken" in "".join(result["refused"]) or not refused
    assert world.reports.rows["aws", "media"]["objects"] == 0


def test_live_listing_is_believed_when_the_bucket_was_emptied(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a")]]))
    for number in range(150):
        world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", f"n{number}"), b"1")
    world.collect("one")
    for number in range(150):
        world.clients[Provider.AWS].delete_object(ObjectRef(Provider.AWS, "listed", f"n{number}"))
    assert world.collect("two")["refused"] == []
    assert world.published_keys() == ["a", "l"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "step",
    [*(("note", call) for call in range(1, 5)), ("merge_runs", 1), ("stage_run", 1), ("publish", 1), ("keep_only", 1),
     ("discard_staged", 1)],
    ids=lambda step: f"{step[0]}-{step[1]}",
)  # fmt: skip
def test_refused_bucket_is_named_again_when_a_publication_is_killed_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[str, int], after: bool
) -> None:
    world = two_buckets(tmp_path)
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(1)))
    world.collect("one")
    now = AT + DAYS
    world.deliver(damaged([s3_row("b")], taken_at=now))
    world.read(world.find("two", now=now), "two", now=now)
    real, calls = getattr(world.lake, step[0]), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step[1] and not after:
            raise Killed
        real(*args, **kwargs)
        if calls == step[1]:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(world.lake, step[0], killed)
        with pytest.raises(Killed):
            world.publish("two", now=now)
    for _ in range(2):
        result = world.publish("two", now=now)
        assert len(result["refused"]) == 1
        assert result["objects"] == 2
        assert world.published_keys(now.date()) == ["a", "l"]
    assert not list((tmp_path / "_staging").rglob("*.parquet"))


def test_run_is_made_again_when_all_its_tasks_are(tmp_path: Path) -> None:
    world = two_buckets(tmp_path)
    world.deliver(damaged([s3_row("a")], taken_at=days_before(0.5)))
    assert len(world.collect()["refused"]) == 1
    world.deliver(s3_report([[s3_row("b")]], taken_at=days_before(0.1)))
    assert world.collect()["refused"] == []
    assert world.published_keys() == ["b", "l"]


def test_publication_asks_for_a_new_run_when_only_one_provider_was_found_again(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("media", Provider.AZURE))
    world.deliver(azure_report([[azure_row("b")]]), Provider.AZURE)
    world.collect()
    world.deliver(s3_report([[s3_row("a")]]))
    world.read(world.find(providers=[Provider.AWS]))
    with pytest.raises(TerminalError, match="start a new run"):
        world.publish()
    assert world.published_keys() == ["b"]
    world.collect("new")
    assert world.published_keys() == ["a", "b"]
