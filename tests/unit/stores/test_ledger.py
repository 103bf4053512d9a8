from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from cloudflux.domain.ledger import InvalidTransition, LedgerEntry
from cloudflux.domain.migrations import NEXT_STATES, MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import (
    AboveCap,
    Guardrails,
    MigrationPlan,
    MoveRole,
    PlanGroup,
    PlannedMove,
    PlanState,
    PlanTotals,
)
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.domain.tiers import Provider
from cloudflux.stores import ledger as ledger_store
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import InvalidPlanState, MoveRange, PlanNotFound, Plans, PlanTampered, StoredPlan
from cloudflux.workflows.planned_moves import moves_table

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
S = MigrationState


def a_move(number: int) -> PlannedMove:
    return PlannedMove(
        move_no=number,
        ref=ObjectRef(Provider.AWS, "media", f'film/{number:06}, "ü"\t\\N.mp4', "v1" if number % 2 else None),
        etag=f"etag-{number}",
        size_bytes=1_000 + number,
        last_modified_at=AT - timedelta(days=90),
        class_since_at=AT - timedelta(days=60, microseconds=1),
        from_class="STANDARD",
        to_class="GLACIER_IR",
        saving_usd=Decimal("0.0000000123"),
        one_time_usd=Decimal("0.00002"),
        monthly_saving_usd=Decimal("1.5"),
        payback_days=12.25,
        reason="unread for 90 days",
    )


def a_plan(plan_id: str = "plan-1", moves: int = 3, **overrides: object) -> MigrationPlan:
    plan = MigrationPlan(
        plan_id=plan_id,
        run_id=f"manual__{plan_id}",
        created_at=AT,
        decisions_day=date(2026, 10, 31),
        horizon_days=180,
        dry_run=False,
        expires_at=AT + timedelta(days=14),
        guardrails=Guardrails(
            10_000,
            2**50,
            Decimal("Infinity"),
            Decimal("0.01"),
            excluded_tags=("keep", "team=legal"),
            quiet_hours=QuietHours.parse("22:00-06:00 Europe/Berlin"),
            canary_share=0.01,
        ),
        totals=PlanTotals(
            moves,
            5 * 10**15,
            Decimal("10.5"),
            Decimal("0.25"),
            Decimal("9999999999.1234567891"),
            Decimal(7),
            12,
            4,
            1,
            2,
        ),
        groups=(
            PlanGroup("aws", "media", "STANDARD", "GLACIER_IR", moves, 7, Decimal("0.0000000123"), Decimal(2), 12.25),
        ),
        above_caps=(
            AboveCap("max_bytes", 4, "aws", "media", "STANDARD", "GLACIER_IR", Decimal(2**60), Decimal("0.0000000123")),
        ),
    )
    return replace(plan, **overrides)


def add(
    engine: Engine, plan: MigrationPlan | None = None, state: PlanState = PlanState.APPROVED, moves: int = 3
) -> None:
    Plans(engine).add(plan or a_plan(moves=moves), moves_table(a_move(number) for number in range(moves)), state)


def as_planned(stored: StoredPlan) -> MigrationPlan:
    return MigrationPlan(**{field.name: getattr(stored, field.name) for field in fields(MigrationPlan)})


def a_state(number: int, **overrides: object) -> ObjectState:
    move = a_move(number)
    state = ObjectState(
        ref=replace(move.ref, version_id="v2"),
        size_bytes=move.size_bytes,
        storage_class=move.from_class,
        etag=move.etag,
        last_modified_at=move.last_modified_at,
        class_since_at=move.class_since_at,
        content_type="text/plain",
        checksum="md5:abc crc32c:def",
        metadata={"owner": 'tab\t "ü"'},
        tags={"a": "1"},
        headers={"cache-control": "no-cache"},
    )
    return replace(state, **overrides)


def an_entry(number: int, state: MigrationState, plan_id: str = "plan-1", **overrides: object) -> LedgerEntry:
    move = a_move(number)
    entry = LedgerEntry(
        plan_id=plan_id,
        move_no=number,
        ref=move.ref,
        state=state,
        at=AT,
        from_class=move.from_class,
        to_class=move.to_class,
        etag=move.etag,
        size_bytes=move.size_bytes,
        detail=f"it is {state.value}",
        request_id=None,
        one_time_usd=move.one_time_usd,
        expected_saving_usd=move.saving_usd,
        actor="migrate_tiers/run-1",
    )
    return replace(entry, **overrides)


def entries(number: int, *states: MigrationState) -> list[LedgerEntry]:
    return [an_entry(number, state) for state in states]


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    add(engine)
    return Ledger(engine)


def test_plan_reads_back_equal_when_stored(engine: Engine) -> None:
    plans = Plans(engine)
    assert plans.add(a_plan(), moves_table(map(a_move, range(3))), PlanState.PROPOSED)
    assert as_planned(plans.get("plan-1")) == a_plan()
    assert plans.state("plan-1") is PlanState.PROPOSED
    assert plans.moves("plan-1", 0, 9) == [a_move(number) for number in range(3)]


def test_plan_stays_as_it_was_when_added_again(engine: Engine) -> None:
    plans = Plans(engine)
    add(engine, state=PlanState.PROPOSED)
    plans.set_state("plan-1", PlanState.APPROVED, "anna", AT)
    assert not plans.add(a_plan(moves=1), moves_table([a_move(0)]), PlanState.PROPOSED)
    assert as_planned(plans.get("plan-1")) == a_plan()
    assert plans.state("plan-1") is PlanState.APPROVED


def test_moves_come_by_number_with_both_ends_when_a_range_is_asked_for(engine: Engine) -> None:
    moves = [a_move(number) for number in range(20)]
    Plans(engine).add(a_plan(moves=20), moves_table(moves[::-1]), PlanState.PREVIEW)
    assert Plans(engine).moves("plan-1", 5, 7) == moves[5:8]
    assert Plans(engine).moves("plan-1", 19, 40) == [moves[19]]


def test_ranges_keep_to_one_bucket_and_role_when_a_plan_is_cut(engine: Engine) -> None:
    roles = [MoveRole.CANARY] * 2 + [MoveRole.MOVE] * 7 + [MoveRole.HOLD_OUT]
    moves = [
        replace(
            a_move(number),
            role=role,
            ref=replace(a_move(number).ref, bucket="a" if number < 5 else "b", provider=Provider.GCP),
        )
        for number, role in enumerate(roles)
    ]
    plans = Plans(engine)
    plans.add(a_plan(moves=10), moves_table(moves), PlanState.APPROVED)
    assert plans.ranges("plan-1", MoveRole.CANARY, 10) == [MoveRange("gcp", "a", 0, 1)]
    assert plans.ranges("plan-1", MoveRole.MOVE, 2) == [
        MoveRange("gcp", "a", 2, 3),
        MoveRange("gcp", "a", 4, 4),
        MoveRange("gcp", "b", 5, 6),
        MoveRange("gcp", "b", 7, 8),
    ]
    assert plans.ranges("plan-1", MoveRole.HOLD_OUT, 2) == [MoveRange("gcp", "b", 9, 9)]
    assert plans.ranges("nope", MoveRole.MOVE, 2) == []


def test_hundred_thousand_moves_are_kept_when_one_plan_has_them(engine: Engine) -> None:
    plans = Plans(engine)
    table = moves_table(map(a_move, range(100_000)))
    plans.add(a_plan(moves=100_000), table, PlanState.PREVIEW)
    assert [move.move_no for move in plans.moves("plan-1", 70_000, 74_999)] == list(range(70_000, 75_000))
    plans.check_moves("plan-1")


def test_plan_is_refused_when_its_moves_are_not_those_that_were_planned(engine: Engine) -> None:
    add(engine)
    Plans(engine).check_moves("plan-1")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cloudflux.planned_moves WHERE move_no = 1"))
    with pytest.raises(PlanTampered, match="plan-1"):
        Plans(engine).check_moves("plan-1")


def test_latest_plan_is_the_newest_when_there_are_several(engine: Engine) -> None:
    plans = Plans(engine)
    assert plans.latest() is None
    add(engine, a_plan("old", created_at=AT - timedelta(days=1)), PlanState.PROPOSED)
    add(engine, a_plan("dry", created_at=AT, dry_run=True), PlanState.PREVIEW)
    newest, newest_real = plans.latest(), plans.latest(dry_run=False)
    assert newest is not None
    assert newest_real is not None
    assert (newest.plan_id, newest.state, newest_real.plan_id) == ("dry", PlanState.PREVIEW, "old")
    assert newest.totals == a_plan().totals


def test_history_names_who_approved_when_a_plan_moves_on(engine: Engine) -> None:
    plans = Plans(engine)
    add(engine, state=PlanState.PROPOSED)
    plans.set_state("plan-1", PlanState.APPROVED, "anna", AT, "looks good")
    plans.set_state("plan-1", PlanState.APPROVED, "a retried task", AT, "again")
    plans.set_state("plan-1", PlanState.FINISHED, "run", AT)
    assert [(change.state.value, change.by, change.note) for change in plans.history("plan-1")] == [
        ("proposed", "manual__plan-1", "planned"),
        ("approved", "anna", "looks good"),
        ("finished", "run", ""),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PlanState.PREVIEW, PlanState.APPROVED),
        (PlanState.PREVIEW, PlanState.FINISHED),
        (PlanState.REJECTED, PlanState.APPROVED),
        (PlanState.FINISHED, PlanState.APPROVED),
        (PlanState.PROPOSED, PlanState.FINISHED),
    ],
)
def test_plan_state_is_refused_when_it_may_not_follow(engine: Engine, before: PlanState, after: PlanState) -> None:
    plans = Plans(engine)
    add(engine, state=before)
    with pytest.raises(InvalidPlanState, match=f"plan-1 is {before.value}: it cannot become {after.value}"):
        plans.set_state("plan-1", after, "anna", AT)
    assert plans.state("plan-1") is before


def test_unknown_plan_is_named_when_asked_for(engine: Engine) -> None:
    plans = Plans(engine)
    for ask in (plans.get, plans.state, plans.check_moves):
        with pytest.raises(PlanNotFound, match="'nope'"):
            ask("nope")


def test_planned_moves_refuse_updates_when_somebody_tries(engine: Engine, ledger: Ledger) -> None:
    with engine.begin() as connection, pytest.raises(Exception, match=r"UPDATE of cloudflux\.planned_moves is"):
        connection.execute(text("UPDATE cloudflux.planned_moves SET to_class = 'DEEP_ARCHIVE'"))


def test_entries_read_back_equal_when_appended(ledger: Ledger) -> None:
    written = [
        an_entry(0, S.SUBMITTED, object_state=a_state(0)),
        *entries(0, S.RESTORING, S.VERIFYING),
        an_entry(0, S.DONE, object_state=a_state(0, storage_class="GLACIER_IR"), cost_usd=Decimal("0.00001")),
        an_entry(1, S.SUBMITTED, detail='tab\t, newline\n, \\N and "quote"', request_id="r-1"),
    ]
    assert ledger.append(written) == 5
    assert list(ledger.entries("plan-1")) == written
    assert ledger.states("plan-1") == {0: (S.DONE, "it is done"), 1: (S.SUBMITTED, written[-1].detail)}
    assert ledger.seen("plan-1") == {0: a_state(0)}
    assert ledger.left("plan-1") == {0: a_state(0, storage_class="GLACIER_IR")}
    assert ledger.states("plan-1", 1, 2) == {1: (S.SUBMITTED, written[-1].detail)}
    assert ledger.seen("plan-1", 1, 2) == {}
    assert ledger.counts("plan-1") == {S.DONE: 1, S.SUBMITTED: 1}
    assert list(ledger.entries(states=[S.DONE])) == [written[3]]
    assert list(ledger.entries(since=AT + timedelta(seconds=1))) == []
    assert ledger.totals()[S.DONE].monthly_saving_usd == Decimal("1.5")


def test_nothing_is_doubled_when_entries_come_again(ledger: Ledger) -> None:
    assert ledger.append(entries(0, S.PLANNED, S.SUBMITTED)) == 2
    assert ledger.append(entries(0, S.PLANNED, S.SUBMITTED, S.VERIFYING)) == 1
    assert ledger.append([*entries(0, S.DONE), *entries(0, S.DONE)]) == 1
    assert ledger.append([]) == 0
    assert [entry.state for entry in ledger.entries()] == [S.PLANNED, S.SUBMITTED, S.VERIFYING, S.DONE]


_PATHS = {
    S.PLANNED: (S.PLANNED,),
    S.SUBMITTED: (S.SUBMITTED,),
    S.RESTORING: (S.SUBMITTED, S.RESTORING),
    S.VERIFYING: (S.SUBMITTED, S.VERIFYING),
    S.DONE: (S.SUBMITTED, S.VERIFYING, S.DONE),
    S.FAILED: (S.FAILED,),
    S.SKIPPED: (S.SKIPPED,),
    S.CANCELLED: (S.CANCELLED,),
    S.UNDONE: (S.SUBMITTED, S.VERIFYING, S.DONE, S.UNDONE),
}


@pytest.mark.parametrize("in_one_call", [True, False])
@pytest.mark.parametrize("before", list(S))
def test_transition_is_accepted_exactly_when_it_may_follow(engine: Engine, before: S, in_one_call: bool) -> None:
    add(engine, moves=len(S))
    ledger = Ledger(engine)
    for number, after in enumerate(S):
        if after in _PATHS[before]:
            continue
        path, last = entries(number, *_PATHS[before]), entries(number, after)
        calls: Sequence[list[LedgerEntry]] = [path + last] if in_one_call else [path, last]
        for call in calls[:-1]:
            ledger.append(call)
        if after in NEXT_STATES[before]:
            ledger.append(calls[-1])
            assert ledger.states("plan-1")[number][0] is after
        else:
            with pytest.raises(InvalidTransition, match=f"move {number} of plan-1 .* to {after.value}"):
                ledger.append(calls[-1])
            newest = ledger.states("plan-1").get(number)
            assert newest is None if in_one_call else newest is not None and newest[0] is before


def test_first_entry_is_refused_when_the_move_was_never_submitted(ledger: Ledger) -> None:
    with pytest.raises(InvalidTransition, match="from planned to done"):
        ledger.append(entries(0, S.DONE))


def test_nothing_is_appended_when_one_of_many_is_wrong(ledger: Ledger) -> None:
    with pytest.raises(InvalidTransition, match="1 ledger entries"):
        ledger.append([*entries(0, S.SUBMITTED), *entries(1, S.VERIFYING)])
    assert ledger.states("plan-1") == {}


def test_entry_is_refused_when_no_plan_has_the_move(ledger: Ledger) -> None:
    for entry in (an_entry(77, S.SUBMITTED), an_entry(0, S.SUBMITTED, plan_id="nope")):
        with pytest.raises(InvalidTransition, match="no stored plan has"):
            ledger.append([entry])


def test_moves_may_be_deleted_but_none_that_the_ledger_tells_of(engine: Engine, ledger: Ledger) -> None:
    ledger.append(entries(1, S.SUBMITTED))
    for wanted in ("move_no = 1", "plan_id = 'plan-1'"):
        with engine.begin() as connection, pytest.raises(IntegrityError, match="Move 1 of plan plan-1 is on the ledg"):
            connection.execute(text(f"DELETE FROM cloudflux.planned_moves WHERE {wanted}"))
    with engine.begin() as connection, pytest.raises(DBAPIError, match="is forbidden"):
        connection.execute(text("TRUNCATE cloudflux.planned_moves"))
    with engine.begin() as connection:
        assert connection.execute(text("DELETE FROM cloudflux.planned_moves WHERE move_no = 2")).rowcount == 1
    assert [move.move_no for move in Plans(engine).moves("plan-1", 0, 9)] == [0, 1]


def test_a_move_is_not_appended_while_it_is_being_deleted(engine: Engine, ledger: Ledger) -> None:
    raised: list[Exception] = []

    def append() -> None:
        try:
            ledger.append(entries(2, S.SUBMITTED))
        except InvalidTransition as exc:
            raised.append(exc)

    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cloudflux.planned_moves WHERE move_no = 2"))
        appending = threading.Thread(target=append)
        appending.start()
        appending.join(0.5)
        assert appending.is_alive()
    appending.join(30)
    assert [str(one) for one in raised] == [
        "a ledger entry is for a move that no stored plan has: Plan plan-1 has no move 2."
    ]


def test_a_move_is_not_deleted_while_it_is_being_appended(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, go_on, deleted = threading.Event(), threading.Event(), threading.Event()
    copied = ledger_store.copy_columns

    def hold(*wanted: Any) -> None:
        copied(*wanted)
        at_it.set()
        assert go_on.wait(30)

    monkeypatch.setattr(ledger_store, "copy_columns", hold)

    def delete() -> None:
        with engine.begin() as connection, pytest.raises(IntegrityError, match="Move 2 of plan plan-1 is on the ledg"):
            connection.execute(text("DELETE FROM cloudflux.planned_moves WHERE move_no = 2"))
        deleted.set()

    appending = threading.Thread(target=ledger.append, args=(entries(2, S.SUBMITTED),))
    appending.start()
    assert at_it.wait(30)
    deleting = threading.Thread(target=delete)
    deleting.start()
    assert not deleted.wait(0.5)
    go_on.set()
    appending.join(30)
    deleting.join(30)
    assert deleted.is_set()
    assert [state for state, _ in ledger.states("plan-1").values()] == [S.SUBMITTED]


def test_one_of_two_wins_when_both_record_the_same_move_at_once(engine: Engine, ledger: Ledger) -> None:
    ledger.append([entry for number in range(3) for entry in entries(number, S.SUBMITTED)])
    barrier = threading.Barrier(2)
    outcomes: list[object] = []

    def append(state: S) -> None:
        barrier.wait()
        try:
            outcomes.append(Ledger(engine).append([an_entry(number, state) for number in range(3)]))
        except InvalidTransition as exc:
            outcomes.append(exc)

    threads = [threading.Thread(target=append, args=(state,)) for state in (S.FAILED, S.SKIPPED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(str(type(outcome).__name__) for outcome in outcomes) == ["InvalidTransition", "int"]
    assert len(list(ledger.entries())) == 6


def test_only_those_wait_for_one_another_who_append_to_the_same_moves(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(engine, moves=10_000)
    at_it, go_on = threading.Event(), threading.Event()
    copied = ledger_store.copy_columns

    def hold(*wanted: Any) -> None:
        if threading.current_thread().name == "first":
            at_it.set()
            assert go_on.wait(30)
        copied(*wanted)

    monkeypatch.setattr(ledger_store, "copy_columns", hold)

    def start(name: str, numbers: Sequence[int], state: S) -> threading.Thread:
        wanted = [an_entry(number, state) for number in numbers]
        thread = threading.Thread(target=Ledger(engine).append, args=(wanted,), name=name)
        thread.start()
        return thread

    first = start("first", [0, 1], S.SUBMITTED)
    assert at_it.wait(30)
    try:
        other = start("other moves", range(1000, 1002), S.SUBMITTED)
        other.join(30)
        assert not other.is_alive()
        waiting = [
            start("same moves", [1, 2], S.SUBMITTED),
            start("half the plan", [number * 1000 + 1 for number in range(10)], S.SUBMITTED),
        ]
        waiting[0].join(0.5)
        assert [thread.name for thread in waiting if thread.is_alive()] == ["same moves", "half the plan"]
    finally:
        go_on.set()
        first.join(30)
    for thread in waiting:
        thread.join(30)
    assert len(list(Ledger(engine).entries())) == 2 + 2 + 1 + 8


def test_thousands_are_appended_when_they_come_in_one_call(engine: Engine) -> None:
    add(engine, moves=20_000)
    ledger = Ledger(engine)
    assert ledger.append([an_entry(number, S.SUBMITTED) for number in range(20_000)]) == 20_000
    later = [an_entry(number, state) for number in range(20_000) for state in (S.VERIFYING, S.DONE)]
    assert ledger.append(later) == 40_000
    assert ledger.counts("plan-1") == {S.DONE: 20_000}


@pytest.mark.parametrize("key", ["plain/key.bin", "tab\tnew\nline\\N\r", ""])
def test_entries_read_back_equal_whether_or_not_something_has_to_be_escaped(engine: Engine, key: str) -> None:
    add(engine, moves=3)
    ledger = Ledger(engine)
    ref = ObjectRef(Provider.GCP, "media", key, None)
    written = [
        an_entry(
            number,
            S.SUBMITTED,
            ref=ref,
            detail="",
            object_state=a_state(number, ref=ref, metadata={}, checksum=None, headers=None),
            cost_usd=None if number else Decimal("0.0000000001"),
        )
        for number in range(3)
    ]
    assert ledger.append(written) == 3
    assert list(ledger.entries("plan-1")) == written


@pytest.mark.parametrize("numbers", [(4, 5, 6, 7), (1, 30)])
def test_what_is_recorded_is_found_whether_moves_lie_together_or_not(engine: Engine, numbers: tuple[int, ...]) -> None:
    add(engine, moves=31)
    ledger = Ledger(engine)
    submitted = [an_entry(number, S.SUBMITTED) for number in numbers]
    assert ledger.append(submitted) == len(numbers)
    assert ledger.append(submitted) == 0
    assert ledger.append([*submitted, *(an_entry(number, S.DONE) for number in numbers)]) == len(numbers)
    with pytest.raises(InvalidTransition, match=f"1 ledger entries .*move {numbers[-1]} of plan-1 .* from done"):
        ledger.append([an_entry(numbers[0], S.DONE), an_entry(numbers[-1], S.VERIFYING)])
    assert {number: state for number, (state, _) in ledger.states("plan-1").items()} == dict.fromkeys(numbers, S.DONE)
