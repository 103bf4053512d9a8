"""The comparison with a hold-out: what it estimates, and whether its interval holds the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cloudflux.domain.savings import CostSums, against_hold_out, student_t_975


def test_estimate_is_exact_when_all_costs_changed_alike() -> None:
    projected = np.array([1.0, 2.0, 4.0])
    found = against_hold_out(CostSums.of(projected, projected * 0.1), CostSums.of(projected, projected * 0.5), 0.3)
    assert found is not None
    assert found.usd == pytest.approx(7 * 0.5 - 7 * 0.1 - 0.3)
    assert found.standard_error_usd == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("held_out", [CostSums(), CostSums.of([0.0], [1.0])])
def test_nothing_is_estimated_without_a_hold_out(held_out: CostSums) -> None:
    assert against_hold_out(CostSums.of([1.0], [1.0]), held_out) is None
    assert against_hold_out(CostSums(), CostSums.of([1.0], [1.0])) is None


def test_error_is_not_known_when_one_object_is_held_out() -> None:
    found = against_hold_out(CostSums.of([1.0], [0.5]), CostSums.of([1.0], [0.9]))
    assert found is not None
    assert found.usd == pytest.approx(0.4)
    assert found.standard_error_usd is found.low_usd is found.high_usd is None


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 9, 30, 1000])
def test_quantile_is_students_t(degrees: int) -> None:
    assert student_t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-3)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=2, max_size=20), st.integers(1, 19))
def test_sums_of_parts_are_those_of_the_whole(pairs: list[tuple[float, float]], cut: int) -> None:
    projected, costs = np.array(pairs).T
    whole = CostSums.of(projected, costs)
    parts = [CostSums.of(projected[:cut], costs[:cut]), CostSums.of(projected[cut:], costs[cut:])]
    for name in CostSums.__dataclass_fields__:
        assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name))


@pytest.mark.parametrize(("held", "moved", "spread"), [(5, 200, 0.3), (40, 400, 0.5), (200, 50, 0.8)])
def test_interval_holds_the_truth_as_often_as_it_says(held: int, moved: int, spread: float) -> None:
    draw = np.random.default_rng(held)
    inside = 0
    runs = 2_000
    for _ in range(runs):
        projected = draw.lognormal(0, 0.5, held + moved)
        # everybody's costs fall to 40 % of what was projected, each object's in its own way
        unmoved = projected * 0.4 * draw.lognormal(-(spread**2) / 2, spread, held + moved)
        now = unmoved[held:] * 0.3
        found = against_hold_out(CostSums.of(projected[held:], now), CostSums.of(projected[:held], unmoved[:held]))
        assert found is not None
        assert found.low_usd is not None
        assert found.high_usd is not None
        truth = unmoved[held:].sum() - now.sum()
        inside += found.low_usd <= truth <= found.high_usd
    assert 0.90 <= inside / runs <= 0.985  # costs are skewed: a little less than 95 of 100 with a small hold-out
