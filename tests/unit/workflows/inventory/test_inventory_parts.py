"""Reading reports of inventories: damaged files, bad rows, missing columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from inventory_report_files import (
    azure_report,
    azure_row,
    gcs_report,
    gcs_row,
    s3_report,
    s3_row,
)
from unit.workflows.inventory.world import (
    World,
    a_bucket,
)

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.tiers import Provider


def test_report_is_refused_with_the_files_name_when_its_md5_is_wrong(world: World) -> None:
    files = s3_report([[s3_row("a")], [s3_row("b")]])
    data = sorted(key for key in files if "/data/" in key)[1]
    files[data] = bytes([*files[data][:-1], files[data][-1] ^ 1])
    world.deliver(files)
    assert world.read(world.find())[0] == {"refused": 1}
    with pytest.raises(TerminalError, match=rf"aws bucket 'media'.*{data} is damaged: its MD5 is"):
        world.publish()
    assert world.published_bytes() == {}


def test_report_is_refused_with_the_files_name_when_parquet_does_not_open(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.GCP))
    world.deliver(gcs_report([[gcs_row()]], data_format="parquet", data=[b"PAR1 no more"]), Provider.GCP)
    with pytest.raises(TerminalError, match=r"_0\.parquet is damaged"):
        world.collect()


def test_report_is_refused_when_a_file_expires_meanwhile(world: World) -> None:
    files = s3_report([[s3_row("a")]])
    world.deliver(files)
    parts = world.find()
    world.remove(next(key for key in files if "/data/" in key))
    world.read(parts)
    with pytest.raises(TerminalError, match="is damaged: it is gone"):
        world.publish()


def test_bad_rows_go_to_quarantine_when_they_are_few(world: World) -> None:
    rows = [s3_row(f"k{number}", Size="junk" if number in (7, 250) else 1) for number in range(300)]
    world.deliver(s3_report([rows]))
    result = world.collect()
    assert (result["objects"], result["quarantined"]) == (298, 2)
    assert sorted(line for _, line in world.quarantine.rows) == [8, 251]
    row = next(iter(world.quarantine.rows.values()))
    assert (row["provider"], row["bucket"], row["reason"]) == ("aws", "reports", "Size is not a number of bytes")
    assert row["key"].endswith(".csv.gz")
    assert '"key": "k7"' in row["raw"]
    assert world.reports.rows["aws", "media"]["quarantined"] == 2
    assert world.collect("again")["quarantined"] == 2
    assert len(world.quarantine.rows) == 2


def test_report_is_refused_when_more_than_one_row_in_a_hundred_is_bad(world: World) -> None:
    rows = [s3_row(f"k{number}", Size="junk" if number in (7, 8, 250, 251) else 1) for number in range(300)]
    world.deliver(s3_report([rows[:150], rows[150:]]))
    world.read(world.find(chunk_bytes=1))
    with pytest.raises(
        TerminalError, match=r"manifest.json of aws bucket 'media' is refused: 4 of 300 rows.*row 8: Size is"
    ):
        world.publish()
    assert (world.published_bytes(), world.quarantine.rows, world.reports.rows) == ({}, {}, {})


@pytest.mark.parametrize("provider", [Provider.AZURE, Provider.GCP])
def test_report_is_refused_when_rows_are_missing(tmp_path: Path, provider: Provider) -> None:
    world = World(tmp_path, a_bucket(provider=provider))
    if provider is Provider.AZURE:
        world.deliver(azure_report([[azure_row("a")]], summary={"objectCount": 2}), provider)
    else:
        world.deliver(gcs_report([[gcs_row("a")]], records_processed=2), provider)
    world.read(world.find())
    with pytest.raises(TerminalError, match="its manifest counts 2 rows, its data files have 1"):
        world.publish()


def test_report_is_refused_when_it_tells_of_another_bucket_only(world: World) -> None:
    world.deliver(s3_report([[s3_row("a", Bucket="other")]]))
    world.read(world.find())
    with pytest.raises(TerminalError, match="tells of another bucket only"):
        world.publish()


def test_container_is_empty_when_an_account_has_blobs_elsewhere_only(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.AZURE))
    world.deliver(azure_report([[azure_row("a", Name="other/a")]]), Provider.AZURE)
    assert world.collect()["objects"] == 0


def test_column_is_named_before_anything_is_read_when_it_is_missing(world: World) -> None:
    row = s3_row()
    del row["StorageClass"]
    world.deliver(s3_report([[row]]))
    with pytest.raises(TerminalError, match="has no StorageClass: switch on StorageClass"):
        world.collect()
