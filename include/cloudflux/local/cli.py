"""The command line behind `./cloudflux`. Each subcommand imports what it needs itself: `--help` is there at once."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudflux.local.stack import Stack

_DESCRIPTION = (
    "Put every object of S3, Azure Blob and GCS into the storage class that costs least. It all runs on this machine."
)


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="./cloudflux", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    if importlib.util.find_spec("cloudflux.local.demo.command") is not None:
        from cloudflux.local.demo import command as demo

        demo.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.bench.command") is not None:
        from cloudflux.local.bench import command as bench

        bench.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.prices.command") is not None:
        from cloudflux.local.prices import command as prices

        prices.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.backtest.command") is not None:
        from cloudflux.local.backtest import command as backtest

        backtest.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.explain.command") is not None:
        from cloudflux.local.explain import command as explain

        explain.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.autopilots.command") is not None:
        from cloudflux.local.autopilots import command as autopilots

        autopilots.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.savings.command") is not None:
        from cloudflux.local.savings import command as savings

        savings.add_parser(commands)
    if importlib.util.find_spec("cloudflux.local.migrations.command") is not None:
        from cloudflux.local.migrations import command as migrations

        migrations.add_parsers(commands)
    _add_test(commands)
    _add_up(commands)
    _add_down(commands)
    _add_status(commands)
    _add_logs(commands)
    return parser


def _add_test(commands: Any) -> None:
    parser = commands.add_parser(
        "test",
        help="run every check and test",
        description="Run ruff, mypy, import-linter and pytest; other arguments are for pytest, e.g. -k ledger.",
    )
    parser.add_argument("--fast", action="store_true", help="the unit tests only, nothing that starts a service")
    parser.set_defaults(run=_test, passes_through=True)


def _add_up(commands: Any) -> None:
    parser = commands.add_parser(
        "up",
        help="start the stack",
        description="Start PostgreSQL, Kafka, S3, Azure Blob, GCS, MLflow and Airflow on loopback. Twice is harmless.",
        epilog="A real service replaces a part: set CLOUDFLUX_DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, "
        "MLFLOW_TRACKING_URI, CLOUDFLUX_LAKE_URL, or AIRFLOW_CONN_{AWS,WASB,GOOGLE_CLOUD}_DEFAULT.",
    )
    _add_folder(parser)
    parser.add_argument("--only", metavar="SERVICES", type=_names, help="start these alone, e.g. s3,azure,gcs")
    parser.add_argument(
        "--without", metavar="SERVICES", type=_names, default=[], help="leave these out, e.g. kafka,mlflow"
    )
    parser.add_argument(
        "--free-ports", action="store_true", help="take another free port where the usual one is in use"
    )
    parser.add_argument(
        "--port",
        metavar="SERVICE=N",
        type=_port,
        action="append",
        default=[],
        help="a service's port, e.g. airflow=8081",
    )
    parser.set_defaults(run=_up)


def _add_down(commands: Any) -> None:
    parser = commands.add_parser(
        "down",
        help="stop the stack",
        description="Stop everything, in order, and leave no process behind. Data stays, but for what is in S3: its "
        "emulator keeps the objects' names in memory.",
    )
    _add_folder(parser)
    parser.set_defaults(run=_down)


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status", help="show what runs", description="Show every service's state, memory and address."
    )
    _add_folder(parser)
    parser.add_argument("--credentials", action="store_true", help="print the generated credentials too")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=_status)


def _add_logs(commands: Any) -> None:
    parser = commands.add_parser("logs", help="show a service's log", description="Show the end of a service's log.")
    parser.add_argument("service", metavar="SERVICE", help="e.g. airflow-scheduler; airflow is its api-server")
    _add_folder(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="how many lines (100)")
    parser.set_defaults(run=_logs)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--var",
        metavar="DIR",
        type=Path,
        help="the stack's folder (var/stack, or CLOUDFLUX_VAR): each folder is its own stack",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _port(text: str) -> tuple[str, int]:
    from cloudflux.local.ports import USUAL_PORTS

    service, _, number = text.partition("=")
    if service not in USUAL_PORTS or not number.isdigit() or not 1 <= int(number) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: write SERVICE=N with a service of {', '.join(USUAL_PORTS)}")
    return service, int(number)


def _stack(options: argparse.Namespace) -> Stack:
    from cloudflux.local.stack import DEFAULT_FOLDER, Stack

    named = options.var or os.environ.get("CLOUDFLUX_VAR")
    return Stack(Path(named) if named else DEFAULT_FOLDER)


def _test(options: argparse.Namespace) -> int:
    from cloudflux.local.checks import run_checks

    return run_checks(fast=options.fast, pytest_arguments=options.rest)


def _up(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cloudflux.local.display import StartDisplay, print_credentials
    from cloudflux.local.services import LOST_WITHOUT

    console = Console(highlight=False)
    stack = _stack(options)
    with StartDisplay(console) as display:
        started = stack.start(
            options.only,
            without=options.without,
            ports="usual-or-free" if options.free_ports else "usual",
            port_of=dict(options.port),
            report=display.report,
        )
    for part, setting in started.plan.replaced.items():
        console.print(f"{part}: not started, replaced by {setting}")
    if options.only is None:
        for name in dict.fromkeys("airflow" if name.startswith("airflow") else name for name in started.plan.left_out):
            console.print(f"without {name}: {LOST_WITHOUT[name]}", soft_wrap=True)
    if started.already_up:
        console.print("The stack is up already.")
    else:
        console.print(f"The stack is up, after {started.seconds:.0f} s.")
    for service, address in stack.addresses().items():
        console.print(f"  {service:10} {address}")
    if started.first_start:
        print_credentials(console, stack)
    console.print("Stop it with ./cloudflux down")
    return 0


def _down(options: argparse.Namespace) -> int:
    stack = _stack(options)
    count = stack.stop()
    print(f"The stack is down: {count} processes ended." if count else "The stack was not up.")
    return 0


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console

    from cloudflux.local.display import print_credentials, status_table

    stack = _stack(options)
    rows = stack.status()
    running = any(row.state == "running" for row in rows)
    if options.json:
        print(json.dumps([{field: getattr(row, field) for field in row.__slots__} for row in rows], indent=2))
        return 0 if running else 3
    console = Console(highlight=False)
    console.print(status_table(rows))
    if not stack.is_up() and (orphans := stack.processes()):
        console.print(f"supervisord is gone and left {len(orphans)} processes behind: end them with ./cloudflux down")
    if options.credentials:
        print_credentials(console, stack)
    return 0 if running else 3  # as init scripts say "not running"


def _logs(options: argparse.Namespace) -> int:
    service = "airflow-api-server" if options.service == "airflow" else options.service
    log = _stack(options).log_file(service)
    with log.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.writelines(file.readlines()[-options.lines :])
        while options.follow:
            line = file.readline()
            if line:
                sys.stdout.write(line)
                sys.stdout.flush()
            elif log.stat().st_size < file.tell():
                file.seek(0)  # supervisord began the file anew
            else:
                time.sleep(0.2)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and give its exit status; what goes wrong on purpose is one sentence."""
    from cloudflux.domain.errors import CloudFluxError

    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "passes_through", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        return int(options.run(options))
    except CloudFluxError as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
