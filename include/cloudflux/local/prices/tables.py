"""Price books as tables, each figure with its source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudflux.local.prices.figures import Difference
from cloudflux.price_books.schema import BookFile

UNVERIFIED: Final = "unverified"
_WIDE: Final = 140


def wide_console() -> Console:
    """Give a console that does not cut tables when its output goes into a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def unverified_keys(book: BookFile) -> list[str]:
    """Name the figures that no source was found for."""
    return list(dict.fromkeys(label for label, _, src in _rows(book) if UNVERIFIED in src))


def books_table(books: Iterable[BookFile]) -> Table:
    """Give one line for each book."""
    table = Table(title="Price books", title_justify="left")
    for name in ("name", "provider", "region"):
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for name in ("classes", "figures", "unverified"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("newest source as of")
    table.add_column("looked up on")
    for book in books:
        table.add_row(
            book.name,
            book.provider,
            f"{book.region} {book.redundancy}".rstrip(),
            str(len(book.classes)),
            str(sum(bool(src) for _, _, src in _rows(book))),
            str(len(unverified_keys(book))),
            max((source.as_of for source in book.sources.values() if source.as_of), default="-"),
            book.seen_on.isoformat(),
        )
    return table


def book_tables(book: BookFile) -> Iterable[Table | Text]:
    """Give a book's figures class by class, its rules for moves, and its sources."""
    yield Text(
        f"{book.name}: {book.provider} {book.region} {book.redundancy}".rstrip()
        + f", USD, looked up on {book.seen_on.isoformat()}"
    )
    table = Table(title="Figures", title_justify="left")
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right", overflow="fold")
    table.add_column("source", overflow="fold")
    group = None
    for label, value, src in _rows(book):
        if group not in (None, label.partition(".")[0]):
            table.add_section()
        group = label.partition(".")[0]
        style = "yellow" if UNVERIFIED in src else ""
        table.add_row(Text(label), Text(value), Text(", ".join(src), style=style))
    yield table
    notes = Table(title="Rules in words", title_justify="left")
    notes.add_column("rule", overflow="fold")
    notes.add_column("source", overflow="fold")
    for note in book.notes:
        notes.add_row(Text(note.text), Text(", ".join(note.src)))
    yield notes
    sources = Table(title="Sources", title_justify="left")
    for name in ("key", "source", "as of", "looked up on"):
        sources.add_column(name, overflow="fold")
    for key, source in book.sources.items():
        sources.add_row(Text(key), Text(source.title), source.as_of or "undated", source.seen_on.isoformat())
    yield sources


def differences_table(differences: Sequence[Difference]) -> Table:
    """Give one line for each figure that a list states otherwise."""
    table = Table()
    table.add_column("figure", overflow="fold")
    for name in ("old USD", "new USD", "change"):
        table.add_column(name, justify="right")
    table.add_column("per")
    table.add_column("sku", overflow="fold")
    for difference in differences:
        change = difference.change
        table.add_row(
            Text(difference.label),
            _amount(difference.old_usd),
            _amount(difference.new_usd),
            "-" if change is None else f"{change:+.1%}",
            difference.per,
            Text(difference.sku),
        )
    return table


def kept_text(kept: Sequence[tuple[str, str]]) -> Iterable[str]:
    """Name the figures that a list does not have, by the reason."""
    reasons: dict[str, list[str]] = {}
    for label, reason in kept:
        reasons.setdefault(reason, []).append(label)
    for reason, labels in reasons.items():
        yield f"  kept, {reason}: {', '.join(labels)}"


def _rows(book: BookFile) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Give every figure of a book: its key with classes by name, what it says, and its sources."""
    content = book.model_dump(mode="json", by_alias=True, exclude_none=True)
    for prices in content["classes"]:
        yield from _leaves(prices, prices["storage_class"])
        yield f"{prices['storage_class']}.lifecycle_to", ", ".join(prices["lifecycle_to"]) or "-", ()
    yield from _leaves({key: content[key] for key in ("moves", "list") if key in content}, "")
    for fee in content["fees"]:
        yield f"fee.{fee['name']}", f"{_amount(Decimal(fee['usd']))} per {fee['per']}", tuple(fee["src"])


def _leaves(node: Any, key: str) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    if isinstance(node, dict):
        if "src" in node:
            yield key, _value(node), tuple(node["src"])
        if "time" in node:  # a speed of restoring, where null says that nobody knows the price
            yield from ((f"{key}.{name}", "not known", ()) for name in ("request", "retrieval") if name not in node)
        for name, value in node.items():
            if name != "src":
                yield from _leaves(value, f"{key}.{name}" if key else name)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            name = value.get("name") if isinstance(value, dict) else None
            yield from _leaves(value, f"{key}.{name or position}")


def _value(node: dict[str, Any]) -> str:
    if "usd" in node:
        end = f", up to {node['up_to_gib']} GiB" if "up_to_gib" in node else ""
        return f"{_amount(Decimal(node['usd']))} per {node['per']}{end}"
    if "value" in node:
        value = node["value"]
        return ", ".join(value) if isinstance(value, list) else str(value).lower() if value is not None else "-"
    if "text" in node:
        return str(node["text"])
    if "idle_days" in node:
        return f"from {node['idle_days']} idle days"
    if "min_idle_days" in node:
        bounds = f"from {node['min_idle_days']} to {node['max_idle_days']} idle days"
        begins = node.get("from_idle_days")
        return f"{bounds}, off" if begins is None else f"{bounds}, on from {begins} idle days"
    return ", ".join(f"{name} {str(value).lower()}" for name, value in node.items() if isinstance(value, bool))


def _amount(usd: Decimal | None) -> str:
    if usd is None:
        return "-"
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
