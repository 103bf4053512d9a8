"""One object's move: its states and what an attempt at it gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cloudflux.domain.objects import ObjectRef, ObjectState


class MigrationState(StrEnum):
    """Where one object's move stands. Every change of state is a row of the ledger."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    RESTORING = "restoring"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    UNDONE = "undone"


TERMINAL_STATES: Final = frozenset(
    {
        MigrationState.DONE,
        MigrationState.FAILED,
        MigrationState.SKIPPED,
        MigrationState.CANCELLED,
        MigrationState.UNDONE,
    }
)

NEXT_STATES: Final = MappingProxyType(
    {
        MigrationState.PLANNED: frozenset(
            {MigrationState.SUBMITTED, MigrationState.SKIPPED, MigrationState.CANCELLED, MigrationState.FAILED}
        ),
        MigrationState.SUBMITTED: frozenset(
            {
                MigrationState.RESTORING,
                MigrationState.VERIFYING,
                MigrationState.DONE,  # verified before the change itself was recorded: one entry for both
                MigrationState.SKIPPED,
                MigrationState.CANCELLED,
                MigrationState.FAILED,
            }
        ),
        MigrationState.RESTORING: frozenset(
            {MigrationState.VERIFYING, MigrationState.DONE, MigrationState.SKIPPED, MigrationState.FAILED}
        ),
        MigrationState.VERIFYING: frozenset({MigrationState.DONE, MigrationState.FAILED}),
        MigrationState.DONE: frozenset({MigrationState.UNDONE}),
        # only reconciling does that: the bucket shows that the object did move
        MigrationState.FAILED: frozenset({MigrationState.DONE}),
        MigrationState.SKIPPED: frozenset(),
        MigrationState.CANCELLED: frozenset(),
        MigrationState.UNDONE: frozenset(),
    }
)
"""The states that may follow each state."""


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """How an object of an archive class is to be made readable, where that has to come first."""

    priority: str
    """The price book's name of the option: ``bulk``, ``standard``, ``expedited``; Azure's ``standard`` and ``high``."""
    keep_days: int
    """For how many days the readable copy is wanted, where the provider makes one."""


@dataclass(frozen=True, slots=True)
class TierChange:
    """A wanted change of class, bound to the object as it was seen."""

    seen: ObjectState
    """As it was before the first attempt."""
    to_class: str
    now: ObjectState | None = None
    """As it was just looked at, with headers; None lets the client look itself."""
    restore: RestoreOrder | None = None
    """How to restore it if that has to come first; None: not at all."""

    @property
    def ref(self) -> ObjectRef:
        """The object's name."""
        return self.seen.ref


class ChangeOutcome(StrEnum):
    """What became of one submitted change."""

    CHANGED = "changed"
    RESTORING = "restoring"  # a restore is under way: submit it again when that is done
    PENDING = "pending"  # the provider carries it out on its own time: submit it again to find out
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    LOCKED = "locked"
    UNAVAILABLE = "unavailable"  # throttled or cut off, perhaps after the provider acted: look and submit again
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TierChangeResult:
    """The provider's answer to one ``TierChange``."""

    ref: ObjectRef
    outcome: ChangeOutcome
    detail: str = ""
    request_id: str | None = None
    after: ObjectState | None = None
    """Of a change that was made: the object as the provider told it afterwards, metadata, tags and headers included;
    None where it did not, and has to be looked at."""
