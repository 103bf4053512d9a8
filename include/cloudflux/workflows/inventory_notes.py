"""The lake's notes by which an inventory run's tasks know of each other: a bucket's plan, and what each part gave."""

from __future__ import annotations

import hashlib
from typing import Final

LIVE: Final = "live"
"""The chunk that is a live listing, and the format of what it gives."""
OUTCOME: Final = "inventory-outcome"
"""The note that the snapshot of this run is published, and which buckets were refused."""


def run_name(provider: str) -> str:
    """Name the note with the buckets of a provider."""
    return f"inventory-{provider}"


def plan_name(provider: str, bucket: str) -> str:
    """Name the note that says which report a bucket's snapshot is made of, and how its files are cut into chunks."""
    return f"inventory-plan-{provider}-{digest(provider, bucket)}"


def part_name(provider: str, bucket: str, chunk: str) -> str:
    """Name the note that says what one chunk gave."""
    return f"inventory-part-{provider}-{digest(provider, bucket)}-{chunk}"


def digest(*names: str) -> str:
    """Make one name of several that may hold any character."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:32]
