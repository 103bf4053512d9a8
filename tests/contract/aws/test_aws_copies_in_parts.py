"""Objects that S3 copies in parts: all but the class is kept, and no part is left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from contract.aws.wire import ACTED, Wire, move, new_client, ref, refused, tap

from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectState
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_copies import CopyLimits
from cloudflux.providers.aws_http import Answer

pytestmark = pytest.mark.contract

_MIB = 2**20


def _in_parts(s3: Any, **limits: int) -> AwsTierClient:
    defaults = {"one_copy_bytes": 7 * _MIB, "part_bytes": 5 * _MIB}
    return new_client(s3, limits=CopyLimits(**{**defaults, **limits}))


_BODY = bytes(range(256)) * (12 * _MIB // 256) + b"and a bit"


def _put_large(s3: Any, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket,
        Key="a.bin",
        Body=_BODY,
        CacheControl="max-age=60",
        ContentType="application/x-thing",
        ContentLanguage="de",
        Metadata={"owner": "ann", "note": "a; b = c"},
        Tagging="team=red+%2B+blue&empty=",
        ServerSideEncryption="AES256",
    )


def _uploads(s3: Any, bucket: str) -> list[Any]:
    found: list[Any] = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return found


@pytest.fixture
def client(s3: Any, new_bucket: str) -> Iterator[AwsTierClient]:
    """A client that copies in parts, and a bucket with an object that is large enough for it."""
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    yield client
    client.close()


def test_all_but_the_class_is_kept_when_an_object_is_copied_in_parts(
    client: AwsTierClient, s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = tap(client, monkeypatch)
    (seen,) = client.head_many([ref(new_bucket)])
    assert isinstance(seen, ObjectState)
    assert client.change_tiers([TierChange(seen, "GLACIER_IR", now=seen)])[0].outcome is ChangeOutcome.CHANGED
    assert wire.count("PUT", "partNumber=") == 3
    (after,) = client.head_many([ref(new_bucket)])
    assert isinstance(after, ObjectState)
    assert after.tags == {"team": "red + blue", "empty": ""}
    assert differences(seen, after, "GLACIER_IR", keeps_etag=False) == ()
    assert client.get_object(seen.ref) == _BODY
    assert _uploads(s3, new_bucket) == []


def test_the_etag_stays_when_what_was_uploaded_in_parts_is_copied_in_parts(s3: Any, new_bucket: str) -> None:
    client = _in_parts(s3, part_bytes=7 * _MIB)
    client.create_bucket(new_bucket)
    upload = s3.create_multipart_upload(Bucket=new_bucket, Key="a.bin", Metadata={"a": "b"})["UploadId"]
    parts = [
        s3.upload_part(
            Bucket=new_bucket, Key="a.bin", UploadId=upload, PartNumber=number + 1, Body=_BODY[first : first + 5 * _MIB]
        )
        for number, first in enumerate(range(0, len(_BODY), 5 * _MIB))
    ]
    told = [{"PartNumber": number, "ETag": part["ETag"]} for number, part in enumerate(parts, start=1)]
    s3.complete_multipart_upload(Bucket=new_bucket, Key="a.bin", UploadId=upload, MultipartUpload={"Parts": told})
    seen = client.head(ref(new_bucket))
    assert seen.etag.endswith("-3")
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    after = client.head(ref(new_bucket))
    assert (after.etag, after.storage_class) == (seen.etag, "STANDARD_IA")
    assert client.get_object(seen.ref) == _BODY
    assert move(client, seen).detail == "already there"
    client.close()


@pytest.mark.parametrize(
    "failing",
    [
        (refused(403, "AccessDenied"), ChangeOutcome.ERROR),
        (refused(503, "SlowDown"), ChangeOutcome.UNAVAILABLE),
        (refused(412, "PreconditionFailed"), ChangeOutcome.CONFLICT),
    ],
    ids=str,
)
def test_no_parts_are_left_when_a_copy_in_parts_fails(
    client: AwsTierClient, wire: Wire, s3: Any, new_bucket: str, failing: tuple[Answer, ChangeOutcome]
) -> None:
    fault, outcome = failing
    seen = client.head(ref(new_bucket))
    wire.fail("PUT", "partNumber=2", *[fault] * 3)
    assert move(client, seen).outcome is outcome
    assert _uploads(s3, new_bucket) == []
    assert client.head(ref(new_bucket)) == seen


@pytest.mark.parametrize("odd", ["caf\u00e9", "=?UTF-8?B?Y2Fmw6k=?="])
def test_no_copy_in_parts_is_made_when_it_would_change_the_metadata(
    client: AwsTierClient, s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    wire = tap(client, monkeypatch)
    seen = client.head(ref(new_bucket))
    told = replace(seen, metadata={"name": odd})
    result = client.change_tiers([TierChange(told, "STANDARD_IA", now=told)])[0]
    assert result.outcome is ChangeOutcome.ERROR
    assert "name" in result.detail
    assert wire.count("POST") == wire.count("PUT") == 0


def test_parts_are_put_together_once_when_the_answer_was_lost(
    client: AwsTierClient, s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.head(ref(new_bucket))
    wire = tap(client, monkeypatch)
    wire.fail("PUT", "partNumber=1", ACTED)  # a part may be copied again
    wire.fail("POST", "uploadId=", ACTED)
    result = move(client, seen)
    assert (result.outcome, wire.count("POST", "uploadId=")) == (ChangeOutcome.CHANGED, 1)
    assert "lost" in result.detail
    after = client.head(ref(new_bucket))
    assert differences(seen, after, "STANDARD_IA", keeps_etag=False) == ()


def test_the_new_content_stays_when_it_comes_while_parts_are_copied(
    client: AwsTierClient, s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = client.head(ref(new_bucket))
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST" and "uploadId=" in url:
            s3.put_object(Bucket=new_bucket, Key="a.bin", Body=b"new")
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    assert move(client, seen).outcome is ChangeOutcome.CONFLICT
    assert client.get_object(seen.ref) == b"new"
    assert _uploads(s3, new_bucket) == []
