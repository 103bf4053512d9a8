"""What only S3 has: versions, ACLs, encryption, archives that need a restore."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
from contract.backends import let_restores_take

from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TerminalError
from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_http import Answer, AnswerLost, Patience
from cloudflux.providers.aws_moves import CopyLimits
from cloudflux.providers.pace import Pace

pytestmark = pytest.mark.contract

_MIB = 2**20
_ORDER = RestoreOrder("bulk", 3)


def _pace(_bucket: str) -> Pace:
    return Pace(max_in_flight=32, random=lambda: 0.0)  # retries do not wait


def _client(s3: Any, **settings: Any) -> AwsTierClient:
    return AwsTierClient(s3, **{"patience": Patience(attempts=3), "pace_of": _pace, **settings})


@pytest.fixture
def client(s3: Any) -> Iterator[AwsTierClient]:
    let_restores_take(s3, 0)
    client = _client(s3)
    yield client
    client.close()


ACTED = "acted"
"""S3 acts, and its answer is lost."""


@dataclass
class Wire:
    """What goes between a client and S3: recorded, and broken where a test wants it."""

    sent: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    faults: list[tuple[str, str, list[Any]]] = field(default_factory=list)

    def fail(self, method: str, part_of_url: str, *faults: Any) -> None:
        """Give the next requests of a kind these answers or exceptions, or lose S3's answer after it acted."""
        self.faults.append((method, part_of_url, list(faults)))

    def count(self, method: str, part_of_url: str = "") -> int:
        return sum(method == sent and part_of_url in url for sent, url, _ in self.sent)


@pytest.fixture
def wire(client: AwsTierClient, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return _tap(client, monkeypatch)


def _tap(client: AwsTierClient, monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire, transport = Wire(), client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        wire.sent.append((method, url, headers))
        for wanted, part_of_url, faults in wire.faults:
            if wanted == method and part_of_url in url and faults:
                fault = faults.pop(0)
                if isinstance(fault, Answer):
                    return fault
                if isinstance(fault, Exception):
                    raise fault
                await original(method, url, headers, body)
                raise AnswerLost("the connection broke")
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    return wire


def _refused(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


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


def test_requests_name_us_when_they_are_sent(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    AwsTierClient(s3)  # a second one on the same boto3 client
    agents: list[str] = []

    def look(request: Any, **_: Any) -> None:
        agents.append(str(request.headers["User-Agent"]))

    s3.meta.events.register("before-send.s3", look)
    client.create_bucket(new_bucket)
    s3.meta.events.unregister("before-send.s3", look)
    assert [agent.count("cloudflux/") for agent in agents] == [1], agents


def test_writing_into_an_unknown_class_is_a_terminal_error(client: AwsTierClient, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    with pytest.raises(TerminalError, match="InvalidStorageClass"):
        client.put_object(_ref(new_bucket), b"content", storage_class="LUKEWARM")


def _put_many(client: AwsTierClient, bucket: str, count: int) -> list[ObjectState]:
    client.create_bucket(bucket)
    for number in range(count):
        client.write_object(_ref(bucket, f"{number:03}"), b"content %d" % number, tags={"n": str(number)})
    looks = client.head_many([_ref(bucket, f"{number:03}") for number in range(count)])
    states = [state for state in looks if isinstance(state, ObjectState)]
    assert states == looks
    return states


def test_looking_at_many_tells_what_looking_at_each_tells(client: AwsTierClient, new_bucket: str) -> None:
    states = _put_many(client, new_bucket, 20)
    assert states == [client.head(state.ref) for state in states]
    assert states[7].tags == {"n": "7"}
    missing = _ref(new_bucket, "missing")
    assert client.head_many([states[3].ref, missing, states[5].ref]) == [states[3], None, states[5]]
    assert client.head_many([states[7].ref], tags=False) == [replace(states[7], tags={})]


def test_one_request_moves_an_object_when_its_state_is_given(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    states = _put_many(client, new_bucket, 3)
    wire.sent.clear()
    results = client.change_tiers([TierChange(state, "STANDARD_IA", now=state) for state in states])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    assert (wire.count("PUT"), wire.count("HEAD")) == (3, 0)
    assert len(wire.sent) == 5  # the bucket's versioning and ownership
    wire.sent.clear()
    looks = client.head_many([state.ref for state in states])
    moved = [state for state in looks if isinstance(state, ObjectState)]
    client.change_tiers([TierChange(state, "GLACIER_IR", now=state) for state in moved])
    assert wire.count("GET", "versioning") == 0  # known


def test_requests_past_boto3_name_us_too(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    _put_many(client, new_bucket, 1)
    assert {headers["user-agent"].count("cloudflux/") for _, _, headers in wire.sent} == {1}
    assert all("Boto3" in headers["user-agent"] for _, _, headers in wire.sent)


_BUSY = [
    _refused(503, "SlowDown", "later"),
    _refused(429, "TooManyRequests", "later"),
    _refused(400, "RequestTimeout", "later"),
    _refused(409, "ConditionalRequestConflict", "later"),
]


@pytest.mark.parametrize("busy", _BUSY, ids=lambda answer: answer.code)
def test_throttling_is_waited_out_when_it_ends(
    client: AwsTierClient, wire: Wire, new_bucket: str, busy: Answer
) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", busy, busy)
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert wire.count("PUT") == 3


@pytest.mark.parametrize("busy", _BUSY, ids=lambda answer: answer.code)
def test_only_the_throttled_object_is_unavailable_when_it_does_not_end(
    client: AwsTierClient, wire: Wire, new_bucket: str, busy: Answer
) -> None:
    states = _put_many(client, new_bucket, 3)
    wire.fail("PUT", "/001", *[busy] * 10)
    results = client.change_tiers([TierChange(state, "STANDARD_IA") for state in states])
    changed, unavailable = ChangeOutcome.CHANGED, ChangeOutcome.UNAVAILABLE
    assert [result.outcome for result in results] == [changed, unavailable, changed]
    assert "later" in results[1].detail
    assert client.head(states[1].ref) == states[1]


def test_the_pace_hears_of_throttling_and_of_how_long_to_wait(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float | None] = []

    class Listening(Pace):
        def throttled(self, retry_after: float | None = None) -> None:
            heard.append(retry_after)

        def backoff(self, attempt: int, retry_after: float | None = None) -> float:
            return 0.0

    client = _client(s3, pace_of=lambda bucket: Listening(max_in_flight=4))
    wire = _tap(client, monkeypatch)
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", _refused(503, "SlowDown", retry_after="7"), _refused(503, "SlowDown"))
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert heard == [7.0, None]
    client.close()


_LOST = [
    AnswerLost("the connection broke"),
    _refused(500, "InternalError", "broken"),
    _refused(502, ""),
    _refused(504, ""),
    _refused(200, "InternalError", "in the body of a 200"),
]


@pytest.mark.parametrize("lost", _LOST, ids=str)
def test_a_copy_is_sent_again_only_after_a_look_when_its_answer_was_lost(
    client: AwsTierClient, wire: Wire, new_bucket: str, lost: Any
) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.sent.clear()
    wire.fail("PUT", "/000", lost)
    assert client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])[0].outcome is ChangeOutcome.CHANGED
    of_object = [method for method, url, _ in wire.sent if "/000" in url]
    assert of_object == ["PUT", "HEAD", "HEAD", "PUT"]
    assert client.head(seen.ref).storage_class == "STANDARD_IA"


def test_nothing_is_moved_twice_when_the_answer_was_lost(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", ACTED)
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.CHANGED
    assert "lost" in result.detail
    assert wire.count("PUT") == 1


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_the_late_copy_of_a_dead_worker_is_refused_once_the_object_has_moved(
    s3: Any, client: AwsTierClient, monkeypatch: pytest.MonkeyPatch, new_bucket: str, *, back: bool, versioned: bool
) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    if versioned:
        s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": "Enabled"})
        seen = client.put_object(seen.ref, b"content")
    dying = _client(s3, patience=Patience(attempts=1))
    wire = _tap(dying, monkeypatch)
    wire.fail("PUT", "/000", AnswerLost("it is on its way"))
    assert _move(dying, seen).outcome is ChangeOutcome.UNAVAILABLE
    (late,) = [sent for sent in wire.sent if sent[0] == "PUT"]
    dying.close()

    _wait_for_a_later_second_than(seen)
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    if back:
        assert _move(client, client.head(_ref(new_bucket, "000")), "STANDARD").outcome is ChangeOutcome.CHANGED
    moved = client.head(_ref(new_bucket, "000"))
    assert moved.etag == seen.etag  # it does not tell the copy from what was copied

    method, url, headers = late
    answer = requests.request(method, url, headers=dict(headers), timeout=10)
    assert answer.status_code == (404 if versioned else 412), answer.text  # of versions the copied one is gone
    assert client.head(_ref(new_bucket, "000")) == moved
    if versioned:
        versions = s3.list_object_versions(Bucket=new_bucket)["Versions"]
        assert [version["VersionId"] for version in versions if version["VersionId"] != "null"] == [
            moved.ref.version_id
        ]


def _wait_for_a_later_second_than(seen: ObjectState) -> None:
    """Wait until what is written now is dated later: HTTP dates have no finer grain than seconds."""
    deadline = time.monotonic() + 10
    while datetime.now(UTC).replace(microsecond=0) <= seen.last_modified_at:
        assert time.monotonic() < deadline, "the clock stands still"
        time.sleep(0.05)


def test_a_refusal_in_the_body_of_a_200_is_the_objects_own(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", _refused(200, "AccessDenied", "no key"))
    result = _move(client, seen)
    assert (result.outcome, wire.count("PUT")) == (ChangeOutcome.ERROR, 1)
    assert "no key" in result.detail


def test_a_denied_object_is_its_own_matter(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    states = _put_many(client, new_bucket, 4)
    wire.fail("PUT", "/001", _refused(403, "AccessDenied", "not this one"))
    wire.fail("HEAD", "/002", _refused(403, ""), _refused(403, ""))
    looked = client.head_many([state.ref for state in states])
    assert [looked[0], looked[1], looked[3]] == [states[0], states[1], states[3]]
    assert isinstance(looked[2], Unseen)
    assert not looked[2].passing
    assert "403" in looked[2].reason
    results = client.change_tiers([TierChange(state, "STANDARD_IA") for state in states])
    changed, error = ChangeOutcome.CHANGED, ChangeOutcome.ERROR
    assert [result.outcome for result in results] == [changed, error, error, changed]
    assert "AccessDenied" in results[1].detail
    assert "not this one" in results[1].detail


def test_an_object_is_unseen_for_now_when_s3_is_busy(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    states = _put_many(client, new_bucket, 2)
    wire.fail("HEAD", "/001", *[_refused(503, "")] * 3)
    first, second = client.head_many([state.ref for state in states])
    assert first == states[0]
    assert isinstance(second, Unseen)
    assert second.passing


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"])
def test_nothing_more_is_sent_when_the_credentials_are_refused(
    client: AwsTierClient, wire: Wire, new_bucket: str, code: str
) -> None:
    states = _put_many(client, new_bucket, 100)
    _move(client, states[0])  # so that the bucket is known
    wire.sent.clear()
    wire.fail("PUT", "", *[_refused(403, code, "renew")] * 200)
    with pytest.raises(CredentialsRefused, match=rf"{code}.*Airflow connection"):
        client.change_tiers([TierChange(state, "STANDARD_IA", now=state) for state in states[1:]])
    assert wire.count("PUT") <= 32  # what was under way


@pytest.mark.parametrize("status", [400, 403])
def test_looking_names_the_credentials_when_they_are_refused_without_a_word(
    client: AwsTierClient, wire: Wire, new_bucket: str, status: int
) -> None:
    states = _put_many(client, new_bucket, 50)
    wire.sent.clear()
    wire.fail("HEAD", "", *[_refused(status, "")] * 50)
    wire.fail("GET", "versioning", *[_refused(403, "ExpiredToken", "old")] * 50)
    with pytest.raises(CredentialsRefused, match="ExpiredToken"):
        client.head_many([state.ref for state in states])
    assert wire.count("GET") <= 32


def test_a_full_account_ends_the_whole_call(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("PUT", "", _refused(403, "QuotaExceeded", "full"))
    with pytest.raises(AccountRefused, match="full"):
        _move(client, seen)


def test_the_error_names_the_bucket_when_it_is_gone(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    s3.delete_object(Bucket=new_bucket, Key="000")
    s3.delete_bucket(Bucket=new_bucket)
    other = _client(s3)  # one that has not just seen the bucket
    with pytest.raises(BucketNotFound, match=new_bucket):
        other.head_many([seen.ref])
    with pytest.raises(BucketNotFound, match=new_bucket):
        other.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])
    with pytest.raises(BucketNotFound, match=new_bucket):
        client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])
    other.close()


def test_the_clock_is_set_by_s3_when_ours_is_wrong(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    theirs = datetime.now(UTC) + timedelta(hours=2)
    wire.fail("PUT", "", _refused(403, "RequestTimeTooSkewed", date=format_datetime(theirs, usegmt=True)))
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    sent_at = datetime.strptime(wire.sent[-1][2]["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(sent_at - theirs) < timedelta(minutes=1)


def test_requests_go_to_the_buckets_region_when_s3_names_another(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    (seen,) = _put_many(client, new_bucket, 1)
    wire.fail("HEAD", "", _refused(301, "", x_amz_bucket_region="eu-central-1"))
    assert client.head_many([seen.ref]) == [seen]
    assert "/eu-central-1/s3/aws4_request" in wire.sent[-2][2]["authorization"]  # the last asks for tags


def test_renewed_credentials_are_used_when_the_old_ones_expired(
    client: AwsTierClient, wire: Wire, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.credentials import Credentials

    (seen,) = _put_many(client, new_bucket, 1)
    monkeypatch.setattr(client._s3._request_signer, "_credentials", Credentials("new", "secret", "token"))
    wire.fail("HEAD", "", _refused(400, ""))
    wire.fail("GET", "versioning", _refused(400, "ExpiredToken"))
    assert client.head_many([seen.ref]) == [seen]
    assert "Credential=new/" in wire.sent[-1][2]["authorization"]
    assert wire.sent[-1][2]["x-amz-security-token"] == "token"


# --- copies in parts


def _in_parts(s3: Any, **limits: int) -> AwsTierClient:
    defaults = {"one_copy_bytes": 7 * _MIB, "part_bytes": 5 * _MIB}
    return _client(s3, limits=CopyLimits(**{**defaults, **limits}))


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


def test_all_but_the_class_is_kept_when_an_object_is_copied_in_parts(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    wire = _tap(client, monkeypatch)
    (seen,) = client.head_many([_ref(new_bucket)])
    assert isinstance(seen, ObjectState)
    assert client.change_tiers([TierChange(seen, "GLACIER_IR", now=seen)])[0].outcome is ChangeOutcome.CHANGED
    assert wire.count("PUT", "partNumber=") == 3
    (after,) = client.head_many([_ref(new_bucket)])
    assert isinstance(after, ObjectState)
    assert after.tags == {"team": "red + blue", "empty": ""}
    assert differences(seen, after, "GLACIER_IR", keeps_etag=False) == ()
    assert client.get_object(seen.ref) == _BODY
    assert _uploads(s3, new_bucket) == []
    client.close()


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
    seen = client.head(_ref(new_bucket))
    assert seen.etag.endswith("-3")
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    after = client.head(_ref(new_bucket))
    assert (after.etag, after.storage_class) == (seen.etag, "STANDARD_IA")
    assert client.get_object(seen.ref) == _BODY
    assert _move(client, seen).detail == "already there"
    client.close()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (_refused(403, "AccessDenied"), ChangeOutcome.ERROR),
        (_refused(503, "SlowDown"), ChangeOutcome.UNAVAILABLE),
        (_refused(412, "PreconditionFailed"), ChangeOutcome.CONFLICT),
    ],
    ids=str,
)
def test_no_parts_are_left_when_a_copy_in_parts_fails(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch, fault: Answer, outcome: ChangeOutcome
) -> None:
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    seen = client.head(_ref(new_bucket))
    wire = _tap(client, monkeypatch)
    wire.fail("PUT", "partNumber=2", *[fault] * 3)
    assert _move(client, seen).outcome is outcome
    assert _uploads(s3, new_bucket) == []
    assert client.head(_ref(new_bucket)) == seen
    client.close()


@pytest.mark.parametrize("odd", ["caf\u00e9", "=?UTF-8?B?Y2Fmw6k=?="])
def test_no_copy_in_parts_is_made_when_it_would_change_the_metadata(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    wire = _tap(client, monkeypatch)
    seen = client.head(_ref(new_bucket))
    told = replace(seen, metadata={"name": odd})
    result = client.change_tiers([TierChange(told, "STANDARD_IA", now=told)])[0]
    assert result.outcome is ChangeOutcome.ERROR
    assert "name" in result.detail
    assert wire.count("POST") == wire.count("PUT") == 0
    client.close()


def test_parts_are_put_together_once_when_the_answer_was_lost(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    seen = client.head(_ref(new_bucket))
    wire = _tap(client, monkeypatch)
    wire.fail("PUT", "partNumber=1", ACTED)  # a part may be copied again
    wire.fail("POST", "uploadId=", ACTED)
    result = _move(client, seen)
    assert (result.outcome, wire.count("POST", "uploadId=")) == (ChangeOutcome.CHANGED, 1)
    assert "lost" in result.detail
    after = client.head(_ref(new_bucket))
    assert differences(seen, after, "STANDARD_IA", keeps_etag=False) == ()
    client.close()


def test_the_new_content_stays_when_it_comes_while_parts_are_copied(
    s3: Any, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _in_parts(s3)
    client.create_bucket(new_bucket)
    _put_large(s3, new_bucket)
    seen = client.head(_ref(new_bucket))
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST" and "uploadId=" in url:
            s3.put_object(Bucket=new_bucket, Key="a.bin", Body=b"new")
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    assert _move(client, seen).outcome is ChangeOutcome.CONFLICT
    assert client.get_object(seen.ref) == b"new"
    assert _uploads(s3, new_bucket) == []
    client.close()


# --- versions


def _versions(s3: Any, bucket: str) -> list[str]:
    return [version["VersionId"] for version in s3.list_object_versions(Bucket=bucket).get("Versions", [])]


def _set_versioning(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def test_the_error_names_the_setting_when_no_version_may_be_removed(s3: Any, new_bucket: str) -> None:
    client = _client(s3, remove_superseded=lambda bucket: bucket != new_bucket)
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(_ref(new_bucket), b"content")
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "remove_superseded_versions" in result.detail
    assert "lifecycle" in result.detail
    assert client.head(seen.ref) == seen
    client.close()


def test_a_bucket_without_versions_needs_no_leave_to_remove_them(s3: Any, new_bucket: str) -> None:
    client = _client(s3, remove_superseded=False)
    client.create_bucket(new_bucket)
    assert _move(client, client.put_object(_ref(new_bucket), b"content")).outcome is ChangeOutcome.CHANGED
    client.close()


def test_the_object_moves_in_place_when_versioning_is_suspended(s3: Any, new_bucket: str) -> None:
    client = _client(s3, remove_superseded=False)
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    client.put_object(_ref(new_bucket, "old"), b"a version")
    _set_versioning(s3, new_bucket, "Suspended")
    seen = client.put_object(_ref(new_bucket), b"content")
    assert seen.ref.version_id is None
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert sum(version == "null" for version in _versions(s3, new_bucket)) == 1
    versioned = client.head(_ref(new_bucket, "old"))
    assert versioned.ref.version_id is not None
    assert _move(client, versioned).outcome is ChangeOutcome.ERROR  # it would leave its version behind
    client.close()


def test_the_null_version_is_removed_when_it_is_superseded(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"from before there were versions")
    _set_versioning(s3, new_bucket, "Enabled")
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    after = client.head(_ref(new_bucket))
    assert _versions(s3, new_bucket) == [after.ref.version_id]
    assert after.storage_class == "STANDARD_IA"


def test_a_version_that_a_killed_attempt_left_is_removed(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    client.put_object(_ref(new_bucket), b"history")
    seen = client.put_object(_ref(new_bucket), b"content")
    wire.fail("DELETE", "", *[_refused(503, "SlowDown")] * 3)
    first = _move(client, seen)
    assert first.outcome is ChangeOutcome.UNAVAILABLE
    assert str(seen.ref.version_id) in first.detail
    assert len(_versions(s3, new_bucket)) == 3
    (now,) = client.head_many([seen.ref])
    assert isinstance(now, ObjectState)
    again = client.change_tiers([TierChange(seen, "STANDARD_IA", now=now)])[0]
    assert (again.outcome, again.detail) == (ChangeOutcome.CHANGED, "already there")
    assert wire.count("PUT") == 1
    assert len(_versions(s3, new_bucket)) == 2
    assert seen.ref.version_id not in _versions(s3, new_bucket)
    assert client.get_object(seen.ref) == b"content"


def test_an_older_version_is_kept_when_it_is_not_what_was_seen(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="STANDARD_IA")
    client.put_object(_ref(new_bucket), b"content", storage_class="STANDARD_IA")  # by its owner
    assert _move(client, seen).detail == "already there"
    assert len(_versions(s3, new_bucket)) == 2


def test_the_superseded_version_is_removed_when_the_copys_answer_was_lost(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    _set_versioning(s3, new_bucket, "Enabled")
    seen = client.put_object(_ref(new_bucket), b"content")
    wire.fail("PUT", "", ACTED)
    assert _move(client, seen).outcome is ChangeOutcome.CHANGED
    assert _versions(s3, new_bucket) == [client.head(seen.ref).ref.version_id]


def test_versions_are_noticed_when_they_are_turned_on_meanwhile(
    client: AwsTierClient, s3: Any, new_bucket: str
) -> None:
    first, second = _put_many(client, new_bucket, 2)
    assert _move(client, first).outcome is ChangeOutcome.CHANGED
    _set_versioning(s3, new_bucket, "Enabled")
    assert _move(client, second).outcome is ChangeOutcome.CHANGED
    assert len(_versions(s3, new_bucket)) == 2


def test_objects_stay_when_every_new_version_is_locked(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str
) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    seen = client.put_object(_ref(new_bucket), b"content")
    # moto takes a default retention for empty buckets only, and then every object is locked from its beginning
    rule = b"<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>"
    lock = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>%b</ObjectLockConfiguration>" % rule
    wire.fail("GET", "object-lock", Answer(200, {}, lock))
    result = _move(client, seen)
    assert result.outcome is ChangeOutcome.ERROR
    assert "retention" in result.detail
    assert client.head(seen.ref) == seen


@pytest.mark.parametrize(("days", "outcome"), [(-1, ChangeOutcome.CHANGED), (1, ChangeOutcome.LOCKED)])
def test_only_a_running_retention_keeps_an_object(
    client: AwsTierClient, s3: Any, new_bucket: str, days: int, outcome: ChangeOutcome
) -> None:
    s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")
    client.put_object(_ref(new_bucket), b"content")
    until = datetime.now(UTC) + timedelta(days=days)
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    s3.put_object_retention(Bucket=new_bucket, Key="a.bin", Retention=retention)
    (seen,) = client.head_many([_ref(new_bucket)])
    assert isinstance(seen, ObjectState)
    assert (seen.lock_reason is None) == (days < 0)
    assert client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])[0].outcome is outcome


# --- restores


def test_a_restore_is_asked_for_as_it_was_ordered(
    client: AwsTierClient, wire: Wire, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="DEEP_ARCHIVE")
    bodies: list[bytes] = []
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        bodies.append(body)
        return await original(method, url, headers, body)

    monkeypatch.setattr(transport, "send", send)
    result = client.change_tiers([TierChange(seen, "STANDARD", restore=_ORDER)])[0]
    assert result.outcome is ChangeOutcome.RESTORING
    (body,) = [body for body in bodies if body]
    assert b"<Days>3</Days>" in body
    assert b"<Tier>Bulk</Tier>" in body


@pytest.mark.parametrize("to_class", ["STANDARD", "GLACIER_IR", "DEEP_ARCHIVE"])
def test_an_object_is_copied_when_its_restore_is_done(
    client: AwsTierClient, s3: Any, wire: Wire, new_bucket: str, to_class: str
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="GLACIER")
    change = TierChange(seen, to_class, restore=_ORDER)
    let_restores_take(s3, 3600)
    for _ in range(3):
        assert client.change_tiers([change])[0].outcome is ChangeOutcome.RESTORING
    assert wire.count("POST", "restore") == 1
    let_restores_take(s3, 0)
    assert client.change_tiers([change])[0].outcome is ChangeOutcome.CHANGED
    after = client.head(seen.ref)
    assert after.storage_class == to_class
    assert after.restore is None


def test_a_restore_that_is_under_way_already_is_waited_for(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="GLACIER")
    wire.fail("POST", "restore", _refused(409, "RestoreAlreadyInProgress"))
    assert client.change_tiers([TierChange(seen, "STANDARD", restore=_ORDER)])[0].outcome is ChangeOutcome.RESTORING


def test_an_archived_object_of_intelligent_tiering_comes_back_for_good(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(_ref(new_bucket), b"content", storage_class="INTELLIGENT_TIERING")
    archived = {
        "last-modified": format_datetime(seen.last_modified_at, usegmt=True),
        "etag": f'"{seen.etag}"',
        "content-length": "7",
        "x-amz-storage-class": "INTELLIGENT_TIERING",
        "x-amz-archive-status": "DEEP_ARCHIVE_ACCESS",
    }
    wire.fail("HEAD", "", *[Answer(200, archived, b"")] * 2)
    wire.fail("POST", "restore", Answer(202, {}, b""))
    assert _move(client, seen, "STANDARD").outcome is ChangeOutcome.ERROR
    order = RestoreOrder("standard", 3)
    result = client.change_tiers([TierChange(seen, "STANDARD", restore=order)])[0]
    assert result.outcome is ChangeOutcome.RESTORING
    assert _move(client, seen, "STANDARD").outcome is ChangeOutcome.CHANGED
