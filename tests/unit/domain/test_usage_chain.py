"""The usage chain: what is refused, and its figures against closed forms and against simulated futures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.usage import UsageChain


def chain_of(**overrides: Any) -> UsageChain:
    """Give two states: idle, which is read on one day in ten, and busy, which is read on every second day."""
    figures = {
        "unread": np.array([[0.9, 0.0], [0.3, 0.2]]),
        "read": np.array([[0.0, 0.1], [0.0, 0.5]]),
        "reads": np.array([0.1, 1.5]),
        "seen": np.array([100.0, 50.0]),
    } | overrides
    return UsageChain(**figures)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"read": np.array([[0.1], [0.5]])}, r"a chain of 2 states takes \(2, 2\) transitions"),
        ({"unread": np.zeros((3, 3))}, r"a chain of 2 states takes \(2, 2\) transitions"),
        ({"seen": np.ones(3)}, r"a chain of 2 states takes \(2, 2\) transitions"),
        ({"reads": np.array([0.1, 1.5, 2.0])}, r"a chain of 3 states takes \(3, 3\) transitions"),
        ({"read": np.array([[0.0, 0.2], [0.0, 0.5]])}, "must be at least 0 and sum to 1"),
        ({"unread": np.array([[1.0, -0.1], [0.3, 0.2]])}, "must be at least 0 and sum to 1"),
        ({"reads": np.array([0.1, -1.5])}, "expected reads must be at least 0"),
    ],
)
def test_chain_is_refused_when_its_figures_are_none(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chain_of(**overrides)


def test_chance_of_reads_is_geometric_when_there_is_one_state() -> None:
    rate = 0.07
    chain = UsageChain(np.array([[1 - rate]]), np.array([[rate]]), np.array([2 * rate]), np.ones(1))
    for days in (0, 1, 30, 365):
        assert chain.chance_of_reads(days) == pytest.approx([1 - (1 - rate) ** days])
        np.testing.assert_allclose(chain.daily_reads(days), np.full((1, days), 2 * rate))


@settings(max_examples=100)
@given(st.tuples(*[st.floats(0.01, 0.99)] * 2), st.tuples(*[st.floats(0.0, 5.0)] * 2), st.integers(1, 60))
def test_daily_reads_follow_the_closed_form_when_there_are_two_states(
    leaving: tuple[float, float], reads: tuple[float, float], days: int
) -> None:
    # the second eigenvalue of [[1-a, a], [b, 1-b]] is 1-a-b: expectations go to their limit by its powers
    a, b = leaving
    step = np.array([[1 - a, a], [b, 1 - b]])
    chain = UsageChain(step / 2, step / 2, np.array(reads), np.ones(2))
    limit = (b * reads[0] + a * reads[1]) / (a + b)
    apart = np.array([a, -b]) * (reads[0] - reads[1]) / (a + b)
    expected = limit + apart[:, None] * (1 - a - b) ** np.arange(days)[None, :]
    np.testing.assert_allclose(chain.daily_reads(days), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(chain.chance_of_reads(days), 1 - 0.5**days)


def test_figures_are_those_of_simulated_futures() -> None:
    chain, rng, objects, days = chain_of(), np.random.default_rng(1), 100_000, 14
    joint = np.concatenate([chain.unread, chain.read], axis=1)
    for start in (0, 1):
        state, ever, by_day = np.full(objects, start), np.zeros(objects, dtype=bool), np.empty(days)
        for day in range(days):
            by_day[day] = chain.reads[state].mean()
            outcome = (rng.random(objects)[:, None] > np.cumsum(joint[state], axis=1)).sum(axis=1)
            ever |= outcome >= len(chain)
            state = outcome % len(chain)
        assert chain.chance_of_reads(days)[start] == pytest.approx(ever.mean(), abs=0.006)
        np.testing.assert_allclose(chain.daily_reads(days)[start], by_day, atol=0.01)


def test_chance_of_reads_never_falls_when_days_are_added() -> None:
    chances = np.array([chain_of().chance_of_reads(days) for days in range(50)])
    assert (chances[0] == 0).all()
    assert (np.diff(chances, axis=0) >= 0).all()
    assert (chances <= 1).all()


def test_fingerprint_tells_chains_apart() -> None:
    assert chain_of().fingerprint == chain_of().fingerprint
    assert chain_of().fingerprint != chain_of(reads=np.array([0.1, 1.6])).fingerprint
