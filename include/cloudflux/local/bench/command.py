"""`./cloudflux bench`: measure on this machine, and print ratios."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

_MIB: Final = 2**20


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="measure on this machine, and print ratios",
        description="Measure a part of CloudFlux beside tools that do a part of the same, in one run.",
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    collect = parts.add_parser(
        "collect",
        help="log files to published daily access; inventory reports to a published snapshot",
        description="Write log files and an inventory report, collect them by the use cases that the DAGs run, audits "
        "included, and compare with DuckDB's read_csv and goaccess (where it is installed) on the same files. "
        "The full run needs 30 GB of disk and about ten minutes.",
    )
    collect.add_argument(
        "--lines",
        type=_count,
        action="append",
        help="S3 log lines; more than once for several sizes (default 2000000 and 20000000)",
    )
    collect.add_argument("--other-lines", type=_count, default=1_000_000, help="lines of the other formats each")
    collect.add_argument("--objects", type=_count, default=10_000_000, help="objects of the inventory")
    collect.add_argument("--kills", type=_count, default=20, help="kill -9 at so many random moments; 0 for none")
    collect.add_argument("--without-goaccess", action="store_true", help="goaccess needs minutes on 20 million lines")
    collect.add_argument("--folder", type=Path, help="where to work (default: below var/); emptied afterwards")
    collect.add_argument("--json", type=Path, metavar="FILE", help="write all figures into a file")
    collect.set_defaults(run=_collect)
    decide = parts.add_parser(
        "decide",
        help="every object featurised, forecast and decided",
        description="Write a lake with inventory and 150 days of daily access, train on a sample, and score all of its "
        "shards by the use case that the task calls; beside it, the model's bare prediction on ready matrices, and a "
        "tenth of the objects. The full run needs 3 GB of disk and about ten minutes.",
    )
    decide.add_argument("--objects", type=_count, default=10_000_000)
    decide.add_argument("--shards", type=_count, help="default: of 250,000 objects each")
    decide.add_argument("--workers", type=_count, default=2, help="processes of one thread each (default 2)")
    decide.add_argument("--folder", type=Path, help="where to work (default: below var/); emptied afterwards")
    decide.add_argument("--json", type=Path, metavar="FILE", help="write all figures into a file")
    decide.set_defaults(run=_decide)
    migrate = parts.add_parser(
        "migrate",
        help="plans carried out on the emulators, beside bare clients and rclone",
        description="Put objects on each emulator, store plans to move them all, and carry these out as the task does; "
        "beside it, clients that send the same requests and keep no record, and `rclone settier`. Then copies a second "
        "against a local endpoint that answers after 50 ms, and the memory of a small and a large plan. "
        "The full run takes about twenty minutes.",
    )
    migrate.add_argument("--objects", type=_some, default=10_000, help="moves of a plan (default 10000)")
    migrate.add_argument(
        "--large", type=_count, default=200_000, help="moves of the large plan (default 200000); 0 for none"
    )
    migrate.add_argument(
        "--providers", type=_movers, default="aws,azure,gcp,endpoint", help="default aws,azure,gcp,endpoint"
    )
    migrate.add_argument("--rounds", type=_some, default=3, help="turns of each; the median is told (default 3)")
    migrate.add_argument(
        "--rewrite-us",
        type=_count,
        default=0,
        metavar="N",
        help="let each rewrite take Google's emulator so many microseconds more (default 0: about 60 in all)",
    )
    migrate.add_argument("--folder", type=Path, help="where to work (default: below var/); emptied afterwards")
    migrate.add_argument("--json", type=Path, metavar="FILE", help="write all figures into a file")
    migrate.set_defaults(run=_migrate)


def _count(text: str) -> int:
    try:
        value = int(text.replace("_", ""))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number, as 10_000") from exc
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _some(text: str) -> int:
    value = _count(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _movers(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    known = ("aws", "azure", "gcp", "endpoint")
    if not chosen or set(chosen) - set(known):
        raise argparse.ArgumentTypeError(f"some of {','.join(known)}")
    return chosen


def _collect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from cloudflux.local.stack import DEFAULT_FOLDER

    console = Console(width=None if Console().is_terminal else 120)
    folder = (arguments.folder or DEFAULT_FOLDER.parent / "bench") / f"collect-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        figures = _measured(arguments, folder, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for table in _tables(figures):
        console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if figures.get("kills", {}).get("identical", True) else 1


def _decide(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from cloudflux.local.bench.decide import bench_decide
    from cloudflux.local.stack import DEFAULT_FOLDER

    console = Console(width=None if Console().is_terminal else 120)
    folder = (arguments.folder or DEFAULT_FOLDER.parent / "bench") / f"decide-{os.getpid()}"
    folder.mkdir(parents=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {text}", highlight=False)

    try:
        figures = bench_decide(
            arguments.objects, folder, shards=arguments.shards or None, workers=max(1, arguments.workers), say=say
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(_decided_table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from cloudflux.domain.errors import SettingsError
    from cloudflux.local.bench.migrate import bench_migrate
    from cloudflux.local.stack import DEFAULT_FOLDER

    if arguments.rewrite_us and "gcp" not in arguments.providers:
        raise SettingsError("--rewrite-us needs gcp among the --providers: it is Google's emulator that is slowed down")
    console = Console(width=None if Console().is_terminal else 120)
    folder = (arguments.folder or DEFAULT_FOLDER.parent / "bench") / f"migrate-{os.getpid()}"
    folder.mkdir(parents=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {text}", highlight=False)

    try:
        figures = bench_migrate(
            arguments.objects,
            arguments.large,
            folder,
            providers=arguments.providers,
            rounds=arguments.rounds,
            rewrite_us=arguments.rewrite_us,
            say=say,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for table in _moved_tables(figures):
        console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _moved_tables(figures: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    from cloudflux.local.bench.migrate import BARE_TARGET, ENDPOINT_TARGET

    tables = []
    if found := figures["emulators"]:
        table = Table(
            title=f"Moving {figures['objects']:,} objects on the emulators, median of {figures['rounds']} "
            f"(asked: {BARE_TARGET} of the bare client, at least rclone)",
            title_justify="left",
        )
        table.add_column("a second")
        for name in found:
            table.add_column(name, justify="right")

        def rates(label: str, name: str) -> None:
            table.add_row(label, *(f"{row['per_second'][name]:,.0f}" for row in found.values()))

        def ratios(label: str, name: str) -> None:
            shown = (row[name] for row in found.values())
            table.add_row(label, *("-" if ratio is None else f"{ratio:.2f}" for ratio in shown))

        rates("changes, all in one call", "changes")
        rates("whole moves: plan, look, ledger, change, compare, ledger", "moves")
        rates("bare client: changes only, nothing read or kept", "bare")
        rates("bare client: look, change, look, nothing read or kept", "bare_safe")
        table.add_row(
            "rclone settier",
            *(
                f"{row['per_second']['rclone']:,.0f}" if "rclone" in row["per_second"] else "cannot"
                for row in found.values()
            ),
        )
        table.add_section()
        ratios("changes to the bare client's changes", "changes_to_bare")
        ratios("whole moves to the bare client's changes", "moves_to_bare")
        ratios("whole moves to look, change, look", "moves_to_bare_safe")
        ratios("changes to rclone", "changes_to_rclone")
        ratios("whole moves to rclone", "moves_to_rclone")
        table.add_section()
        table.add_row("the bare client changes by", *(row["bare_way"] for row in found.values()))
        table.add_row("the bare client looks by", *(row["look_way"] for row in found.values()))
        table.add_row("ours has under way at most", *(str(row["in_flight"]) for row in found.values()))
        if figures["rewrite_us"]:
            more = f"{figures['rewrite_us']:,} us"
            table.add_row(
                "each rewrite takes the emulator more by", *(more if name == "gcp" else "-" for name in found)
            )
        for label, name in (("whole move", "moves"), ("bare look, change, look", "bare_safe")):
            table.add_row(
                f"processor time of our process, us a {label}",
                *(f"{row['processor_seconds'][name] / row['objects'] * 1e6:,.0f}" for row in found.values()),
            )
        table.add_row(
            "load of the machine before and after",
            *("{:.1f}, {:.1f}".format(*row["load_before_and_after"]) for row in found.values()),
        )
        for name, row in found.items():
            if row["rclone_cannot"]:
                table.caption = f"rclone on {name}: {row['rclone_cannot']}"
                table.caption_justify = "left"
        tables.append(table)
    if found := figures.get("endpoint"):
        table = Table(
            title=f"S3 against an endpoint that answers after {found['delay_seconds'] * 1000:.0f} ms, one process"
            + (", one core" if found["one_core_each"] else ""),
            title_justify="left",
            show_header=False,
        )
        table.add_row("copies a second", f"{found['changes_per_second']:,.0f} (asked: {ENDPOINT_TARGET:,})")
        table.add_row("whole moves a second", f"{found['moves_per_second']:,.0f}")
        for name, share in found["processor_share"].items():
            table.add_row(f"{name} a processor second", f"{found[f'{name}_per_second'] / share:,.0f}")
        table.add_row("what the endpoint can answer a second", f"{found['endpoint_per_second']:,.0f}")
        table.add_row("load of the machine before and after", "{:.1f}, {:.1f}".format(*found["load_before_and_after"]))
        tables.append(table)
    if found := figures.get("memory"):
        table = Table(title=f"Peak memory of one process: ratio {found['ratio']:.2f}", title_justify="left")
        for name in ("moves", "peak MiB", "MiB before the first move", "moves/s"):
            table.add_column(name, justify="right")
        for row in found["sizes"]:
            table.add_row(
                f"{row['objects']:,}",
                f"{row['peak_bytes'] / _MIB:,.1f}",
                f"{row['before_bytes'] / _MIB:,.1f}",
                f"{row['moves_per_second']:,.0f}",
            )
        tables.append(table)
    return tables


def _decided_table(figures: dict[str, Any]) -> Any:
    from rich.table import Table

    from cloudflux.local.bench.decide import PARTS

    both = figures["tenth"], figures["all"]
    table = Table(
        title=f"Scoring with {figures['all']['workers']} worker processes of one thread each: "
        f"{figures['times_the_objects']:.1f} times the objects in {figures['times_the_seconds']:.1f} times the seconds",
        title_justify="left",
    )
    table.add_column("")
    for row in both:
        table.add_column(f"{row['objects']:,} objects", justify="right")
    table.add_row("seconds, without Parquet", *(f"{row['seconds']:.1f}" for row in both))
    table.add_row("objects/s", *(f"{row['objects_per_second']:,.0f}" for row in both))
    table.add_row("bare predict, objects/s", *(f"{row['bare_objects_per_second']:,.0f}" for row in both))
    table.add_row("ratio to the bare predict", *(f"{row['ratio_to_bare']:.2f}" for row in both))
    table.add_row("the same in processor time", *(f"{row['processor_ratio_to_bare']:.2f}" for row in both))
    table.add_row("peak memory of all processes, MiB", *(f"{row['peak_bytes'] / _MIB:,.0f}" for row in both))
    table.add_section()
    for name in PARTS:
        table.add_row(f"{name}, s of all workers", *(f"{row['parts'][name]:.1f}" for row in both))
    for name in ("load", "read", "stage"):
        table.add_row(f"{name}, s of all workers", *(f"{row[name]:.1f}" for row in both))
    table.add_row("models loaded, tables solved", *(f"{row['models_loaded']}, {row['tables_solved']}" for row in both))
    return table


def _measured(arguments: argparse.Namespace, folder: Path, console: Any) -> dict[str, Any]:
    from cloudflux.local.bench import collect
    from cloudflux.local.bench.inventory import bench_inventory
    from cloudflux.local.bench.kills import killed_at_random
    from cloudflux.local.bench.measured import in_fresh_process

    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {text}", highlight=False)

    figures: dict[str, Any] = {"s3": [], "other": {}}
    for lines in arguments.lines or [2_000_000, 20_000_000]:
        here = folder / f"s3-{lines}"
        say(f"{lines:,} S3 log lines: writing and collecting")
        found = collect.measure("s3_server_access", here, lines)
        say("the same by DuckDB's read_csv")
        found["read_csv"] = {}
        for wanted in collect.ReadCsv:
            if wanted is collect.ReadCsv.PARQUET and figures["s3"]:
                continue  # it takes many times as long: the first size tells
            found["read_csv"][wanted] = in_fresh_process(collect.read_csv, str(here), wanted)
        found["goaccess"] = None
        if not arguments.without_goaccess:
            say("the same by goaccess")
            found["goaccess"] = collect.goaccess(here, folder / "goaccess.json")
        figures["s3"].append({"requested_lines": lines, **found})
        shutil.rmtree(here)
    for form in [form for form in collect.PROVIDERS if form != "s3_server_access"]:
        if arguments.other_lines:
            say(f"{arguments.other_lines:,} lines of {form}: writing and collecting")
            figures["other"][form] = collect.measure(form, folder / form, arguments.other_lines)
            shutil.rmtree(folder / form)
    if arguments.objects:
        say(f"an S3 Inventory of {arguments.objects:,} objects: writing and collecting")
        figures["inventory"] = bench_inventory(arguments.objects, folder / "inventory")
        shutil.rmtree(folder / "inventory", ignore_errors=True)
    if arguments.kills:
        say(f"kill -9 at {arguments.kills} random moments")
        figures["kills"] = killed_at_random(folder / "kills", kills=arguments.kills)
    say("done")
    return figures


def _tables(figures: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    s3 = Table(title="S3 server access logs: bytes to published daily access", title_justify="left")
    s3.caption = (
        "x read_csv: with all columns of all rows in a table in memory; with sums of two columns and nothing kept; "
        "with all columns in a Parquet file. Asked: 5 x goaccess, 0.4 x read_csv."
    )
    s3.caption_justify = "left"
    names = ("lines", "seconds", "lines/s", "x goaccess", "x read_csv: rows", "sums", "Parquet", "peak MiB", "audits s")
    for name in (*names, "lake bytes/line"):
        s3.add_column(name, justify="right")
    for row in figures["s3"]:
        seconds = row["seconds"]["all"]
        other = row["goaccess"]
        beside = {wanted: found["seconds"]["all"] / seconds for wanted, found in row["read_csv"].items()}
        s3.add_row(
            f"{row['lines']:,}",
            f"{seconds:.2f}",
            f"{row['lines_per_second']:,.0f}",
            f"{other['seconds']['all'] / seconds:.2f}" if other else "-",
            *(f"{beside[wanted]:.2f}" if wanted in beside else "-" for wanted in ("table", "sum", "parquet")),
            f"{row['peak_bytes'] / _MIB:,.0f}",
            f"{sum(value for name, value in row['seconds'].items() if name.startswith('audit')):.2f}",
            f"{row['lake_bytes'] / row['lines']:.1f}",
        )
    tables = [s3]
    if figures["other"]:
        rest = Table(title="Other formats", title_justify="left")
        for name in ("format", "lines", "seconds", "lines/s", "x S3", "peak MiB"):
            rest.add_column(name, justify="right" if name != "format" else "left")
        for form, row in figures["other"].items():
            rest.add_row(
                form,
                f"{row['lines']:,}",
                f"{row['seconds']['all']:.2f}",
                f"{row['lines_per_second']:,.0f}",
                f"{row['lines_per_second'] / figures['s3'][0]['lines_per_second']:.2f}" if figures["s3"] else "-",
                f"{row['peak_bytes'] / _MIB:,.0f}",
            )
        tables.append(rest)
    if "inventory" in figures or "kills" in figures:
        last = Table(title="Inventory and kills", title_justify="left", show_header=False)
        if found := figures.get("inventory"):
            last.add_row(
                "S3 Inventory (Parquet) into a published snapshot",
                f"{found['objects']:,.0f} objects in {found['seconds']:.1f} s, {found['peak_bytes'] / _MIB:,.0f} MiB",
            )
        if found := figures.get("kills"):
            verdict = "identical, byte for byte" if found["identical"] else "DIFFERENT"
            last.add_row(f"published days after {found['kills']} kill -9", verdict)
        tables.append(last)
    return tables
