"""The day loop: a policy decides with what it may know, and an account charges it for what follows.

A day of the evaluation window: ``decide`` in the morning, the moves, the day's storage and reads, then ``observe``
and, where the policy has it, ``promote``, whose moves are charged at the day's end. Before the window's first day
``observe`` tells the policy of every day of the history.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import LONG_HELD_DAYS, Account, Tariff
from cloudflux.domain.costs import Codes, Floats
from cloudflux_ml.backtest.trace import Trace

SMALL_BYTES: Final = 131_072
"""S3's lifecycle rules leave smaller objects alone, and so do the rule-based rivals at every provider."""

Moves = tuple[Codes, Codes]
"""Objects, each once, and the class codes that they go to; both of shape (n,). Who is there already stays."""


class Policy(Protocol):
    """What moves objects. It never sees a day before that day is over."""

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take note of a day that is over: the objects that were read, and how often; both of shape (n,)."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Say which objects are moved in the morning of ``day``.

        ``account`` is for reading: class codes, days in class, idle days, the tariff. ``movable`` (N,): whether the
        object was created before this day.
        """


@runtime_checkable
class Promoting(Protocol):
    """What a policy has besides if it reacts to the day's reads at the day's end."""

    def promote(self, day: int, account: Account, rows: Codes, reads: NDArray[np.int64]) -> Moves | None:
        """Say which objects are moved at the end of ``day``, whose reads are given."""


@runtime_checkable
class Charged(Protocol):
    """What a policy has besides if it chooses what it is charged by: with the bucket's autopilot, or without."""

    tariff: Tariff


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What one policy cost over the evaluation window."""

    name: str
    usd: float
    moves: int
    parts_usd: dict[str, float]
    """By ``accounting.PARTS``."""
    cumulated_usd: Floats
    """All that was charged up to each day's end, shape (days - eval_from,)."""
    seconds: float
    owed_usd: float = 0.0
    """What early deletion would charge on top if all objects were deleted at the window's end. Not in ``usd``."""


def replay(
    trace: Trace, tariff: Tariff, name: str, policy: Policy, progress: Callable[[int, int], None] | None = None
) -> PolicyResult:
    """Replay a trace's evaluation window under a policy, and charge it.

    ``tariff`` prices the trace's objects, row by row. ``progress`` is told how many days of the window are over, and of
    how many. Raises ``ValueError`` when the policy moves an object that may not be moved yet, or by a move that the
    provider does not offer.
    """
    began = time.perf_counter()
    for day in range(trace.eval_from):
        policy.observe(day, *trace.on(day))
    # the conventions: what exists on the first day has been in the standard class for long enough to owe nothing
    account = Account(tariff, tariff.standard_code, np.where(trace.created <= trace.eval_from, LONG_HELD_DAYS, 0))
    promoting = policy if isinstance(policy, Promoting) else None
    window = range(trace.eval_from, trace.days)
    cumulated = np.zeros(len(window))
    for place, day in enumerate(window):
        movable = trace.created < day
        _carry_out(account, policy.decide(day, account, movable), movable, name, day)
        rows, reads = trace.on(day)
        account.pass_day(np.flatnonzero(trace.created <= day), rows, reads)
        policy.observe(day, rows, reads)
        if promoting is not None:
            _carry_out(account, promoting.promote(day, account, rows, reads), trace.created <= day, name, day)
        cumulated[place] = account.total_usd
        if progress is not None:
            progress(place + 1, len(window))
    return PolicyResult(
        name=name,
        usd=account.total_usd,
        moves=int(account.moves.sum()),
        parts_usd=account.parts_usd(),
        cumulated_usd=cumulated,
        seconds=time.perf_counter() - began,
        owed_usd=account.owed_usd,
    )


def _carry_out(account: Account, moves: Moves | None, movable: NDArray[np.bool_], name: str, day: int) -> None:
    if moves is None:
        return
    rows, targets = moves
    early = rows[~movable[rows] & (account.class_codes[rows] != targets)]
    if len(early):
        raise ValueError(f"policy {name} moves object {early[0]} on day {day}, before the day after its creation")
    account.move(rows, targets)
