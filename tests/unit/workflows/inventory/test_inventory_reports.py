"""Which report of an inventory is read: the newest complete one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inventory_report_files import (
    azure_report,
    azure_row,
    gcs_report,
    gcs_row,
    s3_report,
    s3_row,
    with_checksum,
)
from unit.workflows.inventory.world import (
    FORMAT_OF,
    World,
    a_bucket,
    days_before,
)

from cloudflux.config import BucketSettings
from cloudflux.domain.errors import TerminalError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider


def test_newest_report_is_read_when_there_are_several(world: World) -> None:
    world.deliver(s3_report([[s3_row("old")]], taken_at=days_before(2)))
    world.deliver(s3_report([[s3_row("new")]], taken_at=days_before(1)))
    world.deliver(s3_report([[s3_row("foreign", Bucket="other")]], taken_at=days_before(0.5), bucket="other"))
    assert world.collect()["passed_over"] == []
    assert world.published_keys() == ["new"]


def damaged(files: dict[str, bytes], how: str) -> dict[str, bytes]:
    manifest = next(key for key in files if key.endswith("manifest.json"))
    checksum = manifest.removesuffix(".json") + ".checksum"
    data = next(key for key in files if "/data/" in key)
    match how:
        case "no checksum":
            del files[checksum]
        case "wrong checksum":
            files[checksum] = b"d41d8cd98f00b204e9800998ecf8427e"
        case "changed manifest":
            files[manifest] += b" "
        case "no JSON":
            files |= with_checksum(manifest, {})
        case "missing file":
            del files[data]
        case "short file":
            files[data] = files[data][:-1]
    return files


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no checksum", "its checksum is not there"),
        ("wrong checksum", "not that of the manifest"),
        ("changed manifest", "not that of the manifest"),
        ("no JSON", "no sourceBucket"),
        ("missing file", r"daily/data/.* is not there"),
        ("short file", r"has \d+ bytes, not \d+"),
    ],
)
def test_report_before_is_read_when_the_newest_is_not_whole(world: World, how: str, reason: str) -> None:
    newest = damaged(s3_report([[s3_row("new")]], taken_at=days_before(1)), how)
    world.deliver(newest)
    with pytest.raises(
        TerminalError, match=f"no complete s3_inventory report of aws bucket 'media' below reports/.*{reason}"
    ):
        world.collect("first")
    world.deliver(s3_report([[s3_row("old")]], taken_at=days_before(2)))
    result = world.collect()
    assert world.published_keys() == ["old"]
    assert [text.split(": ", 1)[0].rsplit("/", 2)[1] for text in result["passed_over"]] == ["2026-03-09T12-00Z"]


@pytest.mark.parametrize("provider", list(Provider))
def test_missing_report_is_an_error_that_says_where_it_looked(tmp_path: Path, provider: Provider) -> None:
    world = World(tmp_path, a_bucket(provider=provider))
    world.clients[provider].put_object(ObjectRef(provider, "media", "a"), b"1")
    with pytest.raises(
        TerminalError, match=f"no complete {FORMAT_OF[provider]} report of {provider} bucket 'media' below reports/"
    ):
        world.collect()
    with pytest.raises(TerminalError, match=r"inventory\.prefix"):
        world.collect()


def test_every_bucket_without_a_report_is_named_when_there_are_several(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket("one"), a_bucket("two"))
    with pytest.raises(TerminalError, match=r"'one'.*'two'"):
        world.collect()


def test_report_is_refused_when_it_is_older_than_eight_days(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(8.01)))
    with pytest.raises(TerminalError, match=r"is of 2026-03-02 11:45 UTC, older than 8 days"):
        world.collect()
    world.deliver(s3_report([[s3_row("b")]], taken_at=days_before(7.9)))
    assert world.collect()["objects"] == 1


def test_old_report_tells_what_was_passed_over_when_the_newest_is_not_whole(world: World) -> None:
    world.deliver(damaged(s3_report([[s3_row("a")]], taken_at=days_before(1)), "no checksum"))
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(10)))
    with pytest.raises(TerminalError, match=r"older than 8 days.*passed over: .*checksum is not there"):
        world.collect()


def test_reports_of_years_are_not_all_read_when_none_can_be_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in range(9, 60):
        world.deliver(damaged(s3_report([[s3_row("a")]], taken_at=days_before(days)), "no JSON"))
    client, read = world.clients[Provider.AWS], []
    real = client.get_object
    monkeypatch.setattr(client, "get_object", lambda ref: read.append(ref) or real(ref))
    with pytest.raises(TerminalError, match="no complete s3_inventory report"):
        world.collect()
    assert len(read) == 40


def test_azure_run_is_passed_over_when_it_is_not_over(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.AZURE))
    world.deliver(azure_report([[azure_row("old")]], taken_at=days_before(1)), Provider.AZURE)
    world.deliver(azure_report([[azure_row("new")]], taken_at=days_before(0.5), status="Pending"), Provider.AZURE)
    world.deliver(
        azure_report([[azure_row("b")]], taken_at=days_before(0.1), rule="few", filters={"prefixMatch": ["x"]}),
        Provider.AZURE,
    )
    assert len(world.collect()["passed_over"]) == 2
    assert world.published_keys() == ["old"]


def test_gcs_report_before_is_read_when_a_shard_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.GCP))
    world.deliver(gcs_report([[gcs_row("old")]], taken_at=days_before(1)), Provider.GCP)
    newest = gcs_report([[gcs_row("new")], [gcs_row("lost")]], taken_at=days_before(0.5))
    del newest[next(key for key in newest if key.endswith("_1.csv"))]
    world.deliver(newest, Provider.GCP)
    assert world.collect()["objects"] == 1
    assert world.published_keys() == ["old"]


def test_files_are_found_when_the_manifest_has_lost_a_slash(tmp_path: Path) -> None:
    world = World(tmp_path)
    files = s3_report([[s3_row("a")]])
    world.deliver({key.replace("inventory/media/", "inventory/media//"): content for key, content in files.items()})
    assert world.collect()["objects"] == 1


def test_files_are_found_when_they_lie_outside_the_prefix(tmp_path: Path) -> None:
    settings = a_bucket()
    assert settings.inventory
    deep = settings.inventory.model_copy(update={"prefix": "inventory/media/daily/2026"})
    world = World(tmp_path, settings.model_copy(update={"inventory": deep}))
    world.deliver(s3_report([[s3_row("a")]]))
    assert world.collect()["objects"] == 1


def with_configuration(configuration: str, provider: Provider = Provider.AWS) -> BucketSettings:
    settings = a_bucket(provider=provider)
    assert settings.inventory
    source = settings.inventory.model_copy(update={"configuration": configuration})
    return settings.model_copy(update={"inventory": source})


def two_s3_configurations(newer_days: float = 1, older_days: float = 1.1) -> dict[str, bytes]:
    everything = s3_report([[s3_row("a"), s3_row("logs/b")]], taken_at=days_before(older_days))
    return everything | s3_report([[s3_row("logs/b")]], taken_at=days_before(newer_days), configuration="logs-only")


def test_bucket_is_refused_when_two_s3_configurations_report_on_it(world: World) -> None:
    world.deliver(two_s3_configurations())
    with pytest.raises(TerminalError, match=r"'media'.*'daily', 'logs-only'.*inventory\.configuration"):
        world.collect()
    assert world.published_bytes() == {}


def test_configuration_is_read_when_the_estate_names_it(tmp_path: Path) -> None:
    world = World(tmp_path, with_configuration("daily"))
    world.deliver(two_s3_configurations())
    assert world.collect()["objects"] == 2
    missing = World(tmp_path / "missing", with_configuration("weekly"))
    missing.deliver(two_s3_configurations())
    with pytest.raises(TerminalError, match=r"no complete s3_inventory report .* of configuration 'weekly'"):
        missing.collect()


def test_configuration_is_read_when_the_prefix_ends_in_it(tmp_path: Path) -> None:
    settings = a_bucket()
    assert settings.inventory
    one = settings.inventory.model_copy(update={"prefix": "inventory/media/daily/"})
    world = World(tmp_path, settings.model_copy(update={"inventory": one}))
    world.deliver(two_s3_configurations())
    assert world.collect()["objects"] == 2


def test_configuration_is_not_in_the_way_when_its_reports_are_too_old(world: World) -> None:
    world.deliver(two_s3_configurations(newer_days=1, older_days=7.9))
    with pytest.raises(TerminalError, match="'daily', 'logs-only'"):
        world.collect()
    world.remove(next(key for key in two_s3_configurations(1, 7.9) if key.endswith("T14-24Z/manifest.json")))
    world.deliver(two_s3_configurations(newer_days=1, older_days=8.1))
    assert world.collect()["objects"] == 1


def test_two_s3_configurations_are_refused_when_one_report_is_not_whole(world: World) -> None:
    files = two_s3_configurations()
    del files[next(key for key in files if "logs-only" in key and key.endswith(".checksum"))]
    world.deliver(files)
    with pytest.raises(TerminalError, match="'daily', 'logs-only'"):
        world.collect()


@pytest.mark.parametrize(
    ("filters", "told_apart"),
    [
        ({"prefixMatch": ["media/"]}, False),
        ({"excludePrefix": ["other/x"]}, False),
        ({"blobTypes": ["pageBlob", "blockBlob"]}, False),
        ({"prefixMatch": ["other/"]}, False),
        ({"excludePrefix": ["media/logs/"]}, True),
        ({"blobTypes": ["blockBlob"]}, True),
    ],
)
def test_azure_rules_are_told_apart_when_they_list_other_blobs(
    tmp_path: Path, filters: dict[str, Any], told_apart: bool
) -> None:
    world = World(tmp_path / "two", a_bucket(provider=Provider.AZURE))
    files = azure_report([[azure_row("a")]], taken_at=days_before(1))
    files |= azure_report([[azure_row("a")]], taken_at=days_before(0.5), rule="other", filters=filters)
    world.deliver(files, Provider.AZURE)
    if not told_apart:
        assert world.collect()["objects"] == 1
        return
    with pytest.raises(TerminalError, match=r"azure bucket 'media'.*'daily', 'other'.*inventory\.configuration"):
        world.collect()
    named = World(tmp_path / "one", with_configuration("daily", Provider.AZURE))
    named.deliver(files, Provider.AZURE)
    named.collect()
    assert "/daily/" in named.reports.rows["azure", "media"]["manifest"]


def test_any_gcs_configuration_will_do_because_all_list_the_whole_bucket(tmp_path: Path) -> None:
    world = World(tmp_path / "any", a_bucket(provider=Provider.GCP))
    other = "0a0a0a0a-157a-494f-af4a-d4a53a69ba66"
    files = gcs_report([[gcs_row("old")]], taken_at=days_before(1))
    files |= gcs_report([[gcs_row("new")]], taken_at=days_before(0.5), configuration=other)
    world.deliver(files, Provider.GCP)
    world.collect()
    assert world.published_keys() == ["new"]
    named = World(tmp_path / "one", with_configuration("fc95c52f-157a-494f-af4a-d4a53a69ba66", Provider.GCP))
    named.deliver(files, Provider.GCP)
    named.collect()
    assert named.published_keys() == ["old"]


def test_azure_rule_of_a_shorter_name_is_no_report_of_the_container(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket("media-archive", Provider.AZURE))
    files = azure_report([[azure_row("a")]], taken_at=days_before(1), filters={"prefixMatch": ["media/"]})
    world.deliver(files, Provider.AZURE)
    with pytest.raises(TerminalError, match="prefixMatch does not cover the whole container 'media-archive'"):
        world.collect()
    assert world.reports.rows == {}
