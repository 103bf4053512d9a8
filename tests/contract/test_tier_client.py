"""What every provider's client promises: one suite over memory, S3, Azure and GCS."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from contract.backends import Backend

from cloudflux.domain.errors import BucketNotFound, ObjectLocked, ObjectNotFound, TerminalError
from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange
from cloudflux.domain.objects import ObjectState, RestoreState, Unseen
from cloudflux.domain.tiers import tier_of
from cloudflux.domain.verification import differences
from cloudflux.lake.schemas import INVENTORY
from cloudflux.providers.workers import Workers

pytestmark = pytest.mark.contract

_DAY = date(2026, 11, 23)


def _put(backend: Backend, bucket: str, key: str = "a.bin", data: bytes = b"content", **overrides: Any) -> ObjectState:
    settings: dict[str, Any] = {"content_type": "text/plain", "metadata": {"owner": "ann"}}
    if backend.client.capabilities.has_tags:
        settings["tags"] = {"team": "red", "level": "2"}
    return backend.client.put_object(backend.ref(bucket, key), data, **{**settings, **overrides})


def _change_one(backend: Backend, seen: ObjectState, to_class: str) -> Any:
    (result,) = backend.client.change_tiers([TierChange(seen, to_class)])
    assert result.ref == seen.ref
    return result


def test_an_object_is_what_was_written_when_it_is_looked_at(backend: Backend, bucket: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    written = _put(backend, bucket, data=b"hello")
    state = backend.client.head(backend.ref(bucket, "a.bin"))
    assert state == written
    assert (state.size_bytes, state.storage_class, state.content_type) == (5, backend.standard, "text/plain")
    assert state.metadata == {"owner": "ann"}
    assert "md5:" in (state.checksum or "")
    assert before <= state.last_modified_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert before <= state.class_since_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert state.last_modified_at.utcoffset() == timedelta(0)
    assert state.lock_reason is None
    assert backend.client.get_object(backend.ref(bucket, "a.bin")) == b"hello"


def test_an_object_is_read_in_pieces_when_it_is_large(backend: Backend, bucket: str) -> None:
    data = bytes(range(256)) * 4096 * 5
    _put(backend, bucket, data=data)
    pieces = list(backend.client.read_blocks(backend.ref(bucket, "a.bin"), 1 << 20))
    assert b"".join(pieces) == data
    with pytest.raises(ObjectNotFound):
        list(backend.client.read_blocks(backend.ref(bucket, "missing"), 1 << 20))


def test_tags_are_told_only_when_they_are_asked_for(
    backend: Backend, bucket: str, request: pytest.FixtureRequest
) -> None:
    backend.lacks(request, "object-tags")
    _put(backend, bucket, tags={"team": "red + blue", "level": "2"})
    ref = backend.ref(bucket, "a.bin")
    assert backend.client.head(ref).tags == {"team": "red + blue", "level": "2"}
    assert backend.client.head(ref, tags=False).tags == {}


def test_only_the_class_differs_when_an_object_moved(backend: Backend, bucket: str) -> None:
    for to_class in sorted(backend.client.capabilities.classes):
        seen = _put(backend, bucket, key=f"to {to_class}", data=to_class.encode())
        assert _change_one(backend, seen, to_class).outcome is ChangeOutcome.CHANGED
        after = backend.client.head(seen.ref)
        assert after.storage_class == to_class
        assert differences(seen, after, to_class, keeps_etag=backend.client.capabilities.keeps_etag) == ()
        if to_class not in backend.client.capabilities.restore_needed_from:
            assert backend.client.get_object(seen.ref) == to_class.encode()


def test_what_a_change_tells_of_the_object_is_what_a_look_tells(backend: Backend, bucket: str) -> None:
    seen = [_put(backend, bucket, key=f"n/{number}") for number in range(10)]
    results = backend.client.change_tiers([TierChange(state, backend.warm, state) for state in seen])
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    told = [result.after for result in results]
    looked = backend.client.head_many([state.ref for state in seen])
    assert told in (looked, [None] * 10)  # S3 tells nothing of the copy but its ETag
    assert (told == looked) == (backend.name in ("azure", "gcs"))


def test_what_the_capabilities_say_holds_when_an_object_moved(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    _change_one(backend, seen, backend.warm)
    after = backend.client.head(seen.ref)
    capabilities = backend.client.capabilities
    if capabilities.keeps_etag:
        assert after.etag == seen.etag
    if capabilities.keeps_last_modified:
        assert after.last_modified_at == seen.last_modified_at
    if capabilities.conditional_on == "generation":
        assert after.ref.version_id != seen.ref.version_id


def test_an_object_comes_back_when_it_is_moved_to_the_standard_class(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    _change_one(backend, seen, backend.cold)
    there = backend.client.head(seen.ref)
    assert _change_one(backend, there, backend.standard).outcome is ChangeOutcome.CHANGED
    assert differences(seen, backend.client.head(seen.ref), backend.standard, keeps_etag=False) == ()


def test_the_change_is_a_conflict_when_the_object_was_overwritten(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket, data=b"old")
    newer = _put(backend, bucket, data=b"new")
    result = _change_one(backend, seen, backend.warm)
    assert result.outcome is ChangeOutcome.CONFLICT
    assert result.detail
    assert backend.client.head(seen.ref) == newer
    assert backend.client.get_object(seen.ref) == b"new"


def test_the_change_is_a_conflict_when_the_object_is_overwritten_while_it_is_made(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _put(backend, bucket, data=b"old")

    def overwrite() -> None:
        _put(backend, bucket, data=b"new", metadata={"owner": "bob"})

    backend.intercept(monkeypatch, overwrite, False)
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.CONFLICT
    assert backend.client.get_object(seen.ref) == b"new"
    assert backend.client.head(seen.ref).metadata == {"owner": "bob"}


def test_the_object_is_not_found_when_it_was_deleted(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    backend.client.delete_object(seen.ref)
    backend.client.delete_object(seen.ref)  # again: no error
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.NOT_FOUND
    with pytest.raises(ObjectNotFound, match=r"a\.bin"):
        backend.client.head(seen.ref)
    with pytest.raises(ObjectNotFound):
        backend.client.get_object(seen.ref)


def test_the_object_is_not_found_when_it_is_deleted_while_it_is_moved(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _put(backend, bucket)
    backend.intercept(monkeypatch, lambda: backend.client.delete_object(seen.ref), False)
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.NOT_FOUND


def test_a_locked_object_stays_when_it_is_to_move(backend: Backend, new_bucket: str) -> None:
    backend.lockable_bucket(new_bucket)
    backend.client.create_bucket(new_bucket)
    ref = _put(backend, new_bucket).ref
    backend.lock(ref)
    seen = backend.client.head(ref)
    assert seen.lock_reason
    result = _change_one(backend, seen, backend.warm)
    assert result.outcome is ChangeOutcome.LOCKED
    assert result.detail
    assert backend.client.head(ref).storage_class == backend.standard


def test_deleting_is_refused_when_the_object_is_locked(backend: Backend, bucket: str) -> None:
    if backend.name == "s3":
        pytest.skip("S3 deletes a version under lock by a delete marker, which is no loss")
    ref = _put(backend, bucket).ref
    backend.lock(ref)
    with pytest.raises(ObjectLocked, match=r"a\.bin"):
        backend.client.delete_object(ref)
    assert backend.client.get_object(ref) == b"content"


def test_every_change_has_its_own_outcome_when_there_are_more_than_a_batch(backend: Backend, bucket: str) -> None:
    keys = [f"n/{number:04}" for number in range(260)]
    seen = Workers(16).map(lambda key: _put(backend, bucket, key=key), keys)
    backend.client.delete_object(seen[3].ref)
    _put(backend, bucket, key=keys[258], data=b"overwritten")
    results = backend.client.change_tiers([TierChange(state, backend.warm) for state in seen])
    assert [result.ref.key for result in results] == keys
    assert results[3].outcome is ChangeOutcome.NOT_FOUND
    assert results[258].outcome is ChangeOutcome.CONFLICT
    others = [result.outcome for number, result in enumerate(results) if number not in (3, 258)]
    assert set(others) == {ChangeOutcome.CHANGED}
    after = backend.client.head_many([state.ref for state in seen])
    assert after[3] is None
    assert after[258].storage_class == backend.standard
    assert {state.storage_class for number, state in enumerate(after) if number not in (3, 258)} == {backend.warm}


def test_one_batch_may_hold_different_classes_and_faults(backend: Backend, bucket: str) -> None:
    warm, cold, wrong = (_put(backend, bucket, key=key) for key in ("warm", "cold", "wrong"))
    changes = [TierChange(warm, backend.warm), TierChange(wrong, "LUKEWARM"), TierChange(cold, backend.cold)]
    outcomes = [result.outcome for result in backend.client.change_tiers(changes)]
    assert outcomes == [ChangeOutcome.CHANGED, ChangeOutcome.ERROR, ChangeOutcome.CHANGED]
    classes = [backend.client.head(state.ref).storage_class for state in (warm, cold, wrong)]
    assert classes == [backend.warm, backend.cold, backend.standard]


def test_nothing_is_asked_when_there_are_no_changes(backend: Backend) -> None:
    assert backend.client.change_tiers([]) == []
    assert backend.client.head_many([]) == []


def test_the_second_change_finds_the_object_there_when_it_is_repeated(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.CHANGED
    once = backend.client.head(seen.ref)
    again = _change_one(backend, seen, backend.warm)
    assert (again.outcome, again.detail) == (ChangeOutcome.CHANGED, "already there")
    assert backend.client.head(seen.ref) == once  # no second copy was made


def test_an_overwriting_in_the_wanted_class_is_still_a_conflict(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket, data=b"old")
    _put(backend, bucket, data=b"new", storage_class=backend.warm)
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.CONFLICT


def test_the_error_names_the_class_when_there_is_no_such_class(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    result = _change_one(backend, seen, "LUKEWARM")
    assert result.outcome is ChangeOutcome.ERROR
    assert "'LUKEWARM'" in result.detail
    assert backend.warm in result.detail
    assert backend.client.head(seen.ref) == seen


def test_the_object_decides_when_the_answer_was_lost(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _put(backend, bucket)
    backend.intercept(monkeypatch, lambda: None, True)
    result = _change_one(backend, seen, backend.warm)
    assert result.outcome is ChangeOutcome.CHANGED
    assert "lost" in result.detail
    assert backend.client.head(seen.ref).storage_class == backend.warm


def test_an_object_is_unavailable_when_the_request_is_never_received(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _put(backend, bucket)
    with monkeypatch.context() as patch:
        backend.lost_before_sending(patch)
        result = _change_one(backend, seen, backend.warm)
    assert result.outcome is ChangeOutcome.UNAVAILABLE
    assert result.detail
    assert backend.client.head(seen.ref) == seen


def test_an_object_moves_when_its_state_of_now_is_given(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    (now,) = backend.client.head_many([seen.ref])
    assert now == seen
    (result,) = backend.client.change_tiers([TierChange(seen, backend.warm, now=now)])
    assert result.outcome is ChangeOutcome.CHANGED
    assert differences(seen, backend.client.head(seen.ref), backend.warm, keeps_etag=False) == ()


def test_the_change_is_a_conflict_when_the_state_of_now_is_stale(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket, data=b"old")
    (now,) = backend.client.head_many([seen.ref])
    newer = _put(backend, bucket, data=b"new", metadata={"owner": "bob"})
    (result,) = backend.client.change_tiers([TierChange(seen, backend.warm, now=now)])
    assert result.outcome is ChangeOutcome.CONFLICT
    after = backend.client.head(seen.ref)
    assert (after.etag, after.metadata, after.storage_class) == (newer.etag, {"owner": "bob"}, backend.standard)
    assert backend.client.get_object(seen.ref) == b"new"


def test_the_change_is_a_conflict_when_the_state_of_now_is_not_what_was_seen(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket, data=b"old")
    newer = _put(backend, bucket, data=b"new")
    (result,) = backend.client.change_tiers([TierChange(seen, backend.warm, now=newer)])
    assert result.outcome is ChangeOutcome.CONFLICT
    assert backend.client.head(seen.ref) == newer


def test_an_attempt_counts_as_changed_when_the_one_before_it_had_moved_the_object(
    backend: Backend, bucket: str
) -> None:
    seen = _put(backend, bucket)
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.CHANGED
    (now,) = backend.client.head_many([seen.ref])
    (again,) = backend.client.change_tiers([TierChange(seen, backend.warm, now=now)])
    assert (again.outcome, again.detail) == (ChangeOutcome.CHANGED, "already there")
    assert backend.client.head(seen.ref) == now


def test_a_denied_object_is_unseen_and_the_others_are_told(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [_put(backend, bucket, key=key) for key in ("free", "denied")]
    assert backend.deny is not None
    backend.deny(monkeypatch, states[1].ref)
    free, denied, missing = backend.client.head_many([*(state.ref for state in states), backend.ref(bucket, "missing")])
    assert (free, missing) == (states[0], None)
    assert isinstance(denied, Unseen)
    assert (denied.ref.key, denied.passing) == ("denied", False)
    assert "denied" in denied.reason
    results = backend.client.change_tiers([TierChange(state, backend.warm) for state in states])
    assert [result.outcome for result in results] == [ChangeOutcome.CHANGED, ChangeOutcome.ERROR]


def test_the_others_move_when_one_object_is_not_served(
    backend: Backend, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, free = (_put(backend, bucket, key=key) for key in ("busy", "free"))
    assert backend.throttle is not None
    with monkeypatch.context() as patch:
        backend.throttle(patch, busy.ref)
        changes = [TierChange(busy, backend.warm), TierChange(free, backend.cold)]  # so they are no batch
        outcomes = [result.outcome for result in backend.client.change_tiers(changes)]
    assert outcomes == [ChangeOutcome.UNAVAILABLE, ChangeOutcome.CHANGED]
    assert backend.client.head(busy.ref) == busy


def test_more_than_a_thousand_objects_move_in_one_call(backend: Backend, bucket: str) -> None:
    keys = [f"many/{number:05}" for number in range(1100)]
    Workers(16).map(lambda key: _put(backend, bucket, key=key, data=key.encode()), keys)
    seen = backend.client.head_many([backend.ref(bucket, key) for key in keys])
    results = backend.client.change_tiers([TierChange(state, backend.warm, now=state) for state in seen])
    assert [result.ref.key for result in results] == keys
    assert {result.outcome for result in results} == {ChangeOutcome.CHANGED}
    after = backend.client.head_many([state.ref for state in seen])
    differing = [differences(was, now, backend.warm, keeps_etag=False) for was, now in zip(seen, after, strict=True)]
    assert differing == [()] * len(keys)


def test_many_looks_tell_what_single_looks_tell(backend: Backend, bucket: str) -> None:
    keys = [f"{folder}/{number:03}" for folder in ("near", "b/\u00e9 +%&<", "z") for number in range(12)]
    states = Workers(16).map(lambda key: _put(backend, bucket, key=key), keys)
    Workers(16).map(lambda number: _put(backend, bucket, key=f"far/{number:04}"), range(300))
    wanted = [
        *(state.ref for state in states),
        *(backend.ref(bucket, f"far/{number:04}") for number in range(0, 300, 25)),
    ]
    single = [backend.client.head(ref) for ref in wanted]
    assert backend.client.head_many([*wanted, backend.ref(bucket, "near/999")]) == [*single, None]
    backend.client.delete_object(wanted[3])
    assert backend.client.head_many(wanted) == [*single[:3], None, *single[4:]]


def test_the_bucket_is_named_when_there_is_none_to_look_or_move_in(backend: Backend, bucket: str) -> None:
    seen = _put(backend, bucket)
    gone = replace(seen, ref=replace(seen.ref, bucket=f"{bucket}-gone"))
    with pytest.raises(BucketNotFound, match=f"{bucket}-gone"):
        backend.client.head_many([gone.ref])
    with pytest.raises(BucketNotFound, match=f"{bucket}-gone"):
        backend.client.head_many([replace(gone.ref, key=str(number)) for number in range(20)])
    with pytest.raises(BucketNotFound, match=f"{bucket}-gone"):
        backend.client.change_tiers([TierChange(gone, backend.warm)])
    with pytest.raises(BucketNotFound, match=f"{bucket}-gone"):
        backend.client.change_tiers([TierChange(gone, backend.warm, now=gone)])


def test_an_archived_object_stays_when_no_restore_is_ordered(backend: Backend, bucket: str) -> None:
    for archive_class in sorted(backend.client.capabilities.restore_needed_from):
        seen = _put(backend, bucket, storage_class=archive_class)
        result = _change_one(backend, seen, backend.standard)
        assert result.outcome is ChangeOutcome.ERROR
        assert "restore it first" in result.detail
        assert backend.client.head(seen.ref).storage_class == archive_class


def test_an_archived_object_is_moved_when_its_restore_is_done(
    backend: Backend, bucket: str, request: pytest.FixtureRequest
) -> None:
    if not backend.client.capabilities.restore_needed_from:
        pytest.skip("every class of this provider can be read at once")
    backend.lacks(request, "slow-restore")
    seen = _put(backend, bucket, storage_class=min(backend.client.capabilities.restore_needed_from))
    change = TierChange(seen, backend.standard, restore=RestoreOrder("standard", 3))
    for _ in range(2):  # asking again is how one polls
        (result,) = backend.client.change_tiers([change])
        assert result.outcome is ChangeOutcome.RESTORING
        assert backend.client.head(seen.ref).restore is RestoreState.RUNNING
    assert backend.finish_restore is not None
    backend.finish_restore(seen.ref)
    (result,) = backend.client.change_tiers([change])
    assert result.outcome is ChangeOutcome.CHANGED
    assert differences(seen, backend.client.head(seen.ref), backend.standard, keeps_etag=False) == ()


def test_all_objects_are_listed_once_when_they_fill_more_than_a_page(backend: Backend, bucket: str) -> None:
    keys = {f"many/{number:05}" for number in range(1003)} | {"other"}
    Workers(16).map(lambda key: _put(backend, bucket, key=key, data=b"x", tags=None), sorted(keys))
    pages = list(backend.client.list_pages(bucket))
    assert [len(page) for page in pages] == [1000, 4]
    listed = [state.ref.key for page in pages for state in page]
    assert listed == sorted(keys)
    assert {file.key for file in backend.client.list_files(bucket, "many/")} == keys - {"other"}
    batches = list(backend.client.list_inventory(bucket, _DAY, "many/01"))
    assert sum(batch.num_rows for batch in batches) == 3


def test_the_inventory_tells_what_a_look_tells(backend: Backend, bucket: str) -> None:
    ref = _put(backend, bucket).ref
    state = _change_and_look(backend, ref, backend.warm)
    (batch,) = backend.client.list_inventory(bucket, _DAY)
    assert batch.schema.equals(INVENTORY)
    table = pa.Table.from_batches([batch])
    assert table.cast(INVENTORY).num_rows == 1
    (row,) = batch.to_pylist()
    assert row["provider"] == backend.provider.value
    assert (row["bucket"], row["key"], row["day"]) == (bucket, "a.bin", _DAY)
    assert (row["size_bytes"], row["storage_class"], row["etag"]) == (7, backend.warm, state.etag)
    assert row["tier"] == tier_of(backend.provider, backend.warm).value
    assert abs(row["class_since_at"] - state.class_since_at) < timedelta(seconds=1)
    assert row["version_id"] == state.ref.version_id
    (listed,) = next(backend.client.list_pages(bucket))
    expected = replace(state, metadata={}, tags={}, headers=None)
    if backend.name == "s3":  # S3's listing tells neither the type nor the checksums, and times to the millisecond
        assert listed.content_type is None
        listed = replace(listed, content_type=state.content_type, checksum=state.checksum)
        listed = replace(listed, last_modified_at=state.last_modified_at, class_since_at=state.class_since_at)
    assert listed == expected


def _change_and_look(backend: Backend, ref: Any, to_class: str) -> ObjectState:
    seen = backend.client.head(ref)
    assert _change_one(backend, seen, to_class).outcome is ChangeOutcome.CHANGED
    state: ObjectState = backend.client.head(ref)
    return state


def test_what_was_listed_can_be_moved(backend: Backend, bucket: str) -> None:
    _put(backend, bucket)
    (listed,) = next(backend.client.list_pages(bucket))
    assert _change_one(backend, listed, backend.warm).outcome is ChangeOutcome.CHANGED


def test_the_live_object_is_looked_at_when_an_old_version_is_named(backend: Backend, bucket: str) -> None:
    first = _put(backend, bucket, data=b"one")
    second = _put(backend, bucket, data=b"two")
    assert backend.client.head(first.ref) == second


_ODD_KEYS = {
    "unicode": "é/ü/日本語/🙂",
    "spaces": " a  b /c ",
    "plus": "a+b/c+d",
    "percent": "100%/a%2Fb%20c",
    "quotes": 'it\'s "quoted" <&>',
    "leading-slash": "/etc/passwd",
    "double-slash": "a//b",
    "trailing-slash": "folder/",
    "query": "a?b=c&d#e",
    "two-dots": "a..b/..c",
    "dot-segments": "a/../b",
    "control-characters": "ctl/\x01 \x1b[31m.bin",
    "tilde-and-braces": "~a/{b}/[c]/;d,e=f@g:h!$()*",
}


def test_objects_move_beside_a_key_that_a_listing_may_not_tell(backend: Backend, bucket: str) -> None:
    keys = [f"near/{number:02}" for number in range(40)] + [f"near/{_ODD_KEYS['control-characters']}"]
    seen = [_put(backend, bucket, key=key, data=key.encode()) for key in keys]
    looks = backend.client.head_many([state.ref for state in seen])
    assert looks == seen
    results = backend.client.change_tiers([TierChange(state, backend.warm, now=state) for state in seen])
    assert [(result.outcome, result.detail) for result in results] == [(ChangeOutcome.CHANGED, "")] * len(keys)
    assert {state.storage_class for state in backend.client.head_many([state.ref for state in seen])} == {backend.warm}


@pytest.mark.parametrize("name", sorted(_ODD_KEYS))
def test_an_object_moves_when_its_key_is_odd(
    backend: Backend, bucket: str, name: str, request: pytest.FixtureRequest
) -> None:
    backend.lacks(request, name)
    key = _ODD_KEYS[name]
    seen = _put(backend, bucket, key=key, data=key.encode())
    _put(backend, bucket, key="bystander")
    assert {file.key for file in backend.client.list_files(bucket)} == {key, "bystander"}
    assert [file.key for file in backend.client.list_files(bucket, key)] == [key]
    assert [file.key for file in backend.client.list_files(bucket, "", "c")] == [name for name in (key,) if name > "c"]
    assert _change_one(backend, seen, backend.warm).outcome is ChangeOutcome.CHANGED
    after = backend.client.head(backend.ref(bucket, key))
    assert differences(seen, after, backend.warm, keeps_etag=False) == ()
    assert backend.client.get_object(after.ref) == key.encode()
    assert backend.client.head(backend.ref(bucket, "bystander")).storage_class == backend.standard
    backend.client.delete_object(after.ref)
    assert [file.key for file in backend.client.list_files(bucket)] == ["bystander"]


@pytest.mark.parametrize("size_bytes", [0, 1, 3 * 2**20 + 1])
def test_an_object_moves_when_it_is_empty_small_or_large(backend: Backend, bucket: str, size_bytes: int) -> None:
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    seen = _put(backend, bucket, data=data[:size_bytes])
    assert seen.size_bytes == size_bytes
    after = _change_and_look(backend, seen.ref, backend.warm)
    assert differences(seen, after, backend.warm, keeps_etag=False) == ()
    assert backend.client.get_object(seen.ref) == data[:size_bytes]


def test_metadata_is_kept_when_it_is_odd(backend: Backend, bucket: str) -> None:
    metadata = {"a": "", "b": "spaces inside, and; signs = + % \"'", "long": "x" * 500}
    seen = _put(backend, bucket, metadata=metadata)
    assert seen.metadata == metadata
    after = _change_and_look(backend, seen.ref, backend.warm)
    assert after.metadata == metadata


def test_creating_a_bucket_again_keeps_its_objects(backend: Backend, bucket: str) -> None:
    _put(backend, bucket)
    backend.client.create_bucket(bucket)
    assert [file.key for file in backend.client.list_files(bucket)] == ["a.bin"]


def test_an_empty_bucket_lists_nothing(backend: Backend, bucket: str) -> None:
    assert list(backend.client.list_pages(bucket)) == []
    assert list(backend.client.list_inventory(bucket, _DAY)) == []
    assert list(backend.client.list_files(bucket)) == []


def test_the_error_names_the_bucket_when_there_is_none(backend: Backend, new_bucket: str) -> None:
    with pytest.raises((TerminalError, ObjectNotFound), match=new_bucket):
        list(backend.client.list_pages(new_bucket))
    with pytest.raises((TerminalError, ObjectNotFound), match=new_bucket):
        _put(backend, new_bucket)
