"""CloudFlux's own policy in a backtest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Account, Days, Tariff
from cloudflux.domain.bucket_autopilots import MIN_HISTORY_DAYS, SWITCH_MARGIN
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.placement import PlacementTables, solve_placement
from cloudflux.domain.prices import GIB_BYTES
from cloudflux.domain.surprise import (
    REFUTED_DAYS,
    REFUTED_SHARE,
    SurpriseAccounts,
    surprise_terms,
    training_pause_days,
)
from cloudflux.domain.usage import UsageChain
from cloudflux_ml.backtest.replay import Moves, Policy, Promoting
from cloudflux_ml.backtest.rivals import AutopilotRule, BreakEven
from cloudflux_ml.backtest.trace import Trace
from cloudflux_ml.usage import CrawlWatch, UsageStates, UsageTracker, fit_usage_states, sample_transitions

HORIZON_DAYS: Final = 180
"""The product's default, ``CLOUDFLUX_HORIZON_DAYS``."""


class Learned:
    """Placement over usage states that are learnt from the past, and learnt again as days pass.

    Break-even, the rule with a worst-case bound, decides for all objects while there is too little history, and for an
    object whose reads refute the chain: see ``Surprise``.

    inside : the autopilot of a whole account, which single objects may leave. Each object goes in as soon as it may
    move, leaves once if that is expected to be cheaper, and never goes back. No read there costs more than in the
    standard class, so that an object which refutes the chain has left already, and break-even needs no way back in.
    """

    def __init__(
        self,
        trace: Trace,
        tariff: Tariff,
        *,
        inside: int | None = None,
        seed: int = 20,
        horizon_days: int = HORIZON_DAYS,
    ) -> None:
        self._trace = trace
        self._sizes = trace.size_bytes.astype(np.float64)
        self._tariff = tariff
        self._inside = inside
        self._seed = seed
        self._horizon_days = horizon_days
        self.history = History(trace.created)
        self.tracker = UsageTracker(trace.created)
        self._crawls = CrawlWatch()
        self._left_out: tuple[int, Codes, NDArray[np.int64]] | None = None
        self._fallback = BreakEven(trace, tariff)
        self._surprise = Surprise(tariff)
        self._states: UsageStates | None = None
        self._tables: PlacementTables | None = None
        self._train_on = max(trace.eval_from, MIN_HISTORY_DAYS)

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take in a day's reads; those of a crawl over everything are no sign of what comes, until it comes again."""
        self._fallback.observe(day, rows, reads)
        if self._crawls.is_crawl(day, len(rows), int((self._trace.created <= day).sum())):
            self._left_out = day, rows, reads
            rows, reads = rows[:0], reads[:0]
        elif self._crawls.recurs and self._left_out is not None:
            first, left_out, counted = self._left_out
            self.history.replace(first, left_out, counted)
            self.tracker.recall(first, left_out, counted.astype(np.float64))
            self._left_out = None
        self.history.add(rows, reads)
        self.tracker.observe(day, rows, reads.astype(np.float64))

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move each object to the class that is expected to cost least."""
        if day >= self._train_on:
            self._train(day)
        by_rule = self._fallback.decide(day, account, movable)
        if self._states is None or self._tables is None:
            return by_rule  # nothing to learn from yet
        rows = np.flatnonzero(movable)
        states = self._states.predict(self.tracker.features(rows, day))
        targets = account.class_codes.copy()
        targets[rows] = self._tables.best_classes(
            states,
            self._sizes[rows],
            account.class_codes[rows],
            account.days_in_class[rows],
            account.idle_days[rows],
        )
        refuted = self._surprise.refuted(day)
        if refuted[rows].sum() > REFUTED_SHARE * len(rows):
            self._train_on = min(self._train_on, day + REFUTED_DAYS)
        targets[refuted] = account.class_codes[refuted]
        if self._inside is not None:
            targets[movable & (account.moves == 0) & (account.class_codes != self._inside)] = self._inside
        if by_rule is not None:
            ruled, codes = by_rule
            targets[ruled[refuted[ruled]]] = codes[refuted[ruled]]
        self._surprise.expect(rows, targets[rows], self._states.chain.reads[states])
        moving = np.flatnonzero(targets != account.class_codes)
        return moving, targets[moving]

    def promote(self, day: int, account: Account, rows: Codes, reads: NDArray[np.int64]) -> Moves | None:
        """Weigh the day's reads with what was expected; move up what break-even moves up of those it decides for."""
        if self._states is None:
            return self._fallback.promote(day, account, rows, reads)
        self._surprise.compare(day, account.class_codes, rows, reads)
        ruled = self._surprise.refuted(day + 1)[rows]
        return self._fallback.promote(day, account, rows[ruled], reads[ruled])

    def _train(self, day: int) -> None:
        self._train_on = day + training_pause_days(day)
        transitions = sample_transitions(self.history, end=day, seed=self._seed)
        if not np.isfinite(transitions.labels).all(axis=1).any():
            return  # nothing yet that was there for as long as the longest label
        self._states = fit_usage_states(transitions)
        self._surprise.clear()
        self._tables = solve_placement(
            self._states.chain,
            self._tariff.book,
            self._tariff.class_names,
            horizon_days=self._horizon_days,
            with_costs=False,
            may_enter=_own_classes(self._tariff, self._inside),
        )


class Surprise:
    """The surprise guard of ``cloudflux.domain.surprise`` over a trace: what is expected in the morning of each day."""

    def __init__(self, tariff: Tariff) -> None:
        self._terms = surprise_terms(tariff)
        self._accounts = SurpriseAccounts(len(tariff))
        self._expected: Floats = np.zeros(len(tariff))
        self.refuted, self.clear = self._accounts.refuted, self._accounts.clear

    def expect(self, rows: Codes, codes: Codes, reads: Floats) -> None:
        """Note the reads that are expected today of some objects, in the classes that they are in."""
        self._expected[:] = 0.0
        self._expected[rows] = self._terms.premium_usd[rows, codes] * reads

    def compare(self, day: int, codes: Codes, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take in the day's reads, the objects being in the classes of ``codes``, shape (N,)."""
        here = codes[rows]
        read_usd = self._terms.premium_usd[rows, here] * reads
        self._accounts.weigh(day, self._expected, rows, read_usd, self._terms.round_trip_usd[rows, here])


class CloudFlux:
    """What CloudFlux would have done: placement over usage states that are learnt from the trace's own past.

    Where the provider's autopilot is a setting of the whole bucket or account, it is switched on, on the first day and
    for good, if the learnt chain expects all objects together to cost less in it than in the classes that they would
    get. With too little history to learn from, it stays off. Where single objects may leave it (Azure's smart tier),
    both are weighed with that, and an account that is switched on is placed like any other.
    """

    name = "cloudflux"

    def __init__(self, trace: Trace, tariff: Tariff, *, switched: Tariff | None = None, seed: int = 20) -> None:
        self.tariff = tariff
        """What is charged: with the bucket's autopilot, if that was switched on."""
        policy: Policy
        if switched is None or not _autopilot_is_cheaper(trace, tariff, switched, seed):
            policy = Learned(trace, tariff, seed=seed)
        else:
            self.tariff = switched
            inside = left_one_by_one(switched)
            policy = (
                AutopilotRule(trace, switched) if inside is None else Learned(trace, switched, inside=inside, seed=seed)
            )
        self.policy = policy

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take in a day's reads."""
        self.policy.observe(day, rows, reads)

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move what the policy in force moves."""
        return self.policy.decide(day, account, movable)

    def promote(self, day: int, account: Account, rows: Codes, reads: NDArray[np.int64]) -> Moves | None:
        """Move up what the policy in force moves up at the day's end."""
        return self.policy.promote(day, account, rows, reads) if isinstance(self.policy, Promoting) else None


class History:
    """Days that are over, as ``sample_transitions`` reads them."""

    def __init__(self, created: Days) -> None:
        self._created = created
        self._days: list[tuple[Codes, Floats]] = []

    @property
    def created(self) -> Days:
        """First day of each object, shape (N,)."""
        return self._created

    def add(self, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take the next day: the objects that were read, and how often."""
        self._days.append((rows, reads.astype(np.float64)))

    def replace(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Put other reads in the place of a day's."""
        self._days[day] = rows, reads.astype(np.float64)

    def on(self, day: int) -> tuple[Codes, Floats]:
        """Give a day's reads."""
        return self._days[day]


def _autopilot_is_cheaper(trace: Trace, tariff: Tariff, switched: Tariff, seed: int) -> bool:
    """Tell whether the bucket's objects are expected to cost less in its autopilot than in classes of their own."""
    if trace.eval_from < MIN_HISTORY_DAYS:
        return False
    past = Learned(trace, tariff, seed=seed)
    for day in range(trace.eval_from):
        past.observe(day, *trace.on(day))
    transitions = sample_transitions(past.history, end=trace.eval_from, seed=seed)
    if not np.isfinite(transitions.labels).all(axis=1).any():
        return False
    usage = fit_usage_states(transitions)
    known = np.flatnonzero(trace.created < trace.eval_from)
    states = usage.predict(past.tracker.features(known, trace.eval_from))
    sizes = trace.size_bytes[known].astype(np.float64)
    autopilot = next(code for code, found in enumerate(switched.autopilots) if found is not None)
    entry = switched.move_usd[switched.standard_code, autopilot]
    leaving = left_one_by_one(switched)
    classes = (switched.class_names[autopilot],) if leaving is None else switched.class_names
    inside = _expected_usd(usage.chain, switched, classes, states, sizes, inside=leaving)
    inside = inside[:, 0 if leaving is None else leaving] + entry
    own = _expected_usd(usage.chain, tariff, tariff.class_names, states, sizes)
    standard = tariff.standard_code
    own += tariff.move_usd[standard] + sizes[:, None] / GIB_BYTES * tariff.move_usd_gib[standard]
    # The margin is for what cannot be chosen any more: nothing, where objects may leave and no class is given up.
    gives_up = leaving is None or not set(tariff.class_names) <= set(switched.class_names)
    return bool(inside.sum() < own.min(axis=1).sum() * (1.0 - SWITCH_MARGIN * gives_up))


def left_one_by_one(tariff: Tariff) -> int | None:
    """Give the place of the autopilot of an account which single objects may leave for good, None where there is none.

    Such is Azure's smart tier; Autoclass can only be switched off for a whole bucket.
    """
    for code, name in enumerate(tariff.class_names):
        autopilot = tariff.book.prices_of(name).autopilot
        if autopilot is not None and autopilot.left_for_good:
            return code
    return None


def _own_classes(tariff: Tariff, inside: int | None) -> tuple[str, ...] | None:
    """Name the classes that objects may be moved to once they are in an autopilot; None: all."""
    return None if inside is None else tuple(name for code, name in enumerate(tariff.class_names) if code != inside)


def _expected_usd(
    chain: UsageChain,
    tariff: Tariff,
    class_names: tuple[str, ...],
    states: Codes,
    sizes: Floats,
    *,
    inside: int | None = None,
) -> Floats:
    """Give what being in each class is expected to cost over the horizon, for objects that owe nothing; (N, C).

    inside : the class that objects begin in and may leave, but not enter; left out, the standard one or the only one.
    """
    tables = solve_placement(
        chain, tariff.book, class_names, horizon_days=HORIZON_DAYS, may_enter=_own_classes(tariff, inside)
    )
    begin = inside if inside is not None else tariff.standard_code if len(class_names) > 1 else 0
    first = np.full(len(sizes), begin, dtype=np.intp)
    return tables.expected_usd(states, sizes, first, np.zeros(len(sizes)), np.zeros(len(sizes)))
