"""Moves to Intelligent-Tiering are off where it would archive an object whose owner accepts no wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from cloudflux.config import BucketSettings
from cloudflux.domain.archive_rules import ArchiveRule
from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TerminalError, TransientError
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlannedMove, PlanTotals
from cloudflux.domain.tiers import Provider
from cloudflux.orchestration.archive_guard import archive_guard
from cloudflux.price_books import load_book

ReasonToSkip = Callable[[PlannedMove, ObjectState], str | None]
AT = datetime(2026, 11, 1, tzinfo=UTC)
INTO = "INTELLIGENT_TIERING"
RULES = [ArchiveRule("cold logs", 90, prefix="logs/"), ArchiveRule("red", 180, tags={"team": "red"})]


def a_plan(to_class: str = INTO, *, bucket: str = "media", undoes: str | None = None) -> MigrationPlan:
    return MigrationPlan(
        plan_id="p",
        run_id="r",
        created_at=AT,
        expires_at=AT,
        decisions_day=AT.date(),
        horizon_days=180,
        dry_run=False,
        guardrails=Guardrails(10, 10**9, Decimal(1), Decimal(0)),
        totals=PlanTotals(1, 7, Decimal(1), Decimal(1), Decimal(1), Decimal(1), 1, 0),
        groups=(PlanGroup("aws", bucket, "STANDARD", to_class, 1, 7, Decimal(1), Decimal(1), 1.0),),
        undoes=undoes,
    )


def a_bucket(**settings: Any) -> BucketSettings:
    named = {"provider": "aws", "bucket": "media", "price_book": "aws-us-east-1", "connection_id": "aws_default"}
    return BucketSettings(**{**named, **settings})


def a_guard(
    rules_of: Callable[[BucketSettings], list[ArchiveRule]] = lambda _: RULES,
    *,
    plan: MigrationPlan | None = None,
    book: str = "aws-us-east-1",
    **settings: Any,
) -> ReasonToSkip | None:
    return archive_guard(plan or a_plan(), a_bucket(**settings), load_book(book), rules_of)


def asked(guard: ReasonToSkip, key: str, to_class: str = INTO, **tags: str) -> str | None:
    ref = ObjectRef(Provider.AWS, "media", key)
    now = ObjectState(
        ref=ref, size_bytes=7, storage_class="STANDARD", etag="e", last_modified_at=AT, class_since_at=AT, tags=tags
    )
    move = PlannedMove(
        move_no=0, ref=ref, etag="e", size_bytes=7, last_modified_at=AT, class_since_at=AT, from_class="STANDARD",
        to_class=to_class, saving_usd=Decimal(1), one_time_usd=Decimal(1), monthly_saving_usd=Decimal(1),
        payback_days=1.0, reason="",
    )  # fmt: skip
    return guard(move, now)


def never(_: BucketSettings) -> list[ArchiveRule]:
    raise AssertionError("nobody needs to ask")


def refusing(error: Exception) -> Callable[[BucketSettings], list[ArchiveRule]]:
    def refuse(_: BucketSettings) -> list[ArchiveRule]:
        raise error

    return refuse


def test_what_a_rule_would_archive_stays_and_the_rest_moves() -> None:
    guard = a_guard()
    assert guard is not None
    told = asked(guard, "logs/a")
    assert told is not None
    assert "'cold logs' would archive it after 90 idle days" in told
    assert asked(guard, "logs/a", "STANDARD_IA") is None
    assert asked(guard, "data/a") is None
    assert "'red' would archive it after 180" in (asked(guard, "data/a", team="red") or "")


def test_owners_that_accept_hours_are_not_in_the_way() -> None:
    guard = a_guard(latency="hours", prefixes=({"prefix": "logs/now/", "latency": "ms"},))
    assert guard is not None
    assert asked(guard, "logs/a") is None
    assert asked(guard, "logs/now/a") is not None


def test_the_bucket_is_not_asked_when_nothing_goes_there() -> None:
    assert a_guard(never, plan=a_plan("STANDARD_IA")) is None
    assert a_guard(never, plan=a_plan(bucket="other")) is None
    assert a_guard(never, plan=replace(a_plan(), undoes="q")) is None  # it was there before
    azure = archive_guard(a_plan("Cool"), a_bucket(provider="azure"), load_book("azure-eastus-lrs"), never)
    assert azure is None


def test_moves_are_off_when_the_rules_cannot_be_seen() -> None:
    guard = a_guard(
        refusing(TerminalError("S3 refused it (AccessDenied)")), prefixes=({"prefix": "b/", "latency": "hours"},)
    )
    assert guard is not None
    assert "cannot be seen: S3 refused it (AccessDenied)" in (asked(guard, "a") or "")
    assert asked(guard, "b/a") is None
    assert asked(guard, "a", "STANDARD_IA") is None
    assert a_guard(refusing(BucketNotFound("there is no bucket"))) is None  # each move says so
    assert a_guard(lambda _: []) is None


@pytest.mark.parametrize("error", [TransientError, CredentialsRefused, AccountRefused])
def test_what_concerns_all_moves_ends_the_range(error: type[Exception]) -> None:
    with pytest.raises(error):
        a_guard(refusing(error("no")))


@pytest.mark.parametrize(("book", "warned"), [("aws-us-east-1", True), ("aws-us-east-1-archive", False)])
def test_a_price_book_that_does_not_count_archive_tiers_is_warned_of(
    book: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert a_guard(book=book) is not None
    assert len(caplog.messages) == warned
    assert not warned or "Bucket media lets Intelligent-Tiering archive objects after 90 idle days" in caplog.text
