"""Requests to S3 past boto3: signed as botocore signs, sent where botocore would send them, never twice unasked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import botocore.auth
import botocore.session
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.domain.errors import BucketNotFound, CredentialsRefused, TerminalError
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_endpoints import Endpoint, EndpointResolver
from cloudflux.providers.aws_http import Patience
from cloudflux.providers.aws_signing import Credentials, Request, RequestSigner, quoted_key, quoted_query
from cloudflux.providers.pace import Pace

# --- signatures

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=30)
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
_NAMES = st.from_regex(r"x-amz-[a-z]{1,8}(-[a-z0-9_]{1,8}){0,2}", fullmatch=True)


@given(
    request=st.builds(
        Request,
        st.sampled_from(["HEAD", "GET", "PUT", "POST", "DELETE"]),
        st.just("b"),
        _TEXT.filter(bool),
        st.dictionaries(_TEXT.filter(bool), _TEXT, max_size=4).map(quoted_query),
        st.dictionaries(_NAMES, _VALUES, max_size=5),
        st.binary(max_size=50),
    ),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,40}", fullmatch=True),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001  # the signer reads UTC
)
def test_signatures_are_those_of_botocore(request: Request, token: str | None, at: datetime) -> None:
    endpoint = Endpoint("https://b.example.com:8443", "b.example.com:8443", "/", "eu-west-3", "s3", signed=True)
    path = endpoint.path + quoted_key(request.key)
    url = f"{endpoint.origin}{path}" + (f"?{request.query}" if request.query else "")
    theirs = AWSRequest(method=request.method, url=url, headers=request.headers, data=request.body)
    theirs.context["client_config"] = Config(s3={"payload_signing_enabled": True})
    with patch.object(botocore.auth, "get_current_datetime", lambda: at):
        signer = botocore.auth.S3SigV4Auth(BotocoreCredentials("AKID", "secret", token), "s3", "eu-west-3")
        signer.add_auth(theirs)
    credentials = Credentials("AKID", "secret", token)
    ours = RequestSigner().headers(request, credentials, endpoint, at.strftime("%Y%m%dT%H%M%SZ"), path)
    assert ours["authorization"] == theirs.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == theirs.headers["X-Amz-Content-SHA256"]


# --- endpoints


def _boto3_client(region: str = "us-east-1", **settings: Any) -> Any:
    config = settings.pop("config", {})
    return boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
        config=Config(**config),
        **settings,
    )


_DUAL, _PATH = {"s3": {"use_dualstack_endpoint": True}}, {"s3": {"addressing_style": "path"}}


@pytest.mark.parametrize(
    ("bucket", "settings", "address"),
    [
        ("plain", {}, "https://plain.s3.amazonaws.com/"),
        ("plain", {"region": "eu-central-1"}, "https://plain.s3.eu-central-1.amazonaws.com/"),
        ("with.dots", {"region": "eu-central-1"}, "https://s3.eu-central-1.amazonaws.com/with.dots/"),
        ("plain", {"region": "cn-north-1"}, "https://plain.s3.cn-north-1.amazonaws.com.cn/"),
        ("plain", {"region": "eu-west-1", "config": _DUAL}, "https://plain.s3.dualstack.eu-west-1.amazonaws.com/"),
        ("plain", {"region": "eu-west-1", "config": _PATH}, "https://s3.eu-west-1.amazonaws.com/plain/"),
        ("plain", {"endpoint_url": "http://127.0.0.1:9000", "config": _PATH}, "http://127.0.0.1:9000/plain/"),
        (
            "plain",
            {"endpoint_url": "https://minio.example:443/base", "config": _PATH},
            "https://minio.example/base/plain/",
        ),
        ("plain", {"endpoint_url": "http://[::1]:9000", "config": _PATH}, "http://[::1]:9000/plain/"),
    ],
)
def test_requests_go_where_botocore_would_send_them(bucket: str, settings: dict[str, Any], address: str) -> None:
    found = EndpointResolver(_boto3_client(**settings)).resolve(bucket)
    assert found.origin + found.path == address
    assert (found.region, found.service, found.signed) == (settings.get("region", "us-east-1"), "s3", True)


def test_an_access_point_is_found_by_its_name() -> None:
    name = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
    found = EndpointResolver(_boto3_client("us-east-1")).resolve(name)
    assert found.origin == "https://mine-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"
    assert (found.path, found.region) == ("/", "eu-west-1")


def test_nothing_is_signed_when_the_connection_wants_it_so() -> None:
    assert not EndpointResolver(_boto3_client(config={"signature_version": UNSIGNED})).resolve("plain").signed


def test_the_error_names_the_setting_when_another_signature_is_wanted() -> None:
    with pytest.raises(TerminalError, match="signature_version"):
        EndpointResolver(_boto3_client(config={"signature_version": "s3"})).resolve("plain")


def test_directory_buckets_and_impossible_names_are_refused() -> None:
    resolver = EndpointResolver(_boto3_client())
    with pytest.raises(TerminalError, match="directory bucket"):
        resolver.resolve("mine--use1-az4--x-s3")
    with pytest.raises(BucketNotFound, match="cannot be"):
        resolver.resolve("no/bucket")


def test_the_error_names_the_connection_when_there_are_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = botocore.session.Session().create_client("s3", region_name="us-east-1")
    with pytest.raises(CredentialsRefused, match="credentials"):
        EndpointResolver(client).resolve("plain")


# --- a server that breaks

_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 17:00:00 GMT\r\nLast-Modified: Tue, 24 Nov 2026 16:00:00 GMT\r\n"
    b'ETag: "9a0364b9e99bb480dd25e1f0284c8555"\r\nContent-Length: 7\r\n\r\n'
)
_FACTS = b"<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>"
_DECLARED = b'<?xml version="1.0" encoding="UTF-8"?>\n' + _FACTS
_COPIED = b"<CopyObjectResult><ETag>&quot;9a0364b9e99bb480dd25e1f0284c8555&quot;</ETag></CopyObjectResult>"
_KEEP, _CLOSE, _SILENCE = "keep", "close", "silence"


def _body(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 17:00:00 GMT\r\nContent-Length: %d\r\n\r\n%b" % (
        len(content),
        content,
    )


class Server:
    """Answers as S3 would, and does with a connection what a test wants instead of answering a request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[str] = []
        self.instead: dict[str, list[str | bytes]] = {}
        self.connections = 0
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listening, ssl=self._tls)
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(3):  # transports that were aborted close in the next rounds
            await asyncio.sleep(0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            # that is how a connection ends when the client has closed it
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    line = head.partition(b"\r\n")[0].decode()
                    method, target, _ = line.split(" ")
                    self.seen.append(f"{method} {target}")
                    planned = self.instead.get(method, [])
                    match planned.pop(0) if planned else _KEEP:
                        case "close":
                            return
                        case "silence":
                            await asyncio.sleep(3600)
                        case bytes() as answer:
                            writer.write(answer)
                            continue
                    answers = {"HEAD": _HEAD, "PUT": _body(_COPIED), "GET": _body(_FACTS)}
                    writer.write(answers[method])
                    await writer.drain()
        finally:
            writer.transport.abort()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client_of() -> Iterator[Callable[..., AwsTierClient]]:
    clients = []

    def make(port: int, scheme: str = "http", patience: Patience | None = None, **settings: Any) -> AwsTierClient:
        url = f"{scheme}://127.0.0.1:{port}"
        client = AwsTierClient(
            _boto3_client(endpoint_url=url, **settings),
            pace_of=lambda _: Pace(max_in_flight=8, random=lambda: 0.0),
            patience=patience or Patience(attempts=2),
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def _refs(count: int = 1) -> list[ObjectRef]:
    return [ObjectRef(Provider.AWS, "bucket", f"{number:03}") for number in range(count)]


def _states(client: AwsTierClient, count: int = 1) -> list[ObjectState]:
    looks = client.head_many(_refs(count))
    states = [state for state in looks if isinstance(state, ObjectState)]
    assert states == looks
    return states


def test_connections_are_kept(server: Server, client_of: Callable[..., AwsTierClient]) -> None:
    client = client_of(server.port)
    for _ in range(5):
        _states(client, 20)
    assert server.connections <= 8
    assert len(server.seen) == 100


def test_a_copy_is_not_sent_again_unseen_when_a_kept_connection_breaks(
    server: Server, client_of: Callable[..., AwsTierClient]
) -> None:
    client = client_of(server.port)
    (state,) = _states(client)
    server.seen.clear()
    server.instead["PUT"] = [_CLOSE]
    (result,) = client.change_tiers([TierChange(state, "STANDARD_IA", now=state)])
    assert result.outcome is ChangeOutcome.CHANGED
    assert [line.split(" ")[0] for line in server.seen if "/000" in line] == ["PUT", "HEAD", "HEAD", "PUT"]


def test_an_object_is_unavailable_when_its_answers_are_always_lost(
    server: Server, client_of: Callable[..., AwsTierClient]
) -> None:
    client = client_of(server.port)
    (state,) = _states(client)
    server.instead["PUT"] = [_CLOSE] * 10
    (result,) = client.change_tiers([TierChange(state, "STANDARD_IA", now=state)])
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    assert "not moved" in result.detail


@pytest.mark.parametrize("fault", [_CLOSE, _SILENCE])
def test_a_look_is_repeated_when_its_answer_was_lost(
    server: Server, client_of: Callable[..., AwsTierClient], fault: str
) -> None:
    client = client_of(server.port, patience=Patience(attempts=2, silent_seconds=0.5))
    server.instead["HEAD"] = [fault]
    assert isinstance(client.head_many(_refs())[0], ObjectState)
    server.instead["HEAD"] = [fault] * 2
    (unseen,) = client.head_many(_refs())
    assert isinstance(unseen, Unseen)
    assert unseen.passing
    assert ("in time" if fault == _SILENCE else "broke") in unseen.reason


def test_objects_are_unseen_for_now_when_nobody_listens(client_of: Callable[..., AwsTierClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    (unseen,) = client_of(port).head_many(_refs())
    assert isinstance(unseen, Unseen)
    assert unseen.passing
    assert f"127.0.0.1:{port}" in unseen.reason


def test_several_threads_use_one_client(server: Server, client_of: Callable[..., AwsTierClient]) -> None:
    client = client_of(server.port)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _states(client, 30), range(8)))
    assert all(states == found[0] for states in found)
    assert server.connections <= 8  # the bucket's pace is one for all


def test_a_closed_client_opens_again(server: Server, client_of: Callable[..., AwsTierClient]) -> None:
    client = client_of(server.port)
    before = _states(client, 100)  # more than run at once
    client.close()
    client.close()
    assert _states(client, 100) == before


def test_a_forked_process_has_connections_of_its_own(server: Server, client_of: Callable[..., AwsTierClient]) -> None:
    client = client_of(server.port)
    before, connections = _states(client, 100), server.connections
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that a fork does not take
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if client.head_many(_refs(100)) == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.connections > connections
    assert _states(client, 100) == before


_NONSENSE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: x\r\nLast-Modified: never\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nETag: x\r\nLast-Modified: Tue, 24 Nov 2026 16:00:00 GMT\r\n\r\n",
    b"no HTTP\r\n\r\n",
]


@pytest.mark.parametrize("answer", _NONSENSE, ids=["empty", "date", "no-length", "no-http"])
def test_an_object_is_unseen_for_now_when_the_answer_is_nonsense(
    server: Server, client_of: Callable[..., AwsTierClient], answer: bytes
) -> None:
    client = client_of(server.port)
    (state,) = _states(client)
    server.instead["HEAD"] = [answer] * 2  # as often as it is tried
    (unseen,) = client.head_many(_refs())
    assert isinstance(unseen, Unseen)
    assert unseen.passing
    server.instead.clear()
    assert client.head_many(_refs()) == [state]


def test_an_object_is_unavailable_when_the_buckets_settings_are_nonsense(
    server: Server, client_of: Callable[..., AwsTierClient]
) -> None:
    client = client_of(server.port)
    (state,) = _states(client)
    server.instead["GET"] = [_body(b"<html><p>")]
    (result,) = client.change_tiers([TierChange(state, "STANDARD_IA", now=state)])
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    assert "document" in result.detail


def test_blanks_before_an_answer_do_not_matter(server: Server, client_of: Callable[..., AwsTierClient]) -> None:
    client = client_of(server.port)
    (state,) = _states(client)
    server.instead["GET"] = [_body(b"  \n" + _DECLARED), _body(b"\r\n " + _DECLARED)]
    server.instead["PUT"] = [_body(b" \n \n" + _DECLARED.replace(_FACTS, _COPIED))]
    (result,) = client.change_tiers([TierChange(state, "STANDARD_IA", now=state)])
    assert result.outcome is ChangeOutcome.CHANGED


def test_no_thread_stays_when_a_client_is_forgotten(server: Server) -> None:
    client = AwsTierClient(_boto3_client(endpoint_url=f"http://127.0.0.1:{server.port}"))
    _states(client)
    thread = client._loop._thread
    assert thread is not None
    assert thread.is_alive()
    del client
    thread.join(10)
    assert not thread.is_alive()


def test_requests_go_through_botocore_when_there_is_a_proxy(
    server: Server, client_of: Callable[..., AwsTierClient]
) -> None:
    client = client_of(1, config={"proxies": {"http": f"http://127.0.0.1:{server.port}"}})
    states = _states(client, 3)
    results = client.change_tiers([TierChange(state, "STANDARD_IA", now=state) for state in states])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    assert "HEAD http://127.0.0.1:1/bucket/000" in server.seen  # as proxies are asked
    server.instead["HEAD"] = [_CLOSE] * 2
    (unseen,) = client.head_many(_refs())
    assert isinstance(unseen, Unseen)


# --- certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate of 127.0.0.1, with its key in the same file."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + pem)
    return path


def test_certificates_are_checked_as_the_connection_says(
    certificate: Path, client_of: Callable[..., AwsTierClient]
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server = Server(tls)
    try:
        assert _states(client_of(server.port, "https", verify=str(certificate)))
        assert _states(client_of(server.port, "https", verify=False))
        (unseen,) = client_of(server.port, "https").head_many(_refs())
        assert isinstance(unseen, Unseen)
        assert "certificate" in unseen.reason.lower()
    finally:
        server.close()
