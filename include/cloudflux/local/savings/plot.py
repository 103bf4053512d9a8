"""Savings over the days as a picture: projected, realised, and against the hold-out, a panel for each plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloudflux.domain.reports import SavingsReport
from cloudflux.workflows.report import measured_of

_MOST_PANELS: Final = 12
"""The newest plans: more would be too small to read."""
_Z_95: Final = 1.96


def write_plot(reports: Sequence[SavingsReport], path: Path) -> int:
    """Draw plans that have measured days, as PNG or SVG by the name's end; gives how many, and writes nothing for none.

    Raises ``OSError`` when the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure and wants a display

    drawn = [(report, found) for report in reports if (found := measured_of(report)) is not None and found.days]
    drawn = drawn[:_MOST_PANELS]
    if not drawn:
        return 0
    figure = Figure(figsize=(12, 1 + 4 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for axes, (report, found) in zip(panels, drawn, strict=True):
        days = [one.day for one in found.days]
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.plot(days, [float(one.projected_usd) for one in found.days], "--", label="projected")
        axes.plot(days, [float(one.realised_usd) for one in found.days], label="realised, own accesses")
        compared = [one for one in found.days if one.against_hold_out_usd is not None]
        if compared:
            middle = [float(one.against_hold_out_usd or 0) for one in compared]
            reach = [_Z_95 * float(one.standard_error_usd or 0) for one in compared]
            (line,) = axes.plot([one.day for one in compared], middle, label="realised, against the hold-out")
            axes.fill_between(
                [one.day for one in compared],
                [value - wide for value, wide in zip(middle, reach, strict=True)],
                [value + wide for value, wide in zip(middle, reach, strict=True)],
                color=line.get_color(),
                alpha=0.2,
            )
        axes.set_title(f"{report.plan_id}: {found.moves.measured:,} moves")
        axes.set_ylabel("saved since the moves, USD")
        axes.tick_params(axis="x", rotation=30)
        axes.legend()
    figure.savefig(path)
    return len(drawn)
