"""Azure Storage resource logs: JSON, one record a line.

They come in the containers insights-logs-storageread, -storagewrite and -storagedelete, below
``resourceId=/subscriptions/…/blobServices/default/y=YYYY/m=MM/d=DD/h=HH/m=00/PT1H.json``, by the hour in which they
were received. Format: learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference and
learn.microsoft.com/azure/azure-monitor/reference/tables/storagebloblogs. Exports by other tools wrap the records in an
envelope (``{"records": [...]}``) or print them over many lines; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.azure_operations import KINDS, LIFECYCLE_AGENTS, OBJECT_OPERATION, OTHER_OPERATIONS
from cloudflux.access_logs.blocks import Block
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.drift import new_fields, notice, unknown_operations
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.json_records import JsonRecords, listed, moment, sampled_records, timed, times
from cloudflux.access_logs.parsed import (
    KIND_CODES,
    NO_KIND,
    ParsedFile,
    are_excluded,
    assembled,
    in_order,
    with_excluded,
)
from cloudflux.access_logs.scanned import kinds_of, plausible, records_of, succeeded
from cloudflux.access_logs.scanning import azure_records
from cloudflux.access_logs.scanning.texts import as_words
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.objects import MAX_OBJECT_BYTES

# monitor-blob-storage-reference, and the columns of storagebloblogs in the log's own spelling
_FIELD_NAMES: Final = """
    time resourceId category operationName operationVersion schemaVersion statusCode statusText durationMs
    callerIpAddress correlationId location protocol uri identity properties resourceType level resultType
    identity.type identity.tokenHash identity.authorization identity.requester identity.delegatedResource
    identity.requester.appId identity.requester.audience identity.requester.objectId identity.requester.tenantId
    identity.requester.tokenIssuer identity.requester.upn identity.requester.uniqueName identity.requester.userName
    properties.accountName properties.requestUrl properties.userAgentHeader properties.referrerHeader
    properties.clientRequestId properties.etag properties.serverLatencyMs properties.serviceType
    properties.operationCount properties.requestHeaderSize properties.requestBodySize properties.responseHeaderSize
    properties.responseBodySize properties.requestMd5 properties.serverMd5 properties.lastModifiedTime
    properties.conditionsUsed properties.contentLengthHeader properties.tlsVersion properties.smbTreeConnectID
    properties.smbPersistentHandleID properties.smbVolatileHandleID properties.smbMessageID
    properties.smbCreditsConsumed properties.smbCommandDetail properties.smbFileId properties.smbSessionID
    properties.smbCommandMajor properties.smbCommandMinor properties.objectKey properties.metricResponseType
    properties.downloadRange properties.accessTier properties.sourceAccessTier properties.rehydratePriority
    properties.sasExpiryStatus properties.sourceUri properties.destinationUri
"""
KNOWN_FIELDS: Final = frozenset(_FIELD_NAMES.split())

_RECORDS: Final = JsonRecords(first_keys=("time",))
_PATHS: Final = {
    "time": "$.time",
    "operation": "$.operationName",
    "status": "$.statusCode",
    "status_text": "$.statusText",
    "request_id": "$.correlationId",
    "object_key": "$.properties.objectKey",
    "sent_text": "$.properties.responseBodySize",
    "agent": "$.properties.userAgentHeader",
}
_REQUESTER_PATHS: Final = {
    "object_id": "$.identity.requester.objectId",
    "upn": "$.identity.requester.upn",
    "app_id": "$.identity.requester.appId",
}

# The object's key is logged as it is, `/account/container/blob`; the source of a copy as a URL, whose path is encoded.
_SQL: Final = r"""
WITH extracted AS (
    SELECT file, line, text, try(json_extract_string(text, {paths})) AS f FROM lines
), fields AS (
    SELECT file, line, text, f IS NOT NULL AS is_json, {columns} FROM extracted
), named AS (
    SELECT *, {moment} AS happened, try_cast(status AS SMALLINT) AS code, {listed} AS listed,
        CASE WHEN sent_text IS NULL THEN 0 ELSE try_cast(sent_text AS BIGINT) END AS sent,
        starts_with(object_key, '/') AS is_plain,
        CASE WHEN starts_with(object_key, '/')
            THEN regexp_extract(object_key, '(?s)^/[^/]*/([^/]+)/(.+)$', ['bucket', 'key'])
            WHEN is_json THEN regexp_extract(
                coalesce(nullif(object_key, ''), try(json_extract_string(text, '$.uri'))),
                '^[a-z]+://[^/]+/([^/?]+)/([^?]+)', ['bucket', 'key']) END AS name
    FROM fields
), objects AS (
    SELECT *, name.bucket AS bucket,
        -- A 304 is a read of no bytes: ClientOtherError, which is billed (storage-analytics-logged-operations-and-
        -- status-messages). Other redirects do not occur; what failed used nothing.
        -- A status tells more than its code: NetworkError has the code 200, and the client got no answer.
        CASE WHEN (code BETWEEN 200 AND 299 OR code = 304) AND NOT ends_with(coalesce(status_text, ''), 'NetworkError')
            THEN CASE WHEN listed IS NOT NULL AND ({lifecycle}) THEN 'tier' ELSE listed END END AS kind,
        CASE WHEN is_plain THEN name.key ELSE try(url_decode(replace(name.key, '+', '%2B'))) END AS key
    FROM named
), judged AS (
    SELECT *, CASE
    WHEN NOT is_json THEN 'not a resource log record: no JSON object'
    WHEN operation IS NULL THEN CASE WHEN regexp_matches(text, '^\s*\{{')
        THEN 'not a resource log record: no operationName' ELSE 'not a resource log record: no JSON object' END
    -- "Unknown" where the request was interrupted (monitor-blob-storage-reference, statusCode)
    WHEN code IS NULL AND lower(coalesce(status, '')) <> 'unknown' THEN 'statusCode is not a number'
    WHEN sent IS NULL OR sent < 0 OR sent > {max_bytes} THEN 'responseBodySize is beyond any blob''s size'
    WHEN kind IS NOT NULL AND (bucket IS NULL OR bucket = '' OR key IS NULL OR key = '' OR contains(key, chr(0)))
        THEN 'the record names no container and blob'
    {timed} END AS reason
    FROM objects
)
SELECT file, line, nullif(bucket, '') AS bucket, key, happened AS "at", kind, operation, sent AS bytes_sent,
    request_id, agent{requester}, listed IS NULL AS unlisted, operation IS NOT NULL AS regular, reason
FROM judged
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files.

    Records that are plainly regular are scanned; all others, which are few, are read by the rules below.
    """
    scanned, odd, places = _scanned(block, exclusions)
    if scanned is None:
        found = _by_rules(block, odd, places, exclusions)
    elif odd.num_rows:
        found = in_order([scanned, _by_rules(block, odd, places, exclusions)])
    else:
        found = scanned
    return assembled(block, found, notices=[*_new_in(block), *_unknown(block, found)])


def _scanned(block: Block, exclusions: Exclusions) -> tuple[pa.Table | None, pa.Table, npt.NDArray[np.int64] | None]:
    """Give the records that the scanner is sure of, None when there are none; all other lines, and their places."""
    if block.text is None or block.documents:
        return None, block.lines, None
    data = block.text.data
    words = as_words(data)
    lines = int(block.text.count.sum())
    records = azure_records.scan(data, words, block.text.size, lines, with_requesters=bool(exclusions.requesters))
    if not records.distinct[azure_records.BUCKET]:
        return None, block.lines, None
    buckets, operations, keys, agents = (records.strings(words, column) for column in range(4))
    is_lifecycle = np.array([any(mark in agent for mark in LIFECYCLE_AGENTS) for agent in agents.to_pylist()])
    kind = kinds_of(operations.to_pylist(), KINDS)[records.texts[azure_records.OPERATION]]
    unlisted = kind == NO_KIND
    kind[~unlisted & is_lifecycle[records.texts[azure_records.AGENT]]] = KIND_CODES["tier"]
    kind[~succeeded(records)] = NO_KIND
    sure = plausible(block, records)
    sure &= (kind == NO_KIND) | (pc.binary_length(keys).to_numpy() > 0)[records.texts[azure_records.KEY]]
    excluded = are_excluded(agents, "agent", exclusions)[records.texts[azure_records.AGENT]]
    for column in (azure_records.OBJECT_ID, azure_records.UPN, azure_records.APP_ID) if exclusions.requesters else ():
        requesters = are_excluded(records.strings(words, column), "requester", exclusions)
        excluded |= requesters[records.texts[column]]
    found = records_of(
        block.text,
        words,
        records,
        np.flatnonzero(sure),
        {
            "bucket": (azure_records.BUCKET, buckets),
            "key": (azure_records.KEY, keys),
            "operation": (azure_records.OPERATION, operations),
        },
        kind=kind,
        unlisted=unlisted,
        excluded=excluded,
    )
    found = found.append_column("reason", pa.nulls(found.num_rows, pa.string()))
    odd, places = block.text.some(records.begins, np.flatnonzero(~sure))
    return found, odd, places


def _by_rules(block: Block, lines: pa.Table, places: npt.NDArray[np.int64] | None, exclusions: Exclusions) -> pa.Table:
    """Give the records of any lines, by DuckDB's JSON."""
    paths = _PATHS | (_REQUESTER_PATHS if exclusions.requesters else {})
    sql = _SQL.format(
        paths=list(paths.values()),
        columns=", ".join(f"f[{position}] AS {name}" for position, name in enumerate(paths, start=1)),
        moment=moment("time"),
        listed=listed(KINDS),
        lifecycle=" OR ".join(f"contains(agent, '{agent}')" for agent in LIFECYCLE_AGENTS),
        requester=f", concat_ws(chr(10), {', '.join(_REQUESTER_PATHS)}) AS requester" if exclusions.requesters else "",
        max_bytes=MAX_OBJECT_BYTES,
        timed=timed(),
    )
    return with_excluded(_RECORDS.found(lines, sql, times(block), places), exclusions)


def _unknown(block: Block, found: Any) -> Iterator[FormatNotice]:
    return unknown_operations(block, found, OBJECT_OPERATION, OTHER_OPERATIONS)


def _new_in(block: Block) -> Iterator[FormatNotice]:
    names: list[tuple[int, str]] = []
    for place, record in sampled_records(block):
        if "operationName" not in record:
            continue
        version = record.get("schemaVersion", "1.0")
        if version != "1.0":
            yield notice(
                block, place, NoticeKind.UNKNOWN_VERSION, str(version),
                "the documented schemaVersion is 1.0: the records are read as if they had it",
            )  # fmt: skip
        names += [(place, name) for name in _field_names(record)]
    yield from new_fields(block, names, KNOWN_FIELDS)


def _field_names(record: dict[str, Any], depth: int = 2) -> Iterator[str]:
    for name, value in record.items():
        yield name
        if depth and name in ("properties", "identity", "requester") and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _field_names(value, depth - 1))


_ACCOUNT: Final = re.compile(r"(?i)/storageAccounts/([^/]+)/")


def _account_of(key: str) -> str | None:
    """Give the storage account that a file tells of, by its name."""
    found = _ACCOUNT.search(key)
    return found[1].lower() if found else None


# By the hour that received the first records; files of an hour grow on into the next.
_PASSED_OVER: Final = passed_over(
    r"(?i)(.*?/blobServices/default/)y=(\d{4})/m=(\d\d)/d=(\d\d)/", "y=%Y/m=%m/d=%d/", days_early=1
)
FORMAT: Final = LogFormat(
    "azure_resource", parse, lined=_RECORDS.lined, passed_over=_PASSED_OVER, account_of=_account_of
)
