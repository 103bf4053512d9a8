"""The results of all audits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select, text

from cloudflux.stores.bulk import storable, to_json
from cloudflux.stores.tables import ValidationRow


@dataclass(frozen=True, slots=True)
class Validation:
    """One audit of one batch."""

    dataset: str
    batch: str
    passed: bool
    checks: tuple[dict[str, Any], ...]
    at: datetime


class Validations:
    """What was audited, and what came out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, dataset: str, batch: str, passed: bool, checks: Iterable[object], at: datetime) -> None:
        """Record one audit. ``checks`` are mappings or dataclasses (``quality.Check``), kept as JSON."""
        with self._engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO cloudflux.validations (dataset, batch, passed, checks, validated_at) "
                    "VALUES (:dataset, :batch, :passed, CAST(:checks AS jsonb), :at)"
                ),
                {
                    "dataset": dataset,
                    "batch": storable(batch),
                    "passed": passed,
                    "checks": to_json(list(checks)),
                    "at": at,
                },
            )

    def latest(self, dataset: str | None = None, *, passed: bool | None = None, limit: int = 20) -> list[Validation]:
        """Give the newest audits, newest first: of one dataset or of all, passed, failed or both."""
        wanted = select(ValidationRow).order_by(ValidationRow.validation_id.desc()).limit(limit)
        if dataset is not None:
            wanted = wanted.where(ValidationRow.dataset == dataset)
        if passed is not None:
            wanted = wanted.where(ValidationRow.passed == passed)
        with self._engine.connect() as connection:
            return [
                Validation(row.dataset, row.batch, row.passed, tuple(row.checks), row.validated_at)
                for row in connection.execute(wanted)
            ]
