"""Many objects with few requests: looks by listing, changes in batches, and what becomes of those that got no answer.

A service that answers 503 or 429 has not acted: the same is sent again, after a pause. When no answer came, or a 500 or
504, it may have acted: what was to change is looked at first, and only what is as before is sent again.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from typing import Any, Final, NamedTuple

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CredentialsRefused,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.providers.pace import LeftAlone, Pace
from cloudflux.providers.workers import Workers

NOT_ACTED_ON: Final = frozenset({429, 503})
UNCERTAIN: Final = frozenset({408, 500, 502, 504})
EVERYTHING_REFUSED: Final = (CredentialsRefused, BucketNotFound, AccountRefused)
"""Errors that concern more than one object."""

WANTED_PER_LISTED: Final = 1 / 20
"""A listing goes on while at least so many of its objects are wanted: a page of 1,000 costs what 13 looks cost."""
_FEW: Final = 8
"""So many objects are looked at one by one rather than listed for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered."""

    status: int
    headers: Mapping[str, str]
    """Found by names in any case."""
    content: Any = b""

    @property
    def retry_after(self) -> float | None:
        """For how many seconds the service wants to be left alone; None when it does not say."""
        try:
            return float(self.headers.get("retry-after") or "")
        except ValueError:  # nothing, or a date
            return None


class AnswerLost(Exception):
    """No whole answer came: whether the service acted is not known."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is sent until one is answered."""

    attempts: int = 8
    sleep: Callable[[float], None] = time.sleep

    def wait(self, pace: Pace, attempt: int, retry_after: float | None) -> None:
        """Wait before the retry that follows the ``attempt``-th attempt."""
        self.sleep(pace.backoff(attempt, retry_after))


def ask(send: Callable[[], Answer], pace: Pace, patience: Patience, what: str) -> Answer:
    """Send a request that changes nothing until it is answered.

    Raises ``TransientError`` when it is not within the client's patience; ``what`` names the thing asked for.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            pace.admit()
        except LeftAlone as exc:
            raise TransientError(f"{what} could not be had: {exc}") from exc
        retry_after = None
        try:
            answer = send()
        except AnswerLost as exc:
            why = str(exc)
        else:
            if answer.status not in NOT_ACTED_ON | UNCERTAIN:
                pace.served()
                return answer
            retry_after = answer.retry_after
            why = f"it answered {answer.status}"
            pace.throttled(retry_after)
        if attempt >= patience.attempts:
            raise TransientError(f"{what} could not be had in {attempt} attempts ({why}): try again later")
        try:
            patience.wait(pace, attempt, retry_after)
        except LeftAlone as exc:
            raise TransientError(f"{what} could not be had: {exc}") from exc


def ask_in_batch(
    wanted: Sequence[str],
    send: Callable[[Sequence[str]], Answer | Sequence[Answer]],
    pace: Pace,
    patience: Patience,
) -> list[Answer | None]:
    """Send requests that may be repeated as one batch, one for each name, until each is answered; None: it is not.

    An answer to the batch as a whole is the answer to each.
    """
    answers: dict[int, Answer | None] = {}
    pending = list(range(len(wanted)))
    with suppress(LeftAlone):  # what has no answer by then is given as None, like all that is not served
        for attempt in range(1, patience.attempts + 1):
            pace.admit(len(pending))
            sent = _Sent([], [])
            try:
                answered = send([wanted[number] for number in pending])
            except AnswerLost:
                sent.again = pending
            else:
                answers.update(sent.sort(pending, answered, pace))
            pending = sent.again + sent.unknown
            if not pending:
                break
            if attempt < patience.attempts:
                patience.wait(pace, attempt, sent.retry_after)
    return [answers.get(number) for number in range(len(wanted))]


def change_in_batch(
    changes: Sequence[TierChange],
    *,
    send: Callable[[Sequence[TierChange]], Answer | Sequence[Answer]],
    read: Callable[[TierChange, Answer], TierChangeResult],
    look: Callable[[Sequence[TierChange]], Sequence[TierChangeResult | None]],
    pace: Pace,
    patience: Patience,
) -> list[TierChangeResult]:
    """Send the changes as one batch, and what the service did not act on again; one result for each, in order.

    ``send`` gives an answer for each change, or a single one when the batch was answered as a whole; ``read`` makes a
    result of an answer; ``look`` tells what became of changes whose answer was lost, None for one that was not made.
    """
    results: dict[int, TierChangeResult] = {}
    pending = list(range(len(changes)))
    attempt = 0
    while pending:
        attempt += 1
        try:
            pace.admit(len(pending))
        except LeftAlone as exc:
            results.update(_unserved(changes, pending, f": {exc}"))
            break
        sent = _Sent([], [])
        try:
            answered = send([changes[number] for number in pending])
        except AnswerLost as exc:
            sent.unknown, sent.why = pending, str(exc)
        else:
            for number, answer in sent.sort(pending, answered, pace):
                results[number] = read(changes[number], answer)
        if sent.unknown:
            for number, found in zip(sent.unknown, look([changes[number] for number in sent.unknown]), strict=True):
                if found is None:
                    sent.again.append(number)
                else:
                    results[number] = found
        if sent.again and attempt >= patience.attempts:
            results.update(_unserved(changes, sent.again, f" in {attempt} attempts ({sent.why})"))
            break
        if sent.again:
            try:
                patience.wait(pace, attempt, sent.retry_after)
            except LeftAlone as exc:
                results.update(_unserved(changes, sent.again, f": {exc}"))
                break
        pending = sent.again
    return [results[number] for number in range(len(changes))]


def _unserved(
    changes: Sequence[TierChange], numbers: Iterable[int], why: str
) -> Iterator[tuple[int, TierChangeResult]]:
    for number in numbers:
        yield number, TierChangeResult(changes[number].ref, ChangeOutcome.UNAVAILABLE, f"it was not served{why}")


@dataclass(slots=True)
class _Sent:
    """What one sending of a batch has left open."""

    again: list[int]
    unknown: list[int]
    why: str = ""
    retry_after: float | None = None

    def sort(self, pending: Sequence[int], answered: Answer | Sequence[Answer], pace: Pace) -> list[tuple[int, Answer]]:
        """Give the answers that are final, and tell the pace how many were."""
        whole = isinstance(answered, Answer)
        answers = [answered] * len(pending) if isinstance(answered, Answer) else answered
        final = []
        for number, answer in zip(pending, answers, strict=True):
            if answer.status in NOT_ACTED_ON:
                self.again.append(number)
            elif answer.status in UNCERTAIN:
                self.unknown.append(number)
            else:
                final.append((number, answer))
                continue
            self.why = f"it was answered with {answer.status}"
            if self.retry_after is None:
                self.retry_after = answer.retry_after
        if final:
            pace.served(len(final))
        refused = len(pending) - len(final)
        for _ in range(min(refused, 1) if whole else refused):
            pace.throttled(self.retry_after)
        return final


Listed = tuple[Sequence[ObjectState], bool]
"""A page of a listing, and whether more follows."""


def look_in_each_bucket(
    refs: Sequence[ObjectRef], look: Callable[[str, Sequence[str]], Mapping[str, ObjectState | Unseen | None]]
) -> list[ObjectState | Unseen | None]:
    """Look at objects of several buckets, in order; ``look`` gives the states of one bucket's keys, all of them."""
    keys: dict[str, list[str]] = {}
    for ref in refs:
        keys.setdefault(ref.bucket, []).append(ref.key)
    found = {bucket: look(bucket, wanted) for bucket, wanted in keys.items()}
    return [found[ref.bucket][ref.key] for ref in refs]


def look_at(
    keys: Iterable[str],
    *,
    ref_of: Callable[[str], ObjectRef],
    list_from: Callable[[str, str, int], Listed],
    look: Callable[[Sequence[str]], Sequence[ObjectState | Unseen | None]],
    page_objects: int,
    look_batch: int,
    workers: Workers,
) -> dict[str, ObjectState | Unseen | None]:
    """Look at the objects of one bucket by listing where they lie close together, one by one elsewhere.

    ``list_from`` lists at most so many objects of a prefix from a key on; ``look`` looks at ``look_batch`` objects.
    What a listing does not show is looked at: only that can tell that an object is not there.
    """
    wanted = sorted(set(keys))
    found: dict[str, ObjectState | Unseen | None] = {}

    def scan(chunk: Sequence[str], pages: int | None = None) -> _Scanned:
        return _scan(chunk, list_from, look, ref_of, page_objects, pages=pages)

    # Where all lie next to one another a page has them; where there is something between, more are listed at once.
    behind: list[Sequence[str]] = []
    for scanned in workers.map(partial(scan, pages=1), _cut(wanted, page_objects)):
        found.update(scanned.found)
        behind += _cut(scanned.rest, page_objects // 4)
    for scanned in workers.map(scan, behind):
        found.update(scanned.found)
    batches = _cut([key for key in wanted if key not in found], look_batch)
    for batch, states in zip(batches, workers.map(look, batches), strict=True):
        found.update(zip(batch, states, strict=True))
    return found


def _cut(keys: Sequence[str], most: int) -> list[Sequence[str]]:
    return [keys[first : first + most] for first in range(0, len(keys), most)]


class _Scanned(NamedTuple):
    """What listing has shown, and which keys it did not come to though it may pay for them."""

    found: Mapping[str, ObjectState | Unseen]
    rest: Sequence[str] = ()


def _scan(
    wanted: Sequence[str],
    list_from: Callable[[str, str, int], Listed],
    look: Callable[[Sequence[str]], Sequence[ObjectState | Unseen | None]],
    ref_of: Callable[[str], ObjectRef],
    page_objects: int,
    *,
    pages: int | None,
) -> _Scanned:
    """List for sorted keys, skipping the gaps between them, until the listing shows too few of them; so many pages."""
    found: dict[str, ObjectState | Unseen] = {}
    names = frozenset(wanted)
    next_one = 0
    limit = len(wanted)
    while len(wanted) - next_one >= _FEW:
        if pages == 0:
            return _Scanned(found, wanted[next_one:])
        prefix = commonprefix((wanted[next_one], wanted[-1]))  # noqa: RUF071  # of keys, which are no paths
        try:
            page, more = list_from(wanted[next_one], prefix, min(limit, page_objects))
        except EVERYTHING_REFUSED:
            raise
        except TerminalError:
            break  # who may not list may still look
        except TransientError as exc:
            (first,) = look(wanted[next_one : next_one + 1])
            if not isinstance(first, Unseen) or not first.passing:
                break  # objects are served: it is their listing that is not, as where a name cannot be written in XML
            # to ask for each of them, as patiently, would take hours while nothing is served
            return _Scanned({key: found.get(key) or Unseen(ref_of(key), str(exc), passing=True) for key in wanted})
        hits = [state for state in page if state.ref.key in names]
        found.update((state.ref.key, state) for state in hits)
        if not more or not page:
            break
        passed = bisect_right(wanted, page[-1].ref.key, next_one)
        if passed == next_one or len(hits) < WANTED_PER_LISTED * len(page):
            break
        next_one = passed
        limit = (len(wanted) - next_one) * len(page) // len(hits) + 1
        pages = None if pages is None else pages - 1
    return _Scanned(found)


def unavailable_or_refused(change: TierChange, unseen: Unseen) -> TierChangeResult:
    """Give the result of a change whose object could not be looked at."""
    outcome = ChangeOutcome.UNAVAILABLE if unseen.passing else ChangeOutcome.ERROR
    return TierChangeResult(change.ref, outcome, unseen.reason)
