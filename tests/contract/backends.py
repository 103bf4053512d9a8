"""The clients that the contract suite runs over, with what a test needs beside the protocol, and their gaps as data."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.providers.pace import Pace

GAPS: dict[str, dict[str, str]] = {
    # backend -> what it cannot do -> whose gap it is, and why
    "azure": {
        "control-characters": "Azurite answers 500 to a listing with such a name in it; Azure writes it "
        "percent-encoded, as <Name Encoded='true'> (REST reference, List Blobs)",
        "dot-segments": "the SDK's transport folds a/../b to b before it sends, so such a blob cannot be addressed",
        "slow-restore": "Azurite rehydrates at once",
    },
    "gcs": {"object-tags": "Google Cloud Storage has no tags on objects"},
    "memory-gcp": {"object-tags": "Google Cloud Storage has no tags on objects"},
}
"""A test that meets a gap is expected to fail there, and fails when it does not."""


@dataclass
class Backend:
    """One client under test."""

    name: str
    client: Any
    warm: str
    cold: str
    lock: Callable[[ObjectRef], None]
    intercept: Callable[[pytest.MonkeyPatch, Callable[[], None], bool], None]
    """Arrange that a callable runs just before the next change is sent, and whether its answer is lost."""
    lost_before_sending: Callable[[pytest.MonkeyPatch], None]
    lockable_bucket: Callable[[str], None] = field(default=lambda bucket: None)
    deny: Callable[[pytest.MonkeyPatch, ObjectRef], None] | None = None
    """Refuse every look at one object from now on."""
    throttle: Callable[[pytest.MonkeyPatch, ObjectRef], None] | None = None
    """Serve changes of one object no longer."""
    finish_restore: Callable[[ObjectRef], None] | None = None

    @property
    def provider(self) -> Provider:
        return self.client.provider

    @property
    def standard(self) -> str:
        return STANDARD_CLASS[self.provider]

    def ref(self, bucket: str, key: str) -> ObjectRef:
        return ObjectRef(self.provider, bucket, key)

    def lacks(self, request: pytest.FixtureRequest, gap: str) -> bool:
        """Expect the test to fail where the gap is declared."""
        reason = GAPS.get(self.name, {}).get(gap)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=f"{gap}: {reason}", strict=True))
        return reason is not None


CLASSES = {
    Provider.AWS: ("STANDARD_IA", "GLACIER_IR"),
    Provider.AZURE: ("Cool", "Cold"),
    Provider.GCP: ("NEARLINE", "ARCHIVE"),
}


def memory_backend(provider: Provider) -> Backend:
    client = MemoryTierClient(provider, lambda: datetime.now(UTC))
    warm, cold = CLASSES[provider]

    def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], lose_answer: bool) -> None:
        if lose_answer:
            pytest.skip("memory loses no answers")
        original = client._change

        def change(wanted: Any) -> Any:
            before()
            return original(wanted)

        monkeypatch.setattr(client, "_change", change)

    def lost_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.skip("memory has no connection to lose")

    return Backend(
        f"memory-{provider}",
        client,
        warm,
        cold,
        lambda ref: client.lock(ref, "legal hold"),
        intercept,
        lost_before_sending,
        deny=lambda monkeypatch, ref: client.deny(ref),
        throttle=lambda monkeypatch, ref: client.throttle(ref),
        finish_restore=client.finish_restore,
    )


def let_restores_take(s3: Any, seconds: int) -> None:
    """Tell the S3 emulator how long restores take, also those under way."""
    url = f"{s3.meta.endpoint_url}/_cloudflux/restores?seconds={seconds}"
    urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()  # noqa: S310  # the emulator's own address


def s3_backend(s3: Any) -> Backend:
    from cloudflux.providers.aws import AwsTierClient
    from cloudflux.providers.aws_http import Answer, AnswerLost, Patience

    client = AwsTierClient(s3, in_flight=32, patience=Patience(attempts=2))
    transport = client._requests._transport
    let_restores_take(s3, 3600)

    def lock(ref: ObjectRef) -> None:
        s3.put_object_legal_hold(Bucket=ref.bucket, Key=ref.key, LegalHold={"Status": "ON"})

    def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], lose_answer: bool) -> None:
        original = transport.send

        async def send(method: str, url: str, headers: Any, body: bytes) -> Any:
            if "x-amz-copy-source" not in headers:
                return await original(method, url, headers, body)
            await asyncio.to_thread(before)
            answer = await original(method, url, headers, body)
            if lose_answer:
                raise AnswerLost("the connection broke")
            return answer

        monkeypatch.setattr(transport, "send", send)

    def lost_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
        original = transport.send

        async def send(method: str, url: str, headers: Any, body: bytes) -> Any:
            if "x-amz-copy-source" in headers:
                raise AnswerLost("the connection broke")
            return await original(method, url, headers, body)

        monkeypatch.setattr(transport, "send", send)

    def lockable_bucket(bucket: str) -> None:
        s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, ObjectOwnership="BucketOwnerEnforced")

    def refuse(status: int, code: str, is_refused: Callable[[str, str], bool]) -> Callable[..., None]:
        def arrange(monkeypatch: pytest.MonkeyPatch, ref: ObjectRef) -> None:
            original = transport.send

            async def send(method: str, url: str, headers: Any, body: bytes) -> Any:
                if is_refused(method, url) and url.partition("?")[0].endswith(f"/{ref.key}"):
                    return Answer(
                        status, {}, b"" if method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
                    )
                return await original(method, url, headers, body)

            monkeypatch.setattr(transport, "send", send)

        return arrange

    return Backend(
        "s3",
        client,
        *CLASSES[Provider.AWS],
        lock,
        intercept,
        lost_before_sending,
        lockable_bucket,
        finish_restore=lambda ref: let_restores_take(s3, 0),
        deny=refuse(403, "AccessDenied", lambda method, url: method == "HEAD"),
        throttle=refuse(503, "SlowDown", lambda method, url: method == "PUT"),
    )


def _no_waiting(bucket: str) -> Pace:
    return Pace(max_in_flight=16, sleep=lambda seconds: None)


def _dispatch_of(
    owner: Any, attribute: str, is_change: Callable[..., bool], lost: Exception, close: Callable[[Any], None]
) -> tuple[Callable[..., None], Callable[[pytest.MonkeyPatch], None]]:
    """Meet changes where the SDK's transport sends them: run something before, lose the answer, or send nothing."""

    def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], lose_answer: bool) -> None:
        original = getattr(owner, attribute)

        def send(*arguments: Any, **options: Any) -> Any:
            if not is_change(*arguments, **options):
                return original(*arguments, **options)
            before()
            answer = original(*arguments, **options)
            if lose_answer:
                close(answer)
                raise lost
            return answer

        monkeypatch.setattr(owner, attribute, send)

    def lost_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, attribute)

        def send(*arguments: Any, **options: Any) -> Any:
            if is_change(*arguments, **options):
                raise lost
            return original(*arguments, **options)

        monkeypatch.setattr(owner, attribute, send)

    return intercept, lost_before_sending


def azure_backend(service: Any) -> Backend:
    from azure.core.exceptions import ServiceResponseError

    from cloudflux.providers.azure import AzureTierClient

    def lock(ref: ObjectRef) -> None:
        service.get_blob_client(ref.bucket, ref.key).acquire_lease()

    def is_change(request: Any, **options: Any) -> bool:
        return "comp=batch" in request.url

    transport = service._pipeline._transport
    intercept, lost_before_sending = _dispatch_of(
        transport,
        "send",
        is_change,
        ServiceResponseError("the connection broke"),
        lambda answer: answer.internal_response.close(),
    )

    def answer(request: Any, status: int, code: str) -> Any:
        import requests
        from azure.core.pipeline.transport import RequestsTransportResponse

        response = requests.Response()
        response.status_code = status
        response.headers["x-ms-error-code"] = code
        response._content = b""
        return RequestsTransportResponse(request, response)

    def deny(monkeypatch: pytest.MonkeyPatch, ref: ObjectRef) -> None:
        original = transport.send

        def send(request: Any, **options: Any) -> Any:
            if request.method == "HEAD" and request.url.endswith(f"/{ref.key}"):
                return answer(request, 403, "AuthorizationPermissionMismatch")
            return original(request, **options)

        monkeypatch.setattr(transport, "send", send)

    def throttle(monkeypatch: pytest.MonkeyPatch, ref: ObjectRef) -> None:
        original = transport.send

        def send(request: Any, **options: Any) -> Any:
            if is_change(request) and f"/{ref.key}?".encode() in request.data:
                return answer(request, 503, "ServerBusy")
            return original(request, **options)

        monkeypatch.setattr(transport, "send", send)

    client = AzureTierClient(service, pace_of=_no_waiting, attempts=3, sleep=lambda seconds: None)
    return Backend(
        "azure",
        client,
        *CLASSES[Provider.AZURE],
        lock,
        intercept,
        lost_before_sending,
        deny=deny,
        throttle=throttle,
    )


def gcs_backend(gcs: Any) -> Backend:
    import requests

    from cloudflux.providers.gcp import GcpTierClient

    def lock(ref: ObjectRef) -> None:
        blob = gcs.bucket(ref.bucket).get_blob(ref.key)
        blob.temporary_hold = True
        blob.patch()

    def is_change(method: str, url: str, data: Any = None, **options: Any) -> bool:
        return "/batch/" in url and b"/rewriteTo/" in data

    intercept, lost_before_sending = _dispatch_of(
        gcs._http, "request", is_change, requests.ConnectionError("the connection broke"), requests.Response.close
    )

    def refuse(kind: str) -> Callable[[pytest.MonkeyPatch, ObjectRef], None]:
        def arrange(monkeypatch: pytest.MonkeyPatch, ref: ObjectRef) -> None:
            url = f"{gcs._connection.API_BASE_URL}/_cloudflux/refused"
            gcs._http.request("PUT", url, json={kind: [f"{ref.bucket}/{ref.key}"]}).raise_for_status()

        return arrange

    client = GcpTierClient(gcs, pace_of=_no_waiting, attempts=3, sleep=lambda seconds: None)
    return Backend(
        "gcs",
        client,
        *CLASSES[Provider.GCP],
        lock,
        intercept,
        lost_before_sending,
        deny=refuse("denied"),
        throttle=refuse("throttled"),
    )
