"""The S3 emulator refuses what S3 refuses, also when requests race."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
import urllib.request
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


def _admin(s3: Any, method: str, path: str) -> Any:
    request = urllib.request.Request(f"{s3.meta.endpoint_url}/_cloudflux/{path}", method=method)  # noqa: S310  # http, see below
    with urllib.request.urlopen(request) as answer:  # noqa: S310  # the emulator's own address
        return json.load(answer)


def _raw_head(s3: Any, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    host = s3.meta.endpoint_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20261124/us-east-1/s3/aws4_request"}
    connection.request("HEAD", path, headers={**signed, **headers})
    answer = connection.getresponse()
    told = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in _OF_THE_ANSWER}
    if answer.status == 200:  # moto's own ids of requests are longer
        assert (len(answer.headers["x-amzn-requestid"]) == 32) == ("Accept-Language" not in headers)
    connection.close()
    return answer.status, told


_OF_THE_ANSWER = ("date", "x-amzn-requestid")
_HEADED: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd key é/+ ~%2F": {"StorageClass": "ONEZONE_IA"},
    "told/everything": {
        "CacheControl": "max-age=1",
        "ContentDisposition": "attachment",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentType": "text/x-thing; charset=utf-8",
        "Metadata": {"owner": "ann", "under_score": "1", "empty": ""},
        "Tagging": "a=1&b=2",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:us-east-1:123456789012:key/1",
        "BucketKeyEnabled": True,
        "WebsiteRedirectLocation": "/there",
        "StorageClass": "GLACIER",
        "ChecksumAlgorithm": "SHA256",
    },
}


@pytest.mark.parametrize("mode", [{}, {"x-amz-checksum-mode": "ENABLED"}], ids=["plain", "with-checksums"])
@pytest.mark.parametrize("key", sorted(_HEADED))
def test_head_tells_the_same_when_it_goes_past_moto(s3: Any, key: str, mode: dict[str, str]) -> None:
    _put(s3, key, **_HEADED[key])
    path = "/data/" + urllib.parse.quote(key)
    # `Accept-Language` means nothing here, but is no header of the quick way
    assert _raw_head(s3, path, **mode) == _raw_head(s3, path, **mode, **{"Accept-Language": "de"})


def test_head_tells_the_same_of_versions_restores_and_locks(s3: Any) -> None:
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket="locked", Key="a", Body=b"content", StorageClass="GLACIER")
    s3.put_object_legal_hold(Bucket="locked", Key="a", LegalHold={"Status": "ON"})
    s3.restore_object(Bucket="locked", Key="a", RestoreRequest={"Days": 1})
    _raw_head(s3, "/locked/a")  # moto tells once that the restore runs
    _raw_head(s3, "/locked/a")
    quick, slow = _raw_head(s3, "/locked/a"), _raw_head(s3, "/locked/a", **{"Accept-Language": "de"})
    assert quick == slow
    assert {"x-amz-version-id", "x-amz-restore", "x-amz-object-lock-legal-hold"} <= quick[1].keys()


def test_what_is_not_there_is_not_found_when_it_is_headed(s3: Any) -> None:
    assert _raw_head(s3, "/data/nothing")[0] == 404
    assert _raw_head(s3, "/no-such-bucket/nothing")[0] == 404
    with pytest.raises(ClientError, match="412"):
        s3.head_object(Bucket="data", Key="plain", IfMatch='"0123"')


def test_parts_are_not_put_together_when_the_destination_has_changed(s3: Any) -> None:
    etag = _put(s3, "completed")
    upload = s3.create_multipart_upload(Bucket="data", Key="completed")["UploadId"]
    part = s3.upload_part(Bucket="data", Key="completed", UploadId=upload, PartNumber=1, Body=b"new")
    whole = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}, "UploadId": upload}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.complete_multipart_upload(Bucket="data", Key="completed", IfMatch='"0123"', **whole)
    assert s3.get_object(Bucket="data", Key="completed")["Body"].read() == b"content"
    s3.complete_multipart_upload(Bucket="data", Key="completed", IfMatch=etag, **whole)
    assert s3.get_object(Bucket="data", Key="completed")["Body"].read() == b"new"


def test_a_restore_runs_for_as_long_as_was_asked(s3: Any) -> None:
    _put(s3, "restored", StorageClass="DEEP_ARCHIVE")
    _admin(s3, "POST", "restores?seconds=3600")
    order = {"Bucket": "data", "Key": "restored", "RestoreRequest": {"Days": 1}}
    s3.restore_object(**order)
    assert s3.head_object(Bucket="data", Key="restored")["Restore"] == 'ongoing-request="true"'
    assert s3.head_object(Bucket="data", Key="restored")["Restore"] == 'ongoing-request="true"'
    with pytest.raises(ClientError, match="RestoreAlreadyInProgress"):
        s3.restore_object(**order)
    with pytest.raises(ClientError, match="ObjectNotInActiveTierError"):
        _copy(s3, "restored", "STANDARD")
    _admin(s3, "POST", "restores?seconds=0")
    assert 'ongoing-request="false"' in s3.head_object(Bucket="data", Key="restored")["Restore"]
    _copy(s3, "restored", "STANDARD")
    assert _class(s3, "restored") == "STANDARD"


def test_requests_are_counted_by_operation_and_changes_by_object(s3: Any) -> None:
    etag = _put(s3, "counted")
    _admin(s3, "DELETE", "requests")
    _copy(s3, "counted", CopySourceIfMatch=etag)
    with pytest.raises(ClientError):
        _copy(s3, "counted", IfMatch='"0123"')
    s3.head_object(Bucket="data", Key="counted")
    _raw_head(s3, "/data/counted", **{"Accept-Language": "de"})
    s3.get_bucket_versioning(Bucket="data")
    s3.delete_object(Bucket="data", Key="counted")
    told = _admin(s3, "GET", "requests?bucket=data")
    assert told["operations"] == {
        "CopyObject": {"succeeded": 1, "refused": 1},
        "HeadObject": {"succeeded": 2, "refused": 0},
        "GET bucket versioning": {"succeeded": 1, "refused": 0},
        "DeleteObject": {"succeeded": 1, "refused": 0},
    }
    assert told["objects"] == {"data": {"counted": {"CopyObject": 1, "DeleteObject": 1}}}
    assert _admin(s3, "GET", "requests?bucket=other")["objects"] == {}


def test_requests_follow_each_other_on_one_connection(s3: Any) -> None:
    _put(s3, "kept", body=b"x" * 100_000)
    connection = http.client.HTTPConnection(s3.meta.endpoint_url.removeprefix("http://"))
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20261124/us-east-1/s3/aws4_request"}
    for method, size in (("HEAD", 0), ("GET", 100_000), ("HEAD", 0), ("GET", 100_000)):
        connection.request(method, "/data/kept", headers=signed)
        assert len(connection.getresponse().read()) == size
    kept = connection.sock
    connection.request("PUT", "/data/chunked", body=iter([b"in ", b"pieces"]), headers=signed, encode_chunked=True)
    assert connection.getresponse().read() == b""
    assert connection.sock is kept
    assert s3.get_object(Bucket="data", Key="chunked")["Body"].read() == b"in pieces"
    connection.request("GET", "/data/kept", headers={**signed, "Connection": "close"})
    answer = connection.getresponse()
    assert answer.headers["Connection"] == "close"
    assert len(answer.read()) == 100_000
    connection.close()


def test_nonsense_is_refused_and_ends_the_connection(s3: Any) -> None:
    host, _, port = s3.meta.endpoint_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"not HTTP at all\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
