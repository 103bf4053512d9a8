"""Taking moves back: what it costs, what is left as it is, and that objects come back as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from sqlalchemy import Engine
from unit.workflows.recorded_moves import AT, COLD, COOL, NO_LIMITS, STANDARD, Recorded

from cloudflux.domain.batch_jobs import job_terms
from cloudflux.domain.costs import one_time_usd
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import Guardrails, MoveRole, PlanKind, PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.undo import DoneMove
from cloudflux.price_books import load_book
from cloudflux.workflows.move_costs import restore_orders
from cloudflux.workflows.plan import describe
from cloudflux.workflows.undo import UndoProposal, UndoRefused, describe_left_out, propose_undo
from cloudflux.workflows.undo_costs import BucketPrices, PricesOf, undo_usd

BOOKS = {Provider.AWS: "aws-us-east-1", Provider.AZURE: "azure-eastus-lrs", Provider.GCP: "gcs-us-central1"}


def prices(provider: str, bucket: str, *, within_hours: int = 48) -> BucketPrices:
    book = load_book(BOOKS[Provider(provider)])
    return BucketPrices(book, restore_orders(book, within_hours=within_hours, keep_days=2))


@pytest.fixture(params=list(Provider))
def world(engine: Engine, request: pytest.FixtureRequest) -> Recorded:
    return Recorded(engine, request.param)


@pytest.fixture
def on_aws(engine: Engine) -> Recorded:
    return Recorded(engine, Provider.AWS)


def propose(
    world: Recorded,
    target: str,
    *,
    run_id: str = "undo",
    guardrails: Guardrails = NO_LIMITS,
    prices_of: PricesOf = prices,
    **more: bool,
) -> UndoProposal:
    return propose_undo(
        world.plans,
        world.ledger,
        world.done_moves,
        prices_of,
        target=target,
        run_id=run_id,
        created_at=world.now,
        guardrails=guardrails,
        **{"dry_run": False, **more},
    )


def undo(world: Recorded, target: str, *, run_id: str = "undo") -> UndoProposal:
    proposal = propose(world, target, run_id=run_id)
    world.plans.set_state(proposal.plan.plan_id, PlanState.APPROVED, "me", world.now)
    world.carry_out(proposal.plan.plan_id)
    return proposal


def test_objects_are_where_they_were_when_a_plan_is_undone(world: Recorded) -> None:
    before = [world.client.get_object(ref) for ref in world.refs]
    world.moved("plan", COLD[world.provider])
    proposal = undo(world, "plan")
    assert world.classes() == [STANDARD[world.provider]] * 5
    assert [world.client.get_object(ref) for ref in world.refs] == before
    assert set(world.states("plan").values()) == {MigrationState.UNDONE}
    assert set(world.states(proposal.plan.plan_id).values()) == {MigrationState.DONE}
    assert proposal.left_out == {}
    assert (proposal.plan.kind, proposal.plan.undoes) == (PlanKind.UNDO, "plan")
    with pytest.raises(UndoRefused, match="5 taken back already"):
        propose(world, "plan", run_id="again")


def test_each_move_costs_what_the_price_book_says_when_it_is_taken_back(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    moved_at = world.now
    world.now += timedelta(days=10)
    proposal = propose(world, "plan")
    book = load_book(BOOKS[world.provider])
    sizes = np.array([len(ref.key) for ref in world.refs], dtype=float)
    code = book.code_of(COLD[world.provider])
    expected = one_time_usd(book, sizes, np.full(5, code), np.full(5, 10.0))[:, book.code_of(STANDARD[world.provider])]
    moves = world.plans.moves(proposal.plan.plan_id, 0, 4)
    assert [float(move.one_time_usd) for move in moves] == pytest.approx(expected, abs=1e-9)
    assert float(proposal.plan.totals.one_time_usd) == pytest.approx(expected.sum(), abs=1e-8)
    assert {move.class_since_at for move in moves} == {moved_at}
    for move in moves:
        assert float(move.saving_usd) == pytest.approx(-0.02 * 6 - float(move.one_time_usd))
        assert (move.monthly_saving_usd, move.payback_days) == (Decimal("-0.02"), None)
    assert float(proposal.plan.totals.after_usd_month - proposal.plan.totals.before_usd_month) == pytest.approx(0.1)
    assert "moves that take back** those of plan" in describe(proposal.plan)


def test_moves_are_bound_to_the_objects_as_they_were_left(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    left = [world.client.head(ref) for ref in world.refs]
    proposal = propose(world, "plan")
    moves = world.plans.moves(proposal.plan.plan_id, 0, 4)
    assert [(move.ref, move.etag, move.size_bytes) for move in moves] == [
        (state.ref, state.etag, state.size_bytes) for state in left
    ]
    assert [move.undoes_move_no for move in moves] == [0, 1, 2, 3, 4]
    assert {(move.from_class, move.to_class) for move in moves} == {(COLD[world.provider], STANDARD[world.provider])}


def test_an_overwritten_object_keeps_its_new_content_when_its_move_is_undone(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    world.client.put_object(world.refs[2], b"new content", storage_class=COLD[world.provider])
    proposal = undo(world, "plan")
    assert world.client.get_object(world.refs[2]) == b"new content"
    assert world.client.head(world.refs[2]).storage_class == COLD[world.provider]
    assert world.states(proposal.plan.plan_id)[2] is MigrationState.SKIPPED
    assert world.states("plan")[2] is MigrationState.DONE
    assert [state for number, state in world.states("plan").items() if number != 2] == [MigrationState.UNDONE] * 4


def test_what_a_later_plan_moved_on_is_left_out_and_counted(world: Recorded) -> None:
    world.moved("plan", COOL[world.provider])
    world.moved("later", COLD[world.provider], refs=world.refs[:2])
    proposal = propose(world, "plan")
    assert proposal.left_out == {"moved on by later": 2}
    assert (proposal.plan.totals.objects, proposal.plan.totals.left_out) == (3, 2)
    assert describe_left_out(proposal) == "2 left as they are: moved on by later"


def test_what_has_left_smart_tier_stays_out_and_the_rest_is_taken_back(engine: Engine) -> None:
    world = Recorded(engine, Provider.AZURE)
    inside, others = world.refs[:2], world.refs[2:]
    world.move_by_hand(inside[0], "Smart")
    assert world.classes() == ["Hot"] * len(world.refs)
    for ref in inside:  # no request puts a blob there, its account does
        state, data = world.client._buckets["b"][ref.key]
        world.client._buckets["b"][ref.key] = (replace(state, storage_class="Smart"), data)
    world.moved("plan", "Cold")
    proposal = undo(world, "plan")
    assert describe_left_out(proposal) == (
        "2 left as they are: out of smart tier for good: nothing can go back into it"
    )
    assert [world.client.head(ref).storage_class for ref in world.refs] == ["Cold"] * 2 + ["Hot"] * len(others)
    with pytest.raises(UndoRefused, match=r"nothing to take back of .*out of smart tier for good"):
        propose(world, inside[0].uri, run_id="again")


def test_a_move_can_be_undone_again_when_the_later_plan_was_undone(world: Recorded) -> None:
    world.moved("plan", COOL[world.provider])
    world.moved("later", COLD[world.provider], refs=world.refs[:2])
    undo(world, "later", run_id="first")
    assert world.classes() == [COOL[world.provider]] * 5
    assert undo(world, "plan", run_id="second").left_out == {}
    assert world.classes() == [STANDARD[world.provider]] * 5


def test_the_newest_move_is_taken_back_when_an_object_is_named(world: Recorded) -> None:
    world.moved("plan", COOL[world.provider])
    world.moved("later", COLD[world.provider])
    proposal = undo(world, world.refs[3].uri)
    assert proposal.plan.undoes == "later"
    assert world.classes() == [*[COLD[world.provider]] * 3, COOL[world.provider], COLD[world.provider]]
    assert undo(world, world.refs[3].uri, run_id="once more").plan.undoes == "plan"
    assert world.classes()[3] == STANDARD[world.provider]
    with pytest.raises(UndoRefused, match=r"no move of .*logs/0003 that is done"):
        propose(world, world.refs[3].uri, run_id="too often")


def test_an_undo_can_be_undone(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    undone_by = undo(world, "plan").plan.plan_id
    undo(world, undone_by, run_id="back again")
    assert world.classes() == [COLD[world.provider]] * 5


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("plan-none", "there is no plan 'plan-none'"),
        ("preview", "preview was a dry run, it moved nothing"),
        ("idle", "nothing to take back of idle: none of its moves is done, it is approved"),
        ("s3://b", "not an object address"),
        ("s3://b/other", "no move of s3://b/other that is done"),
    ],
)
def test_the_error_names_what_is_wrong(on_aws: Recorded, target: str, message: str) -> None:
    on_aws.add_plan("preview", "GLACIER_IR", state=PlanState.PREVIEW)
    on_aws.add_plan("idle", "GLACIER_IR")
    with pytest.raises(UndoRefused, match=message):
        propose(on_aws, target)


@pytest.mark.parametrize(
    ("caps", "named"),
    [
        ({"max_objects": 3}, "above max_objects=3;"),
        ({"max_bytes": 30}, "above max_bytes=30;"),
        ({"max_one_time_usd": Decimal(0)}, "above max_one_time_usd=0;"),
    ],
)
def test_nothing_is_stored_when_the_whole_undo_breaks_a_cap(
    on_aws: Recorded, caps: dict[str, object], named: str
) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    with pytest.raises(UndoRefused, match=named):
        propose(on_aws, "plan", guardrails=replace(NO_LIMITS, **caps))
    assert len(on_aws.plans.recent(10)) == 1


def test_as_many_as_the_caps_allow_are_taken_back_when_that_is_asked_for(on_aws: Recorded) -> None:
    on_aws.client.put_object(on_aws.refs[1], b"x" * 2**20)  # the dearest
    on_aws.moved("plan", "GLACIER_IR")
    proposal = propose(on_aws, "plan", guardrails=replace(NO_LIMITS, max_objects=4), what_fits=True)
    assert proposal.left_out == {"beyond the caps of one plan": 1}
    moves = on_aws.plans.moves(proposal.plan.plan_id, 0, 9)
    assert [move.undoes_move_no for move in moves] == [0, 2, 3, 4]
    with pytest.raises(UndoRefused, match="max_objects=0"):
        propose(on_aws, "plan", guardrails=replace(NO_LIMITS, max_objects=0), what_fits=True, run_id="b")


def test_the_others_are_taken_back_when_the_first_exceeds_a_cap_alone(on_aws: Recorded) -> None:
    on_aws.client.put_object(on_aws.refs[0], b"x" * 2**20)
    on_aws.moved("plan", "INTELLIGENT_TIERING")  # back from there all cost the same, a request
    proposal = propose(on_aws, "plan", guardrails=replace(NO_LIMITS, max_bytes=2**19), what_fits=True)
    moves = on_aws.plans.moves(proposal.plan.plan_id, 0, 9)
    assert [move.undoes_move_no for move in moves] == [1, 2, 3, 4]


def test_prefixes_and_canaries_hold_for_an_undo(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    guardrails = replace(
        NO_LIMITS,
        canary_share=0.2,
        hold_out_share=0.9,
        allowed_prefixes=("s3://b/logs/",),
        excluded_prefixes=("s3://b/logs/0004",),
    )
    proposal = propose(on_aws, "plan", guardrails=guardrails, dry_run=True)
    assert proposal.left_out == {"below excluded_prefixes": 1}
    assert (proposal.plan.totals.objects, proposal.plan.totals.canaries) == (4, 1)
    roles = [move.role for move in on_aws.plans.moves(proposal.plan.plan_id, 0, 9)]
    assert roles == [MoveRole.CANARY, *[MoveRole.MOVE] * 3]
    assert on_aws.plans.state(proposal.plan.plan_id) is PlanState.PREVIEW


def test_a_retried_task_finds_its_undo_again(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    first = propose(on_aws, "plan").plan
    assert propose(on_aws, "plan").plan == first
    assert len(on_aws.plans.recent(10)) == 2


def test_what_jobs_cost_is_stated_for_an_undo_and_holds_its_caps(engine: Engine) -> None:
    world = Recorded(engine, Provider.AWS, 1_300)
    world.moved("plan", "GLACIER_IR")

    def with_jobs(provider: str, bucket: str) -> BucketPrices:
        found = prices(provider, bucket)
        terms = job_terms(found.book, from_objects=1_000, write_once=True, remove_superseded=False)
        return replace(found, jobs=terms)

    copied = propose(world, "plan", run_id="copied", dry_run=True).plan
    moved_by_jobs = propose(world, "plan", run_id="jobs", dry_run=True, prices_of=with_jobs).plan
    fees = Decimal("0.2513")
    assert moved_by_jobs.groups[0].job_fees_usd == fees
    assert moved_by_jobs.totals.one_time_usd == copied.totals.one_time_usd + fees
    assert moved_by_jobs.totals.saving_usd == copied.totals.saving_usd - fees
    moves = world.plans.moves(moved_by_jobs.plan_id, 0, 2_000)
    assert sum(move.one_time_usd for move in moves) == pytest.approx(
        moved_by_jobs.totals.one_time_usd, abs=Decimal("1e-6")
    )

    tight = replace(NO_LIMITS, max_one_time_usd=moved_by_jobs.totals.one_time_usd - Decimal("0.002"))
    with pytest.raises(UndoRefused, match="above max_one_time_usd"):
        propose(world, "plan", run_id="whole", guardrails=tight, prices_of=with_jobs)
    fitting = propose(world, "plan", run_id="part", guardrails=tight, prices_of=with_jobs, what_fits=True).plan
    assert 1_000 < fitting.totals.objects < 1_300
    assert fitting.totals.one_time_usd <= tight.max_one_time_usd
    assert fitting.totals.left_out == 1_300 - fitting.totals.objects


def test_moves_are_numbered_by_object_in_whatever_order_they_were_made(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR", refs=[on_aws.refs[number] for number in (3, 0, 4, 1, 2)])
    proposal = propose(on_aws, "plan", guardrails=replace(NO_LIMITS, canary_share=0.2))
    canary, *others = on_aws.plans.moves(proposal.plan.plan_id, 0, 9)
    assert [move.move_no for move in (canary, *others)] == [0, 1, 2, 3, 4]
    assert [move.ref.key for move in others] == sorted({ref.key for ref in on_aws.refs} - {canary.ref.key})
    assert sorted(move.undoes_move_no for move in (canary, *others)) == [0, 1, 2, 3, 4]


class TestCost:
    """Of one object of a GiB that S3 keeps in an archive."""

    def done(self, on_aws: Recorded, to_class: str, **left: object) -> DoneMove:
        on_aws.add_plan("plan", to_class, refs=on_aws.refs[:1])
        move = replace(on_aws.plans.moves("plan", 0, 0)[0], size_bytes=2**30)
        state = replace(on_aws.client.head(on_aws.refs[0]), size_bytes=2**30, storage_class=to_class)
        state = replace(state, **{"class_since_at": AT + timedelta(minutes=1), **left})
        return DoneMove("plan", move, state, AT, AT + timedelta(minutes=2), None)

    @pytest.mark.parametrize(("within_hours", "option"), [(48, "bulk"), (12, "standard")])
    def test_restores_are_priced_as_they_will_be_asked_for(
        self, on_aws: Recorded, within_hours: int, option: str
    ) -> None:
        done = self.done(on_aws, "DEEP_ARCHIVE")
        (cost,) = undo_usd([done], lambda p, b: prices(p, b, within_hours=within_hours), AT + timedelta(days=400))
        book = load_book("aws-us-east-1")
        archive, standard = book.prices_of("DEEP_ARCHIVE"), book.prices_of("STANDARD")
        chosen = next(one for one in archive.restores if one.name == option)
        assert cost == pytest.approx(
            standard.write_usd
            + archive.read_usd
            + chosen.request_usd
            + chosen.retrieval_usd_gib
            + 2 / 30 * standard.storage_usd_gib_month
        )

    def test_early_deletion_is_owed_for_the_days_that_are_missing(self, on_aws: Recorded) -> None:
        done = self.done(on_aws, "GLACIER_IR")

        def cost(days: int) -> float:
            return undo_usd([done], prices, done.left.class_since_at + timedelta(days=days))[0]

        month = load_book("aws-us-east-1").prices_of("GLACIER_IR").storage_usd_gib_month
        assert cost(0) - cost(90) == pytest.approx(3 * month, rel=1e-6)
        assert cost(60) - cost(365) == pytest.approx(month, rel=1e-6)

    def test_the_class_counts_from_the_move_when_the_provider_shows_no_new_time(self, on_aws: Recorded) -> None:
        """As S3 does for what its lifecycle rules moved."""
        done = self.done(on_aws, "GLACIER_IR", class_since_at=AT - timedelta(days=300))
        restarted = replace(done, left=replace(done.left, class_since_at=done.left_at))
        at = AT + timedelta(days=1)
        assert undo_usd([done], prices, at) == undo_usd([restarted], prices, at)

    def test_a_class_without_a_price_is_named(self, on_aws: Recorded) -> None:
        done = self.done(on_aws, "GLACIER_IR")
        done = replace(done, move=replace(done.move, from_class="EXPRESS_ONEZONE"))
        with pytest.raises(SettingsError, match="no storage class 'EXPRESS_ONEZONE'"):
            undo_usd([done], prices, AT)


def test_objects_of_an_earlier_release_are_bound_by_what_its_ledger_kept(
    on_aws: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., int] = on_aws.ledger.append
    monkeypatch.setattr(
        on_aws.ledger,
        "append",
        lambda entries: real(
            [replace(entry, object_state=None) if entry.state is MigrationState.DONE else entry for entry in entries]
        ),
    )
    on_aws.moved("plan", "GLACIER_IR")
    monkeypatch.undo()
    undo(on_aws, "plan")
    assert on_aws.classes() == ["STANDARD"] * 5
