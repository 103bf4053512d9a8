from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

import cloudflux
from cloudflux.domain.errors import SettingsError, TransientError
from cloudflux.orchestration import kafka_sensor
from cloudflux.orchestration.kafka_sensor import IngestionLagSensor, IngestionLagTrigger


class Answers:
    """Stands in for the backlog: gives lags, or raises what stands among them."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = iter(answers)
        self.closed = 0

    def __call__(self, topic: str | None) -> Answers:
        return self

    def count(self) -> int:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*answers: int | Exception) -> Answers:
        stand_in = Answers(*answers)
        monkeypatch.setattr(kafka_sensor, "Backlog", stand_in)
        return stand_in

    return install


def a_trigger(min_lag: int = 1) -> IngestionLagTrigger:
    return IngestionLagTrigger("files", min_lag, 0)


def fire_and_count(answers: Answers, min_lag: int = 1) -> tuple[Any, int]:
    async def all_events() -> list[Any]:
        return [event.payload async for event in a_trigger(min_lag).run()]

    (payload,) = asyncio.run(all_events())
    return payload, answers.closed


def a_sensor(**options: Any) -> IngestionLagSensor:
    return IngestionLagSensor(task_id="wait", **options)


def test_trigger_is_made_again_from_what_it_serializes_when_the_triggerer_restarts() -> None:
    path, arguments = IngestionLagTrigger("files", 3, 2.5).serialize()
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**arguments)
    assert again.serialize() == (path, arguments)


def test_trigger_carries_no_address_when_it_is_serialized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLUX_DATABASE_URL", "postgresql://u:verysecret@db/x")
    assert set(a_trigger().serialize()[1]) == {"topic", "min_lag", "poll_seconds"}
    assert "verysecret" not in repr(a_trigger().serialize())


def test_trigger_fires_when_enough_messages_wait(backlog: Any) -> None:
    assert fire_and_count(backlog(0, 1, 2, 3, 4), min_lag=3) == ({"lag": 3}, 1)


def test_trigger_goes_on_with_new_connections_when_a_broker_was_away(backlog: Any) -> None:
    away = TransientError("away")
    assert fire_and_count(backlog(away, away, 0, away, away, 5)) == ({"lag": 5}, 5)


def test_trigger_reports_the_error_when_brokers_stay_away(backlog: Any) -> None:
    answers = backlog(*[TransientError("Kafka at x does not answer")] * 3, 7)
    assert fire_and_count(answers)[0] == {"error": "Kafka at x does not answer"}


def test_trigger_reports_the_error_at_once_when_it_is_permanent(backlog: Any) -> None:
    assert fire_and_count(backlog(SettingsError("KAFKA_BOOTSTRAP_SERVERS is not set"), 7))[0] == {
        "error": "KAFKA_BOOTSTRAP_SERVERS is not set"
    }


def test_sensor_is_done_at_once_when_messages_wait_already(backlog: Any) -> None:
    answers = backlog(4)
    assert a_sensor().execute({}) == {"lag": 4}
    assert answers.closed == 1


def test_sensor_defers_with_its_timeout_when_no_message_waits(backlog: Any) -> None:
    answers = backlog(0)
    with pytest.raises(TaskDeferred) as deferred:
        a_sensor(topic="files", timeout=60, poke_interval=2, min_lag=5).execute({})
    assert deferred.value.trigger.serialize()[1] == {"topic": "files", "min_lag": 5, "poll_seconds": 2.0}
    assert (deferred.value.method_name, deferred.value.timeout.total_seconds()) == ("resume", 60)
    assert answers.closed == 1


def test_sensor_fails_for_good_when_a_setting_is_wrong(backlog: Any) -> None:
    backlog(SettingsError("KAFKA_BOOTSTRAP_SERVERS is not set"))
    with pytest.raises(AirflowFailException, match="KAFKA_BOOTSTRAP_SERVERS"):
        a_sensor().execute({})


def test_sensor_gives_the_lag_when_the_trigger_fired() -> None:
    assert a_sensor().resume_execution("resume", {"event": {"lag": 9}}, {}) == {"lag": 9}


def test_sensor_fails_and_is_not_skipped_when_the_trigger_met_an_error() -> None:
    with pytest.raises(TransientError, match="away") as caught:
        a_sensor(soft_fail=True).resume_execution("resume", {"event": {"error": "Kafka is away"}}, {})
    assert not isinstance(caught.value, AirflowException)


def test_sensor_is_skipped_when_time_is_up_and_it_may_fail_softly() -> None:
    with pytest.raises(AirflowSkipException):
        a_sensor(soft_fail=True).resume_execution("__fail__", {"error": "Trigger timeout"}, {})


def test_nothing_heavy_is_imported_when_the_module_is() -> None:
    code = (
        "import sys, cloudflux.orchestration.kafka_sensor\n"
        "print([name for name in ('kafka', 'psycopg', 'pyarrow', 'alembic', 'cloudflux.stores', 'cloudflux.events') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(cloudflux.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "[]"
