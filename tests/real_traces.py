"""Where the real access traces are, which are not in the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

_SHARED: Final = Path(os.environ.get("CLOUDFLUX_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def real_trace(name: str) -> Path:
    """Give the file of a trace; skip the test where it is not on this machine."""
    path = _SHARED / "data" / "traces" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"no real trace at {path}: set CLOUDFLUX_SHARED to the folder that holds data/traces")
    return path
