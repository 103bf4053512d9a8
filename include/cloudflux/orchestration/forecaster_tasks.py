"""The task of `train_access_forecaster`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from airflow.sdk import get_current_context

from cloudflux.orchestration.edge import lake, now, recent_content_types, settings, terminal_errors_fail


@terminal_errors_fail
def train_forecaster() -> dict[str, Any]:
    """Train on all complete days, register the version, and promote it when it is no worse than the champion."""
    from cloudflux.price_books import load_book
    from cloudflux_ml.train import train_and_register

    current = settings()
    name = commonest(bucket.price_book for bucket in current.load_estate().buckets)
    context = get_current_context()
    outcome = train_and_register(
        lake(),
        shards=current.shards,
        until=now().date(),
        history_days=current.history_days,
        registered_model=current.registered_model,
        content_types=recent_content_types(),
        book=None if name is None else load_book(name),
        tags={"airflow.dag_id": context["dag"].dag_id, "airflow.run_id": context["dag_run"].run_id},
    )
    print(outcome.reason)  # noqa: T201  # the task's log says why a version is, or is not, champion
    return {
        "trained": outcome.trained,
        "reason": outcome.reason,
        "version": outcome.version,
        "run_id": outcome.run_id,
        "promoted": outcome.promoted,
        "train_rows": outcome.train_rows,
        "holdout_rows": outcome.holdout_rows,
        "metrics": dict(outcome.metrics),
    }


def commonest(price_books: Iterable[str]) -> str | None:
    """Give the price book that most buckets name, of several the first by name; None without buckets."""
    counted = Counter(price_books)
    return min(counted, key=lambda name: (-counted[name], name), default=None)
