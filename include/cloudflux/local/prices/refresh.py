"""Compare price books with the providers' public price lists, and write a new book of what has changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from rich.console import Console

from cloudflux.domain.errors import SettingsError, TerminalError
from cloudflux.domain.tiers import Provider
from cloudflux.local.prices.aws_list import SERVICES, aws_price_list, aws_url
from cloudflux.local.prices.azure_list import azure_pages, azure_price_list
from cloudflux.local.prices.downloads import Downloads, json_file
from cloudflux.local.prices.figures import Comparison, compared
from cloudflux.local.prices.listed import PriceList
from cloudflux.local.prices.tables import differences_table, kept_text
from cloudflux.price_books.loader import BOOKS, SUFFIXES, available_books, is_derived, path_of, problems_of, read_book
from cloudflux.price_books.schema import BookFile, cited
from cloudflux.price_books.writer import book_text

_DEFAULT_REDUNDANCY: Final = "LRS"


def refresh(
    names: list[str] | None,
    target: Path | None,
    files: list[Path] | None,
    *,
    taken_unasked: bool,
    console: Console,
    today: date,
    downloads: Downloads | None = None,
    ask: Callable[[str], str] = input,
) -> int:
    """Show how books differ from the price lists, write new ones if the user says yes, and give the exit status.

    ``names``: books by name or path; None for ours of AWS and Azure. ``files``: lists that were downloaded before.
    Raises ``CloudFluxError`` when a list cannot be read, or when a book cannot be written where the user says.
    """
    books = list(_books(names, files))
    targets = [_target(book, target, len(books), today) for book in books]
    for book, path in zip(books, targets, strict=True):
        listed = _price_list(book, files, downloads or Downloads())
        comparison = compared(book, listed, today)
        if not comparison.differences and not comparison.confirmed:
            raise TerminalError(
                f"the price list has no figure of {book.name}: is it that of region {book.region}? "
                + "; ".join(sorted({reason for _, reason in comparison.kept})[:3])
            )
        _show(console, book, comparison)
        if path is None:
            console.print("Nothing is written: name a file or a folder with --write", markup=False)
        elif _wanted(path, taken_unasked, ask):
            _write(path, comparison)
            console.print(f"Written: {path}", markup=False, soft_wrap=True)
        else:
            console.print("Nothing is taken.")
    return 0


def _books(names: list[str] | None, files: list[Path] | None) -> Iterable[BookFile]:
    if names is None:
        if files:
            raise SettingsError("--from needs --book: name the book that the list is for")
        complete = [name for name in available_books() if not is_derived(path_of(name))]
        names = [name for name in complete if read_book(name).provider is not Provider.GCP]
    for name in names:
        if is_derived(path_of(name)):
            raise SettingsError(
                f"{name} is derived from another book: refresh that one, and name what comes of it under extends"
            )
        book = read_book(name)
        if book.provider is Provider.GCP:
            raise SettingsError(
                f"{name}: Google's price list needs a key and is not read; derive a book from {name}, with overrides"
            )
        yield book


def _price_list(book: BookFile, files: list[Path] | None, downloads: Downloads) -> PriceList:
    if files:
        documents: dict[str, Any] = {f"file {path.name}": json_file(path) for path in files}
    elif book.provider is Provider.AWS:
        documents = {
            url: downloads.json_of(url) for url in (aws_url(downloads, name, book.region) for name in SERVICES)
        }
    else:
        documents = dict(azure_pages(downloads, book.region))
    try:
        if book.provider is Provider.AWS:
            return aws_price_list(documents, book.region)
        return azure_price_list(documents, book.region, book.redundancy or _DEFAULT_REDUNDANCY)
    except (AttributeError, TypeError) as exc:  # a list where an object should be, or the like
        raise TerminalError(f"the price list is not in its documented form ({exc}): {', '.join(documents)}") from exc


def _target(book: BookFile, target: Path | None, count: int, today: date) -> Path | None:
    """Say where a refreshed book goes. Raises ``SettingsError`` before anything is downloaded."""
    if target is None:
        return None
    path = target
    if target.suffix not in SUFFIXES:
        path = target / f"{book.name}-{today.isoformat()}.json"
    elif count > 1:
        raise SettingsError(f"--write {target}: {count} books need a folder")
    if path.resolve().parent == BOOKS.resolve():
        raise SettingsError(f"--write {target}: the books that come with CloudFlux are never overwritten or added to")
    return path


def _show(console: Console, book: BookFile, comparison: Comparison) -> None:
    count = len(comparison.differences)
    console.print(
        f"{book.name}: {count} {'difference' if count == 1 else 'differences'}, {len(comparison.confirmed)} figures"
        f" as in the list, {len(comparison.kept)} not in it",
        markup=False,
    )
    if comparison.differences:
        console.print(differences_table(comparison.differences))
    for line in kept_text(comparison.kept):
        console.print(line, markup=False)


def _wanted(path: Path, unasked: bool, ask: Callable[[str], str]) -> bool:
    if unasked:
        return True
    verb = "Replace" if path.exists() else "Write"
    try:
        return ask(f"{verb} {path} with these figures? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to answer
        return False


def _write(path: Path, comparison: Comparison) -> None:
    content = dict(comparison.content) | {"name": path.stem}
    used = {src for _, src in cited({key: value for key, value in content.items() if key != "sources"})}
    content["sources"] = {key: source for key, source in content["sources"].items() if key in used}
    try:
        book = BookFile.model_validate(content)
    except ValidationError as exc:
        raise TerminalError(f"the list's figures make no valid price book: {problems_of(exc)}") from exc
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # written beside its place and then put there, so that a half written book is never read
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix, encoding="utf-8", delete=False
        ) as file:
            file.write(book_text(book, path.suffix))
        os.chmod(file.name, 0o644)  # a temporary file is its owner's alone
        os.replace(file.name, path)
    except OSError as exc:
        raise SettingsError(f"{path} cannot be written ({exc.strerror})") from exc
