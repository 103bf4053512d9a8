"""What of a bucket of S3 Intelligent-Tiering is told to archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.domain.archive_rules import ArchiveRule
from cloudflux.providers.aws_refusals import code_of, refusal

PERMISSION: Final = "s3:GetIntelligentTieringConfiguration"
_NO_SUCH_SETTING: Final = frozenset({"501", "NotImplemented", "MethodNotAllowed", "405"})
"""What stores say that speak S3's language and have no Intelligent-Tiering with archive tiers."""


def archive_rules(s3: Any, bucket: str) -> list[ArchiveRule]:
    """Read a bucket's rules that are in force, with a boto3 ``s3`` client.

    Raises ``TransientError`` when S3 is busy or away, ``BucketNotFound``, and another ``TerminalError`` when it refuses
    (`PERMISSION` is needed).
    """
    try:
        return [
            _rule(told)
            for told in _configurations(s3, bucket)
            if told.get("Status") == "Enabled" and told.get("Tierings")
        ]
    except (ClientError, BotoCoreError) as exc:
        if code_of(exc) in _NO_SUCH_SETTING:
            return []
        raise refusal(exc, f"the Intelligent-Tiering configurations of s3://{bucket}") from exc


def _configurations(s3: Any, bucket: str) -> Iterator[Mapping[str, Any]]:
    """Give all configurations, a hundred to a page; boto3 has no paginator for them."""
    asked = {"Bucket": bucket}
    while True:
        page = s3.list_bucket_intelligent_tiering_configurations(**asked)
        yield from page.get("IntelligentTieringConfigurationList", ())
        if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _rule(told: Mapping[str, Any]) -> ArchiveRule:
    """Read a configuration: its filter is a prefix, a tag, or several of these under ``And``."""
    found = told.get("Filter", {})
    both = found.get("And", {})
    tags = [*both.get("Tags", ()), *((found["Tag"],) if "Tag" in found else ())]
    return ArchiveRule(
        name=told["Id"],
        after_days=min(tier["Days"] for tier in told["Tierings"]),
        prefix=found.get("Prefix") or both.get("Prefix") or "",
        tags={tag["Key"]: tag["Value"] for tag in tags},
    )
