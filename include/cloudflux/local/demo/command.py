"""`./cloudflux demo`: its options, what it says before and after, and its exit status."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudflux.domain.errors import CloudFluxError

if TYPE_CHECKING:
    from rich.console import Console

    from cloudflux.local.demo.runner import DemoSettings
    from cloudflux.local.demo.summary import Summary
    from cloudflux.local.stack import Stack

_DEFAULT_OBJECTS: Final = 6000
_DEFAULT_DAYS: Final = 120
_DEFAULT_SEED: Final = 7
_DEFAULT_MAX_OBJECT_BYTES: Final = 1024 * 1024
_EMULATED: Final = ("s3", "azure", "gcs", "kafka")
_SCREEN_COLUMNS: Final = 120


class NotForTheDemo(CloudFluxError):
    """The demo was asked to do what it must not, or cannot; the text says what to change."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to the launcher's parser."""
    parser = subparsers.add_parser(
        "demo",
        help="run the whole path on a world of objects, and show what it came to",
        description="Start the stack, put a world of objects and its access history into the emulated clouds, run "
        "every DAG, approve the plan as a person would, and show what moved and what it saves. A second demo on the "
        "same stack uploads nothing twice and moves nothing twice.",
        epilog="Exit status: 0 when every DAG run succeeded and every move was verified, or skipped for a reason. The "
        "stack stays up until Ctrl-C or ./cloudflux down, unless --exit is given.",
    )
    world = parser.add_argument_group("the world")
    world.add_argument(
        "--objects", type=_positive, default=_DEFAULT_OBJECTS, metavar="N", help="objects, a third per cloud (6000)"
    )
    world.add_argument(
        "--days", type=_positive, default=_DEFAULT_DAYS, metavar="N", help="days of accesses up to yesterday (120)"
    )
    world.add_argument("--seed", type=_positive, default=_DEFAULT_SEED, metavar="N", help="another world (7)")
    world.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="replay a real trace instead: Parquet with object_id, day, reads, size_bytes, created_day; it is shifted "
        "so that its last day is yesterday, each object's cloud is a hash of its id, its reads are spread over the "
        "day, and nothing else but the objects' bytes is made up",
    )
    world.add_argument(
        "--max-object-bytes",
        type=_positive,
        default=_DEFAULT_MAX_OBJECT_BYTES,
        metavar="N",
        help="leave larger objects of the trace out, and count them (1048576)",
    )
    world.add_argument(
        "--wrong-input",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="torn and binary log files and malformed Kafka messages are among the input unless --no-wrong-input says "
        "otherwise, and end in quarantine and dead letters; with --wrong-input one object is deleted and one "
        "overwritten between plan and move, too: both moves are skipped",
    )
    path = parser.add_argument_group("the run")
    path.add_argument("--no-approve", action="store_true", help="leave the approval to you, in Airflow's web page")
    path.add_argument("--json", type=Path, metavar="FILE", help="write the facts of the summary as JSON")
    end = path.add_mutually_exclusive_group()
    end.add_argument("--exit", action="store_true", help="stop the stack at the end")
    end.add_argument("--keep", action="store_true", help="return at the end and leave the stack up")
    stack = parser.add_argument_group("the stack")
    stack.add_argument(
        "--var", type=Path, metavar="DIR", help="the stack's folder (var/stack, or CLOUDFLUX_VAR), as for up"
    )
    stack.add_argument("--free-ports", action="store_true", help="take another free port where the usual one is in use")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo and give the exit status. Raises ``CloudFluxError`` with a text for whoever typed the command."""
    from rich.console import Console

    from cloudflux.local.stack import DEFAULT_FOLDER, Stack

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_SCREEN_COLUMNS)
    if options.json is not None and not options.json.expanduser().resolve().parent.is_dir():
        raise NotForTheDemo(f"--json {options.json}: there is no folder {options.json.parent} to write it to")
    named = options.var or os.environ.get("CLOUDFLUX_VAR")
    stack = Stack(Path(named) if named else DEFAULT_FOLDER)
    was_up = stack.is_up()
    try:
        return _demo(options, stack, console, was_up=was_up)
    except CloudFluxError:
        if options.exit:
            stack.stop()
        elif not was_up and stack.is_up():
            console.print("The stack stays up, so that you can look: stop it with ./cloudflux down")
        raise
    except KeyboardInterrupt:
        if was_up:
            console.print("\nThe demo was stopped; the stack, which was up before, stays up.")
        else:
            console.print("\nStopping the stack ...")
            stack.stop()
        return 130


def _demo(options: argparse.Namespace, stack: Stack, console: Console, *, was_up: bool) -> int:
    from dataclasses import replace
    from datetime import UTC, datetime

    import psutil

    from cloudflux.local.demo.progress import Progress
    from cloudflux.local.demo.runner import make_world, memory_folder, run_demo
    from cloudflux.local.processes import PeakMemory

    settings = _settings(options)
    _refuse_real_clouds(stack)
    own = psutil.Process()
    with (
        PeakMemory(lambda: [*stack.processes(), own], every_seconds=3.0) as memory,
        Progress(console) as progress,
    ):
        # The world first: a trace that cannot be read should not cost the start of a stack.
        progress.update("world", "reading the trace" if settings.trace else "generating")
        try:
            world = make_world(settings, memory_folder(stack), datetime.now(UTC).date())
        except ValueError as exc:
            raise exc if isinstance(exc, CloudFluxError) else NotForTheDemo(str(exc)) from exc
        reads = int(world.daily["reads"].sum())
        left_out = (
            f"; left out {world.left_out_objects:,} objects larger than {world.max_object_bytes:,} bytes, with "
            f"{world.left_out_reads:,} reads"
            if world.left_out_objects
            else ""
        )
        progress.finish(
            "world",
            f"{world.name}: {world.objects.height:,} objects, {reads:,} reads from {world.first_day} to "
            f"{world.last_day}{left_out}",
        )
        _start(options, stack, progress)
        summary = replace(run_demo(settings, world, stack, progress), peak_bytes=memory.peak_bytes)
    summary = replace(summary, peak_bytes=max(summary.peak_bytes, memory.peak_bytes))
    summary.print(console)
    if options.json is not None:
        options.json.expanduser().write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
    return _end(options, stack, console, summary, was_up=was_up)


def _settings(options: argparse.Namespace) -> DemoSettings:
    from cloudflux.local.demo.runner import DemoSettings

    return DemoSettings(
        objects=options.objects,
        days=options.days,
        seed=options.seed,
        trace=options.trace.expanduser() if options.trace is not None else None,
        max_object_bytes=options.max_object_bytes,
        wrong={None: "some", True: "all", False: "none"}[options.wrong_input],  # type: ignore[arg-type]  # str for Literal
        approve=not options.no_approve,
    )


def _refuse_real_clouds(stack: Stack) -> None:
    """Raise ``NotForTheDemo`` when a setting puts a real service in an emulator's place: the demo fills buckets."""
    from cloudflux.local.layout import read_json
    from cloudflux.local.services import plan_services, settings_that_replace

    replaced = dict(plan_services(replacing=settings_that_replace(os.environ)).replaced)
    if stack.is_up():
        replaced = dict(read_json(stack.layout.state).get("replaced", {}))
    for service in _EMULATED:
        if service in replaced:
            raise NotForTheDemo(
                f"{replaced[service]} puts a real service in the place of {service}: the demo writes to the embedded "
                f"ones only, so unset {replaced[service]}"
            )


def _start(options: argparse.Namespace, stack: Stack, progress: Any) -> None:
    """Start what does not run yet, and show each service as it comes up."""
    up: set[str] = set()
    known: set[str] = set()

    def report(service: str, phase: str) -> None:
        known.add(service)
        if phase == "up":
            up.add(service)
        waiting = ", ".join(sorted(known - up))
        progress.update("stack", f"{waiting or 'up'}: services", len(up), max(len(known), 10))

    progress.update("stack", "starting")
    started = stack.start(ports="usual-or-free" if options.free_ports else "usual", report=report)
    address = stack.addresses().get("airflow", "")
    progress.finish("stack", "was up already" if started.already_up else f"up, Airflow at {address}")


def _end(options: argparse.Namespace, stack: Stack, console: Console, summary: Summary, *, was_up: bool) -> int:
    problems = summary.problems()
    console.print()
    for problem in problems:
        console.print(f"Not well: {problem}", markup=False)
    status = 1 if problems else 0
    if options.exit:
        stack.stop()
        console.print("The stack is down.")
        return status
    user, password = stack.credentials()["airflow"]
    console.print(f"Airflow  {summary.addresses.get('airflow', '')}  login {user}, password {password}", markup=False)
    console.print(
        f"MLflow   {summary.addresses.get('mlflow', '')}  no login: it listens on loopback only", markup=False
    )
    if options.keep or was_up:
        console.print("The stack stays up: stop it with ./cloudflux down")
        return status
    console.print("They stay up until Ctrl-C, or ./cloudflux down from elsewhere.")
    try:
        while stack.is_up():
            time.sleep(2)
    except KeyboardInterrupt:
        console.print("\nStopping the stack ...")
        stack.stop()
    return status


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return number
