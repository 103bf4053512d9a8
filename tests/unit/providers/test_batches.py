"""Batches are sent again only where the service did not act, and listings are left where they show too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudflux.domain.errors import BucketNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers.batches import (
    Answer,
    AnswerLost,
    Patience,
    ask,
    ask_in_batch,
    change_in_batch,
    look_at,
)
from cloudflux.providers.pace import Pace
from cloudflux.providers.workers import Workers

AT = datetime(2026, 11, 24, tzinfo=UTC)


def _state(key: str) -> ObjectState:
    return ObjectState(ObjectRef(Provider.AZURE, "data", key), 1, "Hot", key, AT, AT)


class _Waits:
    """Remembers how long it was told to wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> _Waits:
    return _Waits()


@pytest.fixture
def pace() -> Pace:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return Pace(max_in_flight=4, clock=lambda: now[0], random=lambda: 0.5, sleep=sleep)


def _answers(*steps: int | Exception) -> Callable[..., Answer]:
    """Answer with these statuses, one after another."""
    left = list(steps)

    def send(*_: Any) -> Answer:
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return Answer(step, {"retry-after": "7"} if step == 503 else {})

    return send


def test_a_question_is_repeated_until_it_is_answered(pace: Pace, waits: _Waits) -> None:
    send = _answers(503, AnswerLost("reset"), 500, 404)
    assert ask(send, pace, Patience(4, waits), "it").status == 404
    assert len(waits.seconds) == 3
    assert waits.seconds[0] >= 7  # as the service asked


def test_a_question_is_given_up_when_patience_ends(pace: Pace, waits: _Waits) -> None:
    with pytest.raises(TransientError, match=r"it could not be had in 3 attempts .*reset"):
        ask(_answers(503, 503, AnswerLost("reset")), pace, Patience(3, waits), "it")


DAY = Answer(429, {"retry-after": "86400"})


def test_everything_is_given_up_at_once_when_the_service_asks_for_a_day(pace: Pace, waits: _Waits) -> None:
    said = "asks for a pause of 86,400 seconds"
    with pytest.raises(TransientError, match=f"it could not be had: .*{said}"):
        ask(lambda: DAY, pace, Patience(4, waits), "it")
    assert waits.seconds == []
    # nor is anything sent that the pause concerns
    with pytest.raises(TransientError, match=f"it could not be had: .*{said}"):
        ask(_answers(), pace, Patience(4, waits), "it")
    assert ask_in_batch("ab", _answers(), pace, Patience(4, waits)) == [None, None]
    assert set(_change(_Service(), pace).values()) == {ChangeOutcome.UNAVAILABLE}


def test_what_was_served_counts_when_the_service_asks_for_a_day(pace: Pace, waits: _Waits) -> None:
    answers = ask_in_batch("abc", lambda _: [Answer(200, {}), DAY, Answer(404, {})], pace, Patience(4, waits))
    assert [answer and answer.status for answer in answers] == [200, None, 404]
    changes = [TierChange(_state(key), "Cool") for key in "ab"]
    results = change_in_batch(
        changes,
        send=lambda _: [Answer(200, {}), DAY],
        read=_read,
        look=lambda _: [],
        pace=Pace(max_in_flight=4),
        patience=Patience(4, waits),
    )
    assert [result.outcome for result in results] == [ChangeOutcome.CHANGED, ChangeOutcome.UNAVAILABLE]
    assert "it was not served: the service asks for a pause of 86,400 seconds" in results[1].detail
    assert waits.seconds == []


class _Service:
    """Moves objects, and answers as it is told: per batch, what becomes of each key."""

    def __init__(self, *batches: dict[str, int | str] | Exception | Answer) -> None:
        self.batches = list(batches)
        self.sent: list[list[str]] = []
        self.moved: list[str] = []
        self.looked: list[list[str]] = []

    def send(self, changes: Sequence[TierChange]) -> Answer | list[Answer]:
        keys = [change.ref.key for change in changes]
        self.sent.append(keys)
        wanted = self.batches.pop(0) if self.batches else {}
        if isinstance(wanted, (Exception, Answer)):
            if isinstance(wanted, Answer):
                return wanted
            self.moved += keys[:2]  # and the answer is lost
            raise wanted
        answers = []
        for key in keys:
            status = wanted.get(key, 200)
            if status == "500-acted":
                status = 500
                self.moved.append(key)
            elif status == 200:
                self.moved.append(key)
            answers.append(Answer(int(status), {}))
        return answers

    def look(self, changes: Sequence[TierChange]) -> list[TierChangeResult | None]:
        self.looked.append([change.ref.key for change in changes])
        return [
            TierChangeResult(change.ref, ChangeOutcome.CHANGED, "lost") if change.ref.key in self.moved else None
            for change in changes
        ]


def _read(change: TierChange, answer: Answer) -> TierChangeResult:
    outcome = {200: ChangeOutcome.CHANGED, 404: ChangeOutcome.NOT_FOUND}.get(answer.status, ChangeOutcome.ERROR)
    return TierChangeResult(change.ref, outcome)


def _change(service: _Service, pace: Pace, attempts: int = 4) -> dict[str, ChangeOutcome]:
    changes = [TierChange(_state(key), "Cool") for key in "abcd"]
    results = change_in_batch(
        changes,
        send=service.send,
        read=_read,
        look=service.look,
        pace=pace,
        patience=Patience(attempts, lambda seconds: None),
    )
    assert [result.ref.key for result in results] == list("abcd")
    return {result.ref.key: result.outcome for result in results}


def test_only_throttled_changes_are_sent_again(pace: Pace) -> None:
    service = _Service({"b": 503, "c": 404, "d": 429}, {"d": 503})
    assert _change(service, pace) == {
        "a": ChangeOutcome.CHANGED,
        "b": ChangeOutcome.CHANGED,
        "c": ChangeOutcome.NOT_FOUND,
        "d": ChangeOutcome.CHANGED,
    }
    assert service.sent == [list("abcd"), ["b", "d"], ["d"]]
    assert service.looked == []


def test_a_change_of_doubtful_answer_is_looked_at_before_it_is_sent_again(pace: Pace) -> None:
    service = _Service({"b": "500-acted", "c": 500})
    assert set(_change(service, pace).values()) == {ChangeOutcome.CHANGED}
    assert service.looked == [["b", "c"]]
    assert service.sent == [list("abcd"), ["c"]]
    assert sorted(service.moved) == list("abcd")  # each once


def test_a_lost_batch_is_looked_at_and_only_the_rest_is_sent_again(pace: Pace) -> None:
    service = _Service(AnswerLost("reset"))
    assert set(_change(service, pace).values()) == {ChangeOutcome.CHANGED}
    assert service.looked == [list("abcd")]
    assert service.sent == [list("abcd"), ["c", "d"]]
    assert sorted(service.moved) == list("abcd")


def test_one_answer_to_the_whole_batch_is_that_of_each(pace: Pace) -> None:
    assert set(_change(_Service(Answer(403, {})), pace).values()) == {ChangeOutcome.ERROR}
    service = _Service(Answer(503, {}))
    assert set(_change(service, pace).values()) == {ChangeOutcome.CHANGED}
    assert service.sent == [list("abcd")] * 2


def test_the_others_keep_their_outcomes_when_patience_ends_for_some(pace: Pace) -> None:
    service = _Service({"b": 503, "c": 500}, {"b": 503, "c": 500})
    assert _change(service, pace, attempts=2) == {
        "a": ChangeOutcome.CHANGED,
        "b": ChangeOutcome.UNAVAILABLE,
        "c": ChangeOutcome.UNAVAILABLE,
        "d": ChangeOutcome.CHANGED,
    }


def test_questions_of_a_batch_are_repeated_and_told_apart(pace: Pace) -> None:
    steps: list[Any] = [[Answer(200, {}), Answer(503, {}), Answer(404, {})], AnswerLost("reset"), [Answer(204, {})]]
    sent = []

    def send(keys: Sequence[str]) -> list[Answer]:
        sent.append(list(keys))
        step = steps.pop(0)
        if isinstance(step, Exception):
            raise step
        answers: list[Answer] = step
        return answers

    answers = ask_in_batch(list("abc"), send, pace, Patience(3, lambda seconds: None))
    assert [answer.status if answer else None for answer in answers] == [200, 204, 404]
    assert sent == [list("abc"), ["b"], ["b"]]
    nothing = ask_in_batch(["a"], _raise(AnswerLost("reset")), pace, Patience(2, lambda seconds: None))
    assert nothing == [None]


def _raise(error: Exception) -> Callable[..., Any]:
    def send(*_: Any) -> Any:
        raise error

    return send


class _Bucket:
    """A bucket that counts how it is looked at."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = sorted(keys)
        self.listed = 0
        self.pages = 0
        self.looks = 0

    def list_from(self, start: str, prefix: str, limit: int) -> tuple[list[ObjectState], bool]:
        rest = [key for key in self.keys if key >= start and key.startswith(prefix)]
        self.pages += 1
        self.listed += len(rest[:limit])
        return [_state(key) for key in rest[:limit]], len(rest) > limit

    def look(self, keys: Sequence[str]) -> list[ObjectState | Unseen | None]:
        self.looks += 1
        return [_state(key) if key in self.keys else None for key in keys]

    def look_at(self, wanted: Sequence[str], **overrides: Any) -> dict[str, ObjectState | Unseen | None]:
        settings: dict[str, Any] = {
            "ref_of": lambda key: ObjectRef(Provider.AZURE, "data", key),
            "list_from": self.list_from,
            "look": self.look,
            "page_objects": 1000,
            "look_batch": 1,
            "workers": Workers(4),
        }
        return look_at(wanted, **{**settings, **overrides})


def test_as_many_neighbours_as_a_page_has_are_one_request() -> None:
    bucket = _Bucket([f"n/{number:05}" for number in range(5000)])
    wanted = bucket.keys[1000:2000]
    assert bucket.look_at(wanted) == {key: _state(key) for key in wanted}
    assert (bucket.pages, bucket.listed, bucket.looks) == (1, 1000, 0)


def test_neighbours_are_listed(pace: Pace) -> None:
    bucket = _Bucket([f"n/{number:05}" for number in range(5000)])
    wanted = bucket.keys[1000:3000]
    assert bucket.look_at(wanted) == {key: _state(key) for key in wanted}
    assert (bucket.looks, bucket.listed) == (0, 2000)
    assert bucket.pages <= 8


def test_gaps_between_neighbours_are_skipped() -> None:
    bucket = _Bucket([f"{folder}/{number:05}" for folder in "abc" for number in range(3000)])
    wanted = [f"a/{number:05}" for number in range(100)] + [f"c/{number:05}" for number in range(100)]
    assert bucket.look_at(wanted).keys() == set(wanted)
    assert bucket.listed <= 500
    assert bucket.looks <= 8


def test_what_lies_far_apart_is_looked_at_one_by_one() -> None:
    bucket = _Bucket([f"n/{number:06}" for number in range(50_000)])
    wanted = bucket.keys[::500]
    assert bucket.look_at(wanted).keys() == set(wanted)
    assert bucket.listed <= 200
    assert bucket.looks >= 95


def test_only_a_look_tells_that_an_object_is_not_there() -> None:
    bucket = _Bucket([f"n/{number:03}" for number in range(100) if number % 10])
    found = bucket.look_at([f"n/{number:03}" for number in range(100)], look_batch=3)
    assert {key for key, state in found.items() if state is None} == {f"n/{number:03}" for number in range(0, 100, 10)}
    assert bucket.looks == 4


def test_objects_are_looked_at_when_the_service_ignores_where_to_start() -> None:
    bucket = _Bucket([f"n/{number:05}" for number in range(5000)])

    def from_the_beginning(start: str, prefix: str, limit: int) -> tuple[list[ObjectState], bool]:
        return bucket.list_from("", prefix, limit)

    wanted = bucket.keys[2950:3050]
    assert bucket.look_at(wanted, list_from=from_the_beginning) == {key: _state(key) for key in wanted}
    assert bucket.looks == 100


def test_objects_are_looked_at_when_listing_is_denied() -> None:
    bucket = _Bucket([f"n/{number}" for number in range(20)])
    found = bucket.look_at(bucket.keys, list_from=_raise(TerminalError("no right to list")))
    assert (found.keys(), bucket.looks) == (set(bucket.keys), 20)


def test_nothing_is_known_of_objects_when_nothing_is_served() -> None:
    bucket = _Bucket([f"n/{number}" for number in range(20)])
    asked: list[str] = []

    def busy(keys: Sequence[str]) -> list[ObjectState | Unseen | None]:
        asked.extend(keys)
        return [Unseen(ObjectRef(Provider.AZURE, "data", key), "busy", passing=True) for key in keys]

    found = bucket.look_at(bucket.keys, list_from=_raise(TransientError("busy")), look=busy)
    assert found.keys() == set(bucket.keys)
    assert all(isinstance(state, Unseen) and state.passing and state.ref.key == key for key, state in found.items())
    assert len(asked) <= 4  # not each of them


def test_objects_are_looked_at_when_only_their_listing_is_not_served() -> None:
    bucket = _Bucket([f"n/{number}" for number in range(20)])
    found = bucket.look_at(bucket.keys, list_from=_raise(TransientError("500: a name that XML cannot write")))
    assert found == {key: _state(key) for key in bucket.keys}


def test_the_error_is_raised_when_there_is_no_bucket() -> None:
    with pytest.raises(BucketNotFound):
        _Bucket([]).look_at([str(number) for number in range(20)], list_from=_raise(BucketNotFound("gone")))
