"""Read price books: check every key of a file and turn it into domain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import PriceBook
from cloudflux.price_books.derivation import DerivationFile, derived_content, key_in_derivation
from cloudflux.price_books.facts import KeyedError
from cloudflux.price_books.schema import BookFile, shared_meters

BOOKS: Final = Path(__file__).parent
SUFFIXES: Final = (".json", ".yaml", ".yml")


def available_books() -> tuple[str, ...]:
    """Name the price books that come with CloudFlux, sorted."""
    return tuple(sorted(path.stem for path in BOOKS.iterdir() if path.suffix in SUFFIXES))


def load_book(name_or_path: str | Path) -> PriceBook:
    """Read one price book: one of ours by its name, or a file of your own (JSON or YAML) by its path.

    Raises ``SettingsError`` naming the file and each key that is missing, unknown or wrong.
    """
    return read_book(name_or_path).book()


def read_book(name_or_path: str | Path) -> BookFile:
    """Read one price book as its file says it, with the source of every figure; a derived one is given complete.

    Raises ``SettingsError`` naming the file and each key that is missing, unknown or wrong.
    """
    return _read(path_of(name_or_path), ())


def is_derived(path: Path) -> bool:
    """Tell whether a file is derived from another book."""
    content = content_of(path)
    return isinstance(content, dict) and "extends" in content


def stale_meters(book: BookFile) -> Iterable[tuple[str, str]]:
    """Give each price of an autopilot that is not what the class costs on whose meter it is billed, with what that is.

    A complete book may say so on purpose, but most often the class's price was changed and the autopilot forgotten.
    """
    by_name = {prices.storage_class: prices for prices in book.classes}
    for prices in book.classes:
        for key, as_class, price, its_key in shared_meters(prices):
            of_class = getattr(by_name[as_class], its_key)
            if price.each_usd != of_class.each_usd:
                yield (
                    ".".join(map(str, (prices.storage_class, *key))),
                    f"{price.usd} USD per {price.per}, but it is billed as {as_class}, whose {its_key} is"
                    f" {of_class.usd} USD per {of_class.per}",
                )


def _read(path: Path, derived_by: tuple[Path, ...]) -> BookFile:
    content = content_of(path)
    try:
        if not (isinstance(content, dict) and "extends" in content):
            return BookFile.model_validate(content)
        derivation = DerivationFile.model_validate(content)
    except ValidationError as exc:
        raise SettingsError(f"price book {path}: {problems_of(exc, lambda key: _by_class(key, content))}") from exc
    try:
        base_path = path_of(derivation.extends)
    except SettingsError as exc:
        raise SettingsError(f"price book {path}: extends: {exc}") from exc
    if base_path.parent != BOOKS:
        base_path = path.parent / base_path
    chain = (*derived_by, path.resolve())
    if base_path.resolve() in chain:
        raise SettingsError(f"price book {path}: extends: {derivation.extends} is derived from this book itself")
    base = _read(base_path, chain)
    try:
        return BookFile.model_validate(derived_content(derivation, base))
    except KeyedError as exc:
        raise SettingsError(f"price book {path}: {'.'.join(map(str, exc.key))}: {exc}") from exc
    except ValidationError as exc:
        problems = problems_of(exc, lambda key: key_in_derivation(key, derivation, base))
        raise SettingsError(f"price book {path}: {problems}") from exc


def path_of(name_or_path: str | Path) -> Path:
    """Find a price book's file. Raises ``SettingsError`` with the books that there are."""
    path = Path(name_or_path)
    if path.suffix in SUFFIXES:
        return path
    if str(name_or_path) not in available_books():
        raise SettingsError(
            f"there is no price book {str(name_or_path)!r}: ours are {', '.join(available_books())};"
            " a book of your own is a path that ends in .json, .yaml or .yml"
        )
    return next(p for p in BOOKS.iterdir() if p.stem == str(name_or_path) and p.suffix in SUFFIXES)


def content_of(path: Path) -> Any:
    """Give what a JSON or YAML file holds. Raises ``SettingsError`` naming it."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _OnceLoader)  # noqa: S506  # a SafeLoader
    except OSError as exc:
        raise SettingsError(
            f"price book {path} cannot be read ({exc.strerror}); ours are {', '.join(available_books())}"
        ) from exc
    except KeyedError as exc:
        raise SettingsError(f"price book {path}: {'.'.join(map(str, exc.key))}: {exc}") from exc
    except (json.JSONDecodeError, yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(f"price book {path} is not {path.suffix.lstrip('.').upper()}: {exc}") from exc


def problems_of(exc: ValidationError, named: Callable[[tuple[str | int, ...]], tuple[str | int, ...]] = tuple) -> str:
    """Say in one line what is wrong, each thing with its key; ``named`` translates keys."""
    problems = []
    for error in exc.errors():
        key: tuple[str | int, ...] = tuple(error["loc"])
        text = error["msg"].removeprefix("Value error, ")
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, KeyedError):
            key = (*key, *cause.key)
        problems.append(": ".join(part for part in (".".join(map(str, named(key))), text) if part))
    return "; ".join(problems)


def _by_class(key: tuple[str | int, ...], content: Any) -> tuple[str | int, ...]:
    """Name the class in the key of a complete book in place of its number, unless it is the name that is wrong."""
    match key:
        case ("classes", int(number), part, *_) if part != "storage_class":
            name = content["classes"][number].get("storage_class")
            return ("classes", name, *key[2:]) if isinstance(name, str) else key
    return key


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Refuse a key that is there twice: of two prices one would be dropped in silence."""
    content: dict[Any, Any] = {}
    for key, value in pairs:
        if key in content:
            raise KeyedError((str(key),), "the key is there twice")
        content[key] = value
    return content


class _OnceLoader(yaml.SafeLoader):
    """Read YAML without what is dangerous, and refuse a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _once(
            (self.construct_object(key, deep=True), None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)
        )
        return super().construct_mapping(node, deep)
