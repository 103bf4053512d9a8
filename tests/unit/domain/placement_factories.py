"""Objects to decide on, with overrides."""

from __future__ import annotations

from typing import Any

import numpy as np

from cloudflux.domain.policy import ObjectColumns

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB


def objects_of(count: int = 1, **overrides: Any) -> ObjectColumns:
    """Give ``count`` objects of 1 MiB in STANDARD that nobody reads, with columns replaced by ``overrides``."""

    def column(name: str, default: Any, dtype: Any) -> np.ndarray[Any, Any]:
        value = overrides.pop(name, default)
        if dtype is object:
            values = np.empty(count, dtype=object)
            values[:] = value if not isinstance(value, str) else [value] * count
            return values
        return np.array(np.broadcast_to(np.asarray(value, dtype=dtype), (count,)))

    size_bytes = column("size_bytes", MIB, np.int64)
    reads = column("expected_reads", 0.0, np.float64)
    columns = ObjectColumns(
        size_bytes=size_bytes,
        current_class=column("current_class", "STANDARD", object),
        days_in_class=column("days_in_class", 400.0, np.float64),
        idle_days=column("idle_days", 0.0, np.float64),
        expected_reads=reads,
        expected_read_bytes=column("expected_read_bytes", reads * size_bytes, np.float64),
        probability_any=column("probability_any", 1 - np.exp(-reads), np.float64),
        confidence=column("confidence", 0.9, np.float64),
        from_rules=column("from_rules", False, np.bool_),
        excluded=column("excluded", False, np.bool_),
        lock_reason=column("lock_reason", None, object),
        usage_state=column("usage_state", -1, np.intp) if "usage_state" in overrides else None,
        pinned_class=column("pinned_class", None, object) if "pinned_class" in overrides else None,
        retained=column("retained", False, np.bool_) if "retained" in overrides else None,
    )
    assert not overrides, f"no such columns: {sorted(overrides)}"
    return columns
