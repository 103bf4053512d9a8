"""What use cases ask of the lake to read what is published."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any, Protocol


class PublishedLake(Protocol):
    """The published days of the lake."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""

    def dataset(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
    ) -> Any:
        """Give published rows as a lazy ``pyarrow.dataset.Dataset``; a tuple of two days is an inclusive range."""
