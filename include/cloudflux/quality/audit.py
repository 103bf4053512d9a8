"""Check a batch against its suite, in columns: the batch is a table of a DuckDB file, never a pandas frame.

Importing Great Expectations takes seconds, so it is imported when the first audit is made.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from sqlalchemy import Engine

from cloudflux.domain.errors import AuditFailed
from cloudflux.quality.suites import SUITES

_TABLE: Final = "audited"
_EXAMPLES: Final = 3
_EXAMPLE_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and how the batch met it."""

    expectation: str
    """Great Expectations' own name of it, e.g. ``expect_column_values_to_not_be_null``."""
    column: str | None
    description: str
    passed: bool
    unexpected: int
    """Rows that do not meet it; 0 for an expectation of the table as a whole."""
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """How a batch met its suite."""

    suite: str
    batch: str
    passed: bool
    rows: int
    checks: tuple[Check, ...]

    def raise_if_failed(self) -> None:
        """Raise ``AuditFailed`` naming each expectation that was not met, with examples."""
        if self.passed:
            return
        failed = [check for check in self.checks if not check.passed]
        told = "; ".join(
            f"{check.description or check.expectation}{f' ({check.column})' if check.column else ''}: "
            f"{check.unexpected} of {self.rows} rows, e.g. {', '.join(check.examples) or 'no example'}"
            for check in failed
        )
        raise AuditFailed(f"batch {self.batch} of {self.suite} stays unpublished: {told}")


def audit(suite: str, data: pads.Dataset | pa.Table, batch: str) -> AuditReport:
    """Check ``data`` against the suite of that name. Raises ``KeyError`` when there is none.

    The rows are streamed into a DuckDB file in a temporary folder, and Great Expectations asks DuckDB: memory stays
    flat.
    """
    expectations = SUITES[suite]
    with tempfile.TemporaryDirectory(prefix="cloudflux-audit-") as folder:
        path = Path(folder) / "batch.duckdb"
        with duckdb.connect(path, config={"threads": 2}) as connection:
            connection.register("data", data)
            connection.execute(f"CREATE TABLE {_TABLE} AS SELECT {_readable(data.schema)} FROM data")  # noqa: S608  # ours
            rows = connection.execute(f"SELECT count(*) FROM {_TABLE}").fetchall()[0][0]  # noqa: S608  # our own name
        checks = _validate(suite, expectations, path)
    return AuditReport(suite, batch, all(check.passed for check in checks), int(rows), checks)


def _readable(schema: pa.Schema) -> str:
    """Select all columns, nested ones as text: SQLAlchemy knows no lists of DuckDB, no suite looks into them."""
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    return "*" + (f" REPLACE ({', '.join(f'{n}::VARCHAR AS {n}' for n in nested)})" if nested else "")


@cache
def _great_expectations() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # It logs hundreds of INFO lines while it is imported, and sets its level only afterwards.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    class Dialect(StrEnum):
        DUCKDB = "duckdb"

    # Without it every query would open, and wait for, the file anew.
    engine._PERSISTED_CONNECTION_DIALECTS = (*engine._PERSISTED_CONNECTION_DIALECTS, Dialect.DUCKDB)
    return great_expectations


def _validate(suite: str, expectations: tuple[tuple[str, Mapping[str, Any]], ...], path: Path) -> tuple[Check, ...]:
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_or_update_sql(
        suite, connection_string=f"duckdb:///{path}", kwargs={"connect_args": {"config": {"threads": 2}}}
    )
    definition = source.add_table_asset(_TABLE, table_name=_TABLE).add_batch_definition_whole_table("whole")
    checked = gx.ExpectationSuite(suite)
    # Two of one kind and column would replace one another: each carries its place as its own mark.
    for place, (name, arguments) in enumerate(expectations):
        checked.add_expectation(getattr(gx.expectations, name)(**arguments, meta={"place": place}))
    validation = gx.ValidationDefinition(name=suite, data=definition, suite=context.suites.add(checked))
    found = context.validation_definitions.add(validation).run(
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES}
    )
    results = sorted(found.results, key=lambda result: result.expectation_config.meta["place"])
    engine = source.get_engine()
    try:
        return tuple(
            _check(engine, arguments, result) for (_, arguments), result in zip(expectations, results, strict=True)
        )
    finally:
        source.get_execution_engine().close()
        engine.dispose()


def _check(engine: Engine, arguments: Mapping[str, Any], result: Any) -> Check:
    outcome = result.result
    raised = [info for info in _exceptions(result.exception_info) if info.get("raised_exception")]
    if raised:
        examples: tuple[str, ...] = tuple(str(info.get("exception_message"))[:_EXAMPLE_CHARACTERS] for info in raised)
        unexpected = 0
    elif result.success:
        examples, unexpected = (), 0
    elif "unexpected_rows_query" in arguments:
        query = arguments["unexpected_rows_query"].format(batch=_TABLE)
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(f"SELECT * FROM ({query}) LIMIT {_EXAMPLES}").mappings().all()  # noqa: S608  # our own suite
        examples = tuple(_shown(dict(row)) for row in rows)
        unexpected = int(outcome.get("observed_value") or 0)
    else:
        listed = outcome.get("partial_unexpected_list") or [outcome.get("observed_value")]
        examples = tuple(_shown(value) for value in listed[:_EXAMPLES])
        unexpected = int(outcome.get("unexpected_count") or 0)
    return Check(
        expectation=result.expectation_config.type,
        column=arguments.get("column"),
        description=arguments.get("description", ""),
        passed=bool(result.success) and not raised,
        unexpected=unexpected,
        examples=examples,
    )


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [info] if "raised_exception" in info else [value for value in info.values() if isinstance(value, Mapping)]


def _shown(value: object) -> str:
    # Keys and user agents are written by strangers: repr keeps control characters out of logs.
    return repr(value)[:_EXAMPLE_CHARACTERS]
