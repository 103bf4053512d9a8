"""Unfinished uploads of S3: listed by key, class and age, page by page, and aborted one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudflux.domain.errors import BucketNotFound
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_copies import CopyLimits
from cloudflux.providers.aws_http import AnswerLost, Patience
from cloudflux.providers.aws_uploads import S3Uploads

pytestmark = pytest.mark.contract

KEYS = ("a b+c", "dir/ünïcode&<>%20", "dir/~{}", "z")


def begin(s3: Any, bucket: str, key: str, storage_class: str = "STANDARD_IA") -> str:
    return str(s3.create_multipart_upload(Bucket=bucket, Key=key, StorageClass=storage_class)["UploadId"])


def test_uploads_are_told_with_their_class_and_age(s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket)
    before = datetime.now(UTC) - timedelta(seconds=1)
    ids = {key: begin(s3, new_bucket, key) for key in KEYS}
    begin(s3, new_bucket, "not asked for")
    found = S3Uploads(s3).unfinished(new_bucket, KEYS)
    assert {upload.ref.key: upload.upload_id for upload in found} == ids
    assert {upload.storage_class for upload in found} == {"STANDARD_IA"}
    assert all(before <= upload.began_at <= datetime.now(UTC) for upload in found)
    assert S3Uploads(s3).unfinished(new_bucket, []) == []


def test_uploads_of_all_pages_are_found(s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket)
    keys = [f"k/{number % 700:04}" for number in range(1_100)]  # some have two
    ids = {begin(s3, new_bucket, key) for key in keys}
    found = S3Uploads(s3).unfinished(new_bucket, keys)
    assert {upload.upload_id for upload in found} == ids
    assert len(found) == 1_100


def test_an_aborted_upload_is_gone_and_may_be_aborted_again(s3: Any, new_bucket: str) -> None:
    s3.create_bucket(Bucket=new_bucket)
    begin(s3, new_bucket, "a")
    kept = begin(s3, new_bucket, "a", "GLACIER_IR")
    uploads = S3Uploads(s3)
    (left,) = [upload for upload in uploads.unfinished(new_bucket, ["a"]) if upload.upload_id != kept]
    uploads.abort(left)
    uploads.abort(left)
    assert [upload.upload_id for upload in uploads.unfinished(new_bucket, ["a"])] == [kept]


def test_a_copy_in_parts_that_is_cut_off_is_found_by_its_class(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = CopyLimits(one_copy_bytes=7 * 2**20, part_bytes=5 * 2**20)
    client = AwsTierClient(s3, limits=limits, patience=Patience(attempts=1))
    client.create_bucket(new_bucket)
    s3.put_object(Bucket=new_bucket, Key="large", Body=bytes(12 * 2**20))
    seen = client.head(ObjectRef(Provider.AWS, new_bucket, "large"))
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Any, body: bytes) -> Any:
        if "uploadId=" in url and method != "PUT":
            raise AnswerLost("it is gone")  # as if it were killed: it can neither complete nor abort
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    (result,) = client.change_tiers([TierChange(seen, "GLACIER_IR")])
    client.close()
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    (left,) = S3Uploads(s3).unfinished(new_bucket, ["large"])
    assert left.storage_class == "GLACIER_IR"
    S3Uploads(s3).abort(left)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=new_bucket)


def test_the_error_names_the_bucket_when_there_is_none(s3: Any, new_bucket: str) -> None:
    with pytest.raises(BucketNotFound, match=new_bucket):
        S3Uploads(s3).unfinished(new_bucket, ["a"])
