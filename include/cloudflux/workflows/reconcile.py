"""Compare the ledger with the buckets, move by move, and bring the ledger up to what the buckets show.

Nothing is ever moved here. The ledger is only ever added to, and only where the bucket proves what happened: a move
that was carried out by a process that died before it could say so is verified and recorded. What contradicts the
ledger is reported, loudly, and left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from cloudflux.domain.migrations import ChangeOutcome, MigrationState, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import MoveRole, PlannedMove, PlanState
from cloudflux.domain.uploads import LeftUpload
from cloudflux.domain.verification import differences, same_content
from cloudflux.workflows.migrate import Mover, ledger_entry

STEP_MOVES: Final = 1000

LastMoves = Callable[[Sequence[ObjectRef]], Mapping[ObjectRef, tuple[str, str]]]
"""Tells which plan moved each object last, and to which class; one that none moved is left out."""

_LOOKS: Final = 3
"""How often a move is looked at that changes meanwhile, before it counts as open: somebody is at work on it."""


class Standing(StrEnum):
    """How the ledger and the bucket stand to one another on one move."""

    AGREES = "agrees"
    OPEN = "open"  # under way, and not moved: the run goes on with it, or settles it, when its task is repeated
    BEHIND = "behind"  # the bucket shows what the ledger does not say yet: repairing records it
    REPAIRED = "repaired"
    CHANGED = "changed since"  # somebody else changed, moved or deleted the object afterwards: no fault of ours
    UNSEEN = "unseen"  # it cannot be looked at: nothing is proved
    DISAGREES = "disagrees"


PROVED: Final = frozenset({Standing.AGREES, Standing.OPEN, Standing.REPAIRED, Standing.CHANGED})
"""The standings in which the ledger says nothing that the bucket contradicts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one move."""

    plan_id: str
    move_no: int
    ref: ObjectRef
    state: MigrationState
    """The ledger's, when the bucket was looked at."""
    from_class: str
    to_class: str
    standing: Standing
    now_class: str | None = None
    """Where the object is now; None when it is gone, or cannot be looked at."""
    detail: str = ""
    leftover: str = ""
    """What a finished move left behind on the object; empty when nothing."""


@dataclass(slots=True)
class RangeReport:
    """What was found of a range of moves: every standing counted, and all that is worth a line."""

    counts: Counter[Standing] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    leftovers: int = 0
    uploads: list[LeftUpload] = field(default_factory=list)
    """Copies in parts that killed workers left in the bucket."""
    uploads_problem: str = ""
    """Why these could not be looked for, or not be aborted."""

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it unless all is well with it."""
        self.counts[finding.standing] += 1
        self.leftovers += bool(finding.leftover)
        if finding.leftover or finding.standing is not Standing.AGREES:
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class RangeFound:
    """What was found of one range of a plan's moves, all of one bucket."""

    plan_id: str
    provider: str
    bucket: str
    first: int
    last: int
    report: RangeReport | None
    """None when the range could not be looked at."""
    problem: str = ""
    """Why it could not be looked at, or not be repaired now."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares moves with objects. ``mover`` brings the client, the stores, the clock and the name of who repairs."""

    mover: Mover
    left: Callable[[str, int, int], Mapping[int, ObjectState]]
    """The ledger's record of what each object of a range of moves was after its move."""
    last_moves: LastMoves = lambda _: {}
    our_tags: Collection[str] = ()
    """Names of tags that moves put on objects, and take off again."""

    def compare(self, plan_id: str, first: int, last: int, *, repair: bool = False) -> RangeReport:
        """Compare the moves ``first`` to ``last`` of a plan with their objects.

        ``repair`` records what the bucket proves; the caller then holds the range, so that nobody is at work on it.
        Raises what ends a whole range (see ``TierClient``).
        """
        report = RangeReport()
        for start in range(first, last + 1, STEP_MOVES):
            for finding in self._step(plan_id, start, min(start + STEP_MOVES - 1, last), repair=repair):
                report.add(finding)
        return report

    def _step(self, plan_id: str, first: int, last: int, *, repair: bool) -> Iterator[Finding]:
        plan = self.mover.plans.get(plan_id)
        moves = [move for move in self.mover.plans.moves(plan_id, first, last) if move.role is not MoveRole.HOLD_OUT]
        found = self._look(plan, moves, first, last)
        if repair:
            behind = [move for move in moves if found[move.move_no].standing is Standing.BEHIND]
            if behind:
                self._repair(plan, behind, found)
                again = self._look(plan, behind, first, last)
                for move in behind:
                    found[move.move_no] = _after_repair(found[move.move_no], again[move.move_no])
        yield from (found[move.move_no] for move in moves)

    def _look(self, plan: Any, moves: Sequence[PlannedMove], first: int, last: int) -> dict[int, Finding]:
        """Compare, and look again at what somebody may have been at work on while we looked."""
        found: dict[int, Finding] = {}
        states = self._states(plan.plan_id, first, last)
        waiting = list(moves)
        for _ in range(_LOOKS):
            for finding in self._findings(plan, waiting, states, first, last):
                found[finding.move_no] = finding
            before, states = states, self._states(plan.plan_id, first, last)
            waiting = [
                move
                for move in waiting
                if found[move.move_no].standing is not Standing.AGREES
                and states.get(move.move_no) != before.get(move.move_no)
            ]
            if not waiting:
                break
        for move in waiting:
            found[move.move_no] = replace(
                found[move.move_no], standing=Standing.OPEN, detail="somebody is at work on it just now"
            )
        return self._explained(found)

    def _states(self, plan_id: str, first: int, last: int) -> Mapping[int, tuple[MigrationState, str]]:
        return self.mover.ledger.states(plan_id, first, last)

    def _findings(
        self,
        plan: Any,
        moves: Sequence[PlannedMove],
        states: Mapping[int, tuple[MigrationState, str]],
        first: int,
        last: int,
    ) -> Iterator[Finding]:
        seen = self.mover.ledger.seen(plan.plan_id, first, last)
        left = self.left(plan.plan_id, first, last)
        looks = self.mover.client.head_many([move.ref for move in moves])
        for move, now in zip(moves, looks, strict=True):
            state, _ = states.get(move.move_no, (MigrationState.PLANNED, ""))
            finding = Finding(
                plan.plan_id, move.move_no, move.ref, state, move.from_class, move.to_class, Standing.AGREES
            )
            if isinstance(now, Unseen):
                yield replace(finding, standing=Standing.UNSEEN, detail=now.reason)
                continue
            ours = sorted(name for name in (now.tags if now else ()) if name in self.our_tags)
            standing, detail = self._standing(
                plan,
                move,
                state,
                before=seen.get(move.move_no),
                after=left.get(move.move_no),
                now=now and replace(now, tags={tag: value for tag, value in now.tags.items() if tag not in ours}),
            )
            leftover = f"our tag {', '.join(ours)} is left on it" if ours and state not in _UNDER_WAY else ""
            now_class = None if now is None else now.storage_class
            yield replace(finding, standing=standing, now_class=now_class, detail=detail, leftover=leftover)

    def _standing(
        self,
        plan: Any,
        move: PlannedMove,
        state: MigrationState,
        *,
        before: ObjectState | None,
        after: ObjectState | None,
        now: ObjectState | None,
    ) -> tuple[Standing, str]:
        if state is MigrationState.DONE:
            standing = _done(move, before, after, now)
        elif state is MigrationState.UNDONE:
            standing = _undone(move, after, now)
        elif before is None:
            standing = _never_moved(move, now)
        elif state in _UNDER_WAY:
            standing = self._under_way(plan, move, state, before, now)
        elif now is not None and not self._differences(before, now, move):
            behind = state is MigrationState.FAILED
            why = "it did move, and it is intact"
            standing = (Standing.BEHIND, why) if behind else (Standing.DISAGREES, f"it is {state}, but {why}")
        elif state is MigrationState.FAILED:
            standing = Standing.AGREES, ""  # how it failed stands in the ledger
        else:
            standing = _never_moved(move, now)
        return standing

    def _under_way(
        self, plan: Any, move: PlannedMove, state: MigrationState, before: ObjectState, now: ObjectState | None
    ) -> tuple[Standing, str]:
        wrong = ("the object is gone",) if now is None else self._differences(before, now, move)
        if not wrong:
            return Standing.BEHIND, "it moved, and the ledger does not say so yet"
        if state is MigrationState.VERIFYING:
            return Standing.BEHIND, "; ".join(wrong)
        reason = _overtaken(before, now, move)
        if reason is None:
            return Standing.OPEN, "it has not moved yet"
        # of a plan that is still good the run itself records why the move is off
        return (Standing.OPEN if plan.state is PlanState.APPROVED else Standing.BEHIND), reason

    def _differences(self, before: ObjectState, now: ObjectState, move: PlannedMove) -> tuple[str, ...]:
        return differences(before, now, move.to_class, keeps_etag=self.mover.client.capabilities.keeps_etag)

    def _explained(self, found: dict[int, Finding]) -> dict[int, Finding]:
        """Say of which objects another plan moved them last: what it did is no contradiction to this one."""
        odd = [
            finding
            for finding in found.values()
            if finding.standing in (Standing.CHANGED, Standing.DISAGREES)
            or (finding.standing is Standing.BEHIND and finding.state is MigrationState.FAILED)
        ]
        moved = self.last_moves([_named(finding.ref) for finding in odd]) if odd else {}
        for finding in odd:
            by, to_class = moved.get(_named(finding.ref), (finding.plan_id, ""))
            if by != finding.plan_id and to_class == finding.now_class:
                found[finding.move_no] = replace(finding, standing=Standing.CHANGED, detail=f"moved on by {by}")
        return found

    def _repair(self, plan: Any, moves: Sequence[PlannedMove], found: Mapping[int, Finding]) -> None:
        """Record what the bucket proves, and let the client tidy up what a killed attempt left behind."""
        mover = self.mover
        first, last = moves[0].move_no, moves[-1].move_no
        seen = mover.ledger.seen(plan.plan_id, first, last)
        looks = mover.client.head_many([move.ref for move in moves])
        moved: list[tuple[PlannedMove, TierChange]] = []
        for move, now in zip(moves, looks, strict=True):
            finding = found[move.move_no]
            if finding.state is MigrationState.VERIFYING or isinstance(now, Unseen):
                continue
            if now is not None and now.storage_class == move.to_class:
                # nothing is moved: the object is there, and the change is bound to it as it was just seen
                moved.append((move, TierChange(seen[move.move_no], move.to_class, now)))
            elif finding.state is not MigrationState.FAILED:
                self._record(plan, move, MigrationState.SKIPPED, finding.detail)
        tidied = [
            move
            for (move, _), result in zip(moved, mover.client.change_tiers([change for _, change in moved]), strict=True)
            if result.outcome is ChangeOutcome.CHANGED
        ]
        for move in tidied:
            if found[move.move_no].state is not MigrationState.FAILED:
                self._record(plan, move, MigrationState.VERIFYING, "the bucket shows that it moved")
        mover.verify(plan.plan_id, first, last)
        self._settle_failed(plan, [move for move in tidied if found[move.move_no].state is MigrationState.FAILED], seen)

    def _settle_failed(self, plan: Any, moves: Sequence[PlannedMove], seen: Mapping[int, ObjectState]) -> None:
        """Record as done what failed in the ledger and did move all the same."""
        mover = self.mover
        costs = mover.costs_of(moves, [seen[move.move_no] for move in moves], mover.clock())
        looks = mover.client.head_many([move.ref for move in moves])
        entries = []
        for move, now, cost in zip(moves, looks, costs, strict=True):
            if not isinstance(now, ObjectState) or self._differences(seen[move.move_no], now, move):
                continue
            entries.append(
                ledger_entry(
                    plan.plan_id,
                    move,
                    MigrationState.DONE,
                    at=mover.clock(),
                    actor=mover.actor,
                    detail="the bucket shows that it moved",
                    object_state=now,
                    cost_usd=cost,
                )
            )
            if plan.undoes is not None and move.undoes_move_no is not None:
                taken_back = replace(
                    move, move_no=move.undoes_move_no, from_class=move.to_class, to_class=move.from_class
                )
                entries.append(
                    ledger_entry(
                        plan.undoes,
                        taken_back,
                        MigrationState.UNDONE,
                        at=mover.clock(),
                        actor=mover.actor,
                        detail=f"taken back by {plan.plan_id}",
                    )
                )
        mover.ledger.append(entries)

    def _record(self, plan: Any, move: PlannedMove, state: MigrationState, detail: str) -> None:
        mover = self.mover
        mover.ledger.append(
            [ledger_entry(plan.plan_id, move, state, at=mover.clock(), actor=mover.actor, detail=detail)]
        )


_UNDER_WAY: Final = frozenset({MigrationState.SUBMITTED, MigrationState.RESTORING, MigrationState.VERIFYING})


def _after_repair(before: Finding, after: Finding) -> Finding:
    if after.state is before.state:
        return after  # it could not be repaired now
    if after.standing in (Standing.DISAGREES, Standing.BEHIND, Standing.UNSEEN):
        return after
    return replace(before, standing=Standing.REPAIRED, detail=f"{before.detail}: recorded as {after.state}")


def _done(
    move: PlannedMove, before: ObjectState | None, after: ObjectState | None, now: ObjectState | None
) -> tuple[Standing, str]:
    if now is None:
        return Standing.CHANGED, "deleted after its move"
    same = after is None or _is_same_content(after, now)  # an earlier release did not keep what it left
    if now.storage_class == move.to_class and same:
        return Standing.AGREES, ""
    if before is not None and _is_untouched(before, now):
        return Standing.DISAGREES, f"it never moved: it is in {now.storage_class}, as it was before"
    return Standing.CHANGED, f"moved to {now.storage_class} after its move" if same else "overwritten after its move"


def _undone(move: PlannedMove, after: ObjectState | None, now: ObjectState | None) -> tuple[Standing, str]:
    if now is None:
        return Standing.CHANGED, "deleted after its move was taken back"
    if now.storage_class == move.from_class:
        return Standing.AGREES, ""
    if after is not None and _is_untouched(after, now):
        return Standing.DISAGREES, f"it was not taken back: it is in {now.storage_class}, as its move left it"
    return Standing.CHANGED, f"its class is {now.storage_class} now"


def _never_moved(move: PlannedMove, now: ObjectState | None) -> tuple[Standing, str]:
    """Judge a move that was never attempted: whatever happened to the object, it was not this plan."""
    if now is None:
        return Standing.CHANGED, "deleted since the plan"
    if now.etag != move.etag or now.size_bytes != move.size_bytes:
        return Standing.CHANGED, "overwritten since the plan"
    if now.storage_class != move.from_class:
        return Standing.CHANGED, f"its class became {now.storage_class} since the plan"
    return Standing.AGREES, ""


def _overtaken(before: ObjectState, now: ObjectState | None, move: PlannedMove) -> str | None:
    """Tell what happened to an object under way, so that its move is off; None when it can still go on."""
    if now is None:
        return "deleted since the plan"
    if not _is_same_content(before, now):
        return "overwritten since the plan"
    if now.storage_class not in (move.from_class, move.to_class):
        return f"its class became {now.storage_class} since the plan"
    return None


def _is_same_content(one: ObjectState, other: ObjectState) -> bool:
    same = same_content(one, other)
    return one.etag == other.etag if same is None else same and one.size_bytes == other.size_bytes


def _is_untouched(one: ObjectState, other: ObjectState) -> bool:
    """Tell whether nobody even moved an object between two looks: every provider shows a move by one of these."""
    return (
        one.storage_class == other.storage_class
        and one.etag == other.etag
        and one.last_modified_at == other.last_modified_at
        and one.class_since_at == other.class_since_at
        and (one.ref.version_id is None or one.ref.version_id == other.ref.version_id)
    )


def _named(ref: ObjectRef) -> ObjectRef:
    return replace(ref, version_id=None)
