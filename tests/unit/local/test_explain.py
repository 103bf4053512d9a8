"""`./cloudflux explain`: exit statuses, one line for what went wrong, and output that no key can steer."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest

from cloudflux.domain.errors import ObjectNotFound, TransientError
from cloudflux.local.cli import main
from cloudflux.local.explain.command import NEEDED
from cloudflux.local.explain.tables import dollars, printable, sparkline
from cloudflux.orchestration import explanations
from cloudflux.workflows.explain import BucketNotInEstate, NothingToExplain
from cloudflux.workflows.explanation import (
    CandidateCost,
    ExplainedDecision,
    ExplainedForecast,
    ExplainedGuard,
    ExplainedHistory,
    ExplainedObject,
    ExplainedState,
    Explanation,
    HorizonForecast,
    PricesUsed,
    RuledOut,
    StoredDecision,
    WindowAccess,
)

DAY = date(2026, 6, 1)
URI = "s3://data/a%20b"


def explanation(**overrides):
    known = {
        "uri": URI,
        "provider": "aws",
        "bucket": "data",
        "key": "a b",
        "day": DAY,
        "inventory_day": DAY,
        "object": ExplainedObject(
            size_bytes=2**30,
            storage_class="STANDARD",
            tier="hot",
            class_since_at=datetime(2026, 1, 1, tzinfo=UTC),
            days_in_class=151.0,
            last_modified_at=datetime(2026, 1, 1, tzinfo=UTC),
            content_type=None,
            lock_reason="[red]\x1b[31m",
            excluded_prefix=None,
            pinned_class=None,
            retained=False,
            latency="ms",
        ),
        "history": ExplainedHistory(
            known_since=date(2026, 1, 1),
            first_day=date(2026, 3, 3),
            daily_reads=(0,) * 88 + (1, 8),
            windows=tuple(WindowAccess(days, 9, 1, 0) for days in (7, 30, 90, 180)),
            last_read_on=date(2026, 5, 31),
            last_written_on=None,
            coverage=1.0,
        ),
        "forecast": ExplainedForecast(
            source="model:7",
            note=None,
            tier="cold",
            confidence=0.9,
            horizons=tuple(HorizonForecast(days, 0.5, 1.0, 0.4, 0.9) for days in (7, 30, 90, 180)),
            state=ExplainedState(3, 40, 0.01, 0.02, 5000.0),
        ),
        "decision": ExplainedDecision(
            action="move",
            chosen_class="GLACIER_IR",
            reason="move STANDARD -> GLACIER_IR: because",
            horizon_days=180,
            expected_reads=0.9,
            placed_by="state of use",
            stay_usd=0.138,
            chosen_usd=0.02,
            one_time_usd=0.00002,
            saving_usd=0.118,
            payback_days=0.3,
            payback_on=date(2026, 6, 2),
            current_monthly_usd=0.023,
            chosen_monthly_usd=0.003,
        ),
        "candidates": (
            CandidateCost("keep", "STANDARD", False, 0.138, 0, 0, 0, 0, 0, 0, 0.138, 0.138),
            CandidateCost("move", "GLACIER_IR", True, 0.0199, 0, 0, 0, 0.0001, 0, 0, 0.02, 0.02),
        ),
        "ruled_out": (RuledOut("DEEP_ARCHIVE", "the first byte takes hours, and its owner accepts milliseconds"),),
        "rule_class": "GLACIER_IR",
        "rule_reason": "cold: 1 accesses a month (fewer than 5)",
        "prices": PricesUsed("aws-us-east-1", "us-east-1", "", date(2026, 5, 1)),
        "stored": StoredDecision(date(2026, 5, 30), "keep", "STANDARD", "keep STANDARD: x", 0.0, "model:6", False),
    }
    return Explanation(**(known | overrides))


@pytest.fixture
def set_up(monkeypatch):
    for name in NEEDED:
        monkeypatch.setenv(name, "somewhere")


def answering(monkeypatch, answer):
    def explain(uri):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(explanations, "explain", explain)


def test_one_line_and_status_2_come_when_the_address_is_malformed(capsys):
    assert main(["explain", "bucket/key"]) == 2
    said = capsys.readouterr().err
    assert said == "cloudflux: not an object address (s3://, az:// or gs:// with bucket and key): 'bucket/key'\n"


@pytest.mark.parametrize("error", [ObjectNotFound("s3://a/b is not there"), BucketNotInEstate("s3://a/b has no owner")])
def test_one_line_and_status_2_come_when_there_is_no_such_object(set_up, monkeypatch, capsys, error):
    answering(monkeypatch, error)
    assert main(["explain", URI]) == 2
    assert capsys.readouterr().err == f"cloudflux: {error}\n"


@pytest.mark.parametrize("error", [TransientError("PostgreSQL is away"), NothingToExplain("there is no inventory")])
def test_one_line_and_status_1_come_when_something_is_away(set_up, monkeypatch, capsys, error):
    answering(monkeypatch, error)
    assert main(["explain", URI]) == 1
    assert capsys.readouterr().err == f"cloudflux: {error}\n"


def test_one_line_names_the_folder_when_no_stack_was_ever_up(monkeypatch, tmp_path, capsys):
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)
    assert main(["explain", URI, "--var", str(tmp_path / "none")]) == 1
    said = capsys.readouterr().err
    assert f"there is no stack in {tmp_path / 'none'}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("name", "why"), [("x.pdf", "ends in .png or .svg"), ("none/x.png", "no such folder")])
def test_plot_is_refused_before_any_work_when_it_cannot_be_written(tmp_path, capsys, name, why):
    assert main(["explain", URI, "--plot", str(tmp_path / name)]) == 2
    assert why in capsys.readouterr().err


def test_all_is_shown_and_nothing_steers_the_terminal_when_an_object_is_explained(set_up, monkeypatch, capsys):
    answering(monkeypatch, explanation())
    assert main(["explain", URI]) == 0
    shown = capsys.readouterr().out
    for said in (
        URI, "1.0 GiB", "at most 8 a day", "keep for good", "→ move today", "GLACIER_IR", "2026-06-02", "aws-us-east-1",
        "looked up on 2026-05-01", "the stored decision of 2026-05-30, by model:6 says otherwise",
        "State of use 3 of 40", "[red]\\x1b[31m", "accepts milliseconds",
    ):  # fmt: skip
        assert said in shown
    assert "\x1b" not in shown
    assert "monitoring" not in shown, "a part that is zero everywhere has no column"


def test_json_is_what_the_api_answers_when_it_is_asked_for(set_up, monkeypatch, capsys):
    answering(monkeypatch, explanation())
    assert main(["explain", URI, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["decision"]["payback_on"] == "2026-06-02"
    assert told["candidates"][1]["chosen"] is True


def test_plot_is_drawn_when_a_key_holds_what_would_be_a_formula(set_up, monkeypatch, tmp_path):
    answering(monkeypatch, explanation(uri="s3://data/$x_{$"))
    assert main(["explain", URI, "--plot", str(tmp_path / "x.svg")]) == 0
    assert (tmp_path / "x.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_figures_keep_three_digits_when_they_are_small_or_large():
    assert [dollars(one) for one in (0, 0.000012345, 0.138, 1.5, 12345.678, 1e-12)] == [
        "0", "0.0000123", "0.138", "1.50", "12,345.68", "1.00e-12",
    ]  # fmt: skip


def test_bars_are_as_high_as_the_counts_when_there_are_any():
    assert sparkline([0, 1, 4, 8]) == "·▁▄█  at most 8 a day"
    assert sparkline([0, 0]) == "··  none"


def test_text_is_turned_into_escapes_when_it_would_move_the_cursor_or_turn_round():
    assert printable("a\x1b[2J\u202eb\nä") == "a\\x1b[2J\\u202eb\\nä"


def test_rules_are_said_to_speak_when_no_registry_is_named_or_it_is_away(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert explanations.find_champion("m").reason == "MLFLOW_TRACKING_URI names no model registry"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = explanations.find_champion("m")
    assert (found.champion, found.reason) == (None, "MLflow does not answer")


def test_lake_is_named_when_its_files_cannot_be_read():
    with pytest.raises(TransientError, match="CLOUDFLUX_LAKE_URL cannot be read"), explanations._lake_problems_named():
        raise PermissionError(13, "denied")
    with pytest.raises(ObjectNotFound), explanations._lake_problems_named():
        raise ObjectNotFound("s3://a/b is not there")


def test_refuted_object_is_said_to_be_decided_by_break_even(capsys, monkeypatch):
    for name in NEEDED:
        monkeypatch.setenv(name, "set")
    for guard, said in (
        (ExplainedGuard(0.0, date(2026, 6, 20), DAY, "model:7"), "break-even decides until 2026-06-20"),
        (ExplainedGuard(0.15, None, DAY, "model:7"), "since 2026-06-01 its reads have cost $0.150 beyond"),
    ):
        monkeypatch.setattr(explanations, "explain", lambda uri, guard=guard: explanation(guard=guard))
        assert main(["explain", URI]) == 0
        assert said in capsys.readouterr().out
