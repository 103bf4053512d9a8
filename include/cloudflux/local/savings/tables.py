"""Savings as tables and lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from rich.console import RenderableType
from rich.table import Table

from cloudflux.domain.reports import PlanSavings, SavingsReport, UsdEstimate
from cloudflux.workflows.report import measured_of

_NONE: Final = "-"


def savings_table(reports: Sequence[SavingsReport], together: SavingsReport | None) -> Table:
    """Give one line for each plan, and one for all."""
    table = Table(title="Savings, USD", title_justify="left", caption_justify="left", caption=_CAPTION)
    table.add_column("plan", no_wrap=True)  # whoever wants more of it needs its whole name
    table.add_column("of")
    for name in ("measured", "planned", "projected", "realised", "against hold-out", "once", "realised since"):
        table.add_column(name, justify="right")
    for report in reports:
        table.add_row(report.plan_id or "", report.day.isoformat(), *_cells(report))
    if together is not None and len(reports) > 1:
        table.add_section()
        table.add_row("all", "", *_cells(together))
    return table


_CAPTION: Final = (
    "by the month, without what is paid once; planned: of all moves of a plan, the others of those that are measured; "
    "against hold-out: ± its standard error; realised since: since the moves, less what was paid once"
)


def _cells(report: SavingsReport) -> list[str]:
    found = measured_of(report)
    if found is None:
        unmeasured = [usd(report.projected_usd_month), _NONE, _NONE, _NONE]
        return [f"0 of {report.moves_done:,}", *unmeasured, usd(report.one_time_usd), _NONE]
    return [
        f"{found.moves.measured:,} of {found.moves.done:,}",
        usd(report.projected_usd_month),
        usd(found.projected.month_usd),
        usd(found.realised.month_usd),
        estimated(found.against_hold_out_month),
        usd(found.one_time_usd),
        usd(found.realised.since_usd),
    ]


def without_hold_out(reports: Sequence[SavingsReport]) -> str:
    """Say how many plans have nothing to be compared with, and what to set; empty when all have."""
    found = [one for one in map(measured_of, reports) if one is not None]
    bare = sum(1 for one in found if one.held_out is None)
    return f"{bare:,} of {len(found):,} plans: {NOTHING_HELD_OUT}" if bare else ""


NOTHING_HELD_OUT: Final = (
    "No object was held out: nothing shows that the saving was caused by the moves. A plan that is made with "
    "hold_out_share (0.05, say) leaves some objects where they are to compare with"
)


def plan_parts(report: SavingsReport) -> Iterator[RenderableType]:
    """Give one plan's figures, and in words what they leave out."""
    yield f"{report.plan_id}, decided {report.day}, reported {report.at:%Y-%m-%d %H:%M} UTC"
    found = measured_of(report)
    if found is None:
        yield "An earlier release reported this plan: nothing was measured."
        return
    if found.first_day is None or found.moves.measured == 0:
        yield "No whole day with access logs has passed since the moves: nothing is realised yet."
    table = Table(title="USD", title_justify="left")
    table.add_column("")
    for name in ("a month", "since the moves"):
        table.add_column(name, justify="right")
    table.add_row("projected", usd(found.projected.month_usd), usd(found.projected.since_usd))
    table.add_row(
        "realised, by the objects' own accesses", usd(found.realised.month_usd), usd(found.realised.since_usd)
    )
    table.add_row(
        "realised, against the hold-out",
        estimated(found.against_hold_out_month),
        estimated(found.against_hold_out_since),
    )
    table.add_row("paid once", "", usd(found.one_time_usd))
    yield table
    yield from _notes(found)


def _notes(found: PlanSavings) -> Iterator[str]:
    moves = found.moves
    until = f" until {found.last_day}" if found.object_days else ""
    yield f"{moves.measured:,} of {moves.done:,} moves, {found.object_days:,} days of objects{until}"
    if found.left_out_days:
        yield f"{found.left_out_days:,} days of objects are left out: the access logs do not cover them"
    for count, said in (
        (moves.undone, "were taken back"),
        (moves.deleted, "are of objects that were deleted since"),
        (moves.overwritten, "are of objects that were overwritten since"),
        (moves.reclassified, "are of objects that somebody else put into another class"),
        (moves.unpriced, "are left out: the price book does not know the class"),
        (moves.costs_unknown, "have no recorded cost: the planned one is taken"),
    ):
        if count:
            yield f"{count:,} moves {said}"
    if found.excluded_reads:
        yield (
            f"{found.excluded_reads:,} reads by excluded agents are left out: they would take at most "
            f"{usd(found.excluded_reads_usd)} off"
        )
    held = found.held_out
    if held is None:
        yield NOTHING_HELD_OUT
        return
    yield (
        f"{held.measured:,} of {held.objects:,} held-out objects cost {usd(held.realised.since_usd)} where "
        f"{usd(held.projected.since_usd)} was projected; {moves.compared:,} moves are compared with them"
    )
    since = found.against_hold_out_since
    if since is not None and since.low_usd is not None:
        yield f"Against the hold-out, 95 of 100: {usd(since.low_usd)} to {usd(since.high_usd)} since the moves"
    elif since is not None:
        yield "One object is held out: nothing tells how far the comparison can be trusted"


def usd(amount: Decimal | None) -> str:
    """Write an amount with four significant digits, and at least cents."""
    if amount is None:
        return _NONE
    if amount == 0:
        return "0"
    if abs(amount) >= 100:
        return f"{amount:,.2f}"
    places = max(2, 3 - amount.adjusted())
    return f"{amount:.{places}f}"


def estimated(found: UsdEstimate | None) -> str:
    """Write an estimate with its standard error."""
    if found is None:
        return _NONE
    error = "?" if found.standard_error_usd is None else usd(found.standard_error_usd)
    return f"{usd(found.usd)} ± {error}"
