"""Kill the collecting process at random moments, run it again, and compare what it published in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import cloudflux

_FORM: Final = "s3_server_access"
_LINES: Final = 60_000
_LINES_A_FILE: Final = 4_000
_BATCH: Final = "killed"


def killed_at_random(folder: Path, *, kills: int, seed: int = 11) -> dict[str, Any]:
    """Collect log files once undisturbed, once with ``kills`` kill -9 of the process; compare the bytes.

    A killed process is started again until it is done; then the next collecting begins, on an empty lake. The stores
    are files here, written by rename: what is tried is the order of the steps. Gives ``identical``, ``kills``, and
    ``runs``, how many collections these kills fell into.
    """
    rng = random.Random(seed)
    write_small(folder, _LINES)
    # The first process may have to compile the scanner: the moments of the kills are drawn from what the others take.
    _collect_in_process(folder, folder / "first")
    began = time.monotonic()
    _collect_in_process(folder, folder / "whole")
    seconds = time.monotonic() - began
    whole = published(folder / "whole")
    identical = bool(whole) and published(folder / "first") == whole
    done = runs = 0
    while done < kills:
        lake = folder / f"cut-{runs}"
        runs += 1
        finished = False
        while not finished:
            process = _started(folder, lake)
            try:
                # importing takes the first second or two: most moments fall into the work
                process.wait(timeout=rng.uniform(0.3, 1.0) * seconds if done < kills else None)
                finished = True
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
        if process.returncode:
            raise RuntimeError(f"collecting again after a kill ended with status {process.returncode}")
        identical = identical and published(lake) == whole
        shutil.rmtree(lake)
    return {"identical": identical, "kills": done, "runs": runs, "undisturbed_seconds": seconds}


def write_small(folder: Path, lines: int) -> None:
    """Write many small log files, over more than one day of delivery."""
    from cloudflux.local.bench.logs import write_logs

    write_logs(_FORM, folder / "logs" / _FORM, lines=lines, lines_a_file=_LINES_A_FILE)


def published(lake: Path) -> dict[str, bytes]:
    """Give the bytes of all published daily access and events by their place in the lake."""
    return {
        str(path.relative_to(lake)): path.read_bytes()
        for dataset in ("access_events", "log_hours", "daily_access")
        for path in sorted((lake / dataset).rglob("*.parquet"))
    }


def _started(folder: Path, lake: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "cloudflux.local.bench.kills", str(folder), str(lake)]
    environment = os.environ | {"PYTHONPATH": str(Path(cloudflux.__file__).parents[1])}
    return subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def _collect_in_process(folder: Path, lake: Path) -> None:
    process = _started(folder, lake)
    if process.wait():
        raise RuntimeError(f"collecting ended with status {process.returncode}")


class _FilesOnDisk:
    """The log files whose events are published, in one JSON file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def published(self, provider: str, bucket: str, keys: Any) -> set[tuple[str, str]]:
        return {(row["key"], row["etag"]) for row in self._rows.values() if row["published_at"]}

    def intend(self, rows: Any) -> None:
        for row in rows:
            self._rows.setdefault(f"{row['key']}\n{row['etag']}", _stored(row, None))
        self._save()

    def earlier(self, rows: Any) -> dict[str, list[date]]:
        wanted = {row["key"]: row["etag"] for row in rows}
        return {
            row["file_id"]: [date.fromisoformat(day) for day in row["days"]]
            for row in self._rows.values()
            if row["key"] in wanted and (not row["published_at"] or row["etag"] != wanted[row["key"]])
        }

    def record(self, rows: Any, at: datetime) -> None:
        self._rows.update({f"{row['key']}\n{row['etag']}": _stored(row, at.isoformat()) for row in rows})
        self._save()

    def _save(self) -> None:
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(self._rows))
        os.replace(partial, self._path)


def _stored(row: Any, at: str | None) -> dict[str, Any]:
    days = [day.isoformat() for day in row["days"]]
    return {"key": row["key"], "etag": row["etag"], "file_id": row["file_id"], "days": days, "published_at": at}


class _NoFault:
    rejected = None

    def kept(self, rows: Any) -> Any:
        return rows

    def raise_if_failed(self) -> None:
        pass


def main(folder: str, lake: str) -> None:
    """Collect all log files below ``folder`` into a lake: the find, parse and publish tasks of one DAG run."""
    from functools import partial

    from cloudflux.access_logs.formats import log_format, parse_files
    from cloudflux.config import BucketSettings, Estate, LogSource
    from cloudflux.domain.tiers import Provider
    from cloudflux.lake.partitions import Lake
    from cloudflux.local.bench.logs import BUCKET
    from cloudflux.local.bench.store import FolderStore, QuarantineInMemory
    from cloudflux.workflows.collect import audit_and_publish
    from cloudflux.workflows.collect_chunks import parse_chunk
    from cloudflux.workflows.collect_files import find_new_files

    logs = LogSource(bucket="logs", prefix=f"{_FORM}/", format=_FORM)
    bucket = BucketSettings(provider=Provider.AWS, bucket=BUCKET, logs=(logs,), price_book="any", connection_id="any")
    estate = Estate(buckets=(bucket,))
    store, target = FolderStore(Path(folder)), Lake(lake, 4)
    Path(lake).mkdir(parents=True, exist_ok=True)
    files = _FilesOnDisk(Path(lake) / "source_files.json")
    now = datetime.now(UTC)
    chunks = target.noted(_BATCH, "chunks-aws")
    if chunks is None:
        size = sum(path.stat().st_size for path in Path(folder, "logs").rglob("*.log"))
        chunks = find_new_files(
            estate,
            lambda *_: store,
            files,
            target,
            provider=Provider.AWS,
            batch=_BATCH,
            at=now,
            chunk_bytes=size // 4,
        )
    for chunk in chunks:
        if target.noted(_BATCH, f"parsed-{chunk}") is None:
            parse_chunk(
                chunk,
                estate,
                lambda *_: store,
                lambda name: partial(parse_files, log_format(name)),
                target,
                batch=_BATCH,
                part_rows=4_000,
            )
    audit_and_publish(target, files, QuarantineInMemory(), lambda *_: _NoFault(), batch=_BATCH, clock=lambda: now)


if __name__ == "__main__":
    main(*sys.argv[1:])
