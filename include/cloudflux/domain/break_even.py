"""Break-even: ski rental for each object, between the standard class and each colder one, with a worst-case bound.

The rule that decides where nothing was learnt, or where what was learnt is refuted. A colder class saves s of storage a
day and costs p more for each read. The object's credit in that class begins at 0, grows by s a day and falls by p a
read, never below 0 nor above the round trip: the move there (D), the move back (U, its retrieval included) and the
storage of all minimum days (E). A full credit moves the object down (the coldest class whose credit is full, if it is
colder than the present one); once the credit is used up, a read moves it back up at the day's end. So a single read
does not throw away the credit of months unless it is that dear.

**Bound**, for one object and one colder class with s > 0 and p >= 0. Let B = D + U, R = B + E, and M the larger of
s and the dearest day's read premium while the object was in the colder class. Then

    cost <= (3 R + M) / B * optimum + 4 R + 2 M

where the optimum is the cheapest schedule over the two classes that knows the future. Without minimum days this is
3 + M / B: the 3 that no deterministic algorithm for two states can beat, and M because a day's reads are charged
before anybody can react, which no policy that ever leaves the standard class can avoid.

Proof. Take off what both classes charge alike each day; what is left of a day is s in the standard class and p r
in the colder one. Let w0 and w1 be the optimum's costs up to today if it ends in either class, for a move up at
U + E and no early deletion; an optimum with k moves up pays k B at least, so these w overstate it by at most R / B.
The credit is w0 - w1 + D: both change by s - p r and are cut at the same two ends. In a phase (the time between two
moves) the policy pays s a day while w0 + w1 grows by s at least, or p r while w0 + w1 grows by p r at least, but
for the phase's last day, where the credit is cut: that is M at most in two phases. A whole phase runs the credit
through R, so w0 + w1 grows by R at least, and two phases have moves of R at most. The policy thus pays at most
(1 + (R + M) / (2 R)) times the growth of w0 + w1, which is at most 2 min(w0, w1) + 2 R, plus R + M for the first
phase, which need not be whole; that is (3 + M / R) min(w0, w1) + 4 R + 2 M. QED
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Days, Tariff
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.prices import GIB_BYTES

LEAST_BYTES: Final = 131_072
"""S3's lifecycle rules leave smaller objects alone, and so does this rule at every provider."""

Reads = NDArray[np.integer] | Floats
"""Counts of reads."""


class Credits:
    """Each object's credit in each colder class of a tariff, day by day: N objects, D classes."""

    def __init__(self, tariff: Tariff) -> None:
        standard = tariff.standard_code
        self.codes: Codes = np.array(
            [
                code
                for code, autopilot in enumerate(tariff.autopilots)
                if code > standard and autopilot is None  # an autopilot's price depends on the reads
            ],
            dtype=np.intp,
        )
        """The colder classes' places in the tariff, shape (D,)."""
        self.place: Codes = np.full(len(tariff.class_names), -1, dtype=np.intp)
        """The place among ``codes`` of each of the tariff's classes, -1 where it has none."""
        self.place[self.codes] = np.arange(len(self.codes))
        gib = tariff.size_gib[:, None]
        self.storage_usd: Floats = tariff.storage_usd_day[:, self.codes]
        """A day's storage, shape (N, D)."""
        self.saving_usd: Floats = tariff.storage_usd_day[:, [standard]] - self.storage_usd
        """What a day there saves of storage, shape (N, D)."""
        self.premium_usd: Floats = (tariff.request_usd[self.codes] - tariff.request_usd[standard]) + gib * (
            tariff.retrieval_usd_gib[self.codes] - tariff.retrieval_usd_gib[standard]
        )
        """What a read there costs more, shape (N, D)."""
        there = tariff.move_usd[standard, self.codes] + gib * tariff.move_usd_gib[standard, self.codes]
        back = tariff.move_usd[self.codes, standard] + gib * tariff.move_usd_gib[self.codes, standard]
        self.full_usd: Floats = there + back + tariff.min_days[self.codes] * self.storage_usd
        """A round trip and the storage of all minimum days: the most that a credit holds, shape (N, D)."""
        self._rented = (self.saving_usd > 0) & (tariff.size_gib >= LEAST_BYTES / GIB_BYTES)[:, None]
        self.usd: Floats = np.zeros_like(self.saving_usd)
        """The credits, shape (N, D)."""

    def pass_day(self, rows: Codes, reads: Reads) -> None:
        """Add the day's saving of every object, and take off what its reads cost more; both of shape (n,)."""
        self.usd += self.saving_usd
        self.usd[rows] = np.maximum(self.usd[rows] - self.premium_usd[rows] * reads[:, None], 0.0)
        np.minimum(self.usd, self.full_usd, out=self.usd)

    def full(self) -> NDArray[np.bool_]:
        """Tell where the credit is full: the object may go down, shape (N, D)."""
        return self._rented & (self.usd >= self.full_usd)


def open_classes(
    tariff: Tariff,
    class_codes: Codes,
    *,
    reads_by_day: Sequence[tuple[Codes, Reads]],
    since: Days,
    ruled_from: Days,
) -> NDArray[np.bool_]:
    """Tell which classes the rule opens to each of N objects after some days of history, shape (N, C).

    Open are the class that an object is in, and the colder ones whose credit is full; but once a read has used up the
    credit of the class that it is in, the standard class in place of the colder ones, until that credit is full again.

    class_codes : where the objects are, of the tariff's classes, shape (N,).
    reads_by_day : of each day of the history, the oldest first: which objects were read, each once, and how often.
    since : the place in the history of the day on which each object came, shape (N,); its credit begins at 0 then.
    ruled_from : the place of the first day on which a used-up credit calls the object back, shape (N,): no earlier
        than it came to its class and than the rule began to decide for it.
    """
    credits = Credits(tariff)
    count = len(class_codes)
    rows, here = np.arange(count), credits.place[class_codes]
    back = np.zeros(count, dtype=np.bool_)
    for day, (read, reads) in enumerate(reads_by_day):
        credits.usd[since >= day] = 0.0
        credits.pass_day(read, reads)
        inside = here[read] >= 0
        used_up = read[inside][credits.usd[read[inside], here[read[inside]]] <= 0]
        back[used_up[ruled_from[used_up] <= day]] = True
        back &= ~(credits.full()[rows, here] & (here >= 0))
    opened = np.zeros((count, len(tariff.class_names)), dtype=np.bool_)
    opened[:, credits.codes] = credits.full()
    opened &= np.arange(len(tariff.class_names)) > class_codes[:, None]
    opened[back] = False
    opened[back, tariff.standard_code] = True
    opened[rows, class_codes] = True
    return opened
