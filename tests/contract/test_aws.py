"""What only S3 has: versions, ACLs, encryption, archives that need a restore."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient

pytestmark = pytest.mark.contract


@pytest.fixture
def client(s3: Any) -> AwsTierClient:
    return AwsTierClient(s3)


def _move(client: AwsTierClient, seen: ObjectState, to_class: str = "STANDARD_IA") -> TierChangeResult:
    return client.change_tiers([TierChange(seen, to_class)])[0]


def _ref(bucket: str, key: str = "a.bin") -> ObjectRef:
    return ObjectRef(Provider.AWS, bucket, key)


def test_headers_and_encryption_are_kept_when_an_object_moves(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    key = "arn:aws:kms:us-east-1:123456789012:key/11111111-1111-4111-8111-111111111111"
    s3.put_object(
        Bucket=new_bucket,
        Key="a.bin",
        Body=b"content",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a b.bin"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        ContentType="application/x-thing",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=key,
        WebsiteRedirectLocation="/elsewhere",
    )
    seen = client.head(_ref(new_bucket))
    assert seen.headers == {
        "cache-control": "max-age=60",
        "content-disposition": 'attachment; filename="a b.bin"',
        "content-encoding": "gzip",
        "content-language": "de",
        "server-side-encryption": "aws:kms",
        "kms-key-id": key,
        "website-redirect-location": "/elsewhere",
    }
    assert "md5:" not in (seen.checksum or "")  # under KMS the ETag is no MD5
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert differences(seen, client.head(_ref(new_bucket)), "STANDARD_IA", keeps_etag=False) == ()


def test_the_old_version_is_gone_when_an_object_of_a_versioned_bucket_moved(
    client: AwsTierClient, s3: Any, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(_ref(new_bucket), b"history")
    seen = client.put_object(_ref(new_bucket), b"content", tags={"a": "1"})
    assert seen.ref.version_id
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    versions = s3.list_object_versions(Bucket=new_bucket)["Versions"]
    after = client.head(_ref(new_bucket))
    assert {version["VersionId"] for version in versions} >= {after.ref.version_id}
    assert seen.ref.version_id not in {version["VersionId"] for version in versions}
    assert len(versions) == 2  # the history before it stays
    assert differences(seen, after, "STANDARD_IA", keeps_etag=False) == ()


def test_grants_are_kept_when_the_bucket_has_acls(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectOwnership="ObjectWriter")
    s3.put_object(Bucket=new_bucket, Key="a.bin", Body=b"content", ACL="public-read")

    def grants() -> set[tuple[str, str]]:
        found = s3.get_object_acl(Bucket=new_bucket, Key="a.bin")["Grants"]
        return {(grant["Grantee"].get("URI") or grant["Grantee"]["ID"], grant["Permission"]) for grant in found}

    before = grants()
    assert any("AllUsers" in who for who, _ in before)
    assert _move(client, client.head(_ref(new_bucket))).outcome is ChangeOutcome.CHANGED
    assert grants() == before


def test_an_archived_object_moves_only_when_it_was_restored(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="GLACIER")
    refused = _move(client, seen, "STANDARD")
    assert refused.outcome is ChangeOutcome.ERROR
    assert "restore" in refused.detail
    s3.restore_object(Bucket=new_bucket, Key="a.bin", RestoreRequest={"Days": 1})
    # moto tells that the restore runs when it is first asked, and that it is complete from then on
    assert _move(client, seen, "STANDARD").outcome in (ChangeOutcome.RESTORING, ChangeOutcome.CHANGED)
    assert _move(client, seen, "STANDARD").outcome is ChangeOutcome.CHANGED
    assert client.get_object(_ref(new_bucket)) == b"content"


def test_an_object_over_the_limit_of_one_copy_is_an_error(client: AwsTierClient, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")
    client.capabilities = replace(client.capabilities, max_change_bytes=6)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "multipart" in result.detail


def test_requests_name_us_when_they_are_sent(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    AwsTierClient(s3)  # a second one on the same boto3 client
    agents: list[str] = []

    def look(request: Any, **_: Any) -> None:
        agents.append(str(request.headers["User-Agent"]))

    s3.meta.events.register("before-send.s3", look)
    client.create_bucket(new_bucket)
    s3.meta.events.unregister("before-send.s3", look)
    assert [agent.count("cloudflux/") for agent in agents] == [1], agents


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("InternalError", 500), ("XYZ", 503)],
)
def test_the_error_is_transient_when_s3_is_busy(
    client: AwsTierClient,
    new_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    status: int,
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")

    def busy(**_: Any) -> Any:
        response = {"Error": {"Code": code, "Message": "later"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(response, "CopyObject")

    monkeypatch.setattr(client._s3, "copy_object", busy)
    with pytest.raises(TransientError, match="later"):
        _move(client, seen)


def test_a_refusal_is_the_objects_own_outcome(
    client: AwsTierClient, s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content")

    def denied(**_: Any) -> Any:
        response = {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise ClientError(response, "CopyObject")

    monkeypatch.setattr(s3, "copy_object", denied)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "AccessDenied" in result.detail


def test_writing_into_an_unknown_class_is_a_terminal_error(client: AwsTierClient, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    with pytest.raises(TerminalError, match="InvalidStorageClass"):
        client.put_object(_ref(new_bucket), b"content", storage_class="LUKEWARM")
