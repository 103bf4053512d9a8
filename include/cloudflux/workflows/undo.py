"""Take moves back: a plan of its own, whose cost is stated before anything moves, as any other plan's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.batch_jobs import JobTerms
from cloudflux.domain.costs import one_time_usd, usd
from cloudflux.domain.errors import SettingsError, TerminalError
from cloudflux.domain.migrations import MigrationState, RestoreOrder
from cloudflux.domain.objects import ObjectPrefix, ObjectRef
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanKind, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.prices import MONTH_DAYS, PriceBook
from cloudflux.domain.undo import DoneMove
from cloudflux.workflows.job_fees import TermsOf, add_fees, expected_fees
from cloudflux.workflows.move_costs import with_restore
from cloudflux.workflows.plan import are_canaries, check_guardrails, first_state, groups_of, plan_id_of
from cloudflux.workflows.planned_moves import PLANNED_MOVES

_STEP_MOVES: Final = 5_000
_USD_PLACES: Final = 10
_DAY_SECONDS: Final = 86_400

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

_BY_OBJECT: Final = [("provider", "ascending"), ("bucket", "ascending"), ("key", "ascending")]


class UndoRefused(TerminalError):
    """There is nothing that could be taken back, or not all of it within the caps; the text says why."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> Any:
        """Give a ``MigrationPlan`` with its ``state``. Raises a ``LookupError``."""

    def add(self, plan: MigrationPlan, moves: pa.Table, state: PlanState) -> bool:
        """Store a plan once; the same ``plan_id`` again changes nothing."""


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
class BucketPrices:
    """What taking objects of one bucket back costs, and how its archived ones would be restored for it."""

    book: PriceBook
    restore_of: Callable[[PlannedMove], RestoreOrder | None]
    jobs: JobTerms | None = None
    """When S3's jobs would move them, and at which prices."""


PricesOf = Callable[[str, str], BucketPrices]
"""By provider and bucket. Raises ``SettingsError`` for a bucket that the estate does not name."""


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
    proposal, moves = build_undo(
        plans,
        ledger,
        done_moves,
        prices_of,
        target=target,
        run_id=run_id,
        created_at=created_at,
        guardrails=guardrails,
        dry_run=dry_run,
        what_fits=what_fits,
    )
    plans.add(proposal.plan, moves, first_state(proposal.plan))
    return proposal


def build_undo(
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
) -> tuple[UndoProposal, pa.Table]:
    """Choose the moves that take back those of ``target``; store nothing. See ``propose_undo``.

    What a move costs is computed for the object as it was left: the copy, retrieval by the restore that will be asked
    for, and the early deletion that its present class is still owed at ``created_at``. The least costly come first
    under the caps. The moves, ``PLANNED_MOVES``, are columns from the start; the ledger is read in steps.
    """
    check_guardrails(guardrails)
    undone, batches = _found(plans, done_moves, target)
    left_out: Counter[str] = Counter()
    # one object's undo says nothing of the other moves of its plan
    if "://" not in target and (taken_back := ledger.counts(undone.plan_id).get(MigrationState.UNDONE, 0)):
        left_out["taken back already"] = taken_back
    found = 0
    saved_month = 0.0
    parts = []
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
        parts.append(_columns(wanted, prices_of, undone.horizon_days, created_at))
    rows = pa.concat_tables([_COLUMNS.empty_table(), *parts])
    if not rows.num_rows:
        raise UndoRefused(_nothing(target, undone, left_out))
    rows, beyond = _affordable(
        rows, guardrails, lambda *bucket: prices_of(*bucket).jobs, what_fits=what_fits, target=target
    )
    if beyond:
        left_out["beyond the caps of one plan"] = beyond
    first = are_canaries(rows, guardrails.canary_share)
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
            objects=rows.num_rows,
            bytes=int(pc.sum(rows["size_bytes"]).as_py()),
            saving_usd=usd(_total(rows["saving_usd"]), _USD_PLACES),
            one_time_usd=usd(_total(rows["one_time_usd"]), _USD_PLACES),
            before_usd_month=usd(before, _USD_PLACES),
            after_usd_month=usd(before - _total(rows["monthly_saving_usd"]), _USD_PLACES),
            scored_objects=found,
            left_out=sum(left_out.values()),
            canaries=int(first.sum()),
        ),
        groups=groups_of(rows),
        kind=PlanKind.UNDO,
        undoes=undone.plan_id,
    )
    return UndoProposal(plan, dict(left_out)), _planned(rows, first, undone.plan_id)


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
        "class_since_at": [_in_class_since(done) for done in moves],
        "current_class": [done.move.to_class for done in moves],
        "chosen_class": [done.move.from_class for done in moves],
        "saving_usd": [gain * horizon_days / MONTH_DAYS - cost for gain, cost in zip(monthly, costs, strict=True)],
        "one_time_usd": costs,
        "monthly_saving_usd": monthly,
        "payback_days": [None] * len(moves),
        "undoes_move_no": [done.move.move_no for done in moves],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in _COLUMNS}, schema=_COLUMNS)


def undo_usd(moves: Sequence[DoneMove], prices_of: PricesOf, at: datetime) -> list[float]:
    """Give what taking each move back costs once, in USD: by the class that the object is in now, and since when.

    Raises ``SettingsError`` when a price book does not know a class.
    """
    alike: dict[tuple[str, str, RestoreOrder | None], list[int]] = {}
    for number, done in enumerate(moves):
        ref = done.move.ref
        back = replace(done.move, from_class=done.move.to_class, to_class=done.move.from_class)
        order = prices_of(ref.provider.value, ref.bucket).restore_of(back)
        alike.setdefault((ref.provider.value, ref.bucket, order), []).append(number)
    costs = np.zeros(len(moves))
    for (provider, bucket, order), numbers in alike.items():
        some = [moves[number] for number in numbers]
        book = with_restore(prices_of(provider, bucket).book, order)
        sizes = np.array([done.left.size_bytes for done in some], dtype=np.float64)
        days = np.array([(at - _in_class_since(done)).total_seconds() / _DAY_SECONDS for done in some])
        sources, targets = (
            _codes(book, [getattr(done.move, name) for done in some]) for name in ("to_class", "from_class")
        )
        costs[numbers] = one_time_usd(book, sizes, sources, days)[np.arange(len(some)), targets]
    return [float(cost) for cost in costs]


def _in_class_since(done: DoneMove) -> datetime:
    """Tell since when the object is in the class that it was moved to.

    What S3's lifecycle rules moved shows no other time than before; then it is taken as there since it was verified.
    """
    return done.left.class_since_at if done.left.class_since_at >= done.began_at else done.left_at


def _codes(book: PriceBook, names: Sequence[str]) -> np.typing.NDArray[np.intp]:
    codes = book.codes_of(np.array(names, dtype=object))
    if (codes < 0).any():
        unknown = names[int(np.argmin(codes))]
        raise SettingsError(f"price book {book.name} has no storage class {unknown!r}: what it costs cannot be told")
    return codes


def _affordable(
    rows: pa.Table, guardrails: Guardrails, terms_of: TermsOf, *, what_fits: bool, target: str
) -> tuple[pa.Table, int]:
    """Give the rows within the caps with what S3's jobs cost for them, and how many are beyond them.

    With every move that is left out the others bear more of their job, so that it is looked at again until all fit.
    """
    left_out = 0
    while True:
        fees = expected_fees(rows, lambda moves: are_canaries(moves, guardrails.canary_share), terms_of)
        fitting, beyond = _within_caps(add_fees(rows, fees), guardrails, what_fits=what_fits, target=target)
        left_out += beyond
        if not beyond or not fees.any():
            return fitting, left_out
        rows = rows.filter(pc.is_in(rows["undoes_move_no"], fitting["undoes_move_no"].combine_chunks()))


def _within_caps(rows: pa.Table, guardrails: Guardrails, *, what_fits: bool, target: str) -> tuple[pa.Table, int]:
    """Give the rows within the caps, by object, and how many are beyond them."""
    rows = rows.sort_by([("one_time_usd", "ascending"), *_BY_OBJECT])
    counts = np.arange(1, rows.num_rows + 1)
    sizes = np.cumsum(rows["size_bytes"].to_numpy())
    costs = np.cumsum(rows["one_time_usd"].to_numpy())
    fits = (
        (counts <= guardrails.max_objects)
        & (sizes <= guardrails.max_bytes)
        & (costs <= float(guardrails.max_one_time_usd))
    )
    beyond = int((~fits).sum())
    if beyond and not (what_fits and fits.any()):
        over = [
            text
            for amount, cap, text in (
                (counts[-1], guardrails.max_objects, f"max_objects={guardrails.max_objects:,}"),
                (sizes[-1], guardrails.max_bytes, f"max_bytes={guardrails.max_bytes:,}"),
                (costs[-1], float(guardrails.max_one_time_usd), f"max_one_time_usd={guardrails.max_one_time_usd}"),
            )
            if amount > cap
        ]
        raise UndoRefused(
            f"taking back {target} does not fit into one plan: {rows.num_rows:,} moves of {sizes[-1]:,} bytes cost "
            f"USD {costs[-1]:.6f} once, above {' and '.join(over)}; raise the cap, or ask for what fits"
        )
    return rows.filter(pa.array(fits)).sort_by(_BY_OBJECT), beyond


def _planned(rows: pa.Table, first: np.typing.NDArray[np.bool_], undone: str) -> pa.Table:
    """Number the moves: canaries, then the others, each by object."""
    rows = rows.append_column("order", pa.array(np.where(first, 0, 1), pa.int8()))
    rows = rows.sort_by([("order", "ascending"), *_BY_OBJECT])
    columns = {
        "move_no": pa.array(np.arange(rows.num_rows)),
        "from_class": rows["current_class"],
        "to_class": rows["chosen_class"],
        "reason": pc.binary_join_element_wise(
            "takes back move", rows["undoes_move_no"].cast(pa.string()), "of", undone, " "
        ),
        "role": pa.array(["canary", "move"]).take(rows["order"].combine_chunks()),
    }
    arrays = [
        (columns[name] if name in columns else rows[name]).cast(PLANNED_MOVES.field(name).type)
        for name in PLANNED_MOVES.names
    ]
    return pa.table(arrays, schema=PLANNED_MOVES)


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)
