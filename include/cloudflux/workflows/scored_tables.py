"""The rows that scoring gives the lake: forecasts and decisions as Arrow columns, texts made of codes of few words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.policy import Decisions
from cloudflux.domain.reasons import Phrases
from cloudflux.lake.schemas import DECISIONS, FORECASTS

_LISTED: Final = ("provider", "bucket", "key", "version_id", "etag", "size_bytes", "last_modified_at", "class_since_at")


def forecast_table(inventory: pa.Table, forecasts: AccessForecasts, day: date) -> pa.Table:
    """Give the ``forecasts`` rows of an inventory's objects."""
    count = inventory.num_rows
    columns = {
        **{name: inventory[name] for name in ("provider", "bucket", "key")},
        "day": pa.repeat(pa.scalar(day, pa.date32()), count),
        "horizon_days": pa.repeat(pa.scalar(forecasts.horizon_days, pa.int32()), count),
        "expected_reads": pa.array(forecasts.expected_reads, pa.float64()),
        "expected_read_bytes": pa.array(forecasts.expected_read_bytes, pa.float64()),
        "probability_any": pa.array(forecasts.probability_any, pa.float64()),
        **{
            f"{name}_{days}": pa.array(np.ascontiguousarray(figures[:, place]), pa.float64())
            for name, figures in (
                ("probability_any", forecasts.horizon_probability_any),
                ("expected_reads", forecasts.horizon_expected_reads),
                ("expected_read_bytes", forecasts.horizon_expected_read_bytes),
            )
            for place, days in enumerate(FORECAST_HORIZONS)
        },
        "tier": pa.array(forecasts.tier, pa.string()),
        "tier_confidence": pa.array(forecasts.confidence, pa.float64()),
        "band": pa.array(forecasts.band, pa.string()),
        "confidence": pa.array(forecasts.confidence, pa.float64()),
        "source": pa.array(forecasts.source, pa.string()),
    }
    return pa.table(columns, schema=FORECASTS)


def decision_table(
    inventory: pa.Table, decisions: Decisions, rules: NDArray[Any], day: date, expected_reads_day: NDArray[np.float64]
) -> pa.Table:
    """Give the ``decisions`` rows of an inventory's objects.

    rules : the class that the rule-based classifier would choose, as text, shape (N,).
    expected_reads_day : by the usage chain, NaN where it does not speak, shape (N,).
    """
    count = inventory.num_rows
    offsets, classes, expected = decisions.candidate_lists()
    candidates = DECISIONS.field("candidates").type
    structs = pa.StructArray.from_arrays(
        [_worded(decisions.class_names, classes), pa.array(expected, pa.float64())], fields=list(candidates.value_type)
    )
    decided: dict[str, Any] = dict(decisions.columns())
    decided["payback_days"] = pa.array(decided["payback_days"], from_pandas=True)  # NaN becomes null
    columns = {
        **{name: inventory[name] for name in _LISTED},
        "day": pa.repeat(pa.scalar(day, pa.date32()), count),
        "action": _worded(("keep", "move"), decisions.moves.astype(np.int32)),
        "reason": phrase_column(decisions.reasons),
        "rule_class": rules,
        "candidates": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=candidates),
        "price_book": pa.repeat(decisions.price_book, count),
        "expected_reads_day": pa.array(expected_reads_day, from_pandas=True),
        **decided,
    }
    return pa.table(
        [
            value if isinstance(value, (pa.Array, pa.ChunkedArray)) else pa.array(value, DECISIONS.field(name).type)
            for name, value in ((field.name, columns[field.name]) for field in DECISIONS)
        ],
        schema=DECISIONS,
    )


def phrase_column(phrases: Phrases) -> pa.Array:
    """Give the texts of phrases as an Arrow column: each distinct word is copied, none is made a Python string."""
    parts = [_worded(words, codes) for words, codes in zip(phrases.words, phrases.codes, strict=True)]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "")


def _worded(words: Sequence[str], codes: NDArray[Any]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(codes))
