"""The garbage collector while moves are carried out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from cloudflux.workflows.garbage_collection import OBJECTS_BETWEEN, collecting_seldom


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


def test_the_threshold_is_raised_within_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 10, 10)
    with collecting_seldom():
        assert gc.get_threshold() == (OBJECTS_BETWEEN, 10, 10)
    assert gc.get_threshold() == (700, 10, 10)


def test_the_threshold_is_as_before_when_an_error_ends_the_moves() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(ValueError, match="no more"), collecting_seldom():
        raise ValueError("no more")
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("threshold", [0, 2 * OBJECTS_BETWEEN])
def test_nothing_is_collected_more_often_when_it_was_seldom_or_never(threshold: int) -> None:
    gc.set_threshold(threshold, 10, 10)
    with collecting_seldom():
        assert gc.get_threshold() == (threshold, 10, 10)


class _Circle:
    def __init__(self) -> None:
        self.itself = self


def test_circles_are_still_freed_when_they_pile_up() -> None:
    gc.set_threshold(700, 10, 10)
    with collecting_seldom():
        first = weakref.ref(_Circle())
        for _ in range(OBJECTS_BETWEEN + 1000):
            _Circle()
        assert first() is None
