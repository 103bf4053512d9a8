"""The GCS emulator's buckets and objects: resources in SQLite, contents in files."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

import orjson

from cloudflux.local.emulators.gcs_messages import ApiError, Resource, integer

STORAGE_CLASSES: Final = frozenset(
    {"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"}
)
EDITABLE: Final = (
    "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType", "customTime",
    "eventBasedHold", "metadata", "retention", "temporaryHold",
)  # fmt: skip


class Objects:
    """Buckets and objects, in SQLite and files below one folder."""

    def __init__(self, data: Path, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._contents = data / "contents"
        self._contents.mkdir(parents=True, exist_ok=True)
        # Made in one thread and used in the event loop's: always by one at a time.
        self._db = sqlite3.connect(data / "objects.sqlite", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, resource TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS objects (
                bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, live INTEGER NOT NULL,
                content TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY (bucket, name, generation)
            ) WITHOUT ROWID;
            CREATE UNIQUE INDEX IF NOT EXISTS live_objects ON objects (bucket, name) WHERE live = 1;
            CREATE INDEX IF NOT EXISTS contents ON objects (content);
            """
        )
        rows = self._db.execute("SELECT name, resource FROM buckets").fetchall()
        self._buckets: dict[str, Resource] = {name: orjson.loads(text) for name, text in rows}
        ((newest,),) = self._db.execute("SELECT coalesce(max(generation), 0) FROM objects").fetchall()
        self._newest_generation: int = newest

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def now(self) -> str:
        """Tell the time as the API writes it."""
        return timestamp(self._clock())

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Write everything done in here in one transaction: a batch of calls costs one commit."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            # What an earlier call of a batch has done stays done, whatever becomes of a later one.
            self._db.execute("COMMIT")

    def buckets(self) -> list[Resource]:
        """List all buckets by name."""
        return [self._buckets[name] for name in sorted(self._buckets)]

    def bucket(self, name: str) -> Resource:
        """Give a bucket. Raises ``ApiError`` 404."""
        found = self._buckets.get(name)
        if found is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.")
        return found

    def put_bucket(self, resource: Resource) -> None:
        """Write a bucket."""
        text = orjson.dumps(resource).decode()
        self._db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?)", [resource["name"], text])
        self._buckets[resource["name"]] = resource

    def delete_bucket(self, name: str) -> None:
        """Delete an empty bucket. Raises ``ApiError`` 409 when it is not empty."""
        self.bucket(name)
        if self._db.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", [name]).fetchall():
            raise ApiError(409, "conflict", "The bucket you tried to delete is not empty.")
        self._db.execute("DELETE FROM buckets WHERE name = ?", [name])
        del self._buckets[name]

    def find(self, bucket: str, name: str, generation: str | None = None) -> tuple[Resource, str] | None:
        """Give an object's resource and content id: the live one, or one generation; None when there is none."""
        which, values = ("live = 1", []) if generation is None else ("generation = ?", [integer(generation)])
        rows = self._db.execute(
            f"SELECT resource, content FROM objects WHERE bucket = ? AND name = ? AND {which}",  # noqa: S608  # constant
            [bucket, name, *values],
        ).fetchall()
        return (orjson.loads(rows[0][0]), rows[0][1]) if rows else None

    def get(self, bucket: str, name: str, generation: str | None = None) -> tuple[Resource, str]:
        """Give an object's resource and content id. Raises ``ApiError`` 404."""
        self.bucket(bucket)
        found = self.find(bucket, name, generation)
        if found is None:
            raise ApiError(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def scan(self, bucket: str, start: str, versions: bool) -> Iterator[Resource]:
        """Give the objects of a bucket by name, from ``start`` on; all generations when ``versions``."""
        live = "" if versions else "AND live = 1"  # one of two texts of ours
        for (text,) in self._db.execute(
            f"SELECT resource FROM objects WHERE bucket = ? AND name >= ? {live} ORDER BY name, generation",  # noqa: S608  # ours
            [bucket, start],
        ):
            yield orjson.loads(text)

    def page(self, bucket: str, start: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Give names and resources, as JSON, of live objects by name, from ``start`` on and after ``after``."""
        return self._db.execute(
            "SELECT name, resource FROM objects WHERE bucket = ? AND live = 1 AND name >= ? AND name > ?"
            " ORDER BY name LIMIT ?",
            [bucket, start, after, limit],
        ).fetchall()

    def store(self, content: bytes) -> str:
        """Keep a content; the id that is returned names it."""
        name = uuid4().hex
        path = self._contents / name[:2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return name

    def content(self, content_id: str) -> bytes:
        """Read a content."""
        return (self._contents / content_id[:2] / content_id).read_bytes()

    def insert(self, bucket: str, name: str, editable: Resource, facts: Resource, content_id: str) -> Resource:
        """Make a new live generation; the one before goes, or becomes noncurrent in a versioned bucket."""
        owner = self.bucket(bucket)
        before = self.find(bucket, name)
        if before is not None:
            self._refuse_when_held(before[0])
        now = self._clock()
        self._newest_generation = max(int(now.timestamp() * 1_000_000), self._newest_generation + 1)
        resource: Resource = {
            **{key: value for key, value in editable.items() if key in EDITABLE and value is not None},
            **facts,
            "name": name,
            "bucket": bucket,
            "generation": str(self._newest_generation),
            "metageneration": "1",
            "storageClass": storage_class_of(editable.get("storageClass") or owner["storageClass"]),
            "timeCreated": timestamp(now),
            "updated": timestamp(now),
            "timeStorageClassUpdated": timestamp(now),
        }
        resource.setdefault("contentType", "application/octet-stream")
        if owner.get("defaultEventBasedHold"):
            resource.setdefault("eventBasedHold", True)
        if period := owner.get("retentionPolicy", {}).get("retentionPeriod"):
            resource["retentionExpirationTime"] = timestamp(now + timedelta(seconds=int(period)))
        resource["etag"] = _etag(resource)
        if before is not None:
            self._retire(owner, before)
        self._db.execute(
            "INSERT INTO objects VALUES (?, ?, ?, 1, ?, ?)",
            [bucket, name, self._newest_generation, content_id, orjson.dumps(resource).decode()],
        )
        if before is not None and before[1] != content_id:
            self.discard(before[1])
        return resource

    def patch(self, resource: Resource, changes: Resource) -> Resource:
        """Change an object's editable metadata: a new metageneration."""
        changed = dict(resource)
        for key, value in changes.items():
            if key == "storageClass" and value != resource["storageClass"]:
                raise ApiError(400, "invalid", "the storage class of an object changes by rewriting it")
            if key not in EDITABLE:
                continue
            if key == "metadata" and isinstance(value, dict):
                merged = {**resource.get("metadata", {}), **value}
                changed["metadata"] = {name: text for name, text in merged.items() if text is not None}
            elif value is None:
                changed.pop(key, None)
            else:
                changed[key] = value
        changed["metageneration"] = str(int(resource["metageneration"]) + 1)
        changed["updated"] = self.now()
        changed["etag"] = _etag(changed)
        self._db.execute(
            "UPDATE objects SET resource = ? WHERE bucket = ? AND name = ? AND generation = ?",
            [orjson.dumps(changed).decode(), changed["bucket"], changed["name"], int(changed["generation"])],
        )
        return changed

    def delete(self, bucket: str, name: str, generation: str | None) -> None:
        """Delete the live object (noncurrent afterwards in a versioned bucket), or one generation for good."""
        found = self.get(bucket, name, generation)
        self._refuse_when_held(found[0])
        if generation is None:
            self._retire(self.bucket(bucket), found)
        else:
            self._remove(found[0])
        self.discard(found[1])

    def _refuse_when_held(self, resource: Resource) -> None:
        name = f"Object '{resource['bucket']}/{resource['name']}'"
        for hold, kind in (("temporaryHold", "Temporary"), ("eventBasedHold", "Event-Based")):
            if resource.get(hold):
                message = f"{name} is under active {kind} hold and cannot be deleted, overwritten or archived"
                raise ApiError(403, "forbidden", f"{message} until hold is removed.")
        until = max(
            resource.get("retentionExpirationTime", ""), resource.get("retention", {}).get("retainUntilTime", "")
        )
        if until and datetime.fromisoformat(until) > self._clock():
            message = f"{name} is subject to bucket's retention policy or object retention and cannot be deleted or"
            raise ApiError(403, "retentionPolicyNotMet", f"{message} overwritten until {until}")

    def _retire(self, owner: Resource, found: tuple[Resource, str]) -> None:
        resource = found[0]
        if not owner.get("versioning", {}).get("enabled"):
            self._remove(resource)
            return
        resource["timeDeleted"] = self.now()
        self._db.execute(
            "UPDATE objects SET live = 0, resource = ? WHERE bucket = ? AND name = ? AND generation = ?",
            [orjson.dumps(resource).decode(), resource["bucket"], resource["name"], int(resource["generation"])],
        )

    def _remove(self, resource: Resource) -> None:
        self._db.execute(
            "DELETE FROM objects WHERE bucket = ? AND name = ? AND generation = ?",
            [resource["bucket"], resource["name"], int(resource["generation"])],
        )

    def discard(self, content_id: str) -> None:
        """Remove a content that no generation has any more."""
        if not self._db.execute("SELECT 1 FROM objects WHERE content = ? LIMIT 1", [content_id]).fetchall():
            (self._contents / content_id[:2] / content_id).unlink(missing_ok=True)

    def rewrite(self, source: tuple[Resource, str], bucket: str, name: str, editable: Resource) -> Resource:
        """Make a new generation with the source's content."""
        resource, content_id = source
        facts: Resource = {key: resource[key] for key in ("size", "md5Hash", "crc32c")}
        return self.insert(bucket, name, editable, facts, content_id)


def storage_class_of(name: str) -> str:
    """Give a class's name, if it is one. Raises ``ApiError`` 400."""
    if name not in STORAGE_CLASSES:
        raise ApiError(400, "invalid", f"Invalid storage class {name}.")
    return name


def timestamp(at: datetime) -> str:
    """Write a time as the API does."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _etag(resource: Resource) -> str:
    state = f"{resource['generation']}/{resource['metageneration']}"
    return base64.b64encode(state.encode()).decode()
