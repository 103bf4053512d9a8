"""Every DAG parses, is the one that the documentation names, and keeps heavy imports out of parsing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"

DAG_IDS = {
    "collect_access_logs",
    "collect_inventory",
    "drain_ingestion_topic",
    "train_access_forecaster",
    "score_objects",
    "migrate_tiers",
    "report_savings",
}

HEAVY = (
    "numba",
    "llvmlite",
    "azure",
    "boto3",
    "botocore",
    "duckdb",
    "google.cloud",
    "great_expectations",
    "kafka",
    "mlflow",
    "pandas",
    "polars",
    "pyarrow",
    "sklearn",
)

# A process of its own: what another test imported must not hide an import of a DAG, and Airflow reads its
# configuration when it is imported.
_PARSE = """
import json, sys
before = set(sys.modules)
from airflow.dag_processing.dagbag import DagBag
airflow_itself = set(sys.modules)
bag = DagBag(dag_folder=sys.argv[1])
print("RESULT" + json.dumps({
    "errors": bag.import_errors,
    "files": len({dag.fileloc for dag in bag.dags.values()}),
    "loaded_by_dags": sorted(set(sys.modules) - airflow_itself),
    "dags": {
        dag.dag_id: {
            "doc_md": dag.doc_md or "",
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "params": {name: dag.params.get_param(name).serialize() for name in dag.params},
            "tasks": {
                task.task_id: {
                    "owner": task.owner,
                    "retries": task.retries,
                    "backoff": float(task.retry_exponential_backoff),
                    "pool": task.pool,
                    "outlets": [outlet.uri for outlet in task.outlets],
                    "downstream": sorted(task.downstream_task_ids),
                }
                for task in dag.tasks
            },
        }
        for dag in bag.dags.values()
    },
}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "PYTHONPATH": f"{ROOT / 'include'}{os.pathsep}{ROOT / 'ml'}",
    }
    for name in ("CLOUDFLUX_DATABASE_URL", "CLOUDFLUX_LAKE_URL", "CLOUDFLUX_ESTATE"):
        environment.pop(name, None)  # a DAG that reads settings while it is parsed fails here
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, str(DAGS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return json.loads(line.removeprefix("RESULT"))


def test_dags_are_exactly_the_seven_when_parsed(parsed: dict) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == DAG_IDS


def test_each_dag_has_a_file_of_its_name() -> None:
    assert {path.stem for path in DAGS.glob("*.py")} == DAG_IDS


def test_no_heavy_import_when_dags_are_parsed(parsed: dict) -> None:
    heavy = [
        module
        for module in parsed["loaded_by_dags"]
        if any(module == name or module.startswith(f"{name}.") for name in HEAVY)
    ]
    assert heavy == []


def test_runbook_owner_and_retries_when_parsed(parsed: dict) -> None:
    for dag_id, dag in parsed["dags"].items():
        assert dag["doc_md"].lstrip().startswith("# "), dag_id
        assert "**What a failure means**" in dag["doc_md"], dag_id
        assert dag["catchup"] is False, dag_id
        assert dag["max_active_runs"] == 1, dag_id
        for task_id, task in dag["tasks"].items():
            assert task["owner"] == "data-platform", (dag_id, task_id)
            if task_id != "approve_plan":  # a person's answer is not retried
                assert task["retries"] >= 1, (dag_id, task_id)
                assert task["backoff"] > 0, (dag_id, task_id)


def test_provider_tasks_run_in_the_providers_pool(parsed: dict) -> None:
    pools = {
        task_id: task["pool"]
        for dag in parsed["dags"].values()
        for task_id, task in dag["tasks"].items()
        if re.fullmatch("(parse|list|move|move_canaries)_(aws|azure|gcp)", task_id)
    }
    assert len(pools) == 12  # parse, list, move canaries and move the rest for three providers
    assert all(task_id.endswith(f"_{pool}") for task_id, pool in pools.items())


def test_assets_chain_the_dags_when_parsed(parsed: dict) -> None:
    outlets = {
        dag_id: sorted(uri for task in dag["tasks"].values() for uri in task["outlets"])
        for dag_id, dag in parsed["dags"].items()
    }
    assert outlets == {
        "collect_access_logs": ["x-cloudflux://daily-access"],
        "collect_inventory": ["x-cloudflux://inventory"],
        "drain_ingestion_topic": ["x-cloudflux://ingestion-staging"],
        "train_access_forecaster": ["x-cloudflux://forecaster"],
        "score_objects": ["x-cloudflux://decisions", "x-cloudflux://retraining-wanted"],
        "migrate_tiers": ["x-cloudflux://ledger"],
        "report_savings": [],
    }


def test_snapshot_is_published_before_refused_buckets_are_named(parsed: dict) -> None:
    tasks = parsed["dags"]["collect_inventory"]["tasks"]
    assert tasks["publish_inventory"]["downstream"] == ["name_refused_buckets"]
    assert tasks["name_refused_buckets"]["downstream"] == tasks["name_refused_buckets"]["outlets"] == []


def test_daily_access_is_published_before_refused_log_sources_are_named(parsed: dict) -> None:
    tasks = parsed["dags"]["collect_access_logs"]["tasks"]
    assert sorted(tasks["publish_daily_access"]["downstream"]) == ["measure_coverage", "name_refused_log_sources"]
    assert tasks["name_refused_log_sources"]["downstream"] == tasks["name_refused_log_sources"]["outlets"] == []


def test_migration_is_a_dry_run_that_asks_when_nothing_else_is_said(parsed: dict) -> None:
    params = parsed["dags"]["migrate_tiers"]["params"]
    assert params["dry_run"]["value"] is True
    assert params["require_approval"]["value"] is True
    for name, param in params.items():
        assert param["schema"]["type"], name
        assert param["schema"]["title"], name
        assert param["description"], name


CANARIES = ("move_canaries_aws", "move_canaries_azure", "move_canaries_gcp")


def test_nothing_moves_before_the_approval_when_parsed(parsed: dict) -> None:
    tasks = parsed["dags"]["migrate_tiers"]["tasks"]

    def upstream(task_id: str) -> set[str]:
        direct = {other for other, task in tasks.items() if task_id in task["downstream"]}
        return direct.union(*(upstream(other) for other in direct))

    assert tasks["approve_plan"]["downstream"] == ["record_approval"]  # a rejection skips what stands directly below
    for provider in ("aws", "azure", "gcp"):
        assert {"record_approval", *CANARIES, "judge_canaries"} <= upstream(f"move_{provider}")
        approval = {"propose_plan", "choose_path", "approve_plan", "record_approval"}
        assert upstream(f"move_canaries_{provider}") == approval | {f"find_canaries_{provider}"}
    # it goes on when they were skipped: the approval alone may let it
    directly_above = {other for other, task in tasks.items() if "judge_canaries" in task["downstream"]}
    assert directly_above == {"record_approval", *CANARIES}


def test_dags_import_only_airflow_and_the_orchestration() -> None:
    for path in DAGS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            for module in modules:
                root = module.split(".")[0]
                allowed = (
                    root == "airflow" or module.startswith("cloudflux.orchestration") or root in sys.stdlib_module_names
                )
                assert allowed, f"{path.name} imports {module}"
