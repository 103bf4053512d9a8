"""Who approves what, and what the parameters of a run come to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from cloudflux.domain.errors import SettingsError
from cloudflux.domain.plans import Guardrails, PlanState
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.orchestration import migration_tasks
from cloudflux.stores import plans as plan_store

PARAMS: dict[str, Any] = {
    "dry_run": False,
    "require_approval": True,
    "approve_up_to_objects": 0,
    "approve_up_to_usd": 0.0,
    "max_objects": 100,
    "max_bytes": 10**9,
    "max_one_time_usd": 0.1,
    "min_saving_usd": 0.0,
    "min_plan_saving_usd": 1.5,
    "allowed_prefixes": None,
    "excluded_prefixes": ["s3://media/raw/"],
    "allowed_tags": [],
    "excluded_tags": ["keep"],
    "quiet_hours": "22:00-06:00 Europe/Berlin",
    "canary_share": 0.01,
    "hold_out_share": 0.05,
    "valid_days": 7,
}
PROPOSAL = {"plan_id": "plan-1", "moves": 10, "one_time_usd": "0.5"}


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(**overrides: Any) -> None:
        monkeypatch.setattr(migration_tasks, "get_current_context", lambda: {"params": PARAMS | overrides})

    return install


class Plans:
    recorded: list[Any]

    def __init__(self, engine: object) -> None:
        pass

    def check_moves(self, plan_id: str) -> None:
        type(self).recorded.append(("checked", plan_id))

    def set_state(self, plan_id: str, state: PlanState, by: str, at: object, note: str) -> None:
        type(self).recorded.append((plan_id, state, by, note))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    Plans.recorded = []
    monkeypatch.setattr(plan_store, "Plans", Plans)
    monkeypatch.setattr(migration_tasks, "engine", lambda: None)
    monkeypatch.setattr(migration_tasks, "actor", lambda: "migrate_tiers/run")
    return Plans.recorded


def test_guardrails_are_what_the_parameters_say() -> None:
    assert migration_tasks.guardrails_of(PARAMS) == Guardrails(
        100,
        10**9,
        Decimal("0.1"),
        Decimal(0),
        Decimal("1.5"),
        excluded_prefixes=("s3://media/raw/",),
        excluded_tags=("keep",),
        quiet_hours=QuietHours(time(22), time(6), "Europe/Berlin"),
        canary_share=0.01,
        hold_out_share=0.05,
        valid_days=7,
    )


def test_the_error_names_the_parameter_when_it_makes_no_sense() -> None:
    with pytest.raises(SettingsError, match=r"quiet_hours: .*'at night'"):
        migration_tasks.guardrails_of(PARAMS | {"quiet_hours": "at night"})


@pytest.mark.parametrize(
    ("overrides", "moves", "path"),
    [
        ({}, 10, "approve_plan"),
        ({}, 0, None),
        ({"dry_run": True}, 10, None),
        ({"dry_run": True, "require_approval": False}, 10, None),
        ({"require_approval": False}, 10, "record_approval"),
        ({"approve_up_to_objects": 10, "approve_up_to_usd": 0.5}, 10, "record_approval"),
        ({"approve_up_to_objects": 10, "approve_up_to_usd": 0.49}, 10, "approve_plan"),
        ({"approve_up_to_objects": 9, "approve_up_to_usd": 0.5}, 10, "approve_plan"),
    ],
)
def test_a_person_is_asked_unless_the_plan_is_small_enough(
    params: Callable[..., None], overrides: dict[str, Any], moves: int, path: str | None
) -> None:
    params(**overrides)
    assert migration_tasks.choose_path(moves, "0.5") == path


def test_the_answer_is_on_the_record_when_a_person_approved(params: Callable[..., None], recorded: list[Any]) -> None:
    params()
    answer = {"responded_by_user": {"name": "anna"}, "params_input": {"note": "fine"}, "chosen_options": ["Approve"]}
    migration_tasks.record_approval(PROPOSAL, answer)
    assert recorded == [("checked", "plan-1"), ("plan-1", PlanState.APPROVED, "anna", "fine")]


def test_the_reason_is_on_the_record_when_no_person_was_asked(params: Callable[..., None], recorded: list[Any]) -> None:
    params(approve_up_to_objects=10, approve_up_to_usd=1)
    migration_tasks.record_approval(PROPOSAL, None)
    assert recorded[-1][1:3] == (PlanState.APPROVED, "migrate_tiers/run")
    assert "approve_up_to_objects=10" in recorded[-1][3]


def test_nothing_is_approved_when_the_form_gave_no_answer(params: Callable[..., None], recorded: list[Any]) -> None:
    params()
    with pytest.raises(AirflowFailException, match="needs a person's approval and has none"):
        migration_tasks.record_approval(PROPOSAL, None)
    assert recorded == []
