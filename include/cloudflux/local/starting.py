"""How the stack's services come up: what each needs first, side by side, and whether it is healthy."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Final

from cloudflux.local import airflow, azure, kafka, postgres
from cloudflux.local.errors import ServiceFailed, StackError
from cloudflux.local.layout import Layout, Secrets, read_json, write_json
from cloudflux.local.ports import LOOPBACK
from cloudflux.local.services import AIRFLOW, Plan
from cloudflux.local.supervision import Supervisor

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


class _Cancelled(StackError):
    """Another service failed: this one's wait is pointless."""


class Start:
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
        """Start services and wait until all are healthy. Raises the first failure; the others are not waited for."""
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
