"""An explanation as tables. Keys and reasons were written by strangers: they are text, never markup."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cloudflux.workflows.explanation import ExplainedGuard, Explanation

_BARS: Final = "▁▂▃▄▅▆▇█"
_PARTS: Final = (
    ("storage", "storage_usd"),
    ("monitoring", "monitoring_usd"),
    ("requests", "requests_usd"),
    ("retrieval", "retrieval_usd"),
    ("moves", "moves_usd"),
    ("early deletion", "early_deletion_usd"),
    ("coming back", "coming_back_usd"),
)
_OPTIONS: Final = {"keep": "keep for good", "wait": "wait: keep for now", "move": "move today"}


def explanation_parts(explained: Explanation) -> Iterator[RenderableType]:
    """Give what is printed, from the object to the stored decision."""
    yield Text(printable(explained.uri), style="bold")
    yield _facts(explained)
    yield Text(f"\nDaily reads, {explained.history.first_day} to {explained.day - timedelta(days=1)}")
    yield Text(sparkline(explained.history.daily_reads))
    yield _uses(explained)
    yield _forecaster(explained)
    yield _costs(explained)
    if explained.ruled_out:
        yield _ruled_out(explained)
    yield _decision(explained)


def printable(text: str) -> str:
    """Show control characters and marks that turn the text around as escapes: a key must not steer a terminal."""
    return "".join(
        sign if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(sign)[1:-1] for sign in text
    )


def sparkline(figures: Sequence[int]) -> str:
    """Draw counts as one line of bars, the highest as tall as a line; a day without any is a dot."""
    highest = max(figures, default=0)
    return "".join(
        "·" if figure <= 0 else _BARS[math.ceil(figure / highest * len(_BARS)) - 1] for figure in figures
    ) + (f"  at most {highest:,} a day" if highest else "  none")


def dollars(amount: float) -> str:
    """Write an amount with three significant digits, and cents where there are any."""
    if amount == 0:
        return "0"
    if abs(amount) >= 100:
        return f"{amount:,.2f}"
    digits = 2 - math.floor(math.log10(abs(amount)))
    return f"{amount:.{digits}f}" if digits <= 9 else f"{amount:.2e}"


def _facts(explained: Explanation) -> Table:
    seen, history = explained.object, explained.history
    table = Table.grid(padding=(0, 2))
    limits = [f"first byte within {seen.latency}"]
    if seen.lock_reason is not None:
        limits.append(f"locked ({printable(seen.lock_reason)})")
    if seen.excluded_prefix is not None:
        limits.append(f"excluded by the prefix {printable(seen.excluded_prefix)}")
    if seen.pinned_class is not None:
        limits.append(f"wanted in {seen.pinned_class}")
    if seen.retained:
        limits.append("younger than the minimum retention")
    rows = (
        ("size", _size(seen.size_bytes)),
        (
            "class",
            f"{seen.storage_class} ({seen.tier}) since {seen.class_since_at:%Y-%m-%d}, {seen.days_in_class:.1f} days",
        ),
        ("last modified", f"{seen.last_modified_at:%Y-%m-%d %H:%M} UTC"),
        ("its owner", "; ".join(limits)),
        ("last read", str(history.last_read_on or "never, as far as the logs tell")),
        (
            "logs",
            "nothing was logged yet"
            if history.known_since is None
            else f"since {history.known_since}, coverage of the last month {history.coverage:.0%}",
        ),
        ("inventory", f"of {explained.inventory_day}"),
    )
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _uses(explained: Explanation) -> Table:
    """Give past and expected use side by side: the same windows, back and ahead."""
    by_state = explained.forecast.state is not None
    table = Table(title="\nUse", title_justify="left")
    for name in ("days", "reads seen", "writes seen", "reads left out", "P(any) ahead", "reads ahead"):
        table.add_column(name, justify="right")
    if by_state:
        table.add_column("P(any) by state", justify="right")
        table.add_column("reads by state", justify="right")
    for window, horizon in zip(explained.history.windows, explained.forecast.horizons, strict=True):
        row = [
            str(window.days),
            f"{window.reads:,}",
            f"{window.writes:,}",
            f"{window.excluded_reads:,}",
            f"{horizon.probability_any:.3f}",
            _reads(horizon.expected_reads),
        ]
        if horizon.state_probability_any is not None and horizon.state_expected_reads is not None:
            row += [f"{horizon.state_probability_any:.3f}", _reads(horizon.state_expected_reads)]
        table.add_row(*row)
    return table


def _forecaster(explained: Explanation) -> Text:
    forecast = explained.forecast
    said = f"Forecast by {printable(forecast.source)}: {forecast.tier} in the next 30 days, "
    said += f"confidence {forecast.confidence:.2f}"
    if forecast.note is not None:
        said += f"\nThe rules speak: {printable(forecast.note)}"
    if forecast.state is not None:
        state = forecast.state
        said += (
            f"\nState of use {state.state} of {state.states}: read on a day with a chance of "
            f"{state.chance_of_read_a_day:.4f}, {state.expected_reads_a_day:.4f} reads a day; learnt from "
            f"{state.learnt_from_days:,.0f} days of objects"
        )
    return Text(said)


def _costs(explained: Explanation) -> Table:
    table = Table(title=f"\nExpected cost over {explained.decision.horizon_days} days, USD", title_justify="left")
    table.add_column("choice")
    table.add_column("class")
    shown = [(title, name) for title, name in _PARTS if any(getattr(row, name) != 0 for row in explained.candidates)]
    for title, _ in shown:
        table.add_column(title, justify="right")
    table.add_column("sum", justify="right")
    for row in explained.candidates:
        table.add_row(
            Text(("→ " if row.chosen else "  ") + _OPTIONS[row.option]),
            Text(row.storage_class),
            *(dollars(getattr(row, name)) for _, name in shown),
            dollars(row.total_usd),
            style="bold" if row.chosen else "",
        )
    return table


def _ruled_out(explained: Explanation) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = "\nNo candidates", "left"
    for one in explained.ruled_out:
        table.add_row(Text(one.storage_class), Text(printable(one.why)))
    return table


def _decision(explained: Explanation) -> Text:
    made, prices, stored = explained.decision, explained.prices, explained.stored
    text = Text("\n")
    text.append(printable(made.reason), style="bold")
    if made.action == "move":
        text.append(
            f"\none-time cost ${dollars(made.one_time_usd)}, saves ${dollars(made.saving_usd)} over "
            f"{made.horizon_days} days"
        )
        if made.payback_on is not None and made.payback_days is not None:
            text.append(f", paid back after {made.payback_days:.1f} days: {made.payback_on}")
    if explained.guard is not None:
        text.append(_account(explained.guard))
    text.append(f"\nweighed by {made.placed_by}; the rule-based classifier would take {explained.rule_class} ")
    text.append(f"({explained.rule_reason})")
    region = f"{prices.region} {prices.redundancy}".rstrip()
    text.append(f"\nprices: {prices.name} ({region}), looked up on {prices.seen_on}")
    if explained.bucket_autopilot is not None:
        text.append(
            f"\nthe whole {explained.bucket_autopilot.scope}: {printable(explained.bucket_autopilot.described())}"
        )
    if stored is None:
        text.append("\nno decision on it is stored yet")
    elif stored.agrees:
        text.append(f"\nthe stored decision of {stored.day} says the same")
    else:
        by = "" if stored.source is None else f", by {printable(stored.source)}"
        text.append(f"\nthe stored decision of {stored.day}{by} says otherwise: {printable(stored.reason)}")
    return text


def _account(guard: ExplainedGuard) -> str:
    """Say what the object's reads have cost beyond what was expected, and what follows from it."""
    if guard.refuted_until is not None:
        return (
            f"\nits own reads have refuted the usage chain of {printable(guard.model)}: break-even decides until "
            f"{guard.refuted_until}, by its reads of the last 30 days"
        )
    return (
        f"\nsince {guard.since} its reads have cost ${dollars(guard.surprise_usd)} beyond twice what the usage chain "
        "had led to expect; at more than two round trips break-even would decide for 30 days"
    )


def _reads(reads: float) -> str:
    return f"{reads:,.0f}" if reads >= 100 else f"{reads:.3g}"


def _size(size_bytes: int) -> str:
    size, units = float(size_bytes), ("B", "KiB", "MiB", "GiB", "TiB")
    place = min(max(int(math.log2(size) // 10), 0), len(units) - 1) if size >= 1 else 0
    return f"{size_bytes:,} bytes" + (f" ({size / 1024**place:.1f} {units[place]})" if place else "")
