"""The tasks of `collect_inventory`: buckets, listing of one bucket, publication."""

from __future__ import annotations

from datetime import date
from typing import Any

from cloudflux.orchestration.edge import (
    PROVIDERS,
    audit,
    batch_of_run,
    lake,
    now,
    settings,
    terminal_errors_fail,
)


@terminal_errors_fail
def find_buckets() -> dict[str, Any]:
    """Name the buckets of the estate by provider, and settle the snapshot's day."""
    buckets = settings().load_estate().buckets
    return {
        "batch": batch_of_run(),
        "day": now().date().isoformat(),
        **{provider: [bucket.bucket for bucket in buckets if bucket.provider == provider] for provider in PROVIDERS},
    }


@terminal_errors_fail
def list_bucket(batch: str, day: str, provider: str, bucket: str) -> dict[str, int]:
    """List one bucket into staged pieces of the snapshot."""
    from cloudflux.orchestration.clients import tier_client
    from cloudflux.workflows import collect

    named = settings().load_estate().bucket(provider, bucket)
    return collect.list_bucket(
        tier_client(named.provider, named.connection_id),
        lake(),
        batch=batch,
        provider=provider,
        bucket=bucket,
        day=date.fromisoformat(day),
    )


@terminal_errors_fail
def publish_inventory(batch: str, day: str) -> dict[str, Any]:
    """Audit the snapshot of all buckets and publish it."""
    from cloudflux.workflows import collect

    return collect.publish_inventory(lake(), audit, batch=batch, day=date.fromisoformat(day))
