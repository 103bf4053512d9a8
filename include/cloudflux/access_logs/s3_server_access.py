"""S3 server access logs: space-delimited text with 18 (2010) to 27 (today) fields and more to come.

Format: AmazonS3/latest/userguide/LogFormat.html. Trailing fields that are not known are ignored, as the page asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import duckdb
import polars as pl

from cloudflux.access_logs.source_files import (
    MAX_BYTES_SENT,
    LogFiles,
    ParsedFile,
    SourceFile,
    is_excluded,
    parsed_file,
    plausible,
    read_lines,
)

# What counts follows Intelligent-Tiering's own list (intelligent-tiering-overview.html): GetObject, PutObject, the
# source of CopyObject and UploadPartCopy, CompleteMultipartUpload do; HeadObject, tagging and listing do not.
# A copy logs two records: the read of its source and the write of its target. Single parts of an upload are no
# writes, its completion is.
KINDS: Final = {
    "REST.GET.OBJECT": "read",
    "WEBSITE.GET.OBJECT": "read",
    "SOAP.GET.OBJECT": "read",
    "REST.COPY.OBJECT_GET": "read",
    "REST.COPY.PART_GET": "read",
    "REST.PUT.OBJECT": "write",
    "REST.POST.OBJECT": "write",
    "SOAP.PUT.OBJECT": "write",
    "REST.COPY.OBJECT": "write",
    "REST.POST.UPLOAD": "write",
    "REST.DELETE.OBJECT": "delete",
    "SOAP.DELETE.OBJECT": "delete",
    "BATCH.DELETE.OBJECT": "delete",
    "REST.POST.RESTORE": "tier",
    # Lifecycle's own records (lifecycle-and-other-bucket-config.html): nobody used the object
    "S3.EXPIRE.OBJECT": "tier",
    "S3.CREATE.DELETEMARKER": "tier",
    "S3.TRANSITION.OBJECT": "tier",
    "S3.TRANSITION_SIA.OBJECT": "tier",
    "S3.TRANSITION_ZIA.OBJECT": "tier",
    "S3.TRANSITION_INT.OBJECT": "tier",
    "S3.TRANSITION_GIR.OBJECT": "tier",
    "S3.TRANSITION_GDA.OBJECT": "tier",
}

_HEAD: Final = ("owner", "bucket", "day_part", "zone_part", "ip", "requester", "request_id", "operation", "key", "tail")
_QUOTED: Final = ("before", "uri", "middle", "referer", "between", "agent", "after")
_MIDDLE: Final = ("blank", "status", "error", "bytes_sent", "size", "total_ms", "turn_ms", "end")

# The same fields where the quick split finds something odd: quotes inside quoted fields, doubled spaces, `-` in place
# of a quoted field. The request URI ends at the first quote that a status and five more fields follow, the user
# agent at the last quote of the line.
_LINE: Final = (
    r"^\S+ +(?P<bucket>\S+) +\[(?P<time>[^\]]+)\] +\S+ +\S+ +(?P<request_id>\S+) +(?P<operation>\S+) +(?P<key>\S+)"
    r' +(?:"(?P<uri>.*?)"|-) +(?P<status>\d{3}|-) +\S+ +(?P<bytes_sent>\d+|-) +(?:\d+|-) +(?:\d+|-) +(?:\d+|-)'
    r' +(?:".*?"|-) +(?:"(?P<agent>.*)"|-) +[^ "]+(?: +[^"]*)?$'
)
_TIMED: Final = r"\[\d{2}/\w{3}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4}\]"
_FIELDS: Final = ("bucket", "time", "request_id", "operation", "key", "uri", "status", "bytes_sent", "agent")


def parse(data: bytes, source: SourceFile, excluded_agents: Sequence[str] = ()) -> ParsedFile:
    """Parse one log file."""
    return parse_many([(source, data)], excluded_agents)


def parse_many(files: LogFiles, excluded_agents: Sequence[str] = ()) -> ParsedFile:
    """Parse a chunk of log files at once."""
    lines = read_lines(files)
    fields = _fields(lines.frame)
    found = fields.filter(pl.col("bucket").is_not_null())
    at = (
        pl.col("time").str.to_datetime("%d/%b/%Y:%H:%M:%S %z", time_unit="us", strict=False).dt.convert_time_zone("UTC")
    )
    status = pl.col("status").cast(pl.Int32, strict=False)
    lifecycle = pl.col("operation").str.starts_with("S3.")
    found = found.with_columns(
        at.alias("at"),
        status.alias("code"),
        pl.col("operation").replace_strict(KINDS, default=None, return_dtype=pl.String).alias("kind"),
        pl.when(pl.col("bytes_sent") == "-")
        .then(pl.lit(0, pl.Int64))
        .otherwise(pl.col("bytes_sent").cast(pl.Int64, strict=False))
        .alias("bytes_sent"),
        is_excluded(pl.col("agent"), excluded_agents).alias("excluded"),
    )
    # 304 is a read of no bytes: S3 bills the request, and an archive class would have refused it. Redirects are sent
    # again and logged again; what failed used nothing.
    succeeded = pl.col("code").is_between(200, 299) | (pl.col("code") == 304) | (lifecycle & pl.col("code").is_null())
    found = found.with_columns(pl.when(succeeded).then(pl.col("kind")).alias("kind"))
    found = _decode_keys(found)
    reason = (
        pl.when(pl.col("code").is_null() & ~lifecycle)
        .then(pl.lit("http_status is not a number"))
        .when(~pl.col("operation").str.contains(r"^[A-Z0-9]+\.\w+(\.\w+)*$"))
        .then(pl.lit("the operation is none of S3's"))
        .when(pl.col("bytes_sent").is_null() | (pl.col("bytes_sent") > MAX_BYTES_SENT))
        .then(pl.lit("bytes_sent is beyond any object's size"))
        .when(pl.col("kind").is_not_null() & pl.col("key").is_null())
        .then(pl.lit("the key is not UTF-8"))
        .when(pl.col("kind").is_not_null() & ((pl.col("key") == "-") | (pl.col("bucket") == "-")))
        .then(pl.lit("the request has no bucket and key"))
        .otherwise(plausible(lines, pl.col("at")))
    )
    found = found.with_columns(reason.alias("reason"))
    unread = fields.filter(pl.col("bucket").is_null()).select(
        "file",
        "line",
        "text",
        pl.when(~pl.col("text").str.contains(_TIMED))
        .then(pl.lit("not a server access log line: no time in brackets"))
        .otherwise(pl.lit("not a server access log line: fields are missing or cut off"))
        .alias("reason"),
    )
    rejects = pl.concat(
        [unread, found.filter(pl.col("reason").is_not_null()).select("file", "line", "text", "reason")]
    ).sort("file", "line")
    records = found.filter(pl.col("reason").is_null() & pl.col("kind").is_not_null())
    return parsed_file(lines, records, rejects, total=lines.frame)


def _fields(frame: pl.DataFrame) -> pl.DataFrame:
    """Split lines into the fields that are needed; all are null where a line is none of the log.

    Most lines split on spaces and quotes, six times faster than by the regular expression that the others need.
    """
    head = frame.select(pl.col("text").str.splitn(" ", len(_HEAD)).struct.rename_fields(_HEAD)).unnest("text")
    quoted = head.select(pl.col("tail").str.splitn('"', len(_QUOTED)).struct.rename_fields(_QUOTED)).unnest("tail")
    middle = quoted.select(pl.col("middle").str.splitn(" ", len(_MIDDLE)).struct.rename_fields(_MIDDLE)).unnest(
        "middle"
    )
    split = pl.concat([frame, head, quoted.drop("middle"), middle], how="horizontal")
    number = r"^(\d+|-)$"
    regular = (
        pl.col("day_part").str.starts_with("[")
        & pl.col("zone_part").str.ends_with("]")
        & pl.all_horizontal(pl.col("owner", "bucket", "ip", "requester", "request_id", "operation", "key") != "")
        & (pl.col("before") == "")
        & (pl.col("between") == " ")
        & pl.col("after").str.contains(r'^ [^ "]')
        & ~pl.col("after").str.contains('"', literal=True)
        & (pl.col("blank") == "")
        & (pl.col("end") == "")
        & (pl.col("error") != "")
        & pl.col("status").str.contains(r"^(\d{3}|-)$")
        & pl.all_horizontal(pl.col("bytes_sent", "size", "total_ms", "turn_ms").str.contains(number))
    ).fill_null(False)
    time = pl.col("day_part").str.strip_prefix("[") + " " + pl.col("zone_part").str.strip_suffix("]")
    split = split.with_columns(regular.alias("regular"), time.alias("time"))
    quick = split.filter(pl.col("regular")).select("file", "line", "text", *_FIELDS)
    odd = split.filter(~pl.col("regular")).select("file", "line", "text")
    if odd.is_empty():
        return quick
    slow = odd.with_columns(pl.col("text").str.extract_groups(_LINE).alias("groups")).unnest("groups")
    return pl.concat([quick, slow.select("file", "line", "text", *_FIELDS)])


def _decode_keys(found: pl.DataFrame) -> pl.DataFrame:
    """URL-decode the keys; a key that is not UTF-8 becomes null.

    S3 encodes most keys twice, those of lifecycle and batch deletion once (engineeringblog.yelp.com, 2025-09-26, S3
    server access logs at scale). Where the request URI is known it tells which: it is encoded once, always.
    """
    needed = pl.col("key").str.contains("[%+]")
    encoded = found.with_row_index("row").filter(needed)
    if encoded.is_empty():
        return found
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("encoded", encoded.select("row", "key", "operation", "uri").to_arrow())
        decoded = connection.sql(
            r"""
            WITH once AS (
                SELECT row, operation,
                    try(url_decode(replace(key, '+', '%20'))) AS once,
                    try(url_decode(regexp_extract(uri, '^\S+ ([^ ?]*)', 1))) AS path
                FROM encoded
            ), twice AS (
                SELECT *, try(url_decode(replace(once, '+', '%20'))) AS twice FROM once
            )
            SELECT row, CASE
                WHEN twice IS NULL OR once = twice THEN once
                WHEN path = '/' || once OR ends_with(path, '/' || once) THEN once
                WHEN path = '/' || twice OR ends_with(path, '/' || twice) THEN twice
                WHEN starts_with(operation, 'S3.') OR starts_with(operation, 'BATCH.') THEN once
                ELSE twice END AS decoded
            FROM twice
            """
        ).pl()
    decoded = decoded.with_columns(
        pl.col("row").cast(pl.get_index_type()),
        pl.when(~pl.col("decoded").str.contains("\0", literal=True)).then(pl.col("decoded")).alias("decoded"),
    )
    return (
        found.with_row_index("row")
        .join(decoded.with_columns(pl.lit(True).alias("was_encoded")), on="row", how="left", maintain_order="left")
        .with_columns(
            pl.when(pl.col("was_encoded").fill_null(False))
            .then(pl.col("decoded"))
            .otherwise(pl.col("key"))
            .alias("key")
        )
        .drop("row", "decoded", "was_encoded")
    )
