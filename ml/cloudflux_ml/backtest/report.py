"""What a backtest says: as JSON, as a table, as a plot of the cumulated cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cloudflux.domain.accounting import PARTS
from cloudflux.domain.errors import SettingsError
from cloudflux_ml.backtest.run import OPTIMUM, BacktestResult

if TYPE_CHECKING:
    from rich.table import Table

PLOT_SUFFIXES: Final = (".png", ".svg")
_OURS: Final = "cloudflux"
_TOP: Final = 3.0
"""How many times the optimum the plot is high: who is dearer leaves it at the top, with the sum in the legend."""


def report_json(result: BacktestResult) -> dict[str, Any]:
    """Give the result as plain values. ``regret`` is null where the optimum costs nothing."""
    return {
        "policies": {
            name: {
                "usd": found.usd,
                "regret": result.regret(name),
                "moves": found.moves,
                "parts": dict(found.parts_usd),
            }
            for name, found in result.policies.items()
        },
        "objects": result.objects,
        "days": result.days,
        "eval_from": result.eval_from,
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
    }


def report_table(result: BacktestResult) -> Table:
    """Give one line for each policy."""
    from rich.table import Table

    table = Table(
        title=f"{result.trace}, {result.book}, latency {result.latency}: {result.objects:,} objects, days "
        f"{result.eval_from} to {result.days - 1}; USD",
        title_justify="left",
    )
    table.add_column("policy")
    for name in ("USD", "regret", "moves", *(part.replace("_", " ") for part in PARTS)):
        table.add_column(name, justify="right")
    for name, found in result.policies.items():
        regret = result.regret(name)
        table.add_row(
            name,
            f"{found.usd:,.2f}",
            "-" if regret is None else f"{regret:.3f}",
            f"{found.moves:,}",
            *(f"{found.parts_usd[part]:,.2f}" for part in PARTS),
            style="bold" if name == _OURS else None,
        )
    return table


def check_plot_path(path: Path) -> None:
    """Raise ``SettingsError`` for a name that no plot can be written under."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise SettingsError(f"a plot is a file that ends in {' or '.join(PLOT_SUFFIXES)}, not {path.name!r}")


def write_plot(result: BacktestResult, path: Path) -> None:
    """Draw each policy's cumulated cost over the window, as PNG or SVG by the name's end.

    Raises ``SettingsError`` for another one.
    """
    check_plot_path(path)
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure and wants a display

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.add_subplot()
    # the day's end, at which what it cost is known
    window = date2num(result.first_day) + np.arange(result.eval_from, result.days) + 1.0
    for number, (name, found) in enumerate(result.policies.items()):
        regret = result.regret(name)
        label = f"{name}: {found.usd:,.2f}" + ("" if regret is None else f" ({regret:.3f})")
        axes.plot(
            window,
            found.cumulated_usd,
            label=label,
            color="black" if name == OPTIMUM else f"C{number % 10}",
            linestyle="--" if name == OPTIMUM else "-",
            linewidth=2.8 if name == _OURS else 1.3,
        )
    optimum, dearest = result.policies[OPTIMUM].usd, max(found.usd for found in result.policies.values())
    axes.set_ylim(0, min(_TOP * optimum, 1.05 * dearest) or 1)
    axes.set_xlim(window[0] - 1, window[-1])
    axes.xaxis_date()
    axes.set_title(f"Cumulated cost: {result.trace}, {result.book}, latency {result.latency}")
    axes.set_ylabel("USD")
    axes.grid(alpha=0.3)
    axes.tick_params(axis="x", rotation=20)
    figure.legend(title="policy: USD (regret)", loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)
