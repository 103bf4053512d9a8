"""The clients that the contract suite runs over, with what a test needs beside the protocol, and their gaps as data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.providers.memory import MemoryTierClient

GAPS: dict[str, dict[str, str]] = {
    # backend -> what it cannot do -> whose gap it is, and why
    "azure": {
        "dot-segments": "the SDK's transport folds a/../b to b before it sends, so such a blob cannot be addressed",
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
    )


def s3_backend(s3: Any) -> Backend:
    from cloudflux.providers.aws import AwsTierClient
    from cloudflux.providers.aws_requests import AnswerLost, Patience

    client = AwsTierClient(s3, in_flight=32, patience=Patience(attempts=2))
    transport = client._requests._transport

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

    return Backend("s3", client, *CLASSES[Provider.AWS], lock, intercept, lost_before_sending, lockable_bucket)


def azure_backend(service: Any) -> Backend:
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError
    from azure.storage.blob import ContainerClient

    from cloudflux.providers.azure import AzureTierClient

    def lock(ref: ObjectRef) -> None:
        service.get_blob_client(ref.bucket, ref.key).acquire_lease()

    def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], lose_answer: bool) -> None:
        original = ContainerClient.set_standard_blob_tier_blobs

        def set_tiers(self: Any, *arguments: Any, **options: Any) -> Any:
            before()
            answer = original(self, *arguments, **options)
            if lose_answer:
                raise ServiceResponseError("the connection broke")
            return answer

        monkeypatch.setattr(ContainerClient, "set_standard_blob_tier_blobs", set_tiers)

    def lost_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
        def set_tiers(self: Any, *arguments: Any, **options: Any) -> Any:
            raise ServiceRequestError("no connection")

        monkeypatch.setattr(ContainerClient, "set_standard_blob_tier_blobs", set_tiers)

    return Backend("azure", AzureTierClient(service), *CLASSES[Provider.AZURE], lock, intercept, lost_before_sending)


def gcs_backend(gcs: Any) -> Backend:
    import requests
    from google.cloud.storage import Blob

    from cloudflux.providers.gcp import GcpTierClient

    def lock(ref: ObjectRef) -> None:
        blob = gcs.bucket(ref.bucket).get_blob(ref.key)
        blob.temporary_hold = True
        blob.patch()

    def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], lose_answer: bool) -> None:
        original = Blob.rewrite

        def rewrite(self: Any, *arguments: Any, **options: Any) -> Any:
            before()
            answer = original(self, *arguments, **options)
            if lose_answer:
                raise requests.ConnectionError("the connection broke")
            return answer

        monkeypatch.setattr(Blob, "rewrite", rewrite)

    def lost_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
        def rewrite(self: Any, *arguments: Any, **options: Any) -> Any:
            raise requests.ConnectionError("no connection")

        monkeypatch.setattr(Blob, "rewrite", rewrite)

    return Backend("gcs", GcpTierClient(gcs), *CLASSES[Provider.GCP], lock, intercept, lost_before_sending)
