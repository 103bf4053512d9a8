"""The embedded stack, really started: light services for the rules, all of it once for the health of the whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import STACKS, StackWith, settings_without_services

from cloudflux.local import airflow
from cloudflux.local.errors import PortInUse
from cloudflux.local.layout import REPOSITORY
from cloudflux.local.ports import LOOPBACK, free_ports
from cloudflux.local.processes import stack_processes, wait_until
from cloudflux.local.services import AIRFLOW, SERVICES
from cloudflux.local.stack import Stack

pytestmark = pytest.mark.stack

LIGHT = {"postgres", "gcs"}


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Give a stack of this test alone, in a folder with a space in its name."""
    made = Stack(STACKS / f"own {os.getpid()} {request.node.name}"[:80], settings_without_services())
    yield made
    made.stop()
    shutil.rmtree(made.layout.root, ignore_errors=True)


def pid_of(stack: Stack, service: str) -> int | None:
    return next(row.pid for row in stack.status() if row.name == service)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # which init has yet to collect
    except psutil.NoSuchProcess:
        return False


def interrupt_when_postgres_waits(service: str, phase: str) -> None:
    if (service, phase) == ("postgres", "waiting"):
        raise KeyboardInterrupt


def tables_of(stack: Stack) -> list[str]:
    import psycopg

    with psycopg.connect(stack.environment()["CLOUDFLUX_DATABASE_URL"].replace("+psycopg", "")) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE tableowner = 'cloudflux'").fetchall()
    return [row[0] for row in rows]


def run_command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "cloudflux.local.cli", *arguments, "--var", str(stack.layout.root)],
        env={**settings_without_services(), "PYTHONPATH": str(REPOSITORY / "include")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_second_start_changes_nothing_when_the_stack_is_up(stack: Stack) -> None:
    first = stack.start({"gcs"}, ports="free")
    pids = {service: pid_of(stack, service) for service in ("gcs",)}
    second = stack.start({"gcs"}, ports="free")
    assert (first.already_up, first.first_start) == (False, True)
    assert (second.already_up, second.first_start) == (True, False)
    assert {service: pid_of(stack, service) for service in ("gcs",)} == pids


def test_ports_secrets_and_data_stay_when_the_stack_starts_again(stack: Stack) -> None:
    import psycopg

    stack.start(LIGHT, ports="free")
    before = (stack.environment(), stack.credentials())
    url = stack.environment()["CLOUDFLUX_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    stack.stop()
    stack.start(LIGHT, ports="free")
    assert (stack.environment(), stack.credentials()) == before
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]


def running_of(stack: Stack) -> set[str]:
    return {row.name for row in stack.status() if row.state == "running"}


def test_a_service_joins_when_it_is_asked_for_later(stack: Stack) -> None:
    stack.start({"gcs"}, ports="free")
    pid = pid_of(stack, "gcs")
    stack.start({"s3"}, ports="free")
    # it answers before the supervisor has seen it run for long enough to call it running
    assert wait_until(lambda: running_of(stack) == {"gcs", "s3"}, seconds=20)
    assert pid_of(stack, "gcs") == pid


def test_the_next_start_completes_when_one_was_cut_off(stack: Stack) -> None:
    stack.start({"gcs"}, ports="free")
    # as if the start of PostgreSQL had been killed once its process ran: no databases yet
    with pytest.raises(KeyboardInterrupt):
        stack.start({"postgres"}, ports="free", report=interrupt_when_postgres_waits)
    assert pid_of(stack, "postgres") is not None
    stack.start({"postgres"}, ports="free")
    assert len(tables_of(stack)) > 5


def test_a_service_comes_back_when_it_is_killed(stack: Stack) -> None:
    stack.start({"gcs"}, ports="free")
    pid = pid_of(stack, "gcs")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: pid_of(stack, "gcs") not in (None, pid), seconds=20)


def test_no_process_is_left_when_the_stack_stops(stack: Stack) -> None:
    stack.start(LIGHT, ports="free")
    processes = stack.processes()
    assert stack.stop() == len(processes) > 3
    assert not [process for process in processes if is_alive(process)]
    assert stack.stop() == 0


@pytest.mark.parametrize("victims", ["supervisord", "everything"])
def test_no_process_is_left_when_processes_were_killed(stack: Stack, victims: str) -> None:
    stack.start(LIGHT, ports="free")
    processes = stack.processes()
    if victims == "supervisord":
        supervisord = psutil.Process(int(stack.layout.supervisor_pid.read_text()))
        supervisord.kill()
        assert wait_until(lambda: not supervisord.is_running(), seconds=10)
        assert stack_processes(stack.layout.root), "nothing was orphaned: the test proves nothing"
    else:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's children end with their parent
                process.kill()
    stack.stop()
    assert stack_processes(stack.layout.root) == []
    assert not [process for process in processes if is_alive(process)]
    stack.start(LIGHT, ports="free")  # and what they left on disk does not keep it from starting
    assert stack.is_up()


def test_the_port_is_named_and_nothing_runs_when_another_program_holds_it(stack: Stack) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            stack.start({"gcs"}, ports="free", port_of={"gcs": port})
    assert stack.processes() == []


def test_the_command_line_starts_shows_and_stops_when_it_is_used_as_people_do(stack: Stack) -> None:
    gcs, s3, supervisor = free_ports(3)
    ports = ("--port", f"gcs={gcs}", "--port", f"s3={s3}", "--port", f"supervisor={supervisor}")
    up = run_command(stack, "up", "--only", "gcs,s3", *ports)
    assert up.returncode == 0, up.stderr
    assert f"http://{LOOPBACK}:{gcs}" in up.stdout
    assert stack.credentials()["s3"][1] in up.stdout
    again = run_command(stack, "up", "--only", "gcs,s3", *ports)
    assert "is up already" in again.stdout
    assert stack.credentials()["s3"][1] not in again.stdout
    assert "running" in run_command(stack, "status").stdout
    assert run_command(stack, "logs", "gcs").returncode == 0
    assert "is down" in run_command(stack, "down").stdout
    assert run_command(stack, "status").returncode == 3


def test_postgres_asks_for_passwords_and_keeps_databases_apart_when_it_is_up(stack_with: StackWith) -> None:
    import psycopg

    stack = stack_with("postgres")
    port = stack.ports()["postgres"]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:guess@{LOOPBACK}:{port}/postgres")
    user, password = stack.credentials()["postgres (cloudflux)"]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(f"postgresql://{user}:{password}@{LOOPBACK}:{port}/airflow")


def test_everything_is_healthy_private_and_small_when_all_of_it_is_up(stack_with: StackWith) -> None:
    stack = stack_with(*SERVICES)
    states = {row.name: row.state for row in stack.status()}
    assert states == dict.fromkeys(SERVICES, "running")

    listening: set[str] = set()
    words: set[str] = set()
    for process in stack.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # Airflow parses each DAG file in a process of its own
            sockets = process.net_connections()
            listening |= {connection.laddr.ip for connection in sockets if connection.status == psutil.CONN_LISTEN}
            words |= set(process.cmdline())
    assert {address.removeprefix("::ffff:") for address in listening} == {LOOPBACK}
    assert not [word for word in words for _, secret in stack.credentials().values() if secret in word]

    port = stack.ports()["airflow"]
    assert set(airflow.heartbeats(port)) == set(AIRFLOW) - {"airflow-api-server"}
    assert airflow.request(port, "GET", "/api/v2/dags")[0] == 401
    bearer = airflow.token(port, *stack.credentials()["airflow"])
    _, pools = airflow.request(port, "GET", "/api/v2/pools", bearer=bearer)
    assert {"aws", "azure", "gcp"} <= {pool["name"] for pool in pools["pools"]}

    secrets = (stack.layout.secrets, stack.layout.state, stack.layout.supervisor_config)
    assert {Path(file).stat().st_mode & 0o077 for file in secrets} == {0}
    assert stack.memory_bytes() < 4 * 2**30
