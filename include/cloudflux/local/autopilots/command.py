"""`./cloudflux autopilots`: GCS Autoclass and Azure's smart tier, weighed with classes object by object."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudflux.local.explain.command import set_environment

if TYPE_CHECKING:
    from cloudflux.domain.bucket_autopilots import AutopilotProposal

_NEEDED: Final = ("CLOUDFLUX_LAKE_URL",)


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "autopilots",
        help="show which buckets would be cheaper under their provider's autopilot",
        description="Show what GCS Autoclass (for a bucket) and Azure's smart tier (for an account) are expected to "
        "cost against a class for each object, as the newest scoring weighed them. CloudFlux proposes, and never "
        "switches one on: that is left to you.",
        epilog="The lake is that of CLOUDFLUX_LAKE_URL, or else the embedded stack's. docs/autopilots.md says what the "
        "figures mean. Exit status: 2 when nothing was weighed, 1 when the lake is away.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--var", metavar="DIR", type=Path, help="the embedded stack's folder (var/stack, or CLOUDFLUX_VAR)"
    )
    parser.set_defaults(run=_autopilots)


def _autopilots(options: argparse.Namespace) -> int:
    from cloudflux.domain.errors import CloudFluxError
    from cloudflux.lake.partitions import Lake
    from cloudflux.workflows.bucket_autopilots import as_json, autopilot_proposals

    try:
        set_environment(options.var, _NEEDED)
        found = autopilot_proposals(Lake(os.environ["CLOUDFLUX_LAKE_URL"], 1))
    except (CloudFluxError, OSError) as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 1
    if not found:
        print(
            "cloudflux: nothing was weighed: score_objects weighs buckets whose price book has an autopilot of the "
            "whole bucket or account, where it is not on already",
            file=sys.stderr,
        )
        return 2
    if options.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        _print(found)
    return 0


def _print(found: list[AutopilotProposal]) -> None:
    from rich.table import Table
    from rich.text import Text

    from cloudflux.domain.bucket_autopilots import proposed
    from cloudflux.local.explain.tables import printable
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.local.savings.tables import usd

    table = Table(title="Autopilots of whole buckets and accounts, USD", title_justify="left")
    for name in ("setting", "autopilot", "decided"):
        table.add_column(name)
    for name in ("objects", "a month as it is best", "a month switched", "as is", "at best", "switched", "of it once"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in found:
        table.add_row(
            Text(printable(f"{one.provider} {one.scope} {one.setting_of}")),
            one.storage_class,
            str(one.day),
            f"{one.objects:,}",
            usd(one.own_usd_month),
            usd(one.switched_usd_month),
            usd(one.present_usd),
            usd(one.own_usd),
            usd(one.switched_usd),
            usd(one.entry_usd),
            "switch on" if one.is_proposed else "not weighed" if one.problems else "leave off",
        )
    console = wide_console()
    console.print(table)
    for one in proposed(found):
        console.print(Text(printable(one.described())))
    for one in found:
        for note in _notes(one):
            console.print(Text(printable(f"{one.setting_of}: {note}")))


def _notes(one: AutopilotProposal) -> list[str]:
    """Say what else there is to know before it is switched on."""
    notes = list(one.problems)
    for count, said in (
        (one.kept_by_owner, "objects are excluded, pinned, retained or locked: the setting would hold for them too"),
        (one.outside, "objects cannot go in, or are in already: counted at their own cost on both sides"),
        (one.by_rules, "objects are weighed by their expected reads: no usage chain speaks for them"),
    ):
        if count:
            notes.append(f"{count:,} {said}")
    if one.scope == "account" and one.is_proposed:
        notes.append(f"the account's other containers, beside {', '.join(one.buckets)}, are not weighed")
    return notes


def reported_proposals(details: Mapping[str, Any]) -> list[str]:
    """Give the sentences for what a stored report of all plans proposes; one of an earlier release proposes nothing."""
    return [str(one["described"]) for one in details.get("autopilots", ()) if one["is_proposed"]]
