"""No object goes where it would be archived out of reach without its owner's consent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloudflux.domain.archive_rules import archived_by
from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TerminalError
from cloudflux.domain.tiers import Provider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudflux.config import BucketSettings
    from cloudflux.domain.archive_rules import ArchiveRule
    from cloudflux.domain.objects import ObjectState
    from cloudflux.domain.plans import MigrationPlan, PlannedMove
    from cloudflux.domain.prices import PriceBook

    ReasonToSkip = Callable[[PlannedMove, ObjectState], str | None]

_ARCHIVING = "INTELLIGENT_TIERING"
_log = logging.getLogger(__name__)


def archive_guard(
    plan: MigrationPlan,
    named: BucketSettings,
    book: PriceBook,
    rules_of: Callable[[BucketSettings], Sequence[ArchiveRule]],
) -> ReasonToSkip | None:
    """Give what tells why a move would let S3 archive an object whose owner accepts no wait; None: no move can.

    ``rules_of`` reads the bucket's rules from S3. It is asked only when some of the plan's moves in the bucket go to
    Intelligent-Tiering. Where the rules cannot be seen, such moves are off: an object must not become slow unnoticed.
    What an undo puts back was there before, whatever the rules say. Raises what ``rules_of`` raises when it concerns
    more than these moves, or asking again may help.
    """
    into = any(
        group.provider == named.provider and group.bucket == named.bucket and group.to_class == _ARCHIVING
        for group in plan.groups
    )
    if named.provider is not Provider.AWS or not into or plan.undoes is not None:
        return None
    rules: Sequence[ArchiveRule] = ()
    unseen: str | None = None
    try:
        rules = rules_of(named)
    except BucketNotFound:
        return None  # each move says so itself
    except (AccountRefused, CredentialsRefused):
        raise
    except TerminalError as exc:
        unseen = f"whether the bucket lets Intelligent-Tiering archive it cannot be seen: {exc}"
    if rules and not _counts_archive_tiers(book):
        _log.warning(
            "Bucket %s lets Intelligent-Tiering archive objects after %d idle days (%s); price book %s does not count "
            "that. Name one that does for the bucket: aws-us-east-1-archive, or one of your own.",
            named.bucket,
            min(rule.after_days for rule in rules),
            ", ".join(rule.name for rule in rules),
            book.name,
        )
    if unseen is None and not rules:
        return None

    def reason(move: PlannedMove, now: ObjectState) -> str | None:
        if move.to_class != _ARCHIVING or named.latency_of(move.ref.key) == "hours":
            return None
        if unseen is not None:
            return unseen
        rule = archived_by(rules, move.ref.key, now.tags)
        if rule is None:
            return None
        return (
            f"the bucket's Intelligent-Tiering configuration {rule.name!r} would archive it after {rule.after_days} "
            "idle days, and its owner accepts no wait of hours: name a price book with archive tiers for the bucket"
        )

    return reason


def _counts_archive_tiers(book: PriceBook) -> bool:
    autopilot = book.prices_of(_ARCHIVING).autopilot if _ARCHIVING in book.class_names else None
    return autopilot is not None and any(step.from_idle_days is not None for step in autopilot.archive_steps)
