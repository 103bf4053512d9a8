"""CloudFlux on traces made to hurt it: within 1.1 of the best rival where a policy without foresight can be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
from backtest_traces import FIRST_DAY, trace_with

from cloudflux.domain.accounting import Tariff, tariff_of
from cloudflux.domain.prices import Latency
from cloudflux.price_books import load_book
from cloudflux_ml.backtest.learned import MIN_HISTORY_DAYS, CloudFlux, Learned
from cloudflux_ml.backtest.replay import Policy, PolicyResult, replay
from cloudflux_ml.backtest.rivals import AutopilotRule
from cloudflux_ml.backtest.run import FACTORIES, PolicySettings, backtest, classes_of
from cloudflux_ml.backtest.trace import Trace

AWS, AZURE = load_book("aws-us-east-1"), load_book("azure-eastus-lrs")
RIVALS = ("stay", "lifecycle-age", "lifecycle-idle", "autopilot", "break-even", "rules")
OBJECTS, DAYS, EVAL_FROM = 40, 400, 200
MIB = 2**20


def lognormal_sizes(objects: int) -> np.ndarray:
    """Give sizes around 8 MiB, of which none outweighs all others: a test shows no luck with a single object."""
    return (8 * MIB * np.exp(np.random.default_rng(7).normal(0, 1, objects))).astype(np.int64)


def made(reads, sizes=None, created=None, eval_from=EVAL_FROM) -> Trace:
    return trace_with(reads, lognormal_sizes(len(reads)) if sizes is None else sizes, created, eval_from)


def none(objects=OBJECTS, days=DAYS) -> np.ndarray:
    return np.zeros((objects, days), dtype=int)


def hot(objects=OBJECTS, days=DAYS) -> np.ndarray:
    return 1 + np.random.default_rng(1).poisson(2, (objects, days))


def mixed(objects=OBJECTS, days=DAYS) -> np.ndarray:
    """Give objects that are dead, rare, and read every other day."""
    random = np.random.default_rng(3)
    return random.poisson(random.choice([0, 0, 0.002, 0.01, 0.05, 0.5], objects)[:, None], (objects, days))


def after_gaps(gaps, first=0, reads=None) -> np.ndarray:
    """Add reads after gaps of days, one gap after another; each object begins on a day and with a gap of its own."""
    random = np.random.default_rng(1)
    reads = none() if reads is None else reads
    for row in reads:
        place = random.integers(len(gaps))
        day = first + random.integers(gaps[place])
        while day < len(row):
            row[day] = 1
            day += gaps[place % len(gaps)]
            place += 1
    return reads


def on_days(days, reads=None) -> np.ndarray:
    reads = none() if reads is None else reads
    reads[:, days] += 1
    return reads


def joined(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Give the first's history and the second's window."""
    return np.concatenate([before[:, :EVAL_FROM], after[:, EVAL_FROM:]], axis=1)


def read_once() -> Trace:
    created = np.sort(np.random.default_rng(1).integers(0, DAYS - 1, OBJECTS))
    reads = none()
    reads[np.arange(OBJECTS), created] = 1
    return made(reads, created=created)


MONTH_ENDS = [day for day in range(DAYS) if (FIRST_DAY + timedelta(days=day + 1)).day == 1]
TRACES = {
    "all hot": lambda: made(hot()),
    "all dead, read once when created": read_once,
    "all dead, never read": lambda: made(none()),
    "read after 31 and 91 idle days": lambda: made(after_gaps((31, 91))),
    "read after 31 idle days": lambda: made(after_gaps((31,))),
    "read after 91 idle days": lambda: made(after_gaps((91,))),
    "a crawl in the window": lambda: made(on_days([300], mixed())),
    "a crawl in the window over what is dead": lambda: made(on_days([300])),
    "a crawl in the history and in the window": lambda: made(on_days([110, 300], mixed())),
    "a crawl on the window's second day": lambda: made(on_days([EVAL_FROM + 1], mixed())),
    "month-end waves": lambda: made(on_days(MONTH_ENDS)),
    "month-end waves and other reads": lambda: made(on_days(MONTH_ENDS, mixed())),
    "everything at each quarter's end": lambda: made(on_days(list(range(60, DAYS, 91)))),
    "everything every 70 days": lambda: made(on_days(list(range(35, DAYS, 70)))),
    "everything every 120 days": lambda: made(on_days(list(range(30, DAYS, 120)))),
    "objects of 128 KiB, dead": lambda: made(none(), sizes=np.full(OBJECTS, 128 * 1024)),
    "objects of 1 byte to 127 KiB": lambda: made(mixed(), sizes=np.geomspace(1, 127 * 1024, OBJECTS).astype(np.int64)),
    "a hot history of 10 days": lambda: made(hot(days=210), eval_from=10),
    "one object, hot": lambda: made(hot(1)),
    "one object, dead": lambda: made(none(1)),
    "one object, read after 91 idle days": lambda: made(after_gaps((91,), reads=none(1))),
    "one object, read now and then": lambda: made(np.random.default_rng(5).poisson(0.02, (1, DAYS)), sizes=[8 * MIB]),
}
"""What can be kept within 1.1 of the best rival."""


def tariff_for(trace: Trace) -> Tariff:
    return tariff_of(AWS, trace.size_bytes, classes_of(AWS, Latency.MS))


def smart_tariff(trace: Trace) -> Tariff:
    """Price a trace in an account with smart tier."""
    return tariff_of(AZURE, trace.size_bytes, classes_of(AZURE, Latency.MS, switched=True))


def replayed(trace: Trace, name: str) -> PolicyResult:
    tariff = tariff_for(trace)
    return replay(trace, tariff, name, FACTORIES[name](trace.before(trace.eval_from), tariff, PolicySettings()))


def usd_of_rivals(trace: Trace, cloudflux: float) -> dict[str, float]:
    """Give what each rival costs, and show CloudFlux's cost over the cheapest: ``pytest -rP`` lists these figures."""
    usd = {name: replayed(trace, name).usd for name in RIVALS}
    best = min(usd, key=lambda name: usd[name])
    print(f"{cloudflux / usd[best]:.3f} of {best}")  # noqa: T201 - a figure for the docs
    return usd


@pytest.mark.parametrize("name", [*TRACES])
def test_cloudflux_costs_at_most_a_tenth_more_than_the_best_rival(name):
    trace = TRACES[name]()
    cloudflux = replayed(trace, "cloudflux").usd
    assert cloudflux <= 1.1 * min(usd_of_rivals(trace, cloudflux).values())


OTHER_BOOKS = [
    ("aws-us-east-1", "hours"),
    ("aws-us-east-1-archive", "hours"),
    ("azure-eastus-lrs", "ms"),
    ("azure-eastus-lrs", "hours"),
    ("gcs-us-central1", "ms"),
]
DEARER = {
    # Nobody can know of a read of everything that has never come before, and the classes of these books that what is
    # dead lies in cost the most to read: a retrieval of everything is the difference.
    ("a crawl in the window over what is dead", "azure-eastus-lrs", "hours"): 1.75,
    ("a crawl in the window over what is dead", "gcs-us-central1", "ms"): 1.45,
    ("a crawl on the window's second day", "gcs-us-central1", "ms"): 1.2,
    # The first of two crawls is left out until the second comes.
    ("a crawl in the history and in the window", "gcs-us-central1", "ms"): 1.35,
    ("everything every 120 days", "aws-us-east-1", "hours"): 1.15,
    ("read after 31 and 91 idle days", "aws-us-east-1", "hours"): 1.15,
    ("read after 31 and 91 idle days", "aws-us-east-1-archive", "hours"): 1.15,
    # Four reads of one object are all there is to learn from.
    ("one object, read now and then", "gcs-us-central1", "ms"): 1.5,
}
"""What is not kept within 1.1 with other books and latencies, and what it is held to."""


@pytest.mark.parametrize(("book", "latency"), OTHER_BOOKS)
@pytest.mark.parametrize(
    "name",
    [
        "all dead, read once when created",
        "all dead, never read",
        "read after 31 and 91 idle days",
        "read after 31 idle days",
        "read after 91 idle days",
        "a crawl in the window",
        "a crawl in the window over what is dead",
        "a crawl in the history and in the window",
        "a crawl on the window's second day",
        "month-end waves and other reads",
        "everything at each quarter's end",
        "everything every 70 days",
        "everything every 120 days",
        "objects of 128 KiB, dead",
        "one object, read now and then",
    ],
)
def test_cloudflux_costs_at_most_a_tenth_more_with_the_other_books(name, book, latency):
    found = backtest(TRACES[name](), load_book(book), [*RIVALS, "cloudflux"], latency=Latency(latency)).policies
    best = min(RIVALS, key=lambda rival: found[rival].usd)
    print(f"{found['cloudflux'].usd / found[best].usd:.3f} of {best}")  # noqa: T201 - a figure for the docs
    assert found["cloudflux"].usd <= DEARER.get((name, book, latency), 1.1) * found[best].usd


@dataclass
class Adversary:
    """A trace that adds a read of what the policy has just moved down, and the policy's go-between."""

    trace: Trace
    policy: Policy
    lag_days: int
    above: int = 0
    """Moves to a class that is no colder than this one are no moves down."""

    def __post_init__(self):
        self.moved = {}

    def __getattr__(self, name):
        return getattr(self.trace, name)

    def on(self, day):
        rows, reads = self.trace.on(day)
        counted = np.zeros(self.trace.objects, dtype=np.int64)
        counted[rows] = reads
        counted[self.moved.get(day - self.lag_days, [])] += 1
        return np.flatnonzero(counted), counted[counted > 0]

    def observe(self, day, rows, reads):
        self.policy.observe(day, rows, reads)

    def decide(self, day, account, movable):
        rows, codes = self.policy.decide(day, account, movable)
        self.moved[day] = rows[codes > np.maximum(account.class_codes[rows], self.above)]
        return rows, codes

    def promote(self, day, account, rows, reads):
        return self.policy.promote(day, account, rows, reads)


@pytest.mark.parametrize("lag_days", [0, 1])
@pytest.mark.parametrize(
    "base",
    [none, lambda: after_gaps((31, 91)), mixed],
    ids=["never read", "read after 31 and 91 idle days", "mixed"],
)
def test_cloudflux_costs_at_most_a_tenth_more_when_what_it_moves_down_is_read_at_once(base, lag_days):
    """The read comes on the day of the move, or on the next one."""
    trace = made(base())
    tariff = tariff_for(trace)
    adversary = Adversary(trace, CloudFlux(trace.before(EVAL_FROM), tariff), lag_days)
    paid = replay(adversary, tariff, "cloudflux", adversary).usd
    reads = none()
    for day in range(DAYS):
        rows, counts = adversary.on(day)
        reads[rows, day] = counts
    added = int(reads.sum() - trace.read_counts.sum())
    assert added >= OBJECTS / 2
    assert paid <= 1.1 * min(usd_of_rivals(made(reads), paid).values())


@pytest.mark.parametrize(
    "name",
    [
        "all dead, never read",
        "read after 31 and 91 idle days",
        "month-end waves and other reads",
        "a crawl in the window over what is dead",
    ],
)
def test_leaving_smart_tier_costs_at_most_a_tenth_more_than_staying_in_it(name):
    """The account is switched on whatever is expected of it: what leaves cannot go back."""
    trace = TRACES[name]()
    tariff = smart_tariff(trace)
    stays = replay(trace, tariff, "autopilot", AutopilotRule(trace, tariff)).usd
    policy = Learned(trace.before(EVAL_FROM), tariff, inside=tariff.code_of("Smart"))
    leaves = replay(trace, tariff, "cloudflux", policy).usd
    print(f"{leaves / stays:.3f} of autopilot")  # noqa: T201 - a figure for the docs
    assert leaves <= 1.1 * stays


@pytest.mark.parametrize("lag_days", [0, 1])
@pytest.mark.parametrize("base", [none, mixed], ids=["never read", "mixed"])
def test_leaving_smart_tier_costs_at_most_a_fifth_more_when_what_has_left_is_read_at_once(base, lag_days):
    """Objects of all habits cost the most here: 1.12 of what staying in costs."""
    trace = made(base())
    tariff = smart_tariff(trace)
    policy = Learned(trace.before(EVAL_FROM), tariff, inside=tariff.code_of("Smart"))
    adversary = Adversary(trace, policy, lag_days, above=tariff.code_of("Smart"))
    paid = replay(adversary, tariff, "cloudflux", adversary).usd
    reads = none()
    for day in range(DAYS):
        rows, counts = adversary.on(day)
        reads[rows, day] = counts
    assert reads.sum() > trace.read_counts.sum()
    stays = replay(made(reads), tariff, "autopilot", AutopilotRule(trace, tariff)).usd
    print(f"{paid / stays:.3f} of autopilot")  # noqa: T201 - a figure for the docs
    assert paid <= 1.2 * stays


# What nobody can do who does not know the future: on the window's first day all is as it has been for 200 days. Who
# leaves what is dead in the standard class, to be safe, pays 5.6 times the best rival's price where it stays dead.


def test_hot_that_dies_on_the_windows_first_day_costs_little_more_than_break_even():
    """The best rival, age rules, had everything in the coldest class while it was hot."""
    trace = made(joined(hot(), none()))
    cloudflux = replayed(trace, "cloudflux").usd
    usd = usd_of_rivals(trace, cloudflux)
    assert min(usd, key=usd.get) == "lifecycle-age"
    assert cloudflux <= 1.1 * usd["break-even"]


@pytest.mark.parametrize("share", [1, 2])
def test_dead_that_turns_hot_is_brought_back_within_days(share):
    """One day of three reads in the coldest class costs as much as 117 days in the standard one."""
    after = none()
    after[::share] = hot()[::share]
    trace = made(joined(none(), after))
    cloudflux = replayed(trace, "cloudflux").usd
    usd = usd_of_rivals(trace, cloudflux)
    assert min(usd["lifecycle-age"], usd["lifecycle-idle"], usd["rules"]) > 10 * usd["stay"]
    assert cloudflux <= 2.2 * usd["stay"]


def test_dead_that_turns_hot_is_learnt_anew_after_a_long_history():
    """After 800 days the next training would be 100 days away: it comes as soon as many objects refute the chain."""
    random = np.random.default_rng(1)
    created = random.integers(-100, 700, OBJECTS)
    reads = none(days=1000)
    reads[np.arange(OBJECTS), np.maximum(created, 0)] = 1
    reads[:, 800:] = hot(days=200)
    trace = made(reads, created=created, eval_from=800)
    assert replayed(trace, "cloudflux").usd <= 2.2 * replayed(trace, "stay").usd


def test_month_end_waves_over_what_was_dead_are_no_dearer_than_by_rules_that_move_it_down():
    """The first wave finds all in the coldest class; to leave it costs as much as a wave."""
    trace = made(on_days([day for day in MONTH_ENDS if day >= EVAL_FROM]))
    cloudflux = replayed(trace, "cloudflux").usd
    usd = usd_of_rivals(trace, cloudflux)
    assert cloudflux <= min(usd["lifecycle-age"], usd["rules"], 1.5 * usd["stay"])


def test_a_history_that_is_no_guide_to_the_window_costs_little_more_than_the_best_rival():
    """Objects of all habits are read after 31 and 91 idle days from the window's first day on."""
    trace = made(after_gaps((31, 91), EVAL_FROM, joined(mixed(), none())))
    cloudflux = replayed(trace, "cloudflux").usd
    usd = usd_of_rivals(trace, cloudflux)
    assert min(usd, key=usd.get) == "autopilot"
    assert cloudflux <= min(1.2 * usd["autopilot"], usd["stay"])


@pytest.mark.parametrize(("reads", "most"), [(none(days=210), 1.5), (mixed(days=210), 1.25)], ids=["dead", "mixed"])
def test_a_history_of_10_days_costs_the_days_until_there_is_enough_to_learn_from(reads, most):
    """The best rivals move down after 30 days without a read, or at once by age: they need not learn first."""
    trace = made(reads, eval_from=10)
    cloudflux = replayed(trace, "cloudflux").usd
    usd = usd_of_rivals(trace, cloudflux)
    assert cloudflux <= most * min(usd.values())
    assert cloudflux < usd["break-even"]


def test_break_even_decides_while_all_objects_are_younger_than_the_longest_label():
    created = np.full(OBJECTS, MIN_HISTORY_DAYS - 3)
    trace = made(none(days=60), created=created, eval_from=MIN_HISTORY_DAYS)
    cloudflux = replayed(trace, "cloudflux")
    assert 0 < cloudflux.moves <= OBJECTS
    assert cloudflux.usd < replayed(trace, "stay").usd
