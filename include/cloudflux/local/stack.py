"""The embedded stack as a whole: start it, stop it, ask it. Command line, demo and tests use nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from cloudflux.local import airflow, azure, kafka, postgres
from cloudflux.local.environment import stack_environment
from cloudflux.local.errors import StackError
from cloudflux.local.layout import REPOSITORY, Layout, Secrets, load_secrets, read_json, write_json, write_private
from cloudflux.local.ports import LOOPBACK, PortChoice, choose_ports, require_free
from cloudflux.local.processes import PeakMemory, end_processes, memory_bytes, stack_processes
from cloudflux.local.services import SERVICES, STOP_WAVES, Plan, plan_services, settings_that_replace
from cloudflux.local.starting import Report, Start
from cloudflux.local.supervision import Program, Supervisor, configuration

DEFAULT_FOLDER: Final = REPOSITORY / "var" / "stack"

_PORTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "postgres": ("postgres",),
    "kafka": ("kafka", "kafka-controller"),
    "s3": ("s3",),
    "azure": ("azure",),
    "gcs": ("gcs",),
    "mlflow": ("mlflow",),
    "airflow-api-server": ("airflow",),
}


@dataclass(frozen=True, slots=True)
class Started:
    """What a start did."""

    plan: Plan
    already_up: bool
    first_start: bool
    """Nobody has been told the credentials yet."""
    seconds: float


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service, as it is now."""

    name: str
    state: str
    """`running`, `starting`, `stopping`, `stopped`, `failed`, `left out`, or `replaced by SETTING`."""
    pid: int | None
    memory_bytes: int
    uptime_seconds: float
    address: str


class Stack:
    """One embedded stack below one folder.

    `settings` are environment variables: ports, and real services that replace parts of the stack.
    """

    def __init__(self, var_dir: Path = DEFAULT_FOLDER, settings: Mapping[str, str] | None = None) -> None:
        self.layout = Layout(var_dir.expanduser().resolve())
        self._settings = dict(os.environ if settings is None else settings)

    # -- starting ---------------------------------------------------------------------------------------------------

    def start(
        self,
        services: Collection[str] | None = None,
        *,
        without: Collection[str] = (),
        ports: PortChoice = "usual",
        port_of: Mapping[str, int] | None = None,
        report: Report = lambda service, phase: None,
    ) -> Started:
        """Start what does not run yet and wait until all of it is healthy; starting twice is harmless.

        `services` None means all. Raises ``StackError`` with one sentence; a stack that it began is down then.
        """
        began = time.monotonic()
        self.layout.make()
        with self._locked():
            secrets = load_secrets(self.layout)
            state = read_json(self.layout.state)
            supervisor = self._supervisor(state, secrets)
            first_start = not state.get("was_up", False)
            alive = supervisor is not None and supervisor.process() is not None and supervisor.answers()
            if alive and supervisor is not None:
                replacing: dict[str, str] = state["replacing"]
                chosen: dict[str, int] = state["ports"]
                running = {info["name"] for info in supervisor.programs() if int(info["pid"])}
                # a start that was cut off left services running whose databases or topics may be missing
                healthy = running & set(state.get("healthy", ()))
            else:
                end_processes(self.layout.root)  # what a crash left behind
                replacing = settings_that_replace(self._settings)
                chosen = choose_ports(ports, self._settings, remembered=state.get("ports"), explicit=port_of)
                running, healthy = set(), set()
                supervisor = Supervisor(self.layout, chosen["supervisor"], secrets.supervisor)
            plan = plan_services(services, without, replacing)
            missing = [service for service in plan.start if service not in healthy]
            if alive and not missing:
                return Started(plan, True, first_start, time.monotonic() - began)
            wanted_ports = [
                port for service in missing if service not in running for port in _PORTS_OF.get(service, ())
            ]
            require_free(chosen, wanted_ports if alive else [*wanted_ports, "supervisor"])
            configured = set(state.get("programs", ())) | set(plan.start) if alive else set(plan.start)
            programs = self._programs(configured, secrets, chosen, replacing)
            write_private(
                self.layout.supervisor_config,
                configuration(self.layout, programs, chosen["supervisor"], secrets.supervisor),
            )
            write_json(
                self.layout.state,
                {
                    "ports": chosen,
                    "replacing": replacing,
                    "replaced": dict(plan.replaced),
                    "left_out": [service for service in plan.left_out if service not in configured],
                    "programs": [program.name for program in programs],
                    "healthy": sorted(healthy),
                    "was_up": not first_start,
                },
            )
            airflow.write_passwords(self.layout, secrets)
            environment = {**self._settings, **stack_environment(self.layout, secrets, chosen, replacing)}
            try:
                if alive:
                    supervisor.reload()
                else:
                    supervisor.start(environment)
                Start(self.layout, secrets, chosen, environment, supervisor, report=report).bring_up(missing, plan)
            except BaseException:  # an interrupt too: what was begun is stopped again
                if not alive:
                    self._stop(supervisor)
                raise
            healthy |= set(plan.start)
            write_json(self.layout.state, {**read_json(self.layout.state), "healthy": sorted(healthy), "was_up": True})
            return Started(plan, False, first_start, time.monotonic() - began)

    def _programs(
        self, services: Collection[str], secrets: Secrets, ports: Mapping[str, int], replacing: Mapping[str, str]
    ) -> list[Program]:
        layout = self.layout
        programs = []
        for service in SERVICES:
            if service not in services:
                continue
            if service == "postgres":
                command = postgres.server_command(layout, ports["postgres"])
                # SIGINT sends the clients away; its folder is what `down` knows it by
                programs.append(Program(service, command, layout.postgres, stop_signal="INT", stop_seconds=20))
            elif service == "kafka":
                command = kafka.broker_command(layout, kafka.find_java(self._settings))
                programs.append(Program(service, command, layout.root, stop_seconds=15))
            elif service in ("s3", "gcs"):
                module = f"cloudflux.local.emulators.{service}"
                data = layout.folder(service)
                data.mkdir(mode=0o700, exist_ok=True)
                command = (
                    sys.executable,
                    "-m",
                    module,
                    "--host",
                    LOOPBACK,
                    "--port",
                    str(ports[service]),
                    "--data",
                    str(data),
                )
                programs.append(Program(service, command, layout.root))
            elif service == "azure":
                layout.folder("azure").mkdir(mode=0o700, exist_ok=True)
                command = azure.blob_command(layout, azure.find_node(self._settings), ports["azure"])
                accounts = {"AZURITE_ACCOUNTS": f"{azure.ACCOUNT}:{secrets.azure_account_key}"}
                programs.append(Program(service, command, layout.root, accounts))
            elif service == "mlflow":
                programs.append(_mlflow(layout, secrets, ports))
            else:
                programs.append(Program(service, airflow.command(service), layout.airflow, stop_seconds=15))
        return programs

    # -- stopping ---------------------------------------------------------------------------------------------------

    def stop(self) -> int:
        """Stop everything in order, leaving no process behind, also after a crash; give how many there were."""
        if not self.layout.root.exists():
            return 0
        with self._locked():
            secrets = load_secrets(self.layout)
            return self._stop(self._supervisor(read_json(self.layout.state), secrets))

    def _stop(self, supervisor: Supervisor | None) -> int:
        count = len(stack_processes(self.layout.root))
        if supervisor is not None and supervisor.process() is not None and supervisor.answers():
            # should supervisord die meanwhile, the sweep does the rest
            with contextlib.suppress(OSError, http.client.HTTPException):
                known = {info["name"] for info in supervisor.programs()}
                for wave in STOP_WAVES:
                    supervisor.stop_all([service for service in wave if service in known])
            supervisor.shut_down()
        end_processes(self.layout.root)
        left = stack_processes(self.layout.root)
        if left:
            names = ", ".join(str(process.pid) for process in left)
            raise StackError(f"these processes of the stack do not end: {names}; kill them by hand")
        return count

    # -- asking -----------------------------------------------------------------------------------------------------

    def is_up(self) -> bool:
        """Tell whether the stack's supervisord runs."""
        if not self.layout.secrets.exists():
            return False
        secrets = load_secrets(self.layout)
        supervisor = self._supervisor(read_json(self.layout.state), secrets)
        return supervisor is not None and supervisor.process() is not None and supervisor.answers()

    def environment(self) -> dict[str, str]:
        """Give the variables that every process of the stack sees. Raises ``StackError`` before the first start."""
        state = self._state()
        secrets = load_secrets(self.layout)
        return stack_environment(self.layout, secrets, state["ports"], state["replacing"])

    def ports(self) -> dict[str, int]:
        """Give every service's port."""
        ports: dict[str, int] = self._state()["ports"]
        return ports

    def addresses(self) -> dict[str, str]:
        """Give each service's address: a web address where a browser is of use, else host and port."""
        state = self._state()
        ports = state["ports"]
        addresses = {}
        for service in state["programs"]:
            name = "airflow" if service == "airflow-api-server" else service
            if name in ports:
                web = name in ("airflow", "mlflow", "s3", "azure", "gcs")
                addresses[name] = f"{'http://' if web else ''}{LOOPBACK}:{ports[name]}"
        return addresses

    def credentials(self) -> dict[str, tuple[str, str]]:
        """Give the generated names and passwords of the services that this stack runs, by what they are for."""
        secrets = load_secrets(self.layout)
        programs = self._state()["programs"]
        credentials = {
            "airflow-api-server": {
                "airflow": ("admin", secrets.airflow_admin),
                "airflow (read only)": ("viewer", secrets.airflow_viewer),
            },
            "postgres": {
                "postgres (cloudflux)": ("cloudflux", secrets.postgres_cloudflux),
                "postgres (superuser)": ("postgres", secrets.postgres_superuser),
            },
            "s3": {"s3": (secrets.s3_access_key, secrets.s3_secret_key)},
            "azure": {"azure": (azure.ACCOUNT, secrets.azure_account_key)},
        }
        return {
            purpose: pair
            for service, pairs in credentials.items()
            if service in programs
            for purpose, pair in pairs.items()
        }

    def processes(self) -> list[psutil.Process]:
        """Give every living process of the stack."""
        return stack_processes(self.layout.root)

    def memory_bytes(self) -> int:
        """Give what all processes use together now: the sum of their proportional set sizes."""
        return memory_bytes(self.processes())

    def watch_memory(self, every_seconds: float = 2.0) -> PeakMemory:
        """Give a context manager whose `peak_bytes` is the most that all processes used together inside it."""
        return PeakMemory(self.processes, every_seconds=every_seconds)

    def status(self) -> list[ServiceStatus]:
        """Give every service's state, in the order of starting."""
        state = read_json(self.layout.state)
        infos: dict[str, dict[str, Any]] = {}
        if self.is_up():
            secrets = load_secrets(self.layout)
            supervisor = self._supervisor(state, secrets)
            infos = {info["name"]: info for info in supervisor.programs()} if supervisor else {}
        addresses = self.addresses() if state else {}
        rows = []
        for service in SERVICES:
            if service in infos:
                rows.append(_status(service, infos[service], addresses))
                continue
            setting = state.get("replaced", {}).get(service)
            left_out = service in state.get("left_out", ())
            word = f"replaced by {setting}" if setting else "left out" if left_out and infos else "stopped"
            rows.append(ServiceStatus(service, word, None, 0, 0.0, ""))
        return rows

    def log_file(self, service: str) -> Path:
        """Give a service's log file. Raises ``StackError`` for an unknown service, or when it has no log yet."""
        names = (*SERVICES, "supervisord", "airflow-migrate")
        if service not in names:
            raise StackError(f"there is no service {service!r}: choose from {', '.join(names)}")
        log = self.layout.logs / f"{service}.log"
        if not log.exists():
            raise StackError(f"{service} has written no log yet: {log} does not exist")
        return log

    def _state(self) -> dict[str, Any]:
        state = read_json(self.layout.state)
        if not state:
            raise StackError(f"there is no stack in {self.layout.root}: start it with ./cloudflux up")
        return state

    def _supervisor(self, state: Mapping[str, Any], secrets: Secrets) -> Supervisor | None:
        return Supervisor(self.layout, state["ports"]["supervisor"], secrets.supervisor) if state else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.layout.lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another up or down finishes first
            yield


def _mlflow(layout: Layout, secrets: Secrets, ports: Mapping[str, int]) -> Program:
    artifacts = layout.folder("mlflow") / "artifacts"
    artifacts.mkdir(mode=0o700, parents=True, exist_ok=True)
    module = "cloudflux.local.mlflow_server"
    command = (sys.executable, "-m", module, "--host", LOOPBACK, "--port", str(ports["mlflow"]))
    environment = {
        # in the environment and not on the command line, where every user of the machine could read the password
        "MLFLOW_BACKEND_STORE_URI": postgres.database_url("mlflow", secrets, ports["postgres"], "psycopg2"),
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts.as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3",
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "7",
    }
    return Program("mlflow", command, layout.folder("mlflow"), environment, stop_seconds=8)


def _status(service: str, info: Mapping[str, Any], addresses: Mapping[str, str]) -> ServiceStatus:
    words = {"RUNNING": "running", "STARTING": "starting", "BACKOFF": "starting", "STOPPING": "stopping"}
    words |= {"STOPPED": "stopped", "EXITED": "failed", "FATAL": "failed"}
    address = addresses.get("airflow" if service == "airflow-api-server" else service, "")
    pid = int(info["pid"]) or None
    memory, uptime = 0, 0.0
    if pid is not None:
        try:
            process = psutil.Process(pid)
            memory = memory_bytes([process, *process.children(recursive=True)])
            uptime = time.time() - process.create_time()
        except psutil.NoSuchProcess:
            pid = None
    return ServiceStatus(service, words.get(info["statename"], "unknown"), pid, memory, uptime, address)
