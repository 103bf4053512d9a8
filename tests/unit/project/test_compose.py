"""The compose file, checked without an engine: pinned images, no passwords in it, nothing open beyond loopback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]


def test_services_are_those_of_a_whole_stack() -> None:
    assert {
        "postgres",
        "kafka",
        "mlflow",
        "airflow-api-server",
        "airflow-scheduler",
        "airflow-dag-processor",
        "airflow-triggerer",
        "airflow-worker",
    } <= set(SERVICES)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_is_pinned_and_closed(name: str) -> None:
    service = SERVICES[name]
    if "image" in service:
        assert re.fullmatch(r"[\w/.-]+:\d+(\.\d+)+", service["image"]), service["image"]
    else:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    for dependency in service.get("depends_on", {}):
        assert dependency in SERVICES


def test_every_variable_is_in_the_example_and_has_no_value() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == set(example)
    assert set(example.values()) == {""}


def test_secrets_have_no_default() -> None:
    for variable, rest in re.findall(r"\$\{(\w*(?:PASSWORD|KEY|SECRET)\w*)([^}]*)\}", COMPOSE):
        assert not rest.startswith(":-"), variable
    assert set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY|SECRET)\w*):\?", COMPOSE)) == set(
        re.findall(r"\$\{(\w*(?:PASSWORD|KEY|SECRET)\w*)", COMPOSE)
    )


def test_dags_see_the_settings_that_they_need() -> None:
    environment = SERVICES["airflow-worker"]["environment"]
    for name in ("CLOUDFLUX_DATABASE_URL", "CLOUDFLUX_LAKE_URL", "CLOUDFLUX_ESTATE", "KAFKA_BOOTSTRAP_SERVERS"):
        assert environment[name]
