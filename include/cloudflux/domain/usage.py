"""How objects are used, as a Markov chain: K states of use, and how an object goes from one to the next in a day.

A state is what a forecaster makes of an object's past (how long ago it was read, how often, how old it is). The chain
says for each state how probable a read is on the next day, how many reads there are, and in which state the day after
begins, with and without a read. That is a whole distribution of futures: ``daily_reads`` and ``chance_of_reads`` give
its figures, and ``cloudflux.domain.placement`` finds the classes that cost least over it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
States = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class UsageChain:
    """A day's transitions between K states of use. Rows of ``unread + read`` sum to 1."""

    unread: Floats
    """Chance of no read on the day, and of each state on the next day, shape (K, K)."""
    read: Floats
    """Chance of a read on the day, and of each state on the next day, shape (K, K)."""
    reads: Floats
    """Expected reads of the day, shape (K,)."""
    seen: Floats
    """Days of objects that each state was learnt from, shape (K,)."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` when the figures are no chain."""
        count = len(self.reads)
        if self.unread.shape != (count, count) or self.read.shape != (count, count) or self.seen.shape != (count,):
            raise ValueError(f"a chain of {count} states takes ({count}, {count}) transitions")
        total = (self.unread + self.read).sum(axis=1)
        if bool((self.unread < 0).any() or (self.read < 0).any() or (np.abs(total - 1.0) > 1e-6).any()):
            raise ValueError("the chances of a state must be at least 0 and sum to 1")
        if bool((self.reads < 0).any()):
            raise ValueError("expected reads must be at least 0")

    def __len__(self) -> int:
        """Count the states."""
        return len(self.reads)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all figures: equal chains have equal fingerprints."""
        digest = hashlib.sha256()
        for array in (self.unread, self.read, self.reads):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def daily_reads(self, days: int) -> Floats:
        """Expect reads on each of the next days, by the state of today. Shape (K, days)."""
        step = self.unread + self.read
        expected = np.empty((len(self), days))
        reads = self.reads.copy()
        for day in range(days):
            expected[:, day] = reads
            reads = step @ reads
        return expected

    def chance_of_reads(self, days: int) -> Floats:
        """Give the chance of at least one read within so many days, by the state of today. Shape (K,)."""
        none = np.ones(len(self))
        for _ in range(days):
            none = self.unread @ none
        return 1.0 - none
