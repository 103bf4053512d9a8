"""How an object of S3 is copied onto itself into another class: in one request, or in parts where it is too large."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from cloudflux.domain.errors import CloudFluxError
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.providers.aws_answers import BucketFacts, grants_of, text_of
from cloudflux.providers.aws_http import Answer, AnswerLost
from cloudflux.providers.aws_outcomes import CHANGED_SINCE, Unusable, ask_of, refusal_of
from cloudflux.providers.aws_requests import S3Requests
from cloudflux.providers.aws_signing import quoted_key

_MOST_PARTS: Final = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_FULL_OBJECT_CHECKSUMS: Final = ("crc64nvme", "crc32c", "crc32")
_COPIED_HEADERS: Final = {
    "cache-control": "cache-control",
    "content-disposition": "content-disposition",
    "content-encoding": "content-encoding",
    "content-language": "content-language",
    "expires": "expires",
}


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """From which size on an object is copied in parts, and how large these are."""

    one_copy_bytes: int = 5 * 2**30  # API reference, CopyObject
    part_bytes: int = 512 * 2**20
    smallest_part_bytes: int = 5 * 2**20
    largest_part_bytes: int = 5 * 2**30


@dataclass(frozen=True, slots=True)
class _Upload:
    """A copy in parts under way."""

    id: str
    part_bytes: int
    algorithm: str
    checksum_type: str


class S3Copies:
    """Copies objects onto themselves, on condition that they are as they were seen."""

    def __init__(self, requests: S3Requests, limits: CopyLimits) -> None:
        self._requests = requests
        self._limits = limits

    async def copy(self, change: TierChange, now: ObjectState, facts: BucketFacts) -> Answer:
        """Copy an object; gives S3's last answer. Raises ``AnswerLost``, ``Unusable`` and what else S3 refuses."""
        if now.size_bytes > self._limits.one_copy_bytes:
            return await self._copy_in_parts(change, now, facts)
        return await self._copy_at_once(change, now, facts)

    async def _copy_at_once(self, change: TierChange, now: ObjectState, facts: BucketFacts) -> Answer:
        """Copy the object onto itself in one request.

        The object must be the one that was seen by its ETag, which S3 checks at the destination, and by the time at
        which it was written. A copy keeps the ETag: only the time keeps a request from being acted on once another one
        has moved the object, however late it comes (from a process that has died, or whose answer was lost). S3 checks
        the time at the source alone, and does not if it is given the source's ETag as well (API reference, CopyObject).
        """
        headers = {
            **self._source(change.ref, now, facts),
            "if-match": f'"{now.etag}"',
            "x-amz-copy-source-if-unmodified-since": format_datetime(now.last_modified_at, usegmt=True),
            "x-amz-storage-class": change.to_class,
            "x-amz-metadata-directive": "COPY",
            "x-amz-tagging-directive": "COPY",
            **_kept(now),
        }
        if facts.has_acls:
            headers |= await self._grants(change.ref)
        answer = await self._requests.send("PUT", change.ref.bucket, change.ref.key, headers=headers, repeatable=False)
        if answer.code in CHANGED_SINCE:  # by somebody else, or by a request of ours: a look tells
            raise AnswerLost("it changed after its state was looked at")
        if answer.code == "NoSuchVersion":
            raise Unusable(ChangeOutcome.CONFLICT, "the version that was seen is gone", answer.request_id)
        if answer.code:
            raise refusal_of(answer, change.ref.uri)
        if b"ETag" not in answer.body:
            raise AnswerLost("S3 answered 200 without the copy's ETag")
        return answer

    async def _copy_in_parts(self, change: TierChange, now: ObjectState, facts: BucketFacts) -> Answer:
        """Copy an object that is too large for one request onto itself; leave nothing behind when that fails.

        A process that is killed here leaves its parts: `cloudflux.workflows.tidy_uploads` finds them by the ledger, and
        a lifecycle rule ``AbortIncompleteMultipartUpload`` on the bucket removes them as well.
        """
        ref = change.ref
        # S3 tells other characters in an encoding of its own (RFC 2047), which is not what it takes.
        odd = [name for name, value in now.metadata.items() if not value.isascii() or value.startswith("=?")]
        if odd or "metadata-not-told" in (now.headers or {}):
            raise Unusable(
                ChangeOutcome.ERROR,
                "S3 does not tell all of its metadata as it is, and a copy in parts would change it: "
                + (", ".join(odd) or "some has no printable name or value"),
            )
        part_bytes, checksum = await self._parts_of(ref, now)
        upload = _Upload(await self._begin_upload(change, now, facts, checksum), part_bytes, *checksum)
        finished = False
        try:
            parts = await self._copy_parts(ref, now, facts, upload)
            answer = await self._complete_upload(ref, now, upload, parts)
            finished = True
            return answer
        finally:
            if not finished:
                await asyncio.shield(self._abort_upload(ref, upload))

    async def _parts_of(self, ref: ObjectRef, now: ObjectState) -> tuple[int, tuple[str, str]]:
        """Choose the size of the parts, and the checksum's algorithm and type.

        A digest of the whole content is carried over. Without one, parts of the same size as the uploader's give the
        same ETag and the same checksum of checksums, by which the copy can be recognised.
        """
        least = max(self._limits.smallest_part_bytes, -(-now.size_bytes // _MOST_PARTS))
        part_bytes = min(max(self._limits.part_bytes, least), self._limits.largest_part_bytes)
        digests = dict(digest.split(":", 1) for digest in (now.checksum or "").split())
        for name in _FULL_OBJECT_CHECKSUMS:
            if name in digests:
                return part_bytes, (name, "FULL_OBJECT")
        count = now.etag.rpartition("-")[2]
        if "-" not in now.etag or not count.isdigit():
            return part_bytes, ("crc64nvme", "FULL_OBJECT")
        query = {"partNumber": "1"} | ({} if now.ref.version_id is None else {"versionId": now.ref.version_id})
        first = await self._requests.send(
            "HEAD", ref.bucket, ref.key, query=query, headers={"x-amz-checksum-mode": "ENABLED"}, repeatable=True
        )
        theirs = int(first.headers.get("content-length", "0"))
        same = theirs >= self._limits.smallest_part_bytes and -(-now.size_bytes // theirs) == int(count)
        algorithm = next(
            (name for name in ("sha256", "sha1", "crc32c", "crc32") if f"x-amz-checksum-{name}" in first.headers), None
        )
        return theirs if same else part_bytes, (algorithm, "COMPOSITE") if algorithm else ("crc64nvme", "FULL_OBJECT")

    async def _begin_upload(
        self, change: TierChange, now: ObjectState, facts: BucketFacts, checksum: tuple[str, str]
    ) -> str:
        ref, told = change.ref, now.headers or {}
        headers = {
            "x-amz-storage-class": change.to_class,
            "x-amz-checksum-algorithm": checksum[0].upper(),
            "x-amz-checksum-type": checksum[1],
            **{name: told[kept] for kept, name in _COPIED_HEADERS.items() if kept in told},
            **{f"x-amz-meta-{name}": value for name, value in now.metadata.items()},
            **_kept(now),
        }
        if now.content_type is not None:
            headers["content-type"] = now.content_type
        if now.tags:
            headers["x-amz-tagging"] = urlencode(dict(now.tags))
        if facts.has_acls:
            headers |= await self._grants(ref)
        # An upload that was begun twice is a stray without parts: nothing is moved by it.
        answer = await self._requests.send(
            "POST", ref.bucket, ref.key, query={"uploads": ""}, headers=headers, repeatable=True
        )
        upload = None if answer.code else text_of(answer.body, "UploadId")
        if upload is None:
            raise refusal_of(answer, ref.uri)
        return upload

    async def _copy_parts(
        self,
        ref: ObjectRef,
        now: ObjectState,
        facts: BucketFacts,
        upload: _Upload,
    ) -> list[str]:
        """Copy all parts, as many at once as the bucket's pace lets; gives what completes the upload, in order."""
        source = {**self._source(ref, now, facts), "x-amz-copy-source-if-match": f'"{now.etag}"'}

        async def copy(number: int, first: int) -> str:
            last = min(first + upload.part_bytes, now.size_bytes) - 1
            answer = await self._requests.send(
                "PUT",
                ref.bucket,
                ref.key,
                query={"partNumber": str(number), "uploadId": upload.id},
                headers={**source, "x-amz-copy-source-range": f"bytes={first}-{last}"},
                repeatable=True,  # a part replaces the part of the same number
            )
            etag = None if answer.code else text_of(answer.body, "ETag")
            if etag is None:
                raise refusal_of(answer, ref.uri)
            name = f"Checksum{upload.algorithm.upper()}"
            digest = text_of(answer.body, name)
            told = f"<{name}>{escape(digest)}</{name}>" if digest else ""
            return f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>{told}</Part>"

        starts = list(enumerate(range(0, now.size_bytes, upload.part_bytes), start=1))
        done: list[str] = []
        # In lots, so that an object of 10,000 parts does not mean 10,000 coroutines.
        lot = self._requests.pace(ref.bucket).max_in_flight
        for begin in range(0, len(starts), lot):
            tasks = [asyncio.ensure_future(copy(number, first)) for number, first in starts[begin : begin + lot]]
            try:
                done += await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return done

    async def _complete_upload(self, ref: ObjectRef, now: ObjectState, upload: _Upload, parts: list[str]) -> Answer:
        """Put the parts together in the object's place, if it is still the one that was seen."""
        headers = {
            "if-match": f'"{now.etag}"',
            "content-type": "application/xml",
            "x-amz-checksum-type": upload.checksum_type,
            "x-amz-mp-object-size": str(now.size_bytes),
        }
        digests = dict(digest.split(":", 1) for digest in (now.checksum or "").split())
        if upload.checksum_type == "FULL_OBJECT" and upload.algorithm in digests:
            headers[f"x-amz-checksum-{upload.algorithm}"] = digests[upload.algorithm]  # S3 itself compares
        body = (
            '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{''.join(parts)}</CompleteMultipartUpload>"
        )
        answer = await self._requests.send(
            "POST",
            ref.bucket,
            ref.key,
            query={"uploadId": upload.id},
            headers=headers,
            body=body.encode(),
            repeatable=False,
        )
        if answer.code:
            raise refusal_of(answer, ref.uri)
        return answer

    async def _abort_upload(self, ref: ObjectRef, upload: _Upload) -> None:
        with contextlib.suppress(CloudFluxError):  # the failure that brought us here is what is told
            await self._requests.send("DELETE", ref.bucket, ref.key, query={"uploadId": upload.id}, repeatable=True)

    def _source(self, ref: ObjectRef, now: ObjectState, facts: BucketFacts) -> dict[str, str]:
        infix = "object/" if ref.bucket.startswith("arn:") else ""
        source = quoted_key(f"{ref.bucket}/{infix}{ref.key}")
        version_id = superseded(now, facts)
        return {"x-amz-copy-source": source if version_id is None else f"{source}?versionId={version_id}"}

    async def _grants(self, ref: ObjectRef) -> dict[str, str]:
        return grants_of((await ask_of(self._requests, ref, {"acl": ""})).body)


def superseded(now: ObjectState, facts: BucketFacts) -> str | None:
    """Name the version that a copy takes the place of; None in a bucket that has never had versions."""
    return now.ref.version_id or ("null" if facts.versioning is not None else None)


def _kept(now: ObjectState) -> dict[str, str]:
    """Give the headers without which a copy would be encrypted or redirected otherwise."""
    told = now.headers or {}
    kept = {}
    if encryption := told.get("server-side-encryption"):
        kept["x-amz-server-side-encryption"] = encryption
        if key := told.get("kms-key-id"):
            kept["x-amz-server-side-encryption-aws-kms-key-id"] = key
        if encryption == "aws:kms":  # else the bucket's default would decide
            kept["x-amz-server-side-encryption-bucket-key-enabled"] = told.get("bucket-key", "false")
    if redirect := told.get("website-redirect-location"):
        kept["x-amz-website-redirect-location"] = redirect
    return kept
