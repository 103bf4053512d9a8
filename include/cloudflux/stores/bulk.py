"""Whole batches in and out of PostgreSQL: COPY from rows and from Arrow, and text that PostgreSQL can hold."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, cast

import orjson
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import sql
from sqlalchemy import Connection

from cloudflux.stores.engine import raise_if_passing

_NULL: Final = "\\N"
_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
"""postgresql.org/docs/current/sql-copy.html, text format: all that may not stand in a cell as it is."""


@contextmanager
def temporary_copy_of(connection: Connection, table: str, columns: Sequence[str], *, name: str) -> Generator[None]:
    """Make an empty temporary table with some of a table's columns and none of its constraints."""
    listed = ", ".join(f'"{column}"' for column in columns)
    connection.exec_driver_sql(f"CREATE TEMP TABLE {name} AS SELECT {listed} FROM {table} WITH NO DATA")  # noqa: S608  # our own names
    yield
    # not in a `finally`: after an error the transaction is rolled back, and the table with it
    connection.exec_driver_sql(f"DROP TABLE {name}")


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """COPY rows into a table (its schema before a dot) in the connection's transaction."""
    with _copying(connection, _copy_statement(table, columns)) as copy:
        for row in rows:
            copy.write_row(row)


def copy_columns(connection: Connection, table: str, columns: Mapping[str, Sequence[str | None]]) -> None:
    """COPY columns whose cells are text as PostgreSQL reads it, or None; thousands of rows are joined in one go.

    Columns without cells copy nothing.
    """
    rows = max(map(len, columns.values()), default=0)
    if not rows:
        return
    cells = [[_NULL if cell is None else cell for cell in column] for column in columns.values()]
    nulls = sum(column.count(None) for column in columns.values())
    lines = "\n".join(map("\t".join, zip(*cells, strict=True)))
    plain = (
        lines.count("\\") == nulls
        and lines.count("\t") == rows * (len(columns) - 1)
        and lines.count("\n") == rows - 1
        and "\r" not in lines
    )
    if not plain:
        cells = [
            [_NULL if cell is None else cell.translate(_ESCAPED) for cell in column] for column in columns.values()
        ]
        lines = "\n".join(map("\t".join, zip(*cells, strict=True)))
    with _copying(connection, _copy_statement(table, list(columns))) as copy:
        copy.write(f"{lines}\n")


def copy_table(connection: Connection, table: str, data: pa.Table) -> None:
    """COPY an Arrow table without binary columns into a table of the same columns; no Python object for any row."""
    options = sql.SQL(" WITH (FORMAT csv)")
    with _copying(connection, _copy_statement(table, data.column_names) + options) as copy:
        for batch in data.to_batches(max_chunksize=10_000):
            sink = pa.BufferOutputStream()
            # strings are quoted, nulls are not: COPY tells '' from NULL by that
            pa_csv.write_csv(batch, sink, pa_csv.WriteOptions(include_header=False, quoting_style="needed"))
            copy.write(sink.getvalue())


def storable(text: str) -> str:
    r"""Give text that PostgreSQL can hold: NUL and lone surrogates, as strangers send them, are escaped (``\x00``)."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def to_json(value: object) -> str:
    """Write a value for a JSONB column: Decimals and what JSON does not know as text, NaN as null, NUL as text."""
    text = orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS)
    if rb"\u0000" not in text:
        return text.decode()
    # JSONB refuses the escape of NUL; an even number of backslashes before it leaves it an escape
    return re.sub(rb"(?<!\\)((?:\\\\)*)\\u0000", rb"\1\\\\u0000", text).decode()


def _text(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)


def _copy_statement(table: str, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


@contextmanager
def _copying(connection: Connection, statement: sql.Composed) -> Generator[psycopg.Copy]:
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except psycopg.Error as exc:
        raise_if_passing(exc, connection.engine.url, connecting=raw.broken)
        raise
