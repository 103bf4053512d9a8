"""Amazon S3: an object changes its class by being copied onto itself.

The copy is conditional on the ETag of the source and of the destination, and keeps metadata, headers, tags, encryption
settings, the website redirect and, in buckets that still use them, ACLs; above 5 GiB it is made in parts. In a
versioned bucket the copy is a new version: once it is seen to be complete, the version it was made from, which would be
billed for ever, is deleted, where the owner allows it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    ObjectLocked,
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.aws_answers import has_tags, state_of
from cloudflux.providers.aws_copies import CopyLimits
from cloudflux.providers.aws_http import Patience
from cloudflux.providers.aws_loop import LoopThread, for_each
from cloudflux.providers.aws_moves import S3Moves
from cloudflux.providers.aws_requests import (
    NOT_ACTED_ON,
    PERHAPS_ACTED_ON,
    REFUSED_ACCOUNT,
    REFUSED_CREDENTIALS,
    S3Requests,
)
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import (
    AGENT,
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
)

_NOT_FOUND: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
_PASSING: Final = NOT_ACTED_ON | PERHAPS_ACTED_ON | {"RequestTimeTooSkewed"}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AwsTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a boto3 S3 client, as ``S3Hook.get_conn()`` gives it.

    Safe between threads.

    Looking at many objects and moving them go past boto3, in an event loop of the client's own thread: see
    ``aws_requests``. Credentials, endpoint, addressing, certificates and proxies are those of the boto3 client; behind
    a proxy the requests go through botocore's connections, in threads, at about a fifth of the rate. Signature
    versions but 4 are refused, and so are directory buckets (S3 Express), whose objects have no other class. Everything
    else is boto3's own.

    ``pace_of`` gives the pace of a bucket; without it every bucket takes ``in_flight`` requests at once and as many a
    second as it serves. ``remove_superseded`` tells (for all buckets, or by name) whether a version may be deleted once
    its copy in the new class is complete; where it may not, objects of a bucket that keeps versions are not moved.
    """

    provider: Provider = Provider.AWS
    capabilities: TierCapabilities = CAPABILITIES[Provider.AWS]

    def __init__(
        self,
        s3: Any,
        *,
        in_flight: int = 256,
        pace_of: Callable[[str], Pace] | None = None,
        patience: Patience | None = None,
        limits: CopyLimits | None = None,
        remove_superseded: bool | Callable[[str], bool] = True,
    ) -> None:
        self._s3 = s3
        s3.meta.events.register_first("before-send.s3", _name_ourselves, unique_id="cloudflux-agent")

        def own_pace(_bucket: str) -> Pace:
            return Pace(max_in_flight=in_flight)

        may_remove = remove_superseded if callable(remove_superseded) else lambda _bucket: bool(remove_superseded)
        self._requests = S3Requests(s3, pace_of or own_pace, patience or Patience())
        self._moves = S3Moves(self._requests, self.capabilities, limits or CopyLimits(), may_remove)
        self._loop = LoopThread("cloudflux-s3")
        self._loop.on_start(self._requests.start_over)
        self._loop.on_start(self._moves.start_over)
        self._loop.on_stop(self._requests.close)
        weakref.finalize(self, self._loop.stop)

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket without ACLs; one that is ours already is fine."""
        region = self._s3.meta.region_name
        place = {} if region in ("us-east-1", "aws-global") else {"LocationConstraint": region}
        arguments = {"CreateBucketConfiguration": place} if place else {}
        try:
            self._s3.create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerEnforced", **arguments)
        except ClientError as exc:
            if _code(exc) != "BucketAlreadyOwnedByYou":
                raise _translated(exc, f"bucket {bucket!r}") from exc
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, f"bucket {bucket!r}") from exc

    def put_object(
        self,
        ref: ObjectRef,
        data: bytes,
        *,
        storage_class: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ObjectState:
        """Write an object, over the one that is there."""
        self.write_object(
            ref, data, storage_class=storage_class, content_type=content_type, metadata=metadata, tags=tags
        )
        return self.head(ref)

    def write_object(
        self,
        ref: ObjectRef,
        data: bytes,
        *,
        storage_class: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object without looking at it afterwards: one request."""
        optional = {
            "StorageClass": storage_class,
            "ContentType": content_type,
            "Metadata": dict(metadata) if metadata else None,
            "Tagging": urlencode(dict(tags)) if tags else None,
        }
        arguments = {name: value for name, value in optional.items() if value is not None}
        self._call("put_object", ref, Body=data, **arguments)

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read an object. Raises ``ObjectNotFound``."""
        answer = self._call("get_object", ref)
        try:
            content: bytes = answer["Body"].read()
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, ref.uri) from exc
        return content

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces. Raises ``ObjectNotFound``."""
        body = self._call("get_object", ref)["Body"]
        try:
            yield from body.iter_chunks(block_bytes)
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, ref.uri) from exc
        finally:
            body.close()

    def delete_object(self, ref: ObjectRef) -> None:
        """Delete an object; one that is gone already is fine. Raises ``ObjectLocked``."""
        self._call("delete_object", ref)

    def list_pages(self, bucket: str, prefix: str = "") -> Iterator[list[ObjectState]]:
        """List live objects by key, at most 1000 at a time."""
        for contents in self._listing(bucket, prefix):
            yield [
                ObjectState(
                    ref=ObjectRef(Provider.AWS, bucket, item["Key"]),
                    size_bytes=item["Size"],
                    storage_class=item.get("StorageClass", "STANDARD"),
                    etag=item["ETag"].strip('"'),
                    last_modified_at=item["LastModified"].astimezone(UTC),
                    class_since_at=item["LastModified"].astimezone(UTC),
                )
                for item in contents
            ]

    def list_inventory(self, bucket: str, day: date, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema.

        S3 does not tell when an object got into its class: its last write stands for it, which is right except after
        a lifecycle transition.
        """
        for contents in self._listing(bucket, prefix):
            modified = [item["LastModified"] for item in contents]
            yield inventory_batch(
                Provider.AWS,
                bucket,
                day,
                keys=[item["Key"] for item in contents],
                sizes_bytes=[item["Size"] for item in contents],
                storage_classes=[item.get("StorageClass", "STANDARD") for item in contents],
                etags=[item["ETag"].strip('"') for item in contents],
                last_modified_at=modified,
                class_since_at=modified,
            )

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from the first after ``start_from`` on."""
        for contents in self._listing(bucket, prefix, start_from):
            for item in contents:
                modified_at = item["LastModified"].astimezone(UTC)
                yield StoredFile(bucket, item["Key"], item["ETag"].strip('"'), item["Size"], modified_at)

    def head(self, ref: ObjectRef, *, tags: bool = True) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        headers = self._call("head_object", ref, ChecksumMode="ENABLED")["ResponseMetadata"]["HTTPHeaders"]
        state = state_of(ref, headers)
        if not tags or not has_tags(headers):
            return state
        tag_set = self._call("get_object_tagging", ref)["TagSet"]
        return replace(state, tags={tag["Key"]: tag["Value"] for tag in tag_set})

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order; None for one that is not there, ``Unseen`` for one that does not say.

        Raises ``CredentialsRefused``, ``BucketNotFound`` or ``AccountRefused`` when none of them can be looked at.
        """

        async def look(ref: ObjectRef) -> ObjectState | Unseen | None:
            return await self._moves.seen(ref, tags=tags)

        return self._for_each(refs, look, {ref.bucket for ref in refs})

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen; one result for each, in order.

        Raises ``CredentialsRefused``, ``BucketNotFound`` or ``AccountRefused`` when nothing more can be done there.
        """
        return self._for_each(changes, self._moves.change, {change.ref.bucket for change in changes})

    def leaves_versions(self, bucket: str) -> bool:
        """Tell whether copies in a bucket would leave versions behind that may not be deleted.

        Raises ``TerminalError`` when the bucket does not tell.
        """
        return self._loop.run(self._moves.leaves_versions(bucket))

    def close(self) -> None:
        """Close the connections of looking and moving; a later call opens them again."""
        self._loop.stop()

    def _for_each(
        self, items: Sequence[_Item], function: Callable[[_Item], Coroutine[Any, Any, _Result]], buckets: set[str]
    ) -> list[_Result]:
        if not items:
            return []

        async def all_of_them() -> list[_Result]:
            in_flight = max(self._requests.pace(bucket).max_in_flight for bucket in buckets)
            return await for_each(items, function, in_flight)

        return self._loop.run(all_of_them())

    def _call(self, operation: str, ref: ObjectRef, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._s3, operation)(Bucket=ref.bucket, Key=ref.key, **arguments)
        except ClientError as exc:
            raise _translated(exc, ref.uri) from exc
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, ref.uri) from exc
        return answer

    def _listing(self, bucket: str, prefix: str, start_from: str = "") -> Iterator[list[dict[str, Any]]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket,
            Prefix=prefix,
            PaginationConfig={"PageSize": PAGE_OBJECTS},
            **({"StartAfter": start_from} if start_from else {}),
        )
        try:
            for page in pages:
                if contents := page.get("Contents"):
                    yield contents
        except ClientError as exc:
            raise _translated(exc, f"bucket {bucket!r}") from exc
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, f"bucket {bucket!r}") from exc


def _name_ourselves(request: Any, **_: Any) -> None:
    """Add our name to the user agent, which botocore builds only after a request is made and does not sign."""
    agent = request.headers.get("User-Agent", "")
    agent = agent.decode() if isinstance(agent, bytes) else agent
    if AGENT not in agent:
        request.headers["User-Agent"] = f"{agent} {AGENT}".strip()


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _translated(exc: ClientError, what: str) -> CloudFluxError:
    code, message = _code(exc), exc.response.get("Error", {}).get("Message", "")
    codes = {code, str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))}
    said = f"{code}: {message}"
    error: CloudFluxError
    if code in _NOT_FOUND:
        error = ObjectNotFound(f"there is no object {what}")
    elif code in REFUSED_CREDENTIALS:
        error = CredentialsRefused(
            f"S3 does not accept the Airflow connection's credentials for {what} ({said}): renew them"
        )
    elif code == "NoSuchBucket":
        error = BucketNotFound(f"S3 knows no such bucket: {what} ({said})")
    elif codes & REFUSED_ACCOUNT:
        error = AccountRefused(f"S3 no longer serves the account of {what} ({said})")
    elif codes & _PASSING:
        error = TransientError(f"S3 could not serve {what} now ({said}): try again later")
    elif code == "AccessDenied" and "lock" in message.lower():
        error = ObjectLocked(f"{what} is under object lock: {message}")
    else:
        error = TerminalError(f"S3 refused {what} with {said}")
    return error


def _lost(exc: Exception, what: str) -> TransientError:
    return TransientError(f"the connection to S3 failed at {what}: {exc}")
