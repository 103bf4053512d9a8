import asyncio
import contextlib
import math
import random
import re
import selectors
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.errors import TransientError
from cloudflux.providers.pace import LONGEST_BACKOFF_SECONDS, LONGEST_PAUSE_SECONDS, LeftAlone, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def a_pace(clock: Clock, *, in_flight: int = 64, max_per_second: float | None = None, seed: int = 1) -> Pace:
    return Pace(
        max_in_flight=in_flight,
        max_per_second=max_per_second,
        clock=clock,
        random=random.Random(seed).random,
        sleep=clock.sleep,
    )


@dataclass
class Service:
    """A token bucket, as AWS's front ends have: so many requests a second (told the time) and a burst."""

    capacity: Callable[[float], float]
    burst: float
    chance_of_refusal: Callable[[], float] = lambda: 1.0
    random_share: float = 0.0
    tokens: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def takes(self, at: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (at - self.at) * self.capacity(at))
        self.at = at
        if self.chance_of_refusal() < self.random_share or self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Answers:
    pace: Pace
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)

    def served_per_second(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.served) / (until - since)

    def refused_share(self, since: float, until: float) -> float:
        refused = sum(since <= at < until for at in self.refused)
        return refused / max(1, refused + sum(since <= at < until for at in self.served))


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: the time that a loop would sleep passes at once."""

    jumped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.jumped += timeout or 0.0
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is simulated."""

    def __init__(self) -> None:
        self.selector = _JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.jumped


def simulated(
    service: Service,
    *,
    seconds: float,
    workers: int = 64,
    latency: float = 0.03,
    retry_after: float | None = None,
    max_per_second: float | None = None,
    demand_per_second: float = math.inf,
    seed: int = 7,
) -> Answers:
    """Let workers send one request after the other, each repeated until it is served; all in simulated time."""
    loop = SimulatedLoop()
    dice = random.Random(seed)
    pace = Pace(max_in_flight=workers, max_per_second=max_per_second, clock=loop.time, random=dice.random)
    answers = Answers(pace)

    async def worker() -> None:
        attempt = 0
        while loop.time() < seconds:
            await pace.admit_async()
            answers.sent.append(loop.time())
            await asyncio.sleep(latency * dice.uniform(0.2, 0.5))
            served = service.takes(loop.time())
            await asyncio.sleep(latency * dice.uniform(0.2, 0.5))
            (answers.served if served else answers.refused).append(loop.time())
            if served:
                attempt = 0
                pace.served()
                await asyncio.sleep(workers / demand_per_second)
            else:
                attempt += 1
                pace.throttled(retry_after)
                await asyncio.sleep(pace.backoff(attempt, retry_after))

    async def all_of_them() -> None:
        await asyncio.gather(*(worker() for _ in range(workers)))

    with contextlib.closing(loop):
        loop.run_until_complete(all_of_them())
    return answers


def steady(capacity: float, burst: float | None = None) -> Service:
    return Service(lambda at: capacity, capacity if burst is None else burst)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("capacity", "burst", "latency"), [(500, 500, 0.03), (500, 20, 0.03), (500, 500, 0.2), (120, 10, 0.03)]
)
def test_the_rate_is_close_to_what_the_service_takes_when_it_refuses_what_is_above(
    capacity: float, burst: float, latency: float, seed: int
) -> None:
    answers = simulated(steady(capacity, burst), seconds=40, workers=128, latency=latency, seed=seed)
    assert answers.served_per_second(15, 40) >= 0.85 * capacity
    assert answers.refused_share(15, 40) < 0.05


@pytest.mark.parametrize("capacity", [1, 8])
def test_a_service_that_takes_very_little_is_not_drowned_when_many_are_in_flight(capacity: float) -> None:
    answers = simulated(steady(capacity), seconds=120, workers=64)
    assert answers.served_per_second(20, 120) >= 0.6 * capacity
    assert answers.refused_share(20, 120) < 0.5


def test_a_higher_rate_is_found_when_the_service_takes_more() -> None:
    answers = simulated(Service(lambda at: 200 if at < 20 else 1000, 200), seconds=50)
    assert answers.served_per_second(10, 20) == pytest.approx(200, rel=0.15)
    assert answers.served_per_second(40, 50) >= 850


def test_the_rate_falls_when_the_service_takes_less() -> None:
    answers = simulated(Service(lambda at: 1000 if at < 20 else 200, 200), seconds=70)
    assert answers.served_per_second(30, 40) >= 170
    assert answers.refused_share(30, 40) < 0.1
    assert answers.refused_share(60, 70) < 0.05


@pytest.mark.parametrize(("share", "least"), [(0.05, 1000), (0.10, 500)])
def test_refusals_that_slowing_down_does_not_lessen_are_lived_with(share: float, least: float) -> None:
    dice = random.Random(5)
    unreliable = Service(lambda at: 1e9, 1e9, dice.random, random_share=share)
    answers = simulated(unreliable, seconds=40)
    # 64 workers with round trips of about 21 ms reach some 3,000 a second; halving per refusal would end at a crawl
    assert answers.served_per_second(30, 40) >= least


def test_overload_is_told_from_unreliability_when_there_are_both() -> None:
    dice = random.Random(6)
    answers = simulated(Service(lambda at: 500, 500, dice.random, random_share=0.03), seconds=60)
    assert answers.served_per_second(30, 60) >= 0.7 * 500
    assert answers.refused_share(30, 60) < 0.12


def test_nothing_is_held_back_when_nothing_was_refused() -> None:
    clock = Clock()
    pace = a_pace(clock)
    for _ in range(10_000):
        pace.admit()
        pace.served()
    assert clock.now == 1000.0
    assert pace.per_second is None


@settings(max_examples=40)
@given(
    max_per_second=st.floats(0.3, 400),
    capacity=st.one_of(st.just(1e9), st.floats(1, 500)),
    workers=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    window=st.floats(0.05, 5),
)
def test_the_owners_bound_is_kept_in_every_window(
    max_per_second: float, capacity: float, workers: int, seed: int, window: float
) -> None:
    answers = simulated(
        steady(capacity, 10), seconds=6, workers=workers, seed=seed, max_per_second=max_per_second, latency=0.05
    )
    allowed = math.ceil(window * max_per_second)
    for first, after in zip(answers.sent, answers.sent[allowed:], strict=False):
        assert after - first >= window - 1e-6
    assert answers.pace.per_second is None or answers.pace.per_second <= max_per_second


@given(batches=st.lists(st.integers(1, 256), min_size=1, max_size=50), max_per_second=st.floats(1, 5000))
def test_what_follows_a_batch_waits_for_all_of_it(batches: list[int], max_per_second: float) -> None:
    clock = Clock()
    pace = a_pace(clock, max_per_second=max_per_second)
    waits = [pace.reserve(requests) for requests in batches]
    assert waits == pytest.approx([sum(batches[:i]) / max_per_second for i in range(len(batches))])


def test_idle_time_is_not_saved_up_when_the_rate_is_bounded() -> None:
    clock = Clock()
    pace = a_pace(clock, max_per_second=10)
    pace.admit()
    clock.now += 3600
    assert [pace.reserve() for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])


def test_nobody_starts_before_the_time_that_the_service_asked_for() -> None:
    answers = simulated(steady(500), seconds=30, retry_after=2.0)
    for refused_at in answers.refused:
        assert not any(refused_at < at < refused_at + 2.0 - 1e-6 for at in answers.sent)
    assert len(answers.refused) > 1
    assert len(answers.served) > 3000


def test_who_waits_already_waits_longer_when_the_service_asks_for_a_pause_meanwhile() -> None:
    loop = SimulatedLoop()
    pace = Pace(max_in_flight=4, max_per_second=1, clock=loop.time)
    started: list[float] = []

    async def one() -> None:
        await pace.admit_async()
        started.append(loop.time())

    async def refused_at_half_a_second() -> None:
        await asyncio.sleep(0.5)
        pace.throttled(retry_after=10)

    async def all_of_them() -> None:
        await asyncio.gather(one(), one(), one(), refused_at_half_a_second())

    with contextlib.closing(loop):
        loop.run_until_complete(all_of_them())
    assert started[0] == 0.0
    assert 10.5 <= started[1] <= 12
    assert started[2] - started[1] >= 1 - 1e-6


@pytest.mark.parametrize("useless", [None, -1.0, 0.0, math.nan, math.inf])
def test_a_time_to_wait_that_is_none_is_passed_over(useless: float | None) -> None:
    clock = Clock()
    pace = a_pace(clock)
    pace.throttled(useless)
    assert pace.reserve() == 0.0
    assert math.isfinite(pace.backoff(1, useless))


def test_nobody_waits_when_the_service_asks_for_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pace = a_pace(clock)
    said = r"asks for a pause of 86,400 seconds \(Retry-After\), longer than the 120 that a request waits"
    for _ in range(3):
        pace.throttled(86_400)
    (told,) = caplog.messages
    assert re.search(said, told)
    for wait in (pace.admit, lambda: asyncio.run(pace.admit_async()), lambda: pace.backoff(1, 86_400)):
        with pytest.raises(LeftAlone, match=said):
            wait()
    assert clock.now == 1000.0
    assert issubclass(LeftAlone, TransientError)
    clock.now += 86_400 - LONGEST_PAUSE_SECONDS
    pace.admit()  # what is left of it is waited for
    assert clock.now == pytest.approx(1000.0 + 86_400)


def test_who_waits_already_gives_up_when_the_service_asks_for_a_day() -> None:
    clock = Clock()
    pace = a_pace(clock)
    pace.throttled(60)

    def another_is_refused(seconds: float) -> None:
        clock.sleep(seconds)
        pace.throttled(86_400)

    pace._sleep = another_is_refused
    with pytest.raises(LeftAlone):
        pace.admit()
    assert clock.now <= 1001.0


def test_one_early_refusal_does_not_start_a_bucket_at_a_crawl() -> None:
    clock = Clock()
    pace = a_pace(clock, in_flight=200)
    pace.throttled()
    assert pace.per_second is not None
    assert pace.per_second >= 200


@given(
    attempt=st.integers(1, 10_000),
    seed=st.integers(0, 10**6),
    retry_after=st.one_of(st.none(), st.floats(0.1, LONGEST_PAUSE_SECONDS)),
)
def test_backing_off_is_bounded_and_never_shorter_than_asked(
    attempt: int, seed: int, retry_after: float | None
) -> None:
    wait = a_pace(Clock(), seed=seed).backoff(attempt, retry_after)
    assert (retry_after or 0) <= wait <= (retry_after or 0) + LONGEST_BACKOFF_SECONDS


@pytest.mark.parametrize("retry_after", [None, 5.0])
def test_the_retries_of_many_are_spread_over_the_whole_time(retry_after: float | None) -> None:
    pace = a_pace(Clock())
    waits = sorted(pace.backoff(5, retry_after) - (retry_after or 0) for _ in range(2000))
    longest = 0.2 * 2**4
    tenths = [sum(i / 10 * longest <= wait < (i + 1) / 10 * longest for wait in waits) for i in range(10)]
    assert min(tenths) > 150
    assert sum(tenths) == 2000


def test_later_retries_wait_longer_until_the_cap() -> None:
    always_the_longest = Pace(max_in_flight=1, random=lambda: 1.0)
    waits = [always_the_longest.backoff(attempt) for attempt in range(1, 12)]
    assert waits[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert waits[-1] == LONGEST_BACKOFF_SECONDS


def test_counts_are_exact_when_many_threads_take_places_at_once() -> None:
    clock = Clock()
    pace = a_pace(clock, max_per_second=100)
    waits: list[float] = []

    def many() -> None:
        waits.extend([pace.reserve() for _ in range(500)])

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(waits) == pytest.approx([i / 100 for i in range(4000)])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_no_rate_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="max_per_second"):
        Pace(max_in_flight=1, max_per_second=bad)


def test_a_pace_with_nobody_in_flight_is_refused() -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        Pace(max_in_flight=0)
