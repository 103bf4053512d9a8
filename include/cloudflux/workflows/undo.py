"""Take moves back: a plan of its own, whose cost is stated before anything moves, as any other plan's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.costs import usd
from cloudflux.domain.errors import TerminalError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectPrefix, ObjectRef
from cloudflux.domain.plans import (
    Guardrails,
    MigrationPlan,
    MoveRole,
    PlanKind,
    PlanState,
    PlanTotals,
    leaves_for_good,
)
from cloudflux.domain.prices import MONTH_DAYS
from cloudflux.domain.undo import DoneMove
from cloudflux.workflows.caps import fitting
from cloudflux.workflows.job_fees import TermsOf, add_fees
from cloudflux.workflows.plan import check_guardrails, first_state, plan_id_of
from cloudflux.workflows.planned_moves import PLANNED_MOVES
from cloudflux.workflows.sorted_spool import SortedSpool
from cloudflux.workflows.undo_costs import PricesOf, in_class_since, undo_usd
from cloudflux.workflows.undo_rows import Flags, UndoRows

_STEP_MOVES: Final = 5_000
_USD_PLACES: Final = 10

_AT: Final = pa.timestamp("us", tz="UTC")
_COLUMNS: Final = pa.schema(
    [
        ("provider", pa.string()),
        ("bucket", pa.string()),
        ("key", pa.string()),
        ("version_id", pa.string()),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("last_modified_at", _AT),
        ("class_since_at", _AT),
        ("current_class", pa.string()),
        ("chosen_class", pa.string()),
        ("saving_usd", pa.float64()),
        ("one_time_usd", pa.float64()),
        ("monthly_saving_usd", pa.float64()),
        ("payback_days", pa.float64()),
        ("undoes_move_no", pa.int64()),
    ]
)

_BY_OBJECT: Final = ["provider", "bucket", "key"]


class UndoRefused(TerminalError):
    """There is nothing that could be taken back, or not all of it within the caps; the text says why."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> Any:
        """Give a ``MigrationPlan`` with its ``state``. Raises a ``LookupError``."""

    def add(self, plan: MigrationPlan, moves: Iterable[pa.Table], state: PlanState) -> bool:
        """Store a plan once, its moves in parts; the same ``plan_id`` again changes nothing."""


class DoneMoveSource(Protocol):
    """What the ledger knows to be done and not taken back."""

    def of_plan(self, plan_id: str, first: int, last: int) -> Sequence[DoneMove]:
        """Give those of a plan with numbers in a range, both ends included."""

    def of_object(self, ref: ObjectRef) -> DoneMove | None:
        """Give the newest of an object that no undo made."""


class Ledger(Protocol):
    """The part of the ledger that is needed."""

    def counts(self, plan_id: str) -> Mapping[MigrationState, int]:
        """Count a plan's moves by their newest state."""


@dataclass(frozen=True, slots=True)
class UndoProposal:
    """A plan that takes moves back, and what it leaves as it is."""

    plan: MigrationPlan
    left_out: Mapping[str, int]
    """How many moves are not taken back, by the reason."""


def propose_undo(
    plans: PlanStore,
    ledger: Ledger,
    done_moves: DoneMoveSource,
    prices_of: PricesOf,
    *,
    target: str,
    run_id: str,
    created_at: datetime,
    guardrails: Guardrails,
    dry_run: bool,
    what_fits: bool = False,
) -> UndoProposal:
    """Build the plan that takes the moves of ``target`` back, and store it before anything moves.

    ``target`` is a plan's id, or an object's address for the newest move of that object. ``what_fits`` takes back as
    many moves as the caps allow; otherwise an undo that breaks a cap is refused as a whole. Raises ``UndoRefused``
    saying what is wrong, ``SettingsError`` naming a guardrail or a bucket.
    """
    with SortedSpool(_COLUMNS, _BY_OBJECT) as spool:
        proposal, moves = _built(
            spool,
            _Sources(plans, ledger, done_moves, prices_of),
            target=target,
            run_id=run_id,
            created_at=created_at,
            guardrails=guardrails,
            dry_run=dry_run,
            what_fits=what_fits,
        )
        plans.add(proposal.plan, moves, first_state(proposal.plan))
    return proposal


def preview_undo(
    plans: PlanStore,
    ledger: Ledger,
    done_moves: DoneMoveSource,
    prices_of: PricesOf,
    *,
    target: str,
    created_at: datetime,
    guardrails: Guardrails,
) -> UndoProposal:
    """Choose the moves that take back those of ``target``; store nothing. See ``propose_undo``."""
    with SortedSpool(_COLUMNS, _BY_OBJECT) as spool:
        proposal, _ = _built(
            spool,
            _Sources(plans, ledger, done_moves, prices_of),
            target=target,
            run_id="preview",
            created_at=created_at,
            guardrails=guardrails,
            dry_run=True,
        )
    return proposal


@dataclass(frozen=True, slots=True)
class _Sources:
    """What tells of plans, moves and prices."""

    plans: PlanStore
    ledger: Ledger
    done_moves: DoneMoveSource
    prices_of: PricesOf


def _built(
    spool: SortedSpool,
    sources: _Sources,
    *,
    target: str,
    run_id: str,
    created_at: datetime,
    guardrails: Guardrails,
    dry_run: bool,
    what_fits: bool = False,
) -> tuple[UndoProposal, Iterator[pa.Table]]:
    """Choose the moves; gives the plan and, as long as the spool is open, its moves as ``PLANNED_MOVES`` in parts.

    What a move costs is computed for the object as it was left: the copy, retrieval by the restore that will be asked
    for, and the early deletion that its present class is still owed at ``created_at``. The least costly come first
    under the caps. The ledger is read in steps, what they come to lies on disk: memory holds some numbers of each move.
    """
    check_guardrails(guardrails)
    undone, batches = _found(sources.plans, sources.done_moves, target)
    left_out: Counter[str] = Counter()
    # one object's undo says nothing of the other moves of its plan
    if "://" not in target and (taken_back := sources.ledger.counts(undone.plan_id).get(MigrationState.UNDONE, 0)):
        left_out["taken back already"] = taken_back
    found = 0
    saved_month = 0.0
    for batch in batches:
        found += len(batch)
        saved_month += float(sum(done.move.monthly_saving_usd for done in batch))
        wanted = []
        for done in batch:
            reason = _reason_to_leave_out(done, guardrails)
            if reason is None:
                wanted.append(done)
            else:
                left_out[reason] += 1
        spool.add(_columns(wanted, sources.prices_of, undone.horizon_days, created_at))
    rows = UndoRows.of(spool.in_order())
    if not len(rows):
        raise UndoRefused(_nothing(target, undone, left_out))
    most = int(rows.undoes_move_no.max()) + 1
    rows, beyond = _affordable(
        rows,
        guardrails,
        lambda provider, bucket: sources.prices_of(provider, bucket).jobs,
        what_fits=what_fits,
        target=target,
    )
    if beyond:
        left_out["beyond the caps of one plan"] = beyond
    before = float(undone.totals.before_usd_month) - saved_month
    plan = MigrationPlan(
        plan_id=plan_id_of(run_id),
        run_id=run_id,
        created_at=created_at,
        expires_at=created_at + timedelta(days=guardrails.valid_days),
        decisions_day=undone.decisions_day,
        horizon_days=undone.horizon_days,
        dry_run=dry_run,
        guardrails=guardrails,
        totals=PlanTotals(
            objects=len(rows),
            bytes=int(rows.size_bytes.sum()),
            saving_usd=usd(float(rows.saving_usd.sum()), _USD_PLACES),
            one_time_usd=usd(float(rows.one_time_usd.sum()), _USD_PLACES),
            before_usd_month=usd(before, _USD_PLACES),
            after_usd_month=usd(before - float(rows.monthly_saving_usd.sum()), _USD_PLACES),
            scored_objects=found,
            left_out=sum(left_out.values()),
            canaries=int(rows.first.sum()),
        ),
        groups=rows.plan_groups(),
        kind=PlanKind.UNDO,
        undoes=undone.plan_id,
    )
    return UndoProposal(plan, dict(left_out)), _planned(spool, rows, most, undone.plan_id)


def describe_left_out(proposal: UndoProposal) -> str:
    """Say which moves are not taken back, and why; empty when all are."""
    return "; ".join(f"{count:,} left as they are: {reason}" for reason, count in proposal.left_out.items())


def _found(plans: PlanStore, done_moves: DoneMoveSource, target: str) -> tuple[Any, Iterator[Sequence[DoneMove]]]:
    """Give the plan whose moves are meant, and its moves that are done, in steps."""
    if "://" in target:
        try:
            ref = ObjectRef.from_uri(target)
        except ValueError as exc:
            raise UndoRefused(str(exc)) from exc
        newest = done_moves.of_object(ref)
        if newest is None:
            raise UndoRefused(f"nothing to take back: the ledger knows no move of {ref.uri} that is done")
        return plans.get(newest.plan_id), iter([[newest]])
    try:
        undone = plans.get(target)
    except LookupError as exc:
        raise UndoRefused(f"{exc}; ./cloudflux plans lists them") from exc
    if undone.dry_run:
        raise UndoRefused(f"nothing to take back: {target} was a dry run, it moved nothing")
    # a plan's canaries and other moves come first; what is held out never moves
    steps = range(0, undone.totals.objects, _STEP_MOVES)
    return undone, (done_moves.of_plan(target, start, start + _STEP_MOVES - 1) for start in steps)


def _nothing(target: str, undone: Any, left_out: Mapping[str, int]) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return f"nothing to take back of {target}: " + (why or f"none of its moves is done, it is {undone.state}")


def _reason_to_leave_out(done: DoneMove, guardrails: Guardrails) -> str | None:
    if done.moved_on_by is not None:
        return f"moved on by {done.moved_on_by}"
    if leaves_for_good(done.move.ref.provider, done.move.from_class):
        return "out of smart tier for good: nothing can go back into it"
    if guardrails.allowed_prefixes and not _is_below(done.move.ref, guardrails.allowed_prefixes):
        return "outside of allowed_prefixes"
    if _is_below(done.move.ref, guardrails.excluded_prefixes):
        return "below excluded_prefixes"
    return None


def _is_below(ref: ObjectRef, uris: Sequence[str]) -> bool:
    prefixes = (ObjectPrefix.from_uri(uri) for uri in uris)
    return any(
        (ref.provider, ref.bucket) == (prefix.provider, prefix.bucket) and ref.key.startswith(prefix.prefix)
        for prefix in prefixes
    )


def _columns(moves: Sequence[DoneMove], prices_of: PricesOf, horizon_days: int, at: datetime) -> pa.Table:
    """Give the moves that take moves back as columns, with what they cost and give up."""
    costs = undo_usd(moves, prices_of, at)
    monthly = [-float(done.move.monthly_saving_usd) for done in moves]
    columns = {
        "provider": [done.move.ref.provider.value for done in moves],
        "bucket": [done.move.ref.bucket for done in moves],
        "key": [done.move.ref.key for done in moves],
        "version_id": [done.left.ref.version_id for done in moves],
        "etag": [done.left.etag for done in moves],
        "size_bytes": [done.left.size_bytes for done in moves],
        "last_modified_at": [done.left.last_modified_at for done in moves],
        "class_since_at": [in_class_since(done) for done in moves],
        "current_class": [done.move.to_class for done in moves],
        "chosen_class": [done.move.from_class for done in moves],
        "saving_usd": [gain * horizon_days / MONTH_DAYS - cost for gain, cost in zip(monthly, costs, strict=True)],
        "one_time_usd": costs,
        "monthly_saving_usd": monthly,
        "payback_days": [None] * len(moves),
        "undoes_move_no": [done.move.move_no for done in moves],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in _COLUMNS}, schema=_COLUMNS)


def _affordable(
    rows: UndoRows, guardrails: Guardrails, terms_of: TermsOf, *, what_fits: bool, target: str
) -> tuple[UndoRows, int]:
    """Give the rows within the caps with what S3's jobs cost for them, and how many are beyond them.

    With every move that is left out the others bear more of their job, so that it is looked at again until all fit.
    """
    left_out = 0
    while True:
        rows = rows.with_canaries(guardrails.canary_share).with_fees(terms_of)
        fits = _within_caps(rows, guardrails, what_fits=what_fits, target=target)
        beyond = int((~fits).sum())
        if not beyond:
            return rows, left_out
        left_out += beyond
        rows = rows.only(fits)


def _within_caps(rows: UndoRows, guardrails: Guardrails, *, what_fits: bool, target: str) -> Flags:
    """Tell which rows are within the caps, the least costly first. Raises ``UndoRefused`` when not all are to."""
    cheapest = np.argsort(rows.one_time_usd, kind="stable")  # of equal ones the order of their objects decides
    fits = np.zeros(len(rows), dtype=np.bool_)
    fits[cheapest] = fitting(rows.size_bytes[cheapest], rows.one_time_usd[cheapest], guardrails)
    if not fits.all() and not (what_fits and fits.any()):
        size_bytes, one_time_usd = int(rows.size_bytes.sum()), float(rows.one_time_usd.sum())
        over = [
            text
            for amount, cap, text in (
                (len(rows), guardrails.max_objects, f"max_objects={guardrails.max_objects:,}"),
                (size_bytes, guardrails.max_bytes, f"max_bytes={guardrails.max_bytes:,}"),
                (one_time_usd, float(guardrails.max_one_time_usd), f"max_one_time_usd={guardrails.max_one_time_usd}"),
            )
            if amount > cap
        ]
        raise UndoRefused(
            f"taking back {target} does not fit into one plan: {len(rows):,} moves of {size_bytes:,} bytes cost "
            f"USD {one_time_usd:.6f} once, above {' and '.join(over)}; raise the cap, or ask for what fits"
        )
    return fits


def _planned(spool: SortedSpool, rows: UndoRows, most: int, undone: str) -> Iterator[pa.Table]:
    """Number the moves, part by part: canaries, then the others, each by object.

    ``rows`` are those of the spool that were chosen; all that it holds undo moves below ``most``.
    """
    roles, fees = np.full(most, -1, dtype=np.int8), np.zeros(most)
    roles[rows.undoes_move_no] = np.where(rows.first, 0, 1)
    fees[rows.undoes_move_no] = rows.job_fee_usd
    start = 0
    for role, name in enumerate((MoveRole.CANARY, MoveRole.MOVE)):
        if not (roles == role).any():
            continue
        for part in spool.in_order():
            chosen = part.filter(pa.array(roles[part["undoes_move_no"].to_numpy()] == role))
            if chosen.num_rows:
                chosen = add_fees(chosen, fees[chosen["undoes_move_no"].to_numpy()])
                yield _numbered(chosen, start, name.value, undone)
                start += chosen.num_rows


def _numbered(rows: pa.Table, start: int, role: str, undone: str) -> pa.Table:
    columns = {
        "move_no": pa.array(np.arange(start, start + rows.num_rows)),
        "from_class": rows["current_class"],
        "to_class": rows["chosen_class"],
        "reason": pc.binary_join_element_wise(
            "takes back move", rows["undoes_move_no"].cast(pa.string()), "of", undone, " "
        ),
        "role": pa.array([role] * rows.num_rows),
    }
    arrays = [
        (columns[name] if name in columns else rows[name]).cast(PLANNED_MOVES.field(name).type)
        for name in PLANNED_MOVES.names
    ]
    return pa.table(arrays, schema=PLANNED_MOVES)
