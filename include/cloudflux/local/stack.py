"""The embedded stack as a whole: start it, stop it, ask it. Command line, demo and tests use nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from cloudflux.local import airflow, azure, kafka, postgres
from cloudflux.local.environment import stack_environment
from cloudflux.local.errors import ServiceFailed, StackError
from cloudflux.local.layout import REPOSITORY, Layout, Secrets, load_secrets, read_json, write_json, write_private
from cloudflux.local.ports import LOOPBACK, PortChoice, choose_ports, require_free
from cloudflux.local.processes import PeakMemory, end_processes, memory_bytes, stack_processes
from cloudflux.local.services import AIRFLOW, SERVICES, STOP_WAVES, Plan, plan_services, settings_that_replace
from cloudflux.local.supervision import Program, Supervisor, configuration

DEFAULT_FOLDER: Final = REPOSITORY / "var" / "stack"

Report = Callable[[str, str], None]
"""Told of progress: a service's name, and one of `preparing`, `starting`, `waiting`, `up` or `failed`."""

_DEADLINES_SECONDS: Final[Mapping[str, float]] = {
    "postgres": 60,
    "kafka": 120,
    "s3": 90,
    "azure": 90,
    "gcs": 90,
    "mlflow": 240,
    **dict.fromkeys(AIRFLOW, 300),
}

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
                _Start(self.layout, secrets, chosen, environment, supervisor, report=report).bring_up(missing, plan)
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


class _Cancelled(StackError):
    """Another service failed: this one's wait is pointless."""


class _Start:
    """One start of some services, side by side where their needs allow it."""

    def __init__(
        self,
        layout: Layout,
        secrets: Secrets,
        ports: Mapping[str, int],
        environment: Mapping[str, str],
        supervisor: Supervisor,
        *,
        report: Report,
    ) -> None:
        self._layout = layout
        self._secrets = secrets
        self._ports = ports
        self._environment = environment
        self._supervisor = supervisor
        self._report = report
        self._cancelled = threading.Event()
        self._stamping = threading.Lock()
        self._owns_airflow_database = True

    def bring_up(self, services: Collection[str], plan: Plan) -> None:
        self._owns_airflow_database = "airflow database" not in plan.replaced
        steps: dict[str, Callable[[], None]] = {
            "kafka": self._kafka,
            "azure": self._azure,
            "s3": lambda: self._emulator("s3"),
            "gcs": lambda: self._emulator("gcs"),
            "mlflow": self._mlflow,
        }
        with ThreadPoolExecutor(12, thread_name_prefix="start") as pool:
            stored: Future[None] | None = (
                pool.submit(self._guarded, "postgres", self._postgres) if "postgres" in services else None
            )
            futures = [stored] if stored else []

            def after_postgres(service: str, step: Callable[[], None]) -> None:
                if stored is not None:
                    wait([stored])
                self._guarded(service, step)

            uses_replacement = "cloudflux database" in plan.replaced and set(services) & set(AIRFLOW)
            if "postgres" in services or uses_replacement:
                futures.append(pool.submit(after_postgres, "cloudflux database", self._cloudflux_schema))
            airflow_services = [service for service in AIRFLOW if service in services]
            if airflow_services:
                futures.append(
                    pool.submit(after_postgres, airflow_services[0], lambda: self._airflow(airflow_services))
                )
            for service, step in steps.items():
                if service in services:
                    first = after_postgres if service == "mlflow" else self._guarded
                    futures.append(pool.submit(first, service, step))
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt:
                self._cancelled.set()  # the threads end their waiting
                raise
            self._raise_first(done)

    def _guarded(self, service: str, step: Callable[[], None]) -> None:
        if self._cancelled.is_set():
            raise _Cancelled(service)
        try:
            step()
        except BaseException:  # an interrupt too: the other services must not go on
            if not self._cancelled.is_set():
                self._report(service, "failed")
            self._cancelled.set()
            raise

    @staticmethod
    def _raise_first(done: Collection[Future[None]]) -> None:
        errors = [error for future in done if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, _Cancelled)):
            raise error

    # -- one service each -------------------------------------------------------------------------------------------

    def _postgres(self) -> None:
        self._report("postgres", "preparing")
        if postgres.make_cluster(self._layout, self._secrets):
            (self._layout.postgres / "migrated.json").unlink(missing_ok=True)
        port = self._ports["postgres"]
        self._run("postgres", lambda: postgres.is_ready(self._secrets, port))
        postgres.make_databases(self._secrets, port)
        self._report("postgres", "up")

    def _cloudflux_schema(self) -> None:
        # our own tables migrate in well under a second when there is nothing to do: no stamp
        from cloudflux.stores import upgrade

        self._report("cloudflux database", "preparing")
        upgrade(self._environment["CLOUDFLUX_DATABASE_URL"])
        self._report("cloudflux database", "up")

    def _kafka(self) -> None:
        self._report("kafka", "preparing")
        kafka.install_jars()
        java = kafka.find_java(self._environment)
        port, controller = self._ports["kafka"], self._ports["kafka-controller"]
        kafka.prepare(self._layout, self._secrets.kafka_cluster, java, port, controller)
        self._run("kafka", lambda: _accepts(port) and kafka.make_topic(f"{LOOPBACK}:{port}"))
        self._report("kafka", "up")

    def _azure(self) -> None:
        self._report("azure", "preparing")
        azure.install_azurite(azure.find_node(self._environment))
        self._emulator("azure")

    def _emulator(self, service: str) -> None:
        port = self._ports[service]
        self._run(service, lambda: _http_status(port, "/") is not None)
        self._report(service, "up")

    def _mlflow(self) -> None:
        version = importlib.metadata.version("mlflow")
        before = self._migrated("mlflow")
        if before not in (None, version):  # the server makes the tables of an empty database, but changes none
            self._report("mlflow", "preparing")
            _upgrade_mlflow(postgres.database_url("mlflow", self._secrets, self._ports["postgres"], "psycopg2"))
        port = self._ports["mlflow"]
        self._run("mlflow", lambda: _http_status(port, "/health") == http.client.OK)
        self._remember_migrated("mlflow", version)
        self._report("mlflow", "up")

    def _airflow(self, services: Collection[str]) -> None:
        version = airflow.schema_version()
        if not self._owns_airflow_database or self._migrated("airflow") != version:
            self._report("airflow database", "preparing")
            airflow.migrate(self._environment, self._layout.logs / "airflow-migrate.log")
            if self._owns_airflow_database:
                self._remember_migrated("airflow", version)
            self._report("airflow database", "up")
        began = datetime.now(UTC)
        for service in services:
            self._report(service, "starting")
            self._supervisor.start_program(service)
        port = self._ports["airflow"]
        waiting = list(services)
        up: set[str] = set()

        def all_alive() -> bool:
            try:
                beats = airflow.heartbeats(port)
            except OSError:
                return False
            for service in waiting:
                beat = beats.get(service)
                if service not in up and (service == "airflow-api-server" or (beat is not None and beat >= began)):
                    up.add(service)
                    self._report(service, "up")
            return up >= set(waiting)

        self._wait(waiting, all_alive, _DEADLINES_SECONDS["airflow-scheduler"])
        if "airflow-api-server" in services:
            airflow.make_pools(port, airflow.token(port, "admin", self._secrets.airflow_admin))

    def _migrated(self, database: str) -> str | None:
        return read_json(self._layout.postgres / "migrated.json").get(database)

    def _remember_migrated(self, database: str, version: str) -> None:
        stamp = self._layout.postgres / "migrated.json"
        with self._stamping:
            write_json(stamp, {**read_json(stamp), database: version})

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _run(self, service: str, healthy: Callable[[], bool]) -> None:
        self._report(service, "starting")
        self._supervisor.start_program(service)
        self._report(service, "waiting")
        self._wait([service], healthy, _DEADLINES_SECONDS[service])

    def _wait(self, services: Collection[str], healthy: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        # one that answers sooner than supervisord believes in it would be shown as still starting
        while not (healthy() and all(self._supervisor.state(service) == "RUNNING" for service in services)):
            if self._cancelled.is_set():
                raise _Cancelled(", ".join(services))
            for service in services:
                if self._supervisor.state(service) in ("FATAL", "EXITED", "UNKNOWN"):
                    raise ServiceFailed(f"{service} does not stay up{self._last_words(service)}")
            if time.monotonic() > deadline:
                names = ", ".join(services)
                raise ServiceFailed(
                    f"{names} not healthy after {seconds:.0f} s{self._last_words(next(iter(services)))}"
                )
            time.sleep(0.3)

    def _last_words(self, service: str) -> str:
        log = self._layout.logs / f"{service}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:] if log.exists() else []
        return f"; the end of {log}:\n" + "\n".join(f"    {line}" for line in lines)


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


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=2).close()
    except OSError:
        return False
    return True


def _http_status(port: int, path: str) -> int | None:
    """Give the status of an answer of any kind; None while nothing answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _upgrade_mlflow(url: str) -> None:
    code = (
        "import os, mlflow.store.db.utils as u; u._upgrade_db(u.create_sqlalchemy_engine_with_retry(os.environ['URL']))"
    )
    upgraded = subprocess.run(
        (sys.executable, "-c", code), env={**os.environ, "URL": url}, capture_output=True, text=True, check=False
    )
    if upgraded.returncode != 0:
        raise ServiceFailed(f"MLflow's database could not be upgraded: {upgraded.stderr.strip().splitlines()[-1]}")
