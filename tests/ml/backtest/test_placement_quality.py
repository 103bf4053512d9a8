"""CloudFlux on real traces with the book aws-us-east-1: what docs/decision-quality.md says of it, kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudflux.price_books import load_book
from cloudflux_ml.backtest.run import OPTIMUM, backtest
from cloudflux_ml.backtest.trace import read_trace

SHARED = Path(os.environ.get("CLOUDFLUX_SHARED") or Path(__file__).resolve().parents[4] / "shared")
RIVALS = ("stay", "lifecycle-age", "lifecycle-idle", "autopilot", "break-even", "rules")


@pytest.mark.parametrize(("name", "closed"), [("media", 0.5), ("code", 0.5), ("retail", 0.0)])
def test_cloudflux_is_no_dearer_than_the_best_rival_and_closes_its_share_of_the_gap_to_the_optimum(name, closed):
    path = SHARED / "data" / "traces" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"no real trace at {path}: set CLOUDFLUX_SHARED to the folder that holds data/traces")
    result = backtest(read_trace(path), load_book("aws-us-east-1"), (*RIVALS, "cloudflux"))
    usd = {policy: found.usd for policy, found in result.policies.items()}
    best = min(usd[policy] for policy in RIVALS)
    assert usd["cloudflux"] <= best
    assert best - usd["cloudflux"] >= closed * (best - usd[OPTIMUM])
