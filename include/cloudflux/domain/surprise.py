"""The surprise guard: what an object's reads have cost beyond what the usage chain had led to expect.

A chain speaks for objects of a kind; a single object may be used otherwise. So the chain is held to account for each
object: what its reads cost more in its class than in the standard class is weighed with what was expected of that. The
sum, never below 0,

- grows by what a day's reads have cost more than they would have in the standard class,
- falls by twice (``SURPRISE_FACTOR``) what the chain had expected of that for the day,
- refutes the chain for this object once it is above two (``SURPRISE_TRIPS``) round trips: there, back, and the storage
  of all minimum days. Then break-even (``cloudflux.domain.break_even``), which has a worst-case bound, decides for the
  object for 30 days, and the sum begins anew.

When more than 5 % of the objects have refuted it, the chain is to be learnt anew. All accounts begin anew when it was.
The figures were chosen by backtest, see docs/decision-quality.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Days, Tariff
from cloudflux.domain.costs import Codes, Floats

SURPRISE_FACTOR: Final = 2.0
SURPRISE_TRIPS: Final = 2.0
REFUTED_DAYS: Final = 30
"""For how long break-even decides for an object that has refuted the chain."""
REFUTED_SHARE: Final = 0.05
"""If more objects than this share refute the chain, it is to be learnt anew."""
_LEAST_PAUSE_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class SurpriseTerms:
    """What reads and moves cost N objects in each of C classes, compared with the standard class; shape (N, C)."""

    premium_usd: Floats
    """What one read costs more than in the standard class, at least 0."""
    round_trip_usd: Floats
    """From the standard class there and back, and the storage of all minimum days."""


def surprise_terms(tariff: Tariff, read_gib: Floats | None = None) -> SurpriseTerms:
    """Give what the guard weighs with, for the objects and classes of a tariff.

    read_gib : how much one read reads, shape (N,); left out, the whole object.
    """
    standard = tariff.standard_code
    gib = tariff.size_gib[:, None]
    premium: Floats = np.maximum(
        tariff.request_usd
        - tariff.request_usd[standard]
        + (gib if read_gib is None else read_gib[:, None])
        * (tariff.retrieval_usd_gib - tariff.retrieval_usd_gib[standard]),
        0.0,
    )
    trip = tariff.move_usd[standard] + tariff.move_usd[:, standard]
    trip_gib = tariff.move_usd_gib[standard] + tariff.move_usd_gib[:, standard]
    round_trip: Floats = trip + gib * trip_gib + tariff.min_days * tariff.storage_usd_day
    return SurpriseTerms(premium, round_trip)


class SurpriseAccounts:
    """One account for each of N objects. Days are numbers; which day is 0 is the caller's."""

    def __init__(self, objects: int) -> None:
        self.usd: Floats = np.zeros(objects)
        """The sums, shape (N,)."""
        self.refuted_until: Days = np.zeros(objects, dtype=np.int64)
        """The first day on which the chain decides again, shape (N,); 0 for an object that has never refuted it."""

    def weigh(self, day: int, expected_usd: Floats, rows: Codes, read_usd: Floats, round_trip_usd: Floats) -> None:
        """Take in a day's reads.

        expected_usd : what the day's reads were expected to cost more than in the standard class, shape (N,).
        rows : the objects that were read, each once, shape (n,).
        read_usd : what their reads did cost more, shape (n,).
        round_trip_usd : of their classes, shape (n,).
        """
        self.usd -= SURPRISE_FACTOR * expected_usd
        self.usd[rows] += read_usd
        np.maximum(self.usd, 0.0, out=self.usd)
        found = rows[self.usd[rows] > SURPRISE_TRIPS * round_trip_usd]
        self.refuted_until[found] = day + 1 + REFUTED_DAYS
        self.usd[found] = 0.0

    def refuted(self, day: int) -> NDArray[np.bool_]:
        """Tell for which objects the chain is refuted in the morning of a day, shape (N,)."""
        return self.refuted_until > day

    def clear(self) -> None:
        """Begin anew, for a new chain."""
        self.usd[:] = 0.0
        self.refuted_until[:] = 0


def training_pause_days(history_days: int) -> int:
    """Give how long a chain that was learnt from so many days of history stands before a new one takes its place.

    An eighth of the history; if that is less than 30 days, 30 days or a quarter of the history.
    """
    return max(min(_LEAST_PAUSE_DAYS, history_days // 4), history_days // 8)
