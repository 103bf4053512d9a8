"""What the command line shows: progress while the stack starts, the status table, the credentials."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cloudflux.local.stack import ServiceStatus, Stack

_COLOURS = {"running": "green", "failed": "red", "starting": "yellow", "stopping": "yellow"}


class StartDisplay:
    """One line per service while it starts: a live picture on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._phases: dict[str, tuple[str, float]] = {}
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=8, transient=False)

    def report(self, service: str, phase: str) -> None:
        """Note a service's phase."""
        self._phases[service] = (phase, time.monotonic() - self._began)
        if not self._console.is_terminal and phase in ("up", "failed"):
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {service} {phase}")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _picture(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for service, (phase, seconds) in list(self._phases.items()):
            if phase == "up":
                table.add_row(Text("✓", "green"), service, Text(f"up, {seconds:.1f} s", "dim"))
            elif phase == "failed":
                table.add_row(Text("✗", "red"), service, Text("failed", "red"))
            else:
                table.add_row(self._spinner, service, Text(phase, "yellow"))
        return table


def status_table(rows: Sequence[ServiceStatus]) -> Table:
    """Give the table of `status`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("service", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("pid", justify="right")
    table.add_column("memory", justify="right")
    table.add_column("up", justify="right")
    table.add_column("address", overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            Text(row.state, _COLOURS.get(row.state, "dim")),
            str(row.pid or ""),
            f"{row.memory_bytes / 2**20:.0f} MiB" if row.pid else "",
            duration(row.uptime_seconds) if row.pid else "",
            row.address,
        )
    total_bytes = sum(row.memory_bytes for row in rows)
    table.add_row("together", "", "", f"{total_bytes / 2**20:.0f} MiB", "", "")
    return table


def duration(seconds: float) -> str:
    """Write a duration as people say it: 42 s, 3 min, 5 h 7 min, 2 d 4 h."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def print_credentials(console: Console, stack: Stack) -> None:
    """Print the generated credentials, one a line: a table would fold a long key."""
    credentials = stack.credentials()
    if credentials:
        console.print("Credentials, generated for this stack:")
    for purpose, (name, password) in credentials.items():
        console.print(f"  {purpose:22} {name}  {password}", soft_wrap=True)
    console.print(f"They are kept in {stack.layout.secrets}, readable by you alone.", soft_wrap=True)
    if "mlflow" in stack.addresses():
        console.print("MLflow has no login: it listens on loopback only.")
