"""Uploads in parts that nobody has ended: S3 bills their parts until they are completed or aborted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import PlannedMove

UPLOAD_LEASE: Final = timedelta(days=1)
"""An upload that began so long ago is at work no more: S3 copies its parts itself, and many at one time."""
_SKEW: Final = timedelta(minutes=15)
"""S3 refuses requests whose clock differs by more from its own (``RequestTimeTooSkewed``)."""


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload in parts that was begun, and neither completed nor aborted."""

    ref: ObjectRef
    upload_id: str
    storage_class: str
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """When a move was under way."""

    began_at: datetime
    ended_at: datetime | None
    """None: it has not ended."""


@dataclass(frozen=True, slots=True)
class LeftUpload:
    """An upload that a move's worker left behind."""

    plan_id: str
    move_no: int
    upload: UnfinishedUpload
    aborted: bool = False


def left_uploads(
    plan_id: str,
    moves: Iterable[PlannedMove],
    attempts: Mapping[int, Attempt],
    uploads: Iterable[UnfinishedUpload],
    now: datetime,
) -> list[LeftUpload]:
    """Tell which uploads the ledger proves to be left by moves of a plan.

    An upload tells its key, its class and when it began. It is a move's if it goes to the class that the move goes to,
    began while the ledger has the move under way, and is older than ``UPLOAD_LEASE``. What somebody else uploads to the
    same key and class in that very time looks alike: then it is an upload that stood still for a day.
    """
    by_name = {(move.ref.bucket, move.ref.key): move for move in moves if move.move_no in attempts}
    found = []
    for upload in uploads:
        move = by_name.get((upload.ref.bucket, upload.ref.key))
        if move is None or upload.storage_class != move.to_class or upload.began_at > now - UPLOAD_LEASE:
            continue
        attempt = attempts[move.move_no]
        until = now if attempt.ended_at is None else attempt.ended_at
        if attempt.began_at - _SKEW <= upload.began_at <= until + _SKEW:
            found.append(LeftUpload(plan_id, move.move_no, upload))
    return found
