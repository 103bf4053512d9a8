"""Whose requests are no use of an object: user agents and requesters that only look after the bucket."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Substrings that mark a request as excluded; letter case is ignored, an empty one matches nothing.

    Excluded requests are kept and counted apart: they are no use of the object, and no error either.
    """

    agents: tuple[str, ...] = ()
    """Of the user agent, e.g. ``restic``."""
    requesters: tuple[str, ...] = ()
    """Of the requester's identity: an IAM role's ARN, a service account's mail, an Azure app or object id."""

    def excludes(self, agent: str | None, requester: str | None = None) -> bool:
        """Say whether one request is excluded. Parsers match whole columns; this is the rule that they follow."""
        return _names(self.agents, agent) or _names(self.requesters, requester)


def _names(patterns: tuple[str, ...], text: str | None) -> bool:
    if not text:
        return False
    lowered = text.lower()
    return any(pattern and pattern.lower() in lowered for pattern in patterns)
