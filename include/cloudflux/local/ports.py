"""Which port each service listens on: the usual one, another free one, or one that a setting names."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from cloudflux.local.errors import PortInUse, StackError

LOOPBACK: Final = "127.0.0.1"

USUAL_PORTS: Final[Mapping[str, int]] = {
    "airflow": 8080,
    "mlflow": 5000,
    "postgres": 5433,  # not 5432, where a machine's own PostgreSQL listens
    "kafka": 9092,
    "kafka-controller": 9093,
    "s3": 9000,
    "azure": 10000,
    "gcs": 4443,
    "supervisor": 9001,
}

PortChoice = Literal["usual", "usual-or-free", "free"]
"""`usual`: a port in use is an error. `usual-or-free`: take another one then. `free`: never the usual ones (tests)."""


def setting_name(service: str) -> str:
    """Give the environment variable that sets a service's port."""
    return f"CLOUDFLUX_{service.upper().replace('-', '_')}_PORT"


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: connections of an earlier server that linger in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Give different ports that are free now."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def holder_of(port: int) -> str:
    """Say which program listens on a port, as far as this user may see it."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS without root
        return "another program"
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                break
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "another program"


def choose_ports(
    choice: PortChoice,
    settings: Mapping[str, str],
    *,
    remembered: Mapping[str, int] | None = None,
    explicit: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Give every service a port: asked for, set in the environment, remembered, or by the choice; busy or not.

    Raises ``StackError`` when a setting is no port number.
    """
    chosen: dict[str, int] = {}
    for service in USUAL_PORTS:
        if explicit and service in explicit:
            chosen[service] = explicit[service]
        elif setting_name(service) in settings:
            chosen[service] = port_number(settings[setting_name(service)], setting_name(service))
        elif choice != "usual" and remembered and service in remembered:
            chosen[service] = remembered[service]
    for port, names in _doubles(chosen).items():
        raise StackError(f"port {port} is given to {' and '.join(names)}: give each its own")
    missing = [service for service in USUAL_PORTS if service not in chosen]
    spares = iter(free_ports(len(missing)))
    for service in missing:
        spare = next(spares)
        usual = USUAL_PORTS[service]
        if choice == "free" or usual in chosen.values() or (choice == "usual-or-free" and not is_free(usual)):
            chosen[service] = spare
        else:
            chosen[service] = usual
    return chosen


def port_number(text: str, setting: str) -> int:
    """Read a port number. Raises ``StackError`` naming the setting."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise StackError(f"{setting} is {text!r}: give a port number from 1 to 65535")
    return int(text)


def require_free(ports: Mapping[str, int], services: Iterable[str]) -> None:
    """Raise ``PortInUse`` for the first of the services whose port is taken."""
    for service in services:
        port = ports[service]
        if not is_free(port):
            raise PortInUse(
                f"port {port} for {service} is in use by {holder_of(port)}: stop that program, choose another port "
                f"with --port {service}=N or {setting_name(service)}=N, or let CloudFlux choose with --free-ports"
            )


def _doubles(ports: Mapping[str, int]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for service, port in ports.items():
        names.setdefault(port, []).append(service)
    return {port: services for port, services in names.items() if len(services) > 1}
