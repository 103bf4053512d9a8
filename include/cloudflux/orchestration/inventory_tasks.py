"""The tasks of `collect_inventory`: buckets, listing of one bucket, publication."""

from __future__ import annotations

from typing import Any

from cloudflux.orchestration.edge import audit, batch_of_run, day_of_run, lake, settings, terminal_errors_fail


@terminal_errors_fail
def find_buckets(provider: str) -> list[dict[str, str]]:
    """Name the buckets of one provider."""
    return [{"bucket": bucket.bucket} for bucket in settings().load_estate().buckets if bucket.provider == provider]


@terminal_errors_fail
def list_bucket(provider: str, bucket: str) -> dict[str, int]:
    """List one bucket into staged pieces of the snapshot."""
    from cloudflux.orchestration.clients import tier_client
    from cloudflux.workflows import inventory

    named = settings().load_estate().bucket(provider, bucket)
    return inventory.list_bucket(
        tier_client(named.provider, named.connection_id),
        lake(),
        batch=batch_of_run(),
        provider=provider,
        bucket=bucket,
        day=day_of_run(),
    )


@terminal_errors_fail
def publish_inventory() -> dict[str, Any]:
    """Audit the snapshot of all buckets and publish it."""
    from cloudflux.workflows import inventory

    return inventory.publish_inventory(lake(), audit, batch=batch_of_run(), day=day_of_run())
