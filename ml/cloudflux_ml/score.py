"""Forecast every object of one shard: by the champion, or by rules where the model cannot know anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cloudflux.domain.access import BANDS, FORECAST_TIERS, band_of, tier_codes, tier_names
from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.rules import classify
from cloudflux.domain.usage import UsageChain
from cloudflux_ml.drift import add_counts
from cloudflux_ml.features import HORIZONS, TREE_FEATURES, AccessHistory, Features, Floats
from cloudflux_ml.model import data_frame

if TYPE_CHECKING:
    from cloudflux_ml.stored_model import Champion  # skops takes a second to import, and the rules need none of it

RULES: Final = "rules"
RULES_CONFIDENCE: Final = 0.4
"""Of a forecast by rules with some history; the policy trusts none of them much."""
COLD_START_CONFIDENCE: Final = 0.2
CHUNK_OBJECTS: Final = 100_000
"""How many objects are forecast at once: what the trees need beside the features stays small."""
_MONTH_DAYS: Final = 30
_LONG_DAYS: Final = 180
_READS_OF_THE_UNKNOWN: Final = 1.0
"""Reads a month of an object of which nothing is known, and no sibling either: enough to keep it out of archives."""
_KEY: Final = ["provider", "bucket", "key"]


def forecast_objects(
    inventory: pa.Table,
    daily_access: pa.Table,
    day: date,
    horizon_days: int,
    *,
    champion: Champion | None,
    history_start: date | None = None,
    lookback_days: int = 400,
    content_types: pa.Table | None = None,
) -> AccessForecasts:
    """Forecast the reads of all objects of one shard's inventory, from ``day`` on.

    inventory : columns of ``INVENTORY``; the result has its order.
    daily_access : columns of ``DAILY_ACCESS``; rows of ``day`` and later are not looked at.
    champion : None sends all objects to the rules.
    history_start : first day that the logs of the whole lake cover.

    The rules speak for objects that came on ``day`` or later and were never logged, and for buckets whose logs
    hold nothing at all: there, silence does not mean that nobody reads. They expect the mean of the siblings' reads
    (first path component, then content family, then the bucket), and the tier of that mean; without any sibling, one
    read a month. With some history of its own, an object goes on between its rate of the last 30 days and that of the
    last 180, and its tier is what the rule-based classifier says.
    """
    history = AccessHistory(
        daily_access,
        inventory,
        history_start=history_start,
        lookback_days=lookback_days,
        content_types=content_types,
    )
    features = history.features_of_all(day)
    rates = _rule_rates(history, features, day)
    unknown = np.isnan(rates.own)
    reads_month = np.where(unknown, rates.siblings, rates.own)
    by_rules = unknown if champion is not None else np.ones(len(unknown), dtype=np.bool_)

    expected = reads_month * horizon_days / _MONTH_DAYS
    probability = 1.0 - np.exp(-expected)
    band = band_of(reads_month)
    never_read = features.column("never_read") > 0
    recency = features.column("recency_days")
    last_read_days = np.where(never_read, np.inf, recency)
    tier = tier_codes(reads_month).astype(np.int64)
    ruled = np.flatnonzero(by_rules & ~unknown)
    of_rules = classify(rates.last_30[ruled], last_read_days[ruled]).tiers
    tier[ruled] = np.select([of_rules == name.value for name in FORECAST_TIERS], range(len(FORECAST_TIERS)))
    horizon_reads = reads_month[:, None] * np.array(HORIZONS) / _MONTH_DAYS
    horizon_any = -np.expm1(-horizon_reads)
    confidence = np.where(unknown, COLD_START_CONFIDENCE, RULES_CONFIDENCE)
    source = np.full(len(expected), RULES, dtype=object)
    counts: NDArray[np.int64] | None = None
    modelled = np.flatnonzero(~by_rules)
    if champion is not None and len(modelled):
        for first in range(0, len(modelled), CHUNK_OBJECTS):
            rows = _as_slice(modelled[first : first + CHUNK_OBJECTS])
            values = features.values[rows]
            counts = add_counts(counts, values[:, :TREE_FEATURES], champion.forecaster.reference_edges_)
            distribution = champion.forecaster.distribution(data_frame(values))
            forecast = distribution.over(horizon_days)
            expected[rows] = forecast.expected_reads
            probability[rows] = forecast.probability_any
            band[rows] = np.array([str(name) for name in BANDS], dtype=object)[forecast.band]
            horizon_reads[rows] = distribution.expected_reads
            horizon_any[rows] = distribution.probability_any
            tier[rows] = distribution.recommendation.tier
            confidence[rows] = distribution.recommendation.confidence
        source[modelled] = champion.source
    states, chain = _usage(champion, history, day, by_rules)

    covered = float((day - history_start).days) if history_start else np.inf
    silent = np.where(rates.bucket_logged, np.minimum(features.column("age_days"), covered), 0.0)
    bytes_per_read = _bytes_per_read(history, day)
    places = _rows_of(history, inventory)
    return AccessForecasts(
        horizon_days=horizon_days,
        expected_reads=expected[places],
        expected_read_bytes=(expected * bytes_per_read)[places],
        bytes_per_read=bytes_per_read[places],
        probability_any=probability[places],
        band=band[places],
        confidence=confidence[places],
        horizon_expected_reads=horizon_reads[places],
        horizon_probability_any=horizon_any[places],
        tier=tier_names(tier[places]),
        source=source[places],
        from_rules=by_rules[places],
        reads_30_days=rates.last_30[places],
        last_read_days=last_read_days[places],
        idle_days=np.where(never_read, np.maximum(silent, 0.0), recency)[places],
        feature_counts=counts,
        usage_state=None if states is None else states[places],
        usage_chain=chain,
    )


def _as_slice(rows: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Give ascending places as a slice where none is left out between them: what it takes is not copied."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _usage(
    champion: Champion | None, history: AccessHistory, day: date, by_rules: NDArray[np.bool_]
) -> tuple[NDArray[np.intp] | None, UsageChain | None]:
    """Give each object's state of use, -1 where the rules speak, and the chain; None and None without one."""
    usage = None if champion is None else champion.forecaster.usage_
    if usage is None:
        return None, None
    return np.where(by_rules, -1, usage.predict(history.usage_features(day))), usage.chain


@dataclass(frozen=True, slots=True)
class _Rates:
    """Reads per 30 days by rule. Arrays have the order of the history's objects."""

    last_30: Floats
    own: Floats
    """NaN where nothing is known of the object."""
    siblings: Floats
    bucket_logged: NDArray[np.bool_]


def _rule_rates(history: AccessHistory, features: Features, day: date) -> _Rates:
    known_days = (day - history.first_day).days
    age = features.column("age_days")
    last_30 = history.reads_between(day - timedelta(days=_MONTH_DAYS), day, features.rows)
    last_180 = history.reads_between(day - timedelta(days=_LONG_DAYS), day, features.rows)
    # an object of ten days has had ten days to be read in; a first week counts in full, or one read would be thirty
    lived = np.clip(np.minimum(age, known_days), 7, None)
    own = 0.5 * (
        last_30 * _MONTH_DAYS / np.minimum(lived, _MONTH_DAYS) + last_180 * _MONTH_DAYS / np.minimum(lived, _LONG_DAYS)
    )
    logged = history.logged_before(day)
    bucket = history.objects["bucket_code"].to_numpy()
    bucket_logged = (np.bincount(bucket, weights=logged) > 0)[bucket] if len(bucket) else logged
    own = np.where(bucket_logged & (logged | (age > 0)), own, np.nan)

    siblings = features.column("sibling_reads_30_days")
    known = np.isfinite(own)
    count = np.bincount(bucket[known], minlength=int(bucket.max(initial=0)) + 1)
    total = np.bincount(bucket[known], weights=own[known], minlength=len(count))
    of_bucket = np.full(len(count), np.nan)
    np.divide(total, count, out=of_bucket, where=count > 0)
    for others in (features.column("content_sibling_reads_30_days"), of_bucket[bucket]):
        siblings = np.where(np.isfinite(siblings) & bucket_logged, siblings, others)
    return _Rates(last_30, own, np.where(np.isfinite(siblings), siblings, _READS_OF_THE_UNKNOWN), bucket_logged)


def _bytes_per_read(history: AccessHistory, day: date) -> Floats:
    """Expect what a read transfers: what reads of the object did, with one read of the whole object added.

    Reads without a byte among them are of a log that counts none (Cloud Audit): each is taken for the whole object.
    """
    transferred, reads = history.transferred(day)
    size = history.objects["size_bytes"].cast(pl.Float64).to_numpy()
    expected: Floats = np.minimum((transferred + size) / (np.where(transferred > 0, reads, 0.0) + 1.0), size)
    return expected


def _rows_of(history: AccessHistory, inventory: pa.Table) -> slice | NDArray[np.int64]:
    """Give the place in ``history.objects`` of every row of an inventory: shape (rows,), or all of them as they are."""
    wanted = pl.DataFrame(pl.from_arrow(inventory.select(_KEY)))
    if wanted.equals(history.objects.select(_KEY)):
        return slice(None)  # a partition of the lake is in order: nothing is copied
    places = history.objects.select(_KEY).with_row_index("place")
    joined = wanted.join(places, on=_KEY, how="left", maintain_order="left")
    return joined["place"].to_numpy().astype(np.int64)
