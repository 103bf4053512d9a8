"""Whether an object is still the same after a move: what must be equal, and what may differ."""

from __future__ import annotations

from collections.abc import Mapping

from cloudflux.domain.objects import ObjectState


def differences(before: ObjectState, after: ObjectState, to_class: str, *, keeps_etag: bool) -> tuple[str, ...]:
    """Name everything that is not as a move to ``to_class`` has to leave it; empty when all is well.

    The content is compared by the digests that both states have. Only when they share none does the ETag stand for the
    content, and only where it survives a move (``keeps_etag``): an S3 object that was uploaded in parts gets another
    ETag when it is copied, and there the size and the copy's own condition have to do.
    """
    if _is_plainly_equal(before, after, to_class):
        return ()
    found = []
    if after.storage_class != to_class:
        found.append(f"its class is {after.storage_class}, not {to_class}")
    if after.size_bytes != before.size_bytes:
        found.append(f"its size was {before.size_bytes} bytes and is {after.size_bytes}")
    same = same_content(before, after)
    if same is False:
        found.append(f"its checksum was {before.checksum} and is {after.checksum}")
    elif same is None and keeps_etag and after.etag != before.etag:
        found.append(f"its ETag was {before.etag} and is {after.etag}")
    if after.content_type != before.content_type:
        found.append(f"its content type was {before.content_type} and is {after.content_type}")
    found += _changes("metadata", before.metadata, after.metadata)
    found += _changes("tag", before.tags, after.tags)
    if before.headers is not None and after.headers is not None:
        found += _changes("header", *_kept_headers(before.headers, after.headers))
    return tuple(found)


def _is_plainly_equal(before: ObjectState, after: ObjectState, to_class: str) -> bool:
    """Tell whether everything is as it was, word for word: almost always so, and all that has to be known then."""
    return bool(
        after.storage_class == to_class
        and after.size_bytes == before.size_bytes
        and (after.checksum == before.checksum if before.checksum else not after.checksum and after.etag == before.etag)
        and after.content_type == before.content_type
        and after.metadata == before.metadata
        and after.tags == before.tags
        and after.headers == before.headers
    )


def _kept_headers(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Leave out what a move may change: the state of the class itself, and an encryption where there was none.

    S3 encrypts everything that is written since January 2023, also the copy of what was written before.
    """
    left_out = {"archive-status"}
    if "server-side-encryption" not in before:
        left_out |= {"server-side-encryption", "kms-key-id", "bucket-key"}
    return (
        {name: value for name, value in before.items() if name not in left_out},
        {name: value for name, value in after.items() if name not in left_out},
    )


def same_content(before: ObjectState, after: ObjectState) -> bool | None:
    """Compare the digests that both states have; None when they share none."""
    ours, theirs = _digests(before.checksum), _digests(after.checksum)
    shared = ours.keys() & theirs.keys()
    return all(ours[name] == theirs[name] for name in shared) if shared else None


def _digests(checksum: str | None) -> dict[str, str]:
    pairs = (digest.partition(":") for digest in (checksum or "").split())
    return {name: value for name, _, value in pairs}


def _changes(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{kind} {name!r} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
