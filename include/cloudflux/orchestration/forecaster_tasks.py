"""The task of `train_access_forecaster`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from cloudflux.orchestration.edge import lake, now, recent_content_types, settings, terminal_errors_fail

if TYPE_CHECKING:
    from cloudflux.config import Estate
    from cloudflux_ml.backtest.holdout import Bucket, BucketPrices


@terminal_errors_fail
def train_forecaster() -> dict[str, Any]:
    """Train on all complete days, register the version, and promote it when it is no worse than the champion."""
    from cloudflux_ml.train import train_and_register

    current = settings()
    context = get_current_context()
    outcome = train_and_register(
        lake(),
        shards=current.shards,
        until=now().date(),
        history_days=current.history_days,
        registered_model=current.registered_model,
        content_types=recent_content_types(),
        prices=bucket_prices(current.load_estate()),
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


def bucket_prices(estate: Estate) -> dict[Bucket, BucketPrices]:
    """Give by what challenger and champion are charged: each bucket's own price book, and the classes it allows.

    A bucket whose provider chooses the classes is left out, as no forecast moves its objects. What holds for single
    prefixes of a bucket is not looked at. Raises ``SettingsError`` as ``books_of`` does.
    """
    from cloudflux.domain.policy import OwnerLimits, allowed_classes
    from cloudflux.domain.prices import Latency
    from cloudflux.orchestration.estate_books import books_of
    from cloudflux_ml.backtest.holdout import BucketPrices

    books, found = books_of(estate), {}
    for bucket in estate.buckets:
        if bucket.autopilot:
            continue
        book = books[bucket.price_book]
        allowed = {
            book.class_names[book.standard_code],
            *allowed_classes(book, OwnerLimits(Latency(bucket.latency), bucket.allowed_classes)),
        }
        names = tuple(name for name in book.class_names if name in allowed)
        found[(str(bucket.provider), bucket.bucket)] = BucketPrices(book, names)
    return found
