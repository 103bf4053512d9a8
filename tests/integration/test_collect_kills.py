"""Collecting is killed at random moments, and publishes the same bytes in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudflux.local.bench.kills import killed_at_random

pytestmark = pytest.mark.integration

KILLS = 20


def test_published_days_are_the_same_bytes_when_collecting_is_killed_at_random_moments(tmp_path: Path) -> None:
    found = killed_at_random(tmp_path, kills=KILLS)
    assert found["kills"] == KILLS
    assert found["runs"] < KILLS, "every kill came before the process had begun or after it was done"
    assert found["identical"]
