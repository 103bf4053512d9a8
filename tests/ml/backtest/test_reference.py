"""The reference figures of the conventions (docs/backtest.md), made by an independent implementation of them."""

from __future__ import annotations

import pytest
from real_traces import real_trace

from cloudflux.price_books import load_book
from cloudflux_ml.backtest.run import OPTIMUM, backtest
from cloudflux_ml.backtest.trace import read_trace

USD = {
    "media": {
        "stay": 198.25,
        "autopilot": 91.72,
        "lifecycle-age": 106.86,
        "lifecycle-idle": 85.43,
        "lifecycle-idle-promote": 112.45,
        OPTIMUM: 61.76,
    },
    "retail": {
        "stay": 58.96,
        "autopilot": 47.82,
        "lifecycle-age": 902.55,
        "lifecycle-idle": 121.02,
        "lifecycle-idle-promote": 51.81,
        OPTIMUM: 41.79,
    },
    "catalogue": {
        "stay": 551.20,
        "autopilot": 382.08,
        "lifecycle-age": 5838.13,
        "lifecycle-idle": 549.85,
        "lifecycle-idle-promote": 535.68,
        OPTIMUM: 344.16,
    },
    "code": {
        "stay": 115.70,
        "autopilot": 31.39,
        "lifecycle-age": 31.99,
        "lifecycle-idle": 29.53,
        "lifecycle-idle-promote": 33.56,
        OPTIMUM: 25.66,
    },
}
SHAPES = {"media": (11_470, 695), "retail": (3_958, 374), "catalogue": (17_071, 990), "code": (17_027, 4_056)}
IN_FULL = ("media", "retail")


@pytest.mark.parametrize("name", [*USD])
def test_figures_of_real_traces_are_those_of_the_reference(name):
    path = real_trace(name)
    trace = read_trace(path)
    assert (trace.objects, trace.days) == SHAPES[name]
    result = backtest(trace, load_book("aws-us-east-1"), None if name in IN_FULL else USD[name])
    for policy, usd in USD[name].items():
        assert result.policies[policy].usd == pytest.approx(usd, rel=0.005), policy
    for policy, found in result.policies.items():
        assert found.usd >= result.policies[OPTIMUM].usd, policy
