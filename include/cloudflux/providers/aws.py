"""Amazon S3: an object changes its class by being copied onto itself.

The copy is conditional on the ETag of the source and of the destination, and keeps metadata, headers, tags, encryption
settings, the website redirect and, in buckets that still use them, ACLs. In a versioned bucket the copy is a new
version: once it is seen to be complete, the version it was made from, which would be billed for ever, is deleted.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from cloudflux.domain.errors import CloudFluxError, ObjectLocked, ObjectNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.inventory import inventory_batch
from cloudflux.providers.protocol import (
    AGENT,
    CAPABILITIES,
    PAGE_OBJECTS,
    StoredFile,
    TierCapabilities,
    map_concurrently,
    unknown_class,
)

_NOT_FOUND: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
_CHANGED_SINCE: Final = frozenset({"412", "PreconditionFailed"})
_PASSING: Final = frozenset(
    {
        "429",
        "500",
        "502",
        "503",
        "504",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",  # another conditional write of the same key was under way
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_KEPT_HEADERS: Final = (
    ("CacheControl", "cache-control"),
    ("ContentDisposition", "content-disposition"),
    ("ContentEncoding", "content-encoding"),
    ("ContentLanguage", "content-language"),
    ("ExpiresString", "expires"),
    ("WebsiteRedirectLocation", "website-redirect-location"),
    ("ServerSideEncryption", "server-side-encryption"),
    ("SSEKMSKeyId", "kms-key-id"),
)
_CHECKSUMS: Final = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
_PLAIN_MD5: Final = re.compile(r"[0-9a-f]{32}")
_GRANTS: Final = {
    "FULL_CONTROL": "GrantFullControl",
    "READ": "GrantRead",
    "READ_ACP": "GrantReadACP",
    "WRITE_ACP": "GrantWriteACP",
}


@dataclass(frozen=True, slots=True)
class _BucketFacts:
    """What of a bucket decides how its objects are copied."""

    versioned: bool
    has_acls: bool


class AwsTierClient:
    """A ``TierClient`` and ``ObjectStore`` over a boto3 S3 client, as ``S3Hook.get_conn()`` gives it.

    ``in_flight`` requests run at once, each in a thread; the client's ``max_pool_connections`` should be no less.
    """

    provider: Provider = Provider.AWS
    capabilities: TierCapabilities = CAPABILITIES[Provider.AWS]

    def __init__(self, s3: Any, *, in_flight: int = 16) -> None:
        self._s3 = s3
        self._in_flight = in_flight
        self._facts: dict[str, _BucketFacts] = {}
        self._facts_lock = threading.Lock()
        s3.meta.events.register_first("before-send.s3", _name_ourselves, unique_id="cloudflux-agent")

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
        state = _state(ref, answer := self._head(ref))
        if not tags or not answer.get("TagCount"):
            return state
        tag_set = self._call("get_object_tagging", ref)["TagSet"]
        return replace(state, tags={tag["Key"]: tag["Value"] for tag in tag_set})

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | None]:
        """Look at many objects at once, in order; None for one that is not there."""

        def head(ref: ObjectRef) -> ObjectState | None:
            try:
                return self.head(ref, tags=tags)
            except ObjectNotFound:
                return None

        return map_concurrently(head, refs, self._in_flight)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        return map_concurrently(self._change, changes, self._in_flight)

    def _change(self, change: TierChange) -> TierChangeResult:
        if change.to_class not in self.capabilities.classes:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, unknown_class(Provider.AWS, change.to_class))
        try:
            answer = self._head(change.ref)
            obstacle = self._obstacle(change, answer)
            return obstacle if obstacle is not None else self._copy(change, answer)
        except ObjectNotFound:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the object is gone")
        except ObjectLocked as exc:
            return TierChangeResult(change.ref, ChangeOutcome.LOCKED, str(exc))
        except TerminalError as exc:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, str(exc))

    def _obstacle(self, change: TierChange, answer: Mapping[str, Any]) -> TierChangeResult | None:
        """Tell why nothing needs to be copied, or must not be; None when the copy can go ahead."""
        now = _state(change.ref, answer)
        outcome, detail = None, ""
        unchanged = now.etag == change.seen.etag
        restore = answer.get("Restore", "")
        archived = now.storage_class in self.capabilities.restore_needed_from or "ArchiveStatus" in answer
        if now.storage_class == change.to_class and (unchanged or same_content(change.seen, now)):
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif not unchanged:
            outcome, detail = ChangeOutcome.CONFLICT, f"its ETag was {change.seen.etag} and is {now.etag}"
        elif now.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif 'ongoing-request="true"' in restore:
            outcome, detail = ChangeOutcome.RESTORING, f"it is being restored from {now.storage_class}"
        elif archived and not restore:
            outcome = ChangeOutcome.ERROR
            detail = f"it lies in {now.storage_class} and needs a restore before it can be copied: restore it first"
        elif now.size_bytes > (self.capabilities.max_change_bytes or now.size_bytes):
            outcome = ChangeOutcome.ERROR
            detail = f"{now.size_bytes} bytes are more than one copy takes: multipart copy comes with a later version"
        return None if outcome is None else TierChangeResult(change.ref, outcome, detail)

    def _copy(self, change: TierChange, answer: Mapping[str, Any]) -> TierChangeResult:
        ref, version_id = change.ref, answer.get("VersionId")
        facts = self._bucket_facts(ref.bucket)
        source = {"Bucket": ref.bucket, "Key": ref.key}
        if version_id is not None:
            source["VersionId"] = version_id
        kept = {
            name: answer[name]
            for name in ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled", "WebsiteRedirectLocation")
            if answer.get(name)
        }
        if facts.has_acls:
            kept |= self._grants(ref)
        try:
            copied = self._s3.copy_object(
                Bucket=ref.bucket,
                Key=ref.key,
                CopySource=source,
                CopySourceIfMatch=answer["ETag"],
                IfMatch=answer["ETag"],
                StorageClass=change.to_class,
                MetadataDirective="COPY",
                TaggingDirective="COPY",
                **kept,
            )
        except ClientError as exc:
            if _code(exc) in _CHANGED_SINCE:
                return TierChangeResult(ref, ChangeOutcome.CONFLICT, "it was overwritten meanwhile", _request_id(exc))
            raise _translated(exc, ref.uri) from exc
        except (BotoCoreError, HTTPClientError) as exc:
            # The copy may have been made although its answer was lost: the object itself decides.
            now = _state(ref, self._head(ref))
            if now.storage_class == change.to_class and (
                now.etag == change.seen.etag or same_content(change.seen, now)
            ):
                return TierChangeResult(ref, ChangeOutcome.CHANGED, "the answer was lost, the object has moved")
            raise _lost(exc, ref.uri) from exc
        request_id = copied["ResponseMetadata"].get("RequestId")
        left_behind = None
        if facts.versioned and version_id not in (None, copied.get("VersionId")):
            left_behind = self._remove_old_version(change, str(version_id), copied.get("VersionId"))
        if left_behind is not None:
            return TierChangeResult(ref, ChangeOutcome.ERROR, left_behind, request_id)
        return TierChangeResult(ref, ChangeOutcome.CHANGED, "", request_id)

    def _remove_old_version(self, change: TierChange, old: str, new: str | None) -> str | None:
        """Delete the version that was copied, once the copy is seen; tells what is left when it cannot."""
        state = _state(change.ref, self._call("head_object", change.ref, VersionId=new, ChecksumMode="ENABLED"))
        if state.size_bytes != change.seen.size_bytes or state.storage_class != change.to_class:
            return f"version {new} is not the copy of version {old} that it should be: both are kept"
        try:
            self._call("delete_object", change.ref, VersionId=old)
        except CloudFluxError as exc:
            return f"it moved, but its old version {old} is left and billed: {exc}"
        return None

    def _bucket_facts(self, bucket: str) -> _BucketFacts:
        with self._facts_lock:
            if bucket not in self._facts:
                self._facts[bucket] = self._read_bucket_facts(bucket)
            return self._facts[bucket]

    def _read_bucket_facts(self, bucket: str) -> _BucketFacts:
        try:
            versioning = self._s3.get_bucket_versioning(Bucket=bucket).get("Status")
            try:
                controls = self._s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
            except ClientError as exc:
                if _code(exc) != "OwnershipControlsNotFoundError":
                    raise
                controls = []  # a bucket older than the setting
        except ClientError as exc:
            raise _translated(exc, f"bucket {bucket!r}") from exc
        except (BotoCoreError, HTTPClientError) as exc:
            raise _lost(exc, f"bucket {bucket!r}") from exc
        enforced = any(rule["ObjectOwnership"] == "BucketOwnerEnforced" for rule in controls)
        return _BucketFacts(versioned=versioning is not None, has_acls=not enforced)

    def _grants(self, ref: ObjectRef) -> dict[str, str]:
        """Give the object's ACL as arguments of a copy, which would else reset it to private."""
        grants: dict[str, list[str]] = {}
        for grant in self._call("get_object_acl", ref)["Grants"]:
            grantee = grant["Grantee"]
            who = f'uri="{grantee["URI"]}"' if grantee["Type"] == "Group" else f'id="{grantee["ID"]}"'
            grants.setdefault(_GRANTS[grant["Permission"]], []).append(who)
        return {name: ", ".join(grantees) for name, grantees in grants.items()}

    def _head(self, ref: ObjectRef) -> dict[str, Any]:
        return self._call("head_object", ref, ChecksumMode="ENABLED")

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


def _state(ref: ObjectRef, answer: Mapping[str, Any]) -> ObjectState:
    version_id, modified_at = answer.get("VersionId"), answer["LastModified"].astimezone(UTC)
    kept = {name: str(answer[field]) for field, name in _KEPT_HEADERS if answer.get(field)}
    return ObjectState(
        ref=replace(ref, version_id=None if version_id == "null" else version_id),
        size_bytes=answer["ContentLength"],
        storage_class=answer.get("StorageClass", "STANDARD"),
        etag=answer["ETag"].strip('"'),
        last_modified_at=modified_at,
        class_since_at=modified_at,
        content_type=answer.get("ContentType"),
        checksum=_checksum(answer),
        metadata=dict(answer.get("Metadata", {})),
        lock_reason=_lock_reason(answer),
        headers=kept,
    )


def _checksum(answer: Mapping[str, Any]) -> str | None:
    """Give the digests of the whole content.

    An ETag is the content's MD5 only for an upload in one part that is not encrypted by KMS.
    """
    digests = []
    etag = answer["ETag"].strip('"')
    if _PLAIN_MD5.fullmatch(etag) and not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
        digests.append(f"md5:{etag}")
    if answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        digests += [
            f"{name.lower()}:{answer[f'Checksum{name}']}" for name in _CHECKSUMS if answer.get(f"Checksum{name}")
        ]
    return " ".join(digests) or None


def _lock_reason(answer: Mapping[str, Any]) -> str | None:
    if answer.get("ObjectLockLegalHoldStatus") == "ON":
        return "legal hold"
    until = answer.get("ObjectLockRetainUntilDate")
    if until is not None and until > _answered_at(answer):
        return f"{str(answer.get('ObjectLockMode', '')).lower()} retention until {until:%Y-%m-%d %H:%M} UTC"
    return None


def _answered_at(answer: Mapping[str, Any]) -> datetime:
    """Read S3's own clock; the beginning of time when it did not say, so that a retention counts as running."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(text) if text else datetime.min.replace(tzinfo=UTC)


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _request_id(exc: ClientError) -> str | None:
    request_id: str | None = exc.response.get("ResponseMetadata", {}).get("RequestId")
    return request_id


def _translated(exc: ClientError, what: str) -> CloudFluxError:
    code, message = _code(exc), exc.response.get("Error", {}).get("Message", "")
    status = str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _NOT_FOUND:
        return ObjectNotFound(f"there is no object {what}")
    if code in _PASSING or status in _PASSING:
        return TransientError(f"S3 could not serve {what} now ({code}: {message}): try again later")
    if code == "AccessDenied" and "lock" in message.lower():
        return ObjectLocked(f"{what} is under object lock: {message}")
    return TerminalError(f"S3 refused {what} with {code}: {message}")


def _lost(exc: Exception, what: str) -> TransientError:
    return TransientError(f"the connection to S3 failed at {what}: {exc}")
