"""The rule-based rivals: what people do today. None of them learns; none moves objects below 128 KiB."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Account, Days, Tariff
from cloudflux.domain.break_even import Credits
from cloudflux.domain.costs import Codes
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.rules import CLASS_OF_TIER, COLD_UNSEEN_FROM_DAYS, HOT_ABOVE_ACCESSES, classify
from cloudflux.domain.tiers import Tier
from cloudflux_ml.backtest.replay import SMALL_BYTES, Moves
from cloudflux_ml.backtest.trace import Trace

WARM_FROM_DAYS: Final = 30
COLD_FROM_DAYS: Final = 90
ARCHIVE_FROM_DAYS: Final = 180
_RULE_DAYS: Final = 30


def code_of_tier(tariff: Tariff, tier: Tier, policy: str) -> int:
    """Give the place of the class that stands for a tier at the book's provider.

    Raises ``SettingsError`` naming the policy, the class and the book when the tariff does not have it.
    """
    name = CLASS_OF_TIER[tariff.book.provider][tier]
    if name not in tariff.book.class_names:
        raise SettingsError(
            f"policy {policy} needs the storage class {name}, which price book {tariff.book.name} does not have"
        )
    if name not in tariff.class_names:
        raise SettingsError(
            f"policy {policy} needs the storage class {name}; of price book {tariff.book.name} only "
            f"{', '.join(tariff.class_names)} may be used"
        )
    return tariff.code_of(name)


class Stay:
    """Leave everything where it is: in the standard class."""

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take no note."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move nothing."""
        return None


class AgeRule:
    """A lifecycle rule by age: from day 30 in the warm class, from day 90 in the cold one, and never back.

    From day 180 in the archive class, where the latency allows it: at AWS and Azure that is ``hours``; Google's answers
    in milliseconds, so it always is.
    """

    name = "lifecycle-age"

    def __init__(self, trace: Trace, tariff: Tariff) -> None:
        self._since: Days = trace.created.copy()
        self._large = trace.size_bytes >= SMALL_BYTES
        steps = {WARM_FROM_DAYS: Tier.WARM, COLD_FROM_DAYS: Tier.COLD}
        if CLASS_OF_TIER[tariff.book.provider][Tier.ARCHIVE] in tariff.class_names:
            steps[ARCHIVE_FROM_DAYS] = Tier.ARCHIVE
        self._from_days = np.array(list(steps))
        self._codes = np.array(
            [tariff.standard_code, *(code_of_tier(tariff, tier, self.name) for tier in steps.values())], dtype=np.intp
        )

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take no note of reads: age is age."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move down what has come of age; nothing ever goes up."""
        targets = self._codes[np.searchsorted(self._from_days, day - self._since, side="right")]
        rows = np.flatnonzero(movable & self._large & (targets > account.class_codes))
        return rows, targets[rows]


class IdleRule(AgeRule):
    """The same by days since the last read, or since creation where there was none. Nothing comes back."""

    name = "lifecycle-idle"

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Start the read objects' clocks again."""
        self._since[rows] = day


class PromotedIdleRule(IdleRule):
    """The same, and what is read goes back to the standard class at the day's end."""

    name = "lifecycle-idle-promote"

    def promote(self, day: int, account: Account, rows: Codes, reads: NDArray[np.int64]) -> Moves | None:
        """Move the read objects up."""
        return rows, np.full(len(rows), account.tariff.standard_code, dtype=np.intp)


class AutopilotRule:
    """The provider's own autopilot for everything, from the first day on which an object may move.

    S3 Intelligent-Tiering is a class of the object: small objects stay out. GCS Autoclass and Azure's smart tier are
    settings of the bucket or account: they take all objects, small ones too.
    """

    name = "autopilot"

    def __init__(self, trace: Trace, tariff: Tariff) -> None:
        code = next((code for code, autopilot in enumerate(tariff.autopilots) if autopilot is not None), None)
        if code is None:
            raise SettingsError(
                f"policy {self.name} needs an autopilot's storage class, which price book {tariff.book.name} does not "
                "have, does not offer for its redundancy, or has with archive tiers only, which need --latency hours"
            )
        self._code = code
        autopilot = tariff.book.prices_of(tariff.class_names[code]).autopilot
        by_object = autopilot is not None and autopilot.is_object_setting
        self._taken = trace.size_bytes >= (SMALL_BYTES if by_object else 0)

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take no note."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Put in whatever is not there yet."""
        rows = np.flatnonzero(movable & self._taken & (account.class_codes != self._code))
        return rows, np.full(len(rows), self._code, dtype=np.intp)


class BreakEven:
    """Ski rental for each object, with a worst-case bound: see ``cloudflux.domain.break_even``."""

    name = "break-even"

    def __init__(self, trace: Trace, tariff: Tariff) -> None:
        self._standard = tariff.standard_code
        self.credits = Credits(tariff)
        self._by_creation = np.argsort(trace.created, kind="stable")
        self._created = trace.created[self._by_creation]

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Add the day's saving of every object there is, take off its read premium."""
        new = slice(*np.searchsorted(self._created, [day, day + 1]))
        self.credits.usd[self._by_creation[new]] = 0.0
        self.credits.pass_day(rows, reads)

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move down where the credit is full."""
        codes, full = self.credits.codes, self.credits.full()
        rows = np.flatnonzero(movable & full.any(axis=1))
        colder = full[rows] & (codes > account.class_codes[rows, None])
        rows, colder = rows[colder.any(axis=1)], colder[colder.any(axis=1)]
        return rows, codes[np.where(colder, self.credits.storage_usd[rows], np.inf).argmin(axis=1)]

    def promote(self, day: int, account: Account, rows: Codes, reads: NDArray[np.int64]) -> Moves | None:
        """Move up what was read and has no credit left."""
        places = self.credits.place[account.class_codes[rows]]
        rows, places = rows[places >= 0], places[places >= 0]
        rows = rows[self.credits.usd[rows, places] <= 0]
        return rows, np.full(len(rows), self._standard, dtype=np.intp)


class RuleTiersDaily:
    """The rule-based classifier on the last 30 days, each day, and both ways between hot, warm and cold."""

    name = "rules"

    def __init__(self, trace: Trace, tariff: Tariff) -> None:
        self._large = trace.size_bytes >= SMALL_BYTES
        codes = {tier.value: code_of_tier(tariff, tier, self.name) for tier in (Tier.HOT, Tier.WARM, Tier.COLD)}
        # the rules tell apart up to 101 accesses and up to 90 idle days (here 91: never seen); so all their answers fit
        # into a table, where the classifier itself would write a reason for every object and day
        accesses, idle = np.meshgrid(
            np.arange(HOT_ABOVE_ACCESSES + 2), np.append(np.arange(COLD_UNSEEN_FROM_DAYS + 1.0), np.inf), indexing="ij"
        )
        tiers = classify(accesses.ravel(), idle.ravel()).tiers
        self._codes = np.array([codes[tier] for tier in tiers], dtype=np.intp).reshape(accesses.shape)
        self._reads: Days = np.zeros(trace.objects, dtype=np.int64)
        self._seen: Days = np.full(trace.objects, -1, dtype=np.int64)
        self._recent: deque[tuple[Codes, NDArray[np.int64]]] = deque()

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Count the last 30 days' reads."""
        self._reads[rows] += reads
        self._seen[rows] = day
        self._recent.append((rows, reads))
        if len(self._recent) > _RULE_DAYS:
            gone, count = self._recent.popleft()
            self._reads[gone] -= count

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Put every object into the class of its tier."""
        idle = np.where(self._seen < 0, COLD_UNSEEN_FROM_DAYS + 1, np.minimum(day - self._seen, COLD_UNSEEN_FROM_DAYS))
        targets = self._codes[np.minimum(self._reads, HOT_ABOVE_ACCESSES + 1), idle]
        rows = np.flatnonzero(movable & self._large & (targets != account.class_codes))
        return rows, targets[rows]
