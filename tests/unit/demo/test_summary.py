"""The summary: what the JSON holds, and when the exit status is not zero."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from cloudflux.domain.plans import PlanTotals
from cloudflux.local.demo.airflow_api import DagRun
from cloudflux.local.demo.summary import Forecaster, KafkaCounts, Moves, Summary
from cloudflux.local.demo.upload import Uploaded

BEGAN = datetime(2026, 11, 23, 8, tzinfo=UTC)


def dag_run(dag_id: str = "score_objects", state: str = "success") -> DagRun:
    return DagRun(dag_id, "run-1", state, "asset_triggered", BEGAN, BEGAN, BEGAN + timedelta(seconds=12.5))


def tiers(**objects: int) -> pl.DataFrame:
    names = {"hot": "STANDARD", "warm": "STANDARD_IA", "cold": "GLACIER_IR"}
    return pl.DataFrame(
        {
            "provider": ["aws"] * len(objects),
            "storage_class": [names[tier] for tier in objects],
            "tier": list(objects),
            "objects": list(objects.values()),
            "bytes": [count * 1024 for count in objects.values()],
        }
    )


def summary(**overrides: Any) -> Summary:
    values: dict[str, Any] = {
        "world": "demo",
        "objects": 100,
        "object_bytes": 102_400,
        "days": 120,
        "left_out_objects": 0,
        "left_out_reads": 0,
        "max_object_bytes": 1024,
        "uploaded": Uploaded(100, 0, 102_400, 30, 0, 3),
        "tiers_before": tiers(hot=90, warm=10),
        "tiers_after": tiers(hot=60, warm=20, cold=20),
        "totals": PlanTotals(
            objects=30,
            bytes=30_720,
            saving_usd=Decimal("0.2"),
            one_time_usd=Decimal("0.01"),
            before_usd_month=Decimal("1.5"),
            after_usd_month=Decimal("1.2"),
            scored_objects=100,
            left_out=0,
        ),
        "plan_id": "plan-1",
        "after_usd_month": Decimal("1.2"),
        "moves": Moves(planned=30, verified=30),
        "forecaster": Forecaster(
            "run", {"accuracy": 0.9, "macro_f1": 0.8, "persistence_accuracy": 0.85, "persistence_macro_f1": 0.7}
        ),
        "kafka": KafkaCounts(103, 100, 3, 100, 0, (("not JSON", 3),)),
        "quarantined": (("binary data, not a log file", 1), ("[bold]odd[/bold] line", 2)),
        "dag_runs": (dag_run(),),
        "seconds": 123.456,
        "peak_bytes": 2**31,
    }
    return Summary(**(values | overrides))


def test_withheld_buckets_are_shown_with_the_reason_when_there_are_any() -> None:
    told = summary(withheld=(("media", "withheld: the access logs tell 70 % of the last 30 days"),))
    assert told.as_json()["withheld"] == {"media": "withheld: the access logs tell 70 % of the last 30 days"}
    text = io.StringIO()
    told.print(Console(file=text, width=200))
    assert "media: the access logs tell 70 % of the last 30 days" in text.getvalue()


def test_json_holds_what_the_issue_names() -> None:
    facts = json.loads(json.dumps(summary().as_json()))
    assert facts["objects"] == 100
    assert {name: facts["moves"][name] for name in ("planned", "verified", "failed", "skipped")} == {
        "planned": 30,
        "verified": 30,
        "failed": 0,
        "skipped": 0,
    }
    assert (facts["cost"]["before_usd_month"], facts["cost"]["after_usd_month"]) == (1.5, 1.2)
    assert facts["forecaster"]["accuracy"] == 0.9
    assert facts["forecaster"]["macro_f1"] == 0.8
    assert facts["forecaster"]["persistence_accuracy"] == 0.85
    assert (facts["kafka"]["produced"], facts["kafka"]["staged"], facts["kafka"]["dead_lettered"]) == (103, 100, 3)
    assert facts["quarantined"] == 3
    assert facts["dag_runs"] == [{"dag_id": "score_objects", "run_id": "run-1", "state": "success", "seconds": 12.5}]
    assert facts["seconds"] == 123.5
    assert facts["peak_bytes"] == 2**31
    assert sum(row["objects"] for row in facts["tiers"]["after"]) == 100


def test_moves_again_are_shown_with_the_day_when_there_are_any() -> None:
    told = summary(moves=Moves(planned=30, verified=30, again=2, day=date(2026, 11, 23)))
    facts = told.as_json()["moves"]
    assert (facts["again"], facts["day"]) == (2, "2026-11-23")
    text = io.StringIO()
    told.print(Console(file=text, width=200))
    assert "2 of objects that an earlier plan had moved" in text.getvalue()


def test_nothing_is_wrong_when_all_moves_are_verified_or_skipped() -> None:
    assert summary().problems() == []
    assert summary(moves=Moves(planned=30, verified=28, skipped=2)).problems() == []
    assert summary(moves=Moves(planned=30, rejected=True)).problems() == []


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"dag_runs": (dag_run(state="failed"),)}, "the DAG run score_objects run-1 is failed"),
        ({"moves": Moves(planned=30, verified=29, failed=1)}, "1 moves failed"),
        ({"moves": Moves(planned=30, verified=29)}, "1 moves are not verified"),
        ({"kafka": KafkaCounts(100, 101, 0, 101, 0)}, "more rows were staged"),
    ],
)
def test_problem_is_named_when_something_is_not_well(overrides: dict[str, Any], problem: str) -> None:
    (found,) = summary(**overrides).problems()
    assert problem in found


def test_json_has_nulls_when_nothing_was_trained_or_planned() -> None:
    facts = summary(forecaster=None, totals=None, after_usd_month=None).as_json()
    assert facts["forecaster"]["accuracy"] is None
    assert facts["cost"]["before_usd_month"] is None


def test_tables_show_the_facts_when_printed() -> None:
    out = io.StringIO()
    moves = replace(Moves(planned=30, verified=28, skipped=2), reasons=(("skipped", "deleted since the plan", 2),))
    summary(moves=moves, left_out_objects=7, left_out_reads=70).print(Console(file=out, width=140))
    text = out.getvalue()
    for expected in (
        "GLACIER_IR",
        "30 planned, 28 verified, 0 failed, 2 skipped",
        "2 deleted since the plan",
        "7 objects larger than 1,024 bytes, with their 70 reads",
        "USD 1.500000 before, 1.200000 after (-20.0 %)",
        "accuracy 0.900 (macro F1 0.800); persistence 0.850 (macro F1 0.700)",
        "[bold]odd[/bold] line",  # what strangers wrote is no markup
        "score_objects",
    ):
        assert expected in text
