"""Cloud Audit Logs of Cloud Storage, data access: log entries as JSON, one a line, as a sink exports them to a bucket.

Format: docs.cloud.google.com/storage/docs/audit-logging and
docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry. A sink names its files
``cloudaudit.googleapis.com/data_access/YYYY/MM/DD/hh:00:00_hh:59:59_S0.json`` by the hour that they tell of
(docs.cloud.google.com/logging/docs/export/storage). Arrays of entries (``gcloud logging read --format json``) are read
too. Entries are told apart by their ``insertId``.

The log has no byte counts: ``bytes_sent`` is 0 in every event, and what a read cost has to come from the object's size
in the inventory. It tells of requests by signed-in principals; what ``allUsers`` may read is read without an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cloudflux.access_logs.blocks import Block
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.drift import new_fields, unknown_operations
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.json_records import JsonRecords, listed, moment, sampled_records, timed, times
from cloudflux.access_logs.parsed import ParsedFile, assembled, with_excluded
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice

# A rewrite or a copy logs the read of its source and the creation of its target (audit-logging, operations). Getting an
# object and getting its metadata have the same name, so HEAD requests count as reads here; updates change metadata.
KINDS: Final = {
    "storage.objects.get": "read",
    "storage.objects.create": "write",
    "storage.objects.insert": "write",
    "storage.objects.compose": "write",
    "storage.objects.copy": "write",
    "storage.objects.rewrite": "write",
    "storage.objects.delete": "delete",
    "storage.objects.restore": "tier",
}
_OBJECT_OPERATION: Final = re.compile(r"(^|\.)objects\.")
_OTHER_OPERATIONS: Final = re.compile(
    r"\.(list|update|patch|getIamPolicy|setIamPolicy|testIamPermissions|watchAll|overrideUnlockedRetention"
    r"|setRetention|createContext|updateContext|deleteContext|bulkRestore)$"
)
LIFECYCLE: Final = "GCS Lifecycle Management"
"""The user agent of lifecycle's own requests (storage/docs/access-logs, cs_user_agent)."""
SERVICE: Final = "storage.googleapis.com"

_FIELD_NAMES: Final = """
    logName resource timestamp receiveTimestamp severity insertId httpRequest labels metadata operation trace spanId
    traceSampled sourceLocation split protoPayload errorGroups apphub apphubDestination otel protoPayload.@type
    protoPayload.serviceName protoPayload.methodName protoPayload.resourceName protoPayload.resourceLocation
    protoPayload.resourceOriginalState protoPayload.numResponseItems protoPayload.status
    protoPayload.authenticationInfo protoPayload.authorizationInfo protoPayload.policyViolationInfo
    protoPayload.requestMetadata protoPayload.request protoPayload.response protoPayload.metadata
    protoPayload.serviceData
"""
KNOWN_FIELDS: Final = frozenset(_FIELD_NAMES.split())

# Not "resource": the elements of authorizationInfo begin with it.
_RECORDS: Final = JsonRecords(first_keys=("insertId", "protoPayload", "logName", "timestamp"))
_PATHS: Final = {
    "time": "$.timestamp",
    "request_id": "$.insertId",
    "operation": "$.protoPayload.methodName",
    "service": "$.protoPayload.serviceName",
    "resource": "$.protoPayload.resourceName",
    "status": "$.protoPayload.status.code",
    "agent": "$.protoPayload.requestMetadata.callerSuppliedUserAgent",
    "principal": "$.protoPayload.authenticationInfo.principalEmail",
}

# The name is `projects/_/buckets/B/objects/O`, O as it is. An entry of another service, or none of an audit, is none of
# ours: it is readable, and no access.
_SQL: Final = r"""
WITH extracted AS (
    SELECT file, line, text, try(json_extract_string(text, {paths})) AS f FROM lines
), fields AS (
    SELECT file, line, text, f IS NOT NULL AS is_json, {columns} FROM extracted
), named AS (
    SELECT *, {moment} AS happened, coalesce(service = '{service}', false) AS is_storage,
        CASE WHEN status IS NULL THEN 0 ELSE try_cast(status AS INTEGER) END AS code, {listed} AS listed,
        regexp_extract(resource, '(?s)^projects/[^/]+/buckets/([^/]+)(?:/objects/(.+))?$', ['bucket', 'key']) AS name
    FROM fields
), objects AS (
    SELECT *, name.bucket AS bucket, name.key AS key,
        CASE WHEN is_storage AND code = 0 THEN CASE WHEN listed IS NOT NULL AND contains(agent, '{lifecycle}')
            THEN 'tier' ELSE listed END END AS kind
    FROM named
), judged AS (
    SELECT *, CASE
    WHEN NOT is_json THEN 'not a log entry: no JSON object'
    WHEN time IS NULL THEN CASE WHEN regexp_matches(text, '^\s*\{{')
        THEN 'not a log entry: no timestamp' ELSE 'not a log entry: no JSON object' END
    WHEN is_storage AND operation IS NULL THEN 'the entry has no methodName'
    WHEN code IS NULL THEN 'status.code is not a number'
    WHEN kind IS NOT NULL AND (bucket IS NULL OR bucket = '' OR key IS NULL OR key = '' OR contains(key, chr(0)))
        THEN 'the entry names no bucket and object'
    {timed} END AS reason
    FROM objects
)
SELECT file, line, CASE WHEN is_storage THEN nullif(bucket, '') END AS bucket, key, happened AS "at", kind, operation,
    0::BIGINT AS bytes_sent, request_id, agent{requester}, is_storage AND listed IS NULL AS unlisted,
    time IS NOT NULL AS regular, reason
FROM judged
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files."""
    sql = _SQL.format(
        paths=list(_PATHS.values()),
        columns=", ".join(f"f[{position}] AS {name}" for position, name in enumerate(_PATHS, start=1)),
        moment=moment("time"),
        service=SERVICE,
        listed=listed(KINDS),
        lifecycle=LIFECYCLE,
        requester=", principal AS requester" if exclusions.requesters else "",
        timed=timed(),
    )
    found = with_excluded(_RECORDS.found(block.lines, sql, times(block)), exclusions)
    unknown = unknown_operations(block, found, _OBJECT_OPERATION, _OTHER_OPERATIONS)
    return assembled(block, found, notices=[*_new_in(block), *unknown])


def _new_in(block: Block) -> Iterator[FormatNotice]:
    names: list[tuple[int, str]] = []
    for place, record in sampled_records(block):
        payload = record.get("protoPayload")
        if isinstance(payload, dict):
            names += [(place, name) for name in record] + [(place, f"protoPayload.{name}") for name in payload]
    yield from new_fields(block, names, KNOWN_FIELDS)


# By the hour of the requests; files come some hours later.
_PASSED_OVER: Final = passed_over(
    r"(.*?\bcloudaudit\.googleapis\.com/data_access/)(\d{4})/(\d\d)/(\d\d)/", "%Y/%m/%d/", days_early=1
)
FORMAT: Final = LogFormat("gcs_audit", parse, lined=_RECORDS.lined, passed_over=_PASSED_OVER)
