"""Find what a bucket's inventory is made of: its newest complete report, cut into even chunks, or a live listing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cloudflux.config import BucketSettings, Estate, InventorySource
from cloudflux.domain.errors import CloudFluxError, ObjectNotFound, TerminalError
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.inventory_reports import InventoryReport, ReportFile, UnusableReport
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.workflows.inventory_notes import LIVE, OUTCOME, plan_name, run_name
from cloudflux.workflows.inventory_ports import (
    ClientOf,
    FormatOf,
    InventoryClient,
    InventoryReports,
    Lake,
    RecordedReport,
    ReportFormat,
)

MAX_REPORT_AGE: Final = timedelta(days=8)
"""Reports are made daily or weekly: an older one says that they are made no longer."""

_CHUNK_BYTES: Final = 256 << 20
_FILE_OVERHEAD_BYTES: Final = 1 << 20
"""What fetching and opening one more file costs, in bytes read meanwhile: evens out chunks of many small files."""
_OLD_REPORTS: Final = 20
"""How many reports that are too old anyway are looked into, for the message: a folder may hold those of years."""
_REASONS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class FoundReport:
    """The report of a bucket that a snapshot is made of."""

    report: InventoryReport
    passed_over: tuple[str, ...]
    """The newer ones, with the reason why each cannot be used."""
    notices: tuple[FormatNotice, ...]


def find_inventories(
    estate: Estate,
    client_of: ClientOf,
    format_of: FormatOf,
    reports: InventoryReports,
    lake: Lake,
    *,
    provider: Provider,
    batch: str,
    now: datetime,
    given_up_on: tuple[type[CloudFluxError], ...] = (TerminalError,),
    chunk_bytes: int = _CHUNK_BYTES,
) -> list[dict[str, str]]:
    """Find what the inventory of each bucket of a provider is made of, and cut it into parts of even size.

    Gives ``bucket`` and ``chunk`` of every part. A bucket whose report is missing, too old or without a column that is
    needed has no parts, and its plan says why: the others go on, and it is not listed live, which may take days. So is
    one whose reports cannot be looked for because of ``given_up_on``; other errors are raised.
    """
    if lake.noted(batch, OUTCOME) is not None:  # the run is made again
        lake.note(batch, OUTCOME, None)
    parts: list[dict[str, str]] = []
    named = [bucket for bucket in estate.buckets if bucket.provider is provider]
    for settings in named:
        plan: dict[str, Any] = {"report": None, "chunks": {LIVE: []}, "passed_over": [], "notices": []}
        if settings.inventory is not None:
            try:
                found = find_report(
                    client_of(provider, settings.connection_id),
                    format_of(settings.inventory.format),
                    settings,
                    settings.inventory,
                    recorded=reports.latest(provider.value, settings.bucket),
                    now=now,
                )
            except given_up_on as exc:
                plan |= {"chunks": {}, "refused": str(exc)}
            else:
                plan = {
                    "report": found.report.to_json(),
                    "chunks": {
                        f"{found.report.report_id}-{number:05d}": places
                        for number, places in enumerate(even_chunks(found.report.files, chunk_bytes))
                    },
                    "passed_over": list(found.passed_over),
                    "notices": [asdict(notice) for notice in found.notices],
                }
        lake.note(batch, plan_name(provider, settings.bucket), plan)
        parts += [{"bucket": settings.bucket, "chunk": chunk} for chunk in plan["chunks"]]
    lake.note(batch, run_name(provider), [settings.bucket for settings in named])
    return parts


def find_report(
    client: InventoryClient,
    reader: ReportFormat,
    settings: BucketSettings,
    source: InventorySource,
    *,
    recorded: RecordedReport | None,
    now: datetime,
) -> FoundReport:
    """Find the newest complete report of a bucket: manifest and checksum are there and agree, all files are listed.

    Raises ``TerminalError`` when there is none, saying where it looked, when the newest is too old, and when reports of
    several configurations are there that may not list the same objects.
    """
    who = f"{settings.provider} bucket {settings.bucket!r}"
    where = f"{source.bucket}/{source.prefix}"
    if source.configuration is not None:
        where += f" of configuration {source.configuration!r}"
    listing = _Listing(client, settings.provider, source)
    candidates = sorted(
        (
            (at, key)
            for key in listing.sizes
            if (at := reader.taken_at(key, settings.bucket)) is not None
            and source.configuration in (None, reader.configuration(key))
        ),
        reverse=True,
    )
    passed_over: list[str] = []
    too_old = 0
    for place, (begun_at, manifest) in enumerate(candidates):
        too_old += now - begun_at > MAX_REPORT_AGE
        if too_old > _OLD_REPORTS:
            break
        try:
            report = _complete(listing, reader, manifest, settings.bucket)
        except UnusableReport as exc:
            passed_over.append(f"{manifest}: {exc}")
            continue
        if now - report.taken_at > MAX_REPORT_AGE:
            raise TerminalError(
                f"the newest inventory report of {who} that can be used, {report.uri}, is of "
                f"{report.taken_at:%Y-%m-%d %H:%M} UTC, older than {MAX_REPORT_AGE.days} days: are reports still made?"
                f"{_told(passed_over)}"
            )
        rivals = _rivals(listing, reader, report, candidates, bucket=settings.bucket, since=now - MAX_REPORT_AGE)
        if rivals:
            names = ", ".join(repr(name) for name in sorted({reader.configuration(manifest), *rivals}))
            raise TerminalError(
                f"there are reports of {who} by several configurations below {where}, and they may not list the same "
                f"objects: {names}. Name the one that lists all of them in the estate's inventory.configuration; one "
                f"that was deleted or renamed is in the way until its newest report is {MAX_REPORT_AGE.days} days old"
            )
        older = [key for _, key in candidates[place + 1 :]]
        previous = _previous_fields(listing, reader, report, bucket=settings.bucket, recorded=recorded, older=older)
        return FoundReport(report, tuple(passed_over), tuple(reader.check(report, previous)))
    raise TerminalError(
        f"there is no complete {source.format} report of {who} below {where}{_told(passed_over)}: check the estate's "
        "inventory.bucket and inventory.prefix, or leave inventory out to have the bucket listed live"
    )


def _rivals(
    listing: _Listing,
    reader: ReportFormat,
    report: InventoryReport,
    candidates: Sequence[tuple[datetime, str]],
    *,
    bucket: str,
    since: datetime,
) -> list[str]:
    """Name the other configurations that reported since then, and whose reports list other objects, or may."""
    newest: dict[str, str] = {}
    for begun_at, key in candidates:
        if begun_at >= since:
            newest.setdefault(reader.configuration(key), key)
    newest.pop(reader.configuration(report.manifest), None)
    if not newest:
        return []
    scope = reader.scope(report.manifest, listing.read(report.manifest), bucket)
    rivals: list[str] = []
    for name, key in newest.items():
        try:
            if reader.scope(key, listing.read(key), bucket) != scope:
                rivals.append(name)
        except (ObjectNotFound, UnusableReport):  # it is gone, or not of this bucket
            continue
    return rivals


def _told(passed_over: Sequence[str]) -> str:
    if not passed_over:
        return ""
    more = f" and {len(passed_over) - _REASONS_SHOWN} more" if len(passed_over) > _REASONS_SHOWN else ""
    return f" (passed over: {'; '.join(passed_over[:_REASONS_SHOWN])}{more})"


class _Listing:
    """The files below a report source's prefix, and those beside them that a manifest names."""

    def __init__(self, client: InventoryClient, provider: Provider, source: InventorySource) -> None:
        self.bucket = source.bucket
        self.sizes: dict[str, int] = {}
        """By key."""
        self._client = client
        self._provider = provider
        self._prefix = source.prefix
        self._squeezed: dict[str, str] = {}
        self._listed: set[str] = set()
        self._list(source.prefix)

    def _list(self, prefix: str) -> None:
        if prefix in self._listed:
            return
        self._listed.add(prefix)
        for file in self._client.list_files(self.bucket, prefix):
            self.sizes[file.key] = file.size_bytes
            self._squeezed[_squeezed(file.key)] = file.key

    def find(self, file: ReportFile) -> ReportFile:
        """Give a data file under the name that it really has. Raises ``UnusableReport``."""
        if not file.key.startswith(self._prefix):
            self._list(file.key.rpartition("/")[0] + "/")
        # With a destination prefix that ends in a slash, S3 writes "//" into keys and "/" into the manifest.
        key = file.key if file.key in self.sizes else self._squeezed.get(_squeezed(file.key))
        if key is None:
            raise UnusableReport(f"its data file {file.key} is not there")
        size = self.sizes[key]
        if file.size_bytes not in (None, size):
            raise UnusableReport(f"its data file {key} has {size} bytes, not {file.size_bytes}")
        return replace(file, key=key, size_bytes=size)

    def read(self, key: str) -> bytes:
        """Read a small file. Raises ``ObjectNotFound``."""
        return self._client.get_object(ObjectRef(self._provider, self.bucket, key))


def _squeezed(key: str) -> str:
    return re.sub("/{2,}", "/", key)


def _complete(listing: _Listing, reader: ReportFormat, manifest: str, bucket: str) -> InventoryReport:
    """Read a manifest and find its files. Raises ``UnusableReport``."""
    try:
        content = listing.read(manifest)
    except ObjectNotFound as exc:
        raise UnusableReport("it is gone") from exc
    checksum = reader.checksum_key(manifest)
    if checksum is not None:
        try:
            _check_md5(content, listing.read(checksum))
        except ObjectNotFound as exc:
            raise UnusableReport("its checksum is not there: it is being written, or was cut off") from exc
    report = reader.read_manifest(listing.bucket, manifest, content, bucket)
    return replace(report, files=tuple(listing.find(file) for file in report.files))


def _check_md5(content: bytes, checksum: bytes) -> None:
    """Compare with an MD5 in hex digits or base64."""
    told = checksum.decode("ascii", "replace").strip().strip('"')
    found = hashlib.md5(content, usedforsecurity=False)
    if told.lower() != found.hexdigest() and told != base64.b64encode(found.digest()).decode():
        raise UnusableReport("its checksum is not that of the manifest")


def _previous_fields(
    listing: _Listing,
    reader: ReportFormat,
    report: InventoryReport,
    *,
    bucket: str,
    recorded: RecordedReport | None,
    older: Sequence[str],
) -> tuple[str, ...]:
    """Give the columns of the report that was read last, or of the one before this one; nothing when there is none."""
    keys = list(older[:2])
    if recorded is not None and recorded.format == report.format:
        if recorded.manifest == report.uri:
            return report.fields
        holder, _, key = recorded.manifest.partition("/")
        keys = [key, *keys] if holder == listing.bucket else keys
    for key in keys:
        try:
            return reader.read_manifest(listing.bucket, key, listing.read(key), bucket).fields
        except (ObjectNotFound, UnusableReport):
            continue
    return ()


def even_chunks(files: Sequence[ReportFile], chunk_bytes: int) -> list[list[int]]:
    """Cut files into as few chunks as the bound asks for, each of about the same weight: gives their places.

    A file larger than ``chunk_bytes`` is a chunk of its own at worst; none is ever split.
    """
    weights = [(file.size_bytes or 0) + _FILE_OVERHEAD_BYTES for file in files]
    wanted = min(len(files), -(-sum(weights) // (chunk_bytes + _FILE_OVERHEAD_BYTES)))
    chunks: list[list[int]] = [[] for _ in range(wanted)]
    filled = [0] * wanted
    for place in sorted(range(len(files)), key=lambda place: (-weights[place], files[place].key)):
        lightest = filled.index(min(filled))
        chunks[lightest].append(place)
        filled[lightest] += weights[place]
    return [sorted(chunk) for chunk in chunks]
