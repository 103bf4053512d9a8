"""Write a price book's file, in the form in which ours are: a price with its source on one line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import yaml

from cloudflux.price_books.schema import BookFile

_LINE: Final = 120


def book_text(book: BookFile, suffix: str) -> str:
    """Give a book's file, as JSON or, for ``.yaml`` and ``.yml``, as YAML. What is not stated is left out."""
    content = _stated(book.model_dump(mode="python", by_alias=True, exclude_defaults=True), "")
    if suffix == ".json":
        return _json(content, 0) + "\n"
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=_LINE)


def _stated(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _stated(below, name) for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        if key == "src" and len(value) == 1:
            return value[0]
        return [_stated(below, "") for below in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)  # dates, and the names of providers and latencies


def _json(value: Any, depth: int) -> str:
    line = json.dumps(value, ensure_ascii=False)
    plain = not isinstance(value, (dict, list)) or not any(
        isinstance(below, dict) or (isinstance(below, list) and not isinstance(value, dict))
        for below in (value.values() if isinstance(value, dict) else value)
    )
    if plain and len(line) + depth <= _LINE:
        return line
    inside = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{inside}{json.dumps(name)}: {_json(below, depth + 1)}" for name, below in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(inside + _json(below, depth + 1) for below in value) + "\n" + " " * depth + "]"
    return line
