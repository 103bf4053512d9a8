"""Turn decisions into one frozen migration plan within its guardrails."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from cloudflux.domain.costs import usd
from cloudflux.domain.errors import SettingsError, TerminalError
from cloudflux.domain.objects import ObjectPrefix
from cloudflux.domain.plans import (
    Guardrails,
    MigrationPlan,
    MoveRole,
    PlanGroup,
    PlanKind,
    PlanState,
    PlanTotals,
)
from cloudflux.domain.prices import MONTH_DAYS
from cloudflux.workflows.caps import above_caps, fitting, in_turns, would_fit
from cloudflux.workflows.job_fees import GROUP, Floats, TermsOf, add_fees, expected_fees, group_codes, no_jobs
from cloudflux.workflows.planned_moves import PLANNED_MOVES

_USD_PLACES: Final = 10
"""Places that are stored and reported: one move of a small object saves millionths of a dollar."""

_MAX_CANARIES: Final = 100
"""Of one provider, bucket and pair of classes: enough to meet what can go wrong, few enough to put right by hand."""

CANARY_KEY: Final = "cloudflux-canary"
"""Of the numbers by which canaries are chosen, see ``object_numbers``."""
_HOLD_OUT_KEY: Final = "cloudflux-hold-"

_ROLE_ORDER: Final = (MoveRole.CANARY, MoveRole.MOVE, MoveRole.HOLD_OUT)

_BY_OBJECT: Final = [("provider", "ascending"), ("bucket", "ascending"), ("key", "ascending")]
_MOVE_COLUMNS: Final = [
    "provider", "bucket", "key", "version_id", "etag", "size_bytes", "last_modified_at", "class_since_at",
    "current_class", "chosen_class", "saving_usd", "one_time_usd", "payback_days", "reason", "current_monthly_usd",
    "chosen_monthly_usd",
]  # fmt: skip


class DecisionSource(Protocol):
    """Where the published decisions are: the lake."""

    def latest_day(self, dataset: str) -> date | None:
        """Tell the newest published day of a dataset."""

    def dataset(self, dataset: str, *, days: Sequence[date]) -> pads.Dataset:
        """Open the rows of some days."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def add(self, plan: MigrationPlan, moves: pa.Table, state: PlanState) -> bool:
        """Store a plan once. Tells whether it was new; the same ``plan_id`` again changes nothing."""


def plan_id_of(run_id: str) -> str:
    """Give the plan id of a DAG run: a retried task finds its plan again."""
    return "plan-" + hashlib.sha256(run_id.encode()).hexdigest()[:16]


def propose(
    lake: DecisionSource,
    plans: PlanStore,
    *,
    run_id: str,
    created_at: datetime,
    guardrails: Guardrails,
    dry_run: bool,
    terms_of: TermsOf = no_jobs,
) -> MigrationPlan:
    """Build the plan of a run from the newest decisions and store it before anything moves.

    Raises ``TerminalError`` when nothing has been decided yet, ``SettingsError`` naming a guardrail that makes no
    sense.
    """
    check_guardrails(guardrails)
    day = lake.latest_day("decisions")
    if day is None:
        raise TerminalError("there are no decisions yet: run score_objects first")
    plan, moves = build_plan(
        lake.dataset("decisions", days=[day]),
        run_id=run_id,
        created_at=created_at,
        day=day,
        guardrails=guardrails,
        dry_run=dry_run,
        terms_of=terms_of,
    )
    plans.add(plan, moves, first_state(plan))
    return plan


def first_state(plan: MigrationPlan) -> PlanState:
    """Tell in which state a new plan is stored."""
    if not plan.totals.objects:
        return PlanState.EMPTY
    return PlanState.PREVIEW if plan.dry_run else PlanState.PROPOSED


def check_guardrails(guardrails: Guardrails) -> None:
    """Raise ``SettingsError`` naming the guardrail whose value makes no sense."""
    for name in ("allowed_prefixes", "excluded_prefixes"):
        for uri in getattr(guardrails, name):
            try:
                ObjectPrefix.from_uri(uri)
            except ValueError as exc:
                raise SettingsError(f"{name}: {exc}") from exc
    for name in ("canary_share", "hold_out_share"):
        if not 0 <= getattr(guardrails, name) < 1:
            raise SettingsError(f"{name}: a share from 0 to less than 1, not {getattr(guardrails, name)}")
    if guardrails.valid_days < 1:
        raise SettingsError(f"valid_days: at least 1, not {guardrails.valid_days}")


def build_plan(
    decisions: pads.Dataset,
    *,
    run_id: str,
    created_at: datetime,
    day: date,
    guardrails: Guardrails,
    dry_run: bool,
    terms_of: TermsOf = no_jobs,
) -> tuple[MigrationPlan, pa.Table]:
    """Choose the moves: the best savings first, in turns with those to pinned classes, within the caps.

    Gives the plan and its moves, which have the columns of ``PLANNED_MOVES``; ``decisions`` has those of DECISIONS.
    What is not to move is read as a stream: memory grows with the moves that pay, not with the objects. A move that
    does not fit within the caps any more is left out and counted, and the next one tried: the order of savings decides,
    so the plan is the same whatever the order of the rows. What S3's jobs cost where a bucket's moves become some
    (``terms_of``) is part of each move's cost, and so of what is checked.
    """
    scored, before, horizon_days = _scored(decisions)
    wanted = _wanted(decisions, guardrails)
    held_out = object_numbers(wanted, _HOLD_OUT_KEY) < guardrails.hold_out_share
    held_out &= ~wanted["pinned"].to_numpy()  # their owner wants them there, whatever it saves
    movable = wanted.filter(pa.array(~held_out))
    within = fitting(movable["size_bytes"].to_numpy(), movable["one_time_usd"].to_numpy(), guardrails)
    chosen = movable.filter(pa.array(within))
    chosen, fees = _worth_their_jobs(chosen, guardrails, terms_of)
    chosen = add_fees(_paid_back_later(chosen, fees), fees)
    pinned = chosen["pinned"].to_numpy()
    if float(chosen["saving_usd"].to_numpy()[~pinned].sum()) < float(guardrails.min_plan_saving_usd):
        chosen = chosen.filter(chosen["pinned"])
    compared = wanted.filter(pa.array(held_out & _would_have_moved(wanted, chosen, guardrails)))
    roles = np.where(_are_canaries(chosen, guardrails.canary_share), 0, 1)
    change = _total(chosen["current_monthly_usd"]) - _total(chosen["chosen_monthly_usd"])
    plan = MigrationPlan(
        plan_id=plan_id_of(run_id),
        run_id=run_id,
        created_at=created_at,
        expires_at=created_at + timedelta(days=guardrails.valid_days),
        decisions_day=day,
        horizon_days=horizon_days,
        dry_run=dry_run,
        guardrails=guardrails,
        totals=PlanTotals(
            objects=chosen.num_rows,
            bytes=int(pc.sum(chosen["size_bytes"]).as_py() or 0),
            saving_usd=usd(_total(chosen["saving_usd"]), _USD_PLACES),
            one_time_usd=usd(_total(chosen["one_time_usd"]), _USD_PLACES),
            before_usd_month=usd(before, _USD_PLACES),
            after_usd_month=usd(before - change, _USD_PLACES),
            scored_objects=scored,
            left_out=movable.num_rows - chosen.num_rows,
            canaries=int((roles == 0).sum()),
            held_out=compared.num_rows,
        ),
        groups=groups_of(chosen),
        above_caps=above_caps(movable, guardrails),
    )
    return plan, _planned(chosen, roles, compared)


def _scored(decisions: pads.Dataset) -> tuple[int, float, int]:
    """Give how many objects were scored, what they cost in a month where they are, and the horizon."""
    objects, monthly_usd, horizon_days = 0, 0.0, 0
    for batch in decisions.to_batches(columns=["current_monthly_usd", "horizon_days"]):
        if batch.num_rows:
            objects += batch.num_rows
            monthly_usd += float(pc.sum(batch["current_monthly_usd"]).as_py() or 0.0)
            horizon_days = max(horizon_days, int(pc.max(batch["horizon_days"]).as_py() or 0))
    return objects, monthly_usd, horizon_days


def _wanted(decisions: pads.Dataset, guardrails: Guardrails) -> pa.Table:
    """Give the moves that no guardrail forbids and that pay or are ``pinned``, in order, with their ``place`` therein.

    The best savings come first, and moves to a pinned class, which need not pay, in turns with them.
    """
    pinned = pc.field("payback_days").is_null()  # of moves: all others pay back
    pays = (pc.field("action") == "move") & (pinned | (pc.field("saving_usd") >= float(guardrails.min_saving_usd)))
    if guardrails.allowed_prefixes:
        pays &= _below(guardrails.allowed_prefixes)
    if guardrails.excluded_prefixes:
        pays &= ~_below(guardrails.excluded_prefixes)
    found = decisions.to_table(columns=_MOVE_COLUMNS, filter=pays)
    found = found.sort_by([("saving_usd", "descending"), *_BY_OBJECT])
    found = found.append_column("pinned", pc.is_null(found["payback_days"]))
    if pc.any(found["pinned"]).as_py():
        found = found.take(in_turns(found, found["pinned"].to_numpy(), guardrails))
    return found.append_column("place", pa.array(np.arange(found.num_rows)))


def _below(uris: Sequence[str]) -> pc.Expression:
    below = pc.scalar(False)
    for uri in uris:
        prefix = ObjectPrefix.from_uri(uri)
        below |= (
            (pc.field("provider") == prefix.provider.value)
            & (pc.field("bucket") == prefix.bucket)
            & pc.starts_with(pc.field("key"), prefix.prefix)
        )
    return below


def _worth_their_jobs(chosen: pa.Table, guardrails: Guardrails, terms_of: TermsOf) -> tuple[pa.Table, Floats]:
    """Leave out the moves that S3's jobs make too dear, for themselves or for the cap; gives what the others bear.

    With every move that is left out the others bear more, so that it is looked at again until all fit. What was left
    out does not come back: each time there are fewer.
    """
    while True:
        fees = expected_fees(chosen, lambda moves: _are_canaries(moves, guardrails.canary_share), terms_of)
        if not fees.any():
            return chosen, fees
        fits = chosen["saving_usd"].to_numpy() - fees >= float(guardrails.min_saving_usd)
        fits |= chosen["pinned"].to_numpy()
        once = chosen["one_time_usd"].to_numpy() + fees
        fits[fits] = fitting(chosen["size_bytes"].to_numpy()[fits], once[fits], guardrails)
        if fits.all():
            return chosen, fees
        chosen = chosen.filter(pa.array(fits))


def _would_have_moved(wanted: pa.Table, chosen: pa.Table, guardrails: Guardrails) -> npt.NDArray[np.bool_]:
    """Tell of what was not chosen whether it is like what was: only that can be compared with it."""
    taken = np.zeros(wanted.num_rows, dtype=np.bool_)
    taken[chosen["place"].to_numpy()] = True
    alike = would_fit(wanted, taken, guardrails)
    saving, pinned = wanted["saving_usd"].to_numpy(), wanted["pinned"].to_numpy()
    alike &= ~pinned & (saving >= saving[taken & ~pinned].min(initial=np.inf))
    return alike


def _paid_back_later(chosen: pa.Table, fees: Floats) -> pa.Table:
    """Put off the paybacks by what the jobs cost: what a move saves in a day follows from what it took before."""
    once, days = chosen["one_time_usd"].to_numpy(), chosen["payback_days"].to_numpy()
    monthly = chosen["current_monthly_usd"].to_numpy() - chosen["chosen_monthly_usd"].to_numpy()
    daily = np.divide(once, days, out=monthly / MONTH_DAYS, where=days > 0)
    later = np.divide(fees, daily, out=np.zeros_like(fees), where=(fees > 0) & (daily > 0))
    place = chosen.schema.get_field_index("payback_days")
    return chosen.set_column(place, chosen.schema.field(place), pa.array(days + later, from_pandas=True))


def object_numbers(rows: pa.Table, key: str) -> Floats:
    """Give each object a number in [0, 1) that depends on its name and the key alone; shape (rows,)."""
    if not rows.num_rows:
        return np.zeros(0)
    names = pc.binary_join_element_wise(rows["provider"], rows["bucket"], rows["key"], "\0")
    hashed = pd.util.hash_array(names.to_numpy(zero_copy_only=False), hash_key=f"{key:<16.16}", categorize=False)
    numbers: Floats = (hashed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return numbers


def _are_canaries(chosen: pa.Table, share: float) -> npt.NDArray[np.bool_]:
    groups, _ = group_codes(chosen)
    return are_canaries(groups, object_numbers(chosen, CANARY_KEY), share)


def are_canaries(groups: npt.NDArray[np.intp], numbers: Floats, share: float) -> npt.NDArray[np.bool_]:
    """Choose a share of each group's moves, at least one of each, by their objects' numbers; all of shape (rows,)."""
    if share == 0 or not len(groups):
        return np.zeros(len(groups), dtype=bool)
    of_groups = pd.Series(numbers).groupby(groups, sort=False)
    most = np.minimum(np.ceil(of_groups.transform("size").to_numpy() * share), _MAX_CANARIES)
    chosen_first: npt.NDArray[np.bool_] = of_groups.rank(method="first").to_numpy() <= most
    return chosen_first


def groups_of(chosen: pa.Table) -> tuple[PlanGroup, ...]:
    """Add up the moves by provider, bucket and pair of classes."""
    pinned_usd = pc.if_else(chosen["pinned"], chosen["saving_usd"], 0.0)
    summed = (
        chosen.append_column("pinned_usd", pinned_usd)
        .group_by(GROUP)
        .aggregate(
            [
                ("size_bytes", "count"),
                ("size_bytes", "sum"),
                ("saving_usd", "sum"),
                ("one_time_usd", "sum"),
                ("payback_days", "max"),
                ("job_fee_usd", "sum"),
                ("pinned", "sum"),
                ("pinned_usd", "sum"),
            ]
        )
    )
    return tuple(
        PlanGroup(
            provider=row["provider"],
            bucket=row["bucket"],
            from_class=row["current_class"],
            to_class=row["chosen_class"],
            objects=row["size_bytes_count"],
            bytes=row["size_bytes_sum"],
            saving_usd=usd(row["saving_usd_sum"], _USD_PLACES),
            one_time_usd=usd(row["one_time_usd_sum"], _USD_PLACES),
            longest_payback_days=row["payback_days_max"],
            job_fees_usd=usd(row["job_fee_usd_sum"], _USD_PLACES),
            pinned=row["pinned_sum"],
            pinned_saving_usd=usd(row["pinned_usd_sum"], _USD_PLACES),
        )
        for row in summed.sort_by([(name, "ascending") for name in GROUP]).to_pylist()
    )


def _planned(chosen: pa.Table, roles: npt.NDArray[np.intp], compared: pa.Table) -> pa.Table:
    """Number the moves: canaries, the others, what is held out, each by object."""
    rows = pa.concat_tables([chosen.select(_MOVE_COLUMNS), compared.select(_MOVE_COLUMNS)])
    order = pa.array(np.concatenate([roles, np.full(compared.num_rows, 2)]), pa.int8())
    rows = rows.append_column("order", order).sort_by([("order", "ascending"), *_BY_OBJECT])
    names = pa.array([role.value for role in _ROLE_ORDER])
    monthly = pc.subtract(rows["current_monthly_usd"], rows["chosen_monthly_usd"])
    columns = {
        "move_no": pa.array(np.arange(rows.num_rows)),
        "from_class": rows["current_class"],
        "to_class": rows["chosen_class"],
        "monthly_saving_usd": monthly,
        "role": names.take(rows["order"].combine_chunks()),
        "undoes_move_no": pa.nulls(rows.num_rows, pa.int64()),
    }
    arrays = [
        (columns[name] if name in columns else rows[name]).cast(PLANNED_MOVES.field(name).type)
        for name in PLANNED_MOVES.names
    ]
    return pa.table(arrays, schema=PLANNED_MOVES)


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)


def job_fees_usd(plan: MigrationPlan) -> Decimal:
    """Give what S3's jobs are expected to cost, which is part of the plan's one-time cost."""
    return sum((group.job_fees_usd for group in plan.groups), Decimal(0))


def describe_pinned(plan: MigrationPlan) -> str:
    """Say how many moves go to a pinned class, and what they cost; empty when none does."""
    pinned = sum(group.pinned for group in plan.groups)
    if not pinned:
        return ""
    saving = sum((group.pinned_saving_usd for group in plan.groups), Decimal(0))
    return (
        f"{pinned:,} of the moves take objects to the class that their owner pinned them to, whatever it costs: "
        f"USD {saving:.6f} of the net saving is theirs."
    )


def describe_hold_out(plan: MigrationPlan) -> str:
    """Say with what the plan's savings will be compared, or what to set so that they can; empty for an undo."""
    totals, share = plan.totals, plan.guardrails.hold_out_share
    if plan.kind is PlanKind.UNDO or not totals.objects:
        return ""
    if totals.held_out:
        return f"{totals.held_out:,} more objects are held out, so that the savings can be compared with something."
    why = f"hold_out_share={share:g} is too small for so few objects" if share else "hold_out_share is 0"
    return (
        f"Nothing is held out ({why}): that the moves cause what is saved cannot be shown afterwards. "
        f"{'A larger share' if share else 'hold_out_share=0.05'} leaves some objects where they are to compare with."
    )


def describe_above_caps(plan: MigrationPlan) -> list[str]:
    """Say of each cap that single moves exceed what they are, and what to do: no plan takes them as it is."""
    said = []
    for above in plan.above_caps:
        if above.cap == "max_bytes":
            amount, cap, least = f"{above.amount:,} bytes", f"{plan.guardrails.max_bytes:,}", f"{above.amount:,}"
        else:
            # rounded up: a cap of what is said has to let the move in
            dollars = above.amount.quantize(Decimal("0.01"), ROUND_CEILING)
            amount, cap, least = f"USD {above.amount:.6f}", f"{plan.guardrails.max_one_time_usd:,}", f"{dollars:,}"
        said.append(
            f"{above.moves:,} of them {'exceed' if above.moves > 1 else 'exceeds'} {above.cap}={cap} alone, the "
            f"largest with {amount} ({above.provider}, {above.bucket}, {above.from_class} to {above.to_class}, net "
            f"saving USD {above.saving_usd:.6f}): no plan takes it unless {above.cap} is at least {least}."
        )
    return said


def describe(plan: MigrationPlan) -> str:
    """Write the plan's figures as Markdown: for the approval form, the log and the command line.

    Object keys are left out on purpose: they are written by strangers and do not belong into a rendered page.
    """
    totals, guardrails = plan.totals, plan.guardrails
    if plan.kind is PlanKind.UNDO:
        head = f"**{totals.objects:,} moves that take back** those of {plan.undoes}, {totals.bytes:,} bytes."
        figures = [
            f"| cost of taking them back, once | {totals.one_time_usd:.6f} |",
            f"| a month costs more afterwards | {totals.after_usd_month - totals.before_usd_month:.6f} |",
        ]
    else:
        head = f"**{totals.objects:,} moves** of {totals.scored_objects:,} scored objects, {totals.bytes:,} bytes."
        figures = [
            f"| a month now | {totals.before_usd_month:.6f} |",
            f"| a month afterwards | {totals.after_usd_month:.6f} |",
            f"| one-time cost of the moves | {totals.one_time_usd:.6f} |",
            f"| net saving over {plan.horizon_days} days | {totals.saving_usd:.6f} |",
        ]
    lines = [head, "", "| | USD |", "|---|---:|", *figures, ""]
    lines += [
        "| provider | bucket | from | to | moves | bytes | one-time USD | net saving USD | longest payback, days |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for group in plan.groups:
        payback = "" if group.longest_payback_days is None else f"{group.longest_payback_days:.0f}"
        lines.append(
            f"| {group.provider} | {group.bucket} | {group.from_class} | {group.to_class} | {group.objects:,} "
            f"| {group.bytes:,} | {group.one_time_usd:.6f} | {group.saving_usd:.6f} | {payback} |"
        )
    notes = []
    if fees := job_fees_usd(plan):
        notes.append(f"Of the one-time cost, USD {fees:.6f} is what S3 Batch Operations charges for its jobs.")
    if plan.irreversible:
        notes.append(
            f"{plan.irreversible:,} of the moves are irreversible: what leaves smart tier cannot go back in, and no "
            "undo takes them back."
        )
    if pinned := describe_pinned(plan):
        notes.append(pinned)
    if totals.canaries:
        notes.append(f"{totals.canaries:,} of the moves go first and are verified before the rest may move.")
    if held_out := describe_hold_out(plan):
        notes.append(held_out)
    if totals.left_out:
        notes.append(f"{totals.left_out:,} more moves are left out by the guardrails.")
    notes += describe_above_caps(plan)
    if guardrails.quiet_hours is not None:
        notes.append(f"Nothing moves from {guardrails.quiet_hours}.")
    if guardrails.allowed_tags:
        notes.append(f"Objects without any of the tags {_listed(guardrails.allowed_tags)} are skipped.")
    if guardrails.excluded_tags:
        notes.append(f"Objects with one of the tags {_listed(guardrails.excluded_tags)} are skipped.")
    notes.append(f"The plan is good until {plan.expires_at:%Y-%m-%d %H:%M} UTC.")
    return "\n".join([*lines, "", " ".join(notes)])


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)
