"""Rules by which S3 Intelligent-Tiering archives what nobody reads, and whether an object may come under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """One rule of a bucket: what lies in Intelligent-Tiering and is not read for long has to be restored first."""

    name: str
    after_days: int
    """After how many idle days the first of its archive tiers is reached."""
    prefix: str = ""
    """What the keys of its objects begin with."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags that its objects have, all of them."""

    def applies_to(self, key: str, tags: Mapping[str, str]) -> bool:
        """Tell whether an object comes under the rule."""
        return key.startswith(self.prefix) and all(tags.get(name) == value for name, value in self.tags.items())


def archived_by(rules: Sequence[ArchiveRule], key: str, tags: Mapping[str, str]) -> ArchiveRule | None:
    """Give the rule that would archive an object the soonest, None when none would."""
    return min((rule for rule in rules if rule.applies_to(key, tags)), key=lambda rule: rule.after_days, default=None)
