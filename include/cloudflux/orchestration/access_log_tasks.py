"""The tasks of `collect_access_logs`: find, parse, publish."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from cloudflux.orchestration.edge import audit, batch_of_run, engine, lake, now, settings, terminal_errors_fail

if TYPE_CHECKING:
    from cloudflux.domain.tiers import Provider


@terminal_errors_fail
def find_new_log_files(provider: str) -> list[dict[str, str]]:
    """List the log buckets of one provider and cut what is new into chunks."""
    from cloudflux.domain.tiers import Provider
    from cloudflux.stores.source_files import SourceFiles
    from cloudflux.workflows.collect import find_new_files

    batch = batch_of_run()
    estate = settings().load_estate()
    names = find_new_files(estate, _clients(), SourceFiles(engine()), lake(), provider=Provider(provider), batch=batch)
    return [{"chunk": name} for name in names]


@terminal_errors_fail
def parse_log_files(chunk: str) -> dict[str, int]:
    """Parse one chunk of log files into staged access events and quarantine."""
    from cloudflux.workflows.collect import parse_chunk

    return parse_chunk(chunk, settings().load_estate(), _clients(), _parser_of, lake(), batch=batch_of_run())


@terminal_errors_fail
def publish_daily_access() -> dict[str, int]:
    """Audit and publish the events, and the daily access of every day that they touch."""
    from cloudflux.stores.quarantine import QuarantineLog
    from cloudflux.stores.source_files import SourceFiles
    from cloudflux.workflows.collect import audit_and_publish

    database = engine()
    return audit_and_publish(
        lake(), SourceFiles(database), QuarantineLog(database), audit, batch=batch_of_run(), clock=now
    )


def _parser_of(form: str) -> Any:
    from cloudflux.access_logs import azure_resource, gcs_usage, s3_server_access

    return {
        "s3_server_access": s3_server_access.parse_many,
        "azure_resource": azure_resource.parse_many,
        "gcs_usage": gcs_usage.parse_many,
    }[form]


def _clients() -> Callable[[Provider, str], Any]:
    from cloudflux.orchestration.clients import tier_client

    return cache(tier_client)
