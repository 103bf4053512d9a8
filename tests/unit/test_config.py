"""The estate file: what is refused, and that the message names the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cloudflux.config import BucketSettings, load_estate
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


def on_aws(**settings: object) -> BucketSettings:
    common = {"provider": "aws", "bucket": "b", "price_book": "aws-us-east-1", "connection_id": "one"}
    return BucketSettings.model_validate(common | settings)


@pytest.mark.parametrize("below", [lambda text: text, lambda text: {"prefix": text}], ids=["excluded", "prefixes"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "/legal/",
            "'/legal/' begins with a slash, which keys seldom do: write 'legal/', or the address 's3://b//legal/'",
        ),
        ("/", "write 's3://b/'"),
        ("s3://other/legal/", "outside of s3://b/: write the beginning of the keys, as 'legal/'"),
        ("s3://b2/a%20b/", "outside of s3://b/: write the beginning of the keys, as 'a b/'"),
        ("gs://b/legal/", "outside of s3://b/"),
        ("s3a://b/legal/", "outside of s3://b/"),
    ],
)
def test_prefix_is_refused_when_it_would_match_no_key(
    tmp_path: Path, below: Callable[[str], object], text: str, reason: str
) -> None:
    key = "excluded_prefixes" if below(text) == text else "prefixes"
    told = refused(tmp_path, {"bucket": "b", "provider": "aws", key: [below(text)]})
    assert f"buckets.0.{key}" in told
    assert reason in told


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("legal/", "legal/"),
        ("s3://b/legal/", "legal/"),
        ("s3://b/a%20b/", "a b/"),
        ("s3://b//legal/", "/legal/"),
        ("s3://b/s3://c/", "s3://c/"),
        ("a%20b/", "a%20b/"),
        ("https://example.com/", "https://example.com/"),
    ],
)
def test_prefix_is_of_keys_when_an_address_in_the_bucket_is_written(text: str, keys: str) -> None:
    settings = on_aws(excluded_prefixes=[text], prefixes=[{"prefix": text, "pinned_class": "GLACIER"}])
    assert settings.excluded_prefixes == (keys,)
    assert [(below.prefix, below.pinned_class) for below in settings.prefixes] == [(keys, "GLACIER")]


def test_the_longest_prefix_that_speaks_of_latency_says_what_is_accepted_of_an_object() -> None:
    below = [
        {"prefix": "a/", "latency": "hours"},
        {"prefix": "a/b/c", "latency": "ms"},
        {"prefix": "a/b/", "pinned_class": "GLACIER"},
    ]
    settings = on_aws(prefixes=below)
    keys = ("x", "a/", "a/b/x", "a/b/c", "A/")
    assert [settings.latency_of(key) for key in keys] == ["ms", "hours", "hours", "ms", "ms"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"allowed_classes": ["STANDARD", "STANDRD_IA"]},
            "buckets.0.allowed_classes: Value error, 'STANDRD_IA' is no storage class of aws: it has STANDARD,",
        ),
        ({"allowed_classes": ["Cool"]}, "'Cool' is no storage class of aws"),
        ({"allowed_classes": []}, "an empty list allows no class at all: leave the key out"),
        (
            {"prefixes": [{"prefix": "a/"}, {"prefix": "b/"}, {"prefix": "s3://b/a/", "latency": "hours"}]},
            "buckets.0.prefixes: Value error, 'a/' is there 2 times",
        ),
    ],
)
def test_setting_is_refused_when_it_would_do_nothing(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    assert reason in refused(tmp_path, {"bucket": "b", "provider": "aws", **settings})


def test_classic_logs_are_told_apart_from_other_clouds_logs_of_the_same_name(tmp_path: Path) -> None:
    aws = {
        "bucket": "a",
        "provider": "aws",
        "connection_id": "aws",
        "price_book": "aws-us-east-1",
        "logs": {"bucket": "$logs", "format": "s3_server_access"},
    }
    assert refused(tmp_path, aws, {"bucket": "b", "logs": CLASSIC}) == ""
