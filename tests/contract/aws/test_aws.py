"""What only S3 has: ACLs, encryption, refusals of many kinds, answers that are lost."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
from contract.aws.wire import ACTED, Wire, move, new_client, put_many, ref, refused, tap

from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TerminalError
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectState, Unseen
from cloudflux.domain.verification import differences
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_http import Answer, AnswerLost, Patience
from cloudflux.providers.pace import Pace

pytestmark = pytest.mark.contract


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
    seen = client.head(ref(new_bucket))
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
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    assert differences(seen, client.head(ref(new_bucket)), "STANDARD_IA", keeps_etag=False) == ()


def test_the_old_version_is_gone_when_an_object_of_a_versioned_bucket_moved(
    client: AwsTierClient, s3: Any, new_bucket: str
) -> None:
    client.create_bucket(new_bucket)
    s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(ref(new_bucket), b"history")
    seen = client.put_object(ref(new_bucket), b"content", tags={"a": "1"})
    assert seen.ref.version_id
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    versions = s3.list_object_versions(Bucket=new_bucket)["Versions"]
    after = client.head(ref(new_bucket))
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
    assert move(client, client.head(ref(new_bucket))).outcome is ChangeOutcome.CHANGED
    assert grants() == before


def test_an_archived_object_moves_only_when_it_was_restored(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    client.create_bucket(new_bucket)
    seen = client.put_object(ref(new_bucket), b"content", storage_class="GLACIER")
    refused = move(client, seen, "STANDARD")
    assert refused.outcome is ChangeOutcome.ERROR
    assert "restore" in refused.detail
    s3.restore_object(Bucket=new_bucket, Key="a.bin", RestoreRequest={"Days": 1})
    # moto tells that the restore runs when it is first asked, and that it is complete from then on
    assert move(client, seen, "STANDARD").outcome in (ChangeOutcome.RESTORING, ChangeOutcome.CHANGED)
    assert move(client, seen, "STANDARD").outcome is ChangeOutcome.CHANGED
    assert client.get_object(ref(new_bucket)) == b"content"


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
        client.put_object(ref(new_bucket), b"content", storage_class="LUKEWARM")


def test_looking_at_many_tells_what_looking_at_each_tells(client: AwsTierClient, new_bucket: str) -> None:
    states = put_many(client, new_bucket, 20)
    assert states == [client.head(state.ref) for state in states]
    assert states[7].tags == {"n": "7"}
    missing = ref(new_bucket, "missing")
    assert client.head_many([states[3].ref, missing, states[5].ref]) == [states[3], None, states[5]]
    assert client.head_many([states[7].ref], tags=False) == [replace(states[7], tags={})]


def test_one_request_moves_an_object_when_its_state_is_given(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    states = put_many(client, new_bucket, 3)
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
    put_many(client, new_bucket, 1)
    assert {headers["user-agent"].count("cloudflux/") for _, _, headers in wire.sent} == {1}
    assert all("Boto3" in headers["user-agent"] for _, _, headers in wire.sent)


_BUSY = [
    refused(503, "SlowDown", "later"),
    refused(429, "TooManyRequests", "later"),
    refused(400, "RequestTimeout", "later"),
    refused(409, "ConditionalRequestConflict", "later"),
]


@pytest.mark.parametrize("busy", _BUSY, ids=lambda answer: answer.code)
def test_throttling_is_waited_out_when_it_ends(
    client: AwsTierClient, wire: Wire, new_bucket: str, busy: Answer
) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", busy, busy)
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    assert wire.count("PUT") == 3


@pytest.mark.parametrize("busy", _BUSY, ids=lambda answer: answer.code)
def test_only_the_throttled_object_is_unavailable_when_it_does_not_end(
    client: AwsTierClient, wire: Wire, new_bucket: str, busy: Answer
) -> None:
    states = put_many(client, new_bucket, 3)
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

    client = new_client(s3, pace_of=lambda bucket: Listening(max_in_flight=4))
    wire = tap(client, monkeypatch)
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", refused(503, "SlowDown", retry_after="7"), refused(503, "SlowDown"))
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    assert heard == [7.0, None]
    client.close()


def test_a_move_is_given_up_at_once_when_s3_asks_for_a_day(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", refused(503, "SlowDown", retry_after="86400"))
    began = time.monotonic()
    result = move(client, seen)
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    assert "asks for a pause of 86,400 seconds" in result.detail
    assert move(client, seen).outcome is ChangeOutcome.UNAVAILABLE
    assert time.monotonic() - began < 20


_LOST = [
    AnswerLost("the connection broke"),
    refused(500, "InternalError", "broken"),
    refused(502, ""),
    refused(504, ""),
    refused(200, "InternalError", "in the body of a 200"),
]


@pytest.mark.parametrize("lost", _LOST, ids=str)
def test_a_copy_is_sent_again_only_after_a_look_when_its_answer_was_lost(
    client: AwsTierClient, wire: Wire, new_bucket: str, lost: Any
) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.sent.clear()
    wire.fail("PUT", "/000", lost)
    assert client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])[0].outcome is ChangeOutcome.CHANGED
    of_object = [method for method, url, _ in wire.sent if "/000" in url]
    assert of_object == ["PUT", "HEAD", "HEAD", "PUT"]
    assert client.head(seen.ref).storage_class == "STANDARD_IA"


def test_nothing_is_moved_twice_when_the_answer_was_lost(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", ACTED)
    result = move(client, seen)
    assert result.outcome is ChangeOutcome.CHANGED
    assert "lost" in result.detail
    assert wire.count("PUT") == 1


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_the_late_copy_of_a_dead_worker_is_refused_once_the_object_has_moved(
    s3: Any, client: AwsTierClient, monkeypatch: pytest.MonkeyPatch, new_bucket: str, *, back: bool, versioned: bool
) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    if versioned:
        s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": "Enabled"})
        seen = client.put_object(seen.ref, b"content")
    dying = new_client(s3, patience=Patience(attempts=1))
    wire = tap(dying, monkeypatch)
    wire.fail("PUT", "/000", AnswerLost("it is on its way"))
    assert move(dying, seen).outcome is ChangeOutcome.UNAVAILABLE
    (late,) = [sent for sent in wire.sent if sent[0] == "PUT"]
    dying.close()

    _wait_for_a_later_second_than(seen)
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    if back:
        assert move(client, client.head(ref(new_bucket, "000")), "STANDARD").outcome is ChangeOutcome.CHANGED
    moved = client.head(ref(new_bucket, "000"))
    assert moved.etag == seen.etag  # it does not tell the copy from what was copied

    method, url, headers = late
    answer = requests.request(method, url, headers=dict(headers), timeout=10)
    assert answer.status_code == (404 if versioned else 412), answer.text  # of versions the copied one is gone
    assert client.head(ref(new_bucket, "000")) == moved
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
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "/000", refused(200, "AccessDenied", "no key"))
    result = move(client, seen)
    assert (result.outcome, wire.count("PUT")) == (ChangeOutcome.ERROR, 1)
    assert "no key" in result.detail


def test_a_denied_object_is_its_own_matter(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    states = put_many(client, new_bucket, 4)
    wire.fail("PUT", "/001", refused(403, "AccessDenied", "not this one"))
    wire.fail("HEAD", "/002", refused(403, ""), refused(403, ""))
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
    states = put_many(client, new_bucket, 2)
    wire.fail("HEAD", "/001", *[refused(503, "")] * 3)
    first, second = client.head_many([state.ref for state in states])
    assert first == states[0]
    assert isinstance(second, Unseen)
    assert second.passing


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"])
def test_nothing_more_is_sent_when_the_credentials_are_refused(
    client: AwsTierClient, wire: Wire, new_bucket: str, code: str
) -> None:
    states = put_many(client, new_bucket, 100)
    move(client, states[0])  # so that the bucket is known
    wire.sent.clear()
    wire.fail("PUT", "", *[refused(403, code, "renew")] * 200)
    with pytest.raises(CredentialsRefused, match=rf"{code}.*Airflow connection"):
        client.change_tiers([TierChange(state, "STANDARD_IA", now=state) for state in states[1:]])
    assert wire.count("PUT") <= 32  # what was under way


@pytest.mark.parametrize("status", [400, 403])
def test_looking_names_the_credentials_when_they_are_refused_without_a_word(
    client: AwsTierClient, wire: Wire, new_bucket: str, status: int
) -> None:
    states = put_many(client, new_bucket, 50)
    wire.sent.clear()
    wire.fail("HEAD", "", *[refused(status, "")] * 50)
    wire.fail("GET", "versioning", *[refused(403, "ExpiredToken", "old")] * 50)
    with pytest.raises(CredentialsRefused, match="ExpiredToken"):
        client.head_many([state.ref for state in states])
    assert wire.count("GET") <= 32


def test_a_full_account_ends_the_whole_call(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("PUT", "", refused(403, "QuotaExceeded", "full"))
    with pytest.raises(AccountRefused, match="full"):
        move(client, seen)


def test_the_error_names_the_bucket_when_it_is_gone(client: AwsTierClient, s3: Any, new_bucket: str) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    s3.delete_object(Bucket=new_bucket, Key="000")
    s3.delete_bucket(Bucket=new_bucket)
    other = new_client(s3)  # one that has not just seen the bucket
    with pytest.raises(BucketNotFound, match=new_bucket):
        other.head_many([seen.ref])
    with pytest.raises(BucketNotFound, match=new_bucket):
        other.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])
    with pytest.raises(BucketNotFound, match=new_bucket):
        client.change_tiers([TierChange(seen, "STANDARD_IA", now=seen)])
    other.close()


def test_the_clock_is_set_by_s3_when_ours_is_wrong(client: AwsTierClient, wire: Wire, new_bucket: str) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    theirs = datetime.now(UTC) + timedelta(hours=2)
    wire.fail("PUT", "", refused(403, "RequestTimeTooSkewed", date=format_datetime(theirs, usegmt=True)))
    assert move(client, seen).outcome is ChangeOutcome.CHANGED
    sent_at = datetime.strptime(wire.sent[-1][2]["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(sent_at - theirs) < timedelta(minutes=1)


def test_requests_go_to_the_buckets_region_when_s3_names_another(
    client: AwsTierClient, wire: Wire, new_bucket: str
) -> None:
    (seen,) = put_many(client, new_bucket, 1)
    wire.fail("HEAD", "", refused(301, "", x_amz_bucket_region="eu-central-1"))
    assert client.head_many([seen.ref]) == [seen]
    assert "/eu-central-1/s3/aws4_request" in wire.sent[-2][2]["authorization"]  # the last asks for tags


def test_renewed_credentials_are_used_when_the_old_ones_expired(
    client: AwsTierClient, wire: Wire, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.credentials import Credentials

    (seen,) = put_many(client, new_bucket, 1)
    monkeypatch.setattr(client._s3._request_signer, "_credentials", Credentials("new", "secret", "token"))
    wire.fail("HEAD", "", refused(400, ""))
    wire.fail("GET", "versioning", refused(400, "ExpiredToken"))
    assert client.head_many([seen.ref]) == [seen]
    assert "Credential=new/" in wire.sent[-1][2]["authorization"]
    assert wire.sent[-1][2]["x-amz-security-token"] == "token"
