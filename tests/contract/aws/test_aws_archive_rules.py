"""By which rules a bucket's Intelligent-Tiering archives objects: read as S3 keeps them, page by page."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudflux.domain.archive_rules import ArchiveRule, archived_by
from cloudflux.domain.errors import BucketNotFound, TerminalError, TransientError
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_archive_rules import archive_rules

pytestmark = pytest.mark.contract


def put(s3: Any, bucket: str, name: str, days: dict[str, int], status: str = "Enabled", **filters: Any) -> None:
    configuration: dict[str, Any] = {
        "Id": name,
        "Status": status,
        "Tierings": [{"AccessTier": tier, "Days": count} for tier, count in days.items()],
    }
    if filters:
        configuration["Filter"] = filters
    s3.put_bucket_intelligent_tiering_configuration(
        Bucket=bucket, Id=name, IntelligentTieringConfiguration=configuration
    )


def test_rules_in_force_are_read_with_their_filters(s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket)
    assert archive_rules(s3, new_bucket) == []
    tag, other = {"Key": "team", "Value": "a & <b>"}, {"Key": "old", "Value": ""}
    put(s3, new_bucket, "all", {"DEEP_ARCHIVE_ACCESS": 180})
    put(s3, new_bucket, "both tiers", {"DEEP_ARCHIVE_ACCESS": 200, "ARCHIVE_ACCESS": 95}, Prefix="logs/ü&/")
    put(s3, new_bucket, "one tag", {"ARCHIVE_ACCESS": 90}, Tag=tag)
    put(s3, new_bucket, "several", {"ARCHIVE_ACCESS": 730}, And={"Prefix": "a/", "Tags": [tag, other]})
    put(s3, new_bucket, "off", {"ARCHIVE_ACCESS": 90}, status="Disabled")
    assert sorted(archive_rules(s3, new_bucket), key=lambda rule: rule.name) == [
        ArchiveRule("all", 180),
        ArchiveRule("both tiers", 95, "logs/ü&/"),
        ArchiveRule("one tag", 90, "", {"team": "a & <b>"}),
        ArchiveRule("several", 730, "a/", {"team": "a & <b>", "old": ""}),
    ]
    s3.delete_bucket_intelligent_tiering_configuration(Bucket=new_bucket, Id="all")
    put(s3, new_bucket, "several", {"ARCHIVE_ACCESS": 100}, status="Disabled")
    assert {rule.name for rule in archive_rules(s3, new_bucket)} == {"both tiers", "one tag"}


def test_an_objects_tags_tell_whether_a_rule_applies(s3: Any, client: AwsTierClient, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    put(s3, new_bucket, "red", {"ARCHIVE_ACCESS": 90}, Tag={"Key": "team", "Value": "red"})
    refs = [ObjectRef(Provider.AWS, new_bucket, key) for key in ("red", "blue", "bare")]
    for ref, tags in zip(refs, ({"team": "red", "n": "1"}, {"team": "blue"}, None), strict=True):
        client.put_object(ref, b"content", tags=tags)
    rules = archive_rules(s3, new_bucket)
    states = [state for state in client.head_many(refs) if isinstance(state, ObjectState)]
    found = [archived_by(rules, state.ref.key, state.tags) for state in states]
    assert [rule and rule.name for rule in found] == ["red", None, None]


def test_rules_of_all_pages_are_read(s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket)
    for number in range(230):
        put(s3, new_bucket, f"rule {number:03}", {"ARCHIVE_ACCESS": 90 + number})
    assert [rule.after_days for rule in archive_rules(s3, new_bucket)] == list(range(90, 320))


def test_a_bucket_that_is_not_there_is_named(s3: Any, new_bucket: str) -> None:
    with pytest.raises(BucketNotFound, match=new_bucket):
        archive_rules(s3, new_bucket)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [("AccessDenied", 403, TerminalError), ("SlowDown", 503, TransientError), ("NotImplemented", 501, None)],
)
def test_a_refusal_says_what_it_concerns(code: str, status: int, error: type[Exception] | None) -> None:
    class Refusing:
        def list_bucket_intelligent_tiering_configurations(self, **_: Any) -> Any:
            told = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(told, "ListBucketIntelligentTieringConfigurations")  # type: ignore[arg-type]  # what its stubs call complete

    if error is None:  # another store than S3, which has no such setting
        assert archive_rules(Refusing(), "media") == []
        return
    with pytest.raises(error, match="Intelligent-Tiering configurations of s3://media"):
        archive_rules(Refusing(), "media")
