"""The training task: by which prices challenger and champion are charged."""

from __future__ import annotations

import pytest

from cloudflux.orchestration.forecaster_tasks import commonest


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ([], None),
        (["gcs-us-multi"], "gcs-us-multi"),
        (["gcs-us-multi", "aws-us-east-1", "aws-us-east-1"], "aws-us-east-1"),
        (["gcs-us-multi", "aws-us-east-1"], "aws-us-east-1"),
    ],
)
def test_price_book_is_the_one_that_most_buckets_name(named: list[str], chosen: str | None) -> None:
    assert commonest(named) == chosen
