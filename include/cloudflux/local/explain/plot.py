"""An explanation as a picture: the daily reads, and the candidates' costs by their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloudflux.local.explain.tables import printable
from cloudflux.workflows.explanation import Explanation

_PARTS: Final = ("storage", "monitoring", "requests", "retrieval", "moves", "early_deletion", "coming_back")
_LONGEST_TITLE: Final = 100


def write_plot(explained: Explanation, path: Path) -> None:
    """Draw an explanation, as PNG or SVG by the name's end. Raises ``OSError`` when the file cannot be written."""
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure and wants a display

    figure = Figure(figsize=(12, 7), layout="constrained")
    above, below = figure.subplots(2, 1)
    history = explained.history
    days = [date2num(history.first_day) + number for number in range(len(history.daily_reads))]
    above.bar(days, history.daily_reads, width=0.9)
    above.xaxis_date()
    above.set_ylabel("reads a day")
    # a dollar sign would begin a formula, and a key may hold two
    name = printable(explained.uri)
    title = name if len(name) <= _LONGEST_TITLE else f"{name[:_LONGEST_TITLE]}…"
    above.set_title(title.replace("$", r"\$"))
    names = [f"{'→ ' if row.chosen else ''}{row.option} {row.storage_class}" for row in explained.candidates]
    left = [0.0] * len(names)
    for part in _PARTS:
        widths = [float(getattr(row, f"{part}_usd")) for row in explained.candidates]
        if any(widths):
            below.barh(names, widths, left=left, label=part.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    below.invert_yaxis()
    below.set_xlabel(f"expected cost over {explained.decision.horizon_days} days, USD ({explained.prices.name})")
    below.legend()
    figure.savefig(path)
