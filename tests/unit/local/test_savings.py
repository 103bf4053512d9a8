"""`./cloudflux savings`: exit statuses, what is said when nothing is known, JSON and plot."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cloudflux.domain.reports import (
    HeldOut,
    MovesMeasured,
    PlanSavings,
    SavingsDay,
    SavingsReport,
    UsdEstimate,
    UsdFigure,
)
from cloudflux.local.cli import main
from cloudflux.local.savings.tables import usd
from cloudflux.stores.savings import Savings
from cloudflux.workflows.report import as_json, report_of_all

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
D = Decimal


def measured(plan_id: str, *, hold_out: bool = True) -> PlanSavings:
    estimate = UsdEstimate(D("9.5"), D("0.7"), D("8.1"), D("10.9")) if hold_out else None
    days = tuple(
        SavingsDay(
            date(2026, 5, 2) + timedelta(days=number),
            D(number),
            D(number) * D("0.9"),
            D(number) if hold_out else None,
            D("0.1") if hold_out else None,
        )
        for number in range(5)
    )
    return PlanSavings(
        plan_id=plan_id,
        first_day=days[0].day,
        last_day=days[-1].day,
        moves=MovesMeasured(done=10, measured=9, compared=8, deleted=1),
        object_days=45,
        left_out_days=2,
        one_time_usd=D("0.25"),
        projected=UsdFigure(D("10"), D("1.5")),
        realised=UsdFigure(D("9.1"), D("1.2")),
        held_out=HeldOut(3, 3, UsdFigure(D(4), D("0.6")), UsdFigure(D(3), D("0.5"))) if hold_out else None,
        against_hold_out_month=estimate,
        against_hold_out_since=estimate,
        excluded_reads=7,
        excluded_reads_usd=D("0.01"),
        days=days,
    )


def report(plan_id: str, **overrides: object) -> SavingsReport:
    found = SavingsReport(
        report_id=f"run-{plan_id}",
        at=AT,
        day=date(2026, 5, 1),
        objects=100,
        moves_done=10,
        moves_failed=0,
        before_usd_month=D(20),
        after_usd_month=D(10),
        projected_usd_month=D(10),
        realised_usd_month=D("9.1"),
        one_time_usd=D("0.25"),
        plan_id=plan_id,
        details={"measured": as_json(measured(plan_id))},
    )
    return replace(found, **overrides)


@pytest.fixture
def savings(engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Savings:
    monkeypatch.setenv("CLOUDFLUX_DATABASE_URL", database_url)
    return Savings(engine)


def test_it_says_so_when_nothing_is_reported(savings: Savings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["savings"]) == 2
    assert "no savings were reported yet" in capsys.readouterr().err
    savings.record(report("p"))
    assert main(["savings", "--plan", "q"]) == 2
    assert "no report of 'q'" in capsys.readouterr().err


def test_plans_are_shown_with_all_together(savings: Savings, capsys: pytest.CaptureFixture[str]) -> None:
    old = report("old", details={}, realised_usd_month=None)
    reports = [report("p"), report("q"), old]
    for one in reports:
        savings.record(one)
    savings.record(report_of_all(reports, report_id="run", at=AT))
    assert main(["savings"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert set(lines) == {"p", "q", "old", "all"}
    assert "9.500 ± 0.7000" in lines["p"]
    assert "19.00 ± 1.400" in lines["all"]
    assert "18 of 20" in lines["all"]
    assert main(["savings", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert D(said["all"]["realised_usd_month"]) == D("18.2")
    assert [plan["plan_id"] for plan in said["plans"]] == ["q", "p", "old"]


def test_proposed_autopilots_are_said_below_the_plans(savings: Savings, capsys: pytest.CaptureFixture[str]) -> None:
    together = report_of_all([report("p")], report_id="run", at=AT)
    told = [{"described": "switch on this", "is_proposed": True}, {"described": "leave that", "is_proposed": False}]
    savings.record(report("p"))
    savings.record(replace(together, details=together.details | {"autopilots": told}))
    assert main(["savings"]) == 0
    shown = capsys.readouterr().out
    assert "Proposed: switch on this" in shown
    assert "leave that" not in shown


def test_plan_is_shown_with_what_its_figures_leave_out(savings: Savings, capsys: pytest.CaptureFixture[str]) -> None:
    savings.record(report("p"))
    savings.record(report("q", details={"measured": as_json(measured("q", hold_out=False))}))
    assert main(["savings", "--plan", "p"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "2 days of objects are left out",
        "1 moves are of objects that were deleted since",
        "3 of 3 held-out objects",
        "8.100 to 10.90",
    ):
        assert said in shown
    assert main(["savings", "--plan", "q"]) == 0
    said_of_q = " ".join(capsys.readouterr().out.split())
    assert "No object was held out" in said_of_q
    assert "hold_out_share (0.05, say)" in said_of_q
    assert main(["savings"]) == 0
    assert "1 of 2 plans: No object was held out" in " ".join(capsys.readouterr().out.split())
    assert main(["savings", "--plan", "q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["measured"]["against_hold_out_since"] is None


def test_plot_is_written(savings: Savings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    savings.record(report("p"))
    savings.record(report("q", details={"measured": as_json(measured("q", hold_out=False))}))
    path = tmp_path / "savings.svg"
    assert main(["savings", "--plot", str(path)]) == 0
    assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert main(["savings", "--plot", str(tmp_path / "savings.txt")]) == 2
    savings.record(report("r", details={"measured": as_json(replace(measured("r"), days=()))}))
    assert main(["savings", "--plan", "r", "--plot", str(tmp_path / "none.png")]) == 2
    assert "no whole day has passed" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_one_line_tells_when_the_database_is_away(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("CLOUDFLUX_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    assert main(["savings"]) == 1
    assert capsys.readouterr().err.startswith("cloudflux: ")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "0"), ("1234.5", "1,234.50"), ("-12.347", "-12.35"), ("0.0001234", "0.0001234"), ("0.5", "0.5000")],
)
def test_amounts_show_four_digits(amount: str, shown: str) -> None:
    assert usd(D(amount)) == shown
