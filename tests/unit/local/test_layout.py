from __future__ import annotations

import base64
import json
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from cloudflux.config import Settings, load_estate
from cloudflux.local.environment import stack_environment
from cloudflux.local.layout import Layout, Secrets, load_secrets, write_private
from cloudflux.local.ports import USUAL_PORTS


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "a stack")
    made.make()
    return made


@pytest.fixture
def secrets(layout: Layout) -> Secrets:
    return load_secrets(layout)


def test_secrets_stay_the_same_when_they_are_read_again(layout: Layout, secrets: Secrets) -> None:
    assert load_secrets(layout) == secrets


def test_secrets_differ_when_stacks_differ(tmp_path: Path, secrets: Secrets) -> None:
    other = Layout(tmp_path / "other")
    other.make()
    mine, others = asdict(secrets), asdict(load_secrets(other))
    assert not [name for name in mine if mine[name] == others[name]]


def test_only_the_owner_reads_when_secrets_are_written(layout: Layout, secrets: Secrets) -> None:
    assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o600


def test_a_file_becomes_private_when_it_was_open_before(tmp_path: Path) -> None:
    file = tmp_path / "open"
    file.touch(mode=0o644)
    write_private(file, "secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "secret"


def test_keys_have_the_form_that_their_services_want_when_they_are_generated(secrets: Secrets) -> None:
    assert len(base64.urlsafe_b64decode(secrets.airflow_fernet_key)) == 32
    assert len(base64.b64decode(secrets.azure_account_key)) == 64
    assert len(base64.urlsafe_b64decode(secrets.kafka_cluster + "==")) == 16


def test_the_estate_is_kept_when_the_folders_are_made_again(layout: Layout) -> None:
    assert load_estate(layout.estate).buckets == ()
    layout.estate.write_text("excluded_agents: [ours]\n")
    layout.make()
    assert load_estate(layout.estate).excluded_agents == ("ours",)


def test_settings_are_complete_when_they_are_read_from_the_stacks_environment(
    layout: Layout, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = stack_environment(layout, secrets, USUAL_PORTS, {})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.lake_url == str(layout.lake)
    assert settings.load_estate().buckets == ()
    assert set(environment) >= {
        "KAFKA_BOOTSTRAP_SERVERS",
        "MLFLOW_TRACKING_URI",
        "STORAGE_EMULATOR_HOST",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__CORE__FERNET_KEY",
    }


def test_connections_are_json_for_loopback_when_nothing_replaces_them(layout: Layout, secrets: Secrets) -> None:
    environment = stack_environment(layout, secrets, USUAL_PORTS, {})
    aws = json.loads(environment["AIRFLOW_CONN_AWS_DEFAULT"])
    assert aws["extra"]["endpoint_url"] == f"http://127.0.0.1:{USUAL_PORTS['s3']}"
    assert aws["extra"]["config_kwargs"]["max_pool_connections"] > 10
    wasb = json.loads(environment["AIRFLOW_CONN_WASB_DEFAULT"])
    assert secrets.azure_account_key in wasb["extra"]["connection_string"]
    google = json.loads(environment["AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT"])
    assert google["extra"]["endpoint"] == environment["STORAGE_EMULATOR_HOST"]


def test_a_setting_keeps_its_value_when_it_replaces_a_part(layout: Layout, secrets: Secrets) -> None:
    replacing = {
        "KAFKA_BOOTSTRAP_SERVERS": "broker:9092",
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
    }
    environment = stack_environment(layout, secrets, USUAL_PORTS, replacing)
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "broker:9092"
    assert "STORAGE_EMULATOR_HOST" not in environment
