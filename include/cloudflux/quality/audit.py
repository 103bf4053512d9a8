"""Check a batch against its suite, in columns: the batch is scanned by DuckDB, and never a pandas frame.

Importing Great Expectations takes seconds, so it is imported when the first audit is made.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from cloudflux.domain.errors import AuditFailed
from cloudflux.quality.context import AuditContext, expectations_in
from cloudflux.quality.rejects import (
    MOST_REJECTED,
    SUITES_WITH_REJECTS,
    count_rejected,
    kept_rows,
    rejected_rows,
    rejecting,
)
from cloudflux.quality.suites import SUITES, Expectation, Severity
from cloudflux.quality.tables import BATCH, put_batch, settings_of

_EXAMPLES: Final = 3
_EXAMPLES_KEPT: Final = 10
"""In the stored result, and so in the Data Docs."""
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
    severity: str = Severity.CRITICAL
    by_row: bool = False
    """Whether single rows meet it or not, so that those which do not can be left out."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """How a batch met its suite.

    Publish like this: ``report.raise_if_failed()``; then, when ``report.rejected`` is not None, add those rows to the
    quarantine and publish ``report.kept(rows)`` in the place of the rows.
    """

    suite: str
    batch: str
    passed: bool
    """Whether the batch may be published, without its rejected rows."""
    rows: int
    """Of the batch, the rejected ones included."""
    checks: tuple[Check, ...]
    rejected: pa.Table | None = field(default=None, compare=False, repr=False)
    """Rows to leave out, with the reasons: in the lake's ``QUARANTINE`` columns for access events, as
    ``rejects.REJECTED_OBJECTS`` for an inventory. None when there are none, and when the batch failed."""
    result: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Great Expectations' own validation result as JSON, of bounded size."""
    rejecting: str = field(default="false", compare=False, repr=False)
    """The SQL condition of the rejected rows."""

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The expectations that were not met and do not keep the batch from being published."""
        return tuple(check for check in self.checks if not check.passed and check.severity != Severity.CRITICAL)

    def kept(self, rows: pads.Dataset | pa.Table) -> pa.Table:
        """Give rows of the batch (all of them, or those of one partition) without the rejected ones."""
        return kept_rows(rows, self.rejecting)

    def raise_if_failed(self) -> None:
        """Raise ``AuditFailed`` naming each expectation that keeps the batch unpublished, with examples.

        Nothing is raised for warnings, nor for rows that can be left out: they are in ``rejected``.
        """
        if self.passed:
            return
        failed = [check for check in self.checks if not check.passed and check.severity == Severity.CRITICAL]
        told = "; ".join(
            f"{check.description or check.expectation}{f' ({check.column})' if check.column else ''}: "
            f"{check.unexpected} of {self.rows} rows, e.g. {', '.join(check.examples) or 'no example'}"
            for check in failed
        )
        raise AuditFailed(f"batch {self.batch} of {self.suite} stays unpublished: {told}")


def audit(suite: str, data: pads.Dataset | pa.Table, batch: str, context: AuditContext | None = None) -> AuditReport:
    """Check ``data`` against the suite of that name, by a checkpoint. Raises ``KeyError`` when there is none.

    Parquet files of a local folder are scanned where they are; everything else is streamed into a DuckDB file in a
    temporary folder first. Memory stays flat either way. With a ``context`` freshness, volume and references are
    checked too, as far as it says what they need.
    """
    expectations = list(SUITES[suite])
    with tempfile.TemporaryDirectory(prefix="cloudflux-audit-") as folder:
        path = Path(folder) / "batch.duckdb"
        settings = settings_of(Path(folder))
        with duckdb.connect(path, config=settings) as connection:
            rows = put_batch(connection, data)
            if context is not None:
                expectations += expectations_in(suite, context, connection)
        validate = partial(
            _validate, suite, batch, expectations, path, settings=settings, at=context.now if context else None
        )
        # Looking for examples reads each column once more: only when there are any.
        results = validate(examples=0)
        if not results["success"]:
            results = validate(examples=_EXAMPLES_KEPT)
        with duckdb.connect(path, config=settings) as connection:
            checks = tuple(
                _check(connection, expectation, result, rows)
                for expectation, result in zip(expectations, results["results"], strict=True)
            )
            broken = [
                expectation
                for expectation, check in zip(expectations, checks, strict=True)
                if not check.passed and check.by_row and check.severity == Severity.CRITICAL
            ]
            critical = [check for check in checks if check.severity == Severity.CRITICAL]
            passed = all(check.passed or check.by_row for check in critical)
            if passed and broken:
                few = count_rejected(connection, broken) <= MOST_REJECTED * rows
                passed = few and suite in SUITES_WITH_REJECTS
            rejected = (
                rejected_rows(connection, suite, broken, context.log_files if context else {})
                if passed and broken
                else None
            )
    results["meta"]["cloudflux"] = {"passed": passed, "rows": rows, "rejected": rejected.num_rows if rejected else 0}
    return AuditReport(suite, batch, passed, rows, checks, rejected, results, rejecting(broken) if passed else "false")


@cache
def great_expectations() -> Any:
    """Import Great Expectations, quietly, once."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # It logs hundreds of INFO lines while it is imported, and sets its level only afterwards.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    from cloudflux.quality.dialect import use_audit_dialect  # SQLAlchemy and DuckDB's dialect: only with an audit

    class Dialect(StrEnum):
        DUCKDB = "duckdb"

    # Without it every query would open, and wait for, the file anew.
    engine._PERSISTED_CONNECTION_DIALECTS = (*engine._PERSISTED_CONNECTION_DIALECTS, Dialect.DUCKDB)
    use_audit_dialect()
    return great_expectations


@cache
def _project() -> Any:
    """Give the settings of a project in memory: no progress bars, and no folder for a site of documents."""
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars={"globally": False},
        analytics_enabled=False,
    )


def _validate(
    suite: str,
    batch: str,
    expectations: Sequence[Expectation],
    database: Path,
    *,
    settings: Mapping[str, Any],
    at: datetime | None,
    examples: int,
) -> dict[str, Any]:
    """Run the batch's checkpoint, and give its validation result as JSON, its parts in the expectations' order."""
    gx = great_expectations()
    data_context = gx.get_context(mode="ephemeral", project_config=_project())
    source = data_context.data_sources.add_or_update_sql(
        suite, connection_string=f"duckdb:///{database}", kwargs={"connect_args": {"config": dict(settings)}}
    )
    definition = source.add_table_asset(suite, table_name=BATCH).add_batch_definition_whole_table(suite)
    checked = gx.ExpectationSuite(suite)
    # Two of one kind and column would replace one another: each carries its place as its own mark.
    for place, one in enumerate(expectations):
        kind = getattr(gx.expectations, one.name)
        checked.add_expectation(kind(**one.arguments, severity=str(one.severity), meta={"place": place}))
    validation = gx.ValidationDefinition(name=suite, data=definition, suite=data_context.suites.add(checked))
    checkpoint = gx.Checkpoint(
        name=suite,
        validation_definitions=[data_context.validation_definitions.add(validation)],
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": examples},
    )
    run = gx.RunIdentifier(run_name=batch, run_time=at)
    try:
        ran = data_context.checkpoints.add(checkpoint).run(run_id=run)
    finally:
        engine = source.get_engine()
        source.get_execution_engine().close()
        engine.dispose()
    (found,) = ran.run_results.values()
    result: dict[str, Any] = found.to_json_dict()
    result["results"].sort(key=lambda part: part["expectation_config"]["meta"]["place"])
    for part in result["results"]:
        part["exception_info"] = _without_traceback(part["exception_info"])
    bounded: dict[str, Any] = _bounded(result)
    return bounded


def _without_traceback(info: Any) -> Any:
    if not isinstance(info, Mapping):
        return info
    # Great Expectations' page wants a text there, if only an empty one.
    return {name: "" if name == "exception_traceback" else _without_traceback(part) for name, part in info.items()}


def _bounded(value: Any) -> Any:
    """Cut long text, which strangers write, wherever it stands."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "..."
    if isinstance(value, Mapping):
        return {name: _bounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_bounded(part) for part in value]
    return value


_LONGEST_TEXT: Final = 2_000
"""More than any text of ours; a stored result has at most some hundred texts."""


def _check(connection: duckdb.DuckDBPyConnection, expectation: Expectation, result: dict[str, Any], rows: int) -> Check:
    """Read one result; examples of rows that a query found are added to it, for the Data Docs."""
    outcome = result["result"]
    raised = [info for info in _exceptions(result["exception_info"]) if info.get("raised_exception")]
    query = expectation.arguments.get("unexpected_rows_query")
    examples: tuple[str, ...] = ()
    unexpected = 0
    if raised:
        examples = tuple(str(info.get("exception_message"))[:_EXAMPLE_CHARACTERS] for info in raised)
    elif not result["success"] and query is not None:
        found = connection.execute(f"SELECT * FROM ({query.format(batch=BATCH)}) LIMIT {_EXAMPLES_KEPT}")  # noqa: S608  # ours
        names = [column[0] for column in found.description]
        shown = [_shown(dict(zip(names, row, strict=True))) for row in found.fetchall()]
        examples = tuple(shown[:_EXAMPLES])
        unexpected = int(outcome.get("observed_value") or 0)
        outcome |= {
            "element_count": rows,
            "unexpected_count": unexpected,
            "unexpected_percent": 100 * unexpected / max(rows, 1),
            "partial_unexpected_list": shown,
        }
    elif not result["success"]:
        listed = outcome.get("partial_unexpected_list") or [outcome.get("observed_value")]
        examples = tuple(_shown(value) for value in listed[:_EXAMPLES])
        unexpected = int(outcome.get("unexpected_count") or 0)
    return Check(
        expectation=result["expectation_config"]["type"],
        column=expectation.arguments.get("column"),
        description=expectation.arguments.get("description", ""),
        passed=bool(result["success"]) and not raised,
        unexpected=unexpected,
        examples=examples,
        severity=str(expectation.severity),
        by_row=expectation.breaks is not None and not raised,
    )


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [info] if "raised_exception" in info else [value for value in info.values() if isinstance(value, Mapping)]


def _shown(value: object) -> str:
    # Keys and user agents are written by strangers: repr keeps control characters out of logs.
    text = repr(value)
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "..."
