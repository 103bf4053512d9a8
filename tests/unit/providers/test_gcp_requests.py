"""Google's batches carry all that a rewrite must keep, and their answers and errors say what they concern."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

import pytest
import requests
from urllib3.exceptions import ProtocolError

from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.batches import Answer, AnswerLost
from cloudflux.providers.gcp import GcpTierClient
from cloudflux.providers.gcp_requests import ObjectRequests, look, rewrite

UNIFORM = {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}}


@dataclass
class _Session:
    """Answers single requests and calls of batches from one table, and remembers the calls."""

    answers: Mapping[str, list[tuple[int, Mapping[str, Any]]]]
    """By method and the end of the path without query; the last answer stays."""
    calls: list[tuple[str, str, Mapping[str, str], Any]] = field(default_factory=list)
    cut_off: bool = False
    backwards: bool = False
    trust_env: bool = False

    def request(
        self, method: str, url: str, *, data: bytes | None, headers: Any, timeout: Any, auth: Any, stream: bool
    ) -> requests.Response:
        target = url.removeprefix("https://storage.test")
        if target == "/batch/storage/v1":
            return self._batch(data or b"", headers["Content-Type"])
        status, content = self._answer(method, target, data or b"")
        return _response(status, {}, json.dumps(content).encode())

    def get_adapter(self, url: str) -> object:
        return object()

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
        path, _, query = target.partition("?")
        parameters = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.calls.append((method, unquote(path), parameters, json.loads(body) if body.strip() else None))
        for end, answers in self.answers.items():
            wanted, _, suffix = end.partition(" ")
            if method == wanted and unquote(path).endswith(suffix):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        raise AssertionError(f"nobody expected {method} {target}")

    def _batch(self, body: bytes, content_type: str) -> requests.Response:
        boundary = content_type.partition("boundary=")[2].encode()
        answers = []
        for part in body.split(b"--" + boundary)[1:-1]:
            outer, inner, content = part.split(b"\r\n\r\n", 2)
            number = outer.partition(b"<cloudflux+")[2].partition(b">")[0].decode()
            method, target, _ = inner.split(b"\r\n")[0].decode().split(" ")
            status, told = self._answer(method, target, content)
            answers.append(
                f"Content-Type: application/http\r\nContent-ID: <response-cloudflux+{number}>\r\n\r\n"
                f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n\r\n{json.dumps(told)}\r\n"
            )
        if self.backwards:
            answers.reverse()
        text = "".join(f"--batch_x=\r\n{answer}" for answer in answers) + ("" if self.cut_off else "--batch_x=--\r\n")
        return _response(200, {"Content-Type": "multipart/mixed; boundary=batch_x="}, text.encode())


def _response(status: int, headers: Mapping[str, str], content: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content, response._content_consumed = status, content, True
    response.headers.update(headers)
    return response


class _Library:
    """What the client takes of Google's library."""

    def __init__(self, session: _Session) -> None:
        self._http = session
        self._connection = type("Connection", (), {"API_BASE_URL": "https://storage.test", "user_agent": "tests"})


def _item(**overrides: Any) -> dict[str, Any]:
    return {
        "name": "a/b", "generation": "7", "metageneration": "3", "size": "5", "storageClass": "STANDARD", "etag": "e7",
        "updated": "2026-11-24T12:00:00Z", "timeCreated": "2026-11-24T12:00:00Z", "contentType": "text/plain",
        "md5Hash": "bWQ1", "crc32c": "Y3Jj", **overrides,
    }  # fmt: skip


def _error(status: int, reason: str, message: str = "no") -> tuple[int, Mapping[str, Any]]:
    return status, {"error": {"code": status, "message": message, "errors": [{"reason": reason}]}}


def _done(**overrides: Any) -> tuple[int, Mapping[str, Any]]:
    resource = _item(generation="8", storageClass="NEARLINE", **overrides)
    return 200, {"done": True, "resource": resource}


def _client(session: _Session) -> GcpTierClient:
    return GcpTierClient(_Library(session), attempts=3, sleep=lambda seconds: None)


def _session(
    item: dict[str, Any], *rewrites: tuple[int, Mapping[str, Any]], facts: Mapping[str, Any] = UNIFORM
) -> _Session:
    return _Session(
        {
            "GET /o/a/b": [(200, item)],
            "GET /b/data": [(200, facts)],
            "POST /rewriteTo/b/data/o/a/b": list(rewrites),
        }
    )


def _move(session: _Session) -> TierChangeResult:
    client = _client(session)
    (seen,) = client.head_many([ObjectRef(Provider.GCP, "data", "a/b")])
    assert seen is not None
    assert not isinstance(seen, Unseen)
    (result,) = client.change_tiers([TierChange(seen, "NEARLINE", now=seen)])
    return result


def _rewrites(session: _Session) -> list[tuple[Mapping[str, str], Any]]:
    return [(query, body) for method, path, query, body in session.calls if "/rewriteTo/" in path]


def test_a_rewrite_carries_everything_and_depends_on_what_was_seen() -> None:
    key = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    kept = {
        "cacheControl": "no-store", "contentDisposition": "inline", "contentEncoding": "gzip", "contentLanguage": "de",
        "contentType": "text/plain", "customTime": "2026-01-01T00:00:00Z", "metadata": {"owner": "ann"},
        "contexts": {"custom": {"k": {"value": "v"}}}, "eventBasedHold": False,
    }  # fmt: skip
    session = _session(_item(**kept, kmsKeyName=f"{key}/cryptoKeyVersions/4"), _done())
    assert _move(session).outcome is ChangeOutcome.CHANGED
    ((query, body),) = _rewrites(session)
    assert body == {**kept, "kmsKeyName": key, "storageClass": "NEARLINE"}
    query = {name: value for name, value in query.items() if name != "fields"}
    assert query == {
        "sourceGeneration": "7",
        "ifGenerationMatch": "7",
        "ifMetagenerationMatch": "3",
        "ifSourceGenerationMatch": "7",
        "ifSourceMetagenerationMatch": "3",
        "destinationKmsKeyName": key,
    }
    assert sum(method == "GET" and path.endswith("/o/a/b") for method, path, _, _ in session.calls) == 1


def test_the_access_control_list_is_carried_where_buckets_use_them() -> None:
    acl = [{"entity": "allUsers", "role": "READER"}]
    session = _session(_item(acl=acl), _done(), facts={})
    assert _move(session).outcome is ChangeOutcome.CHANGED
    ((_, body),) = _rewrites(session)
    assert body["acl"] == acl


def test_nothing_is_rewritten_when_the_access_control_list_is_not_that_of_what_was_seen() -> None:
    session = _session(_item(), _done(), facts={})
    session.answers["GET /o/a/b"][:] = [(200, _item()), (200, {"etag": "e8", "acl": []})]
    assert _move(session).outcome is ChangeOutcome.CONFLICT
    assert _rewrites(session) == []


def test_a_long_rewrite_goes_on_with_its_token() -> None:
    session = _session(
        _item(),
        (200, {"done": False, "rewriteToken": "one"}),
        _error(503, "backendError"),
        (200, {"done": False, "rewriteToken": "two"}),
        _done(),
    )
    assert _move(session).outcome is ChangeOutcome.CHANGED
    tokens = [query.get("rewriteToken") for query, _ in _rewrites(session)]
    assert tokens == [None, "one", "one", "two"]


def test_a_copy_of_another_size_is_an_error() -> None:
    result = _move(_session(_item(), _done(size="4")))
    assert result.outcome is ChangeOutcome.ERROR
    assert "not the copy" in result.detail


def test_a_rate_limit_is_waited_out() -> None:
    session = _session(_item(), _error(403, "rateLimitExceeded"), _error(429, "rateLimitExceeded"), _done())
    assert _move(session).outcome is ChangeOutcome.CHANGED
    assert len(_rewrites(session)) == 3


@pytest.mark.parametrize(
    ("refusal", "outcome"),
    [
        (_error(403, "forbidden", "ann does not have storage.objects.create access"), ChangeOutcome.ERROR),
        (_error(403, "forbidden", "Object 'a' is under active Temporary hold"), ChangeOutcome.LOCKED),
        (_error(403, "retentionPolicyNotMet", "Object 'a' is subject to bucket's retention"), ChangeOutcome.LOCKED),
        (_error(412, "conditionNotMet"), ChangeOutcome.CONFLICT),
        (_error(503, "backendError"), ChangeOutcome.UNAVAILABLE),
    ],
    ids=str,
)
def test_a_refusal_of_one_object_is_its_outcome(refusal: tuple[int, Mapping[str, Any]], outcome: ChangeOutcome) -> None:
    assert _move(_session(_item(), refusal)).outcome is outcome


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (_error(401, "authError"), CredentialsRefused),
        (_error(403, "accountDisabled"), AccountRefused),
        (_error(403, "forbidden", "The billing account for the owning project is disabled"), AccountRefused),
        (_error(404, "notFound", "The specified bucket does not exist."), BucketNotFound),
    ],
    ids=str,
)
def test_a_refusal_of_everything_is_raised(refusal: tuple[int, Mapping[str, Any]], error: type[Exception]) -> None:
    with pytest.raises(error):
        _move(_session(_item(), refusal))
    with pytest.raises(error):
        _client(_Session({"GET /o/a/b": [refusal]})).head_many([ObjectRef(Provider.GCP, "data", "a/b")])


def test_the_answers_of_a_batch_belong_to_their_calls_in_whatever_order_they_come() -> None:
    session = _Session({"GET /o/a": [(200, {"name": "a"})], "GET /o/b": [_error(404, "notFound")]}, backwards=True)
    answers = ObjectRequests(_Library(session), 10, 4).batch([look("data", "a"), look("data", "b")])
    assert isinstance(answers, list)
    assert [answer.status for answer in answers] == [200, 404]
    assert answers[0].content == {"name": "a"}


def test_a_batch_whose_answer_is_not_whole_is_lost() -> None:
    session = _Session({"GET /o/a": [(200, {})]}, cut_off=True)
    with pytest.raises(AnswerLost):
        ObjectRequests(_Library(session), 10, 4).batch([look("data", "a")])


def test_the_wait_that_is_asked_for_is_read() -> None:
    assert Answer(503, {"retry-after": "12"}).retry_after == 12
    assert Answer(503, {"retry-after": "Tue, 24 Nov 2026 12:00:00 GMT"}).retry_after is None
    assert Answer(503, {}).retry_after is None


def test_an_answer_whose_body_breaks_off_is_lost() -> None:
    class Raw:
        def stream(self, size: int, *, decode_content: bool) -> Iterator[bytes]:
            yield b'{"items": ['
            raise ProtocolError("the connection broke")

    class Session(_Session):
        def request(self, *asked: Any, **options: Any) -> requests.Response:
            response = requests.Response()
            response.status_code, response.raw = 200, Raw()
            return response

    with pytest.raises(AnswerLost, match="the connection broke"):
        ObjectRequests(_Library(Session({})), 60, 16).call(look("data", "a/b"))


def test_a_long_rewrite_is_continued_where_it_stood() -> None:
    call = rewrite("data", "a", {"kmsKeyName": "projects/p/k"}, generation="7", metageneration="3", token="t/1==")
    path, _, query = call.target.partition("?")
    assert path == "/storage/v1/b/data/o/a/rewriteTo/b/data/o/a"
    told = parse_qs(query, strict_parsing=True)
    assert told.pop("fields")[0].startswith("done,rewriteToken,resource(name,generation,")
    assert told == {
        "sourceGeneration": ["7"],
        "ifGenerationMatch": ["7"],
        "ifMetagenerationMatch": ["3"],
        "ifSourceGenerationMatch": ["7"],
        "ifSourceMetagenerationMatch": ["3"],
        "destinationKmsKeyName": ["projects/p/k"],
        "rewriteToken": ["t/1=="],
    }


def test_a_key_is_quoted_whole() -> None:
    call = rewrite("data", "a/b ü?#%", {"storageClass": "NEARLINE"}, generation="1", metageneration="1")
    quoted = "a%2Fb%20%C3%BC%3F%23%25"
    assert call.target.partition("?")[0] == f"/storage/v1/b/data/o/{quoted}/rewriteTo/b/data/o/{quoted}"


class _Proxy(BaseHTTPRequestHandler):
    """Answers as a proxy that is asked for a whole address, and remembers it."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(("excepted", "asked"), [("", 3), ("storage.test", 0)])
def test_requests_go_through_the_proxy_that_the_environment_named_when_the_client_was_made(
    monkeypatch: pytest.MonkeyPatch, excepted: str, asked: int
) -> None:
    _Proxy.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", excepted)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ours.pem")
        with requests.Session() as session:
            client = SimpleNamespace(
                _http=session, _connection=SimpleNamespace(API_BASE_URL="http://storage.test", user_agent="test")
            )
            sender = ObjectRequests(client, 5, 2)
            assert session.verify == "/etc/ours.pem"
            monkeypatch.delenv("http_proxy")  # what is read once is not read again
            for key in "abc":
                if asked:
                    assert sender.call(look("b", key)).status == 200
                else:  # nobody has that name: it was not asked of the proxy
                    with pytest.raises(AnswerLost):
                        sender.call(look("b", key))
        server.shutdown()
    assert [address.partition("?")[0] for address in _Proxy.seen] == [
        f"http://storage.test/storage/v1/b/b/o/{key}" for key in "abc"[:asked]
    ]
