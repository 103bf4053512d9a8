"""Copies in parts that killed workers left: which ones are ours, and that no other is aborted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import PlannedMove
from cloudflux.domain.tiers import Provider
from cloudflux.domain.uploads import UPLOAD_LEASE, Attempt, LeftUpload, UnfinishedUpload
from cloudflux.workflows.tidy_uploads import tidy_uploads

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = BEGAN + timedelta(days=3)
REF = ObjectRef(Provider.AWS, "b", "large.bin")
MOVE = PlannedMove(
    move_no=7,
    ref=REF,
    etag="e",
    size_bytes=6 * 2**30,
    last_modified_at=BEGAN,
    class_since_at=BEGAN,
    from_class="STANDARD",
    to_class="GLACIER_IR",
    saving_usd=Decimal(1),
    one_time_usd=Decimal(1),
    monthly_saving_usd=Decimal(1),
    payback_days=1.0,
    reason="",
)
OURS = UnfinishedUpload(REF, "ours", "GLACIER_IR", BEGAN + timedelta(seconds=5))
UNDER_WAY = Attempt(BEGAN, None)


class Bucket:
    """The unfinished uploads of a bucket, and what was asked of it."""

    def __init__(self, *uploads: UnfinishedUpload) -> None:
        self.uploads = list(uploads)
        self.asked: list[tuple[str, list[str]]] = []
        self.aborted: list[str] = []

    def unfinished(self, bucket: str, keys: Collection[str]) -> Sequence[UnfinishedUpload]:
        self.asked.append((bucket, sorted(keys)))
        return self.uploads

    def abort(self, upload: UnfinishedUpload) -> None:
        self.aborted.append(upload.upload_id)


def tidy(
    bucket: Bucket,
    *,
    move: PlannedMove = MOVE,
    attempt: Attempt | None = UNDER_WAY,
    now: datetime = NOW,
    repair: bool = True,
) -> list[LeftUpload]:
    return tidy_uploads(
        lambda: bucket,
        [move],
        lambda: {} if attempt is None else {7: attempt},
        plan_id="plan",
        now=now,
        in_parts_above_bytes=5 * 2**30,
        repair=repair,
    )


def test_an_upload_that_a_move_left_is_aborted() -> None:
    bucket = Bucket(OURS)
    assert tidy(bucket) == [LeftUpload("plan", 7, OURS, aborted=True)]
    assert bucket.aborted == ["ours"]
    assert bucket.asked == [("b", ["large.bin"])]


def test_it_is_only_told_when_nothing_is_to_be_repaired() -> None:
    bucket = Bucket(OURS)
    assert tidy(bucket, repair=False) == [LeftUpload("plan", 7, OURS)]
    assert bucket.aborted == []


@pytest.mark.parametrize(
    "upload",
    [
        replace(OURS, storage_class="STANDARD"),
        replace(OURS, ref=replace(REF, key="another")),
        replace(OURS, began_at=BEGAN - timedelta(hours=1)),
        replace(OURS, began_at=NOW - UPLOAD_LEASE + timedelta(seconds=1)),
    ],
    ids=["another class", "another key", "before the move", "younger than the lease"],
)
def test_no_other_upload_is_touched(upload: UnfinishedUpload) -> None:
    bucket = Bucket(upload)
    assert tidy(bucket) == []
    assert bucket.aborted == []


def test_an_upload_that_began_after_the_move_had_ended_is_somebody_elses() -> None:
    bucket = Bucket(replace(OURS, began_at=BEGAN + timedelta(hours=2)))
    assert tidy(bucket, attempt=Attempt(BEGAN, BEGAN + timedelta(hours=1))) == []
    assert len(tidy(bucket, attempt=Attempt(BEGAN, BEGAN + timedelta(hours=3)))) == 1


def test_nothing_is_ours_of_a_move_that_never_began() -> None:
    assert tidy(Bucket(OURS), attempt=None) == []


def test_clocks_may_differ_as_far_as_s3_lets_them() -> None:
    assert len(tidy(Bucket(replace(OURS, began_at=BEGAN - timedelta(minutes=10))))) == 1


def test_s3_is_not_asked_when_no_object_is_copied_in_parts() -> None:
    bucket = Bucket(OURS)
    assert tidy(bucket, move=replace(MOVE, size_bytes=5 * 2**30)) == []
    assert bucket.asked == []
