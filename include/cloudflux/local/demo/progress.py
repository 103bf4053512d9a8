"""What the demo shows while it works: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_PLAIN_EVERY_SECONDS: Final = 10.0
"""How often a long stage says on a plain output that it goes on."""


@dataclass(slots=True)
class _Stage:
    name: str
    began: float
    text: str = "waiting"
    done: int = 0
    total: int = 0
    state: str = "running"
    seconds: float = 0.0
    said_at: float = 0.0


class Progress:
    """The demo's stages, each with what it does now; safe to be told from several threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._stages: dict[str, _Stage] = {}
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=8, transient=False)

    @property
    def seconds(self) -> float:
        """How long the demo has been running."""
        return time.monotonic() - self._began

    def update(self, stage: str, text: str = "", done: int = 0, total: int = 0) -> None:
        """Say what a stage does now, and how much of it is done; its first mention begins it."""
        now = time.monotonic()
        current = self._stage(stage)
        current.text, current.done, current.total = text, done, total
        if not self.console.is_terminal and now - current.said_at >= _PLAIN_EVERY_SECONDS:
            current.said_at = now
            self._say(f"{stage}: {self._counted(current)}")

    def finish(self, stage: str, text: str = "", *, state: str = "done") -> None:
        """End a stage: ``done``, ``failed`` or ``skipped``."""
        current = self._stage(stage)
        current.text = text or (f"{current.done:,}" if current.done else "")
        current.state, current.seconds = state, time.monotonic() - current.began
        if not self.console.is_terminal:
            mark = {"done": "", "skipped": " (skipped)"}.get(state, f" ({state})")
            self._say(f"{stage}{mark}: {text} [{current.seconds:.1f} s]")

    def seconds_of(self, stage: str) -> float:
        """Tell how long a finished stage took."""
        return self._stages[stage].seconds if stage in self._stages else 0.0

    def pause(self) -> None:
        """Stop the live picture, so that something else may be printed."""
        if self.console.is_terminal:
            self._live.stop()

    def resume(self) -> None:
        """Go on with the live picture: stages that have ended stay above."""
        if self.console.is_terminal:
            self._stages = {name: stage for name, stage in self._stages.items() if stage.state == "running"}
            self._live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=8)
            self._live.start()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stage in self._stages.values():
            if stage.state == "running":
                stage.state = "failed" if kind is not None else "done"
                stage.seconds = time.monotonic() - stage.began
        self.pause()

    def _stage(self, name: str) -> _Stage:
        now = time.monotonic()
        return self._stages.setdefault(name, _Stage(name, now, said_at=now))

    def _say(self, text: str) -> None:
        self.console.print(f"{self.seconds:6.1f} s  {text}", markup=False, soft_wrap=True)

    @staticmethod
    def _counted(stage: _Stage) -> str:
        return f"{stage.text} {stage.done:,} of {stage.total:,}".strip() if stage.total else stage.text

    def _picture(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for stage in list(self._stages.values()):
            if stage.state == "running":
                bar = ProgressBar(stage.total, stage.done, width=20) if stage.total else Text("")
                seconds = time.monotonic() - stage.began
                table.add_row(
                    self._spinner, stage.name, Text(self._counted(stage)), bar, Text(f"{seconds:.0f} s", "dim")
                )
            else:
                mark = {"done": Text("✓", "green"), "skipped": Text("-", "dim")}.get(stage.state, Text("✗", "red"))
                table.add_row(mark, stage.name, Text(stage.text, "dim"), "", Text(f"{stage.seconds:.1f} s", "dim"))
        return table
