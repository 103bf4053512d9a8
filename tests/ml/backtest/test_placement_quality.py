"""CloudFlux on real traces with the book aws-us-east-1: what docs/decision-quality.md says of it, kept."""

from __future__ import annotations

import pytest
from real_traces import real_trace

from cloudflux.price_books import load_book
from cloudflux_ml.backtest.run import OPTIMUM, backtest
from cloudflux_ml.backtest.trace import read_trace

RIVALS = ("stay", "lifecycle-age", "lifecycle-idle", "autopilot", "break-even", "rules")


@pytest.mark.parametrize(("name", "closed"), [("media", 0.5), ("code", 0.5), ("retail", 0.0)])
def test_cloudflux_is_no_dearer_than_the_best_rival_and_closes_its_share_of_the_gap_to_the_optimum(name, closed):
    path = real_trace(name)
    result = backtest(read_trace(path), load_book("aws-us-east-1"), (*RIVALS, "cloudflux"))
    usd = {policy: found.usd for policy, found in result.policies.items()}
    best = min(usd[policy] for policy in RIVALS)
    assert usd["cloudflux"] <= best
    assert best - usd["cloudflux"] >= closed * (best - usd[OPTIMUM])
