"""`./cloudflux prices`: the price books, their sources, and the providers' public price lists."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "prices",
        help="show, check and refresh price books",
        description="Show the price books with the source of every figure, check one of your own, or compare one with "
        "the public price lists of AWS and Azure.",
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    parts.add_parser("list", help="name the price books that come with CloudFlux").set_defaults(run=_list)
    show = parts.add_parser("show", help="show every figure of a price book with its source")
    show.add_argument("book", metavar="NAME", help="e.g. aws-us-east-1, or the path of a book of your own")
    show.set_defaults(run=_show)
    check = parts.add_parser("check", help="check a price book of your own, and name what is wrong in it")
    check.add_argument("book", metavar="FILE", help="a JSON or YAML file, complete or derived from another book")
    check.set_defaults(run=_check)
    refresh = parts.add_parser(
        "refresh",
        help="compare with the providers' public price lists, and take what has changed",
        description="Read the public price lists of AWS and Azure, show what is different from a price book, and write "
        "a new book if you say yes. The books that come with CloudFlux are never overwritten. Google's list "
        "needs a key, it is not read.",
    )
    refresh.add_argument(
        "--book",
        metavar="NAME",
        action="append",
        help="a book by name or path; more than once for several (default: ours of AWS and Azure)",
    )
    refresh.add_argument(
        "--write", metavar="DIR|FILE", type=Path, help="where the new book goes; without it nothing is written"
    )
    refresh.add_argument(
        "--from",
        dest="files",
        metavar="FILE",
        type=Path,
        action="append",
        help="read a price list that was downloaded before; more than once for AWS's two services or Azure's pages",
    )
    refresh.add_argument("--yes", action="store_true", help="take the differences without asking")
    refresh.set_defaults(run=_refresh)


def _list(_: argparse.Namespace) -> int:
    from cloudflux.local.prices.tables import books_table, wide_console
    from cloudflux.price_books.loader import available_books, read_book

    wide_console().print(books_table([read_book(name) for name in available_books()]))
    return 0


def _show(options: argparse.Namespace) -> int:
    from cloudflux.local.prices.tables import book_tables, wide_console
    from cloudflux.price_books.loader import read_book

    console = wide_console()
    for part in book_tables(read_book(options.book)):
        console.print(part)
    return 0


def _check(options: argparse.Namespace) -> int:
    from cloudflux.local.prices.tables import unverified_keys, wide_console
    from cloudflux.price_books.loader import read_book, stale_meters

    book = read_book(options.book)
    console = wide_console()
    console.print(f"{options.book}: price book {book.name} of {book.provider} {book.region} is valid", markup=False)
    for key, text in stale_meters(book):
        console.print(f"  look at {key}: {text}", markup=False)
    if unverified := unverified_keys(book):
        console.print(f"  unverified: {', '.join(unverified)}", markup=False)
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from cloudflux.local.prices.refresh import refresh
    from cloudflux.local.prices.tables import wide_console

    return refresh(
        options.book,
        options.write,
        options.files,
        taken_unasked=options.yes,
        console=wide_console(),
        today=datetime.now(UTC).date(),
    )
