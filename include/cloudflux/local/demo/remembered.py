"""What the demo remembers of a world on a stack: enough that another demo, even a day later, replays the same one."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from cloudflux.domain.errors import CloudFluxError
from cloudflux.local.layout import write_private


class MemoryUnreadable(CloudFluxError):
    """The file that remembers a world cannot be read; the text names it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One world's past on a stack."""

    last_day: date
    """The world's anchor: yesterday, as it was at the first demo."""
    wrong_messages_sent: bool = False
    """The malformed Kafka messages are sent once: they carry no identity by which a retry could be told."""
    gone: tuple[str, ...] = ()
    """URIs of the objects that a demo deleted between plan and move."""


def recall(folder: Path, world: str) -> Remembered | None:
    """Read what is remembered of a world, or None at its first demo. Raises ``MemoryUnreadable``."""
    path = _path(folder, world)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Remembered(
            last_day=date.fromisoformat(content["last_day"]),
            wrong_messages_sent=bool(content["wrong_messages_sent"]),
            gone=tuple(content["gone"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise MemoryUnreadable(f"{path} cannot be read ({exc}): delete it to begin a new world") from exc


def remember(folder: Path, world: str, remembered: Remembered) -> None:
    """Write down what another demo of the world needs to know."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(remembered) | {"last_day": remembered.last_day.isoformat(), "gone": list(remembered.gone)}
    write_private(_path(folder, world), json.dumps(content, indent=2) + "\n")


def known_worlds(folder: Path) -> Collection[str]:
    """Name the worlds that are remembered."""
    return sorted(path.stem for path in folder.glob("*.json"))


def _path(folder: Path, world: str) -> Path:
    return folder / f"{world}.json"
