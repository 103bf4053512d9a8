"""Collect access logs: find the files that are new, and cut them into chunks of even size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, Final

from cloudflux.config import PROVIDER_OF_FORMAT, Estate, LogSource
from cloudflux.domain.errors import CloudFluxError, SettingsError, TerminalError
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.workflows.collect_ports import (
    AccountOf,
    Lake,
    LogStore,
    PassedOver,
    SourceFiles,
    StoredFile,
)

_LISTED_FROM_ANY_KEY: Final = (Provider.AWS, Provider.GCP)
"""Azure lists from a key on since its version of 2026-02-06 only: before it, each new start would list all there is."""
_LOOKED_UP_AT_ONCE: Final = 5000
"""So many files of a listing are looked up together among those that are published."""
_FILE_OVERHEAD_BYTES: Final = 64 * 1024
"""What fetching one more file costs, in bytes of log parsed meanwhile: evens out chunks of many small files."""


def find_new_files(
    estate: Estate,
    client_of: Callable[[Provider, str], LogStore],
    source_files: SourceFiles,
    lake: Lake,
    *,
    provider: Provider,
    batch: str,
    at: datetime,
    passed_over: PassedOver = lambda form, key, day: key,
    account_of: AccountOf = lambda form, key: None,
    given_up_on: tuple[type[CloudFluxError], ...] = (TerminalError,),
    chunk_bytes: int = 512 * 2**20,
    chunk_files: int = 4000,
) -> list[str]:
    """List a provider's log files that are not published yet, and cut them into chunks of even size.

    Each chunk is a note of the batch with the files of one format. Returns the chunks' names. ``at`` is the time now.
    A source that cannot be listed, or has the logs of several Azure accounts (containers are told apart by name), is
    refused: the others go on, and ``refused-`` of the batch's notes says why, and of which buckets nothing is known.
    ``given_up_on``: the errors that refuse a source; others are raised.
    """
    names: list[str] = []
    refused: list[str] = []
    unlisted: set[tuple[str, str]] = set()
    taken: set[tuple[str, str]] = set()  # buckets of several connections may share a log bucket
    lake.note(batch, f"listed-{provider}", at.isoformat())
    for (connection_id, form), sources in _log_sources(estate, provider).items():
        found: dict[tuple[str, str], SourceFile] = {}
        for source in sorted(sources, key=lambda source: (source.bucket, source.prefix)):
            try:
                files = _new_files(
                    client_of(provider, connection_id),
                    source,
                    source_files,
                    since=None if (days := source.lookback_days) is None else at.date() - timedelta(days=days),
                    passed_over=passed_over,
                    account_of=account_of,
                )
                new = {(file.bucket, file.key): file for file in files}
            except given_up_on as exc:
                unlisted |= {(provider.value, bucket) for bucket in sources[source]}
                refused.append(
                    f"{provider}: the logs of {', '.join(sorted(sources[source]))}, in {source.bucket!r} below "
                    f"{source.prefix!r}, read through {connection_id!r}: {exc}"
                )
            else:
                found |= {name: file for name, file in new.items() if name not in taken}
        taken |= found.keys()
        for number, some in enumerate(even_chunks([found[key] for key in sorted(found)], chunk_bytes, chunk_files)):
            name = f"{provider}-{connection_id}-{form}-{number:05d}"
            lake.note(batch, f"chunk-{name}", {"connection_id": connection_id, "files": [to_note(f) for f in some]})
            names.append(name)
    lake.note(batch, f"refused-{provider}", {"reasons": refused, "unlisted": sorted(unlisted)})
    lake.note(batch, f"chunks-{provider}", names)
    return names


def _new_files(
    client: LogStore,
    source: LogSource,
    source_files: SourceFiles,
    *,
    since: date | None,
    passed_over: PassedOver,
    account_of: AccountOf,
) -> Iterator[SourceFile]:
    """Give the files of a source that are not published yet."""
    provider = PROVIDER_OF_FORMAT[source.format]
    listed = _listed(client, source, since, passed_over, may_begin_anywhere=provider in _LISTED_FROM_ANY_KEY)
    accounts: set[str] = set()
    while files := list(islice(listed, _LOOKED_UP_AT_ONCE)):
        accounts |= {account for file in files if (account := account_of(source.format, file.key)) is not None}
        _refuse_more_than_one(accounts, source)
        known = source_files.published(provider.value, source.bucket, [file.key for file in files])
        for file in files:
            if (file.key, file.etag) not in known:
                yield SourceFile(
                    provider, source.bucket, file.key, file.etag, file.size_bytes, source.format, file.last_modified_at
                )


def _listed(
    client: LogStore, source: LogSource, since: date | None, passed_over: PassedOver, *, may_begin_anywhere: bool
) -> Iterator[StoredFile]:
    """List the files below a source's prefix that are not empty, without those whose names tell that they are older."""
    start: str | None = ""
    while start is not None:
        begin, start = start, None
        for file in client.list_files(source.bucket, source.prefix, begin):
            onward = file.key if since is None else passed_over(source.format, file.key, since)
            if onward > file.key:
                if may_begin_anywhere:
                    start = onward
                    break
            elif file.size_bytes:
                yield file


def _refuse_more_than_one(accounts: Collection[str], source: LogSource) -> None:
    if len(accounts) > 1:
        raise SettingsError(
            f"the logs in {source.bucket!r} below {source.prefix!r} are those of {len(accounts)} storage accounts "
            f"({', '.join(sorted(accounts))}), whose containers may have the same names: let the prefix of "
            "each bucket's logs in the estate file end with the account, `.../storageAccounts/<account>/`"
        )


def _log_sources(estate: Estate, provider: Provider) -> dict[tuple[str, str], dict[LogSource, list[str]]]:
    """Give the log sources, with the buckets that they tell of, by connection and format."""
    sources: dict[tuple[str, str], dict[LogSource, list[str]]] = {}
    for bucket in estate.buckets:
        if bucket.provider is provider:
            for logs in bucket.logs:
                of_connection = sources.setdefault((bucket.connection_id, logs.format), {})
                of_connection.setdefault(logs, []).append(bucket.bucket)
    return sources


def even_chunks(files: Sequence[SourceFile], chunk_bytes: int, chunk_files: int) -> list[list[SourceFile]]:
    """Cut files into as few chunks as the bounds ask for, each of about the same weight, in their order.

    A file larger than ``chunk_bytes`` is a chunk of its own at worst; none is ever split.
    """
    if not files:
        return []
    total = sum(file.size_bytes for file in files)
    wanted = max(-(-total // chunk_bytes), -(-len(files) // chunk_files))
    weights = [file.size_bytes + _FILE_OVERHEAD_BYTES for file in files]
    share = sum(weights) / wanted
    chunks: list[list[SourceFile]] = [[]]
    before = 0
    for file, weight in zip(files, weights, strict=True):
        if chunks[-1] and before + weight / 2 >= share * len(chunks):
            chunks.append([])
        chunks[-1].append(file)
        before += weight
    return chunks


def to_note(file: SourceFile) -> dict[str, Any]:
    """Give a file as JSON, for the notes of a batch."""
    return asdict(file) | {"last_modified_at": file.last_modified_at.isoformat()}


def from_note(content: Mapping[str, Any]) -> SourceFile:
    """Give a file of the notes of a batch."""
    return SourceFile(
        **{
            **content,
            "provider": Provider(content["provider"]),
            "last_modified_at": datetime.fromisoformat(content["last_modified_at"]),
        }
    )
