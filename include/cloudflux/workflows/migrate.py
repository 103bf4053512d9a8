"""Carry out an approved plan: submit, verify, and put every step on the record.

Every step may be killed and repeated at any moment. What an object was like before its move is written to the ledger
before the move is submitted, so that a later attempt can still verify against it; the ledger decides what is left.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import (
    TERMINAL_STATES,
    ChangeOutcome,
    MigrationState,
    RestoreOrder,
    TierChange,
)
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import MigrationPlan, MoveRole, PlannedMove, PlanState
from cloudflux.domain.verification import differences
from cloudflux.workflows.garbage_collection import collecting_seldom
from cloudflux.workflows.move_costs import CostsOf
from cloudflux.workflows.skip_reasons import reason_to_skip
from cloudflux.workflows.turns import Ended, TierClient, Turns

STEP_MOVES: Final = 1000
"""Moves that are looked at, submitted and verified together."""
STEPS_AT_ONCE: Final = 5
"""Some ask the provider while others read and write here; all are in memory."""

_STATE_AFTER: Final[Mapping[ChangeOutcome, tuple[MigrationState, str]]] = {
    ChangeOutcome.RESTORING: (MigrationState.RESTORING, ""),
    ChangeOutcome.NOT_FOUND: (MigrationState.SKIPPED, "deleted since the plan"),
    ChangeOutcome.CONFLICT: (MigrationState.SKIPPED, "overwritten since the plan"),
    ChangeOutcome.LOCKED: (MigrationState.SKIPPED, "locked"),
    ChangeOutcome.ERROR: (MigrationState.FAILED, "the provider refused the change"),
}
"""What is recorded of a change that was not made; ``PENDING`` and ``UNAVAILABLE`` leave a move as it is: nothing has
happened yet."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> Any:
        """Give a ``MigrationPlan`` with its ``state``."""

    def moves(self, plan_id: str, first: int, last: int) -> Sequence[PlannedMove]:
        """Give a range of a plan's moves, both ends included."""

    def set_state(self, plan_id: str, state: PlanState, by: str, at: datetime, note: str | None = None) -> None:
        """Record that the plan stands elsewhere now, who did it and when."""


class Ledger(Protocol):
    """The append-only record of all moves."""

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        """Append entries; one that is there already changes nothing. Returns how many were new."""

    def states(
        self, plan_id: str, first: int | None = None, last: int | None = None
    ) -> Mapping[int, tuple[MigrationState, str]]:
        """Tell the newest state of each move, or of a range of moves, with its detail."""

    def seen(self, plan_id: str, first: int | None = None, last: int | None = None) -> Mapping[int, ObjectState]:
        """Give what each object was like before its move."""


Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class RangeProgress:
    """What one call came to."""

    ended: Mapping[str, int]
    """How many moves entered which state for good."""
    waiting: int
    """Moves that the provider is at work on: a restore, a lifecycle rule, a batch job. Call again later."""
    unavailable: int
    """Moves that the provider could not serve now. Call again."""
    quiet_until: datetime | None
    """When to go on, if quiet hours stopped the call."""


_NOTHING: Final = RangeProgress({}, 0, 0, None)


def _together(parts: Iterable[RangeProgress]) -> RangeProgress:
    ended: Counter[str] = Counter()
    waiting = unavailable = 0
    quiet_until = None
    for part in parts:
        ended.update(part.ended)
        waiting += part.waiting
        unavailable += part.unavailable
        quiet_until = quiet_until or part.quiet_until
    return RangeProgress(dict(ended), waiting, unavailable, quiet_until)


@dataclass(frozen=True, slots=True)
class _Step:
    """Some moves of a plan, as the stores know them before anything is done about them."""

    plan: Any
    moves: Sequence[PlannedMove]
    states: Mapping[int, tuple[MigrationState, str]]
    seen: Mapping[int, ObjectState]

    def moves_in(self, *wanted: MigrationState) -> list[PlannedMove]:
        """Give the moves that are in one of these states."""
        return [move for move in self.moves if _state_of(self.states, move) in wanted]

    def left_to_verify(self) -> list[_Moved]:
        """Give the moves that an earlier call made and did not verify."""
        verifying = self.moves_in(MigrationState.VERIFYING)
        return [_Moved(move, self.seen[move.move_no], None, "", None) for move in verifying]


@dataclass(frozen=True, slots=True)
class _Moved:
    """A move that was made and is to be verified."""

    move: PlannedMove
    before: ObjectState
    after: ObjectState | None
    """As the provider told it with its answer; None: it has to be looked at."""
    detail: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class _Came:
    """What some moves came to, and what of it is not on the record yet."""

    progress: RangeProgress
    entries: list[LedgerEntry]


@dataclass(frozen=True, slots=True)
class _Submitted(_Came):
    """The same of changes."""

    moved: list[_Moved]
    """Made, and to be verified: not on the record either."""


@dataclass(frozen=True, slots=True)
class Mover:
    """What carries out moves, with all that it needs. The clock and the client are the edge's."""

    client: TierClient
    plans: PlanStore
    ledger: Ledger
    actor: str
    clock: Clock
    restore_of: Callable[[PlannedMove], RestoreOrder | None] = lambda _: None
    """How an object of an archive class is to be restored, if its move needs that."""
    step_moves: int = STEP_MOVES
    """How many moves are looked at, submitted and verified together."""
    steps_together: bool = False
    """Whether the client may be asked by `STEPS_AT_ONCE` steps at once, which share the requests that it has under way;
    else they take turns."""
    costs_of: CostsOf = lambda moves, *_: [None] * len(moves)
    """What moves cost once, by what each object was before and when it moved."""
    withdraw: Callable[[Sequence[ObjectRef]], object] = lambda _: None
    """Takes back what an attempt left on objects that are not to move any more: a tag for a lifecycle rule."""
    objection_to: Callable[[PlannedMove, ObjectState], str | None] | None = None
    """Tells of an object that was just looked at what else stands against its move; None: nothing ever does."""
    raise_if_superseded: Callable[[], None] = lambda: None
    """Asked before each step's changes: raises when another process may be at work on the same moves by now."""

    def carry_out(self, plan_id: str, first: int, last: int) -> RangeProgress:
        """Submit and verify the moves ``first`` to ``last``, as far as the ledger does not know better.

        While one step waits for the provider, another one writes to the ledger. Raises ``TerminalError`` when the plan
        is not approved, and what ends a whole range (see ``TierClient``).
        """
        with collecting_seldom():
            return self._carry_out_steps(plan_id, list(_steps(first, last, self.step_moves)))

    def _carry_out_steps(self, plan_id: str, steps: Sequence[tuple[int, int]]) -> RangeProgress:
        if len(steps) == 1:
            return self._carry_out_step(plan_id, *steps[0])
        turns = Turns(self.client, exclusive=not self.steps_together)
        taking_turns = replace(self, client=turns)
        quiet = threading.Event()

        def step(bounds: tuple[int, int]) -> RangeProgress:
            if turns.ended or quiet.is_set():
                return _NOTHING
            progress = taking_turns._carry_out_step(plan_id, *bounds)
            if progress.quiet_until is not None:
                quiet.set()
            return progress

        with ThreadPoolExecutor(STEPS_AT_ONCE, thread_name_prefix="cloudflux-step") as pool:
            running = [pool.submit(step, bounds) for bounds in steps]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:  # also when this process is told to end: steps under way come to the end of their turn
                turns.end()
        errors = [error for error in (future.exception() for future in running) if error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, Ended)):
            raise error
        return _together(future.result() for future in running)

    def _carry_out_step(self, plan_id: str, first: int, last: int) -> RangeProgress:
        step = self._read(plan_id, first, last)
        submitted = self._submit(step)
        told = [one for one in submitted.moved if one.after is not None]
        untold = [one for one in submitted.moved if one.after is None]
        compared = self._compare(step.plan, told, [one.after for one in told])
        at = self.clock()
        verifying = [self._verifying(plan_id, one, at) for one in untold]
        self.ledger.append(submitted.entries + verifying + compared.entries)
        verified = self._look_and_compare(step.plan, [*step.left_to_verify(), *untold])
        self.ledger.append(verified.entries)
        return _together([submitted.progress, compared.progress, verified.progress])

    def _read(self, plan_id: str, first: int, last: int) -> _Step:
        states = self.ledger.states(plan_id, first, last)
        seen = self.ledger.seen(plan_id, first, last) if states else {}
        return _Step(self.plans.get(plan_id), self.plans.moves(plan_id, first, last), states, seen)

    def submit(self, plan_id: str, first: int, last: int) -> RangeProgress:
        """Submit the moves that are not settled. Nothing new begins in quiet hours, or once the plan has expired."""
        submitted = self._submit(self._read(plan_id, first, last))
        at = self.clock()
        self.ledger.append(submitted.entries + [self._verifying(plan_id, one, at) for one in submitted.moved])
        return submitted.progress

    def _submit(self, step: _Step) -> _Submitted:
        """Submit, with the intents on the record; what came of it is not yet, nor is it verified."""
        plan, plan_id = step.plan, step.plan.plan_id
        if plan.state is not PlanState.APPROVED:
            raise TerminalError(f"{plan_id} is {plan.state}, not approved: nothing is moved")
        quiet = plan.guardrails.quiet_hours
        quiet_until = None if quiet is None else quiet.ends_at(self.clock())
        if quiet_until is not None:
            return _Submitted(RangeProgress({}, 0, 0, quiet_until), [], [])
        intents, changes, unavailable = self._intend(plan, self._open_moves(step), step.seen)
        given_up = [entry.move_no for entry in intents if entry.state in TERMINAL_STATES and entry.move_no in step.seen]
        if given_up:
            self.withdraw([step.seen[number].ref for number in given_up])
        self.ledger.append(intents)  # on the record before anything moves
        self.raise_if_superseded()
        results = self.client.change_tiers([change for _, change in changes])
        at = self.clock()
        waiting = 0
        outcomes: list[LedgerEntry] = []
        moved: list[_Moved] = []
        for (move, change), result in zip(changes, results, strict=True):
            if result.outcome is ChangeOutcome.CHANGED:
                moved.append(_Moved(move, change.seen, result.after, result.detail, result.request_id))
            elif result.outcome is ChangeOutcome.UNAVAILABLE:
                unavailable += 1
            elif result.outcome is ChangeOutcome.PENDING:
                waiting += 1
            else:
                state, reason = _STATE_AFTER[result.outcome]
                detail = ": ".join(part for part in (reason, result.detail) if part)
                outcomes.append(self._entry(plan_id, move, state, at, detail, request_id=result.request_id))
                waiting += state is MigrationState.RESTORING
        ended = Counter(entry.state.value for entry in intents + outcomes if entry.state in TERMINAL_STATES)
        return _Submitted(RangeProgress(dict(ended), waiting, unavailable, None), outcomes, moved)

    def _open_moves(self, step: _Step) -> list[PlannedMove]:
        """Give the moves of a step that may be submitted now."""
        open_states = {MigrationState.SUBMITTED, MigrationState.RESTORING}
        if self.clock() < step.plan.expires_at:
            open_states.add(MigrationState.PLANNED)
        return [move for move in step.moves_in(*open_states) if move.role is not MoveRole.HOLD_OUT]

    def _intend(
        self, plan: MigrationPlan, moves: Sequence[PlannedMove], seen: Mapping[int, ObjectState]
    ) -> tuple[list[LedgerEntry], list[tuple[PlannedMove, TierChange]], int]:
        """Look at the objects: what is to be recorded first, what is to change, how many could not be looked at now."""
        entries: list[LedgerEntry] = []
        changes: list[tuple[PlannedMove, TierChange]] = []
        unavailable = 0
        looks = self.client.head_many([move.ref for move in moves])
        plan_id, at, objection_to = plan.plan_id, self.clock(), self.objection_to
        for move, now in zip(moves, looks, strict=True):
            if isinstance(now, Unseen):
                if now.passing:
                    unavailable += 1
                else:
                    why = f"not to be seen: {now.reason}"
                    entries.append(self._entry(plan_id, move, MigrationState.FAILED, at, why))
                continue
            attempted = move.move_no in seen
            reason = reason_to_skip(move, now, plan.guardrails, attempted=attempted)
            if reason is None and now is not None and not attempted and objection_to is not None:
                reason = objection_to(move, now)
            if reason is not None or now is None:
                entries.append(self._entry(plan_id, move, MigrationState.SKIPPED, at, reason or "not seen"))
                continue
            before = seen.get(move.move_no, now)
            if not attempted:
                entries.append(self._entry(plan_id, move, MigrationState.SUBMITTED, at, object_state=before))
            changes.append((move, TierChange(before, move.to_class, now, self.restore_of(move))))
        return entries, changes, unavailable

    def verify(self, plan_id: str, first: int, last: int) -> RangeProgress:
        """Compare every moved object with what it was before; only an equal one in its new class is ``done``."""
        step = self._read(plan_id, first, last)
        verified = self._look_and_compare(step.plan, step.left_to_verify())
        self.ledger.append(verified.entries)
        return verified.progress

    def _look_and_compare(self, plan: Any, moved: Sequence[_Moved]) -> _Came:
        if not moved:
            return _Came(_NOTHING, [])
        return self._compare(plan, moved, self.client.head_many([one.move.ref for one in moved]))

    def _compare(self, plan: Any, moved: Sequence[_Moved], looks: Sequence[ObjectState | Unseen | None]) -> _Came:
        """Compare moved objects with what they were; nothing is recorded yet."""
        if not moved:
            return _Came(_NOTHING, [])
        plan_id, undoes, at = plan.plan_id, plan.undoes, self.clock()
        costs = self.costs_of([one.move for one in moved], [one.before for one in moved], at)
        done = failed = unavailable = 0
        entries: list[LedgerEntry] = []
        for one, after, cost in zip(moved, looks, costs, strict=True):
            if isinstance(after, Unseen) and after.passing:
                unavailable += 1
                continue
            move = one.move
            # the answer of a move that has no entry `verifying` stands with its end
            request_id, detail = (one.request_id, one.detail) if one.after is not None else (None, "")
            wrong = self._wrong(one.before, after, move.to_class)
            if wrong or not isinstance(after, ObjectState):
                why = "; ".join(wrong)
                entries.append(self._entry(plan_id, move, MigrationState.FAILED, at, why, request_id=request_id))
                failed += 1
                continue
            entries.append(
                self._entry(
                    plan_id,
                    move,
                    MigrationState.DONE,
                    at,
                    detail,
                    request_id=request_id,
                    object_state=after,
                    cost_usd=cost,
                )
            )
            if undoes is not None and move.undoes_move_no is not None:
                entries.append(self._undone(undoes, move, plan_id, at))
            done += 1
        counts = {MigrationState.DONE.value: done, MigrationState.FAILED.value: failed}
        ended = {state: count for state, count in counts.items() if count}
        return _Came(RangeProgress(ended, 0, unavailable, None), entries)

    def _wrong(self, before: ObjectState, after: ObjectState | Unseen | None, to_class: str) -> tuple[str, ...]:
        if after is None:
            return ("the object is gone",)
        if isinstance(after, Unseen):
            return (f"it cannot be verified: {after.reason}",)
        return differences(before, after, to_class, keeps_etag=self.client.capabilities.keeps_etag)

    def _undone(self, plan_id: str, move: PlannedMove, by: str, at: datetime) -> LedgerEntry:
        """Record on the first plan that one of its moves was taken back: in the same append as that it is done."""
        assert move.undoes_move_no is not None  # noqa: S101  # asked for by the caller
        original = replace(move, move_no=move.undoes_move_no, from_class=move.to_class, to_class=move.from_class)
        return self._entry(plan_id, original, MigrationState.UNDONE, at, f"taken back by {by}")

    def _verifying(self, plan_id: str, one: _Moved, at: datetime) -> LedgerEntry:
        return self._entry(plan_id, one.move, MigrationState.VERIFYING, at, one.detail, request_id=one.request_id)

    def _entry(
        self,
        plan_id: str,
        move: PlannedMove,
        state: MigrationState,
        at: datetime,
        detail: str = "",
        *,
        request_id: str | None = None,
        object_state: ObjectState | None = None,
        cost_usd: Decimal | None = None,
    ) -> LedgerEntry:
        return ledger_entry(
            plan_id,
            move,
            state,
            at=at,
            actor=self.actor,
            detail=detail,
            request_id=request_id,
            object_state=object_state,
            cost_usd=cost_usd,
        )


def ledger_entry(
    plan_id: str,
    move: PlannedMove,
    state: MigrationState,
    *,
    at: datetime,
    actor: str,
    detail: str = "",
    request_id: str | None = None,
    object_state: ObjectState | None = None,
    cost_usd: Decimal | None = None,
) -> LedgerEntry:
    """Write what the ledger keeps of a move that enters a state."""
    return LedgerEntry(
        plan_id=plan_id,
        move_no=move.move_no,
        ref=move.ref,
        state=state,
        at=at,
        from_class=move.from_class,
        to_class=move.to_class,
        etag=move.etag if object_state is None else object_state.etag,
        size_bytes=move.size_bytes,
        detail=detail,
        request_id=request_id,
        one_time_usd=move.one_time_usd,
        expected_saving_usd=move.saving_usd,
        actor=actor,
        object_state=object_state,
        cost_usd=cost_usd,
    )


def judge_canaries(plans: PlanStore, ledger: Ledger, *, plan_id: str, actor: str, clock: Clock) -> dict[str, int]:
    """Let the rest of a plan go on only if its canaries went well: none failed, and at least one is done.

    Raises ``TerminalError``, and halts the plan, when they did not. Returns how many ended in which state.
    """
    plan = plans.get(plan_id)
    canaries: int = plan.totals.canaries
    if plan.state is PlanState.HALTED:
        raise TerminalError(f"{plan_id} was halted after its canary moves: see the plan's history")
    if not canaries:
        return {}
    states = ledger.states(plan_id, 0, canaries - 1)
    counts = Counter(state.value for state, _ in states.values())
    unsettled = canaries - sum(1 for state, _ in states.values() if state in TERMINAL_STATES)
    if unsettled:
        what = f"{unsettled} of {canaries} canary moves are unsettled"
        if clock() >= plan.expires_at:
            raise TerminalError(f"{plan_id} expired, and {what}: nothing of it begins to move any more")
        raise TerminalError(f"{plan_id}: {what}: clear their tasks to go on")
    if counts[MigrationState.FAILED] or not counts[MigrationState.DONE]:
        why = next(
            (detail for state, detail in states.values() if state is MigrationState.FAILED), "none of them is done"
        )
        note = f"of {canaries} canary moves {dict(counts)}: {why}"
        plans.set_state(plan_id, PlanState.HALTED, actor, clock(), note)
        raise TerminalError(f"{plan_id} is halted, the rest of it does not move: {note}")
    return dict(counts)


def close(plans: PlanStore, ledger: Ledger, *, plan_id: str, actor: str, clock: Clock) -> dict[str, int]:
    """Settle a plan: finished, or halted or expired with the moves cancelled that never began.

    Raises ``TerminalError`` when a move of a plan that is still good is neither done, failed nor skipped. Returns how
    many moves ended in which state.
    """
    plan = plans.get(plan_id)
    expired = plan.state is PlanState.APPROVED and clock() >= plan.expires_at
    counts: Counter[str] = Counter()
    objects: int = plan.totals.objects
    for first, last in _steps(0, objects - 1):
        states = ledger.states(plan_id, first, last)
        if expired or plan.state is PlanState.HALTED:
            why = "the plan expired" if expired else "the plan was halted"
            never_begun = [move for move in plans.moves(plan_id, first, last) if move.move_no not in states]
            ledger.append(
                [
                    ledger_entry(plan_id, move, MigrationState.CANCELLED, at=clock(), actor=actor, detail=why)
                    for move in never_begun
                ]
            )
            counts[MigrationState.CANCELLED] += len(never_begun)
        counts.update(state.value for state, _ in states.values())
    unsettled = objects - sum(counts[state] for state in TERMINAL_STATES)
    if unsettled:
        raise TerminalError(
            f"{plan_id}: {unsettled} of {objects} moves are unsettled ({_shown(counts)}): "
            "clear the failed tasks to go on"
        )
    if plan.state is PlanState.APPROVED:
        plans.set_state(plan_id, PlanState.EXPIRED if expired else PlanState.FINISHED, actor, clock())
    return {state: count for state, count in counts.items() if count}


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()) if count) or "none begun"


def _steps(first: int, last: int, moves: int = STEP_MOVES) -> Iterator[tuple[int, int]]:
    for start in range(first, last + 1, moves):
        yield start, min(start + moves - 1, last)


def _state_of(states: Mapping[int, tuple[MigrationState, str]], move: PlannedMove) -> MigrationState:
    state, _ = states.get(move.move_no, (MigrationState.PLANNED, ""))
    return state
