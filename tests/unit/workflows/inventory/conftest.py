"""Fixtures of the tests of collecting inventories."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.workflows.inventory.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")
