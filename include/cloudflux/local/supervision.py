"""supervisord: its generated configuration, and its XML-RPC interface on a loopback port with a generated password."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil

from cloudflux.local.errors import ServiceFailed
from cloudflux.local.layout import Layout
from cloudflux.local.ports import LOOPBACK
from cloudflux.local.processes import MARKER, wait_until

_USER: Final = "cloudflux"


@dataclass(frozen=True, slots=True)
class Program:
    """One process that supervisord keeps running."""

    name: str
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    """How long it may take to stop before it is killed."""


def configuration(layout: Layout, programs: Sequence[Program], port: int, password: str) -> str:
    """Give supervisord's configuration. Nothing starts by itself: `up` starts services in the order of their needs."""
    digest = hashlib.sha1(
        password.encode(), usedforsecurity=False
    ).hexdigest()  # the only digest that supervisord knows
    lines = [
        "[supervisord]",
        f"logfile={_escaped(layout.logs / 'supervisord.log')}",
        "logfile_maxbytes=10MB",
        "logfile_backups=1",
        f"pidfile={_escaped(layout.supervisor_pid)}",
        f"childlogdir={_escaped(layout.logs)}",
        f"directory={_escaped(layout.root)}",
        "umask=077",
        "identifier=cloudflux",
        *(["user=root"] if os.geteuid() == 0 else []),  # else it warns of being root
        "",
        "[inet_http_server]",
        f"port={LOOPBACK}:{port}",
        f"username={_USER}",
        f"password={{SHA}}{digest}",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        environment = ",".join(f'{name}="{_escaped(value)}"' for name, value in program.environment.items())
        lines += [
            "",
            f"[program:{program.name}]",
            f"command={_escaped(shlex.join(program.command))}",
            f"directory={_escaped(program.directory)}",
            *([f"environment={environment}"] if environment else []),
            "autostart=false",
            "autorestart=true",
            "startsecs=1",
            "startretries=2",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_seconds}",
            "killasgroup=true",
            f"stdout_logfile={_escaped(layout.logs / f'{program.name}.log')}",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=1",
            "redirect_stderr=true",
        ]
    return "\n".join(lines) + "\n"


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


class _Transport(xmlrpc.client.Transport):
    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = 30
        return connection


class Supervisor:
    """The supervisord of one stack."""

    def __init__(self, layout: Layout, port: int, password: str) -> None:
        self._layout = layout
        self._url = f"http://{_USER}:{quote(password, safe='')}@{LOOPBACK}:{port}/RPC2"

    def process(self) -> psutil.Process | None:
        """Give the living supervisord of this stack, or None."""
        try:
            pid = int(self._layout.supervisor_pid.read_text(encoding="utf-8"))
            process = psutil.Process(pid)
            mine = process.environ().get(MARKER) == str(self._layout.root)
            return process if mine and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def answers(self) -> bool:
        """Tell whether its interface answers."""
        try:
            self.call("getState")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the daemon; its children inherit the environment. Raises ``ServiceFailed`` with its own words."""
        started = subprocess.run(
            (sys.executable, "-m", "supervisor.supervisord", "-c", str(self._layout.supervisor_config)),
            cwd=self._layout.root,
            env={**environment, MARKER: str(self._layout.root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if started.returncode != 0:
            last = (started.stderr.strip() or started.stdout.strip()).splitlines()[-1:]
            raise ServiceFailed(f"supervisord did not start: {' '.join(last)}")
        if not wait_until(self.answers, seconds=20):
            raise ServiceFailed(f"supervisord does not answer: see {self._layout.logs / 'supervisord.log'}")

    def reload(self) -> None:
        """Let a running supervisord take up programs whose configuration is new or changed."""
        added, changed, removed = self.call("reloadConfig")[0]
        for name in (*changed, *removed):
            self.stop_all((name,))
            self.call("removeProcessGroup", name)
        for name in (*added, *changed):
            self.call("addProcessGroup", name)

    def start_program(self, name: str) -> None:
        """Start a program that does not run; do not wait for it."""
        try:
            self.call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise ServiceFailed(f"{name} cannot be started: {fault.faultString}") from fault

    def stop_all(self, names: Sequence[str]) -> None:
        """Stop programs at the same time, and wait until they have ended."""
        for name in names:
            try:
                self.call("stopProcess", name, False)
            except xmlrpc.client.Fault:  # it does not run
                continue
        waiting = set(names)
        wait_until(lambda: not waiting & self._running(), seconds=40)

    def _running(self) -> set[str]:
        return {
            info["name"]
            for info in self.programs()
            if info["statename"] not in ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
        }

    def programs(self) -> list[dict[str, Any]]:
        """Give supervisord's own account of every program."""
        infos: list[dict[str, Any]] = self.call("getAllProcessInfo")
        return infos

    def state(self, name: str) -> str:
        """Give one program's state in supervisord's words, e.g. `RUNNING` or `FATAL`."""
        return str(self.call("getProcessInfo", name)["statename"])

    def shut_down(self) -> None:
        """Stop whatever still runs, and the daemon itself."""
        process = self.process()
        # where it does not answer the sweep ends it
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            self.call("shutdown")
        if process is not None:
            psutil.wait_procs([process], timeout=45)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call one method of supervisord's interface."""
        # a connection a call: services start in several threads
        with xmlrpc.client.ServerProxy(self._url, transport=_Transport()) as server:
            return getattr(server.supervisor, method)(*arguments)
