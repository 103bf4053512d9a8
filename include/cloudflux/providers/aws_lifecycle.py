"""Amazon S3 changes the class of an object by itself: we tag the version, a rule of the bucket does the rest.

This is the way for versioned buckets whose owner lets nobody delete a superseded version, and for buckets with object
lock: nothing is copied, so there is no second version, and content, ETag, version and time stay what they were. It
costs a transition request and four tag requests an object, and time: S3 runs its rules once a day, from midnight UTC
on.

What the rules cannot do is an error of that object, and names the setting under which a copy does it:

- Transitions go one way only (user guide, "Supported lifecycle transitions"): never to STANDARD, from
  INTELLIGENT_TIERING not to STANDARD_IA, from ONEZONE_IA and GLACIER_IR only to GLACIER and DEEP_ARCHIVE.
- To STANDARD_IA and ONEZONE_IA only from 30 days after an object's creation on; a rule with fewer days is refused.
- Objects below 128 KiB stay, unless the rule says from what size on it applies (``ObjectSizeGreaterThan``). Ours do,
  from two bytes on: whether S3 takes 0 for that size is not documented.
- An object has at most ten tags, and ours is one of them while the move is under way.
- Rules of the old form, with a ``Prefix`` and no ``Filter``, tolerate none like ours beside them. They are not touched.

A bucket has one lifecycle configuration, which is read and written as a whole and without any condition. Ours are added
to what is there, read just before, and read again just after; whoever writes his own in the milliseconds between wins
or loses against us, and S3 offers nothing against that. Rules of others are written back as they were read. Rules that
got lost come back with the next submission. Object tags are likewise read just before they are written. In a bucket
without versions a tag may meet an object that was overwritten a moment before; it is taken off at the next submission.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.domain.errors import (
    AccountRefused,
    BucketNotFound,
    CloudFluxError,
    CredentialsRefused,
    ObjectNotFound,
    TerminalError,
    TransientError,
)
from cloudflux.domain.migrations import ChangeOutcome, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.tiers import Provider
from cloudflux.domain.verification import same_content
from cloudflux.providers.aws_refusals import THROTTLED, code_of, refusal
from cloudflux.providers.pace import Pace
from cloudflux.providers.protocol import TierCapabilities, unknown_class
from cloudflux.providers.workers import Workers

TAG: Final = "cloudflux-move"
"""The tag of a version that is to move; its value is the class."""
RULE: Final = "cloudflux-move-"
"""What the names of our rules begin with; the class follows."""
_INSTEAD: Final = "a copy does it, where remove_superseded_versions allows the version copied from to be deleted"
_OLD_FORM: Final = (
    "has lifecycle rules of the old form (a Prefix instead of a Filter), beside which S3 takes none for tags: "
    f"rewrite them with Filter, or {_INSTEAD}"
)
"""S3 answers InvalidRequest, "Filter element can only be used in Lifecycle V2"."""
_MOST_TAGS: Final = 10
_MOST_RULES: Final = 1000
_INFREQUENT: Final = frozenset({"STANDARD_IA", "ONEZONE_IA"})
_INFREQUENT_FROM: Final = timedelta(days=30)
_ABOVE_BYTES: Final = 1
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_COLDER: Final = {
    "STANDARD": frozenset({"STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR"}) | _ARCHIVES,
    "STANDARD_IA": frozenset({"INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR"}) | _ARCHIVES,
    "INTELLIGENT_TIERING": frozenset({"ONEZONE_IA", "GLACIER_IR"}) | _ARCHIVES,
    "GLACIER": frozenset({"DEEP_ARCHIVE"}),
    "DEEP_ARCHIVE": frozenset[str](),
}
"""What rules may move an object to, by where it is; from any other class to the archives."""
_ATTEMPTS: Final = 3


class Looker(Protocol):
    """The part of the plain client that is needed: it looks at objects."""

    @property
    def capabilities(self) -> TierCapabilities:
        """What the plain client can do."""

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to become of one change; PENDING means that the version is to be tagged."""

    change: TierChange
    now: ObjectState | None
    outcome: ChangeOutcome
    detail: str = ""

    def result(self) -> TierChangeResult:
        return TierChangeResult(self.change.ref, self.outcome, self.detail)


class LifecycleTierClient:
    """Moves objects by tags and lifecycle rules. ``looker`` is the plain client of the same bucket.

    ``change_tiers`` answers ``PENDING`` until an object is in its class; submit the change again, with the object as it
    is then, to find out. Any other answer also takes our tag off the object again, so that its tags are what they were.
    It may be killed and repeated anywhere. Moves that are not submitted again although they were pending (called off,
    skipped for another reason) have to be withdrawn, and once a plan is finished ``retire`` takes our rules out of its
    bucket.

    ``in_flight`` requests run at once, each in a thread, as fast as the bucket's pace lets them.
    """

    provider: Provider = Provider.AWS

    def __init__(
        self,
        s3: Any,
        looker: Looker,
        *,
        clock: Callable[[], datetime],
        in_flight: int = 16,
        pace_of: Callable[[str], Pace] | None = None,
    ) -> None:
        self._s3 = s3
        self._looker = looker
        self._clock = clock
        self._workers = Workers(in_flight)
        pace = Pace(max_in_flight=in_flight)
        self._pace_of = pace_of or (lambda _bucket: pace)

    @property
    def capabilities(self) -> TierCapabilities:
        """What lifecycle rules can do: nothing of an object changes but its class, and archives need no restore."""
        return replace(
            self._looker.capabilities,
            classes=frozenset().union(*_COLDER.values()),
            restore_needed_from=frozenset(),
            keeps_etag=True,
            keeps_last_modified=True,
            max_change_bytes=None,
        )

    def head_many(self, refs: Sequence[ObjectRef], *, tags: bool = True) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""
        return self._looker.head_many(refs, tags=tags)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Have each object moved to its class by S3, if it is still the one that was seen; one result for each."""
        verdicts = [self._verdict(change, now) for change, now in zip(changes, self._states(changes), strict=True)]
        classes: dict[str, set[str]] = {}
        for verdict in verdicts:
            if verdict.outcome is ChangeOutcome.PENDING:
                classes.setdefault(verdict.change.ref.bucket, set()).add(verdict.change.to_class)
        # The rules first: where they cannot be had, nothing is tagged.
        without_rules = {bucket: why for bucket in classes if (why := self._keep_rules(bucket, classes[bucket]))}

        def carry_out(verdict: _Verdict) -> TierChangeResult:
            missing = without_rules.get(verdict.change.ref.bucket)
            if verdict.outcome is ChangeOutcome.PENDING and missing is not None:
                return replace(verdict, outcome=missing[0], detail=missing[1]).result()
            return self._carry_out(verdict)

        return self._workers.map(carry_out, verdicts)

    def withdraw(self, refs: Sequence[ObjectRef]) -> int:
        """Take our tag off objects whose moves were called off or skipped; tells from how many.

        Off the version that a reference names, and off the current one, which may have inherited the tag from it by a
        copy. What is gone is fine. What S3 has begun to move by then still moves.
        """

        def withdraw(ref: ObjectRef) -> bool:
            named = ref.version_id is not None and self._untag(ref, ref.version_id)
            return self._untag(ref, None) or named

        return sum(self._workers.map(withdraw, refs))

    def retire(self, bucket: str) -> None:
        """Take our rules out of a bucket and leave all others as they are; fine when there are none of ours.

        A plan that still waits in that bucket brings them back when it is submitted again. Raises ``TransientError``
        when they are still seen afterwards: calling again is safe.
        """
        for _ in range(_ATTEMPTS):
            rules, small = self._rules(bucket)
            others = [rule for rule in rules if not _is_ours(rule)]
            if len(others) == len(rules):
                return
            if others:
                self._write_rules(bucket, others, small)
            else:  # a configuration without rules cannot be written
                self._call("delete_bucket_lifecycle", bucket)
        raise TransientError(f"bucket {bucket!r} still shows our lifecycle rules: S3 takes a while to forget them")

    def _states(self, changes: Sequence[TierChange]) -> list[ObjectState | Unseen | None]:
        """Give every object as it is now, looking only where nobody just did."""
        unseen = [change.ref for change in changes if change.now is None]
        looked = iter(self._looker.head_many(unseen, tags=True) if unseen else ())
        return [next(looked) if change.now is None else change.now for change in changes]

    def _verdict(self, change: TierChange, now: ObjectState | Unseen | None) -> _Verdict:
        if now is None:
            return _Verdict(change, None, ChangeOutcome.NOT_FOUND, "the object is gone")
        if isinstance(now, Unseen):
            outcome = ChangeOutcome.UNAVAILABLE if now.passing else ChangeOutcome.ERROR
            return _Verdict(change, None, outcome, now.reason)
        seen, outcome, detail = change.seen, ChangeOutcome.PENDING, f"S3 moves it by its rule {RULE}{change.to_class}"
        unchanged = now.etag == seen.etag and seen.ref.version_id in (None, now.ref.version_id)
        if now.storage_class == change.to_class and (unchanged or same_content(seen, now)):
            outcome, detail = ChangeOutcome.CHANGED, "" if TAG in now.tags else "already there"
        elif not unchanged:
            outcome, detail = ChangeOutcome.CONFLICT, "another version is the current one"
        elif now.lock_reason is not None:
            outcome, detail = ChangeOutcome.LOCKED, now.lock_reason
        elif (obstacle := self._obstacle(now, change.to_class)) is not None:
            outcome, detail = ChangeOutcome.ERROR, obstacle
        return _Verdict(change, now, outcome, detail)

    def _obstacle(self, now: ObjectState, to_class: str) -> str | None:
        """Tell why a lifecycle rule cannot make this move."""
        if to_class not in self._looker.capabilities.classes:
            return unknown_class(Provider.AWS, to_class)
        if to_class not in _COLDER.get(now.storage_class, _ARCHIVES):
            return f"lifecycle rules move nothing from {now.storage_class} to {to_class}: {_INSTEAD}"
        if now.size_bytes <= _ABOVE_BYTES:
            return f"lifecycle rules move nothing of {now.size_bytes} bytes: {_INSTEAD}"
        age = self._clock() - now.last_modified_at
        if to_class in _INFREQUENT and age < _INFREQUENT_FROM:
            return f"lifecycle rules move nothing to {to_class} before 30 days, it is {age.days} days old: {_INSTEAD}"
        if TAG not in now.tags and len(now.tags) >= _MOST_TAGS:
            return f"it has {len(now.tags)} tags, there is no room for ours: remove one, or {_INSTEAD}"
        return None

    def _carry_out(self, verdict: _Verdict) -> TierChangeResult:
        change, now = verdict.change, verdict.now
        if verdict.outcome is ChangeOutcome.UNAVAILABLE or (now is None and verdict.outcome is ChangeOutcome.ERROR):
            return verdict.result()  # nobody knows what is there
        try:
            if verdict.outcome is ChangeOutcome.PENDING:
                return self._tag(verdict)
            if now is not None and TAG in now.tags:
                self._untag(now.ref, now.ref.version_id)
            if change.ref.version_id is not None and (now is None or now.ref.version_id != change.ref.version_id):
                self._untag(change.ref, change.ref.version_id)  # what we tagged is no longer the current version
        except (CredentialsRefused, BucketNotFound, AccountRefused):
            raise
        except TransientError as exc:
            return TierChangeResult(change.ref, ChangeOutcome.UNAVAILABLE, str(exc))
        except CloudFluxError as exc:
            if verdict.outcome is not ChangeOutcome.CHANGED:
                detail = f"{verdict.detail}; its tag {TAG} is left: {exc}"
                return replace(verdict, detail=detail).result()
            return TierChangeResult(change.ref, ChangeOutcome.ERROR, f"it moved, but its tag {TAG} is left: {exc}")
        return verdict.result()

    def _tag(self, verdict: _Verdict) -> TierChangeResult:
        change, now = verdict.change, verdict.now
        assert now is not None  # noqa: S101  # only what was looked at is pending
        if now.tags.get(TAG) == change.to_class:
            return verdict.result()
        try:
            tags = self._tags(now.ref, now.ref.version_id)
            if len(tags.keys() - {TAG}) >= _MOST_TAGS:
                detail = f"it has {len(tags)} tags, there is no room for ours: remove one, or {_INSTEAD}"
                return replace(verdict, outcome=ChangeOutcome.ERROR, detail=detail).result()
            self._write_tags(now.ref, now.ref.version_id, {**tags, TAG: change.to_class})
        except ObjectNotFound:
            return replace(verdict, outcome=ChangeOutcome.NOT_FOUND, detail="the object is gone").result()
        except TerminalError as exc:
            if isinstance(exc, CredentialsRefused | BucketNotFound | AccountRefused):
                raise
            return replace(verdict, outcome=ChangeOutcome.ERROR, detail=str(exc)).result()
        return verdict.result()

    def _untag(self, ref: ObjectRef, version_id: str | None) -> bool:
        """Take our tag off a version; tells whether it was there. Fine when the version is gone."""
        try:
            tags = self._tags(ref, version_id)
            if TAG not in tags:
                return False
            self._write_tags(ref, version_id, {name: value for name, value in tags.items() if name != TAG})
        except ObjectNotFound:
            return False
        return True

    def _tags(self, ref: ObjectRef, version_id: str | None) -> dict[str, str]:
        answer = self._call("get_object_tagging", ref.bucket, Key=ref.key, **_version(version_id))
        return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    def _write_tags(self, ref: ObjectRef, version_id: str | None, tags: Mapping[str, str]) -> None:
        which = {"Key": ref.key, **_version(version_id)}
        if tags:
            tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
            self._call("put_object_tagging", ref.bucket, **which, Tagging={"TagSet": tag_set})
        else:
            self._call("delete_object_tagging", ref.bucket, **which)

    def _keep_rules(self, bucket: str, classes: set[str]) -> tuple[ChangeOutcome, str] | None:
        """See to it that the bucket has our rules for these classes, beside all others.

        Gives the outcome of what needs them when they cannot be had. Rules that are not seen yet although they were
        written are no such case: S3 shows a new configuration only after a while.
        """
        wanted = [_rule(storage_class) for storage_class in sorted(classes)]
        try:
            for _ in range(_ATTEMPTS):
                rules, small = self._rules(bucket)
                missing = [rule for rule in wanted if rule not in rules]
                if not missing:
                    break
                if any("Filter" not in rule for rule in rules):
                    return ChangeOutcome.ERROR, f"bucket {bucket!r} {_OLD_FORM}"
                names = {rule["ID"] for rule in missing}
                merged = [rule for rule in rules if rule.get("ID") not in names] + missing
                if len(merged) > _MOST_RULES:
                    return ChangeOutcome.ERROR, f"bucket {bucket!r} has no room for our rules among its {len(rules)}"
                self._write_rules(bucket, merged, small)
        except (CredentialsRefused, BucketNotFound, AccountRefused):
            raise
        except TransientError as exc:
            return ChangeOutcome.UNAVAILABLE, str(exc)
        except CloudFluxError as exc:
            return ChangeOutcome.ERROR, str(exc)
        return None

    def _rules(self, bucket: str) -> tuple[list[dict[str, Any]], str | None]:
        """Give all rules of a bucket, and its default for small objects."""
        try:
            answer = self._call("get_bucket_lifecycle_configuration", bucket)
        except _NoRules:
            return [], None
        return answer["Rules"], answer.get("TransitionDefaultMinimumObjectSize")

    def _write_rules(self, bucket: str, rules: Sequence[Mapping[str, Any]], small: str | None) -> None:
        # Left out, the default for small objects would go back to S3's own.
        kept = {} if small is None else {"TransitionDefaultMinimumObjectSize": small}
        configuration = {"Rules": list(rules)}
        self._call("put_bucket_lifecycle_configuration", bucket, LifecycleConfiguration=configuration, **kept)

    def _call(self, operation: str, bucket: str, **arguments: Any) -> dict[str, Any]:
        pace = self._pace_of(bucket)
        pace.admit()
        try:
            answer: dict[str, Any] = getattr(self._s3, operation)(Bucket=bucket, **arguments)
        except (ClientError, BotoCoreError) as exc:
            if code_of(exc) == "NoSuchLifecycleConfiguration":
                raise _NoRules from exc
            if code_of(exc) in THROTTLED:
                pace.throttled()
            raise refusal(exc, f"{operation} of s3://{bucket}/{arguments.get('Key', '')}") from exc
        pace.served()
        return answer


class _NoRules(CloudFluxError):
    """A bucket has no lifecycle configuration."""


def _rule(to_class: str) -> dict[str, Any]:
    return {
        "ID": f"{RULE}{to_class}",
        "Status": "Enabled",
        "Filter": {"And": {"Tags": [{"Key": TAG, "Value": to_class}], "ObjectSizeGreaterThan": _ABOVE_BYTES}},
        "Transitions": [{"Days": 30 if to_class in _INFREQUENT else 0, "StorageClass": to_class}],
    }


def _is_ours(rule: Mapping[str, Any]) -> bool:
    return str(rule.get("ID", "")).startswith(RULE)


def _version(version_id: str | None) -> dict[str, str]:
    return {} if version_id is None else {"VersionId": version_id}
