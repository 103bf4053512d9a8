"""Azure's batches are signed as the SDK signs them, and their answers are read in any order."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest, HttpTransport, RequestsTransportResponse
from azure.storage.blob import BlobServiceClient

from cloudflux.domain.errors import AccountRefused, CredentialsRefused, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef, RestoreState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.azure import AzureTierClient
from cloudflux.providers.azure_requests import BlobRequests, TierSetting
from cloudflux.providers.batches import Answer, AnswerLost

KEY = base64.b64encode(b"a key of sixteen").decode()


class _Transport(HttpTransport[HttpRequest, Any]):
    """Answers with what was prepared, and remembers what was sent."""

    def __init__(self, *answers: tuple[int, Mapping[str, str], bytes]) -> None:
        self.answers = list(answers)
        self.sent: list[HttpRequest] = []

    def send(self, request: HttpRequest, **options: Any) -> Any:
        self.sent.append(request)
        status, headers, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response = requests.Response()
        response.status_code, response._content = status, content
        response.headers.update(headers)
        return RequestsTransportResponse(request, response)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def __exit__(self, *arguments: Any) -> None: ...


def _service(transport: _Transport, credential: Any = None, url: str = "https://ann.blob.core.windows.net") -> Any:
    key = {"account_name": "ann", "account_key": KEY}
    return BlobServiceClient(url, credential=credential or key, transport=transport)


def _batch(*parts: str, boundary: str = "answer_1", end: bool = True) -> tuple[int, Mapping[str, str], bytes]:
    body = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + (f"--{boundary}--\r\n" if end else "")
    return 202, {"Content-Type": f"multipart/mixed; boundary={boundary}"}, body.encode()


def _part(number: int | None, status: str, *headers: str, body: str = "") -> str:
    content_id = "" if number is None else f"Content-ID: {number}\r\n"
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"Content-Type: application/http\r\n{content_id}\r\nHTTP/1.1 {status}\r\n{lines}\r\n{body}"


def test_each_call_is_signed_as_the_sdk_signs_it() -> None:
    transport = _Transport(_batch(_part(0, "200 OK"), _part(1, "202 Accepted")))
    service = _service(transport)
    settings = [TierSetting("a b/ü~.bin", "Cool"), TierSetting("z", "Hot", "High", lease_id="lease")]
    BlobRequests(service, 10).set_tiers("data", settings)
    (sent,) = transport.sent
    calls = bytes(sent.data).decode().split("Content-ID: ")[1:]
    assert len(calls) == 2
    for number, call in enumerate(calls):
        head, *lines = call.partition("\r\n\r\n")[2].partition("\r\n\r\n")[0].split("\r\n")
        method, target, _ = head.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        signed = headers.pop("Authorization")
        assert ("x-ms-rehydrate-priority" in headers, "x-ms-lease-id" in headers) == (number == 1, number == 1)
        theirs = HttpRequest(method, f"https://ann.blob.core.windows.net{target}", headers=headers)
        service._credential_policy.on_request(PipelineRequest(theirs, PipelineContext(None)))
        assert theirs.headers["Authorization"] == signed


def test_a_token_stands_in_every_call() -> None:
    class Token:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken("token", 2**33)

    transport = _Transport(_batch(_part(0, "200 OK")))
    BlobRequests(_service(transport, Token()), 10).set_tiers("data", [TierSetting("a", "Cool")])
    assert b"\r\nAuthorization: Bearer token\r\n" in bytes(transport.sent[0].data)
    assert transport.sent[0].headers["Authorization"] == "Bearer token"


def test_credentials_are_refused_when_no_token_can_be_had() -> None:
    class NoToken:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            raise ClientAuthenticationError("AADSTS7000222: the client secret has expired")

    client = AzureTierClient(_service(_Transport((200, {}, b"")), NoToken()))
    with pytest.raises(CredentialsRefused):
        client.head_many([ObjectRef(Provider.AZURE, "data", "a")])


def test_the_answers_of_a_batch_belong_to_their_calls_in_whatever_order_they_come() -> None:
    parts = (_part(1, "404 Not Found", "x-ms-error-code: BlobNotFound"), _part(0, "200 OK", "x-ms-request-id: 7"))
    made = BlobRequests(_service(_Transport(_batch(*parts))), 10)
    answers = made.set_tiers("data", [TierSetting("a", "Cool"), TierSetting("b", "Cool")])
    assert isinstance(answers, list)
    assert [answer.status for answer in answers] == [200, 404]
    assert answers[0].headers["x-ms-request-id"] == "7"


def test_a_batch_that_is_refused_has_one_answer() -> None:
    error = "<?xml version='1.0'?><Error><Code>InvalidInput</Code><Message>no</Message></Error>"
    made = BlobRequests(_service(_Transport(_batch(_part(None, "400 Bad", body=error)))), 10)
    answer = made.set_tiers("data", [TierSetting("a", "Cool")])
    assert isinstance(answer, Answer)
    assert answer.status == 400


@pytest.mark.parametrize(
    "answer",
    [_batch(_part(0, "200 OK")), _batch(_part(0, "200 OK"), _part(1, "200 OK"), end=False), (202, {}, b"")],
    ids=["a-part-is-missing", "no-end", "empty"],
)
def test_a_batch_whose_answer_is_not_whole_is_lost(answer: Any) -> None:
    made = BlobRequests(_service(_Transport(answer)), 10)
    with pytest.raises(AnswerLost):
        made.set_tiers("data", [TierSetting("a", "Cool"), TierSetting("b", "Cool")])


def test_a_listing_tells_all_that_a_move_must_keep() -> None:
    properties = (
        "<Last-Modified>Tue, 24 Nov 2026 12:00:00 GMT</Last-Modified><Etag>0x1</Etag><Content-Length>3</Content-Length>"
        "<Content-Type>text/plain</Content-Type><Content-MD5>bWQ1</Content-MD5><Cache-Control>no-store</Cache-Control>"
        "<BlobType>BlockBlob</BlobType><AccessTier>Archive</AccessTier><ArchiveStatus>rehydrate-pending-to-hot"
        "</ArchiveStatus><AccessTierChangeTime>Mon, 23 Nov 2026 12:00:00 GMT</AccessTierChangeTime>"
        "<EncryptionScope>secret</EncryptionScope><LeaseStatus>unlocked</LeaseStatus>"
    )
    blobs = "".join(
        f'<Blob><Name Encoded="true">n/{number}%EF%BF%BE</Name><Properties>{properties}</Properties>'
        "<Metadata><Owner>a &amp; b</Owner><empty /></Metadata>"
        "<Tags><TagSet><Tag><Key>k</Key><Value>1 + 2</Value></Tag></TagSet></Tags></Blob>"
        for number in range(10)
    )
    page = f"<?xml version='1.0'?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
    transport = _Transport((200, {"Content-Type": "application/xml"}, page.encode()))
    headers = {
        "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT", "ETag": '"0x1"', "Content-Length": "3",
        "Content-Type": "text/plain", "Content-MD5": "bWQ1", "Cache-Control": "no-store", "x-ms-blob-type": "BlockBlob",
        "x-ms-access-tier": "Archive", "x-ms-archive-status": "rehydrate-pending-to-hot",
        "x-ms-access-tier-change-time": "Mon, 23 Nov 2026 12:00:00 GMT", "x-ms-encryption-scope": "secret",
        "x-ms-lease-status": "unlocked", "x-ms-meta-Owner": "a & b", "x-ms-meta-empty": "", "x-ms-tag-count": "1",
    }  # fmt: skip
    tags = b"<?xml version='1.0'?><Tags><TagSet><Tag><Key>k</Key><Value>1 + 2</Value></Tag></TagSet></Tags>"
    refs = [ObjectRef(Provider.AZURE, "data", f"n/{number}\ufffe") for number in range(10)]
    listed = AzureTierClient(_service(transport)).head_many(refs)
    assert len(transport.sent) == 1
    looking = _Transport((200, headers, b""), (200, {"Content-Type": "application/xml"}, tags))
    looked = AzureTierClient(_service(looking)).head(refs[0])
    assert listed[0] == looked
    assert looked.restore is RestoreState.RUNNING
    assert looked.headers == {"cache-control": "no-store", "encryption-scope": "secret"}


def test_errors_say_what_they_concern() -> None:
    def client(status: int, code: str) -> AzureTierClient:
        return AzureTierClient(
            _service(_Transport((status, {"x-ms-error-code": code}, b""))), attempts=2, sleep=lambda seconds: None
        )

    ref = ObjectRef(Provider.AZURE, "data", "a")
    for code in ("AuthenticationFailed", "InvalidAuthenticationInfo", "AuthorizationFailure"):
        with pytest.raises(CredentialsRefused, match=code):
            client(403, code).head_many([ref])
    for code in ("AccountIsDisabled", "InsufficientAccountPermissions"):
        with pytest.raises(AccountRefused, match=code):
            client(403, code).head_many([ref])
    with pytest.raises(TransientError, match="503"):
        client(503, "ServerBusy").head(ref)
    (denied,) = client(403, "AuthorizationPermissionMismatch").head_many([ref])
    (busy,) = client(503, "ServerBusy").head_many([ref])
    assert denied is not None
    assert busy is not None
    assert (getattr(denied, "passing", None), getattr(busy, "passing", None)) == (False, True)


def test_a_request_is_sent_once_when_the_service_fails() -> None:
    transport = _Transport((500, {"x-ms-error-code": "OperationTimedOut"}, b""))
    answer = BlobRequests(_service(transport), 10).set_tiers("data", [TierSetting("a", "Cool")])
    assert isinstance(answer, Answer)
    assert (answer.status, len(transport.sent)) == (500, 1)


def test_a_blob_is_unavailable_when_the_service_stays_busy() -> None:
    listed = {"x-ms-error-code": "ServerBusy", "Retry-After": "3"}
    waited: list[float] = []
    client = AzureTierClient(_service(_Transport((503, listed, b""))), attempts=3, sleep=waited.append)
    looking = _Transport(
        (200, {"Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT", "ETag": '"0x1"', "Content-Length": "3"}, b"")
    )
    seen = AzureTierClient(_service(looking)).head(ObjectRef(Provider.AZURE, "data", "a"))
    pace = _Patient()
    client._pace_of = lambda bucket: pace
    (result,) = client.change_tiers([TierChange(seen, "Cool", now=seen)])
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    assert "503" in result.detail
    assert waited == [4.0, 5.0]


class _Patient:
    """A pace that holds nothing back and waits a second longer after every attempt."""

    def admit(self, requests: int = 1) -> None: ...

    def served(self, requests: int = 1) -> None: ...

    def throttled(self, retry_after: float | None = None) -> None:
        assert retry_after == 3.0

    def backoff(self, attempt: int, retry_after: float | None = None) -> float:
        return attempt + (retry_after or 0.0)
