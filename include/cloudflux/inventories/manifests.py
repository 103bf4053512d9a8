"""What the manifests of all formats share: JSON that strangers wrote, read with reasons instead of tracebacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cloudflux.domain.inventory_reports import UnusableReport


def json_object(content: bytes) -> Mapping[str, Any]:
    """Read a JSON object. Raises ``UnusableReport``."""
    try:
        found = json.loads(content)
    except ValueError as exc:
        raise UnusableReport(f"the manifest is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UnusableReport("the manifest is not a JSON object")
    return found


def text_in(content: Mapping[str, Any], name: str) -> str:
    """Give a text that the manifest must have. Raises ``UnusableReport``."""
    found = content.get(name)
    if not isinstance(found, str) or not found:
        raise UnusableReport(f"the manifest has no {name}")
    return found


def objects_in(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Give a list of objects that the manifest must have. Raises ``UnusableReport``."""
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UnusableReport(f"the manifest has no list of {name}")
    return found


def object_in(content: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Give an object by the first of its names that is there; an empty one when there is none."""
    for name in names:
        if isinstance(found := content.get(name), dict):
            return found
    return {}


def number_of(value: object) -> int | None:
    """Give a whole number, also one that is written as text; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def instant_of(value: object) -> datetime | None:
    """Give an ISO 8601 time in UTC; None when it is none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
