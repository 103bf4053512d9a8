"""The requests that jobs of S3 Batch Operations need: paced, and refused in the words of all clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.providers.aws_refusals import THROTTLED, code_of, refusal
from cloudflux.providers.pace import Pace

_NOT_SET_UP: Final = frozenset(
    {
        "ObjectLockConfigurationNotFoundError",
        "OwnershipControlsNotFoundError",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)


def use_endpoint_as_is(s3control: Any) -> None:
    """Let a boto3 ``s3control`` client send to its endpoint itself, and not to the account's host below it.

    boto3 puts ``123456789012.`` before the host's name, also before one that was given (``inject_host_prefix`` does not
    stop that: it comes from the endpoint rules). Of an address like 127.0.0.1 that makes no name that exists.
    """
    endpoint = urlsplit(s3control.meta.endpoint_url)

    def send_there(request: Any, **_: Any) -> None:
        request.url = urlunsplit(urlsplit(request.url)._replace(scheme=endpoint.scheme, netloc=endpoint.netloc))

    # before the request is signed, which comes with the same event
    s3control.meta.events.register_first("request-created.s3-control", send_there, unique_id="cloudflux-endpoint")


class BatchCalls:
    """Requests to S3, to S3 Control and to the bucket of the manifests. All raise what a provider's client raises."""

    def __init__(
        self, s3: Any, s3control: Any, *, account_id: str, manifest_bucket: str, pace_of: Callable[[str], Pace]
    ) -> None:
        self.account_id = account_id
        self.manifest_bucket = manifest_bucket
        self._s3 = s3
        self._control = s3control
        self._pace_of = pace_of

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Ask S3 Control about the account's jobs."""
        try:
            answer: dict[str, Any] = getattr(self._control, operation)(AccountId=self.account_id, **arguments)
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"{operation} {arguments}") from exc
        return answer

    def create_job(self, request: dict[str, Any], what: str) -> str:
        """Have a job made; gives its id."""
        try:
            return str(self._control.create_job(**request)["JobId"])
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, what) from exc

    def call(self, operation: str, bucket: str, **arguments: Any) -> dict[str, Any]:
        """Call S3, at the bucket's pace."""
        try:
            return self._called(operation, bucket, arguments)
        except (ClientError, BotoCoreError) as exc:
            key = arguments.get("Key") or arguments.get("Prefix", "")
            raise refusal(exc, f"{operation} of s3://{bucket}/{key}") from exc

    def setting(self, operation: str, bucket: str, name: str) -> dict[str, Any]:
        """Give one of a bucket's settings; empty when it was never made."""
        try:
            return dict(self._called(operation, bucket, {})[name])
        except (ClientError, BotoCoreError) as exc:
            if code_of(exc) in _NOT_SET_UP:
                return {}
            raise refusal(exc, f"{operation} of s3://{bucket}/") from exc

    def keys_below(self, folder: str) -> list[str]:
        """List what lies below a folder of the manifest bucket."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.manifest_bucket, Prefix=folder)
        try:
            return [item["Key"] for page in pages for item in page.get("Contents", ())]
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"the manifests in s3://{self.manifest_bucket}/{folder}") from exc

    def opened(self, bucket: str, key: str) -> Any:
        """Open an object, to be read as a stream."""
        return self.call("get_object", bucket, Key=key)["Body"]

    def read(self, key: str) -> bytes:
        """Read what lies in the manifest bucket."""
        return bytes(self.opened(self.manifest_bucket, key).read())

    def write(self, key: str, content: bytes) -> str:
        """Write into the manifest bucket; gives the ETag. A manifest under KMS would not be accepted."""
        answer = self.call("put_object", self.manifest_bucket, Key=key, Body=content, ServerSideEncryption="AES256")
        return str(answer["ETag"]).strip('"')

    def _called(self, operation: str, bucket: str, arguments: dict[str, Any]) -> dict[str, Any]:
        pace = self._pace_of(bucket)
        pace.admit()
        try:
            answer: dict[str, Any] = getattr(self._s3, operation)(Bucket=bucket, **arguments)
        except (ClientError, BotoCoreError) as exc:
            if code_of(exc) in THROTTLED:
                pace.throttled()
            raise
        pace.served()
        return answer
