"""Fixtures of the tests of moving."""

from __future__ import annotations

import pytest
from unit.workflows.migrate.world import World

from cloudflux.domain.tiers import Provider


@pytest.fixture(params=list(Provider))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)
