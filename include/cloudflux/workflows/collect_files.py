"""Collect access logs: find the files that are new, and cut them into chunks of even size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from cloudflux.config import Estate, LogSource
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.workflows.collect_ports import (
    Lake,
    ListedFrom,
    LogStore,
    SourceFiles,
)

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
    listed_from: ListedFrom = lambda form, prefix, day: prefix,
    chunk_bytes: int = 512 * 2**20,
    chunk_files: int = 4000,
) -> list[str]:
    """List a provider's log files that are not published yet, and cut them into chunks of even size.

    Each chunk is a note of the batch with the files of one format. Returns the chunks' names. ``at`` is the time now.
    """
    names: list[str] = []
    lake.note(batch, f"listed-{provider}", at.isoformat())
    for (connection_id, form), sources in _log_sources(estate, provider).items():
        client = client_of(provider, connection_id)
        found: dict[tuple[str, str], SourceFile] = {}
        for source in sorted(sources, key=lambda source: (source.bucket, source.prefix)):
            start = ""
            if source.lookback_days is not None:
                start = listed_from(form, source.prefix, at.date() - timedelta(days=source.lookback_days))
            known = source_files.published(provider.value, source.bucket, source.prefix, start)
            for file in client.list_files(source.bucket, source.prefix, start):
                if file.size_bytes and (file.key, file.etag) not in known:
                    found[source.bucket, file.key] = SourceFile(
                        provider, source.bucket, file.key, file.etag, file.size_bytes, form, file.last_modified_at
                    )
        for number, files in enumerate(even_chunks([found[key] for key in sorted(found)], chunk_bytes, chunk_files)):
            name = f"{provider}-{connection_id}-{form}-{number:05d}"
            lake.note(batch, f"chunk-{name}", {"connection_id": connection_id, "files": [to_note(f) for f in files]})
            names.append(name)
    lake.note(batch, f"chunks-{provider}", names)
    return names


def _log_sources(estate: Estate, provider: Provider) -> dict[tuple[str, str], set[LogSource]]:
    sources: dict[tuple[str, str], set[LogSource]] = {}
    for bucket in estate.buckets:
        if bucket.provider is provider:
            for logs in bucket.logs:
                sources.setdefault((bucket.connection_id, logs.format), set()).add(logs)
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
