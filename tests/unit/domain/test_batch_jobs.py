"""Which moves become jobs of S3 Batch Operations, and what the jobs cost."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.domain.batch_jobs import JOB_MOVES, LEAST_JOB_OBJECTS, JobPrices, job_prices, job_sizes, job_terms
from cloudflux.domain.errors import SettingsError
from cloudflux.price_books import load_book

PRICES = JobPrices(0.25, 1e-6)


def test_prices_are_those_of_the_book() -> None:
    assert job_prices(load_book("aws-us-east-1")) == PRICES


def test_error_names_the_fee_when_a_book_has_none() -> None:
    book = replace(load_book("aws-us-east-1"), fees=())
    with pytest.raises(SettingsError, match="aws-us-east-1 has no fee 'S3 Batch Operations, a job'"):
        job_prices(book)


def test_what_jobs_cost() -> None:
    assert PRICES.usd(1_000_000) == Decimal("1.25")
    assert PRICES.usd(3_000_000, jobs=60) == Decimal("18")
    assert PRICES.share_usd(50_000) * 50_000 == PRICES.usd(50_000)
    assert PRICES.share_usd(0) == 0


def test_only_archives_must_be_restored_before_a_job_can_copy_them() -> None:
    terms = job_terms(load_book("aws-us-east-1"), from_objects=1, write_once=True, remove_superseded=False)
    assert terms.restored_classes == {"GLACIER", "DEEP_ARCHIVE"}


def test_each_range_makes_one_job_for_each_class() -> None:
    moves = 2 * JOB_MOVES + 1_500
    targets = np.zeros(moves, dtype=np.intp)
    targets[:600] = 1  # too few in the first range
    targets[-1_100:] = 1
    sizes = job_sizes(np.arange(moves), targets, np.ones(moves, dtype=bool))
    assert set(sizes[:600]) == {0}
    assert set(sizes[600:JOB_MOVES]) == {JOB_MOVES - 600}
    assert set(sizes[JOB_MOVES : 2 * JOB_MOVES]) == {JOB_MOVES}
    assert set(sizes[2 * JOB_MOVES : -1_100]) == {0}  # 400: too few
    assert set(sizes[-1_100:]) == {1_100}


@given(st.integers(0, 3 * LEAST_JOB_OBJECTS), st.integers(1, 4), st.floats(0, 1), st.integers(0, 2**32))
def test_shares_add_up_to_what_the_jobs_cost(moves: int, classes: int, carried_share: float, seed: int) -> None:
    dice = np.random.default_rng(seed)
    places = dice.permutation(moves)
    targets = dice.integers(0, classes, moves)
    carried = dice.random(moves) < carried_share
    sizes = job_sizes(places, targets, carried)
    jobs = {(place // JOB_MOVES, target) for place, target, size in zip(places, targets, sizes, strict=True) if size}
    named = int((sizes > 0).sum())
    assert not (sizes[~carried]).any()
    assert all(size == 0 or size >= LEAST_JOB_OBJECTS for size in sizes)
    shares = sum(0.25 / size + 1e-6 for size in sizes[sizes > 0])
    assert shares == pytest.approx(float(PRICES.usd(named, len(jobs))))
