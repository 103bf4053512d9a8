"""How objects of Google Cloud Storage get into another class: rewritten in place, in batches of up to 100."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from cloudflux.domain.errors import CloudFluxError, ObjectLocked, ObjectNotFound, TerminalError, TransientError
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers import gcp_requests
from cloudflux.providers.batches import (
    EVERYTHING_REFUSED,
    NOT_ACTED_ON,
    UNCERTAIN,
    Answer,
    Patience,
    change_in_batch,
    unavailable_or_refused,
)
from cloudflux.providers.gcp_answers import named, refusal
from cloudflux.providers.gcp_looks import REMEMBERED, BucketFacts, ObjectLooks, Source
from cloudflux.providers.gcp_requests import BATCH_CALLS, ObjectRequests
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import TierCapabilities, unknown_class
from cloudflux.providers.workers import Workers

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Ready:
    """A change that can go ahead, with the object as it was just seen."""

    change: TierChange
    source: Source | None
    """None: of an object that is in its class already."""


class ObjectMoves:
    """Moves objects that were looked at."""

    def __init__(
        self,
        requests: ObjectRequests,
        looks: ObjectLooks,
        capabilities: TierCapabilities,
        *,
        workers: Workers,
        pace_of: Callable[[str], Pace],
        patience: Patience,
        may_remove: Callable[[str], bool],
    ) -> None:
        self._requests = requests
        self._looks = looks
        self._capabilities = capabilities
        self._workers = workers
        self._pace_of = pace_of
        self._patience = patience
        self._may_remove = may_remove

    def change(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Move each object to its class, if it is still the one that was seen."""
        results: list[TierChangeResult | None] = [None] * len(changes)
        ready: dict[int, _Ready] = {}
        moves: dict[str, list[int]] = {}
        made: dict[str, list[int]] = {}
        standings: dict[str, BucketFacts | CloudFluxError] = {}
        for number, (change, (state, source)) in enumerate(zip(changes, self._just_seen(changes), strict=True)):
            bucket = change.seen.ref.bucket
            standing = standings.get(bucket)
            if standing is None:
                standing = standings[bucket] = self._standing(bucket)
            decided = self._decided(change, state, standing)
            if decided is None and source is not None and isinstance(state, ObjectState):
                ready[number] = _Ready(_as_seen(change, state), source)
                moves.setdefault(bucket, []).append(number)
            elif decided is None:
                detail = f"more than {REMEMBERED} objects were looked at before it was moved"
                results[number] = TierChangeResult(change.ref, ChangeOutcome.UNAVAILABLE, detail)
            else:
                results[number] = decided
                if decided.outcome is ChangeOutcome.CHANGED and isinstance(state, ObjectState):
                    ready[number] = _Ready(_as_seen(change, state), None)
                    made.setdefault(bucket, []).append(number)

        def finish(numbers: list[int]) -> list[TierChangeResult]:
            return self._finish([ready[number].change for number in numbers])

        def move(numbers: list[int]) -> list[TierChangeResult]:
            return self._move([ready[number] for number in numbers])

        for numbers, outcomes in self._batched(finish, made) + self._batched(move, moves):
            for number, outcome in zip(numbers, outcomes, strict=True):
                results[number] = outcome
        return [result for result in results if result is not None]

    def _batched(
        self, work: Callable[[list[int]], list[TierChangeResult]], numbers_of: Mapping[str, list[int]]
    ) -> list[tuple[list[int], list[TierChangeResult]]]:
        batches = [
            numbers[first : first + BATCH_CALLS]
            for numbers in numbers_of.values()
            for first in range(0, len(numbers), BATCH_CALLS)
        ]
        return list(zip(batches, self._workers.map(work, batches), strict=True))

    def _just_seen(self, changes: Sequence[TierChange]) -> list[tuple[ObjectState | Unseen | None, Source | None]]:
        """Give the objects' states of now: those that came with the changes, and looks at the others.

        A state that another process looked at does not tell the metageneration on which the rewrite is to depend: such
        an object is looked at again.
        """
        sources = [self._looks.source(change.now) if change.now is not None else None for change in changes]
        bare = [change.ref for change, source in zip(changes, sources, strict=True) if source is None]
        looked = iter(self._looks.head_many(bare))
        seen: list[tuple[ObjectState | Unseen | None, Source | None]] = []
        for change, source in zip(changes, sources, strict=True):
            if source is not None:
                seen.append((change.now, source))
            else:
                state = next(looked)
                seen.append((state, self._looks.source(state) if isinstance(state, ObjectState) else None))
        return seen

    def _standing(self, bucket: str) -> BucketFacts | CloudFluxError:
        """Tell of a bucket what decides how its objects are rewritten, or why it does not say."""
        try:
            return self._looks.bucket_facts(bucket)
        except EVERYTHING_REFUSED:
            raise
        except (TerminalError, TransientError) as exc:
            return exc

    def _decided(
        self, change: TierChange, now: ObjectState | Unseen | None, facts: BucketFacts | CloudFluxError
    ) -> TierChangeResult | None:
        """Tell why nothing needs to be rewritten, or must not be; None: it can go ahead."""
        if now is None:
            return TierChangeResult(change.ref, ChangeOutcome.NOT_FOUND, "the object is gone")
        if isinstance(now, Unseen):
            return unavailable_or_refused(change, now)
        bucket = now.ref.bucket
        outcome, detail = None, ""
        if change.to_class not in self._capabilities.classes:
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, unknown_class(Provider.GCP, change.to_class))
        if isinstance(facts, CloudFluxError):
            passing = isinstance(facts, TransientError)
            outcome = ChangeOutcome.UNAVAILABLE if passing else ChangeOutcome.ERROR
            return TierChangeResult(change.ref, outcome, str(facts))
        unchanged = now.etag == change.seen.etag
        if now.storage_class == change.to_class and (unchanged or same_content(change.seen, now)):
            outcome, detail = ChangeOutcome.CHANGED, "already there"
        elif not unchanged or (change.now is not None and change.now.etag != now.etag):
            outcome, detail = ChangeOutcome.CONFLICT, f"it was {named(change.seen)} and is {named(now)}"
        elif now.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif facts.autoclass:
            outcome = ChangeOutcome.ERROR
            detail = f"Autoclass decides the classes in bucket {bucket!r}: say `autopilot: true` of it in the estate"
        elif facts.versioned and not self._may_remove(bucket):
            outcome = ChangeOutcome.ERROR
            detail = (
                f"bucket {bucket!r} keeps versions, and the one that a move supersedes would be billed for ever: "
                "allow remove_superseded_versions for it"
            )
        return None if outcome is None else TierChangeResult(change.ref, outcome, detail)

    def _finish(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Remove what an earlier attempt at changes that are made already has left behind."""
        done = [TierChangeResult(change.ref, ChangeOutcome.CHANGED, "already there") for change in changes]
        bucket = changes[0].ref.bucket
        if not self._looks.bucket_facts(bucket).versioned:
            return done
        superseded = [
            number
            for number, change in enumerate(changes)
            if change.now is not None
            and change.seen.ref.version_id is not None
            and change.seen.ref.version_id != change.now.ref.version_id
        ]
        if superseded and self._may_remove(bucket):
            for number, left in zip(superseded, self._remove([changes[n] for n in superseded]), strict=True):
                if left is not None:
                    done[number] = TierChangeResult(changes[number].ref, ChangeOutcome.ERROR, left)
        return done

    def _move(self, batch: Sequence[_Ready]) -> list[TierChangeResult]:
        """Rewrite one batch of objects of one bucket."""
        changes = [ready.change for ready in batch]
        sources = {ready.change.seen.ref.key: ready.source for ready in batch if ready.source is not None}
        bucket = changes[0].seen.ref.bucket
        facts = self._looks.bucket_facts(bucket)
        acls, refused = self._acls(changes) if facts.has_acls else ({}, {})
        tokens: dict[str, str] = {}

        def send(pending: Sequence[TierChange]) -> Answer | Sequence[Answer]:
            calls = []
            for change in pending:
                key = change.seen.ref.key
                source = sources[key]
                body = {**source.carried, **acls.get(key, _NOTHING), "storageClass": change.to_class}
                conditions = {"generation": source.generation, "metageneration": source.metageneration}
                calls.append(gcp_requests.rewrite(bucket, key, body, token=tokens.get(key), **conditions))
            answer = self._requests.batch(calls)
            if isinstance(answer, Answer) and answer.status not in NOT_ACTED_ON | UNCERTAIN:
                error = refusal(answer, f"a batch of {len(pending)} objects in bucket {bucket!r}")
                if isinstance(error, EVERYTHING_REFUSED):
                    raise error
            return answer

        results = dict(refused)
        pending = [change for change in changes if change.seen.ref.key not in refused]
        while pending:
            sent = change_in_batch(
                pending,
                send=send,
                read=self._read,
                look=self._settled,
                pace=self._pace_of(bucket),
                patience=self._patience,
            )
            results.update((result.ref.key, result) for result in sent)
            # A long rewrite gives a token, and goes on when it is called again with it.
            tokens = {result.ref.key: result.detail for result in sent if result.outcome is ChangeOutcome.PENDING}
            pending = [change for change in pending if change.seen.ref.key in tokens] if tokens else []
        if facts.versioned:
            moved = [change for change in changes if results[change.seen.ref.key].outcome is ChangeOutcome.CHANGED]
            for change, left in zip(moved, self._remove(moved) if moved else [], strict=True):
                if left is not None:
                    key = change.seen.ref.key
                    results[key] = replace(results[key], outcome=ChangeOutcome.ERROR, detail=left)
        return [results[change.seen.ref.key] for change in changes]

    def _acls(self, changes: Sequence[TierChange]) -> tuple[dict[str, Mapping[str, Any]], dict[str, TierChangeResult]]:
        """Read the access control lists that the rewrites must carry; and tell of which objects they cannot be read."""
        bucket = changes[0].ref.bucket
        acls: dict[str, Mapping[str, Any]] = {}
        refused: dict[str, TierChangeResult] = {}
        calls = {change.ref.key: gcp_requests.look(bucket, change.ref.key, acl=True) for change in changes}
        for change, answer in zip(changes, self._looks.asked(bucket, calls), strict=True):
            outcome, detail = None, ""
            if answer is None:
                outcome, detail = ChangeOutcome.UNAVAILABLE, "its access control list could not be read"
            elif answer.status == 404:
                outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
            elif answer.status != 200:
                outcome, detail = ChangeOutcome.ERROR, str(refusal(answer, change.ref.uri))
            elif change.now is not None and answer.content.get("etag") != change.now.etag:
                outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            elif "acl" in answer.content:
                acls[change.ref.key] = {"acl": answer.content["acl"]}
            if outcome is not None:
                refused[change.ref.key] = TierChangeResult(change.ref, outcome, detail)
        return acls, refused

    def _read(self, change: TierChange, answer: Answer) -> TierChangeResult:
        """Read the answer to one rewrite; PENDING, with its token, when it has to be continued."""
        outcome, detail, after = ChangeOutcome.CHANGED, "", None
        content = answer.content
        if answer.status == 200 and not content.get("done"):
            outcome, detail = ChangeOutcome.PENDING, str(content["rewriteToken"])
        elif answer.status == 200:
            after = self._looks.state(change.seen.ref.bucket, content["resource"])
            seen = change.seen
            same = after.checksum == seen.checksum or same_content(seen, after) is not False
            if after.size_bytes != seen.size_bytes or after.storage_class != change.to_class or not same:
                outcome = ChangeOutcome.ERROR
                detail = f"generation {after.ref.version_id} is not the copy that it should be"
                after = None
        elif answer.status == 412 or isinstance(refusal(answer, change.ref.uri), ObjectNotFound):
            # Overwritten, changed or deleted; or a call that was cut off was carried out after all, when we had looked.
            found = self._settled([change])[0]
            outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            if found is not None:
                return found
        else:
            error = refusal(answer, change.ref.uri)
            if isinstance(error, EVERYTHING_REFUSED):
                raise error
            outcome = ChangeOutcome.LOCKED if isinstance(error, ObjectLocked) else ChangeOutcome.ERROR
            detail = str(error)
        request_id = answer.headers.get("x-guploader-uploadid")
        return TierChangeResult(change.ref, outcome, detail, request_id, after)

    def _settled(self, changes: Sequence[TierChange]) -> list[TierChangeResult | None]:
        """Let the objects themselves tell what became of rewrites whose answers were lost; None: nothing."""
        settled: list[TierChangeResult | None] = []
        for change, state in zip(changes, self._looks.head_many([change.ref for change in changes]), strict=True):
            outcome, detail = ChangeOutcome.CONFLICT, "it was overwritten or changed meanwhile"
            if state is None:
                outcome, detail = ChangeOutcome.NOT_FOUND, "the object is gone"
            elif isinstance(state, Unseen):
                settled.append(unavailable_or_refused(change, state))
                continue
            elif state.storage_class == change.to_class and same_content(change.seen, state):
                outcome, detail = ChangeOutcome.CHANGED, "an answer was lost, the object has moved"
            elif change.now is not None and state.etag == change.now.etag:
                settled.append(None)
                continue
            settled.append(TierChangeResult(change.ref, outcome, detail))
        return settled

    def _remove(self, changes: Sequence[TierChange]) -> list[str | None]:
        """Delete the generations that were seen, which are superseded; tells what is left where that cannot be."""
        bucket = changes[0].ref.bucket
        calls = {
            change.ref.key: gcp_requests.delete_generation(bucket, change.ref.key, change.seen.ref.version_id)
            for change in changes
            if change.seen.ref.version_id is not None
        }
        asked = dict(zip(calls, self._looks.asked(bucket, calls), strict=True))
        left: list[str | None] = []
        for change in changes:
            generation = change.seen.ref.version_id
            answer = asked.get(change.ref.key)
            if answer is not None and answer.status in (200, 204, 404):
                left.append(None)
                continue
            why = "it was not served" if answer is None else str(refusal(answer, change.ref.uri))
            left.append(f"it moved, but its old generation {generation} is left and billed: {why}")
        return left


def _as_seen(change: TierChange, now: ObjectState) -> TierChange:
    return change if change.now is now else replace(change, now=now)
