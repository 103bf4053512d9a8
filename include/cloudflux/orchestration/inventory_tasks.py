"""The tasks of `collect_inventory`: what each bucket's inventory is made of, its parts, publication."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from cloudflux.orchestration.edge import (
    audit,
    batch_of_run,
    day_of_run,
    engine,
    given_up_on,
    now,
    settings,
    terminal_errors_fail,
)

if TYPE_CHECKING:
    from cloudflux.domain.tiers import Provider
    from cloudflux.lake.snapshots import Snapshots

_log = logging.getLogger(__name__)


@terminal_errors_fail
def find_inventories(provider: str) -> list[dict[str, str]]:
    """Find each bucket's newest complete report, or that it is listed live, and cut it into parts."""
    from cloudflux.domain.tiers import Provider
    from cloudflux.inventories.formats import format_of
    from cloudflux.stores.inventory_reports import InventoryReports
    from cloudflux.workflows import inventory_reports

    return inventory_reports.find_inventories(
        settings().load_estate(),
        _clients(),
        format_of,
        InventoryReports(engine()),
        _snapshots(),
        provider=Provider(provider),
        batch=batch_of_run(),
        now=now(),
        given_up_on=given_up_on(),
    )


@terminal_errors_fail
def collect_part(provider: str, bucket: str, chunk: str) -> dict[str, int]:
    """Read one part of a bucket's report, or list the bucket live."""
    from cloudflux.inventories.formats import format_of
    from cloudflux.workflows import inventory_parts

    return inventory_parts.collect_part(
        settings().load_estate(),
        _clients(),
        format_of,
        _snapshots(),
        provider=provider,
        bucket=bucket,
        chunk=chunk,
        batch=batch_of_run(),
        day=day_of_run(),
        clock=now,
        given_up_on=given_up_on(),
    )


@terminal_errors_fail
def publish_inventory() -> dict[str, Any]:
    """Audit the snapshot of all buckets and publish it."""
    from cloudflux.stores.format_notices import FormatNotices
    from cloudflux.stores.inventory_reports import InventoryReports
    from cloudflux.stores.quarantine import QuarantineLog
    from cloudflux.workflows import inventory

    database = engine()
    published = inventory.publish_inventory(
        _snapshots(),
        InventoryReports(database),
        QuarantineLog(database),
        audit,
        batch=batch_of_run(),
        day=day_of_run(),
        clock=now,
    )
    for reason in published["refused"]:
        _log.warning("a bucket was refused: %s", reason)
    for reason in published.pop("passed_over", ()):
        _log.warning("an inventory report was passed over for the one before it: %s", reason)
    notices = published.pop("notices")
    for notice in notices:
        _log.warning("%s in %s: %s (%s)", notice.kind, notice.source, notice.name, notice.detail)
    return published | {"new_notices": FormatNotices(database).record(notices, now())}


@terminal_errors_fail
def name_refused_buckets(published: Mapping[str, Any]) -> None:
    """Fail when the snapshot was published without the day's report of some bucket, and say of each why."""
    from cloudflux.domain.errors import TerminalError

    refused = published["refused"]
    for reason in refused:
        _log.error("%s", reason)  # a line for each: the error below is one long line in Airflow's pages
    if refused:
        raise TerminalError(
            f"the snapshot is published, but for {len(refused)} bucket{'s' if len(refused) > 1 else ''}, refused: "
            f"{'; '.join(refused)}. When that is mended, start a new run: it replaces the day's snapshot"
        )


def _snapshots() -> Snapshots:
    from cloudflux.lake.snapshots import Snapshots

    current = settings()
    return Snapshots(current.lake_url, current.shards)


def _clients() -> Callable[[Provider, str], Any]:
    from cloudflux.orchestration.clients import tier_client

    return cache(tier_client)
