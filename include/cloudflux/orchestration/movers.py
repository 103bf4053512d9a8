"""What carries out the moves of one bucket, put together from the estate file and Airflow's connections."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from cloudflux.domain.errors import BucketNotFound, CloudFluxError
from cloudflux.domain.tiers import Provider
from cloudflux.orchestration.edge import engine, now, settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.config import BucketSettings
    from cloudflux.domain.batch_jobs import JobTerms
    from cloudflux.domain.plans import MigrationPlan
    from cloudflux.domain.prices import PriceBook
    from cloudflux.providers.gcp import GcpTierClient
    from cloudflux.workflows.migrate import Mover


_log = logging.getLogger(__name__)

_RANGE_MOVES: Final = 5000
"""Moves of one mapped task: large enough that starting the task is a small part, small enough to repeat."""


def range_moves(plan: MigrationPlan, *, provider: str, bucket: str) -> int:
    """Tell how many of a plan's moves in a bucket one task carries out."""
    from cloudflux.domain.batch_jobs import JOB_MOVES

    named = settings().load_estate().bucket(provider, bucket)
    return JOB_MOVES if _as_job(named, _moves_in(plan, bucket)) else _RANGE_MOVES


def _moves_in(plan: MigrationPlan, bucket: str) -> int:
    return sum(group.objects for group in plan.groups if group.bucket == bucket)


def _as_job(named: BucketSettings, moves: int) -> bool:
    return named.batch_operations is not None and moves >= named.batch_operations.from_objects


def job_terms_of(named: BucketSettings, book: PriceBook) -> JobTerms | None:
    """Tell when a bucket's moves become jobs of S3 Batch Operations, and at which prices; None: never.

    Raises ``SettingsError`` naming a price that the book does not have.
    """
    from cloudflux.domain.batch_jobs import job_terms

    wanted = named.batch_operations
    if wanted is None or named.provider is not Provider.AWS:
        return None
    return job_terms(
        book,
        from_objects=wanted.from_objects,
        write_once=wanted.write_once,
        remove_superseded=named.remove_superseded_versions,
    )


def planned_job_terms() -> Callable[[str, str], JobTerms | None]:
    """Give the function that tells the terms of a bucket's jobs as a plan is made; a bucket we do not know has none."""
    from cloudflux.orchestration.estate_books import book_of

    named = {(str(bucket.provider), bucket.bucket): bucket for bucket in settings().load_estate().buckets}

    @functools.cache
    def terms_of(provider: str, bucket: str) -> JobTerms | None:
        found = named.get((provider, bucket))
        return None if found is None else job_terms_of(found, book_of(found))

    return terms_of


@contextmanager
def bucket_mover(plan_id: str, *, provider: str, bucket: str, first: int, actor: str) -> Iterator[Mover]:
    """Give what moves one bucket's objects, while this process holds the range and a place at the bucket.

    Raises ``RangeTaken`` or ``SlotsTaken`` (both ``TransientError``) when other processes hold them.
    """
    from cloudflux.domain.batch_jobs import JOB_MOVES, job_prices
    from cloudflux.orchestration.archive_guard import archive_guard
    from cloudflux.orchestration.clients import archive_rules_of, moving_client
    from cloudflux.orchestration.estate_books import book_of
    from cloudflux.providers.pace import Pace
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.stores.slots import bucket_slot, range_lock
    from cloudflux.workflows.job_fees import with_job_fees
    from cloudflux.workflows.migrate import STEP_MOVES, STEPS_AT_ONCE, Mover
    from cloudflux.workflows.move_costs import move_costs, restore_orders

    named = settings().load_estate().bucket(provider, bucket)
    book = book_of(named)
    # a step that finds no connection would open one for each of its transactions
    database = engine(connections=STEPS_AT_ONCE)
    try:
        with (
            range_lock(database, plan_id, first) as held,
            bucket_slot(database, f"{provider}/{bucket}", named.max_tasks),
        ):
            one_at_a_time = threading.Lock()

            def raise_if_superseded() -> None:
                with one_at_a_time:
                    held.raise_if_lost()

            # Each of the bucket's tasks may use its share of what the owner allows.
            rate = None if named.max_requests_per_second is None else named.max_requests_per_second / named.max_tasks
            together = max(1, named.max_in_flight // named.max_tasks)
            plans = Plans(database)
            plan = plans.get(plan_id)
            as_job = _as_job(named, _moves_in(plan, bucket))
            # Clients that keep a bucket's rules, or jobs, as their state are asked by one step at a time.
            steps_together = together >= STEPS_AT_ONCE and not as_job
            pace = Pace(max_in_flight=together, max_per_second=rate)
            client, by_lifecycle = moving_client(named, pace, plan_id=plan_id, as_job=as_job)
            if named.provider is Provider.GCP:
                _warn_of_soft_delete(client, bucket, book)
            restore_of = restore_orders(
                book, within_hours=named.restore_within_hours, keep_days=named.restore_keep_days
            )
            costs_of = move_costs(book, by_lifecycle=by_lifecycle, restore_of=restore_of)
            if as_job and not by_lifecycle:
                costs_of = with_job_fees(costs_of, job_prices(book), client.job_sizes)
            yield Mover(
                client,
                plans,
                Ledger(database),
                actor,
                now,
                restore_of=restore_of,
                steps_together=steps_together and not by_lifecycle,
                step_moves=JOB_MOVES if as_job else STEP_MOVES,
                costs_of=costs_of,
                objection_to=archive_guard(plan, named, book, archive_rules_of),
                raise_if_superseded=raise_if_superseded,
                withdraw=client.withdraw if by_lifecycle else lambda _: None,
            )
    finally:
        database.dispose()


def _warn_of_soft_delete(client: GcpTierClient, bucket: str, book: PriceBook) -> None:
    """Say in the task's log when moves cost more than they were planned with."""
    with suppress(CloudFluxError):  # each move says by itself what is wrong with its bucket
        days = client.soft_delete_days(bucket)
        if days > book.soft_delete_days:
            _log.warning(
                "Bucket %s keeps what a move overwrites for %d days (soft delete) and bills it in its old class; price "
                "book %s counts %d of them, so that moves cost more than their plan says. Name a price book with the "
                "bucket's `moves.soft_delete_days` (gcs-us-central1-soft-delete has 7), or switch soft delete off.",
                bucket,
                days,
                book.name,
                book.soft_delete_days,
            )


def retire_rules(plan: MigrationPlan) -> None:
    """Take our lifecycle rules out of the buckets of a plan that is settled: nothing there carries our tag any more."""
    from cloudflux.orchestration.clients import moving_client
    from cloudflux.providers.aws_lifecycle import LifecycleTierClient
    from cloudflux.providers.pace import Pace

    for bucket in sorted({group.bucket for group in plan.groups if group.provider == Provider.AWS}):
        named = settings().load_estate().bucket(Provider.AWS, bucket)
        with suppress(BucketNotFound):  # its moves have failed with that; there is no rule to take out
            client, by_lifecycle = moving_client(named, Pace(max_in_flight=1), plan_id=plan.plan_id, as_job=False)
            if by_lifecycle and isinstance(client, LifecycleTierClient):
                client.retire(bucket)


def is_ready(plan_id: str, *, provider: str, bucket: str, first: int, last: int, sample: int = 3) -> bool:
    """Tell by a few of the moves that the provider is at work on whether it is worth to go on with their range.

    Looks at the ones that wait the longest: they were asked for first.
    """
    from cloudflux.domain.migrations import MigrationState
    from cloudflux.domain.objects import ObjectState, RestoreState
    from cloudflux.orchestration.clients import tier_client
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans

    named = settings().load_estate().bucket(provider, bucket)
    database: Engine = engine()
    try:
        states = Ledger(database).states(plan_id, first, last)
        waiting = [
            n for n, (state, _) in states.items() if state in (MigrationState.SUBMITTED, MigrationState.RESTORING)
        ]
        if not waiting:
            return True
        moves = [Plans(database).moves(plan_id, number, number)[0] for number in sorted(waiting)[:sample]]
        looks = tier_client(named.provider, named.connection_id).head_many([move.ref for move in moves])
    finally:
        database.dispose()
    return all(
        not isinstance(now_seen, ObjectState)  # gone, or not to be seen: the range finds out
        or now_seen.storage_class == move.to_class
        or (states[move.move_no][0] is MigrationState.RESTORING and now_seen.restore is not RestoreState.RUNNING)
        for move, now_seen in zip(moves, looks, strict=True)
    )
