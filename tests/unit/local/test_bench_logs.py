"""The log files that collecting is measured with: as providers write them, and read as those of users are."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest

from cloudflux.access_logs.formats import log_format, parse_whole
from cloudflux.config import Estate
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.local.bench.collect import PROVIDERS
from cloudflux.local.bench.logs import BUCKET, write_logs

_LINES = 400
_SCANNED = ("s3_server_access", "azure_resource", "gcs_usage")
EXCLUSIONS = Estate(buckets=()).exclusions
"""Those of an estate that names none."""


def _files(form: str, folder: Path) -> list[tuple[SourceFile, bytes]]:
    assert write_logs(form, folder, lines=_LINES, lines_a_file=250) > 0
    provider, at = Provider(PROVIDERS[form]), datetime.now(UTC)
    return [
        (SourceFile(provider, "logs", path.name, path.name, path.stat().st_size, form, at), path.read_bytes())
        for path in sorted(folder.iterdir())
    ]


@pytest.mark.parametrize("form", PROVIDERS)
def test_every_line_is_read_and_none_is_refused(form: str, tmp_path: Path) -> None:
    found = parse_whole(log_format(form), _files(form, tmp_path), EXCLUSIONS)
    assert (found.lines, found.quarantine.num_rows, list(found.notices)) == (_LINES, 0, [])
    assert set(found.events["bucket"].to_pylist()) == {BUCKET}
    assert {"read", "write"} <= set(found.events["kind"].to_pylist())
    assert 0 < sum(found.events["excluded"].to_pylist()) < _LINES / 4  # our own requests are among them
    assert _LINES * 0.8 < found.events.num_rows < _LINES


@pytest.mark.parametrize("form", _SCANNED)
def test_every_line_goes_through_the_compiled_scanner(form: str, tmp_path: Path) -> None:
    files = _files(form, tmp_path)
    module = import_module(f"cloudflux.access_logs.{form}")
    with patch.object(module, "_by_rules", side_effect=AssertionError("a line went by the rules")):
        assert parse_whole(log_format(form), files, EXCLUSIONS).events.num_rows
