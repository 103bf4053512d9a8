"""`./cloudflux plans`, `plan`, `undo` and `reconcile`: figures, exit statuses, and output that no key can steer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine
from unit.workflows.recorded_moves import DyingClient, Killed, Recorded

from cloudflux.domain.errors import CredentialsRefused, TerminalError, TransientError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.uploads import UnfinishedUpload
from cloudflux.local.cli import main
from cloudflux.local.demo import airflow_api
from cloudflux.local.migrations import command
from cloudflux.local.stack import Stack
from cloudflux.orchestration import clients
from cloudflux.providers import aws_copies
from cloudflux.stores.slots import range_lock
from cloudflux.workflows.migrate import ledger_entry
from cloudflux.workflows.plan import plan_id_of

HOSTILE = "logs/\x1b[31m[red] \u202eü"


@pytest.fixture
def world(engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The environment names everything, and the clients are those of a bucket in memory."""
    estate = tmp_path / "estate.yaml"
    estate.write_text(
        "buckets: [{provider: aws, bucket: b, price_book: aws-us-east-1, connection_id: aws_default}]",
        encoding="utf-8",
    )
    monkeypatch.setenv("CLOUDFLUX_DATABASE_URL", database_url)
    monkeypatch.setenv("CLOUDFLUX_ESTATE", str(estate))
    monkeypatch.setenv("CLOUDFLUX_LAKE_URL", str(tmp_path / "lake"))
    monkeypatch.setenv("CLOUDFLUX_VAR", str(tmp_path / "no stack"))
    world = Recorded(engine, Provider.AWS)
    monkeypatch.setattr(clients, "tier_client", lambda *_: world.client)
    monkeypatch.setattr(clients, "moving_client", lambda *_, **__: (world.client, False))
    return world


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


Said = Callable[..., tuple[int, str, str]]


class TestPlans:
    def test_there_are_none(self, world: Recorded, said: Said) -> None:
        assert said("plans") == (0, "There are no plans yet: run migrate_tiers.\n", "")
        assert said("plans", "--json")[1] == "[]\n"

    def test_each_plan_is_one_line_with_who_approved_it(self, world: Recorded, said: Said) -> None:
        world.add_plan("plan-1", "GLACIER_IR", state=PlanState.PROPOSED)
        world.plans.set_state("plan-1", PlanState.APPROVED, "Ada\x1b[2J", world.now)
        world.add_plan("plan-2", "GLACIER_IR", state=PlanState.PREVIEW)
        status, out, err = said("plans")
        assert (status, err) == (0, "")
        (line,) = [line for line in out.splitlines() if "plan-1" in line]
        assert "placement" in line
        assert "approved" in line
        assert r"Ada\x1b[2J, 2026-03-01 00:00" in line
        assert "\x1b" not in out
        (found, *_) = [plan for plan in json.loads(said("plans", "--json")[1]) if plan["plan_id"] == "plan-1"]
        assert (found["state"], found["totals"]["objects"], found["history"][-1]["by"]) == (
            "approved",
            5,
            "Ada\x1b[2J",
        )
        assert len(json.loads(said("plans", "-n", "1", "--json")[1])) == 1


class TestPlan:
    def test_guardrails_groups_history_and_progress_are_shown(self, world: Recorded, said: Said) -> None:
        world.add_plan("plan-1", "GLACIER_IR")
        world.now += (world.plans.get("plan-1").expires_at - world.now) / 2
        world.mover().carry_out("plan-1", 0, 2)
        status, out, _ = said("plan", "plan-1")
        assert status == 0
        assert "at most 1,000,000 moves" in out
        (progress,) = [line for line in out.splitlines() if line.startswith("aws") and "GLACIER_IR" not in line]
        assert progress.split()[:5] == ["aws", "b", "5", "3", "2"]  # moves, done, planned
        assert "History" in out
        found = json.loads(said("plan", "latest", "--json")[1])
        assert (found["plan_id"], found["guardrails"]["max_one_time_usd"]) == ("plan-1", "Infinity")
        (part,) = found["progress"]
        assert (part["done"], part["planned"], part["ended"], part["moves"]) == (3, 2, 3, 5)

    def test_moves_that_nothing_takes_back_are_counted(self, world: Recorded, engine: Engine, said: Said) -> None:
        world.add_plan("plan-1", "GLACIER_IR")
        assert "for good" not in said("plan", "plan-1")[1]
        assert json.loads(said("plan", "plan-1", "--json")[1])["irreversible"] == 0
        azure = Recorded(engine, Provider.AZURE)
        for ref in azure.refs:  # no request puts a blob into smart tier, its account does
            state, data = azure.client._buckets["b"][ref.key]
            azure.client._buckets["b"][ref.key] = (replace(state, storage_class="Smart"), data)
        azure.add_plan("plan-2", "Cold")
        assert "for good 5 leave smart tier: no undo takes them back" in " ".join(said("plan", "plan-2")[1].split())
        assert json.loads(said("plan", "plan-2", "--json")[1])["irreversible"] == 5

    def test_moves_in_a_state_are_listed_escaped(self, world: Recorded, said: Said) -> None:
        world.refs = [ObjectRef(Provider.AWS, "b", HOSTILE)]
        world.client.put_object(world.refs[0], b"x")
        world.add_plan("plan-1", "GLACIER_IR")
        move = world.plans.moves("plan-1", 0, 0)[0]
        world.ledger.append(
            [ledger_entry("plan-1", move, MigrationState.FAILED, at=world.now, actor="t", detail="[bold]no\x1b[0m")]
        )
        status, out, _ = said("plan", "plan-1", "--moves", "failed")
        assert status == 0
        assert r"[bold]no\x1b[0m" in out
        assert "\x1b" not in out
        assert "\u202e" not in out
        (found,) = json.loads(said("plan", "plan-1", "--moves", "failed", "--json")[1])["moves"]
        assert ObjectRef.from_uri(found["uri"]).key == HOSTILE
        assert "none" in said("plan", "plan-1", "--moves", "skipped")[1]

    def test_no_such_plan_is_one_line(self, world: Recorded, said: Said) -> None:
        assert said("plan", "plan-9") == (
            2,
            "",
            "cloudflux: there is no plan 'plan-9'; ./cloudflux plans lists them\n",
        )

    def test_watching_ends_when_the_plan_has_ended(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.add_plan("plan-1", "GLACIER_IR")

        def finish(_seconds: float) -> None:
            world.carry_out("plan-1")
            world.plans.set_state("plan-1", PlanState.FINISHED, "me", world.now)

        monkeypatch.setattr(command.time, "sleep", finish)
        status, out, _ = said("plan", "plan-1", "--watch")
        assert status == 0
        first, last = out.splitlines()
        assert "approved: 5 planned of 5 moves" in first
        assert "finished: 5 done of 5 moves" in last

    def test_an_unreachable_database_is_one_line(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLOUDFLUX_DATABASE_URL", "postgresql://x:secret@127.0.0.1:1/none")
        status, out, err = said("plans")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("cloudflux: no connection to database")
        assert "secret" not in err

    def test_a_stack_that_never_started_is_one_line(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CLOUDFLUX_DATABASE_URL")
        status, _, err = said("plans")
        assert (status, err.count("\n")) == (1, 1)


class FakeAirflow:
    """Airflow's API as the command uses it."""

    triggered: list[tuple[str, dict[str, Any]]]

    def __init__(self, *_: str) -> None:
        self.unpaused = False

    def log_in(self) -> None:
        pass

    def is_paused(self, _dag_id: str) -> bool:
        return True

    def unpause(self, _dag_id: str) -> None:
        self.unpaused = True

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> Any:
        assert self.unpaused
        type(self).triggered.append((dag_id, conf))

        class Run:
            run_id = "manual__1"

        return Run

    def run_page(self, dag_id: str, run_id: str) -> str:
        return f"http://airflow/{dag_id}/{run_id}"


@pytest.fixture
def airflow(world: Recorded, monkeypatch: pytest.MonkeyPatch) -> type[FakeAirflow]:
    FakeAirflow.triggered = []
    monkeypatch.setattr(airflow_api, "AirflowApi", FakeAirflow)
    monkeypatch.setattr(Stack, "environment", lambda _: dict(os.environ))
    monkeypatch.setattr(Stack, "addresses", lambda _: {"airflow": "http://airflow"})
    monkeypatch.setattr(Stack, "credentials", lambda _: {"airflow": ("admin", "secret")})
    return FakeAirflow


class TestUndo:
    def test_the_cost_is_stated_and_nothing_started_when_dry(
        self, world: Recorded, said: Said, airflow: type[FakeAirflow]
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        status, out, err = said("undo", "plan-1", "--dry-run")
        assert (status, err) == (0, "")
        assert "Takes back 5 moves of plan-1, 45 B." in out
        # five copies; the early deletion of so few bytes is nothing
        assert "It costs USD 0.000025 once, and USD 0.100000 more a month" in out or "It costs USD 0.00007" in out
        assert airflow.triggered == []
        assert len(world.plans.recent(10)) == 1

    def test_the_run_may_do_no_more_than_was_stated(
        self, world: Recorded, said: Said, airflow: type[FakeAirflow]
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        status, out, err = said("undo", "plan-1", "--yes")
        assert status == 0
        ((dag_id, conf),) = airflow.triggered
        stated = json.loads(said("undo", "plan-1", "--dry-run", "--json")[1])
        cost = float(stated["totals"]["one_time_usd"])
        assert 0 < cost < conf.pop("max_one_time_usd") < cost + 0.000002
        assert (dag_id, conf) == (
            "migrate_tiers",
            {"undo": "plan-1", "dry_run": False, "require_approval": False, "max_objects": 5, "max_bytes": 45},
        )
        assert "Started: http://airflow/migrate_tiers/manual__1" in out
        assert f"./cloudflux plan {plan_id_of('manual__1')} --watch" in out
        assert err == "migrate_tiers was paused: it is not any more\n"

    @pytest.mark.parametrize("case", [("y", 0, 1), ("n", 2, 0), ("", 2, 0)])
    def test_a_person_is_asked_on_a_terminal(
        self,
        world: Recorded,
        said: Said,
        airflow: type[FakeAirflow],
        monkeypatch: pytest.MonkeyPatch,
        case: tuple[str, int, int],
    ) -> None:
        answer, status, started = case
        world.moved("plan-1", "GLACIER_IR")
        asked: list[str] = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
        assert said("undo", "plan-1")[0] == status
        assert asked[0].startswith("Take 5 moves back for USD 0.0000")
        assert len(airflow.triggered) == started

    def test_nothing_is_started_when_nobody_can_be_asked(
        self, world: Recorded, said: Said, airflow: type[FakeAirflow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        status, _, err = said("undo", "plan-1")
        assert (status, err) == (2, "cloudflux: nothing was started: agree with --yes, or look with --dry-run\n")
        assert airflow.triggered == []

    def test_nothing_is_started_when_it_costs_more_than_allowed(
        self, world: Recorded, said: Said, airflow: type[FakeAirflow]
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        status, _, err = said("undo", "plan-1", "--yes", "--max-usd", "0")
        assert status == 1
        assert "above --max-usd 0: nothing was started" in err
        assert airflow.triggered == []

    def test_the_configuration_is_told_when_there_is_no_airflow(self, world: Recorded, said: Said) -> None:
        world.moved("plan-1", "GLACIER_IR")
        status, out, err = said("undo", world.refs[0].uri, "--yes")
        assert status == 1
        assert "nothing was started" in err
        assert "trigger migrate_tiers with this configuration" in err
        assert json.loads(out.splitlines()[-1])["undo"] == world.refs[0].uri

    @pytest.mark.parametrize(
        ("target", "why"),
        [
            ("plan-9", "there is no plan 'plan-9'"),
            ("s3://b/none", "no move of s3://b/none that is done"),
            ("ftp://b/x", "not an object address"),
        ],
    )
    def test_what_cannot_be_undone_is_one_line(self, world: Recorded, said: Said, target: str, why: str) -> None:
        status, out, err = said("undo", target, "--yes")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert why in err


class TestReconcile:
    def test_all_agrees(self, world: Recorded, said: Said) -> None:
        world.moved("plan-1", "GLACIER_IR")
        world.add_plan("plan-2", "DEEP_ARCHIVE", state=PlanState.PREVIEW)
        status, out, err = said("reconcile")
        assert (status, err) == (0, "")
        assert "The ledger and the buckets agree: 5 moves of 1 plans." in out

    def test_a_killed_run_is_told_and_repaired(self, world: Recorded, said: Said) -> None:
        world.add_plan("plan-1", "GLACIER_IR")
        with pytest.raises(Killed):
            world.mover(DyingClient(world.client, "change_tiers", 0, acted=True)).carry_out("plan-1", 0, 4)
        status, out, _ = said("reconcile", "--plan", "plan-1", "--json")
        found = json.loads(out)
        assert (status, found["agree"], found["moves"]) == (1, False, 5)
        assert [(each["standing"], each["moves"]) for each in found["counts"]] == [("behind", 5)]
        assert found["findings"][0]["uri"] == world.refs[0].uri
        assert "the ledger is behind on 5: record them with --repair" in said("reconcile", "--plan", "plan-1")[1]
        status, out, _ = said("reconcile", "--all", "--repair")
        assert status == 0
        assert "5 repaired" in out
        assert set(world.states("plan-1").values()) == {MigrationState.DONE}
        assert {entry.actor for entry in world.ledger.entries("plan-1", states=[MigrationState.DONE])} == {"reconcile"}

    def test_nothing_is_repaired_while_a_worker_holds_the_range(self, world: Recorded, said: Said) -> None:
        world.add_plan("plan-1", "GLACIER_IR")
        with pytest.raises(Killed):
            world.mover(DyingClient(world.client, "change_tiers", 0, acted=True)).carry_out("plan-1", 0, 4)
        with range_lock(world.engine, "plan-1", 0):
            status, out, _ = said("reconcile", "--repair")
        assert status == 1
        assert "not repaired: another process works on the moves" in out
        assert set(world.states("plan-1").values()) == {MigrationState.SUBMITTED}

    def test_a_disagreement_is_listed_with_its_address_escaped(self, world: Recorded, said: Said) -> None:
        world.refs = [ObjectRef(Provider.AWS, "b", HOSTILE)]
        seen = world.client.put_object(world.refs[0], b"x")
        world.add_plan("plan-1", "GLACIER_IR")
        move = world.plans.moves("plan-1", 0, 0)[0]
        after = replace(seen, storage_class="GLACIER_IR")
        for state, look in (("submitted", seen), ("verifying", None), ("done", after)):
            entry = ledger_entry("plan-1", move, MigrationState(state), at=world.now, actor="liar", object_state=look)
            world.ledger.append([entry])
        status, out, _ = said("reconcile", "--repair")
        assert status == 1
        assert "1 disagree, and nothing here can repair them" in out
        assert "\x1b" not in out
        assert "\u202e" not in out

    def test_refused_credentials_are_named_and_prove_nothing(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")

        def refused(*_: object) -> None:
            raise CredentialsRefused("the token of aws_default has expired")

        monkeypatch.setattr(clients, "tier_client", refused)
        status, out, _ = said("reconcile")
        assert status == 1
        assert "not looked at: the token of aws_default has expired" in out
        assert "5 could not be looked at" in out

    def test_the_list_has_an_end(self, world: Recorded, said: Said) -> None:
        world.moved("plan-1", "GLACIER_IR")
        for ref in world.refs:
            world.client.delete_object(ref)
        status, out, _ = said("reconcile", "--limit", "2")
        assert status == 0  # whoever deleted them, it was not us
        assert out.count("deleted after its move") == 2
        assert "(3 more: --limit)" in out

    def test_no_such_plan_is_one_line(self, world: Recorded, said: Said) -> None:
        assert said("reconcile", "--plan", "plan-9") == (
            2,
            "",
            "cloudflux: there is no plan 'plan-9'; ./cloudflux plans lists them\n",
        )

    def test_nothing_ever_moved(self, world: Recorded, said: Said) -> None:
        assert said("reconcile") == (0, "There is no plan of which anything may have moved.\n", "")

    def test_a_copy_in_parts_that_was_left_is_told_and_aborted(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        left = UnfinishedUpload(world.refs[2], "upload-7", "GLACIER_IR", world.now)
        aborted: list[str] = []
        uploads = SimpleNamespace(
            unfinished=lambda bucket, keys: [left], abort=lambda upload: aborted.append(upload.upload_id)
        )
        monkeypatch.setattr(clients, "unfinished_uploads", lambda connection_id: uploads)
        monkeypatch.setattr(aws_copies, "CopyLimits", lambda: SimpleNamespace(one_copy_bytes=1))
        status, out, _ = said("reconcile")
        assert (status, aborted) == (0, [])
        assert "upload-7" in out
        assert "1 copies in parts are left, and billed: abort them with --repair" in out
        found = json.loads(said("reconcile", "--repair", "--json")[1])
        assert aborted == ["upload-7"]
        assert [(upload["uri"], upload["aborted"]) for upload in found["uploads"]] == [(world.refs[2].uri, True)]

    def test_moves_are_compared_when_uploads_may_not_be_listed(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")

        def denied(*_: object) -> None:
            raise TerminalError("AccessDenied: s3:ListBucketMultipartUploads")

        monkeypatch.setattr(
            clients, "unfinished_uploads", lambda connection_id: SimpleNamespace(unfinished=denied, abort=denied)
        )
        monkeypatch.setattr(aws_copies, "CopyLimits", lambda: SimpleNamespace(one_copy_bytes=1))
        status, out, _ = said("reconcile")
        assert status == 0
        assert "The ledger and the buckets agree: 5 moves" in out
        assert "AccessDenied: s3:ListBucketMultipartUploads" in out

    def test_a_cloud_that_is_away_ends_its_own_buckets_alone(
        self, world: Recorded, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.moved("plan-1", "GLACIER_IR")
        world.moved("plan-2", "STANDARD", refs=world.refs[:1])
        calls: list[int] = []

        def first_away(*_: object) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise TransientError("S3 does not answer")
            return world.client

        monkeypatch.setattr(clients, "tier_client", first_away)
        found = json.loads(said("reconcile", "--json")[1])
        assert len(found["problems"]) == 1
        assert found["counts"] != []


@pytest.mark.parametrize("arguments", [["reconcile", "--limit", "0"], ["undo", "x", "--max-usd", "-1"], ["plan"]])
def test_a_wrong_argument_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
