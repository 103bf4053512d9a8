"""`bench collect`: from log files to published daily access, beside goaccess and DuckDB on the same files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cloudflux.local.bench.logs import BUCKET, write_logs
from cloudflux.local.bench.measured import in_fresh_process

PROVIDERS: Final = {
    "s3_server_access": "aws",
    "azure_resource": "azure",
    "azure_classic": "azure",
    "gcs_usage": "gcp",
    "gcs_audit": "gcp",
    "cloudtrail": "aws",
}
_SHARDS: Final = 8
_S3_COLUMNS: Final = 28


def write(form: str, folder: Path, lines: int) -> int:
    """Write log files as a log bucket below ``folder``; gives their size in bytes."""
    return write_logs(form, folder / "logs" / form, lines=lines)


def collect(form: str, folder: str, lake: str) -> dict[str, Any]:
    """Collect all log files of one format below a folder, by the very use cases that the DAG runs.

    Modules are imported, the scanner of the format is compiled or loaded, and Great Expectations is warm, before the
    clock starts: a worker does it once. How long that took comes as ``warm_up_seconds`` and ``scanner_seconds``.
    """
    from functools import partial

    from cloudflux.access_logs.formats import log_format, parse_files
    from cloudflux.config import BucketSettings, Estate, LogSource
    from cloudflux.domain.tiers import Provider
    from cloudflux.lake.partitions import Lake
    from cloudflux.lake.schemas import DAILY_ACCESS
    from cloudflux.local.bench.store import FilesInMemory, FolderStore, QuarantineInMemory
    from cloudflux.quality import audit
    from cloudflux.workflows.collect import audit_and_publish
    from cloudflux.workflows.collect_chunks import parse_chunk
    from cloudflux.workflows.collect_files import find_new_files

    provider = Provider(PROVIDERS[form])
    logs = LogSource(bucket="logs", prefix=f"{form}/", format=form)  # type: ignore[arg-type]  # pydantic checks it
    bucket = BucketSettings(provider=provider, bucket=BUCKET, logs=(logs,), price_book="any", connection_id="any")
    estate = Estate(buckets=(bucket,))
    began = time.perf_counter()
    audit("daily_access", DAILY_ACCESS.empty_table(), "warm-up")
    warm = time.perf_counter() - began
    began = time.perf_counter()
    _warm_scanner(form, provider)
    scanner = time.perf_counter() - began

    store, published, target = FolderStore(Path(folder)), FilesInMemory(), Lake(lake, _SHARDS)
    seconds: dict[str, float] = {}

    def timed_audit(suite: str, data: Any, batch: str) -> Any:
        start = time.perf_counter()
        report = audit(suite, data, batch)
        seconds[f"audit {suite}"] = time.perf_counter() - start
        return report

    now = datetime.now(UTC)
    began = time.perf_counter()
    chunks = find_new_files(estate, lambda *_: store, published, target, provider=provider, batch="bench", at=now)
    lines = 0
    for chunk in chunks:
        found = parse_chunk(
            chunk, estate, lambda *_: store, lambda name: partial(parse_files, log_format(name)), target, batch="bench"
        )
        lines += found["lines"]
    seconds["parse"] = time.perf_counter() - began
    result = audit_and_publish(target, published, QuarantineInMemory(), timed_audit, batch="bench", clock=lambda: now)
    seconds["all"] = time.perf_counter() - began
    reads = sum(target.read("daily_access", columns=["reads"])["reads"].to_pylist())
    return {
        "lines": lines,
        "events": result["events"],
        "reads": reads,
        "seconds": seconds,
        "warm_up_seconds": warm,
        "scanner_seconds": scanner,
    }


def _warm_scanner(form: str, provider: Any) -> None:
    """Parse a few lines, so that what is compiled is there."""
    from cloudflux.access_logs.formats import log_format, parse_whole
    from cloudflux.domain.source_files import SourceFile

    with tempfile.TemporaryDirectory(prefix="cloudflux-bench-") as folder:
        write_logs(form, Path(folder), lines=100)
        (path,) = Path(folder).iterdir()
        now = datetime.now(UTC)
        parse_whole(log_format(form), [(SourceFile(provider, "logs", "few", "few", 1, form, now), path.read_bytes())])


class ReadCsv(StrEnum):
    """What ``read_csv`` is asked for. DuckDB leaves undone whatever of a file nobody asks for."""

    SUM = "sum"
    """Three figures of two columns: all lines are split, and hardly anything is copied."""
    TABLE = "table"
    """All columns, as text in a table in memory: what the file holds, ready to be asked."""
    PARQUET = "parquet"
    """All columns, as text in a Parquet file, compressed as the lake is."""


def read_csv(folder: str, wanted: ReadCsv = ReadCsv.SUM) -> dict[str, Any]:
    """Read the same S3 logs by DuckDB's ``read_csv``, split on spaces and quotes."""
    import duckdb

    columns = ", ".join(f"'c{number:02d}': 'VARCHAR'" for number in range(_S3_COLUMNS))
    rows = (
        f"read_csv('{folder}/logs/s3_server_access/*.log', delim = ' ', quote = '\"', escape = '', header = false, "
        f"auto_detect = false, null_padding = true, columns = {{{columns}}})"
    )
    match ReadCsv(wanted):
        case ReadCsv.SUM:
            query = f"SELECT count(*), sum(try_cast(c13 AS BIGINT)), count(DISTINCT c08) FROM {rows}"  # noqa: S608  # our own
        case ReadCsv.TABLE:
            query = f"CREATE TABLE lines AS FROM {rows}"
        case ReadCsv.PARQUET:
            query = f"COPY (FROM {rows}) TO '{folder}/columns.parquet' (FORMAT parquet, COMPRESSION zstd)"
    settings = {"threads": 2, "temp_directory": f"{folder}/duckdb"}
    with duckdb.connect(config=settings) as connection:
        began = time.perf_counter()
        found = connection.execute(query).fetchall()
        return {"lines": found[0][0], "seconds": {"all": time.perf_counter() - began}}


def goaccess(folder: Path, output: Path) -> dict[str, Any] | None:
    """Read the same S3 logs by goaccess; None where it is not installed."""
    program = shutil.which("goaccess")
    if program is None:
        return None
    files = sorted(str(path) for path in (folder / "logs" / "s3_server_access").glob("*.log"))
    began = time.perf_counter()
    subprocess.run(
        [program, *files, "--log-format=AWSS3", "--no-global-config", "--no-progress", "-o", str(output)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return {"seconds": {"all": time.perf_counter() - began}}


def measure(form: str, folder: Path, lines: int) -> dict[str, Any]:
    """Write logs, collect them in a fresh process; give what was measured, with ``lines_per_second``."""
    bytes_ = write(form, folder, lines)
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    found = in_fresh_process(collect, form, str(folder), str(lake))
    if found["lines"] != lines:
        raise RuntimeError(f"{form}: {lines} lines were written and {found['lines']} were read")
    lake_bytes = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
    return {
        **found,
        "bytes": bytes_,
        "lake_bytes": lake_bytes,
        "lines_per_second": found["lines"] / found["seconds"]["all"],
    }
