"""CloudTrail's S3 data events: gzip files with ``{"Records": [...]}``, as a rule on one line of many megabytes.

Format: AmazonS3/latest/userguide/cloudtrail-logging-s3-info.html and awscloudtrail/latest/userguide/
cloudtrail-event-reference-record-contents.html. Files lie below
``AWSLogs/<account>/CloudTrail/<region>/YYYY/MM/DD/<account>_CloudTrail_<region>_YYYYMMDDTHHmmZ_<id>.json.gz``, by the
time of their delivery. Digests, Insights events and management events of the same bucket tell of no object and are
passed over. Delivery is at least once: records are told apart by their ``eventID``, or by the ``sharedEventID`` of
those that CloudTrail gives to several accounts for one request (cloudtrail-logging-s3-info, cross-account scenarios).

Lifecycle's own work is not in CloudTrail (AmazonS3/latest/userguide/lifecycle-and-other-bucket-config.html); requests
that another AWS service makes on its behalf are tier events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import Block
from cloudflux.access_logs.columns import duckdb_with
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.drift import new_fields, notice, unknown_operations
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.json_records import JsonRecords, listed, moment, sampled_records, timed, times
from cloudflux.access_logs.parsed import ParsedFile, assembled, with_excluded
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.objects import MAX_OBJECT_BYTES

# As in the server access logs: HEAD, tagging, ACLs and listings are no use of an object's content; parts are no
# writes, their completion is. A copy is one event: the write of its target, and the read of the source that it names.
KINDS: Final = {
    "GetObject": "read",
    "SelectObjectContent": "read",
    "PutObject": "write",
    "PostObject": "write",
    "CopyObject": "write",
    "CompleteMultipartUpload": "write",
    "DeleteObject": "delete",
    "RestoreObject": "tier",
}
_COPIES: Final = ("CopyObject", "UploadPartCopy")
_OBJECT_OPERATION: Final = re.compile(r"Object|Upload")
_OTHER_OPERATIONS: Final = re.compile(
    r"^(Head|List)|Acl|Tagging|Retention|LegalHold|LockConfiguration|Attributes|Torrent|Encryption|Annotation"
    r"|^(CreateMultipartUpload|AbortMultipartUpload|UploadPart|UploadPartCopy|DeleteObjects|WriteGetObjectResponse"
    r"|RenameObject)$"
)

_FIELD_NAMES: Final = """
    eventVersion userIdentity eventTime eventSource eventName awsRegion sourceIPAddress userAgent errorCode
    errorMessage requestParameters responseElements additionalEventData requestID eventID readOnly resources
    eventType managementEvent recipientAccountId sharedEventID vpcEndpointId vpcEndpointAccountId eventCategory
    tlsDetails apiVersion serviceEventDetails addendum sessionCredentialFromConsole edgeDeviceDetails insightDetails
    eventContext userIdentity.type userIdentity.userName userIdentity.principalId userIdentity.arn
    userIdentity.accountId userIdentity.accessKeyId userIdentity.sessionContext userIdentity.invokedBy
    userIdentity.identityProvider userIdentity.inScopeOf userIdentity.onBehalfOf userIdentity.credentialId
    additionalEventData.bytesTransferredIn additionalEventData.bytesTransferredOut
    additionalEventData.SignatureVersion additionalEventData.CipherSuite additionalEventData.AuthenticationMethod
    additionalEventData.x-amz-id-2 additionalEventData.SSEApplied additionalEventData.vpcEndpointId
    additionalEventData.objectRetentionInfo
"""
KNOWN_FIELDS: Final = frozenset(_FIELD_NAMES.split())


def _is_other(document: Mapping[str, Any]) -> bool:
    """Tell digest files and Insights events, which have no eventName."""
    return (
        "digestStartTime" in document
        or "insightDetails" in document
        or document.get("eventType") == "AwsCloudTrailInsight"
    )


_RECORDS: Final = JsonRecords(first_keys=("eventVersion",), is_other=_is_other)
_PATHS: Final = {
    "time": "$.eventTime",
    "source": "$.eventSource",
    "operation": "$.eventName",
    "is_management": "$.managementEvent",
    "error": "$.errorCode",
    "event_id": "$.eventID",
    "shared_id": "$.sharedEventID",
    "category": "$.eventCategory",
    "bucket_name": "$.requestParameters.bucketName",
    "key": "$.requestParameters.key",
    "copy_source": '$.requestParameters."x-amz-copy-source"',
    "sent_text": "$.additionalEventData.bytesTransferredOut",
    "agent": "$.userAgent",
    "invoked_by": "$.userIdentity.invokedBy",
}
_REQUESTER_PATHS: Final = {"arn": "$.userIdentity.arn"}

_SQL: Final = r"""
WITH extracted AS (
    SELECT file, line, text, try(json_extract_string(text, $paths)) AS f FROM lines
), fields AS (
    SELECT file, line, text, f IS NOT NULL AS is_json, {columns} FROM extracted
), named AS (
    SELECT *, {moment} AS happened, {listed} AS listed,
        CASE WHEN sent_text IS NULL THEN 0 ELSE try_cast(sent_text AS BIGINT) END AS sent,
        coalesce(source = 's3.amazonaws.com' OR source = 's3express.amazonaws.com', false)
            AND coalesce(is_management, 'false') = 'false' AND coalesce(category, 'Data') = 'Data' AS is_data,
        coalesce(nullif(shared_id, ''), event_id) AS request_id,
        -- An access point is named by its ARN; the resources name the bucket behind it.
        CASE WHEN starts_with(bucket_name, 'arn:') THEN regexp_extract(
                try(json_extract_string(text, '$.resources'))::VARCHAR, '"arn:aws[a-z-]*:s3:::([^/"]+)', 1)
            ELSE bucket_name END AS bucket
    FROM fields
), objects AS (
    SELECT *,
        -- A 304 is a read of no bytes: S3 bills the request, and an archive class would have refused it.
        CASE WHEN is_data AND (error IS NULL OR error IN ('NotModified', '304'))
            THEN CASE WHEN listed IS NOT NULL AND contains(invoked_by, 'lifecycle') THEN 'tier' ELSE listed END
            END AS kind
    FROM named
), judged AS (
    SELECT *, CASE
    WHEN NOT is_json THEN 'not a CloudTrail record: no JSON object'
    WHEN operation IS NULL THEN CASE WHEN regexp_matches(text, '^\s*\{{')
        THEN 'not a CloudTrail record: no eventName' ELSE 'not a CloudTrail record: no JSON object' END
    WHEN is_data AND (sent IS NULL OR sent < 0 OR sent > {max_bytes})
        THEN 'bytesTransferredOut is beyond any object''s size'
    WHEN kind IS NOT NULL AND (bucket IS NULL OR bucket = '' OR key IS NULL OR key = '' OR contains(key, chr(0)))
        THEN 'the event names no bucket and key'
    {timed} END AS reason
    FROM objects
)
SELECT file, line, CASE WHEN is_data THEN nullif(bucket, '') END AS bucket, key, happened AS "at", kind, operation,
    sent AS bytes_sent, request_id, agent{requester}, is_data AND listed IS NULL AS unlisted,
    operation IS NOT NULL AS regular, reason,
    CASE WHEN is_data AND error IS NULL AND reason IS NULL THEN copy_source END AS copy_source
FROM judged
"""

# `/bucket/key?versionId=…`, URL-encoded like a form (CopyObject, x-amz-copy-source); the slash in front may be missing.
# An access point's ARN does not tell the bucket.
_SOURCES: Final = r"""
WITH sources AS (
    SELECT *, CASE WHEN starts_with(copy_source, '["') THEN json_extract_string(copy_source, '$[0]')
        ELSE copy_source END AS source
    FROM copies
), named AS (
    SELECT *, regexp_extract(
        try(url_decode(replace(regexp_replace(source, '\?versionId=[^?]*$', ''), '+', '%20'))),
        '(?s)^/?([^/]+)/(.+)$', ['bucket', 'key']) AS name
    FROM sources
)
SELECT file, line, name.bucket AS bucket, name.key AS key, "at", 'read' AS kind, operation, 0::BIGINT AS bytes_sent,
    request_id, excluded
FROM named WHERE name.key <> '' AND NOT starts_with(name.bucket, 'arn:') AND NOT contains(name.key, chr(0))
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files."""
    paths = _PATHS | (_REQUESTER_PATHS if exclusions.requesters else {})
    sql = _SQL.replace("$paths", str(list(paths.values()))).format(
        columns=", ".join(f"f[{position}] AS {name}" for position, name in enumerate(paths, start=1)),
        moment=moment("time"),
        listed=listed(KINDS),
        requester=", concat_ws(chr(10), arn, invoked_by) AS requester" if exclusions.requesters else "",
        max_bytes=MAX_OBJECT_BYTES,
        timed=timed(),
    )
    found = with_excluded(_RECORDS.found(block.lines, sql, times(block)), exclusions)
    unknown = unknown_operations(block, found, _OBJECT_OPERATION, _OTHER_OPERATIONS)
    return assembled(block, found, further=_copied_from(found), notices=[*_new_in(block), *unknown])


def _copied_from(found: pa.Table) -> pa.Table | None:
    """Give the reads of the sources of copies: they have the copy's id and name, and a key of their own."""
    copies = found.filter(pc.and_(pc.is_valid(found["copy_source"]), pc.is_in(found["operation"], pa.array(_COPIES))))
    if not copies.num_rows:
        return None
    with duckdb_with(copies=copies) as connection:
        table: pa.Table = connection.sql(_SOURCES).to_arrow_table()
    return table


def _new_in(block: Block) -> Iterator[FormatNotice]:
    names: list[tuple[int, str]] = []
    for place, record in sampled_records(block):
        if "eventName" not in record:
            continue
        version = str(record.get("eventVersion", "1"))
        if version.partition(".")[0] != "1":  # a new minor version only adds fields (record contents, eventVersion)
            yield notice(
                block, place, NoticeKind.UNKNOWN_VERSION, version,
                "the documented eventVersion is 1: the records are read as if they had it",
            )  # fmt: skip
        for name, value in record.items():
            names.append((place, name))
            if name in ("userIdentity", "additionalEventData") and isinstance(value, dict):
                names += [(place, f"{name}.{inner}") for inner in value]
    yield from new_fields(block, names, KNOWN_FIELDS)


# Below a region's folder keys are in the order of delivery.
_PASSED_OVER: Final = passed_over(r"(.*?\bCloudTrail/[a-z0-9-]+/)(\d{4})/(\d\d)/(\d\d)/", "%Y/%m/%d/")
FORMAT: Final = LogFormat("cloudtrail", parse, lined=_RECORDS.lined, passed_over=_PASSED_OVER)
