"""Rows as something that DuckDB can scan: local Parquet files where they are, everything else through Arrow."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs

BATCH: Final = "audited"
"""The table, or view, that holds the rows of the batch."""


def settings_of(folder: Path) -> dict[str, Any]:
    """Give DuckDB's settings for an audit: what does not fit into memory goes to ``folder``."""
    return {
        "threads": 2,
        # A scan of 20 million access events takes about 150 MB, and grouping ten million hashes 400 MB.
        "memory_limit": "512MB",
        "temp_directory": str(folder / "spilled"),
        # Nothing here asks for the order of rows, and keeping it costs memory.
        "preserve_insertion_order": False,
    }


def put_batch(connection: duckdb.DuckDBPyConnection, data: pads.Dataset | pa.Table) -> int:
    """Make the rows ``BATCH``: a view of local Parquet files, or else a copy in DuckDB's file. Gives their number."""
    columns = _readable(data.schema)
    scan = _scan_of_files(connection, data)
    if scan is not None:
        connection.execute(f"CREATE VIEW {BATCH} AS SELECT {columns} FROM {scan}")  # noqa: S608  # our own
    else:
        with _registered(connection, data, "data"):
            connection.execute(f"CREATE TABLE {BATCH} AS SELECT {columns} FROM data")  # noqa: S608  # our own
    return int(connection.execute(f"SELECT count(*) FROM {BATCH}").fetchall()[0][0])  # noqa: S608  # our own name


@contextmanager
def source_of(connection: duckdb.DuckDBPyConnection, data: pads.Dataset | pa.Table, name: str) -> Generator[str]:
    """Give what to write after FROM to scan the rows, once or more often."""
    scan = _scan_of_files(connection, data)
    if scan is not None:
        yield scan
        return
    with _registered(connection, data, name):
        yield name


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, data: pads.Dataset | pa.Table, name: str) -> Generator[None]:
    connection.register(name, data)
    try:
        yield
    finally:
        connection.unregister(name)


def _scan_of_files(connection: duckdb.DuckDBPyConnection, data: pads.Dataset | pa.Table) -> str | None:
    if (
        not isinstance(data, pads.FileSystemDataset)
        or not isinstance(data.filesystem, pyarrow.fs.LocalFileSystem)
        or not isinstance(data.format, pads.ParquetFileFormat)
    ):
        return None
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in data.files)
    # A folder named day=... would become a column.
    scan = f"read_parquet([{files}], hive_partitioning = false)"
    described = connection.execute(f"SELECT * FROM {scan} LIMIT 0").description  # noqa: S608  # our own
    found = connection.execute(f"SELECT count(*) FROM {scan}").fetchall()[0][0]  # noqa: S608  # our own
    # A dataset may be filtered, or have columns that its files lack: only Arrow can read those.
    if [column[0] for column in described] != data.schema.names or found != data.count_rows():
        return None
    return scan


def _readable(schema: pa.Schema) -> str:
    """Select all columns, nested ones as text: SQLAlchemy knows no lists of DuckDB, no suite looks into them."""
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    return "*" + (f" REPLACE ({', '.join(f'{n}::VARCHAR AS {n}' for n in nested)})" if nested else "")
