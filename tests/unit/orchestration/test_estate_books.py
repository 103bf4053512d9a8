"""The price books of the estate: what does not fit its bucket is refused with the names of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.errors import SettingsError
from cloudflux.orchestration.estate_books import book_of, books_of

OURS = Path("include/cloudflux/price_books/aws-us-east-1.json")


def bucket(**overrides: object) -> BucketSettings:
    settings = {"provider": "aws", "bucket": "media", "price_book": "aws-us-east-1", "connection_id": "one"}
    return BucketSettings.model_validate(settings | overrides)


def test_books_are_given_by_name() -> None:
    estate = Estate(buckets=(bucket(), bucket(bucket="two"), bucket(provider="gcp", price_book="gcs-us-central1")))
    assert {name: book.name for name, book in books_of(estate).items()} == {
        "aws-us-east-1": "aws-us-east-1",
        "gcs-us-central1": "gcs-us-central1",
    }
    assert book_of(bucket()).name == "aws-us-east-1"


def test_book_is_refused_when_it_is_of_another_provider() -> None:
    wrong = bucket(price_book="azure-eastus-lrs")
    told = "bucket 'media' of aws: price_book 'azure-eastus-lrs' has the prices of azure: name one of aws"
    with pytest.raises(SettingsError, match=told):
        book_of(wrong)
    with pytest.raises(SettingsError, match=told):
        books_of(Estate(buckets=(bucket(bucket="other"), wrong)))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"allowed_classes": ["STANDARD", "ONEZONE_IA"]}, "allowed_classes"),
        ({"prefixes": [{"prefix": "a/", "pinned_class": "ONEZONE_IA"}]}, "pinned_class of 'a/'"),
    ],
)
def test_class_is_refused_when_the_book_lacks_it(tmp_path: Path, settings: dict[str, object], key: str) -> None:
    content = json.loads(OURS.read_text(encoding="utf-8"))
    content["classes"] = [one for one in content["classes"] if one["storage_class"] != "ONEZONE_IA"]
    for one in content["classes"]:
        one["lifecycle_to"] = [name for name in one["lifecycle_to"] if name != "ONEZONE_IA"]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert book_of(bucket(**settings)).name == "aws-us-east-1"
    with pytest.raises(SettingsError, match=f"bucket 'media' of aws: {key}: .*own.json' does not have ONEZONE_IA"):
        book_of(bucket(price_book=str(path), **settings))
