"""What is new or different in a provider's files: drift of their schema, noticed and named."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cloudflux.domain.tiers import Provider


class NoticeKind(StrEnum):
    """What was noticed."""

    NEW_FIELD = "new field"
    MISSING_FIELD = "missing field"
    CHANGED_ORDER = "changed order"
    UNKNOWN_OPERATION = "unknown operation"
    UNKNOWN_CLASS = "unknown storage class"
    UNKNOWN_VERSION = "unknown version"


@dataclass(frozen=True, slots=True, order=True)
class FormatNotice:
    """One thing in one file that the reader of its format does not know."""

    provider: Provider
    bucket: str
    """The bucket that holds the file."""
    format: str
    kind: NoticeKind
    name: str
    """Of the field, the operation, the class. Written by strangers: at most 200 characters."""
    detail: str
    """What was done about it, in a sentence."""
    source: str
    """The file's key."""
