"""Carry out an approved plan: submit, verify, and put every step on the record.

Both steps may be killed and repeated at any moment. What an object was like before its move is written to the ledger
before the move is submitted, so that a later attempt can still verify against it; the ledger decides what is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import TERMINAL_STATES, ChangeOutcome, MigrationState, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import PlannedMove, PlanState
from cloudflux.domain.verification import differences

_UNSUBMITTED = (MigrationState.PLANNED, MigrationState.SUBMITTED)

_STATE_AFTER: Mapping[ChangeOutcome, tuple[MigrationState, str]] = {
    ChangeOutcome.CHANGED: (MigrationState.VERIFYING, ""),
    ChangeOutcome.RESTORING: (MigrationState.RESTORING, ""),
    ChangeOutcome.NOT_FOUND: (MigrationState.SKIPPED, "deleted since the plan"),
    ChangeOutcome.CONFLICT: (MigrationState.SKIPPED, "overwritten since the plan"),
    ChangeOutcome.LOCKED: (MigrationState.SKIPPED, "locked"),
    ChangeOutcome.ERROR: (MigrationState.FAILED, "the provider refused the change"),
}


class Capabilities(Protocol):
    """What verification needs to know of a provider."""

    @property
    def keeps_etag(self) -> bool:
        """Whether an object's ETag survives a change of class."""


class TierClient(Protocol):
    """The part of a provider's client that moves need."""

    @property
    def capabilities(self) -> Any:
        """What the provider can do."""

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | None]:
        """Look at many objects at once, in order; None for one that is not there."""

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Submit changes, each conditional on what was seen; one result for each, in order."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def moves(self, plan_id: str, first: int, last: int) -> Sequence[PlannedMove]:
        """Give a range of a plan's moves, both ends included."""

    def state(self, plan_id: str) -> PlanState:
        """Tell where the plan stands."""

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

    def seen(self, plan_id: str, first: int | None = None, last: int | None = None) -> Mapping[int, str]:
        """Give the details of all ``submitted`` entries: what each object was like before its move, as JSON."""


Clock = Callable[[], datetime]


def submit(
    client: TierClient,
    plans: PlanStore,
    ledger: Ledger,
    *,
    plan_id: str,
    first: int,
    last: int,
    actor: str,
    clock: Clock,
) -> dict[str, int]:
    """Submit the moves ``first`` to ``last`` of an approved plan, as far as the ledger does not know better.

    Raises ``TerminalError`` when the plan is not approved. Returns how many moves ended in which state.
    """
    if plans.state(plan_id) is not PlanState.APPROVED:
        raise TerminalError(f"{plan_id} is not approved: nothing is moved")
    states = ledger.states(plan_id, first, last)
    seen = ledger.seen(plan_id, first, last)
    pending = [move for move in plans.moves(plan_id, first, last) if _state_of(states, move) in _UNSUBMITTED]
    counts: Counter[str] = Counter()
    changes: list[tuple[PlannedMove, TierChange]] = []
    intents: list[LedgerEntry] = []
    for move, now_seen in zip(pending, client.head_many([move.ref for move in pending]), strict=True):
        before = _from_json(seen[move.move_no], move) if move.move_no in seen else now_seen
        reason = _reason_to_skip(move, now_seen, attempted=move.move_no in seen)
        if reason is not None or before is None or now_seen is None:
            intents.append(_entry(plan_id, move, MigrationState.SKIPPED, clock(), actor, detail=reason or "not seen"))
            counts[MigrationState.SKIPPED] += 1
            continue
        if move.move_no not in seen:
            intents.append(_entry(plan_id, move, MigrationState.SUBMITTED, clock(), actor, detail=_to_json(before)))
        changes.append((move, TierChange(now_seen, move.to_class)))
    ledger.append(intents)  # on the record before anything moves
    results = client.change_tiers([change for _, change in changes])
    outcomes: list[LedgerEntry] = []
    for (move, _), result in zip(changes, results, strict=True):
        state, reason = _STATE_AFTER[result.outcome]
        detail = ": ".join(part for part in (reason, result.detail) if part)
        outcomes.append(_entry(plan_id, move, state, clock(), actor, detail=detail, request_id=result.request_id))
        counts[state] += 1
    ledger.append(outcomes)
    return dict(counts)


def verify(
    client: TierClient,
    plans: PlanStore,
    ledger: Ledger,
    *,
    plan_id: str,
    first: int,
    last: int,
    actor: str,
    clock: Clock,
) -> dict[str, int]:
    """Compare every submitted object with what it was before; only an equal one in its new class is ``done``.

    Returns how many moves ended in which state.
    """
    states = ledger.states(plan_id, first, last)
    seen = ledger.seen(plan_id, first, last)
    pending = [
        move for move in plans.moves(plan_id, first, last) if _state_of(states, move) is MigrationState.VERIFYING
    ]
    counts: Counter[str] = Counter()
    entries = []
    for move, after in zip(pending, client.head_many([move.ref for move in pending]), strict=True):
        before = _from_json(seen[move.move_no], move)
        if after is None:
            wrong: tuple[str, ...] = ("the object is gone",)
        else:
            wrong = differences(before, after, move.to_class, keeps_etag=client.capabilities.keeps_etag)
        state = MigrationState.FAILED if wrong else MigrationState.DONE
        entries.append(_entry(plan_id, move, state, clock(), actor, detail="; ".join(wrong)))
        counts[state] += 1
    ledger.append(entries)
    return dict(counts)


def close(plans: PlanStore, ledger: Ledger, *, plan_id: str, moves: int, actor: str, clock: Clock) -> dict[str, int]:
    """Finish an executed plan.

    Raises ``TerminalError`` when a move is neither done, failed nor skipped. Returns how many ended in which state.
    """
    states = ledger.states(plan_id)
    counts = Counter(state.value for state, _ in states.values())
    unsettled = moves - sum(1 for state, _ in states.values() if state in TERMINAL_STATES)
    if unsettled:
        raise TerminalError(
            f"{plan_id}: {unsettled} of {moves} moves are unsettled ({dict(counts)}): clear the failed tasks to go on"
        )
    plans.set_state(plan_id, PlanState.FINISHED, actor, clock())
    return dict(counts)


def _state_of(states: Mapping[int, tuple[MigrationState, str]], move: PlannedMove) -> MigrationState:
    state, _ = states.get(move.move_no, (MigrationState.PLANNED, ""))
    return state


def _reason_to_skip(move: PlannedMove, now_seen: ObjectState | None, *, attempted: bool) -> str | None:
    if now_seen is None:
        return "deleted since the plan"
    if attempted and now_seen.storage_class == move.to_class:
        return None  # the attempt that was cut off moved it: verification decides
    if now_seen.etag != move.etag or now_seen.size_bytes != move.size_bytes:
        return "overwritten since the plan"
    if now_seen.lock_reason is not None:
        return f"locked: {now_seen.lock_reason}"
    if now_seen.storage_class != move.from_class:
        return f"its class became {now_seen.storage_class} since the plan"
    return None


def _entry(
    plan_id: str,
    move: PlannedMove,
    state: MigrationState,
    at: datetime,
    actor: str,
    *,
    detail: str = "",
    request_id: str | None = None,
) -> LedgerEntry:
    return LedgerEntry(
        plan_id=plan_id,
        move_no=move.move_no,
        ref=move.ref,
        state=state,
        at=at,
        from_class=move.from_class,
        to_class=move.to_class,
        etag=move.etag,
        size_bytes=move.size_bytes,
        detail=detail,
        request_id=request_id,
        one_time_usd=move.one_time_usd,
        expected_saving_usd=move.saving_usd,
        actor=actor,
    )


def _to_json(state: ObjectState) -> str:
    return json.dumps(
        {
            "size_bytes": state.size_bytes,
            "storage_class": state.storage_class,
            "etag": state.etag,
            "last_modified_at": state.last_modified_at.isoformat(),
            "class_since_at": state.class_since_at.isoformat(),
            "content_type": state.content_type,
            "checksum": state.checksum,
            "metadata": dict(state.metadata),
            "tags": dict(state.tags),
            "headers": None if state.headers is None else dict(state.headers),
        },
        sort_keys=True,
    )


def _from_json(text: str, move: PlannedMove) -> ObjectState:
    content = json.loads(text)
    for name in ("last_modified_at", "class_since_at"):
        content[name] = datetime.fromisoformat(content[name])
    return ObjectState(ref=move.ref, **content)
