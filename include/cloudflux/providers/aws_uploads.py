"""Uploads in parts that were left in a bucket of S3: found, and aborted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import unquote_plus

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.domain.uploads import UnfinishedUpload
from cloudflux.providers.aws_refusals import code_of, refusal


class S3Uploads:
    """Lists and aborts unfinished uploads, with a boto3 ``s3`` client."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def unfinished(self, bucket: str, keys: Collection[str]) -> list[UnfinishedUpload]:
        """Give the uploads to some keys of a bucket, by key and age.

        Raises ``TransientError`` when S3 is busy or away, and a ``TerminalError`` when it refuses.
        """
        wanted = set(keys)
        if not wanted:
            return []
        # with the keys URL-quoted: XML has no way to write some characters that keys may have
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Prefix=_common_start(min(wanted), max(wanted)), EncodingType="url"
        )
        found = []
        try:
            for page in pages:
                for upload in page.get("Uploads", ()):
                    key = unquote_plus(upload["Key"])
                    if key in wanted:
                        ref = ObjectRef(Provider.AWS, bucket, key)
                        found.append(
                            UnfinishedUpload(ref, upload["UploadId"], upload["StorageClass"], upload["Initiated"])
                        )
        except (ClientError, BotoCoreError) as exc:
            raise refusal(exc, f"the unfinished uploads in s3://{bucket}") from exc
        return found

    def abort(self, upload: UnfinishedUpload) -> None:
        """Abort an upload, so that its parts are deleted; one that is gone changes nothing. Raises as above."""
        try:
            self._s3.abort_multipart_upload(Bucket=upload.ref.bucket, Key=upload.ref.key, UploadId=upload.upload_id)
        except (ClientError, BotoCoreError) as exc:
            if code_of(exc) != "NoSuchUpload":
                raise refusal(exc, f"upload {upload.upload_id} to {upload.ref.uri}") from exc


def _common_start(first: str, last: str) -> str:
    """Give what two keys begin with, and so all that lie between them."""
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), None)
    return first[:length] if length is not None else min(first, last, key=len)
