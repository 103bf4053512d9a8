"""What reconciling found, added up: every move counted, and as many listed as anybody reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cloudflux.domain.uploads import LeftUpload
from cloudflux.workflows.reconcile import PROVED, Finding, RangeFound, Standing

_LOUD_FIRST = (
    Standing.DISAGREES,
    Standing.UNSEEN,
    Standing.BEHIND,
    Standing.REPAIRED,
    Standing.OPEN,
    Standing.CHANGED,
    Standing.AGREES,  # with something left over
)


@dataclass(slots=True)
class Findings:
    """The findings of plans."""

    plans: int
    keep: int
    """How many findings of one standing are kept for the list."""
    counts: Counter[tuple[str, str, str, Standing]] = field(default_factory=Counter)
    """Moves by plan, provider, bucket and standing."""
    leftovers: int = 0
    problems: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    """Plan, provider, bucket, moves and reason of what could not be looked at, or not be repaired now."""
    unseen: int = 0
    """Moves of ranges that could not be looked at as a whole."""
    uploads: list[LeftUpload] = field(default_factory=list)
    """Copies in parts that killed workers left."""
    _kept: dict[Standing, list[Finding]] = field(default_factory=dict)

    def add(self, found: RangeFound) -> None:
        """Add what was found of one range."""
        moves = found.last - found.first + 1
        if found.problem:
            self.problems.append((found.plan_id, found.provider, found.bucket, moves, found.problem))
        if found.report is None:
            self.unseen += moves
            return
        self.leftovers += found.report.leftovers
        self.uploads += found.report.uploads
        if why := found.report.uploads_problem:
            what = f"copies in parts that were left cannot be told, or not be aborted: {why}"
            self.problems.append((found.plan_id, found.provider, found.bucket, moves, what))
        for standing, count in found.report.counts.items():
            self.counts[found.plan_id, found.provider, found.bucket, standing] += count
        for finding in found.report.findings:
            kept = self._kept.setdefault(finding.standing, [])
            if len(kept) < self.keep:
                kept.append(finding)

    def total(self, standing: Standing) -> int:
        """Count the moves of one standing."""
        return sum(count for (_, _, _, each), count in self.counts.items() if each is standing)

    @property
    def moves(self) -> int:
        """Count all moves, also those that could not be looked at."""
        return self.counts.total() + self.unseen

    @property
    def all_agree(self) -> bool:
        """Whether the ledger says nothing that a bucket contradicts, and everything could be looked at."""
        return not self.unseen and all(standing in PROVED for (_, _, _, standing) in self.counts)

    def listed(self) -> list[Finding]:
        """Give the findings to list, the loudest first, no more than are kept."""
        return [finding for standing in _LOUD_FIRST for finding in self._kept.get(standing, [])][: self.keep]

    @property
    def worth_listing(self) -> int:
        """Count what there is to list: all that does not plainly agree, and what left something over."""
        return self.counts.total() - self.total(Standing.AGREES) + self.leftovers
