"""What carries out a bucket's moves: one process at a time, at the bucket's pace, and only while it holds them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from cloudflux.config import BatchOperations, BucketSettings, Estate
from cloudflux.domain.archive_rules import ArchiveRule
from cloudflux.domain.errors import BucketNotFound, TransientError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.tiers import Provider
from cloudflux.orchestration import clients, movers
from cloudflux.price_books import load_book
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.providers.pace import Pace
from cloudflux.stores import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.stores.slots import RangeTaken, SlotsTaken
from cloudflux.workflows.planned_moves import moves_table

AT = datetime(2026, 11, 1, tzinfo=UTC)
RANGE = {"provider": "aws", "bucket": "media", "first": 0}


class World:
    """Three objects of a bucket, an approved plan to move them, and the settings of the bucket."""

    def __init__(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = make_engine(database_url)
        self.client = MemoryTierClient(Provider.AWS, lambda: AT)
        self.client.create_bucket("media")
        self.paces: list[Pace] = []
        self.asked_for_jobs: list[bool] = []
        self.configure = lambda **settings: monkeypatch.setattr(
            movers,
            "settings",
            lambda: SimpleNamespace(load_estate=lambda: Estate(buckets=(self.named(**settings),))),
        )
        self.configure()
        monkeypatch.setattr(movers, "engine", lambda *, connections=2: make_engine(database_url, pool_size=connections))
        monkeypatch.setattr(clients, "moving_client", self.moving_client)
        monkeypatch.setattr(clients, "tier_client", lambda provider, connection_id: self.client)

    @staticmethod
    def named(**settings: Any) -> BucketSettings:
        return BucketSettings(
            provider=Provider.AWS,
            bucket="media",
            price_book="aws-us-east-1",
            connection_id="aws_default",
            **settings,
        )

    def moving_client(self, named: BucketSettings, pace: Pace, *, plan_id: str, as_job: bool) -> tuple[Any, bool]:
        assert plan_id == "plan-1"
        self.paces.append(pace)
        self.asked_for_jobs.append(as_job)
        return self.client, False

    def plan(self, from_class: str = "STANDARD", to_class: str = "GLACIER_IR") -> list[ObjectState]:
        states = [
            self.client.put_object(ObjectRef(Provider.AWS, "media", f"k{number}"), b"content", storage_class=from_class)
            for number in range(3)
        ]
        moves = [
            PlannedMove(
                number,
                state.ref,
                state.etag,
                7,
                AT,
                AT,
                from_class,
                to_class,
                Decimal(1),
                Decimal(1),
                Decimal(1),
                1.0,
                "",
            )
            for number, state in enumerate(states)
        ]
        plan = MigrationPlan(
            plan_id="plan-1",
            run_id="run",
            created_at=AT,
            expires_at=datetime.now(UTC) + timedelta(days=1),
            decisions_day=AT.date(),
            horizon_days=180,
            dry_run=False,
            guardrails=Guardrails(10, 10**9, Decimal(1), Decimal(0)),
            totals=PlanTotals(3, 21, Decimal(3), Decimal(3), Decimal(9), Decimal(6), 3, 0),
            groups=(PlanGroup("aws", "media", from_class, to_class, 3, 21, Decimal(3), Decimal(3), 1.0),),
        )
        Plans(self.database).add(plan, moves_table(moves), PlanState.APPROVED)
        return states

    def states(self) -> set[MigrationState]:
        return {state for state, _ in Ledger(self.database).states("plan-1").values()}


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(database_url, monkeypatch)
    yield made
    made.database.dispose()


def test_moves_are_carried_out_and_their_cost_recorded(world: World) -> None:
    world.plan()
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.carry_out("plan-1", 0, 2).ended == {"done": 3}
    done = list(Ledger(world.database).entries("plan-1", states=[MigrationState.DONE]))
    assert [(entry.actor, entry.cost_usd) for entry in done] == [("me", Decimal("0.0000204"))] * 3


@pytest.mark.parametrize(
    ("kept_days", "price_book", "warned"),
    [
        (7, "gcs-us-central1", True),
        (7, "gcs-us-central1-soft-delete", False),
        (30, "gcs-us-central1-soft-delete", True),
        (0, "gcs-us-central1", False),
        (None, "gcs-us-central1", False),  # the bucket cannot be looked at: its moves will say why
    ],
)
def test_soft_delete_that_the_price_book_does_not_know_is_warned_of(
    kept_days: int | None, price_book: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def soft_delete_days(bucket: str) -> int:
        if kept_days is None:
            raise BucketNotFound(f"there is no bucket {bucket!r}")
        return kept_days

    client: Any = SimpleNamespace(soft_delete_days=soft_delete_days)
    movers._warn_of_soft_delete(client, "media", load_book(price_book))
    assert len(caplog.messages) == warned
    if warned:
        assert f"Bucket media keeps what a move overwrites for {kept_days} days" in caplog.text


def test_what_its_bucket_would_archive_does_not_go_to_intelligent_tiering(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.plan("STANDARD", "INTELLIGENT_TIERING")
    monkeypatch.setattr(clients, "archive_rules_of", lambda named: [ArchiveRule(f"of {named.bucket}", 90)])
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.carry_out("plan-1", 0, 2).ended == {"skipped": 3}
    told = {detail for _, detail in Ledger(world.database).states("plan-1").values()}
    assert len(told) == 1
    assert "'of media' would archive it after 90 idle days" in told.pop()


def test_the_bucket_is_shared_by_its_tasks_as_its_owner_allows(world: World) -> None:
    world.plan()
    world.configure(max_tasks=4, max_in_flight=64, max_requests_per_second=100)
    with movers.bucket_mover("plan-1", **RANGE, actor="me"):
        pass
    (pace,) = world.paces
    assert (pace.max_in_flight, pace.max_per_second) == (16, 25)  # of all steps together


def test_a_second_process_is_kept_off_the_same_moves_and_out_of_a_full_bucket(world: World) -> None:
    world.plan()
    world.configure(max_tasks=1)
    with movers.bucket_mover("plan-1", **RANGE, actor="me"):
        with pytest.raises(RangeTaken), movers.bucket_mover("plan-1", **RANGE, actor="other"):
            pass
        with pytest.raises(SlotsTaken), movers.bucket_mover("plan-1", **RANGE | {"first": 5}, actor="other"):
            pass
    with movers.bucket_mover("plan-1", **RANGE, actor="other"):
        pass


def test_nothing_moves_when_the_lock_on_the_moves_was_lost(world: World) -> None:
    world.plan()
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        with world.database.begin() as connection:  # as when the server was restarted
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON oid = database "
                    "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
                )
            )
        with pytest.raises(TransientError):
            mover.carry_out("plan-1", 0, 2)
    assert world.states() == {MigrationState.SUBMITTED}
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.carry_out("plan-1", 0, 2).ended == {"done": 3}


def test_ranges_and_steps_grow_to_a_job_when_the_plan_is_large_enough(world: World) -> None:
    world.plan()
    plan = Plans(world.database).get("plan-1")
    jobs = BatchOperations(from_objects=3, account_id="1" * 12, role_arn="arn:aws:iam::1:role/r", manifest_bucket="m")
    assert movers.range_moves(plan, provider="aws", bucket="media") == 5000
    world.configure(batch_operations=jobs)
    world.client.job_sizes = lambda changes: [10_000] * len(changes)
    assert movers.range_moves(plan, provider="aws", bucket="media") == 50_000
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.step_moves == 50_000
        assert mover.carry_out("plan-1", 0, 2).ended == {"done": 3}
    done = list(Ledger(world.database).entries("plan-1", states=[MigrationState.DONE]))
    share = Decimal("0.25") / 10_000 + Decimal("0.000001")
    assert [entry.cost_usd for entry in done] == [Decimal("0.0000204") + share] * 3
    world.configure(batch_operations=jobs.model_copy(update={"from_objects": 4}))
    assert movers.range_moves(plan, provider="aws", bucket="media") == 5000
    assert world.asked_for_jobs == [True]


def ready() -> bool:
    return movers.is_ready("plan-1", provider="aws", bucket="media", first=0, last=2)


def test_a_restore_is_waited_for_until_the_sample_is_readable(world: World) -> None:
    states = world.plan("GLACIER", "STANDARD")
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.carry_out("plan-1", 0, 2).waiting == 3
    assert world.states() == {MigrationState.RESTORING}
    assert not ready()
    for state in states:
        world.client.finish_restore(state.ref)
    assert ready()
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        assert mover.carry_out("plan-1", 0, 2).ended == {"done": 3}
    assert ready()  # nothing waits any more


def test_a_deleted_object_ends_the_waiting(world: World) -> None:
    (first, *_) = world.plan("GLACIER", "STANDARD")
    with movers.bucket_mover("plan-1", **RANGE, actor="me") as mover:
        mover.carry_out("plan-1", 0, 0)
    assert not ready()
    world.client.delete_object(replace(first.ref, version_id=None))
    assert ready()
