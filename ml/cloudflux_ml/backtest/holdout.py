"""What placement would have cost on a training's holdout window: the figure that decides who becomes champion.

The conventions are those of every backtest (``docs/backtest.md``), with two differences. All objects exist before the
window begins, so that challenger, champion and rivals are charged for the same ones; and what early deletion would
still charge at the window's end is added to every cost, the optimum's too: a window of 30 days would otherwise reward
who parks everything in a class with minimum days.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cloudflux.domain.accounting import Account, Tariff, tariff_of
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.usage import UsageChain
from cloudflux_ml.backtest.optimum import optimal_schedule
from cloudflux_ml.backtest.replay import Moves, Policy, replay
from cloudflux_ml.backtest.rivals import RuleTiersDaily, Stay
from cloudflux_ml.backtest.trace import Trace
from cloudflux_ml.dataset import Dataset, LakeReader, read_history, usage_start
from cloudflux_ml.features import Integers, ReadsByDay
from cloudflux_ml.usage import UsageStates, UsageTracker

MOST_OBJECTS: Final = 50_000
HORIZON_DAYS: Final = 180
_PERSISTENCE_DAYS: Final = 30


Bucket = tuple[str, str]
"""Provider and name."""


@dataclass(frozen=True, slots=True)
class BucketPrices:
    """By what the objects of a bucket are charged, and where they may lie."""

    book: PriceBook
    class_names: tuple[str, ...]
    """The classes of the book that an owner allows; the standard one, in which all objects begin, is one of them."""


@dataclass(frozen=True, slots=True)
class HoldoutSample:
    """Objects that existed before the holdout's window, with their history and what came of them."""

    trace: Trace
    """What is charged; the evaluation window is the holdout's."""
    noticed: Trace
    """The same without the reads of crawls: what usage features are made of."""
    buckets: tuple[Bucket, ...]
    bucket_codes: Codes
    """The place of each object's bucket in ``buckets``, shape (N,)."""

    def only(self, rows: Codes) -> HoldoutSample:
        """Give the sample of some of the objects, whose places are given in rising order."""
        return replace(
            self,
            trace=self.trace.only(rows),
            noticed=self.noticed.only(rows),
            bucket_codes=self.bucket_codes[rows],
        )


def sample_holdout(
    lake: LakeReader, dataset: Dataset, *, shards: int, most: int = MOST_OBJECTS, seed: int = 20
) -> HoldoutSample | None:
    """Read a seeded uniform sample of the objects that existed before ``dataset.windows.holdout``.

    One shard's history is in memory at a time. None when no inventory tells how large objects are.
    """
    if dataset.inventory_day is None:
        return None
    start, windows = usage_start(dataset), dataset.windows
    eval_from, days = (windows.holdout - start).days, (windows.end - start).days
    share = min(1.0, most / max(1, dataset.objects))
    found = 0
    keys, sizes, created = [], [], []
    buckets: dict[Bucket, int] = {}
    codes: list[Codes] = []
    parts: dict[bool, list[tuple[Integers, Codes, Floats]]] = {False: [], True: []}
    for shard in range(shards):
        history = read_history(lake, shard, start, windows.end, dataset.inventory_day)
        charged = history.daily_reads(windows.end, with_crawls=True)
        size = history.objects["size_bytes"].fill_null(0).to_numpy()
        known = np.flatnonzero((charged.created < eval_from) & (history.objects["size_bytes"].is_not_null().to_numpy()))
        rng = np.random.default_rng([seed, shard])
        rows = np.sort(rng.permutation(known)[: int(share * len(known))])
        place = np.full(len(size), -1, dtype=np.intp)
        place[rows] = found + np.arange(len(rows))
        for crawls, reads in ((True, charged), (False, history.daily_reads(windows.end))):
            parts[crawls].append(_reads_of(reads, place))
        found += len(rows)
        sampled = history.objects[rows.tolist()]
        keys.append(sampled["key"].to_numpy())
        named = sampled.select("provider", "bucket")
        places = [
            buckets.setdefault(bucket, len(buckets)) for bucket in named.unique().sort("provider", "bucket").rows()
        ]
        ranks = named.select(pl.struct("provider", "bucket").rank("dense")).to_series().to_numpy().astype(np.intp)
        codes.append(np.array(places, dtype=np.intp)[ranks - 1])
        sizes.append(size[rows].astype(np.int64))
        created.append(charged.created[rows])
    rows, counts, starts = _by_day(parts[True], days)
    trace = Trace(
        name="holdout",
        first_day=start,
        days=days,
        eval_from=eval_from,
        object_ids=np.concatenate(keys).astype(object),
        size_bytes=np.concatenate(sizes),
        created=np.concatenate(created),
        read_rows=rows,
        read_counts=counts,
        starts=starts,
        known_days=days,
    )
    rows, counts, starts = _by_day(parts[False], days)
    noticed = replace(trace, read_rows=rows, read_counts=counts, starts=starts)
    return HoldoutSample(trace, noticed, tuple(buckets), np.concatenate(codes))


@dataclass(frozen=True, slots=True)
class HoldoutPart:
    """The sample's objects that are charged alike, and their prices."""

    sample: HoldoutSample
    tariff: Tariff

    def usd(self, name: str, policy: Policy) -> float:
        """Charge a policy for the window."""
        result = replay(self.sample.trace, self.tariff, name, policy)
        return result.usd + result.owed_usd

    def rivals_usd(self) -> Mapping[str, float]:
        """Charge what needs no training, and the clairvoyant optimum; the rules where the book has their classes."""
        trace = self.sample.trace
        usd = {
            "optimum": float(optimal_schedule(trace, self.tariff, owed_at_end=True).usd.sum()),
            "stay": self.usd("stay", Stay()),
            "persistence": self.usd("persistence", Persistence(self.sample.noticed, self.tariff)),
        }
        with suppress(SettingsError):  # the rules would use a class that is not there
            usd["rules"] = self.usd("rules", RuleTiersDaily(trace.before(trace.eval_from), self.tariff))
        return usd


@dataclass(frozen=True, slots=True)
class HoldoutBacktest:
    """Charges policies for the sample's window, each object by the prices of its own bucket."""

    parts: tuple[HoldoutPart, ...]

    @classmethod
    def of(cls, sample: HoldoutSample, prices: Mapping[Bucket, BucketPrices]) -> HoldoutBacktest | None:
        """Price the sample; objects of buckets without prices are left out. None when none is left."""
        kinds: list[BucketPrices] = []
        kind_of = np.full(len(sample.buckets), -1, dtype=np.intp)
        for code, bucket in enumerate(sample.buckets):
            if bucket in prices:
                if prices[bucket] not in kinds:  # two books of owners' own may have one name
                    kinds.append(prices[bucket])
                kind_of[code] = kinds.index(prices[bucket])
        parts = []
        for number, kind in enumerate(kinds):
            some = sample.only(np.flatnonzero(kind_of[sample.bucket_codes] == number))
            parts.append(HoldoutPart(some, tariff_of(kind.book, some.trace.size_bytes, kind.class_names)))
        return cls(tuple(parts)) if parts else None

    @property
    def objects(self) -> int:
        """Count the objects that are charged."""
        return sum(part.sample.trace.objects for part in self.parts)

    @property
    def book_names(self) -> tuple[str, ...]:
        """Name the price books, each once."""
        return tuple(sorted({part.tariff.book.name for part in self.parts}))

    def usage_usd(self, usage: UsageStates, horizon_days: int = HORIZON_DAYS) -> float:
        """Charge placement by a usage chain."""
        return sum(
            part.usd("cloudflux", ByUsage(part.sample.noticed, part.tariff, usage, horizon_days=horizon_days))
            for part in self.parts
        )

    def rivals_usd(self) -> Mapping[str, float]:
        """Charge what needs no training, and the clairvoyant optimum; the rules where every book has their classes."""
        each = [part.rivals_usd() for part in self.parts]
        return {name: sum(usd[name] for usd in each) for name in each[0] if all(name in usd for usd in each)}


class ByUsage:
    """Placement as scoring decides it each morning: by usage states, and the classes that cost least over their chain.

    Nothing is learnt on the way: the chain is that of the forecaster.
    """

    def __init__(self, noticed: Trace, tariff: Tariff, usage: UsageStates, *, horizon_days: int = HORIZON_DAYS) -> None:
        self._noticed = noticed
        self._sizes = noticed.size_bytes.astype(np.float64)
        self._usage = usage
        self._tracker = UsageTracker(noticed.created)
        self._tables = solve_placement(
            usage.chain, tariff.book, tariff.class_names, horizon_days=horizon_days, with_costs=False
        )

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take in a day that is over, without the reads of crawls."""
        rows, reads = self._noticed.on(day)
        self._tracker.observe(day, rows, reads.astype(np.float64))

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move each object to the class that is expected to cost least."""
        rows = np.flatnonzero(movable)
        states = self._usage.predict(self._tracker.features(rows, day))
        return rows, self._tables.best_classes(
            states, self._sizes[rows], account.class_codes[rows], account.days_in_class[rows], account.idle_days[rows]
        )


class Persistence:
    """Placement as if each object went on being read on as many days as in the last 30, evenly likely on every day."""

    def __init__(self, noticed: Trace, tariff: Tariff, *, horizon_days: int = HORIZON_DAYS) -> None:
        self._noticed = noticed
        self._sizes = noticed.size_bytes.astype(np.float64)
        self._read_days = np.zeros(noticed.objects, dtype=np.intp)
        self._recent: deque[Codes] = deque()
        recent = slice(noticed.starts[max(0, noticed.eval_from - _PERSISTENCE_DAYS)], noticed.starts[noticed.eval_from])
        counts = noticed.read_counts[recent]
        chance = np.arange(_PERSISTENCE_DAYS + 1) / _PERSISTENCE_DAYS
        chain = UsageChain(
            unread=np.diag(1.0 - chance),
            read=np.diag(chance),
            reads=chance * (float(counts.mean()) if len(counts) else 1.0),
            seen=np.ones_like(chance),
        )
        self._tables = solve_placement(
            chain, tariff.book, tariff.class_names, horizon_days=horizon_days, with_costs=False
        )

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Count the last 30 days' read days, without those of crawls."""
        read, _ = self._noticed.on(day)
        self._read_days[read] += 1
        self._recent.append(read)
        if len(self._recent) > _PERSISTENCE_DAYS:
            self._read_days[self._recent.popleft()] -= 1

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move each object to the class that is expected to cost least at its present rate."""
        rows = np.flatnonzero(movable)
        return rows, self._tables.best_classes(
            self._read_days[rows],
            self._sizes[rows],
            account.class_codes[rows],
            account.days_in_class[rows],
            account.idle_days[rows],
        )


def _reads_of(reads: ReadsByDay, place: Codes) -> tuple[Integers, Codes, Floats]:
    """Give day, place in the sample and reads of the sampled objects, day after day."""
    day = np.repeat(np.arange(len(reads.starts) - 1), np.diff(reads.starts))
    here = place[reads.rows] >= 0
    return day[here], place[reads.rows[here]], reads.reads[here]


def _by_day(
    parts: list[tuple[Integers, Codes, Floats]], days: int
) -> tuple[Codes, NDArray[np.int64], NDArray[np.intp]]:
    """Put the shards' reads into a trace's columns; places rise from shard to shard, so that a stable sort will do."""
    day, rows, reads = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(day, kind="stable")
    starts = np.searchsorted(day[order], np.arange(days + 1)).astype(np.intp)
    return rows[order], reads[order].astype(np.int64), starts
