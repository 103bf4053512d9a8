"""Which policies there are, which classes they may use, and the run of them all over one trace."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

from cloudflux.domain.accounting import Tariff, tariff_of
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import Latency, PriceBook
from cloudflux_ml.backtest.optimum import Scheduled, optimal_schedule
from cloudflux_ml.backtest.replay import Charged, Policy, PolicyResult, replay
from cloudflux_ml.backtest.rivals import (
    AgeRule,
    AutopilotRule,
    BreakEven,
    IdleRule,
    PromotedIdleRule,
    RuleTiersDaily,
    Stay,
)
from cloudflux_ml.backtest.trace import Trace

AUTOPILOT: Final = AutopilotRule.name
OPTIMUM: Final = "optimum"
YARDSTICKS: Final = ("told-rates", "learnt-bound")
"""What knowing some of the future is worth, shown when it is asked for by name: see ``backtest.yardsticks``."""

SEED: Final = 20
"""Of everything random: the same trace gives the same figures."""

Progress = Callable[[str, int, int], None]
"""Told of a policy's name, how much of its work is done, and of how much."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What a policy may need to know besides the trace's past and the prices."""

    latency: Latency = Latency.MS
    seed: int = SEED
    switched: Tariff | None = None
    """With the autopilot that can be switched on for the whole bucket, where the book has one."""


Factory = Callable[[Trace, Tariff, PolicySettings], Policy]
"""Makes a policy of the trace as it was known in the morning of the window's first day, and of the tariff."""


def _cloudflux(trace: Trace, tariff: Tariff, settings: PolicySettings) -> Policy:
    from cloudflux_ml.backtest.learned import CloudFlux

    return CloudFlux(trace, tariff, switched=settings.switched, seed=settings.seed)


def _naive_forest(trace: Trace, tariff: Tariff, settings: PolicySettings) -> Policy:
    from cloudflux_ml.backtest.forest import NaiveForest  # scikit-learn, for whoever wants it

    return NaiveForest(trace, tariff, settings.seed)


FACTORIES: Final[Mapping[str, Factory]] = MappingProxyType(
    {
        "stay": lambda trace, tariff, settings: Stay(),
        AgeRule.name: lambda trace, tariff, settings: AgeRule(trace, tariff),
        IdleRule.name: lambda trace, tariff, settings: IdleRule(trace, tariff),
        PromotedIdleRule.name: lambda trace, tariff, settings: PromotedIdleRule(trace, tariff),
        AUTOPILOT: lambda trace, tariff, settings: AutopilotRule(trace, tariff),
        BreakEven.name: lambda trace, tariff, settings: BreakEven(trace, tariff),
        RuleTiersDaily.name: lambda trace, tariff, settings: RuleTiersDaily(trace, tariff),
        "naive-forest": _naive_forest,
        "cloudflux": _cloudflux,
    }
)
"""All policies but the optimum, in the order of every report."""


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What every policy cost on one trace."""

    trace: str
    book: str
    latency: Latency
    policies: Mapping[str, PolicyResult]
    objects: int
    first_day: date
    days: int
    eval_from: int
    seconds: float
    peak_bytes: int
    """The most memory that this process has had so far."""

    def regret(self, policy: str) -> float | None:
        """Give a policy's cost divided by the optimum's; None where the optimum costs nothing."""
        optimum = self.policies[OPTIMUM].usd
        return self.policies[policy].usd / optimum if optimum > 0 else None


def policy_names() -> tuple[str, ...]:
    """Name all policies, the optimum last."""
    return (*FACTORIES, OPTIMUM)


def backtest(
    trace: Trace,
    book: PriceBook,
    policies: Collection[str] | None = None,
    *,
    latency: Latency = Latency.MS,
    seed: int = SEED,
    progress: Progress | None = None,
) -> BacktestResult:
    """Replay a trace's evaluation window under each policy, and charge them all by the same book.

    ``policies``: names; left out, all of them. The optimum is always there, as regret is measured by it. ``latency``:
    how slow a class may be; classes in a single zone are never used. Raises ``SettingsError`` for a policy that does
    not exist, or that needs a class which the book or the latency does not offer.
    """
    began = time.perf_counter()
    wanted = set(policy_names() if policies is None else policies)
    if unknown := sorted(wanted.difference(policy_names(), YARDSTICKS)):
        raise SettingsError(f"there is no policy {unknown[0]!r}: there are {', '.join(policy_names())}")
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, latency))
    switched = _switched_tariff(trace, book, latency)
    settings = PolicySettings(latency, seed, switched)
    past = trace.before(trace.eval_from)

    def told(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    def result_of(name: str, factory: Factory) -> PolicyResult:
        prices = switched if name == AUTOPILOT and switched is not None else tariff
        policy = factory(past, prices, settings)
        return replay(trace, policy.tariff if isinstance(policy, Charged) else prices, name, policy, told(name))

    results = {name: result_of(name, factory) for name, factory in FACTORIES.items() if name in wanted}
    for name in YARDSTICKS:
        if name in wanted:
            results[name] = replay(trace, tariff, name, _yardstick(name, trace, tariff, seed), told(name))
    results[OPTIMUM] = _optimum(trace, tariff, switched, told(OPTIMUM))
    return BacktestResult(
        trace=trace.name,
        book=book.name,
        latency=latency,
        policies=MappingProxyType(results),
        objects=trace.objects,
        first_day=trace.first_day,
        days=trace.days,
        eval_from=trace.eval_from,
        seconds=time.perf_counter() - began,
        # kilobytes, but for macOS, see getrusage(2) of either
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def _yardstick(name: str, trace: Trace, tariff: Tariff, seed: int) -> Policy:
    from cloudflux_ml.backtest.yardsticks import LearntBound, ToldRates

    return ToldRates(trace, tariff) if name == ToldRates.name else LearntBound(trace, tariff, seed=seed)


def classes_of(book: PriceBook, latency: Latency, *, switched: bool = False) -> tuple[str, ...]:
    """Name the classes that an object may be put into: fast enough, in more than one zone.

    ``switched``: with an autopilot that is a setting of the whole bucket or account, too, but without the classes that
    need a restore: smart tier is for zone-redundant accounts, and these have no Archive tier
    (https://learn.microsoft.com/azure/storage/blobs/access-tiers-overview). Raises ``SettingsError`` when the book does
    not have the provider's standard class, in which every object begins.
    """
    try:
        book.standard_code  # noqa: B018 - a property that looks for the class
    except ValueError as exc:
        raise SettingsError(f"price book {book.name} does not have the class that uploads get: {exc}") from exc
    return tuple(
        prices.storage_class
        for prices in book.classes
        if not prices.single_az
        and (prices.latency is Latency.MS or (latency is Latency.HOURS and not switched))
        and (switched or not prices.is_setting_of_whole)
    )


def _switched_tariff(trace: Trace, book: PriceBook, latency: Latency) -> Tariff | None:
    """Give the prices with an autopilot of the whole bucket; None where the book has no such autopilot."""
    names = classes_of(book, latency, switched=True)
    if not set(names).difference(classes_of(book, latency)):
        return None
    return tariff_of(book, trace.size_bytes, names)


def _optimum(
    trace: Trace, tariff: Tariff, switched: Tariff | None, progress: Callable[[int, int], None] | None
) -> PolicyResult:
    """Give the clairvoyant optimum.

    An autopilot that is a setting of the bucket cannot be mixed with classes object by object. With one, the optimum is
    the cheaper of two: the best schedule of each object without it, and everything in it from the first day on. Where
    single objects may leave it, the latter is the best schedule of each object that begins in it.
    """
    from cloudflux_ml.backtest.learned import left_one_by_one

    began = time.perf_counter()
    schedule = optimal_schedule(trace, tariff, progress)
    best = replay(trace, tariff, OPTIMUM, Scheduled(schedule))
    if switched is not None:
        code = left_one_by_one(switched)
        inside: Policy = (
            AutopilotRule(trace, switched)
            if code is None
            else Scheduled(optimal_schedule(trace, switched, progress, inside=code))
        )
        best = min(best, replay(trace, switched, OPTIMUM, inside), key=lambda found: found.usd)
    return PolicyResult(OPTIMUM, best.usd, best.moves, best.parts_usd, best.cumulated_usd, time.perf_counter() - began)
