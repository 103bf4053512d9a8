"""Azure Storage resource logs: JSON, one record a line.

They come in the containers insights-logs-storageread, -storagewrite and -storagedelete.
Format: learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference. Exports by other tools wrap the records
in an envelope (``{"records": [...]}``) or print them over many lines; both are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import duckdb
import polars as pl

from cloudflux.access_logs.blocks import Block
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.parsed import (
    MAX_BYTES_SENT,
    ParsedFile,
    is_excluded,
    parsed_file,
    plausible,
)
from cloudflux.domain.exclusions import Exclusions

# Reads of properties, metadata and tags, and listings, are no use of a blob's content. Blocks are no writes, their
# commit is. CopyBlob logs three records with one request id (operationCount 0, 1, 2): the request itself is the write
# of its target, CopyBlobSource the read of its source, and CopyBlobDestination would count the write again.
KINDS: Final = {
    "GetBlob": "read",
    "ReadFile": "read",
    "QueryBlobContents": "read",
    "CopyBlobSource": "read",
    "PutBlob": "write",
    "PutBlobFromURL": "write",
    "PutBlockList": "write",
    "CopyBlob": "write",
    "FlushFile": "write",
    "DeleteBlob": "delete",
    "DeleteFile": "delete",
    "SetBlobTier": "tier",
}

_PATHS: Final = {
    "time": "$.time",
    "operation": "$.operationName",
    "status": "$.statusCode",
    "request_id": "$.correlationId",
    "uri": "$.uri",
    "object_key": "$.properties.objectKey",
    "bytes_sent": "$.properties.responseBodySize",
    "agent": "$.properties.userAgentHeader",
    "requester": "$.identity.requester.objectId",
}

# The object's key is logged as it is, `/account/container/blob`; the source of a copy as a URL, whose path is encoded.
_SQL: Final = r"""
WITH records AS (
    SELECT file, line, text, unnest(CASE
        WHEN NOT json_valid(text) THEN [NULL]
        WHEN json_type(text, '$.records') = 'ARRAY' THEN json_extract(text, '$.records[*]')
        ELSE [text::JSON] END)::VARCHAR AS record
    FROM lines
), fields AS (
    SELECT file, line, text,
        CASE WHEN json_type(record) = 'OBJECT' THEN json_extract_string(record, $paths) END AS f
    FROM records
), named AS (
    SELECT file, line, text, f IS NULL AS unread, {columns} FROM fields
), located AS (
    SELECT *,
        CASE WHEN object_key LIKE '/%'
            THEN regexp_extract(object_key, '(?s)^/[^/]*/([^/]+)/(.+)$', ['bucket', 'key'])
            ELSE regexp_extract(
                coalesce(nullif(object_key, ''), uri),
                '^[a-z]+://[^/]+/([^/?]+)/([^?]+)', ['bucket', 'key']) END AS name,
        object_key LIKE '/%' AS is_plain
    FROM named
)
SELECT file, line, text, unread, operation, request_id, agent, requester,
    try_cast(time AS TIMESTAMP) AS at,
    try_cast(status AS INTEGER) AS code,
    CASE WHEN bytes_sent IS NULL THEN 0 ELSE try_cast(bytes_sent AS BIGINT) END AS bytes_sent,
    nullif(name.bucket, '') AS bucket,
    CASE WHEN is_plain THEN name.key ELSE try(url_decode(replace(name.key, '+', '%2B'))) END AS key
FROM located ORDER BY file, line
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files."""
    frame = _one_record_a_line(block.frame())
    found = _fields(frame)
    # A 304 is a read of no bytes: ClientOtherError, which is billed (storage-analytics-logged-operations-and-status-
    # messages). Other redirects do not occur; what failed used nothing.
    succeeded = pl.col("code").is_between(200, 299) | (pl.col("code") == 304)
    kind = pl.col("operation").replace_strict(KINDS, default=None, return_dtype=pl.String)
    found = found.with_columns(
        pl.when(succeeded).then(kind).alias("kind"),
        is_excluded(pl.col("agent"), pl.col("requester"), exclusions).alias("excluded"),
        pl.col("at").dt.replace_time_zone("UTC"),
    )
    reason = (
        pl.when(pl.col("unread"))
        .then(pl.lit("not a resource log record: no JSON object"))
        .when(pl.col("operation").is_null())
        .then(pl.lit("not a resource log record: no operationName"))
        .when(pl.col("code").is_null())
        .then(pl.lit("statusCode is not a number"))
        .when(pl.col("bytes_sent").is_null() | ~pl.col("bytes_sent").is_between(0, MAX_BYTES_SENT))
        .then(pl.lit("responseBodySize is beyond any blob's size"))
        .when(
            pl.col("kind").is_not_null()
            & (pl.col("bucket").is_null() | (pl.col("key").fill_null("") == "") | pl.col("key").str.contains("\0"))
        )
        .then(pl.lit("the record names no container and blob"))
        .otherwise(plausible(block, pl.col("at")))
    )
    found = found.with_columns(reason.alias("reason"))
    rejects = found.filter(pl.col("reason").is_not_null())
    records = found.filter(pl.col("reason").is_null() & pl.col("kind").is_not_null())
    readable = found.filter(pl.col("reason").is_null())
    total = dict(found.group_by("file").len().iter_rows())
    return parsed_file(block, records, rejects, readable=readable, total=total)


def _fields(frame: pl.DataFrame) -> pl.DataFrame:
    columns = ", ".join(f"f[{position}] AS {name}" for position, name in enumerate(_PATHS, start=1))
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("lines", frame.to_arrow())
        found: pl.DataFrame = connection.sql(_SQL.format(columns=columns), params={"paths": list(_PATHS.values())}).pl()
    return found.with_columns(pl.col("at").cast(pl.Datetime("us")))


def _one_record_a_line(frame: pl.DataFrame) -> pl.DataFrame:
    """Give files that print a record over many lines one line a record; leave all others as they are."""
    opening = pl.col("text").str.strip_chars().is_in(["{", "[", "},{", "[{"])
    printed = frame.filter(opening)["file"].unique().to_list()
    if not printed:
        return frame
    rewritten = [
        (file, line, text)
        for file in sorted(printed)
        for line, text in _documents(frame.filter(pl.col("file") == file))
    ]
    return pl.concat(
        [
            frame.filter(~pl.col("file").is_in(printed)),
            pl.DataFrame(rewritten, schema=frame.schema, orient="row"),
        ]
    )


def _documents(frame: pl.DataFrame) -> Iterator[tuple[int, str]]:
    """Read JSON objects wherever they start and end; a line that starts none is given as it is."""
    numbers: list[int] = frame["line"].to_list()
    texts: list[str] = frame["text"].to_list()
    whole = "\n".join(texts)
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text) + 1)
    decoder = json.JSONDecoder()
    position, index = 0, 0
    while position < len(whole):
        while index + 1 < len(starts) and starts[index + 1] <= position:
            index += 1
        if whole[position] in " \t\r\n,":
            position += 1
            continue
        try:
            value, position_after = decoder.raw_decode(whole, position)
        except (json.JSONDecodeError, RecursionError):
            value, position_after = None, position
        documents = value if isinstance(value, list) else [value]
        if position_after > position and all(isinstance(document, dict) for document in documents):
            yield from ((numbers[index], _compact(document)) for document in documents)
            position = position_after
        else:
            yield numbers[index], texts[index]
            position = starts[index + 1]


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


FORMAT: Final = LogFormat("azure_resource", parse)
