"""What Great Expectations asks of a table is what DuckDB itself says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from foreign_warnings import GREAT_EXPECTATIONS

from cloudflux.lake.schemas import SCHEMAS
from cloudflux.quality.dialect import AuditDialect, use_audit_dialect
from cloudflux.quality.tables import BATCH, put_batch

pytestmark = GREAT_EXPECTATIONS


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    use_audit_dialect()
    engine = sa.create_engine("duckdb:///:memory:")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_urls_of_duckdb_take_this_dialect(connection: sa.Connection) -> None:
    assert type(connection.dialect) is AuditDialect


@pytest.mark.parametrize("dataset", sorted(SCHEMAS))
def test_every_column_of_a_dataset_has_a_type(connection: sa.Connection, dataset: str) -> None:
    put_batch(connection.connection.driver_connection, SCHEMAS[dataset].empty_table())  # type: ignore[arg-type]  # DuckDB's own
    columns = sa.inspect(connection).get_columns(BATCH)
    assert [column["name"] for column in columns] == SCHEMAS[dataset].names
    assert not [column["name"] for column in columns if isinstance(column["type"], sa.types.NullType)]


def test_columns_tell_their_types_and_nulls(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE t (a VARCHAR NOT NULL, b BIGINT, c TIMESTAMP WITH TIME ZONE, d DECIMAL(4, 1))"
    )
    found = {
        column["name"]: (type(column["type"]), column["nullable"]) for column in sa.inspect(connection).get_columns("t")
    }
    assert found == {
        "a": (sa.String, False),
        "b": (sa.BigInteger, True),
        "c": (sa.TIMESTAMP, True),
        "d": (sa.types.NullType, True),
    }


def test_no_table_has_a_primary_key(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
    assert sa.inspect(connection).get_pk_constraint("t")["constrained_columns"] == []


def test_a_table_that_is_not_there_is_named(connection: sa.Connection) -> None:
    with pytest.raises(sa.exc.NoSuchTableError, match="nowhere"):
        sa.inspect(connection).get_columns("nowhere")


def test_a_column_of_another_schema_is_not_taken(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
    connection.exec_driver_sql("CREATE SCHEMA other")
    connection.exec_driver_sql("CREATE TABLE other.t (b INTEGER)")
    names = [column["name"] for column in sa.inspect(connection).get_columns("t")]
    assert names == ["a"]
    assert [column["name"] for column in sa.inspect(connection).get_columns("t", schema="other")] == ["b"]
