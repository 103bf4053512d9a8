"""Traces and price books for the backtest's tests, small enough to be checked by hand or by trying everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
from hypothesis import strategies as st

from cloudflux.domain.prices import (
    Autopilot,
    AutopilotScope,
    AutopilotStep,
    ClassPrices,
    Latency,
    MoveCharge,
    PriceBook,
)
from cloudflux.domain.tiers import Provider
from cloudflux_ml.backtest.trace import Trace

GIB = 2**30
FIRST_DAY = date(2024, 1, 1)


def trace_with(reads, sizes=None, created=None, eval_from=1) -> Trace:
    """Give a trace of a matrix of reads, shape (objects, days)."""
    reads = np.atleast_2d(np.asarray(reads, dtype=np.int64))
    count, days = reads.shape
    day, row = np.nonzero(reads.T)
    return Trace(
        name="made",
        first_day=FIRST_DAY,
        days=days,
        eval_from=eval_from,
        object_ids=np.array([f"object-{number:05}" for number in range(count)], dtype=object),
        size_bytes=np.full(count, GIB) if sizes is None else np.asarray(sizes, dtype=np.int64),
        created=np.full(count, -100) if created is None else np.asarray(created, dtype=np.int64),
        read_rows=row,
        read_counts=reads.T[day, row],
        starts=np.searchsorted(day, np.arange(days + 1)),
        known_days=days,
    )


def random_trace(seed: int, objects: int = 40, days: int = 240, eval_from: int = 100) -> Trace:
    """Give a trace with objects of all sizes and habits: idle, steady, bursts, created before and in the window."""
    random = np.random.default_rng(seed)
    created = np.where(
        random.random(objects) < 0.5, random.integers(-50, 1, objects), random.integers(1, days, objects)
    )
    rate = random.choice([0.0, 0.01, 0.05, 0.3, 3.0, 20.0], objects)
    fading = random.choice([1.0, 1.0, 0.97], objects)
    age = np.arange(days)[None, :] - created[:, None]
    reads = random.poisson(rate[:, None] * fading[:, None] ** np.maximum(age, 0))
    burst = random.random((objects, days)) < 0.003
    reads = np.where(age < 0, 0, reads + burst * random.integers(1, 200, (objects, days)))
    sizes = np.exp(random.normal(16, 4, objects)).astype(np.int64)
    sizes[:2] = [0, 131_072]
    return trace_with(reads, sizes, created, eval_from)


def usd(highest: float) -> st.SearchStrategy[float]:
    """Draw a price: few figures, so that ties come up."""
    return st.one_of(st.just(0.0), st.integers(1, 8).map(lambda eighths: eighths * highest / 8))


@st.composite
def small_books(draw, classes=("STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "GLACIER_IR")) -> PriceBook:
    """Draw a book whose minimum days and steps are over within a few days, with any rules for moves."""

    def one(name: str, cheapest: float) -> ClassPrices:
        autopilot = None
        if name == "INTELLIGENT_TIERING":
            first = draw(st.integers(1, 2))
            autopilot = Autopilot(
                scope=AutopilotScope.OBJECT,
                monitoring_usd_month=draw(usd(1.0)),
                monitored_min_bytes=GIB,
                steps=(
                    AutopilotStep(first, 20.0),
                    AutopilotStep(first + draw(st.integers(1, 2)), 5.0, object_usd_month=draw(usd(20.0))),
                ),
                promotion_usd=draw(usd(1.0)),
                promotion_from_idle_days=draw(st.integers(0, 3)),
                leave_usd=draw(st.one_of(st.none(), usd(1.0))),
            )
        standard = name == "STANDARD"
        return ClassPrices(
            storage_class=name,
            storage_usd_gib_month=30.0 if standard or autopilot else cheapest,
            write_usd=draw(usd(0.5)),
            read_usd=0.01 if standard else draw(usd(1.0)),
            retrieval_usd_gib=0.0 if standard else draw(usd(1.0)),
            transition_in_usd=draw(st.one_of(st.none(), usd(1.0))),
            lifecycle_to=tuple(other for other in classes[classes.index(name) + 1 :] if draw(st.booleans())),
            min_days=0 if standard or autopilot else draw(st.integers(0, 3)),
            min_billable_bytes=0,
            overhead_class_bytes=0,
            overhead_standard_bytes=0,
            latency=Latency.MS,
            single_az=False,
            restore_request_usd=0.0,
            restored_copy_days=0,
            autopilot=autopilot,
        )

    def charge() -> MoveCharge:
        return MoveCharge(*(draw(st.booleans()) for _ in range(4)))

    return PriceBook(
        name="small",
        provider=Provider.AWS,
        region="here",
        seen_on=FIRST_DAY,
        classes=tuple(one(name, 20.0 / (place + 1)) for place, name in enumerate(classes)),
        client_move_down=charge(),
        client_move_up=charge(),
        lifecycle_early_deletion=draw(st.booleans()),
        lifecycle_retrieval=draw(st.booleans()),
        soft_delete_days=draw(st.integers(0, 2)),
    )


@dataclass
class Recorded:
    """A policy that keeps what another one decided."""

    policy: object
    decided: list = field(default_factory=list)
    promoted: list = field(default_factory=list)

    def observe(self, day, rows, reads):
        self.policy.observe(day, rows, reads)

    def decide(self, day, account, movable):
        moves = self.policy.decide(day, account, movable)
        self.decided.append((day, account.class_codes.copy(), _plain(moves)))
        return moves

    def promote(self, day, account, rows, reads):
        moves = self.policy.promote(day, account, rows, reads) if hasattr(self.policy, "promote") else None
        self.promoted.append((day, _plain(moves)))
        return moves


def _plain(moves):
    return None if moves is None else sorted(zip(*(part.tolist() for part in moves), strict=True))
