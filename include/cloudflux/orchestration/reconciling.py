"""Reconciling, put together from the estate file and Airflow's connections: range by range, as the tasks move them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from cloudflux.domain.errors import CloudFluxError
from cloudflux.domain.plans import MoveRole, PlanState
from cloudflux.orchestration.edge import engine, now, settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.domain.uploads import LeftUpload
    from cloudflux.workflows.migrate import Mover
    from cloudflux.workflows.reconcile import RangeFound, RangeReport

ACTOR: Final = "reconcile"

MAY_HAVE_MOVED: Final = (PlanState.APPROVED, PlanState.HALTED, PlanState.EXPIRED, PlanState.FINISHED)
"""The states of plans of which something may have moved."""

_ALL: Final = 1_000_000


def plans_that_may_have_moved() -> list[str]:
    """Name the plans of which something may have moved, newest first."""
    from cloudflux.stores.plans import Plans

    database = engine()
    try:
        return [plan.plan_id for plan in Plans(database).recent(_ALL, dry_run=False) if plan.state in MAY_HAVE_MOVED]
    finally:
        database.dispose()


def moves_of(plan_ids: Sequence[str]) -> int:
    """Count the moves of plans. Raises ``PlanNotFound``."""
    from cloudflux.stores.plans import Plans

    database = engine()
    try:
        return sum(Plans(database).get(plan_id).totals.objects for plan_id in plan_ids)
    finally:
        database.dispose()


def reconcile(plan_ids: Sequence[str], *, repair: bool) -> Iterator[RangeFound]:
    """Compare plans with the buckets, one range after another; what cannot be looked at ends its own range alone."""
    for plan_id in plan_ids:
        for role in (MoveRole.CANARY, MoveRole.MOVE):
            for provider, bucket, first, last in _ranges(plan_id, role):
                yield _compare(plan_id, provider, bucket, first, last, repair=repair)


def _ranges(plan_id: str, role: MoveRole) -> list[tuple[str, str, int, int]]:
    """Cut the moves as the tasks do: whoever repairs holds the same ranges as they."""
    from cloudflux.orchestration.migration_tasks import ranges_of

    return [
        (str(found["provider"]), str(found["bucket"]), int(found["first"]), int(found["last"]))
        for found in ranges_of(plan_id, role)
    ]


def _compare(plan_id: str, provider: str, bucket: str, first: int, last: int, *, repair: bool) -> RangeFound:
    from airflow.exceptions import AirflowException

    from cloudflux.stores import DatabaseUnreachable
    from cloudflux.stores.slots import RangeTaken, SlotsTaken
    from cloudflux.workflows.reconcile import RangeFound

    problem = ""
    try:
        if repair:
            try:
                report = _report(_holding(plan_id, provider, bucket, first), plan_id, first, last, repair=True)
                return RangeFound(plan_id, provider, bucket, first, last, report)
            except (RangeTaken, SlotsTaken) as exc:
                problem = f"not repaired: {exc}"
        report = _report(_looking(provider, bucket), plan_id, first, last, repair=False)
    except DatabaseUnreachable:
        raise
    except (CloudFluxError, AirflowException) as exc:
        return RangeFound(plan_id, provider, bucket, first, last, None, f"not looked at: {exc}")
    return RangeFound(plan_id, provider, bucket, first, last, report, problem)


def _report(making: AbstractContextManager[Mover], plan_id: str, first: int, last: int, *, repair: bool) -> RangeReport:
    from cloudflux.providers.aws_lifecycle import TAG
    from cloudflux.stores.done_moves import DoneMoves
    from cloudflux.stores.ledger import Ledger
    from cloudflux.workflows.reconcile import Reconciler

    database = engine()
    try:
        with making as mover:
            reconciler = Reconciler(mover, Ledger(database).left, DoneMoves(database).newest, our_tags=(TAG,))
            report = reconciler.compare(plan_id, first, last, repair=repair)
            try:
                report.uploads = _left_uploads(mover, plan_id, first, last, repair=repair)
            except CloudFluxError as exc:  # a permission, most likely: what the moves showed stands all the same
                report.uploads_problem = str(exc)
            return report
    finally:
        database.dispose()


def _left_uploads(mover: Mover, plan_id: str, first: int, last: int, *, repair: bool) -> list[LeftUpload]:
    """Look for copies in parts that were left, in S3: the other providers have none."""
    from cloudflux.domain.tiers import Provider
    from cloudflux.orchestration.clients import unfinished_uploads
    from cloudflux.providers.aws_copies import CopyLimits
    from cloudflux.stores.attempts import Attempts
    from cloudflux.workflows.tidy_uploads import tidy_uploads

    moves = mover.plans.moves(plan_id, first, last)
    if not moves or moves[0].ref.provider is not Provider.AWS:
        return []
    named = settings().load_estate().bucket(Provider.AWS, moves[0].ref.bucket)
    database = engine()
    try:
        return tidy_uploads(
            lambda: unfinished_uploads(named.connection_id),
            moves,
            lambda: Attempts(database).of_plan(plan_id, first, last),
            plan_id=plan_id,
            now=now(),
            in_parts_above_bytes=CopyLimits().one_copy_bytes,
            repair=repair,
        )
    finally:
        database.dispose()


def _holding(plan_id: str, provider: str, bucket: str, first: int) -> AbstractContextManager[Mover]:
    """Hold the range, with the client that moves: it also tidies up behind moves that were cut off."""
    from cloudflux.orchestration.movers import bucket_mover

    return bucket_mover(plan_id, provider=provider, bucket=bucket, first=first, actor=ACTOR)


@contextmanager
def _looking(provider: str, bucket: str) -> Iterator[Mover]:
    """Give a client that is to look only, and hold nothing."""
    from cloudflux.orchestration.clients import tier_client
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import Mover

    named = settings().load_estate().bucket(provider, bucket)
    database: Engine = engine()
    try:
        client = tier_client(named.provider, named.connection_id)
        yield Mover(client, Plans(database), Ledger(database), ACTOR, now)
    finally:
        database.dispose()
