"""The demo's path on a small world: the launcher's own command, twice on one stack, with wrong input among the good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import REPOSITORY, STACKS, settings_without_services

from cloudflux.local.processes import end_processes

pytestmark = [pytest.mark.integration, pytest.mark.stack, pytest.mark.timeout(4800)]

DAG_IDS = {
    "collect_access_logs",
    "collect_inventory",
    "drain_ingestion_topic",
    "train_access_forecaster",
    "score_objects",
    "migrate_tiers",
    "report_savings",
}


class Demo:
    """Runs `./cloudflux demo` on a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *options: str) -> dict[str, Any]:
        facts = self.folder / "facts.json"
        facts.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "cloudflux.local.cli",
            "demo",
            *("--var", str(self.folder), "--free-ports", "--objects", "900", "--days", "75"),
            *("--json", str(facts), *options),
        ]
        environment = settings_without_services() | {
            "PYTHONPATH": f"{REPOSITORY / 'include'}{os.pathsep}{REPOSITORY / 'ml'}"
        }
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=2300, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
        return found

    def processes(self) -> list[str]:
        marked = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join(process.cmdline()):
                    marked.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return marked


@pytest.fixture
def demo() -> Iterator[Demo]:
    folder = STACKS / f"demo-{os.getpid()}"
    folder.mkdir(parents=True)
    yield Demo(folder)
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_objects_reach_their_tier_and_stay_when_the_demo_runs_twice(demo: Demo) -> None:
    first = demo.run("--keep", "--wrong-input")
    assert {run["dag_id"] for run in first["dag_runs"]} == DAG_IDS
    assert {run["state"] for run in first["dag_runs"]} == {"success"}
    assert first["objects"] == 900
    moves = first["moves"]
    assert moves["planned"] >= 10  # some twenty to thirty: the world ends today, and its rhythms are those of weekdays
    assert moves["failed"] == 0
    assert moves["again"] == 0
    # One planned object was deleted and one overwritten before the move; all others are moved and verified.
    assert moves["skipped"] == 2
    assert moves["verified"] == moves["planned"] - 2
    assert {row["reason"] for row in moves["reasons"]} == {"deleted since the plan", "overwritten since the plan"}
    assert 0 < first["cost"]["after_usd_month"] < first["cost"]["before_usd_month"]
    assert 0 < first["forecaster"]["accuracy"] <= 1
    kafka = first["kafka"]
    assert kafka["dead_lettered"] > 0
    assert kafka["staged"] + kafka["dead_lettered"] == kafka["produced"]
    assert first["quarantined"] > 0

    second = demo.run("--exit")
    assert {run["state"] for run in second["dag_runs"]} == {"success"}
    # Nothing that was moved moves again. Of the others only the object that was overwritten is new, and may have a
    # place of its own; once midnight has passed all are a day older, and more of them may have come to their time.
    assert second["moves"]["again"] == 0
    if second["moves"]["day"] == first["moves"]["day"]:
        assert second["moves"]["planned"] <= 1
    assert second["moves"]["verified"] == second["moves"]["planned"]
    assert second["kafka"]["staged"] == kafka["staged"]
    assert second["quarantined"] == first["quarantined"]
    assert demo.processes() == []
