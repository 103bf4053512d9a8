"""What of an S3 bucket, and of an object in it, decides whether a job of S3 Batch Operations can carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloudflux.domain.objects import ObjectState
from cloudflux.providers.aws_batch_calls import BatchCalls

_NOT_CARRIED: Final = frozenset({"website-redirect-location", "archive-status", "checksum-type"})
"""What an object's headers must not tell: a copy by a job would lose or change it."""


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What of a bucket decides which of its objects a job can carry."""

    versioned: bool
    has_acls: bool
    has_object_lock: bool
    encryption: tuple[str, str | None, bool]
    """Algorithm, key and whether bucket keys are used."""

    def lose_nothing_of(self, state: ObjectState) -> bool:
        """Tell whether an object of this bucket has nothing that the copy by a job would lose or change."""
        headers = state.headers
        return (
            headers is not None
            and not self.has_acls
            and not self.has_object_lock
            and not _NOT_CARRIED & headers.keys()
            and _encryption_of(headers) == self.encryption
        )


def facts_of(calls: BatchCalls, bucket: str) -> BucketFacts:
    """Ask what a bucket is set up to do."""
    versioning = calls.call("get_bucket_versioning", bucket)
    ownership = calls.setting("get_bucket_ownership_controls", bucket, "OwnershipControls")
    encryption = calls.setting("get_bucket_encryption", bucket, "ServerSideEncryptionConfiguration")
    lock = calls.setting("get_object_lock_configuration", bucket, "ObjectLockConfiguration")
    (rule,) = encryption.get("Rules", [{}])[:1]
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    return BucketFacts(
        versioned=versioning.get("Status") is not None,
        has_acls=all(rule["ObjectOwnership"] != "BucketOwnerEnforced" for rule in ownership.get("Rules", ())),
        has_object_lock=bool(lock),
        encryption=(
            default.get("SSEAlgorithm", "AES256"),
            default.get("KMSMasterKeyID"),
            bool(rule.get("BucketKeyEnabled")),
        ),
    )


def _encryption_of(headers: Mapping[str, str]) -> tuple[str, str | None, bool]:
    algorithm = headers.get("server-side-encryption", "AES256")
    return algorithm, headers.get("kms-key-id"), headers.get("bucket-key") == "true"
