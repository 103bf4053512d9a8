"""The training task: by which prices challenger and champion are charged."""

from __future__ import annotations

from typing import Any

import pytest

from cloudflux.config import Estate
from cloudflux.domain.errors import SettingsError
from cloudflux.orchestration.forecaster_tasks import bucket_prices


def estate(*buckets: dict[str, Any]) -> Estate:
    return Estate.model_validate({"buckets": [{"connection_id": "a", **bucket} for bucket in buckets]})


def test_each_bucket_has_its_own_book_and_the_classes_that_it_allows() -> None:
    found = bucket_prices(
        estate(
            {"provider": "aws", "bucket": "fast", "price_book": "aws-us-east-1"},
            {"provider": "aws", "bucket": "slow", "price_book": "aws-us-east-1", "latency": "hours"},
            {
                "provider": "gcp",
                "bucket": "few",
                "price_book": "gcs-us-central1",
                "allowed_classes": ["COLDLINE"],
            },
            {"provider": "gcp", "bucket": "autoclass", "price_book": "gcs-us-central1", "autopilot": True},
        )
    )
    assert {bucket: prices.book.name for bucket, prices in found.items()} == {
        ("aws", "fast"): "aws-us-east-1",
        ("aws", "slow"): "aws-us-east-1",
        ("gcp", "few"): "gcs-us-central1",
    }
    assert found["aws", "fast"].class_names == ("STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "GLACIER_IR")
    assert set(found["aws", "slow"].class_names) - set(found["aws", "fast"].class_names) == {"GLACIER", "DEEP_ARCHIVE"}
    assert found["gcp", "few"].class_names == ("STANDARD", "COLDLINE")


def test_nothing_is_priced_without_buckets() -> None:
    assert bucket_prices(estate()) == {}


def test_another_providers_book_is_refused() -> None:
    with pytest.raises(SettingsError, match="'few' of gcp"):
        bucket_prices(estate({"provider": "gcp", "bucket": "few", "price_book": "aws-us-east-1"}))
