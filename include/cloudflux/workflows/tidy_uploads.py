"""Find what killed workers left of copies in parts, and abort it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cloudflux.domain.plans import PlannedMove
from cloudflux.domain.uploads import Attempt, LeftUpload, UnfinishedUpload, left_uploads


class Uploads(Protocol):
    """The unfinished uploads of a bucket."""

    def unfinished(self, bucket: str, keys: Collection[str]) -> Sequence[UnfinishedUpload]:
        """Give those to some keys."""

    def abort(self, upload: UnfinishedUpload) -> None:
        """Abort one; one that is gone changes nothing."""


def tidy_uploads(
    uploads_of: Callable[[], Uploads],
    moves: Sequence[PlannedMove],
    attempts_of: Callable[[], Mapping[int, Attempt]],
    *,
    plan_id: str,
    now: datetime,
    in_parts_above_bytes: int,
    repair: bool,
) -> list[LeftUpload]:
    """Give the uploads that the ledger proves to be left by moves of one bucket; ``repair`` aborts them.

    Who repairs holds the moves, so that nobody is at work on them. Only objects above ``in_parts_above_bytes`` are
    copied in parts: without any, S3 is not asked. Raises what the provider refuses.
    """
    large = [move for move in moves if move.size_bytes > in_parts_above_bytes]
    if not large:
        return []
    uploads = uploads_of()
    found = uploads.unfinished(large[0].ref.bucket, [move.ref.key for move in large])
    left = left_uploads(plan_id, large, attempts_of(), found, now) if found else []
    if not repair:
        return left
    for one in left:
        uploads.abort(one.upload)
    return [replace(one, aborted=True) for one in left]
