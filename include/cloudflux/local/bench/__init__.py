"""Benchmarks: ratios measured in one run, on this machine, against tools that do a part of the same."""
