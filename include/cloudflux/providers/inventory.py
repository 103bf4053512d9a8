"""A live listing as rows of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import pyarrow as pa

from cloudflux.domain.tiers import TIER_OF, Provider, Tier
from cloudflux.lake.schemas import INVENTORY


def inventory_batch(
    provider: Provider,
    bucket: str,
    day: date,
    *,
    keys: Sequence[str],
    sizes_bytes: Sequence[int],
    storage_classes: Sequence[str],
    etags: Sequence[str],
    last_modified_at: Sequence[datetime],
    class_since_at: Sequence[datetime],
    version_ids: Sequence[str | None] | None = None,
    content_types: Sequence[str | None] | None = None,
    lock_reasons: Sequence[str | None] | None = None,
) -> pa.RecordBatch:
    """Put the columns of one page of a listing (all of one length) into the inventory's schema.

    A class that the provider has and we do not know (``REDUCED_REDUNDANCY``, ``MULTI_REGIONAL``) counts as hot.
    """
    rows = len(keys)
    tiers = TIER_OF[provider]
    nothing = [None] * rows
    columns = {
        "provider": pa.repeat(pa.scalar(provider.value), rows),
        "bucket": pa.repeat(pa.scalar(bucket), rows),
        "key": keys,
        "version_id": version_ids if version_ids is not None else nothing,
        "size_bytes": sizes_bytes,
        "storage_class": storage_classes,
        "tier": [tiers.get(name, Tier.HOT).value for name in storage_classes],
        "etag": etags,
        "last_modified_at": last_modified_at,
        "class_since_at": class_since_at,
        "content_type": content_types if content_types is not None else nothing,
        "lock_reason": lock_reasons if lock_reasons is not None else nothing,
        "day": pa.repeat(pa.scalar(day), rows),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for field, column in ((field, columns[field.name]) for field in INVENTORY)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=INVENTORY)
