"""The GCS emulator changes classes, honours preconditions and holds, and keeps what it was given."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, Conflict, Forbidden, NotFound, NotModified, PreconditionFailed

from cloudflux.local.emulators.gcs import StorageApi
from cloudflux.local.emulators.gcs_messages import Request
from cloudflux.local.emulators.gcs_objects import Objects


def _put(gcs: Any, name: str, data: bytes = b"content", **settings: Any) -> Any:
    blob = gcs.bucket("data").blob(name)
    for field, value in settings.items():
        setattr(blob, field, value)
    blob.upload_from_string(data, content_type="text/plain")
    return blob


def _look(gcs: Any, name: str) -> Any:
    return gcs.bucket("data").get_blob(name)


def test_a_rewrite_makes_a_new_generation_in_the_class(gcs: Any) -> None:
    before = _put(gcs, "a", metadata={"owner": "ann"}, cache_control="no-store")
    changed = _look(gcs, "a")
    changed.storage_class = "COLDLINE"
    changed.rewrite(changed)
    after = _look(gcs, "a")
    assert (before.storage_class, after.storage_class) == ("STANDARD", "COLDLINE")
    assert after.generation > before.generation
    assert (after.metadata, after.cache_control, after.content_type) == ({"owner": "ann"}, "no-store", "text/plain")
    assert (after.md5_hash, after.crc32c, after.size) == (before.md5_hash, before.crc32c, 7)
    assert after.download_as_bytes() == b"content"
    assert _look(gcs, "a").etag != before.etag


def test_a_rewrite_takes_metadata_from_its_body_alone_when_it_has_one(gcs: Any) -> None:
    _put(gcs, "bare", metadata={"owner": "ann"})
    bare = gcs.bucket("data").blob("bare")
    bare.storage_class = "NEARLINE"
    bare.rewrite(gcs.bucket("data").blob("bare"))
    assert _look(gcs, "bare").metadata is None
    _put(gcs, "full", metadata={"owner": "ann"})
    full = gcs.bucket("data").blob("full")
    full.rewrite(gcs.bucket("data").blob("full"))  # an empty body: everything is copied
    assert _look(gcs, "full").metadata == {"owner": "ann"}


@pytest.mark.parametrize(
    "condition",
    [
        {"if_generation_match": 1},
        {"if_generation_match": 0},
        {"if_metageneration_match": 7},
        {"if_metageneration_not_match": 1},
        {"if_source_generation_match": 1},
        {"if_source_metageneration_match": 7},
        {"if_source_metageneration_not_match": 1},
    ],
    ids=str,
)
def test_a_rewrite_is_refused_when_a_condition_does_not_hold(gcs: Any, condition: dict[str, int]) -> None:
    before = _put(gcs, "refused")
    blob = gcs.bucket("data").blob("refused")
    blob.storage_class = "COLDLINE"
    with pytest.raises(PreconditionFailed):
        blob.rewrite(gcs.bucket("data").blob("refused"), **condition)
    after = _look(gcs, "refused")
    assert (after.generation, after.storage_class) == (before.generation, "STANDARD")


def test_writes_and_deletes_are_refused_when_a_condition_does_not_hold(gcs: Any) -> None:
    blob = _put(gcs, "guarded")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"x", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=blob.generation + 1)
    blob.metadata = {"a": "b"}
    with pytest.raises(PreconditionFailed):
        blob.patch(if_metageneration_match=2)
    with pytest.raises(NotModified):
        blob.reload(if_generation_not_match=blob.generation)
    assert _look(gcs, "guarded").download_as_bytes() == b"content"


def test_a_patch_raises_the_metageneration_and_keeps_the_generation(gcs: Any) -> None:
    before = _put(gcs, "patched", metadata={"a": "1", "b": "2"})
    blob = _look(gcs, "patched")
    blob.metadata = {"a": "3", "b": None}
    blob.patch()
    after = _look(gcs, "patched")
    assert (after.generation, after.metageneration, after.metadata) == (before.generation, 2, {"a": "3"})


def test_the_class_cannot_be_patched(gcs: Any) -> None:
    blob = _put(gcs, "unpatched")
    blob.storage_class = "COLDLINE"
    with pytest.raises(BadRequest, match="rewriting"):
        blob.patch()


@pytest.mark.parametrize("hold", ["temporary_hold", "event_based_hold"])
def test_overwriting_rewriting_and_deleting_are_refused_when_there_is_a_hold(gcs: Any, hold: str) -> None:
    blob = _put(gcs, hold)
    setattr(blob, hold, True)
    blob.patch()
    with pytest.raises(Forbidden, match="hold"):
        blob.delete()
    with pytest.raises(Forbidden, match="hold"):
        _put(gcs, hold, b"other")
    moved = _look(gcs, hold)
    moved.storage_class = "COLDLINE"
    with pytest.raises(Forbidden, match="hold"):
        moved.rewrite(blob)
    assert _look(gcs, hold).download_as_bytes() == b"content"
    setattr(blob, hold, False)
    blob.patch()
    blob.delete()
    assert _look(gcs, hold) is None


def test_deleting_is_refused_when_the_bucket_retains(gcs: Any) -> None:
    bucket = gcs.bucket("retaining")
    bucket.retention_period = 3600
    bucket = gcs.create_bucket(bucket)
    blob = bucket.blob("a")
    blob.upload_from_string(b"x")
    assert bucket.get_blob("a").retention_expiration_time is not None
    with pytest.raises(Forbidden, match="retention"):
        blob.delete()


def test_an_unknown_class_is_refused_and_the_object_stays(gcs: Any) -> None:
    before = _put(gcs, "unknown")
    blob = _look(gcs, "unknown")
    blob.storage_class = "LUKEWARM"
    with pytest.raises(BadRequest, match="LUKEWARM"):
        blob.rewrite(blob)
    assert _look(gcs, "unknown").generation == before.generation


def test_a_long_rewrite_takes_several_calls_and_its_token_fits_only_itself(gcs: Any) -> None:
    data = bytes(range(256)) * 4096 * 3  # 3 MiB at 1 MiB a call
    source = _put(gcs, "long", data)
    blob = _look(gcs, "long")
    blob.storage_class = "NEARLINE"
    token, rewritten, total = blob.rewrite(source)
    assert (rewritten, total) == (2**20, 3 * 2**20)
    assert _look(gcs, "long").storage_class == "STANDARD"
    other = _put(gcs, "other", data)
    with pytest.raises(BadRequest, match="token"):
        other.rewrite(other, token=token)
    token, rewritten, _ = blob.rewrite(source)
    calls = 1
    while token:
        token, rewritten, _ = blob.rewrite(source, token=token)
        calls += 1
    assert (calls, rewritten) == (3, total)
    assert _look(gcs, "long").storage_class == "NEARLINE"
    assert blob.download_as_bytes() == data


def test_one_of_two_racing_rewrites_wins(gcs: Any) -> None:
    for attempt in range(20):
        generation = _put(gcs, f"raced-{attempt}").generation
        barrier = Barrier(2)

        def race(
            to_class: str, name: str = f"raced-{attempt}", generation: int = generation, barrier: Barrier = barrier
        ) -> str | None:
            blob = gcs.bucket("data").blob(name)
            blob.storage_class = to_class
            barrier.wait(10)
            try:
                blob.rewrite(gcs.bucket("data").blob(name), if_generation_match=generation)
            except PreconditionFailed:
                return None
            return to_class

        with ThreadPoolExecutor(2) as pool:
            winners = [won for won in pool.map(race, ["NEARLINE", "COLDLINE"]) if won is not None]
        assert winners == [_look(gcs, f"raced-{attempt}").storage_class]


def test_listings_give_prefixes_pages_and_offsets(gcs: Any) -> None:
    bucket = gcs.create_bucket("listed")
    names = ["a/1", "a/2", "b", "b/1", "c", "é"]
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    assert [blob.name for blob in gcs.list_blobs("listed", page_size=2)] == names
    assert [blob.name for blob in gcs.list_blobs("listed", prefix="a/")] == ["a/1", "a/2"]
    assert [blob.name for blob in gcs.list_blobs("listed", start_offset="a/2", end_offset="c")] == ["a/2", "b", "b/1"]
    for page_size in (1, 2, 100):
        found = gcs.list_blobs("listed", delimiter="/", page_size=page_size)
        assert [blob.name for blob in found] == ["b", "c", "é"]
        assert found.prefixes == {"a/", "b/"}


def test_a_listing_with_chosen_fields_is_as_long_as_one_without(gcs: Any) -> None:
    bucket = gcs.create_bucket("chosen")
    names = ["a", "a/1", "a/2", "b", "c", "é"]
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    for size in (1, 2, 3, 100):
        for asked in ({}, {"prefix": "a"}, {"prefix": "a/"}, {"start_offset": "a/1"}, {"prefix": "x"}):
            chosen = gcs.list_blobs("chosen", page_size=size, fields="items(name),nextPageToken", **asked)
            assert [blob.name for blob in chosen] == [blob.name for blob in gcs.list_blobs("chosen", **asked)]


def test_old_generations_stay_only_when_the_bucket_is_versioned(gcs: Any) -> None:
    bucket = gcs.bucket("versioned")
    bucket.versioning_enabled = True
    bucket = gcs.create_bucket(bucket)
    first = bucket.blob("a")
    first.upload_from_string(b"one")
    bucket.blob("a").upload_from_string(b"two")
    assert len(list(gcs.list_blobs("versioned", versions=True))) == 2
    assert bucket.blob("a", generation=first.generation).download_as_bytes() == b"one"
    bucket.blob("a").delete()
    assert list(gcs.list_blobs("versioned")) == []
    assert len(list(gcs.list_blobs("versioned", versions=True))) == 2
    with pytest.raises(Conflict):
        bucket.delete()


def test_uploads_in_parts_and_reads_of_ranges_are_whole(gcs: Any) -> None:
    data = bytes(range(256)) * 4096
    blob = gcs.bucket("data").blob("resumable", chunk_size=256 * 1024)
    blob.upload_from_string(data, content_type="video/mp4")
    found = _look(gcs, "resumable")
    assert (found.size, found.content_type) == (len(data), "video/mp4")
    assert found.download_as_bytes() == data
    assert found.download_as_bytes(start=1000, end=1999) == data[1000:2000]


def test_a_wrong_digest_is_refused(gcs: Any) -> None:
    blob = gcs.bucket("data").blob("digest")
    blob.md5_hash = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(BadRequest, match="md5Hash"):
        blob.upload_from_string(b"content", checksum=None)
    assert _look(gcs, "digest") is None


def test_the_calls_of_a_batch_are_answered_in_order(gcs: Any) -> None:
    _put(gcs, "one/with slash")
    _put(gcs, "two")
    with gcs.batch(raise_exception=False) as batch:
        first = gcs.bucket("data").blob("one/with slash")
        first.metadata = {"n": "1"}
        first.patch()
        gcs.bucket("data").blob("missing").delete()
        gcs.bucket("data").blob("two").delete()
    assert [answer.status_code for answer in batch._responses] == [200, 404, 204]
    assert _look(gcs, "one/with slash").metadata == {"n": "1"}
    assert _look(gcs, "two") is None


def test_a_batch_is_refused_when_it_is_over_the_limit(gcs: Any) -> None:
    batch = gcs.batch()
    gcs._push_batch(batch)
    for number in range(101):
        gcs.bucket("data").blob(f"{number}").delete()
    gcs._pop_batch()
    with pytest.raises(BadRequest, match="100 is the limit"):
        batch.finish()


def test_what_was_served_is_counted_and_what_was_refused_is_not(gcs: Any) -> None:
    root, http = gcs._connection.API_BASE_URL, gcs._http
    blob = _put(gcs, "counted")
    blob.reload()
    for generation in (1, blob.generation):
        changed = _look(gcs, "counted")
        changed.storage_class = "NEARLINE"
        with nullcontext() if generation != 1 else pytest.raises(PreconditionFailed):
            changed.rewrite(blob, if_generation_match=generation)
    told = http.request("GET", f"{root}/_cloudflux/requests").json()
    counts = {operation: told[operation].get("data/counted") for operation in ("write", "get", "rewrite")}
    assert counts == {"write": 1, "get": 3, "rewrite": 1}
    narrowed = http.request("GET", f"{root}/_cloudflux/requests?operation=rewrite&bucket=nowhere").json()
    assert narrowed == {}


def test_named_objects_are_refused_until_others_are_named(gcs: Any) -> None:
    root, http = gcs._connection.API_BASE_URL, gcs._http
    blob = _put(gcs, "refused")
    http.request("PUT", f"{root}/_cloudflux/refused", json={"denied": ["data/refused"]}).raise_for_status()
    with pytest.raises(Forbidden):
        blob.reload()
    http.request("PUT", f"{root}/_cloudflux/refused", json={"denied": []}).raise_for_status()
    blob.reload()


def test_a_content_stays_until_its_last_generation_is_gone(gcs: Any) -> None:
    bucket = gcs.bucket("sharing")
    bucket.versioning_enabled = True
    bucket = gcs.create_bucket(bucket)
    first = bucket.blob("a")
    first.upload_from_string(b"shared")
    moved = bucket.get_blob("a")
    moved.storage_class = "NEARLINE"
    moved.rewrite(moved)
    bucket.blob("a", generation=first.generation).delete()
    assert bucket.get_blob("a").download_as_bytes() == b"shared"
    copied = bucket.copy_blob(bucket.blob("a"), bucket, "b")
    bucket.blob("a", generation=moved.generation).delete()
    assert copied.download_as_bytes() == b"shared"


def test_what_is_missing_is_not_found(gcs: Any) -> None:
    with pytest.raises(NotFound):
        gcs.get_bucket("no-such-bucket")
    with pytest.raises(NotFound):
        gcs.bucket("data").blob("no such object").download_as_bytes()
    with pytest.raises(NotFound):
        list(gcs.list_blobs("no-such-bucket"))


def test_no_content_is_left_when_its_object_is_gone(gcs: Any, gcs_data: Path) -> None:
    def files() -> int:
        return sum(path.is_file() for path in (gcs_data / "contents").rglob("*"))

    before = files()
    _put(gcs, "gone", b"one")
    _put(gcs, "gone", b"two")
    blob = _look(gcs, "gone")
    blob.storage_class = "NEARLINE"
    blob.rewrite(blob)
    assert files() == before + 1
    blob.delete()
    assert files() == before


def test_everything_is_there_again_when_the_emulator_is_restarted(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    def api() -> tuple[Objects, StorageApi]:
        objects = Objects(tmp_path, lambda: datetime(2026, 11, 23, tzinfo=UTC))
        return objects, StorageApi(objects)

    def ask(api: StorageApi, method: str, path: str, query: dict[str, str], body: bytes = b"") -> Any:
        return api.respond(Request(method, path, query, {}, body))

    objects, first = api()
    assert ask(first, "POST", "/storage/v1/b", {}, json.dumps({"name": "data"}).encode()).status == 200
    upload = {"uploadType": "media", "name": "a/b"}
    written = json.loads(ask(first, "POST", "/upload/storage/v1/b/data/o", upload, b"content").body)
    objects.close()

    objects, second = api()
    found = json.loads(ask(second, "GET", "/storage/v1/b/data/o/a%2Fb", {}).body)
    assert found == written
    assert ask(second, "GET", "/storage/v1/b/data/o/a%2Fb", {"alt": "media"}).body == b"content"
    again = json.loads(ask(second, "POST", "/upload/storage/v1/b/data/o", upload, b"newer").body)
    assert int(again["generation"]) > int(written["generation"])  # although the clock stands still
    objects.close()
