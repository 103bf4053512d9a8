"""What a move has to leave as it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import differences, same_content

_AT = datetime(2026, 11, 1, tzinfo=UTC)


def _state(**overrides: Any) -> ObjectState:
    state = ObjectState(
        ref=ObjectRef(Provider.AWS, "data", "a.bin"),
        size_bytes=10,
        storage_class="STANDARD",
        etag="e1",
        last_modified_at=_AT,
        class_since_at=_AT,
        content_type="text/plain",
        checksum="md5:m1 crc32c:c1",
        metadata={"owner": "ann"},
        tags={"team": "red"},
        headers={"cache-control": "no-store"},
    )
    return replace(state, **overrides)


def test_nothing_differs_when_only_class_and_times_changed() -> None:
    after = _state(storage_class="STANDARD_IA", last_modified_at=datetime(2026, 11, 2, tzinfo=UTC), class_since_at=_AT)
    assert differences(_state(), after, "STANDARD_IA", keeps_etag=True) == ()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"storage_class": "STANDARD"}, "class is STANDARD, not STANDARD_IA"),
        ({"size_bytes": 11}, "size was 10 bytes and is 11"),
        ({"checksum": "md5:m2 crc32c:c1"}, "checksum was"),
        ({"content_type": None}, "content type was text/plain and is None"),
        ({"metadata": {}}, "metadata 'owner' was 'ann' and is None"),
        ({"metadata": {"owner": "ann", "new": "x"}}, "metadata 'new' was None and is 'x'"),
        ({"tags": {"team": "blue"}}, "tag 'team' was 'red' and is 'blue'"),
        ({"headers": {}}, "header 'cache-control' was 'no-store' and is None"),
    ],
)
def test_the_change_is_named_when_something_else_changed(overrides: dict[str, Any], named: str) -> None:
    after = _state(**{"storage_class": "STANDARD_IA", **overrides})
    found = differences(_state(), after, "STANDARD_IA", keeps_etag=True)
    assert len(found) == 1
    assert named in found[0]


def test_the_etag_decides_only_when_no_digest_is_shared_and_it_survives_moves() -> None:
    before = _state(checksum=None)
    after = _state(storage_class="STANDARD_IA", etag="e2")
    assert "ETag was e1 and is e2" in differences(before, after, "STANDARD_IA", keeps_etag=True)[0]
    assert differences(before, after, "STANDARD_IA", keeps_etag=False) == ()
    assert differences(_state(), after, "STANDARD_IA", keeps_etag=True) == ()


def test_headers_are_not_compared_when_nobody_looked_at_them_before() -> None:
    assert differences(_state(headers=None), _state(storage_class="X"), "X", keeps_etag=True) == ()


def test_content_is_compared_by_the_digests_that_both_have() -> None:
    assert same_content(_state(checksum="crc32c:c1"), _state()) is True
    assert same_content(_state(checksum="crc32c:c2"), _state()) is False
    assert same_content(_state(checksum="crc64nvme:n"), _state()) is None
