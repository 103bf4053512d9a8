"""The results of all audits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, select, text

from cloudflux.stores.bulk import storable, to_json
from cloudflux.stores.tables import ValidationRow

RESULT_KEPT: Final = timedelta(days=90)
"""How long Great Expectations' own results are kept: hourly audits of 15 KiB each come to 30 MiB in that time. The
checks themselves stay."""
_RESULT_BYTES: Final = 512 * 1024
"""More than any suite of ours makes; a larger result is not kept."""


@dataclass(frozen=True, slots=True)
class Validation:
    """One audit of one batch."""

    validation_id: int
    dataset: str
    batch: str
    passed: bool
    checks: tuple[dict[str, Any], ...]
    rows: int | None
    """Of the batch; None for audits from before they were counted."""
    at: datetime


class Validations:
    """What was audited, and what came out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(
        self,
        dataset: str,
        batch: str,
        passed: bool,
        checks: Iterable[object],
        at: datetime,
        *,
        rows: int | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> int:
        """Record one audit, and give its id. ``checks`` are mappings or dataclasses (``quality.Check``), kept as JSON.

        ``result`` is Great Expectations' own. It is dropped after ``RESULT_KEPT``, by the dataset's next audits.
        """
        written = to_json(result) if result else None
        if written is not None and len(written) > _RESULT_BYTES:
            written = None
        with self._engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE cloudflux.validations SET result = NULL "
                    "WHERE dataset = :dataset AND validated_at < :before AND result IS NOT NULL"
                ),
                {"dataset": dataset, "before": at - RESULT_KEPT},
            )
            number: int = connection.execute(
                text(
                    "INSERT INTO cloudflux.validations (dataset, batch, passed, checks, rows, result, validated_at) "
                    "VALUES (:dataset, :batch, :passed, CAST(:checks AS jsonb), :rows, CAST(:result AS jsonb), :at) "
                    "RETURNING validation_id"
                ),
                {
                    "dataset": dataset,
                    "batch": storable(batch),
                    "passed": passed,
                    "checks": to_json(list(checks)),
                    "rows": rows,
                    "result": written,
                    "at": at,
                },
            ).scalar_one()
        return number

    def latest(self, dataset: str | None = None, *, passed: bool | None = None, limit: int = 20) -> list[Validation]:
        """Give the newest audits, newest first: of one dataset or of all, passed, failed or both."""
        wanted = select(*_COLUMNS).order_by(ValidationRow.validation_id.desc()).limit(limit)
        if dataset is not None:
            wanted = wanted.where(ValidationRow.dataset == dataset)
        if passed is not None:
            wanted = wanted.where(ValidationRow.passed == passed)
        with self._engine.connect() as connection:
            return [_validation(row) for row in connection.execute(wanted)]

    def find(self, validation_id: int) -> tuple[Validation, dict[str, Any] | None] | None:
        """Give one audit with Great Expectations' result, None where that is not kept; None when there is no such."""
        wanted = select(*_COLUMNS, ValidationRow.result).where(ValidationRow.validation_id == validation_id)
        with self._engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else (_validation(row), row.result)


_COLUMNS: Final = (
    ValidationRow.validation_id,
    ValidationRow.dataset,
    ValidationRow.batch,
    ValidationRow.passed,
    ValidationRow.checks,
    ValidationRow.rows,
    ValidationRow.validated_at,
)


def _validation(row: Any) -> Validation:
    return Validation(
        row.validation_id, row.dataset, row.batch, row.passed, tuple(row.checks), row.rows, row.validated_at
    )
