"""`./cloudflux explain`: why an object stays or moves, with all figures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cloudflux.workflows.explanation import Explanation

NEEDED: Final = ("CLOUDFLUX_LAKE_URL", "CLOUDFLUX_DATABASE_URL", "CLOUDFLUX_ESTATE")
"""What the environment must name for the command to need no embedded stack."""
PLOT_SUFFIXES: Final = (".png", ".svg")


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "explain",
        help="show why an object stays or moves",
        description="Decide one object anew, and show its history, its forecast, what every storage class is expected "
        "to cost and of what, the reason and the day on which a move has paid for itself.",
        epilog="Lake, database and estate are those of CLOUDFLUX_LAKE_URL, CLOUDFLUX_DATABASE_URL and "
        "CLOUDFLUX_ESTATE, or else those of the embedded stack. Exit status: 2 when there is no such object, 1 when "
        "something that is needed is away.",
    )
    parser.add_argument("uri", metavar="URI", help="s3://bucket/key, az://container/key or gs://bucket/key, key quoted")
    parser.add_argument("--json", action="store_true", help="print JSON, as the API answers")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw reads and costs, as .png or .svg")
    parser.add_argument(
        "--var", metavar="DIR", type=Path, help="the embedded stack's folder (var/stack, or CLOUDFLUX_VAR)"
    )
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from cloudflux.domain.errors import CloudFluxError, ObjectNotFound
    from cloudflux.workflows.explain import AddressMalformed, BucketNotInEstate, parse_address

    try:
        check_plot_path(options.plot)
        parse_address(options.uri)
        set_environment(options.var)
        from cloudflux.orchestration.explanations import explain

        explanation = explain(options.uri)
        _print(explanation, as_json=options.json)
        if options.plot is not None:
            _draw(explanation, options.plot)
    except (AddressMalformed, BucketNotInEstate, ObjectNotFound, PlotRefused) as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 2
    except CloudFluxError as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 1
    return 0


class PlotRefused(ValueError):
    """The plot's file cannot be written; the text names it."""


def check_plot_path(path: Path | None) -> None:
    """Raise ``PlotRefused`` before any work when no plot can be written under a name."""
    if path is None:
        return
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise PlotRefused(f"a plot is a file that ends in {' or '.join(PLOT_SUFFIXES)}, not {path.name!r}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise PlotRefused(f"{path} cannot be written: " + ("it is a folder" if path.is_dir() else "no such folder"))


def set_environment(folder: Path | None, needed: Sequence[str] = NEEDED) -> None:
    """Take what the environment does not name from the embedded stack. Raises ``StackError`` where there is none."""
    if folder is None and all(os.environ.get(name) for name in needed):
        return
    from cloudflux.local.stack import DEFAULT_FOLDER, Stack

    named = folder or os.environ.get("CLOUDFLUX_VAR")
    wanted = Stack(Path(named) if named else DEFAULT_FOLDER).environment()
    for name, value in wanted.items():
        if folder is not None or not os.environ.get(name):
            os.environ[name] = value


def _print(explanation: Explanation, *, as_json: bool) -> None:
    if as_json:
        from pydantic import TypeAdapter

        from cloudflux.workflows.explanation import Explanation as Explained

        print(TypeAdapter(Explained).dump_json(explanation, indent=2).decode())
        return
    from cloudflux.local.explain.tables import explanation_parts
    from cloudflux.local.prices.tables import wide_console

    console = wide_console()
    for part in explanation_parts(explanation):
        console.print(part)


def _draw(explanation: Explanation, path: Path) -> None:
    from cloudflux.local.explain.plot import write_plot

    try:
        write_plot(explanation, path)
    except OSError as exc:
        raise PlotRefused(f"{path} cannot be written ({exc.strerror})") from exc
    print(f"Written: {path}", file=sys.stderr)
