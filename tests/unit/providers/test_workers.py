"""The threads of a client: shared by all who ask, and never waiting for themselves."""

from __future__ import annotations

import threading
import time

import pytest

from cloudflux.providers.workers import Workers

_LONG_S = 30
"""Longer than any of these takes: who waits for so long waits for ever."""


class _Busy:
    """Counts how many calls are under way at once."""

    def __init__(self, parties: int) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._meet = threading.Barrier(parties)

    def __call__(self, number: int) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._meet.wait(_LONG_S)  # none goes on before so many are under way
        with self._lock:
            self._now -= 1
        return number * number


def test_results_come_in_order_and_no_more_run_at_once_than_allowed() -> None:
    busy = _Busy(3)
    assert Workers(3).map(busy, range(12)) == [number * number for number in range(12)]
    assert busy.most == 3


def test_who_asks_at_once_shares_the_threads() -> None:
    workers, busy = Workers(4), _Busy(4)
    found: dict[int, list[int]] = {}
    asking = [
        threading.Thread(target=lambda n=n: found.update({n: workers.map(busy, range(n, n + 8))})) for n in range(3)
    ]
    for one in asking:
        one.start()
    for one in asking:
        one.join(_LONG_S)
    assert found == {n: [number * number for number in range(n, n + 8)] for n in range(3)}
    assert busy.most == 4


def test_threads_that_map_again_do_not_wait_for_one_another() -> None:
    workers = Workers(2)
    ended = threading.Event()

    def ask() -> None:
        assert workers.map(lambda n: sum(workers.map(lambda m: m * n, range(5))), range(6)) == [
            10 * n for n in range(6)
        ]
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    assert ended.wait(_LONG_S)


def test_looks_take_all_that_changes_do_not_need() -> None:
    lookers, _ = Workers.for_looks_and_changes(8)
    busy = _Busy(8)
    lookers.map(busy, range(16))
    assert busy.most == 8


@pytest.mark.parametrize("in_flight", [1, 2, 3, 4, 16])
def test_a_look_is_free_to_go_while_as_many_changes_are_under_way_as_there_may_be(in_flight: int) -> None:
    lookers, changers = Workers.for_looks_and_changes(in_flight)
    changes = max(1, in_flight * 3 // 4)
    all_at_it, ended = threading.Barrier(changes), threading.Event()

    def change(number: int) -> list[int]:
        all_at_it.wait(_LONG_S)
        return lookers.map(lambda look: look, [number])

    def ask() -> None:
        assert changers.map(change, range(changes * 2)) == [[number] for number in range(changes * 2)]
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    assert ended.wait(_LONG_S)


def test_the_first_error_is_raised_once_what_has_begun_has_ended() -> None:
    workers, begun, ended = Workers(2), [], []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("the first")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(ValueError, match="the first"):
        workers.map(work, range(100))
    assert len(begun) < 100
    assert sorted(ended) == sorted(set(begun) - {0})
    assert workers.map(str, range(3)) == ["0", "1", "2"]


def test_threads_end_with_the_last_reference() -> None:
    before = set(threading.enumerate())
    workers = Workers(3)
    workers.map(time.sleep, [0.01] * 6)
    mine = set(threading.enumerate()) - before
    assert mine
    del workers
    for one in mine:
        one.join(_LONG_S)
        assert not one.is_alive()
