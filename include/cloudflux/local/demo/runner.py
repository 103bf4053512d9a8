"""The demo's path: the world into the clouds, the DAGs over Airflow's REST API, a person's approval, the facts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import requests

from cloudflux.config import load_estate
from cloudflux.domain.errors import CloudFluxError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MigrationPlan, PlannedMove, PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.airflow_api import AirflowApi, Approval, DagRun
from cloudflux.local.demo.clients import Client, clients_of, tiers_of
from cloudflux.local.demo.events import produce
from cloudflux.local.demo.progress import Progress
from cloudflux.local.demo.remembered import Remembered, recall, remember
from cloudflux.local.demo.summary import Forecaster, KafkaCounts, Moves, Summary, plan_table
from cloudflux.local.demo.trace import replay
from cloudflux.local.demo.upload import Uploaded, object_bytes, upload, write_estate
from cloudflux.local.demo.world import World, synthetic_world
from cloudflux.local.stack import Stack
from cloudflux.stores.coverage import CoverageLog
from cloudflux.stores.done_moves import DoneMoves
from cloudflux.stores.engine import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.stores.quarantine import QuarantineLog
from cloudflux.stores.savings import Savings
from cloudflux.stores.staging import Staging, StagingCounts
from cloudflux.workflows.coverage import recent
from cloudflux.workflows.plan import plan_id_of

DAGS: Final = (
    "drain_ingestion_topic",
    "collect_access_logs",
    "collect_inventory",
    "train_access_forecaster",
    "score_objects",
    "migrate_tiers",
    "report_savings",
)
_FORM_SETTLES_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.7
_DEADLINE_SECONDS: Final[Mapping[str, float]] = {
    "DAGs": 600,
    "drain_ingestion_topic": 900,
    "collect_access_logs": 1800,
    "collect_inventory": 900,
    "train_access_forecaster": 1800,
    "score_objects": 1800,
    "migrate_tiers": 1800,
    "report_savings": 600,
}
"""When a run is taken for one that hangs. A machine with other work takes five times as long as one without."""
_ASSET_GRACE_SECONDS: Final = 45.0
"""How long an Asset's event may take to start the next DAG before the demo starts it by hand, and says so."""
_EXPERIMENT: Final = "access-forecaster"
_FEWEST_MOVES_TO_SPOIL: Final = 10

Wrong = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the person asked for."""

    objects: int
    days: int
    seed: int
    trace: Path | None
    max_object_bytes: int
    wrong: Wrong
    """``some``: torn and binary log files and malformed messages. ``all``: objects that change before the move, too."""
    approve: bool
    """Whether the demo presses Approve itself."""


class DemoFailed(CloudFluxError):
    """A stage did not come to its end; the text says which, with what the logs say and where to look."""


def make_world(settings: DemoSettings, memory: Path, today: date) -> World:
    """Generate the world or replay the trace, anchored at yesterday, or where the stack's first demo of it did."""

    def anchored(last_day: date) -> World:
        if settings.trace is not None:
            return replay(
                settings.trace, last_day=last_day, seed=settings.seed, max_object_bytes=settings.max_object_bytes
            )
        return synthetic_world(
            last_day=last_day,
            objects=settings.objects,
            days=settings.days,
            seed=settings.seed,
            max_object_bytes=settings.max_object_bytes,
        )

    world = anchored(today - timedelta(days=1))
    remembered = recall(memory, world.name)
    if remembered is not None and remembered.last_day != world.last_day:
        world = anchored(remembered.last_day)
    return world


def run_demo(settings: DemoSettings, world: World, stack: Stack, progress: Progress) -> Summary:
    """Run the whole path on a stack that is up. Raises ``DemoFailed`` and what its parts raise."""
    return _Demo(settings, world, stack, progress).run()


class _Demo:
    def __init__(self, settings: DemoSettings, world: World, stack: Stack, progress: Progress) -> None:
        self._settings = settings
        self._world = world
        self._stack = stack
        self._progress = progress
        self._environment = stack.environment()
        self._topic = self._environment.get("CLOUDFLUX_KAFKA_TOPIC", "data-ingestion")
        self._clients: dict[Provider, Client] = clients_of(self._environment)
        engine = make_engine(self._environment["CLOUDFLUX_DATABASE_URL"])
        self._plans, self._ledger, self._done_moves = Plans(engine), Ledger(engine), DoneMoves(engine)
        self._staging, self._savings, self._quarantine = Staging(engine), Savings(engine), QuarantineLog(engine)
        self._coverage = CoverageLog(engine)
        user, password = stack.credentials()["airflow"]
        self._airflow = AirflowApi(stack.addresses()["airflow"], user, password)
        self._memory = memory_folder(stack)
        self._remembered = recall(self._memory, world.name) or Remembered(world.last_day)
        self._runs: list[DagRun] = []
        self._again = 0

    def run(self) -> Summary:
        remember(self._memory, self._world.name, self._remembered)
        staged_before = self._staging.counts(self._topic)
        uploaded = self._upload()
        tiers_before = self._tiers("tiers before")
        produced = self._produce()
        began = datetime.now(UTC)
        self._log_in()
        self._collect()
        trained = self._asset_run("train_access_forecaster", began)
        scored = self._asset_run("score_objects", _start(trained))
        self._asset_run("migrate_tiers", _start(scored), label="migrate_tiers, dry run")
        plan = self._migrate()
        self._drain()
        tiers_after = self._tiers("tiers after")
        return self._summary(
            began=began,
            uploaded=uploaded,
            produced=produced,
            staged_before=staged_before,
            plan=plan,
            tiers=(tiers_before, tiers_after),
        )

    # -- the world into the clouds ----------------------------------------------------------------------------------

    def _upload(self) -> Uploaded:
        estate = Path(self._environment["CLOUDFLUX_ESTATE"])
        write_estate(self._world, estate)
        stages: set[str] = set()

        def tell(what: str, done: int, total: int) -> None:
            if what not in stages:
                for stage in stages:
                    self._progress.finish(stage)
                stages.clear()
                stages.add(what)
            self._progress.update(what, "uploading", done, total)

        began = time.monotonic()
        uploaded = upload(
            self._world,
            self._clients,
            wrong_logs=self._settings.wrong != "none",
            gone=set(self._remembered.gone),
            on_progress=tell,
        )
        for stage in stages:
            self._progress.finish(stage)
        rate = uploaded.bytes / 2**20 / max(0.001, time.monotonic() - began)
        self._progress.finish(
            "uploaded",
            f"{uploaded.objects:,} objects, {uploaded.bytes / 2**20:,.0f} MiB ({rate:,.0f} MiB/s), and "
            f"{uploaded.log_files:,} log files; there already {uploaded.objects_there:,} and "
            f"{uploaded.log_files_there:,}",
        )
        return uploaded

    def _produce(self) -> int:
        wrong = self._settings.wrong != "none" and not self._remembered.wrong_messages_sent
        produced = produce(
            self._world,
            self._environment["KAFKA_BOOTSTRAP_SERVERS"],
            self._topic,
            wrong=wrong,
            on_progress=lambda done, total: self._progress.update("Kafka", "producing", done, total),
        )
        if wrong:
            self._note(replace(self._remembered, wrong_messages_sent=True))
        self._progress.finish("Kafka", f"{produced:,} messages produced")
        return produced

    def _tiers(self, stage: str) -> pl.DataFrame:
        self._progress.update(stage, "listing the buckets")
        tiers = tiers_of(self._clients, self._world.buckets)
        by_tier = tiers.group_by("tier").agg(pl.col("objects").sum()).sort("objects", descending=True)
        self._progress.finish(stage, ", ".join(f"{objects:,} {tier}" for tier, objects in by_tier.iter_rows()))
        return tiers

    def _note(self, remembered: Remembered) -> None:
        self._remembered = remembered
        remember(self._memory, self._world.name, remembered)

    # -- the DAGs ---------------------------------------------------------------------------------------------------

    def _log_in(self) -> None:
        self._airflow.log_in()
        deadline = time.monotonic() + _DEADLINE_SECONDS["DAGs"]
        while missing := set(DAGS) - self._airflow.dag_ids():
            self._progress.update("DAGs", "Airflow is reading the DAG files", len(DAGS) - len(missing), len(DAGS))
            if time.monotonic() > deadline:
                errors = "\n".join(self._airflow.import_errors()) or "no import errors"
                raise DemoFailed(f"Airflow does not know {', '.join(sorted(missing))}: {errors}")
            time.sleep(_POLL_SECONDS)
        for dag_id in DAGS:
            self._airflow.unpause(dag_id)
        self._progress.finish("DAGs", f"{len(DAGS)} DAGs unpaused")

    def _collect(self) -> None:
        """Run both collections side by side."""
        runs = [self._airflow.trigger(dag_id, {}) for dag_id in ("collect_access_logs", "collect_inventory")]
        failures: list[BaseException] = []

        def wait(run: DagRun) -> None:
            try:
                self._wait(run, run.dag_id)
            except (CloudFluxError, requests.RequestException) as exc:
                failures.append(exc)

        threads = [threading.Thread(target=wait, args=(run,), daemon=True) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _asset_run(self, dag_id: str, since: datetime, *, label: str | None = None) -> DagRun:
        """Wait for the run that an Asset's event starts.

        An event that waited from before the demo can have started the run too early, on half of the data: then none
        comes any more, and the demo starts one itself.
        """
        stage = label or dag_id
        deadline = time.monotonic() + _ASSET_GRACE_SECONDS
        since = max(since, self._published_at(dag_id) or since)
        while True:
            self._progress.update(stage, "waits for its Asset")
            runs = [run for run in self._airflow.runs_since(dag_id, since) if run.run_type.startswith("asset")]
            if runs:
                return self._wait(runs[0], stage)
            if time.monotonic() > deadline:
                self._progress.console.print(f"{dag_id} was not started by its Assets: started by hand", markup=False)
                return self._wait(self._airflow.trigger(dag_id, {}), stage)
            time.sleep(_POLL_SECONDS)

    def _published_at(self, dag_id: str) -> datetime | None:
        """Tell when the later of two Assets began to be published; one Asset needs no such care."""
        if dag_id != "train_access_forecaster":
            return None
        began = [
            task.started_at
            for run in self._runs
            for task in self._airflow.tasks(run.dag_id, run.run_id)
            if task.task_id.startswith(("publish_", "measure_")) and task.started_at is not None
        ]
        return max(began, default=None)

    def _wait(self, run: DagRun, stage: str, *, on_waiting: Callable[[DagRun], None] | None = None) -> DagRun:
        """Wait until a run has ended. Raises ``DemoFailed`` when it failed or its deadline is over."""
        deadline = time.monotonic() + _DEADLINE_SECONDS[run.dag_id]
        while not run.finished:
            tasks = self._airflow.tasks(run.dag_id, run.run_id)
            states = Counter(task.state or "waiting" for task in tasks)
            ended = states["success"] + states["skipped"]
            active = ", ".join(sorted({task.task_id for task in tasks if task.state in ("running", "deferred")}))
            self._progress.update(stage, f"{active or run.state}: tasks", ended, len(tasks))
            if on_waiting is not None and states["awaiting_input"]:
                on_waiting(run)
            if time.monotonic() > deadline and states["awaiting_input"] + states["deferred"] == 0:
                raise DemoFailed(
                    f"{run.dag_id} did not end within {_DEADLINE_SECONDS[run.dag_id]:.0f} s; {self._where(run)}"
                )
            time.sleep(_POLL_SECONDS)
            run = self._airflow.run(run.dag_id, run.run_id)
        self._runs.append(run)
        if run.state != "success":
            self._progress.finish(stage, run.state, state="failed")
            raise DemoFailed(self._why(run))
        self._progress.finish(stage, f"success, {run.seconds or 0:.1f} s in Airflow")
        return run

    def _why(self, run: DagRun) -> str:
        """Say which tasks failed, with the end of their logs."""
        parts = [f"{run.dag_id} failed; {self._where(run)}"]
        for task in self._airflow.tasks(run.dag_id, run.run_id):
            if task.state == "failed":
                tail = "\n    ".join(self._airflow.log_tail(run.dag_id, run.run_id, task))
                parts.append(f"  the task {task.name}, whose log ends with:\n    {tail}")
        return "\n".join(parts)

    def _where(self, run: DagRun) -> str:
        return f"look at {self._airflow.run_page(run.dag_id, run.run_id)} or ./cloudflux logs airflow-scheduler"

    # -- the migration ----------------------------------------------------------------------------------------------

    def _migrate(self) -> MigrationPlan:
        """Show the plan, run it for real, approve it, and wait for the report."""
        stage = "migrate_tiers"
        run = self._airflow.trigger(stage, {"dry_run": False})
        asked: list[Approval] = []
        seen_at: list[float] = []

        def look_for_the_form(run: DagRun) -> None:
            if asked:
                return
            waiting = [one for one in self._airflow.approvals(run.dag_id, run.run_id) if not one.answered]
            if waiting:
                seen_at.append(time.monotonic())
            # The form is there before its task has ended its first process. An answer in between, faster than any
            # person's, queues the task anew while the executor still reports that process, and Airflow fails it.
            if waiting and time.monotonic() - seen_at[0] >= _FORM_SETTLES_SECONDS:
                asked.append(waiting[0])
                self._answer(run, waiting[0])

        run = self._wait(run, stage, on_waiting=look_for_the_form)
        plan = self._plans.get(plan_id_of(run.run_id))
        state = plan.state
        if state is PlanState.FINISHED:
            self._asset_run("report_savings", _start(run))
        else:
            reason = "nothing is left to move" if state is PlanState.EMPTY else f"the plan is {state}"
            self._progress.finish("report_savings", reason, state="skipped")
        return plan

    def _answer(self, run: DagRun, approval: Approval) -> None:
        plan = self._plans.get(plan_id_of(run.run_id))
        moves = self._plans.moves(plan.plan_id, 0, plan.totals.objects - 1)
        self._again = len(self._done_moves.newest([move.ref for move in moves]))  # of this plan nothing is done yet
        self._progress.pause()
        self._progress.console.print()
        self._progress.console.print(plan_table(plan.groups, plan.totals))
        self._progress.console.print()
        self._progress.resume()
        if self._settings.wrong == "all":
            self._spoil(plan, moves)
        if self._settings.approve:
            self._airflow.approve(run.dag_id, run.run_id, approval, "approved by ./cloudflux demo")
            self._progress.finish("approval", f"approved: {plan.totals.objects:,} moves")
        else:
            page = f"{self._airflow.run_page(run.dag_id, run.run_id)}/tasks/{approval.task_id}/required_actions"
            self._progress.console.print(f"Waiting for you: approve or reject the plan at {page}", markup=False)

    def _spoil(self, plan: MigrationPlan, moves: Sequence[PlannedMove]) -> None:
        """Delete one object and overwrite another between plan and move: both moves have to be skipped."""
        if len(moves) - plan.totals.canaries < _FEWEST_MOVES_TO_SPOIL:
            self._progress.finish("wrong input", "the plan is too small to spoil a move", state="skipped")
            return
        first = plan.totals.canaries  # canaries that are all skipped would halt the plan
        deleted, overwritten = moves[first].ref, moves[-1].ref
        self._clients[deleted.provider].delete_object(replace(deleted, version_id=None))
        move = moves[-1]
        self._clients[overwritten.provider].put_object(
            replace(overwritten, version_id=None),
            object_bytes(self._world.seed, -1 % 2**32, move.size_bytes),
            storage_class=move.from_class,
        )
        self._note(replace(self._remembered, gone=(*self._remembered.gone, replace(deleted, version_id=None).uri)))
        self._progress.finish("wrong input", f"deleted {deleted.uri}, overwrote {overwritten.uri}")

    def _drain(self) -> None:
        """Wait until the topic is drained to its end."""
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(bootstrap_servers=self._environment["KAFKA_BOOTSTRAP_SERVERS"].split(","))
        try:
            partitions = [TopicPartition(self._topic, number) for number in consumer.partitions_for_topic(self._topic)]
            ends = {found.partition: end for found, end in consumer.end_offsets(partitions).items()}
        finally:
            consumer.close()
        deadline = time.monotonic() + _DEADLINE_SECONDS["drain_ingestion_topic"]
        total = sum(ends.values())
        while True:
            stored = self._staging.next_offsets(self._topic)
            drained = sum(min(end, stored.get(partition, 0)) for partition, end in ends.items())
            self._progress.update("drain_ingestion_topic", "messages drained", drained, total)
            if drained >= total:
                break
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"drain_ingestion_topic drained {drained:,} of {total:,} messages in time; look at "
                    f"{self._airflow.url}/dags/drain_ingestion_topic"
                )
            time.sleep(_POLL_SECONDS)
        self._progress.finish("drain_ingestion_topic", f"{total:,} messages drained")

    # -- the facts --------------------------------------------------------------------------------------------------

    def _summary(
        self,
        *,
        began: datetime,
        uploaded: Uploaded,
        produced: int,
        staged_before: StagingCounts,
        plan: MigrationPlan,
        tiers: tuple[pl.DataFrame, pl.DataFrame],
    ) -> Summary:
        counts = self._staging.counts(self._topic)
        staged_now = counts.staged - staged_before.staged
        letters_now = counts.dead_lettered - staged_before.dead_lettered
        moves = self._moves(plan)
        report = self._savings.latest(plan.plan_id)
        after: Decimal = plan.totals.before_usd_month if moves.rejected else plan.totals.after_usd_month
        if report is not None:
            after = report.after_usd_month
        return Summary(
            world=self._world.name,
            objects=self._world.objects.height,
            object_bytes=int(self._world.objects["size_bytes"].sum()),
            days=self._world.days,
            left_out_objects=self._world.left_out_objects,
            left_out_reads=self._world.left_out_reads,
            max_object_bytes=self._world.max_object_bytes,
            uploaded=uploaded,
            tiers_before=tiers[0],
            tiers_after=tiers[1],
            totals=plan.totals,
            plan_id=plan.plan_id,
            after_usd_month=after,
            moves=moves,
            forecaster=self._forecaster(began),
            kafka=KafkaCounts(
                produced=produced,
                staged=counts.staged,
                dead_lettered=counts.dead_lettered,
                staged_now=staged_now,
                duplicates=produced - staged_now - letters_now,
                reasons=tuple(self._staging.dead_letters_by_reason(self._topic)),
            ),
            quarantined=tuple(self._quarantine.by_reason()),
            dag_runs=self._finished_runs(began),
            seconds=self._progress.seconds,
            peak_bytes=0,  # the command, which watches the memory, fills it in
            withheld=self._withheld(plan.decisions_day),
            addresses=self._stack.addresses(),
        )

    def _withheld(self, day: date) -> tuple[tuple[str, str], ...]:
        """Name the buckets whose decisions are withheld: a world that is replayed weeks later has no newer logs."""
        estate = load_estate(Path(self._environment["CLOUDFLUX_ESTATE"]))
        told = recent(self._coverage, estate, day)
        reasons = (
            (bucket.bucket, told[str(bucket.provider), bucket.bucket].withheld(bucket.min_coverage))
            for bucket in estate.buckets
        )
        return tuple((bucket, reason) for bucket, reason in reasons if reason)

    def _moves(self, plan: MigrationPlan) -> Moves:
        states = self._ledger.states(plan.plan_id)
        counts = Counter(state for state, _ in states.values())
        told = (MigrationState.FAILED, MigrationState.SKIPPED)
        reasons = Counter((state.value, detail) for state, detail in states.values() if state in told)
        return Moves(
            planned=plan.totals.objects,
            verified=counts[MigrationState.DONE],
            failed=counts[MigrationState.FAILED],
            skipped=counts[MigrationState.SKIPPED],
            again=self._again,
            day=plan.decisions_day,
            reasons=tuple((state, detail, moves) for (state, detail), moves in reasons.most_common()),
            rejected=self._plans.state(plan.plan_id) is PlanState.REJECTED,
        )

    def _forecaster(self, since: datetime) -> Forecaster | None:
        """Read the metrics of this demo's training from MLflow; None when too little history trained nothing."""
        mlflow = self._environment["MLFLOW_TRACKING_URI"].rstrip("/")
        try:
            runs = _newest_mlflow_run(f"{mlflow}/api/2.0/mlflow", since)
        except requests.RequestException as exc:
            raise DemoFailed(f"MLflow at {mlflow} does not tell the forecaster's metrics: {exc}") from exc
        for run in runs:
            metrics = {metric["key"]: float(metric["value"]) for metric in run["data"].get("metrics", [])}
            return Forecaster(run["info"]["run_id"], metrics)
        return None

    def _finished_runs(self, since: datetime) -> tuple[DagRun, ...]:
        """Give every run that ended since the demo began; the one that merely waits for Kafka is left out."""
        runs = [run for dag_id in DAGS for run in self._airflow.runs_ended_since(dag_id, since) if run.finished]
        return tuple(sorted(runs, key=lambda run: run.run_after))


def memory_folder(stack: Stack) -> Path:
    """Give the folder in which a stack's demos are remembered."""
    return stack.layout.folder("demo")


def _start(run: DagRun) -> datetime:
    return run.started_at or run.run_after


def _newest_mlflow_run(api: str, since: datetime) -> list[dict[str, Any]]:
    """Give the newest training since a moment, or nothing. Raises ``requests.RequestException``."""
    found = requests.get(f"{api}/experiments/get-by-name", params={"experiment_name": _EXPERIMENT}, timeout=30)
    if found.status_code == requests.codes.not_found:
        return []
    found.raise_for_status()
    runs = requests.post(
        f"{api}/runs/search",
        json={
            "experiment_ids": [found.json()["experiment"]["experiment_id"]],
            "filter": f"attributes.start_time >= {int(since.timestamp() * 1000)}",
            "order_by": ["attributes.start_time DESC"],
            "max_results": 1,
        },
        timeout=30,
    )
    runs.raise_for_status()
    newest: list[dict[str, Any]] = runs.json().get("runs", [])
    return newest
