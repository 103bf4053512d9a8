"""Finding the log files that are new: what is listed, what is passed over, and each file once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from collecting import RecordedFiles

from cloudflux.access_logs.formats import log_format
from cloudflux.config import BucketSettings, Estate, LogSource
from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows.collect_files import find_new_files

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
UNIQUE = "00-00-00-0123456789ABCDEF"


class Logs(MemoryTierClient):
    """A cloud in memory that remembers from where it was listed."""

    def __init__(self, provider: Provider, *keys: str) -> None:
        super().__init__(provider, lambda: NOW)
        self.starts: list[str] = []
        self.create_bucket("logs")
        for key in keys:
            self.put_object(ObjectRef(provider, "logs", key), b"a line\n")

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[Any]:
        self.starts.append(start_from)
        return super().list_files(bucket, prefix, start_from)


def settings(logs: LogSource, bucket: str = "media", connection_id: str = "any", **more: Any) -> BucketSettings:
    provider = Provider.AZURE if logs.format.startswith("azure") else Provider.AWS
    return BucketSettings(
        provider=provider, bucket=bucket, logs=(logs,), price_book="any", connection_id=connection_id, **more
    )


def found(
    folder: Path, client: Logs, *buckets: BucketSettings, files: RecordedFiles | None = None, **options: Any
) -> list[str]:
    lake = Lake(str(folder / "lake"), shards=1)
    names = find_new_files(
        Estate(buckets=buckets),
        lambda *_: client,
        files or RecordedFiles(),
        lake,
        provider=client.provider,
        batch="run-1",
        at=NOW,
        passed_over=lambda form, key, day: log_format(form).passed_over(key, day),
        account_of=lambda form, key: log_format(form).account_of(key),
        **options,
    )
    return [file["key"] for name in names for file in lake.noted("run-1", f"chunk-{name}")["files"]]


def refused(folder: Path) -> dict[str, Any]:
    lake = Lake(str(folder / "lake"), shards=1)
    notes = [lake.noted("run-1", f"refused-{provider}") for provider in Provider]
    (note,) = [note for note in notes if note is not None]
    return note


def test_the_other_sources_are_listed_when_one_cannot_be(tmp_path: Path) -> None:
    client = Logs(Provider.AWS, "s3/a")
    gone = LogSource(bucket="gone", prefix="s3/", format="s3_server_access")
    here = LogSource(bucket="logs", prefix="s3/", format="s3_server_access")
    buckets = settings(gone, "one"), settings(here, "two"), settings(gone, "three")
    assert found(tmp_path, client, *buckets) == ["s3/a"]
    note = refused(tmp_path)
    assert note["unlisted"] == [["aws", "one"], ["aws", "three"]]
    (reason,) = note["reasons"]
    assert reason.startswith("aws: the logs of one, three, in 'gone' below 's3/', read through 'any': ")
    found(tmp_path, client, settings(here, "two"))
    assert refused(tmp_path) == {"reasons": [], "unlisted": []}


def test_a_source_that_is_away_is_given_up_on_at_the_last_attempt_only(tmp_path: Path) -> None:
    class HalfAway(Logs):
        def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[Any]:
            if prefix == "away/":
                raise TransientError("503 Slow Down")
            return super().list_files(bucket, prefix, start_from)

    client = HalfAway(Provider.AWS, "s3/a")
    sources = [LogSource(bucket="logs", prefix=prefix, format="s3_server_access") for prefix in ("away/", "s3/")]
    buckets = settings(sources[0], "one"), settings(sources[1], "two")
    with pytest.raises(TransientError):
        found(tmp_path, client, *buckets)
    assert found(tmp_path, client, *buckets, given_up_on=(TerminalError, TransientError)) == ["s3/a"]
    note = refused(tmp_path)
    assert note["unlisted"] == [["aws", "one"]]
    assert note["reasons"][0].endswith(": 503 Slow Down")


def test_files_before_the_lookback_are_not_listed_when_names_begin_with_the_day(tmp_path: Path) -> None:
    old = [f"s3/{year}-11-{day:02d}-{UNIQUE}" for year in (2025, 2026) for day in range(1, 13)]
    client = Logs(Provider.AWS, *old, f"s3/2026-11-19-{UNIQUE}")
    source = LogSource(bucket="logs", prefix="s3/", format="s3_server_access", lookback_days=7)
    assert found(tmp_path, client, settings(source)) == [f"s3/2026-11-19-{UNIQUE}"]
    assert client.starts == ["", "s3/2025.", "s3/2026-11-13"]


@pytest.mark.parametrize(
    "accounts", [["111122223333"], ["000000000001", "202511112222", "202699998888", "987654321098"]]
)
def test_new_files_of_each_account_are_found_when_names_are_partitioned_by_date(
    tmp_path: Path, accounts: list[str]
) -> None:
    # An account's number may sort before the year, behind it, or between two years.
    def keys(month: int, day: int) -> list[str]:
        dated = f"2026/{month:02d}/{day:02d}/2026-{month:02d}-{day:02d}-{UNIQUE}"
        return [f"s3/{account}/us-east-1/media/{dated}" for account in accounts]

    simple = [f"s3/{year}-01-01-{UNIQUE}" for year in (2024, 2025, 2026)]
    old = [*keys(1, 3), *keys(9, 1), *keys(9, 2), *simple]
    client = Logs(Provider.AWS, *old, *keys(11, 19), f"s3/2026-11-19-{UNIQUE}")
    source = LogSource(bucket="logs", prefix="s3/", format="s3_server_access", lookback_days=7)
    assert found(tmp_path, client, settings(source)) == sorted([*keys(11, 19), f"s3/2026-11-19-{UNIQUE}"])
    assert len(client.starts) == 1 + 3 + len(accounts)


def test_old_files_are_passed_over_in_one_listing_when_azure_lists_from_no_key(tmp_path: Path) -> None:
    accounts = [f"resourceId=/x/storageAccounts/{name}/blobServices/default" for name in ("a", "b")]
    keys = [f"{account}/y=2026/m=11/d={day:02d}/h=00/m=00/PT1H.json" for account in accounts for day in range(1, 20)]
    client = Logs(Provider.AZURE, *keys)
    source = LogSource(bucket="logs", format="azure_resource", prefix=accounts[1], lookback_days=7)
    new = found(tmp_path, client, settings(source))
    assert new == [key for key in keys if key.startswith(accounts[1]) and key >= f"{accounts[1]}/y=2026/m=11/d=12/"]
    assert client.starts == [""]


def test_file_is_taken_once_when_two_connections_see_it(tmp_path: Path) -> None:
    client = Logs(Provider.AWS, "s3/a", "s3/b", "more/c")
    shared = LogSource(bucket="logs", prefix="s3/", format="s3_server_access")
    more = LogSource(bucket="logs", prefix="more/", format="s3_server_access")
    buckets = settings(shared, connection_id="a"), settings(shared, "other", "b"), settings(more, "third", "b")
    assert sorted(found(tmp_path, client, *buckets)) == ["more/c", "s3/a", "s3/b"]


def test_published_files_are_left_out_when_they_are_the_same(tmp_path: Path) -> None:
    client = Logs(Provider.AWS, *(f"s3/{number}" for number in range(5)))
    files = RecordedFiles()
    state = client.head(ObjectRef(Provider.AWS, "logs", "s3/3"))
    row = {"provider": "aws", "bucket": "logs", "file_id": "3", "part": "p", "days": []}
    files.record([row | {"key": "s3/3", "etag": state.etag}, row | {"key": "s3/4", "etag": "another"}], NOW)
    source = LogSource(bucket="logs", prefix="s3/", format="s3_server_access")
    assert found(tmp_path, client, settings(source), files=files) == ["s3/0", "s3/1", "s3/2", "s3/4"]


def test_source_is_refused_when_it_has_the_logs_of_several_accounts(tmp_path: Path) -> None:
    keys = [
        "resourceId=/subscriptions/s/storageAccounts/acct/blobServices/default/y=2026/m=11/d=19/h=00/m=00/PT1H.json",
        "resourceId=/SUBSCRIPTIONS/S/STORAGEACCOUNTS/OTHER/BLOBSERVICES/DEFAULT/y=2026/m=11/d=19/h=00/m=00/PT1H.json",
    ]
    client = Logs(Provider.AZURE, *keys)
    assert found(tmp_path, client, settings(LogSource(bucket="logs", format="azure_resource"))) == []
    (reason,) = refused(tmp_path)["reasons"]
    assert "'logs' below '' are those of 2 storage accounts (acct, other)" in reason
    one = LogSource(bucket="logs", format="azure_resource", prefix="resourceId=/subscriptions/s/storageAccounts/acct/")
    assert found(tmp_path, client, settings(one)) == keys[:1]
