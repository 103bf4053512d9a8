"""How objects of Google Cloud Storage are looked at, and what of their buckets decides how they are rewritten."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

from cloudflux.domain.errors import BucketNotFound, ObjectNotFound
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.providers import gcp_requests
from cloudflux.providers.batches import (
    EVERYTHING_REFUSED,
    Answer,
    Patience,
    ask,
    ask_in_batch,
    look_at,
    look_in_each_bucket,
)
from cloudflux.providers.gcp_answers import refusal, state_of, without_key_version
from cloudflux.providers.gcp_requests import BATCH_CALLS, Call, ObjectRequests
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import PAGE_OBJECTS
from cloudflux.providers.workers import Workers

_CARRIED: Final = (
    "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType", "contexts", "customTime",
    "eventBasedHold", "kmsKeyName", "metadata", "temporaryHold",
)  # fmt: skip
"""What a rewrite must be told of an object, or it is lost. Retention is not: an object under it is not moved."""
REMEMBERED: Final = 20_000
"""For how many of the objects looked at last it is known what a rewrite needs beside their state."""
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What of a bucket decides how its objects are rewritten."""

    versioned: bool
    autoclass: bool
    has_acls: bool
    soft_delete_days: int
    """For how long the bucket keeps, and bills, what is deleted or overwritten."""


class Source(NamedTuple):
    """What a rewrite needs to know of an object beside its state."""

    etag: str
    generation: str
    metageneration: str
    carried: Mapping[str, Any]


class ObjectLooks:
    """Looks at objects and buckets, and remembers of each object what a rewrite depends on. Safe between threads."""

    def __init__(
        self,
        requests: ObjectRequests,
        *,
        workers: Workers,
        pace_of: Callable[[str], Pace],
        patience: Patience,
        clock: Callable[[], datetime],
    ) -> None:
        self._requests = requests
        self._workers = workers
        self._pace_of = pace_of
        self._patience = patience
        self._clock = clock  # tells only whether a retention is over
        self._facts: dict[str, BucketFacts] = {}
        self._facts_lock = threading.Lock()
        self._sources: OrderedDict[tuple[str, str], Source] = OrderedDict()
        """Of the objects looked at last: a state has no metageneration, on which a rewrite is conditional."""
        self._sources_lock = threading.Lock()

    def head(self, ref: ObjectRef) -> ObjectState:
        """Tell the state of the live object of that name. Raises ``ObjectNotFound``."""
        call = gcp_requests.look(ref.bucket, ref.key)
        answer = ask(lambda: self._requests.call(call), self._pace_of(ref.bucket), self._patience, ref.uri)
        if answer.status != 200:
            raise refusal(answer, ref.uri)
        return self.seen(ref.bucket, [answer.content])[0]

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order; None for one that is not there.

        Where they lie close together they are listed, at most 1,000 in a request; the others are asked for in batches.
        """

        def look(bucket: str, keys: Sequence[str]) -> Mapping[str, ObjectState | Unseen | None]:
            return look_at(
                keys,
                ref_of=partial(ObjectRef, Provider.GCP, bucket),
                list_from=self._list_from(bucket),
                look=self._look(bucket),
                page_objects=PAGE_OBJECTS,
                look_batch=BATCH_CALLS,
                workers=self._workers,
            )

        return look_in_each_bucket(refs, look)

    def bucket_facts(self, bucket: str) -> BucketFacts:
        """Tell what of a bucket decides how its objects are rewritten.

        Raises ``BucketNotFound``, or what its owner or network stands in the way with.
        """
        with self._facts_lock:
            if bucket not in self._facts:
                what = f"bucket {bucket!r}"
                answer = ask(lambda: self._requests.bucket(bucket), self._pace_of(bucket), self._patience, what)
                if answer.status == 404:
                    raise BucketNotFound(f"there is no bucket {bucket!r}")
                if answer.status != 200:
                    raise refusal(answer, what)
                told = answer.content
                uniform = told.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {}).get("enabled")
                kept = told.get("softDeletePolicy", {})
                self._facts[bucket] = BucketFacts(
                    versioned=bool(told.get("versioning", {}).get("enabled")),
                    autoclass=bool(told.get("autoclass", {}).get("enabled")),
                    has_acls=not uniform,
                    soft_delete_days=-(-int(kept.get("retentionDurationSeconds", 0)) // _DAY_SECONDS),
                )
            return self._facts[bucket]

    def asked(self, bucket: str, calls: Mapping[str, Call]) -> list[Answer | None]:
        """Send calls that may be repeated as one batch."""

        def send(keys: Sequence[str]) -> Answer | Sequence[Answer]:
            return self._requests.batch([calls[key] for key in keys])

        return ask_in_batch(list(calls), send, self._pace_of(bucket), self._patience)

    def listing(self, bucket: str, prefix: str, start: str = "") -> Iterator[list[Mapping[str, Any]]]:
        """List live objects from a key on, at most 1,000 at a time. Raises ``BucketNotFound``."""
        token = ""
        while True:
            items, token = self._page(bucket, prefix, start=start, token=token, limit=PAGE_OBJECTS)
            if items:
                yield items
            if not token:
                return

    def seen(self, bucket: str, items: Sequence[Mapping[str, Any]]) -> list[ObjectState]:
        """Give objects' states, and remember what a rewrite of them needs beside."""
        sources = {(bucket, item["name"]): _source_of(item) for item in items}
        with self._sources_lock:
            # looked at again they become the newest
            for named_so in sources.keys() & self._sources.keys():
                del self._sources[named_so]
            self._sources.update(sources)
            while len(self._sources) > REMEMBERED:
                self._sources.popitem(last=False)
        return [self.state(bucket, item) for item in items]

    def source(self, state: ObjectState) -> Source | None:
        """Give what a rewrite needs beside an object's state, if the object was looked at by this client."""
        with self._sources_lock:
            source = self._sources.get((state.ref.bucket, state.ref.key))
        return source if source is not None and source.etag == state.etag else None

    def state(self, bucket: str, item: Mapping[str, Any]) -> ObjectState:
        """Read the state out of an object's resource."""
        return state_of(bucket, item, self._clock)

    def _look(self, bucket: str) -> Callable[[Sequence[str]], list[ObjectState | Unseen | None]]:
        def look(keys: Sequence[str]) -> list[ObjectState | Unseen | None]:
            found: list[ObjectState | Unseen | None] = []
            calls = {key: gcp_requests.look(bucket, key) for key in keys}
            for key, answer in zip(keys, self.asked(bucket, calls), strict=True):
                ref = ObjectRef(Provider.GCP, bucket, key)
                if answer is None:
                    found.append(Unseen(ref, f"{ref.uri} could not be looked at: it was not served", passing=True))
                elif answer.status == 200:
                    found += self.seen(bucket, [answer.content])
                else:
                    error = refusal(answer, ref.uri)
                    if isinstance(error, EVERYTHING_REFUSED):
                        raise error
                    gone = isinstance(error, ObjectNotFound)
                    found.append(None if gone else Unseen(ref, str(error), passing=False))
            return found

        return look

    def _list_from(self, bucket: str) -> Callable[[str, str, int], tuple[list[ObjectState], bool]]:
        def page(start: str, prefix: str, limit: int) -> tuple[list[ObjectState], bool]:
            items, token = self._page(bucket, prefix, start=start, limit=limit)
            return self.seen(bucket, items), bool(token)

        return page

    def _page(self, bucket: str, prefix: str, **asked: Any) -> tuple[list[Mapping[str, Any]], str]:
        what = f"bucket {bucket!r}"
        answer = ask(
            lambda: self._requests.list_page(bucket, prefix, **asked), self._pace_of(bucket), self._patience, what
        )
        if answer.status == 404:
            raise BucketNotFound(f"there is no bucket {bucket!r}")
        if answer.status != 200:
            raise refusal(answer, what)
        return answer.content.get("items", []), answer.content.get("nextPageToken", "")


def _source_of(item: Mapping[str, Any]) -> Source:
    carried = {name: item[name] for name in _CARRIED if name in item}
    if "kmsKeyName" in carried:
        # Named with a key's version it would be refused: a rewrite takes the newest.
        carried["kmsKeyName"] = without_key_version(carried["kmsKeyName"])
    return Source(item["etag"], item["generation"], item["metageneration"], carried)
