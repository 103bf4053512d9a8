"""What an object was, as JSON in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.stores.bulk import to_json


def state_to_json(state: ObjectState) -> str:
    """Write a state for a JSONB column; of the object's name only the version, the rest stands beside it."""
    return to_json(
        {
            "version_id": state.ref.version_id,
            "size_bytes": state.size_bytes,
            "storage_class": state.storage_class,
            "etag": state.etag,
            "last_modified_at": state.last_modified_at,
            "class_since_at": state.class_since_at,
            "content_type": state.content_type,
            "checksum": state.checksum,
            "metadata": state.metadata,
            "tags": state.tags,
            "headers": state.headers,
        }
    )


def state_from_json(ref: ObjectRef, content: Mapping[str, Any]) -> ObjectState:
    """Read what ``state_to_json`` wrote, or an earlier release, which kept no version."""
    fields = dict(content)
    version_id = fields.pop("version_id", ref.version_id)
    for name in ("last_modified_at", "class_since_at"):
        fields[name] = datetime.fromisoformat(fields[name])
    return ObjectState(ref=ObjectRef(ref.provider, ref.bucket, ref.key, version_id), **fields)
