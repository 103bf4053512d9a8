"""A log file that a provider delivered: what it is, and the id that its events carry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cloudflux.domain.tiers import Provider


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """One log file as it was listed in its log bucket."""

    provider: Provider
    bucket: str
    """The log bucket, not the bucket that the log tells of."""
    key: str
    etag: str
    size_bytes: int
    format: str
    """The name of its parser's module in ``access_logs``, e.g. ``s3_server_access``."""
    last_modified_at: datetime

    @property
    def file_id(self) -> str:
        """The id that its events carry, 32 hex digits.

        The ETag is no part of it: Azure appends to ``PT1H.json`` for an hour, and the longer file replaces what was
        read of the shorter one.
        """
        name = f"{self.provider}\0{self.bucket}\0{self.key}"
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    @property
    def uri(self) -> str:
        """Its address, for messages."""
        return f"{self.provider}:{self.bucket}/{self.key}"
