"""The proxy breaks what it is told to break, says so, and changes nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ReadTimeoutError
from faulty_proxy import Fault, FaultyProxy, Plan, moved_more_than_once
from sdk_clients import gcs_client, s3_client
from wire_messages import Message, batch_parts, content_id

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from cloudflux.local.emulators.s3 import create_server

    server = create_server("127.0.0.1", 0, tmp_path_factory.mktemp("s3"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gcs_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from cloudflux.local.emulators.gcs import create_app, create_server

    server = create_server(create_app(tmp_path_factory.mktemp("gcs")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def through(s3_address: str, tmp_path: Path) -> Iterator[Callable[..., tuple[Any, FaultyProxy]]]:
    """Give an S3 client whose requests go through a proxy with this plan, and the proxy; a bucket `data` with `k`."""
    with ExitStack() as stack:
        direct = s3_client(f"http://{s3_address}")
        stack.callback(direct.close)
        direct.create_bucket(Bucket="data")
        direct.put_object(Bucket="data", Key="k", Body=CONTENT)

        def start(plan: Plan) -> tuple[Any, FaultyProxy]:
            proxy = stack.enter_context(FaultyProxy("s3", s3_address, tmp_path, plan))
            client = s3_client(proxy.url, retries={"total_max_attempts": 1}, read_timeout=0.5, connect_timeout=5)
            stack.callback(client.close)
            return client, proxy

        yield start


def copy(client: Any, key: str = "k", to_class: str = "STANDARD_IA") -> Any:
    source = {"Bucket": "data", "Key": key}
    return client.copy_object(Bucket="data", Key=key, CopySource=source, StorageClass=to_class)


def test_nothing_changes_when_nothing_breaks(through: Callable[..., Any]) -> None:
    client, proxy = through(Plan())
    key = "a b/ü&+.bin"
    client.put_object(Bucket="data", Key=key, Body=CONTENT, Metadata={"m": "v"}, Tagging="t=1")
    assert client.get_object(Bucket="data", Key=key)["Body"].read() == CONTENT
    copy(client, key)
    head = client.head_object(Bucket="data", Key=key)
    assert (head["StorageClass"], head["Metadata"], head["TagCount"]) == ("STANDARD_IA", {"m": "v"}, 1)
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket="data", Key="absent")
    records = proxy.records()
    assert [(r.kind, r.key, r.status, r.answered) for r in records] == [
        ("put", key, 200, 200),
        ("get", key, 200, 200),
        ("copy", key, 200, 200),
        ("head", key, 200, 200),
        ("head", "absent", 404, 404),
    ]
    assert [move.key for record in records for move in record.moves] == [key]
    assert records[2].headers["x-amz-storage-class"] == "STANDARD_IA"


@pytest.mark.parametrize(
    ("fault", "acts", "status"),
    [
        (Fault.REFUSED, False, 503),
        (Fault.REFUSED_RETRY_AFTER, False, 503),
        (Fault.TOO_MANY, False, 429),
        (Fault.FAILED_AFTER, True, 500),
        (Fault.GATEWAY_AFTER, True, 502),
        (Fault.ERROR_IN_200_AFTER, True, 200),
        (Fault.ERROR_IN_200_BEFORE, False, 200),
    ],
)
def test_the_client_is_told_of_an_error_and_the_record_tells_what_was_done(
    through: Callable[..., Any], fault: Fault, acts: bool, status: int
) -> None:
    client, proxy = through(Plan({fault: 1.0}, kinds=["copy"], most_per_target=1))
    with pytest.raises(ClientError) as refused:
        copy(client)
    answer = refused.value.response
    if status != 200:  # botocore makes a 500 of an error inside a 200
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    retry_after = answer["ResponseMetadata"]["HTTPHeaders"].get("retry-after")
    assert retry_after == ("1" if fault is Fault.REFUSED_RETRY_AFTER else None)
    first = proxy.records()[0]
    assert (first.fault, first.answered, first.status) == (fault, status, 200 if acts else None)
    assert ("StorageClass" in client.head_object(Bucket="data", Key="k")) is acts
    copy(client)  # once is enough for this target
    assert moved_more_than_once(proxy.records()) == ({("data", "k"): 2} if acts else {})
    assert client.get_object(Bucket="data", Key="k")["Body"].read() == CONTENT


@pytest.mark.parametrize(
    ("fault", "acts", "error"),
    [
        (Fault.RESET_BEFORE, False, HTTPClientError),
        (Fault.RESET_IN_ANSWER, True, HTTPClientError),
        (Fault.LOST, True, ConnectionClosedError),
        (Fault.SILENCE, False, ReadTimeoutError),
        (Fault.LOST_IN_SILENCE, True, ReadTimeoutError),
    ],
)
def test_the_connection_breaks_and_the_record_tells_what_was_done(
    through: Callable[..., Any], fault: Fault, acts: bool, error: Any
) -> None:
    client, proxy = through(Plan({fault: 1.0}, kinds=["copy"], most_per_target=1))
    with pytest.raises(error):
        copy(client)
    first = proxy.records()[0]
    assert (first.fault, first.answered, first.status) == (fault, None, 200 if acts else None)
    assert ("StorageClass" in client.head_object(Bucket="data", Key="k")) is acts


def test_an_answer_comes_whole_when_it_comes_byte_by_byte(through: Callable[..., Any]) -> None:
    client, proxy = through(Plan({Fault.TRICKLE: 1.0}))
    client.put_object(Bucket="data", Key="short", Body=b"abc")
    assert client.get_object(Bucket="data", Key="short")["Body"].read() == b"abc"
    assert {record.fault for record in proxy.records()} == {Fault.TRICKLE}


def test_the_same_requests_break_when_threads_send_them_in_another_order(through: Callable[..., Any]) -> None:
    shares = {Fault.REFUSED: 0.2, Fault.LOST: 0.2}
    keys = [f"key-{number}" for number in range(60)]

    def broken(in_order: list[str], workers: int) -> set[tuple[str, str | None]]:
        client, proxy = through(Plan(shares, seed=3))

        def put(key: str) -> None:
            with suppress(ClientError, HTTPClientError):  # the faults asked for
                client.put_object(Bucket="data", Key=key, Body=b"x")

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(put, in_order))
        return {(record.key, record.fault) for record in proxy.records()}

    first = broken(keys, 1)
    assert first == broken(keys[::-1], 8)
    assert {fault for _, fault in first} == {None, Fault.REFUSED, Fault.LOST}


@pytest.mark.parametrize(("where", "acts"), [("before", False), ("after", True)])
def test_a_held_request_waits_until_its_client_is_gone(through: Callable[..., Any], where: str, acts: bool) -> None:
    client, proxy = through(Plan(holds={"1": where}))
    with pytest.raises(ReadTimeoutError):
        copy(client)
    assert proxy.next_line() == {"held": 1, "kind": "copy", "key": "k"}
    assert ("StorageClass" in client.head_object(Bucket="data", Key="k")) is acts
    assert [record.kind for record in proxy.records()] == (["copy", "head"] if acts else ["head"])


def gcs_rewrites_in_a_batch(client: Any, keys: list[str]) -> list[int]:
    """Send one batch of rewrites as Google documents it; gives the statuses in order."""
    calls = "".join(
        "--b\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nMIME-Version: 1.0\r\n"
        f"Content-ID: <{number}>\r\n\r\n"
        f"POST /storage/v1/b/data/o/{key}/rewriteTo/b/data/o/{key} HTTP/1.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}\r\n"
        for number, key in enumerate(keys)
        for body in ['{"storageClass": "NEARLINE"}']
    )
    answer = client._http.post(
        f"{client._connection.API_BASE_URL}/batch/storage/v1",
        data=(calls + "--b--\r\n").encode(),
        headers={"Content-Type": "multipart/mixed; boundary=b"},
        timeout=10,
    )
    assert answer.status_code == 200
    message = Message("HTTP/1.1 200 OK", list(answer.headers.items()), answer.content)
    parts = {int(content_id(part)): part.message.status for part in batch_parts(message)}
    return [parts[number] for number in range(len(keys))]


def test_parts_of_a_batch_are_refused_and_the_server_never_sees_those(gcs_address: str, tmp_path: Path) -> None:
    plan = Plan({Fault.PART_REFUSED: 1.0}, kinds=["batch"], seed=4)
    keys = [f"k{number}" for number in range(40)]
    with FaultyProxy("gcs", gcs_address, tmp_path, plan) as proxy:
        client = gcs_client(proxy.url)
        bucket = client.create_bucket("data")
        for key in keys:
            bucket.blob(key).upload_from_string(CONTENT)
        statuses = gcs_rewrites_in_a_batch(client, keys)
        assert set(statuses) == {200, 503}
        moved = {key for key, status in zip(keys, statuses, strict=True) if status == 200}
        assert {blob.name for blob in client.list_blobs("data") if blob.storage_class == "NEARLINE"} == moved
        records = proxy.records()
        batch = next(record for record in records if record.kind == "batch")
        assert {move.key for move in batch.moves if move.done} == moved
        assert moved_more_than_once(records) == {}
        assert bucket.blob(keys[0]).download_as_bytes() == CONTENT
        client.close()


def test_a_rewrite_is_recorded_as_a_move(gcs_address: str, tmp_path: Path) -> None:
    with FaultyProxy("gcs", gcs_address, tmp_path) as proxy:
        client = gcs_client(proxy.url)
        bucket = client.create_bucket("rewritten")
        blob = bucket.blob("a/ü b")
        blob.upload_from_string(CONTENT)
        for _ in range(2):
            blob.update_storage_class("COLDLINE")
        client.close()
        assert moved_more_than_once(proxy.records()) == {("rewritten", "a/ü b"): 2}
