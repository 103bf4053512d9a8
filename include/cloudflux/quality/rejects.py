"""Rows that break an expectation of single rows: what to say of each, and the batch without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from cloudflux.lake.schemas import QUARANTINE
from cloudflux.quality.suites import Expectation
from cloudflux.quality.tables import BATCH

SUITES_WITH_REJECTS: Final = frozenset({"access_events", "inventory"})
"""Datasets that are read from what others wrote. The rest is computed here from rows that passed: a bad row there is a
fault of ours, and nothing is gained by leaving it out."""
MOST_REJECTED: Final = 0.01
"""Share of a batch's rows that may be left out. A few broken records are their sender's; more than that tells of a
format that has changed or of a fault of ours, and then what looks good may be wrong as well."""
RAW_CHARACTERS: Final = 2_000
"""Of a row's text in the quarantine, as for lines that could not be read."""

REJECTED_OBJECTS: Final = pa.schema(
    [
        pa.field("provider", pa.string()),
        pa.field("bucket", pa.string()),
        pa.field("key", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
    ]
)
"""Rows that were rejected from an inventory, which has no lines: the object, and the row as JSON."""


def rejecting(expectations: Iterable[Expectation]) -> str:
    """Give the SQL condition of the rows that break any of these."""
    return " OR ".join(f"coalesce({one.breaks}, false)" for one in expectations if one.breaks) or "false"


def count_rejected(connection: duckdb.DuckDBPyConnection, broken: Sequence[Expectation]) -> int:
    """Count the rows of the batch that break any of these."""
    sql = f"SELECT count(*) FROM {BATCH} WHERE {rejecting(broken)}"  # noqa: S608  # our own suites
    return int(connection.execute(sql).fetchall()[0][0])


def rejected_rows(
    connection: duckdb.DuckDBPyConnection,
    suite: str,
    broken: Sequence[Expectation],
    log_files: Mapping[str, tuple[str, str]],
) -> pa.Table:
    """Give the rows that break any of these, with all that is wrong with each as its reason.

    Access events come in the lake's ``QUARANTINE`` columns, of the log file and the line that they were read from;
    ``bucket`` and ``key`` are empty where ``log_files`` does not name the file. Others come as ``REJECTED_OBJECTS``.
    """
    reasons = ", ".join(
        f"CASE WHEN {one.breaks} THEN '{one.reason.replace(chr(39), chr(39) * 2)}' END" for one in broken
    )
    said = (
        f"'audit: ' || concat_ws('; ', {reasons}) AS reason, left(to_json({BATCH})::VARCHAR, {RAW_CHARACTERS}) AS raw"
    )
    connection.execute("SET TimeZone = 'UTC'")
    if suite != "access_events":
        sql = f"SELECT provider, bucket, key, {said} FROM {BATCH} WHERE {rejecting(broken)} ORDER BY ALL"  # noqa: S608  # ours
        return connection.sql(sql).to_arrow_table().cast(REJECTED_OBJECTS)
    sql = (
        "SELECT coalesce(source_file, '') AS source_file, coalesce(provider, '') AS provider, "  # noqa: S608  # our own
        f"coalesce(line, 0) AS line, coalesce(day, make_timestamp(epoch_us(\"at\"))::DATE, DATE '1970-01-01') AS day, "
        f"{said} FROM {BATCH} WHERE {rejecting(broken)} ORDER BY ALL"
    )
    found = connection.sql(sql).to_arrow_table()
    named = [log_files.get(file, ("", "")) for file in found["source_file"].to_pylist()]
    return (
        found.append_column("bucket", pa.array([bucket for bucket, _ in named], pa.string()))
        .append_column("key", pa.array([key for _, key in named], pa.string()))
        .select(QUARANTINE.names)
        .cast(QUARANTINE)
    )


def kept_rows(rows: pads.Dataset | pa.Table, condition: str) -> pa.Table:
    """Give the rows of which the condition is not true, in their order and schema."""
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("rows_in", rows)
        kept = connection.sql(f"SELECT * FROM rows_in WHERE NOT ({condition})").to_arrow_table()  # noqa: S608  # our own
    return kept.cast(rows.schema)
