"""How fast requests may go to one bucket: bounded by its owner, found by trying, slower when the service says so.

Nothing is held back before the first refusal, but by the owner's own bound. From then on requests leave evenly spaced
at a rate that follows the share of them that is refused: a window of answers with refusals cuts the rate by that
share and a little more, so that it lands just below what the service takes; every answer raises it a little, the
faster the longer nothing was cut, as CUBIC does for TCP (RFC 9438), so that a capacity that has grown is found within
seconds and one that has not is left alone most of the time.

Refusals that do not get fewer when the rate falls (a service that fails one request in ten whatever one does) say
nothing about its capacity. What was refused right before and right after each of the last cuts is compared: as long as
cutting does not help, only more refusals than usual cut again, and now and then a cut to see whether that still holds.
"""

import asyncio
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from cloudflux.domain.errors import TransientError

WINDOW_SECONDS = 0.25
"""Answers are judged together for at least this long ..."""
WINDOW_ANSWERS = 50
"""... and until there are so many of them, ..."""
PATIENCE_SECONDS = 2.0
"""... or this time has passed, ..."""
PLAIN_REFUSALS = 10
"""... or so many were refused that there is no doubt: these, and a third of all."""
SETTLING_SECONDS = 0.25
"""What is answered so soon after a cut was sent before it, and tells nothing about the new rate."""
BACKGROUND = 0.2
"""The largest share of refusals that may have nothing to do with the rate."""
CUTS_COMPARED = 5
CUTS_HELP = 0.4
"""Cuts help when they leave less than this part of the share of refusals that led to them."""
EVIDENCE_SECONDS = 5.0
"""For so long it stays unquestioned that cuts do not help."""
CUT_BELOW = 0.04
"""How far below the rate just served a cut goes, so that the queue of the service runs empty."""
DEEPEST_CUT = 0.7
GROWTH_PER_SECOND = 0.01
GROWTH_PER_SECOND_CUBED = 0.0045
"""Three seconds after a cut the rate grows by 5 % in a second, after six by 17 %."""
USUAL_LATENCY_SECONDS = 0.25
SLOWEST_PER_SECOND = 0.5
LONGEST_SLEEP_SECONDS = 1.0
"""Who waits looks up so often: the rate may have risen, or the service may have asked for a pause."""
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 20.0
"""The cap of the AWS SDKs' own retries."""
LONGEST_PAUSE_SECONDS = 120.0
"""Who is asked to wait for longer gives up at once: a worker's slot is not held for it, Airflow tries again later."""


_log = logging.getLogger(__name__)


class LeftAlone(TransientError):
    """The service asked for a longer pause than a request waits for."""


class Pace:
    """How fast requests may go to one bucket; one instance is shared by all threads and coroutines that send there."""

    def __init__(
        self,
        *,
        max_in_flight: int,
        max_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        if max_per_second is not None and not (max_per_second > 0 and math.isfinite(max_per_second)):
            raise ValueError(f"max_per_second must be a positive number, not {max_per_second}")
        self.max_in_flight = max_in_flight
        self.max_per_second = max_per_second
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._lock = threading.Lock()
        now = clock()
        self._found: float | None = None
        self._taken = 0.0
        self._reached = 0.0
        """How far in the line of all places taken the turn has come."""
        self._advanced_at = now
        self._paused_until = now
        self._cut_at = now
        self._grown_at = now
        self._window_at = now
        self._served = 0
        self._refused = 0
        self._served_per_second: float | None = None
        self._settled_at = now
        self._before_cut = (1, 1)
        self._judges_cut = False
        self._evidence_seconds = EVIDENCE_SECONDS
        self._cuts: deque[tuple[int, int, int, int]] = deque(maxlen=CUTS_COMPARED)
        """What was refused, of how many answers, right before and right after each of the last cuts."""

    @property
    def per_second(self) -> float | None:
        """The rate that it has found; None while nothing has been refused."""
        with self._lock:
            return self._found

    def reserve(self, requests: int = 1) -> float:
        """Take a place in the stream: seconds to wait before sending, as things stand now.

        Places are spaced by the rate: in any `s` seconds there start at most `ceil(s * max_per_second)` single
        requests. A batch takes its places at once, and what comes after it waits for all of them. `admit` also learns
        of what changes while it waits.
        """
        with self._lock:
            return self._wait(self._take(requests))

    def admit(self, requests: int = 1) -> None:
        """Block until the requests may be sent. Raises ``LeftAlone`` while the service wants none for long."""
        with self._lock:
            self._refuse_long_pause()
            place = self._take(requests)
            wait = self._wait(place)
        while wait > 0:
            self._sleep(min(wait, LONGEST_SLEEP_SECONDS))
            with self._lock:
                self._refuse_long_pause()
                wait = self._wait(place)

    async def admit_async(self, requests: int = 1) -> None:
        """Let other coroutines run until the requests may be sent. Raises as ``admit`` does."""
        with self._lock:
            self._refuse_long_pause()
            place = self._take(requests)
            wait = self._wait(place)
        while wait > 0:
            await asyncio.sleep(min(wait, LONGEST_SLEEP_SECONDS))
            with self._lock:
                self._refuse_long_pause()
                wait = self._wait(place)

    def served(self, requests: int = 1) -> None:
        """The service answered: try a little more."""
        with self._lock:
            now = self._advance()
            self._grow(now)
            if now >= self._settled_at:
                self._served += requests
                self._judge(now)

    def throttled(self, retry_after: float | None = None) -> None:
        """503 SlowDown, 429, 500s: slow down, and let nothing start for as long as the service asked (seconds)."""
        with self._lock:
            now = self._advance()
            if now >= self._settled_at:
                self._refused += 1
            if retry_after is not None and retry_after > 0 and math.isfinite(retry_after):
                if retry_after > LONGEST_PAUSE_SECONDS >= self._paused_until - now:  # the first of many to hear of it
                    _log.warning("what is left goes on later: %s", _left_alone(retry_after))
                self._paused_until = max(self._paused_until, now + retry_after)
            if self._found is None:
                self._find_first(now)
            elif now >= self._settled_at:
                self._judge(now)

    def backoff(self, attempt: int, retry_after: float | None = None) -> float:
        """Give the seconds to wait before the `attempt`-th retry (from 1) of a request: exponential, with full jitter.

        At least `retry_after`, and then spread as well: the service named one moment to all who were refused.
        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        Raises ``LeftAlone`` when that is longer than a request waits for.
        """
        if attempt < 1:
            raise ValueError(f"retries are counted from 1, not {attempt}")
        longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 30))
        asked = retry_after if retry_after is not None and retry_after > 0 and math.isfinite(retry_after) else 0.0
        if asked > LONGEST_PAUSE_SECONDS:
            raise _left_alone(asked)
        return asked + self._random() * longest

    def _refuse_long_pause(self) -> None:
        pause = self._paused_until - self._clock()
        if pause > LONGEST_PAUSE_SECONDS:
            raise _left_alone(pause)

    def _take(self, requests: int) -> float:
        """Give a place at the end of the line."""
        self._advance()
        place = self._taken
        self._taken += requests
        return place

    def _wait(self, place: float) -> float:
        now = self._advance()
        pause = max(0.0, self._paused_until - now)
        rate = self._rate()
        # Places are sums of rates by seconds: what is left below a billionth of a request is rounding.
        if rate is None or place - self._reached < 1e-9:
            return pause
        return pause + (place - self._reached) / rate

    def _advance(self) -> float:
        """Let the line move on to now. Nothing is saved up while nobody waits, and nothing moves in a pause."""
        now = self._clock()
        if now >= self._paused_until:
            rate = self._rate()
            moved = math.inf if rate is None else rate * max(0.0, now - max(self._advanced_at, self._paused_until))
            self._reached = min(self._reached + moved, self._taken)
        self._advanced_at = now
        return now

    def _rate(self) -> float | None:
        return self.max_per_second if self._found is None else self._found

    def _find_first(self, now: float) -> None:
        """Take the rate of the answers so far as the first guess, and judge anew from here.

        The guess is at least what those in flight make when each takes `USUAL_LATENCY_SECONDS`: one early refusal must
        not start a big bucket at a crawl. A service that takes less says so in the next windows.
        """
        elapsed = max(now - self._window_at, 0.1)
        usual = self.max_in_flight / USUAL_LATENCY_SECONDS
        guess = max((self._served + self._refused) / elapsed, self._served_per_second or 0.0, usual)
        self._found = self._bounded(guess)
        self._cut_at = self._grown_at = now
        self._open_window(now)

    def _grow(self, now: float) -> None:
        if self._found is None or now < self._paused_until:
            self._grown_at = now
            return
        # A rate that the client does not use has not been tried: it stays below twice of what was served.
        if self._served_per_second is not None and self._found > 2 * self._served_per_second:
            self._grown_at = now
            return
        seconds = min(now - self._grown_at, 1 / SLOWEST_PER_SECOND)
        since_cut = min(now - self._cut_at, 10.0)
        self._found = self._bounded(
            self._found * math.exp((GROWTH_PER_SECOND + GROWTH_PER_SECOND_CUBED * since_cut**2) * seconds)
        )
        self._grown_at = now

    def _judge(self, now: float) -> None:
        """Close a window that is long enough: cut the rate if more was refused in it than is at any rate."""
        elapsed = now - self._window_at
        answers, refused = self._served + self._refused, self._refused
        plain = refused >= PLAIN_REFUSALS and refused > answers / 3
        if elapsed < WINDOW_SECONDS or (answers < WINDOW_ANSWERS and elapsed < PATIENCE_SECONDS and not plain):
            return
        self._served_per_second = self._served / elapsed
        if self._judges_cut:
            self._compare_cut(refused, answers)
        usual = answers * self._refused_anyway(now)
        self._open_window(now)
        # Two standard deviations of a Poisson count: chance alone must not cut the rate.
        if self._found is not None and refused > usual + 2 * math.sqrt(usual):
            share = refused / answers
            # What the service did serve it takes again.
            lowered = max(self._found * (1 - min(DEEPEST_CUT, share + CUT_BELOW)), self._served_per_second)
            self._found = self._bounded(min(lowered, self._found * (1 - CUT_BELOW)))
            self._cut_at = now
            self._before_cut = (refused, answers)
            # A cut from plain overload leads to where refusals can be compared, and is no comparison itself.
            self._judges_cut = share <= BACKGROUND
            self._settled_at = now + SETTLING_SECONDS
            self._open_window(self._settled_at)

    def _compare_cut(self, refused: int, answers: int) -> None:
        """Note what a cut left of the refusals; the longer cuts do not help, the longer this is taken for granted."""
        self._judges_cut = False
        refused_before, before = self._before_cut
        helped = refused / answers < CUTS_HELP * refused_before / before
        self._evidence_seconds = EVIDENCE_SECONDS if helped else min(2 * self._evidence_seconds, 8 * EVIDENCE_SECONDS)
        self._cuts.append((refused_before, before, refused, answers))

    def _refused_anyway(self, now: float) -> float:
        """Tell which share is refused at any rate: what the last cuts did not lessen."""
        if len(self._cuts) < 3 or now - self._cut_at > self._evidence_seconds:
            return 0.0
        refused_before, before, refused_after, after = (sum(column) for column in zip(*self._cuts, strict=True))
        share = refused_after / after
        return 0.0 if share < CUTS_HELP * refused_before / before else min(share, BACKGROUND)

    def _open_window(self, at: float) -> None:
        self._window_at = at
        self._served = 0
        self._refused = 0

    def _bounded(self, rate: float) -> float:
        rate = max(rate, SLOWEST_PER_SECOND)
        return rate if self.max_per_second is None else min(rate, self.max_per_second)


def _left_alone(seconds: float) -> LeftAlone:
    return LeftAlone(
        f"the service asks for a pause of {seconds:,.0f} seconds (Retry-After), longer than the "
        f"{LONGEST_PAUSE_SECONDS:.0f} that a request waits: try again then"
    )
