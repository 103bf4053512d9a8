"""Airflow's REST API as the demo uses it: what a person would do in the web pages, and nothing more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import requests

from cloudflux.domain.errors import CloudFluxError

_TIMEOUT: Final = 30
_TRIES: Final = 5
FINISHED: Final = frozenset({"success", "failed"})


class AirflowError(CloudFluxError):
    """Airflow refused a request or cannot be reached; the text says which and why."""


@dataclass(frozen=True, slots=True)
class DagRun:
    """One DAG run as the API tells it."""

    dag_id: str
    run_id: str
    state: str
    run_type: str
    run_after: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state in FINISHED

    @property
    def seconds(self) -> float | None:
        """How long the run took, or None when it has not ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task instance of a run."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    started_at: datetime | None = None

    @property
    def name(self) -> str:
        """The task's id, with the index of a mapped one."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


@dataclass(frozen=True, slots=True)
class Approval:
    """A task that waits for a person, or has had its answer."""

    task_id: str
    map_index: int
    subject: str
    body: str
    options: tuple[str, ...]
    answered: bool


class AirflowApi:
    """A session with the api-server of a running Airflow."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "cloudflux/demo"

    def log_in(self) -> None:
        """Fetch a token. Raises ``AirflowError``."""
        answer = self._send("POST", "/auth/token", json=self._login)
        self._session.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def dag_ids(self) -> set[str]:
        """Name the DAGs that Airflow knows by now."""
        return {dag["dag_id"] for dag in self._send("GET", "/api/v2/dags", params={"limit": 100})["dags"]}

    def import_errors(self) -> list[str]:
        """Give the DAG files that cannot be read, each with the last line of its traceback."""
        errors = self._send("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]

    def is_paused(self, dag_id: str) -> bool:
        """Tell whether a DAG's runs only queue."""
        return bool(self._send("GET", f"/api/v2/dags/{dag_id}")["is_paused"])

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._send("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> DagRun:
        """Start a run."""
        return _dag_run(self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf}))

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Look at one run."""
        return _dag_run(self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"))

    def runs_since(self, dag_id: str, since: datetime) -> list[DagRun]:
        """Give the runs whose turn came at ``since`` or later, oldest first."""
        found = self._send(
            "GET",
            f"/api/v2/dags/{dag_id}/dagRuns",
            params={"run_after_gte": since.isoformat(), "order_by": "run_after", "limit": 100},
        )
        return [_dag_run(run) for run in found["dag_runs"]]

    def runs_ended_since(self, dag_id: str, since: datetime) -> list[DagRun]:
        """Give the runs that ended at ``since`` or later, oldest first."""
        found = self._send(
            "GET",
            f"/api/v2/dags/{dag_id}/dagRuns",
            params={"end_date_gte": since.isoformat(), "order_by": "end_date", "limit": 100},
        )
        return [_dag_run(run) for run in found["dag_runs"]]

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Give the task instances of a run."""
        found = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 1000})
        return [
            TaskRun(
                task["task_id"],
                task["map_index"],
                task["state"],
                task["try_number"],
                datetime.fromisoformat(task["start_date"]) if task["start_date"] else None,
            )
            for task in found["task_instances"]
        ]

    def log_tail(self, dag_id: str, run_id: str, task: TaskRun, lines: int = 25) -> list[str]:
        """Give the last lines of a task's log, or why there are none."""
        try:
            answer = self._send(
                "GET",
                f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{max(1, task.try_number)}",
                params={"map_index": task.map_index, "full_content": "true"},
            )
        except AirflowError as exc:
            return [f"(no log: {exc})"]
        return list(_log_lines(answer.get("content", [])))[-lines:]

    def approvals(self, dag_id: str, run_id: str) -> list[Approval]:
        """Give the tasks of a run that wait, or waited, for a person."""
        found = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/hitlDetails")
        return [
            Approval(
                task_id=detail["task_instance"]["task_id"],
                map_index=detail["task_instance"]["map_index"],
                subject=detail["subject"],
                body=detail["body"] or "",
                options=tuple(detail["options"]),
                answered=detail["response_received"],
            )
            for detail in found["hitl_details"]
        ]

    def approve(self, dag_id: str, run_id: str, approval: Approval, note: str) -> None:
        """Answer the form as the person who pressed Approve."""
        path = (
            f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{approval.task_id}/{approval.map_index}/hitlDetails"
        )
        self._send("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {"note": note}})

    def run_page(self, dag_id: str, run_id: str) -> str:
        """Give the address of a run's page."""
        return f"{self.url}/dags/{dag_id}/runs/{run_id}"

    def _send(self, method: str, path: str, **arguments: Any) -> Any:
        """Send one request; connection losses and 5xx answers are tried again, since the machine is a busy one."""
        problem = ""
        for attempt in range(_TRIES if method == "GET" else 1):
            if attempt:
                time.sleep(attempt)
            try:
                answer = self._session.request(method, f"{self.url}{path}", timeout=_TIMEOUT, **arguments)
            except requests.RequestException as exc:
                problem = str(exc)
                continue
            if answer.ok:
                return answer.json() if answer.content else {}
            problem = f"{answer.status_code} {_detail(answer)}"
            if answer.status_code < 500:
                break
        raise AirflowError(f"Airflow at {self.url} did not do {method} {path}: {problem}")


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.text))[:500]
    except ValueError:
        return answer.text[:500]


def _dag_run(run: dict[str, Any]) -> DagRun:
    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(run[name]) if run.get(name) else None

    run_after = moment("run_after") or moment("queued_at")
    if run_after is None:
        raise AirflowError(f"Airflow told no time for the run {run.get('dag_run_id')}")
    return DagRun(
        dag_id=run["dag_id"],
        run_id=run["dag_run_id"],
        state=run["state"],
        run_type=run["run_type"],
        run_after=run_after,
        started_at=moment("start_date"),
        ended_at=moment("end_date"),
    )


def _log_lines(content: Any) -> Iterator[str]:
    for entry in content:
        if isinstance(entry, str):
            yield from entry.splitlines()
        elif isinstance(entry, dict):
            if entry.get("event") and not str(entry["event"]).startswith("::"):
                yield str(entry["event"])
            for error in entry.get("error_detail") or []:
                yield f"{error.get('exc_type')}: {error.get('exc_value')}"
