"""The tasks of `collect_access_logs`: find, parse, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from cloudflux.orchestration.edge import (
    audit,
    batch_of_run,
    engine,
    given_up_on,
    lake,
    now,
    settings,
    terminal_errors_fail,
)

if TYPE_CHECKING:
    from cloudflux.domain.tiers import Provider

_log = logging.getLogger(__name__)


@terminal_errors_fail
def find_new_log_files(provider: str) -> list[dict[str, str]]:
    """List the log buckets of one provider and cut what is new into chunks."""
    from cloudflux.access_logs.formats import log_format
    from cloudflux.domain.tiers import Provider
    from cloudflux.stores.source_files import SourceFiles
    from cloudflux.workflows.collect_files import find_new_files

    batch = batch_of_run()
    estate = settings().load_estate()
    names = find_new_files(
        estate,
        _clients(),
        SourceFiles(engine()),
        lake(),
        provider=Provider(provider),
        batch=batch,
        at=now(),
        passed_over=lambda form, key, day: log_format(form).passed_over(key, day),
        account_of=lambda form, key: log_format(form).account_of(key),
        given_up_on=given_up_on(),
    )
    return [{"chunk": name} for name in names]


@terminal_errors_fail
def parse_log_files(chunk: str) -> dict[str, int]:
    """Parse one chunk of log files into staged access events and quarantine."""
    from cloudflux.workflows.collect_chunks import parse_chunk

    return parse_chunk(chunk, settings().load_estate(), _clients(), _parser_of, lake(), batch=batch_of_run())


@terminal_errors_fail
def publish_daily_access() -> dict[str, Any]:
    """Audit and publish the events, and the daily access of every day that they touch."""
    from cloudflux.stores.format_notices import FormatNotices
    from cloudflux.stores.quarantine import QuarantineLog
    from cloudflux.stores.source_files import SourceFiles
    from cloudflux.workflows.collect import audit_and_publish

    database = engine()
    published = audit_and_publish(
        lake(), SourceFiles(database), QuarantineLog(database), audit, batch=batch_of_run(), clock=now
    )
    notices = published.pop("notices")
    for notice in notices:
        _log.warning("%s in %s: %s (%s)", notice.kind, notice.source, notice.name, notice.detail)
    return published | {"new_notices": FormatNotices(database).record(notices, now())}


@terminal_errors_fail
def name_refused_log_sources(published: Mapping[str, Any]) -> None:
    """Fail when some logs could not be listed, and say of each source why and which buckets it tells of."""
    from cloudflux.domain.errors import TerminalError

    refused = published["refused"]
    for reason in refused:
        _log.error("%s", reason)  # a line for each: the error below is one long line in Airflow's pages
    if refused:
        raise TerminalError(
            f"what could be listed is published, but {len(refused)} log source{'s' if len(refused) > 1 else ''} could "
            f"not: {'; '.join(refused)}. Their buckets have no coverage from now on. When that is mended, the next run "
            "takes their files"
        )


def _parser_of(form: str) -> Any:
    from cloudflux.access_logs.formats import log_format, parse_files

    return partial(parse_files, log_format(form))


def _clients() -> Callable[[Provider, str], Any]:
    from cloudflux.orchestration.clients import tier_client

    return cache(tier_client)
