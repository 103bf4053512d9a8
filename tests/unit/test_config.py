"""The estate file: what is refused, and that the message names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cloudflux.config import load_estate
from cloudflux.domain.errors import SettingsError

CLASSIC = {"bucket": "$logs", "prefix": "blob/", "format": "azure_classic"}


def refused(tmp_path: Path, *buckets: dict[str, object]) -> str:
    path = tmp_path / "estate.yaml"
    common = {"provider": "azure", "price_book": "azure-eastus-lrs", "connection_id": "one"}
    path.write_text(yaml.safe_dump({"buckets": [common | bucket for bucket in buckets]}))
    try:
        load_estate(path)
    except SettingsError as exc:
        return str(exc)
    return ""


def test_bucket_is_refused_when_it_is_named_twice(tmp_path: Path) -> None:
    told = refused(tmp_path, {"bucket": "data"}, {"bucket": "data", "connection_id": "other"})
    assert "'data' of azure is named 2 times: containers of one name in two accounts need an estate each" in told
    aws = {"bucket": "data", "provider": "aws"}
    assert "buckets: 'data' of aws is named 2 times" in refused(tmp_path, aws, aws)
    assert refused(tmp_path, {"bucket": "data"}, aws) == ""


def test_classic_logs_are_refused_when_two_connections_read_them(tmp_path: Path) -> None:
    first = {"bucket": "a", "logs": CLASSIC}
    assert refused(tmp_path, first, {"bucket": "b", "logs": CLASSIC}) == ""
    told = refused(tmp_path, first, {"bucket": "b", "logs": CLASSIC, "connection_id": "two"})
    assert "classic logs in '$logs' are read through 'one' and 'two'" in told


@pytest.mark.parametrize(
    ("bucket", "reason"),
    [
        ({"bucket": "a", "logs": {"bucket": "l", "format": "gcs_usage"}}, "gcs_usage is no format of azure"),
        (
            {"bucket": "a", "logs": [CLASSIC, {"bucket": "l", "format": "azure_resource"}]},
            "azure_classic and azure_resource tell of the same requests",
        ),
        ({"bucket": "a", "colour": "red"}, "buckets.0.colour: Extra inputs are not permitted"),
    ],
)
def test_bucket_is_refused_when_its_settings_do_not_fit(tmp_path: Path, bucket: dict[str, object], reason: str) -> None:
    assert reason in refused(tmp_path, bucket)
