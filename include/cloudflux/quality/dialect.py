"""DuckDB for SQLAlchemy, as Great Expectations needs it: a table's columns are asked of DuckDB itself.

duckdb-engine asks the catalogue of PostgreSQL, in queries of many joins that are compiled anew each time; the one for
primary keys fails, since DuckDB has no ``REGCLASS``. That took a third of an audit of few rows.
"""

from __future__ import annotations

from typing import Any, Final

import duckdb_engine
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.engine.interfaces import ReflectedPrimaryKeyConstraint
from sqlalchemy.types import TypeEngine

_TYPES: Final[dict[str, type[TypeEngine[Any]]]] = {
    "BIGINT": sa.BigInteger,
    "BOOLEAN": sa.Boolean,
    "DATE": sa.Date,
    "DOUBLE": sa.Double,
    "FLOAT": sa.Float,
    "INTEGER": sa.Integer,
    "SMALLINT": sa.SmallInteger,
    "TIMESTAMP": sa.TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": sa.TIMESTAMP,
    "TINYINT": sa.SmallInteger,
    "VARCHAR": sa.String,
}
"""The types of the lake's columns, nested ones being text by then (``tables.put_batch``)."""


class AuditDialect(duckdb_engine.Dialect):
    """duckdb-engine's dialect without its reflection by the catalogue of PostgreSQL."""

    supports_statement_cache = False

    def get_pk_constraint(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> ReflectedPrimaryKeyConstraint:
        """Give no key: what is audited has none."""
        return {"constrained_columns": [], "name": None}

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> list[Any]:
        """Give name, type and whether nulls may be there of the columns of a table or view, in their order."""
        found = connection.exec_driver_sql(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = ? "
            "AND schema_name = coalesce(?, 'main') ORDER BY column_index",
            (table_name, schema),
        ).fetchall()
        if not found:
            raise sa.exc.NoSuchTableError(table_name)
        return [
            {"name": name, "type": _TYPES.get(kind, sa.types.NullType)(), "nullable": nullable, "default": None}
            for name, kind, nullable in found
        ]


def use_audit_dialect() -> None:
    """Let SQLAlchemy take this dialect for URLs that begin with ``duckdb:``, in this process."""
    registry.register("duckdb", __name__, AuditDialect.__name__)
