"""The champion from the lake: asked of MLflow's server in one plain request, and never of its client."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skops.io

import cloudflux
import cloudflux_ml
from cloudflux.lake.partitions import Lake
from cloudflux.orchestration import explanations
from cloudflux.orchestration.kept_models import NotKept, keep_version, kept_champion
from cloudflux_ml import registry
from cloudflux_ml.features import FEATURE_NAMES
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.model_versions import ModelVersionId
from cloudflux_ml.registry_rest import NotPlain, champion_id
from cloudflux_ml.stored_model import KIND

FOUND = ModelVersionId("access-forecaster", "7", "models:/m-1", "run", "1764000000000")
TOLD = {
    "name": "access-forecaster",
    "version": "7",
    "creation_timestamp": 1764000000000,
    "source": "models:/m-1",
    "run_id": "run",
    "current_stage": "None",
}


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    kept_champion.cache_clear()
    yield
    kept_champion.cache_clear()


@pytest.fixture(scope="module")
def stored() -> bytes:
    rng = np.random.default_rng(3)
    values = rng.uniform(0, 50, (60, len(FEATURE_NAMES)))
    made = AccessForecaster(max_iter=2).fit(data_frame(values), np.where(np.arange(60) % 2, 0.0, 200.0))
    return skops.io.dumps(made)


@contextmanager
def server(status: int, told: Any, asked: list[str] | None = None) -> Iterator[str]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(self.path)
            content = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_champion_is_told_in_one_request_when_the_server_is_plain() -> None:
    asked: list[str] = []
    with server(200, {"model_version": TOLD}, asked) as uri:
        assert champion_id(uri, "access-forecaster") == FOUND
    assert asked == ["/api/2.0/mlflow/registered-models/alias?name=access-forecaster&alias=champion"]


@pytest.mark.parametrize("code", ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"])
def test_there_is_no_champion_when_the_server_knows_no_such_alias(code: str) -> None:
    with server(404, {"error_code": code, "message": "no"}) as uri:
        assert champion_id(uri, "access-forecaster") is None


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, b"who are you"),
        (500, {"error_code": "INTERNAL_ERROR"}),
        (404, []),
        (200, b"<html>"),
        (200, {"model_version": {"name": "x"}}),
        (200, []),
    ],
)
def test_the_client_is_called_for_when_the_server_answers_anything_else(status: int, told: Any) -> None:
    with server(status, told) as uri, pytest.raises(NotPlain):
        champion_id(uri, "access-forecaster")


def test_the_client_is_called_for_when_a_login_is_set_or_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotPlain):
        champion_id("sqlite:///mlflow.db", "access-forecaster")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    asked: list[str] = []
    with server(200, {"model_version": TOLD}, asked) as uri, pytest.raises(NotPlain):
        champion_id(uri, "access-forecaster")
    assert asked == []


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelVersionId)])
def test_another_file_is_meant_when_anything_of_the_version_differs(field: str) -> None:
    assert dataclasses.replace(FOUND, **{field: "other"}).artefact != FOUND.artefact


def test_version_is_fetched_once_when_it_is_kept(
    tmp_path: Path, stored: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def version_bytes(version: str, *, name: str) -> bytes:
        fetched.append(f"{name} {version}")
        return stored

    monkeypatch.setattr(registry, "version_bytes", version_bytes)
    lake = Lake(str(tmp_path), 4)
    keep_version(lake, FOUND)
    keep_version(lake, FOUND)
    assert fetched == ["access-forecaster 7"]
    champion = kept_champion(str(tmp_path), 4, "7", FOUND.artefact)
    assert champion.source == "model:7"
    assert champion is kept_champion(str(tmp_path), 4, "7", FOUND.artefact), "a process loads it once"
    lake.keep_artefact(KIND, FOUND.artefact, stored[: len(stored) // 2])
    keep_version(lake, FOUND)
    assert len(fetched) == 2, "what is damaged is fetched again"


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"", lambda content: b"x" * 99])
def test_version_is_not_believed_when_its_file_is_damaged(
    tmp_path: Path, stored: bytes, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    Lake(str(tmp_path), 4).keep_artefact(KIND, FOUND.artefact, damage(stored))
    with caplog.at_level(logging.WARNING), pytest.raises(NotKept):
        kept_champion(str(tmp_path), 4, "7", FOUND.artefact)
    assert "version 7 in the lake cannot be read" in caplog.text


def test_nothing_is_loaded_when_the_file_brings_types_that_are_not_trusted(tmp_path: Path) -> None:
    content = skops.io.dumps(SimpleNamespace(x=1))
    Lake(str(tmp_path), 4).keep_artefact(KIND, FOUND.artefact, content)
    with pytest.raises(NotKept, match="not trusted"):
        kept_champion(str(tmp_path), 4, "7", FOUND.artefact)


def test_champion_is_explained_with_when_the_lake_keeps_it(
    tmp_path: Path, stored: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: Any = SimpleNamespace(lake_url=str(tmp_path), shards=4)
    Lake(str(tmp_path), 4).keep_artefact(KIND, FOUND.artefact, stored)
    with server(200, {"model_version": TOLD}) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = explanations.find_champion("access-forecaster", current)
    assert found.champion is not None
    assert (found.champion.version, found.reason) == ("7", "version 7 is champion")


def test_mlflow_is_not_imported_when_the_lake_keeps_the_champion(tmp_path: Path, stored: bytes) -> None:
    Lake(str(tmp_path), 4).keep_artefact(KIND, FOUND.artefact, stored)
    with server(200, {"model_version": TOLD}) as uri:
        program = (
            "import os, sys\n"
            "from types import SimpleNamespace\n"
            f"os.environ['MLFLOW_TRACKING_URI'] = {uri!r}\n"
            "from cloudflux.orchestration.explanations import find_champion\n"
            "import cloudflux.stores, cloudflux.workflows.explain\n"
            f"current = SimpleNamespace(lake_url={str(tmp_path)!r}, shards=4)\n"
            "assert find_champion('access-forecaster', current).champion is not None\n"
            "print(sorted({'mlflow', 'alembic', 'airflow', 'great_expectations'} & set(sys.modules)))\n"
        )
        roots = [str(Path(module.__file__ or "").parents[1]) for module in (cloudflux, cloudflux_ml)]
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(roots), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == "[]"
