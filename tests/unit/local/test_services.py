from __future__ import annotations

import pytest

from cloudflux.local.errors import StackError
from cloudflux.local.services import AIRFLOW, SERVICES, STOP_WAVES, plan_services, settings_that_replace


def test_everything_starts_when_nothing_is_left_out() -> None:
    assert plan_services().start == SERVICES


def test_a_service_brings_postgres_when_it_stands_on_it() -> None:
    assert plan_services(only=["mlflow"]).start == ("postgres", "mlflow")
    assert plan_services(only=["airflow"]).start == ("postgres", *AIRFLOW)


def test_nothing_else_starts_when_services_are_named() -> None:
    assert plan_services(only=["s3", "gcs"]).start == ("s3", "gcs")


def test_a_service_does_not_start_when_it_is_left_out() -> None:
    plan = plan_services(without=["kafka"])
    assert "kafka" not in plan.start
    assert plan.left_out == ("kafka",)


@pytest.mark.parametrize(
    ("setting", "service"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("AIRFLOW_CONN_AWS_DEFAULT", "s3"),
        ("AIRFLOW_CONN_WASB_DEFAULT", "azure"),
        ("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", "gcs"),
        ("MLFLOW_TRACKING_URI", "mlflow"),
    ],
)
def test_a_service_does_not_start_when_a_setting_replaces_it(setting: str, service: str) -> None:
    plan = plan_services(replacing={setting: "elsewhere"})
    assert service not in plan.start
    assert plan.replaced[service] == setting


def test_postgres_stays_when_only_our_database_is_elsewhere() -> None:
    plan = plan_services(replacing={"CLOUDFLUX_DATABASE_URL": "postgresql+psycopg://db/cloudflux"})
    assert "postgres" in plan.start
    assert plan.replaced["cloudflux database"] == "CLOUDFLUX_DATABASE_URL"


def test_postgres_does_not_start_when_all_its_databases_are_elsewhere() -> None:
    replacing = {
        "CLOUDFLUX_DATABASE_URL": "postgresql+psycopg://db/cloudflux",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://db/airflow",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    plan = plan_services(replacing=replacing)
    assert "postgres" not in plan.start
    assert set(AIRFLOW) <= set(plan.start)


def test_the_service_is_named_when_its_database_is_left_out() -> None:
    with pytest.raises(StackError, match="mlflow needs a database"):
        plan_services(without=["postgres", "airflow"])


def test_the_choices_are_listed_when_a_service_is_unknown() -> None:
    with pytest.raises(StackError, match=r"no service 'spark'.*airflow, postgres, kafka"):
        plan_services(without=["spark"])


def test_nothing_is_replaced_when_the_environment_is_a_stacks_own() -> None:
    assert settings_that_replace({"CLOUDFLUX_STACK": "/somewhere", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}) == {}


def test_empty_settings_replace_nothing_when_they_are_exported() -> None:
    assert settings_that_replace({"MLFLOW_TRACKING_URI": "", "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}) == {
        "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"
    }


def test_every_service_stops_in_one_wave_when_the_stack_stops() -> None:
    assert sorted(service for wave in STOP_WAVES for service in wave) == sorted(SERVICES)
