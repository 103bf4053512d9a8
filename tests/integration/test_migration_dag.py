"""`migrate_tiers` in a real Airflow, where the provider takes its time (lifecycle rules, restores, an undo), and where
the guardrails hold it up: quiet hours, an expiry, canaries that fail."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
import yaml
from conftest import STACKS, settings_without_services
from sdk_clients import s3_client
from sqlalchemy import text

from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import PlanState
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import DECISIONS
from cloudflux.local.demo.airflow_api import AirflowApi, DagRun
from cloudflux.local.services import AIRFLOW
from cloudflux.local.stack import Stack
from cloudflux.stores import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.workflows.plan import plan_id_of

pytestmark = [pytest.mark.integration, pytest.mark.stack, pytest.mark.timeout(1500)]

PLAIN, KEPT = "moves-plain", "moves-kept"
QUIET, LATE, GOOD, REFUSED = "moves-quiet", "moves-late", "moves-good", "moves-refused"
KEYS = {
    PLAIN: [f"plain/{number:02} é" for number in range(12)],
    KEPT: [f"kept/{number}" for number in range(5)],
    QUIET: ["a", "b", "c"],
    LATE: ["a", "b", "c"],
    GOOD: [f"good/{number}" for number in range(8)],
    REFUSED: ["a", "b", "c"],
}
VERSIONED = {KEPT, REFUSED}
TO_CLASS = {
    PLAIN: "GLACIER",
    KEPT: "GLACIER_IR",
    QUIET: "GLACIER_IR",
    LATE: "GLACIER_IR",
    GOOD: "GLACIER_IR",
    REFUSED: "STANDARD_IA",  # lifecycle rules take no object there that is younger than 30 days
}


def below(*buckets: str) -> dict[str, Any]:
    """Give the guardrail that keeps a plan to some buckets."""
    return {"allowed_prefixes": [f"s3://{bucket}" for bucket in buckets]}


class World:
    """A stack with Airflow and S3, two buckets, and decisions to move all that is in them."""

    def __init__(self, stack: Stack) -> None:
        self.slowest_seconds = 0.0
        """Of the runs so far: how fast this machine is just now."""
        stack.start({"postgres", "s3", *AIRFLOW}, ports="free")
        environment = stack.environment()
        connection = yaml.safe_load(environment["AIRFLOW_CONN_AWS_DEFAULT"])
        self.endpoint = connection["extra"]["endpoint_url"]
        self.s3 = s3_client(self.endpoint, connection["login"], connection["password"])
        self.engine = make_engine(environment["CLOUDFLUX_DATABASE_URL"])
        self.plans, self.ledger = Plans(self.engine), Ledger(self.engine)
        address = environment["AIRFLOW__API__BASE_URL"]
        self.airflow = AirflowApi(address, *stack.credentials()["airflow"])
        self.airflow.log_in()
        self._wait(lambda: "migrate_tiers" in self.airflow.dag_ids())
        self.airflow.unpause("migrate_tiers")
        self._fill()
        Path(environment["CLOUDFLUX_ESTATE"]).write_text(
            yaml.safe_dump(
                {
                    "buckets": [
                        {
                            "provider": "aws",
                            "bucket": bucket,
                            "price_book": "aws-us-east-1",
                            "connection_id": "aws_default",
                            "latency": "hours",
                            "min_coverage": 0,
                        }
                        for bucket in KEYS
                    ]
                }
            ),
            encoding="utf-8",
        )
        self._decide(Lake(environment["CLOUDFLUX_LAKE_URL"], int(environment["CLOUDFLUX_SHARDS"])))

    def _fill(self) -> None:
        for bucket, keys in KEYS.items():
            self.s3.create_bucket(Bucket=bucket)
            if bucket in VERSIONED:
                self.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
            for key in keys:
                tags = "keep=yes" if key == KEYS[PLAIN][3] else "team=red"
                self.s3.put_object(Bucket=bucket, Key=key, Body=key.encode(), Tagging=tags, Metadata={"owner": "ann"})

    def _decide(self, lake: Lake) -> None:
        now = datetime.now(UTC)
        rows = []
        for bucket, keys in KEYS.items():
            for key in keys:
                state = self.s3.head_object(Bucket=bucket, Key=key)
                rows.append(
                    {
                        "provider": "aws",
                        "bucket": bucket,
                        "key": key,
                        "version_id": state.get("VersionId"),
                        "etag": state["ETag"].strip('"'),
                        "size_bytes": state["ContentLength"],
                        "last_modified_at": state["LastModified"],
                        "class_since_at": state["LastModified"],
                        "day": now.date(),
                        "current_class": "STANDARD",
                        "chosen_class": TO_CLASS[bucket],
                        "action": "move",
                        "reason": "nobody reads it",
                        "horizon_days": 180,
                        "expected_reads": 0.0,
                        "stay_usd": 0.09,
                        "chosen_usd": 0.03,
                        "one_time_usd": 0.00001,
                        "saving_usd": 0.06,
                        "payback_days": 20.0,
                        "current_monthly_usd": 0.015,
                        "chosen_monthly_usd": 0.004,
                        "rule_class": "STANDARD_IA",
                        "candidates": [],
                        "price_book": "aws-us-east-1",
                    }
                )
        lake.stage_shards("decisions", pa.Table.from_pylist(rows, schema=DECISIONS), "by-hand")
        lake.publish("decisions", "by-hand")

    def run(
        self,
        conf: dict[str, Any],
        while_deferred: Callable[[], None],
        before_approval: Callable[[str], None] | None = None,
    ) -> tuple[DagRun, set[str]]:
        """Run the DAG to its end; gives also which of its tasks were seen waiting without a worker.

        ``before_approval`` is called with the plan's id as its form waits; then the plan is approved.
        """
        began = time.monotonic()
        started = self.airflow.trigger("migrate_tiers", conf)
        deferred: set[str] = set()
        if before_approval is not None:
            self._wait(lambda: bool(self.airflow.approvals("migrate_tiers", started.run_id)))
            # The form is there before its task has ended its first process; an answer in between, faster than any
            # person's, makes Airflow fail the task. The demo waits as long.
            time.sleep(5)
            before_approval(plan_id_of(started.run_id))
            (form,) = self.airflow.approvals("migrate_tiers", started.run_id)
            self.airflow.approve("migrate_tiers", started.run_id, form, "from the test")

        def has_ended() -> bool:
            tasks = self.airflow.tasks("migrate_tiers", started.run_id)
            waiting = {task.task_id for task in tasks if task.state == "deferred"}
            if waiting:
                while_deferred()
            deferred.update(waiting)
            return self.airflow.run("migrate_tiers", started.run_id).finished

        self._wait(has_ended, seconds=600)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        return self.airflow.run("migrate_tiers", started.run_id), deferred

    def logs(self, run: DagRun) -> str:
        tasks = [task for task in self.airflow.tasks("migrate_tiers", run.run_id) if task.state == "failed"]
        return "\n".join(
            f"{t.name}: " + "\n".join(self.airflow.log_tail("migrate_tiers", run.run_id, t)) for t in tasks
        )

    def classes(self, bucket: str) -> Counter[str]:
        found = self.s3.list_objects_v2(Bucket=bucket)["Contents"]
        return Counter(item.get("StorageClass", "STANDARD") for item in found)

    def ask(self, method: str, path: str) -> Any:
        answer = requests.request(method, f"{self.endpoint}/_cloudflux/{path}", timeout=30)
        answer.raise_for_status()
        return answer

    @staticmethod
    def _wait(condition: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    stack = Stack(
        STACKS / f"own {os.getpid()} moves",
        settings_without_services() | {"CLOUDFLUX_MOVES_POLL_SECONDS": "3"},
    )
    try:
        made = World(stack)
        yield made
        made.engine.dispose()
    finally:
        stack.stop()
        shutil.rmtree(stack.layout.root, ignore_errors=True)


def test_moves_wait_without_a_worker_and_are_taken_back_through_a_restore(world: World) -> None:
    def days_pass() -> None:
        at = datetime.now(UTC) + timedelta(days=2)
        world.ask("POST", f"lifecycle?bucket={KEPT}&at={at:%Y-%m-%dT%H:%M:%SZ}")

    # a dry run moves nothing, and nothing of it fails
    preview, _ = world.run({"dry_run": True, "canary_share": 0.2, **below(PLAIN, KEPT)}, lambda: None)
    states = Counter(task.state for task in world.airflow.tasks("migrate_tiers", preview.run_id))
    assert (preview.state, set(states)) == ("success", {"success", "skipped"}), states
    assert states["success"] == 2  # proposed, and found to need no approval
    assert world.plans.get(plan_id_of(preview.run_id)).state is PlanState.PREVIEW
    assert world.classes(PLAIN) + world.classes(KEPT) == {"STANDARD": 17}

    # there: copies in the one bucket, S3's own rules in the one whose versions may not be deleted
    guardrails = {"canary_share": 0.2, "excluded_tags": ["keep"], **below(PLAIN, KEPT)}
    run, deferred = world.run({"dry_run": False, "require_approval": False, **guardrails}, days_pass)
    plan = world.plans.get(plan_id_of(run.run_id))
    assert run.state == "success", world.logs(run)
    assert plan.state is PlanState.FINISHED
    assert plan.totals.canaries == 4
    assert {"move_canaries_aws", "move_aws"} <= deferred
    assert world.ledger.counts(plan.plan_id) == {MigrationState.DONE: 16, MigrationState.SKIPPED: 1}
    ((state, why),) = [
        found for found in world.ledger.states(plan.plan_id).values() if found[0] is not MigrationState.DONE
    ]
    assert (state, why) == (MigrationState.SKIPPED, "its tag keep is excluded")
    assert world.classes(PLAIN) == {"GLACIER": 11, "STANDARD": 1}
    assert world.classes(KEPT) == {"GLACIER_IR": 5}
    assert len(world.s3.list_object_versions(Bucket=KEPT)["Versions"]) == 5  # nothing is left behind
    for key in KEYS[KEPT]:
        tags = world.s3.get_object_tagging(Bucket=KEPT, Key=key)["TagSet"]
        assert tags == [{"Key": "team", "Value": "red"}]
    with pytest.raises(world.s3.exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        world.s3.get_bucket_lifecycle_configuration(Bucket=KEPT)

    # and back: what lies in the archive is restored first; what only a new version could bring back stays, and says so
    world.ask("POST", "restores?seconds=15")
    back, deferred = world.run(
        {"dry_run": False, "require_approval": False, "undo": plan.plan_id, "canary_share": 0}, lambda: None
    )
    undo = world.plans.get(plan_id_of(back.run_id))
    assert back.state == "success", world.logs(back)
    assert undo.undoes == plan.plan_id
    assert "move_aws" in deferred
    assert world.ledger.counts(undo.plan_id) == {MigrationState.DONE: 11, MigrationState.FAILED: 5}
    restored = [entry for entry in world.ledger.entries(undo.plan_id) if entry.state is MigrationState.RESTORING]
    assert {entry.ref.key for entry in restored} == {*KEYS[PLAIN]} - {KEYS[PLAIN][3]}
    failed = [why for state, why in world.ledger.states(undo.plan_id).values() if state is MigrationState.FAILED]
    assert all("remove_superseded_versions" in why for why in failed)
    assert world.classes(PLAIN) == {"STANDARD": 12}
    assert world.classes(KEPT) == {"GLACIER_IR": 5}
    assert world.ledger.counts(plan.plan_id) == {
        MigrationState.UNDONE: 11,
        MigrationState.DONE: 5,
        MigrationState.SKIPPED: 1,
    }
    for bucket, keys in KEYS.items():
        for key in keys:
            found = world.s3.get_object(Bucket=bucket, Key=key)
            assert (found["Body"].read(), found["Metadata"]) == (key.encode(), {"owner": "ann"})


def test_nothing_moves_of_a_plan_that_expired_before_it_was_approved(world: World) -> None:
    def days_pass(plan_id: str) -> None:
        with world.engine.begin() as connection:
            connection.execute(
                text("UPDATE cloudflux.plans SET expires_at = created_at WHERE plan_id = :plan_id"),
                {"plan_id": plan_id},
            )

    run, _ = world.run({"dry_run": False, "canary_share": 0.2, **below(LATE)}, lambda: None, days_pass)
    plan = world.plans.get(plan_id_of(run.run_id))
    assert [change.state for change in world.plans.history(plan.plan_id)] == [
        PlanState.PROPOSED,
        PlanState.APPROVED,
        PlanState.EXPIRED,
    ]
    assert world.classes(LATE) == {"STANDARD": 3}
    assert {(entry.state, entry.detail) for entry in world.ledger.entries(plan.plan_id)} == {
        (MigrationState.CANCELLED, "the plan expired")
    }
    assert world.ledger.counts(plan.plan_id) == {MigrationState.CANCELLED: 3}


def test_the_rest_of_a_plan_stays_where_it_is_when_a_canary_fails(world: World) -> None:
    conf = {"dry_run": False, "require_approval": False, "canary_share": 0.2, **below(GOOD, REFUSED)}
    run, _ = world.run(conf, lambda: None)
    plan = world.plans.get(plan_id_of(run.run_id))
    assert (run.state, plan.state) == ("failed", PlanState.HALTED), world.logs(run)
    assert "halted after its canary moves" in world.logs(run)
    assert plan.totals.canaries == 3  # 2 of 8, 1 of 3
    assert world.ledger.counts(plan.plan_id) == {
        MigrationState.DONE: 2,
        MigrationState.FAILED: 1,
        MigrationState.CANCELLED: 8,
    }
    cancelled = [entry for entry in world.ledger.entries(plan.plan_id) if entry.state is MigrationState.CANCELLED]
    assert {entry.move_no for entry in cancelled} == set(range(3, 11))
    assert {entry.detail for entry in cancelled} == {"the plan was halted"}
    assert world.classes(GOOD) == {"GLACIER_IR": 2, "STANDARD": 6}
    assert world.classes(REFUSED) == {"STANDARD": 3}


def test_a_plan_waits_out_the_quiet_hours_and_then_goes_on_by_itself(world: World) -> None:
    if not world.slowest_seconds:
        world.run({"dry_run": True, **below(QUIET)}, lambda: None)
    # The run must come to its first move before they end, and they have no finer grain than minutes.
    end = datetime.now(UTC) + timedelta(seconds=60 + 1.5 * world.slowest_seconds)
    end -= timedelta(seconds=end.second, microseconds=end.microsecond)
    begin = end - timedelta(hours=2)
    looks: list[tuple[datetime, Counter[str], dict[MigrationState, int]]] = []

    def look() -> None:
        counts = world.ledger.counts(world.plans.recent(1)[0].plan_id)
        looks.append((datetime.now(UTC), world.classes(QUIET), counts))

    conf = {"dry_run": False, "require_approval": False, "canary_share": 0, **below(QUIET)}
    run, deferred = world.run({**conf, "quiet_hours": f"{begin:%H:%M}-{end:%H:%M}"}, look)
    assert run.state == "success", world.logs(run)
    assert deferred == {"move_aws"}
    quiet = [(classes, counts) for at, classes, counts in looks if at < end]
    assert quiet
    assert quiet == [({"STANDARD": 3}, {})] * len(quiet)
    plan = world.plans.get(plan_id_of(run.run_id))
    assert plan.state is PlanState.FINISHED
    assert world.classes(QUIET) == {"GLACIER_IR": 3}
    assert world.ledger.counts(plan.plan_id) == {MigrationState.DONE: 3}
    assert min(entry.at for entry in world.ledger.entries(plan.plan_id)) >= end
