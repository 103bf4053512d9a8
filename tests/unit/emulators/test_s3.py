"""The S3 emulator refuses what S3 refuses, also when requests race."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from botocore.exceptions import ClientError


def _put(s3: Any, key: str, body: bytes = b"content", **arguments: Any) -> str:
    etag: str = s3.put_object(Bucket="data", Key=key, Body=body, **arguments)["ETag"]
    return etag


def _copy(s3: Any, key: str, to_class: str = "STANDARD_IA", to_key: str | None = None, **arguments: Any) -> Any:
    source = {"Bucket": "data", "Key": key}
    return s3.copy_object(Bucket="data", Key=to_key or key, CopySource=source, StorageClass=to_class, **arguments)


def _class(s3: Any, key: str) -> str:
    return str(s3.head_object(Bucket="data", Key=key).get("StorageClass", "STANDARD"))


_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_SOON = datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    "condition",
    [
        {"CopySourceIfMatch": '"0123"'},
        {"IfMatch": '"0123"'},
        {"IfNoneMatch": "*"},
        {"CopySourceIfUnmodifiedSince": _LONG_AGO},
        {"CopySourceIfModifiedSince": _SOON},
    ],
    ids=lambda condition: next(iter(condition)),
)
def test_a_copy_is_refused_when_its_condition_does_not_hold(s3: Any, condition: dict[str, Any]) -> None:
    _put(s3, "refused")
    with pytest.raises(ClientError) as error:
        _copy(s3, "refused", **condition)
    assert error.value.response["Error"]["Code"] == "PreconditionFailed"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert _class(s3, "refused") == "STANDARD"


def test_a_copy_is_refused_when_the_source_must_not_match(s3: Any) -> None:
    etag = _put(s3, "none-match")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        _copy(s3, "none-match", CopySourceIfNoneMatch=etag)
    _copy(s3, "none-match", CopySourceIfNoneMatch='"0123"')
    assert _class(s3, "none-match") == "STANDARD_IA"


def test_a_copy_is_made_when_all_conditions_hold(s3: Any) -> None:
    etag = _put(s3, "holds")
    _copy(s3, "holds", CopySourceIfMatch=etag, IfMatch=etag.strip('"'))
    assert _class(s3, "holds") == "STANDARD_IA"


def test_a_matching_etag_outweighs_the_date(s3: Any) -> None:
    etag = _put(s3, "outweighs")
    _copy(s3, "outweighs", CopySourceIfMatch=etag, CopySourceIfUnmodifiedSince=_LONG_AGO)
    assert _class(s3, "outweighs") == "STANDARD_IA"


def test_the_destination_is_not_found_when_it_must_match_and_is_gone(s3: Any) -> None:
    etag = _put(s3, "source")
    with pytest.raises(ClientError) as error:
        _copy(s3, "source", to_key="nowhere", IfMatch=etag)
    assert error.value.response["Error"]["Code"] == "NoSuchKey"
    _copy(s3, "source", to_key="new", IfNoneMatch="*")
    assert _class(s3, "new") == "STANDARD_IA"


def test_one_of_two_racing_overwrites_wins_when_both_are_conditional(s3: Any) -> None:
    sources = [f"racer-{number}" for number in range(2)]
    for source in sources:
        _put(s3, source, body=source.encode())
    with ThreadPoolExecutor(2) as pool:
        for attempt in range(25):
            key = f"raced-{attempt}"
            etag = _put(s3, key, body=b"start")
            barrier = Barrier(2)

            def race(source: str, barrier: Barrier = barrier, key: str = key, etag: str = etag) -> str:
                barrier.wait(10)
                try:
                    _copy(s3, source, to_key=key, IfMatch=etag)
                except ClientError as exc:
                    return str(exc.response["Error"]["Code"])
                return source

            outcomes = list(pool.map(race, sources))
            won = s3.get_object(Bucket="data", Key=key)["Body"].read().decode()
            assert sorted(outcomes) == ["PreconditionFailed", won]


def test_a_copy_never_brings_an_old_content_back_when_it_races_with_an_upload(s3: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        for attempt in range(25):
            key = f"overwritten-{attempt}"
            etag = _put(s3, key, body=b"old")
            upload = pool.submit(_put, s3, key, b"new")
            copy = pool.submit(_copy, s3, key, CopySourceIfMatch=etag, IfMatch=etag)
            upload.result()
            error = copy.exception()
            assert error is None or "PreconditionFailed" in str(error)
            assert s3.get_object(Bucket="data", Key=key)["Body"].read() == b"new"


def test_contents_lie_in_files_that_go_with_their_objects(s3: Any, s3_data: Path) -> None:
    def files() -> int:
        return sum(path.is_file() for path in (s3_data / "content").rglob("*"))

    before = files()
    body = bytes(range(256)) * 4096  # 1 MiB
    _put(s3, "large", body=body)
    assert files() == before + 1
    _copy(s3, "large")
    _put(s3, "large", body=body[::-1])
    assert s3.get_object(Bucket="data", Key="large")["Body"].read() == body[::-1]
    assert s3.get_object(Bucket="data", Key="large", Range="bytes=1000-1999")["Body"].read() == body[::-1][1000:2000]
    _put(s3, "small", body=b"x")
    s3.delete_object(Bucket="data", Key="large")
    assert files() == before


def test_a_multipart_upload_is_put_together(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="data", Key="parts")["UploadId"]
    bodies = [b"a" * (5 * 2**20), b"b" * 10]
    parts = []
    for number, body in enumerate(bodies, start=1):
        part = s3.upload_part(Bucket="data", Key="parts", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket="data", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket="data", Key="parts")["Body"].read() == b"".join(bodies)


def test_tags_of_an_archived_object_can_be_read_but_not_its_content(s3: Any) -> None:
    _put(s3, "archived", Tagging="a=1")
    _copy(s3, "archived", "DEEP_ARCHIVE")
    assert s3.get_object_tagging(Bucket="data", Key="archived")["TagSet"] == [{"Key": "a", "Value": "1"}]
    with pytest.raises(ClientError, match="InvalidObjectState"):
        s3.get_object(Bucket="data", Key="archived")
