"""The world's objects and log files put into the buckets, and the estate file that names them.

What is there already stays as it is: a second demo uploads nothing twice and finds every object in the class that the
first one left it in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import polars as pl
import yaml

from cloudflux.config import DEFAULT_EXCLUDED_AGENTS, BucketSettings, Estate
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.log_writers import LogFile, log_buckets, log_sources, write_logs, write_wrong_logs
from cloudflux.local.demo.world import World
from cloudflux.providers.protocol import CAPABILITIES, ObjectStore

THREADS: Final = 12
_AHEAD: Final = 48
"""How many uploads may wait for a thread: bounds the log files that are in memory at once."""

_PRICE_BOOK: Final = {
    Provider.AWS: "aws-us-east-1",
    Provider.AZURE: "azure-eastus-lrs",
    Provider.GCP: "gcs-us-central1",
}
_CONNECTION: Final = {
    Provider.AWS: "aws_default",
    Provider.AZURE: "wasb_default",
    Provider.GCP: "google_cloud_default",
}

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload did."""

    objects: int = 0
    objects_there: int = 0
    bytes: int = 0
    log_files: int = 0
    log_files_there: int = 0
    wrong_log_files: int = 0


Progress = Callable[[str, int, int], None]
"""Told what is uploaded, how many are done and how many there are."""


def upload(
    world: World,
    stores: Mapping[Provider, ObjectStore],
    *,
    wrong_logs: bool,
    gone: Collection[str] = frozenset(),
    on_progress: Progress,
) -> Uploaded:
    """Put the world's objects and logs into their buckets, leaving out what is there already.

    ``gone`` holds the URIs of objects that an earlier demo deleted on purpose. Raises what the clients raise.
    """
    there: dict[tuple[Provider, str], set[str]] = {}
    for provider, bucket in [*world.buckets, *log_buckets(world)]:
        stores[provider].create_bucket(bucket)
        there[provider, bucket] = {file.key for file in stores[provider].list_files(bucket)}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="upload") as pool:
        uploader = _Uploader(stores, there, pool)
        counts = uploader.objects(world, gone, on_progress)
        total = _expected_files(world)
        files, files_there = uploader.logs(
            write_logs(world), lambda done: on_progress("log files", done, max(done, total))
        )
        wrong = sum(uploader.logs(write_wrong_logs(world))) if wrong_logs else 0
    return replace(counts, log_files=files, log_files_there=files_there, wrong_log_files=wrong)


def object_bytes(seed: int, object_no: int, size_bytes: int) -> bytes:
    """Make an object's content: pseudo-random, the same on every call, not to be compressed away."""
    return np.random.Generator(np.random.SFC64([seed, 4, object_no])).bytes(size_bytes)


def estate_of(world: World) -> Estate:
    """Name the world's buckets with their logs, price books and connections."""
    return Estate(
        buckets=tuple(
            BucketSettings(
                provider=provider,
                bucket=bucket,
                logs=log_sources(world, provider, bucket),
                price_book=_PRICE_BOOK[provider],
                connection_id=_CONNECTION[provider],
            )
            for provider, bucket in world.buckets
        ),
        excluded_agents=DEFAULT_EXCLUDED_AGENTS,
    )


def write_estate(world: World, path: Path) -> None:
    """Write the estate file of the world."""
    content = estate_of(world).model_dump(mode="json", exclude_defaults=True)
    content.setdefault("excluded_agents", list(DEFAULT_EXCLUDED_AGENTS))
    header = f"# The buckets of the demo's world {world.name!r}; written by `./cloudflux demo`.\n"
    path.write_text(header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Uploader:
    """Uploads what is not there, some at a time."""

    stores: Mapping[Provider, ObjectStore]
    there: Mapping[tuple[Provider, str], Collection[str]]
    pool: ThreadPoolExecutor

    def objects(self, world: World, gone: Collection[str], on_progress: Progress) -> Uploaded:
        """Upload the world's objects."""
        columns = ("object_no", "provider", "bucket", "key", "size_bytes", "storage_class", "content_type", "kind")
        total = world.objects.height
        # Clouds take turns: no emulator waits while another is busy.
        in_turn = world.objects.sort(pl.col("object_no") % (1 + total // 3), "object_no").select(columns)
        # One Python object for each upload, which is one HTTP request.
        missing: list[tuple[ObjectRef, int, int, str, str, str | None]] = []
        for number, provider, bucket, key, size, storage_class, content_type, kind in in_turn.iter_rows():
            ref = ObjectRef(Provider(provider), bucket, key)
            if key not in self.there[ref.provider, bucket] and ref.uri not in gone:
                missing.append((ref, number, size, storage_class, content_type, kind))
        on_progress("objects", total - len(missing), total)

        def put(item: tuple[ObjectRef, int, int, str, str, str | None]) -> int:
            ref, number, size, storage_class, content_type, kind = item
            self.stores[ref.provider].write_object(
                ref,
                object_bytes(world.seed, number, size),
                storage_class=storage_class,
                content_type=content_type,
                # A replayed object gets nothing that its trace does not know.
                metadata={"origin": "cloudflux-demo", "kind": kind} if kind else None,
                tags={"team": kind} if kind and CAPABILITIES[ref.provider].has_tags else None,
            )
            return size

        uploaded = uploaded_bytes = 0
        for size in _done(self.pool, put, missing):
            uploaded += 1
            uploaded_bytes += size
            on_progress("objects", total - len(missing) + uploaded, total)
        return Uploaded(objects=uploaded, objects_there=total - uploaded, bytes=uploaded_bytes)

    def logs(self, files: Iterable[LogFile], on_progress: Callable[[int], None] = lambda done: None) -> tuple[int, int]:
        """Upload log files. Gives how many were uploaded, and how many were there."""

        def put(file: LogFile) -> bool:
            if file.key in self.there[file.provider, file.bucket]:
                return False
            self.stores[file.provider].write_object(ObjectRef(file.provider, file.bucket, file.key), file.data)
            return True

        uploaded = done = 0
        for new in _done(self.pool, put, files):
            uploaded += new
            done += 1
            on_progress(done)
        return uploaded, done - uploaded


def _expected_files(world: World) -> int:
    """Estimate how many log files there will be, for the progress display."""
    return world.days * (len(world.buckets) + 1)


_Done = TypeVar("_Done")


def _done(pool: ThreadPoolExecutor, work: Callable[[_Item], _Done], items: Iterable[_Item]) -> Iterator[_Done]:
    """Run the work in the pool and give each result, with a bounded number of items under way."""
    waiting: deque[Future[_Done]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
