"""Why an object that was just looked at is not to be moved."""

from __future__ import annotations

from collections.abc import Mapping

from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import Guardrails, PlannedMove


def reason_to_skip(
    move: PlannedMove, now: ObjectState | None, guardrails: Guardrails, *, attempted: bool
) -> str | None:
    """Say why a move is off, by what was just seen; None: it may go on. ``attempted``: an earlier call submitted it."""
    reason = None
    if now is None:
        reason = "deleted since the plan"
    elif attempted and now.storage_class == move.to_class:
        pass  # the attempt that was cut off moved it: verification decides
    elif now.etag != move.etag or now.size_bytes != move.size_bytes:
        reason = "overwritten since the plan"
    elif now.lock_reason is not None:
        reason = f"locked: {now.lock_reason}"
    elif now.storage_class != move.from_class:
        reason = f"its class became {now.storage_class} since the plan"
    elif not attempted:
        reason = _reason_by_tags(now.tags, guardrails)
    return reason


def _reason_by_tags(tags: Mapping[str, str], guardrails: Guardrails) -> str | None:
    for wanted in guardrails.excluded_tags:
        if _has_tag(tags, wanted):
            return f"its tag {wanted} is excluded"
    if guardrails.allowed_tags and not any(_has_tag(tags, wanted) for wanted in guardrails.allowed_tags):
        return f"it has none of the allowed tags {', '.join(guardrails.allowed_tags)}"
    return None


def _has_tag(tags: Mapping[str, str], wanted: str) -> bool:
    name, separator, value = wanted.partition("=")
    return tags.get(name) == value if separator else name in tags
