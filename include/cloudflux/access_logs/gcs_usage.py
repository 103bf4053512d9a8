"""GCS usage logs: CSV with a header and, so far, 17 quoted columns.

Format: docs.cloud.google.com/storage/docs/access-logs. The daily storage logs that land in the same bucket
(``bucket,storage_byte_hours``) tell of no request and are passed over.
"""

from __future__ import annotations

import csv
import io
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.csv

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

HEADER: Final = (
    "time_micros",
    "c_ip",
    "c_ip_type",
    "c_ip_region",
    "cs_method",
    "cs_uri",
    "sc_status",
    "cs_bytes",
    "sc_bytes",
    "time_taken_micros",
    "cs_host",
    "cs_referer",
    "cs_user_agent",
    "s_request_id",
    "cs_operation",
    "cs_bucket",
    "cs_object",
)
NEEDED: Final = (
    "time_micros",
    "cs_uri",
    "sc_status",
    "sc_bytes",
    "cs_user_agent",
    "s_request_id",
    "cs_operation",
    "cs_bucket",
    "cs_object",
)

# The documents name GET_Object; the others follow its grammar, <method>_<resource>. A HEAD, an ACL or a listing is no
# use of an object.
KINDS: Final = {
    "GET_Object": "read",
    "PUT_Object": "write",
    "POST_Object": "write",
    "COPY_Object": "write",
    "DELETE_Object": "delete",
}

LIFECYCLE_AGENT: Final = "GCS Lifecycle Management"
"""The user agent of lifecycle's own requests (docs: access-logs, cs_user_agent)."""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files."""
    frame, headers = _take_headers(block)
    pieces = [
        _fields(frame.filter(pl.col("file").is_in(members)), header) for header, members in sorted(headers.items())
    ]
    found = pl.concat(pieces) if pieces else _fields(frame.clear(), HEADER)
    lifecycle = pl.col("cs_user_agent") == LIFECYCLE_AGENT
    kind = pl.col("cs_operation").replace_strict(KINDS, default=None, return_dtype=pl.String)
    # A 304 is a read of no bytes: requests are billed unless they answer 307, 4xx or 5xx (storage pricing, operations).
    # A 308 asks for the rest of a resumable upload: its last request answers 200.
    found = found.with_columns(
        pl.from_epoch(pl.col("time_micros").cast(pl.Int64, strict=False), time_unit="us")
        .dt.replace_time_zone("UTC")
        .alias("at"),
        pl.col("sc_status").cast(pl.Int32, strict=False).alias("code"),
        pl.when(pl.col("sc_bytes") == "")
        .then(pl.lit(0, pl.Int64))
        .otherwise(pl.col("sc_bytes").cast(pl.Int64, strict=False))
        .alias("bytes_sent"),
        is_excluded(pl.col("cs_user_agent"), pl.lit(None, pl.String), exclusions).alias("excluded"),
        pl.col("s_request_id").alias("request_id"),
        pl.col("cs_operation").alias("operation"),
        pl.col("cs_bucket").alias("bucket"),
        pl.col("cs_object").alias("key"),
    )
    succeeded = pl.col("code").is_between(200, 299) | (pl.col("code") == 304)
    starts_upload = (pl.col("operation") == "POST_Object") & pl.col("cs_uri").str.contains(
        r"[?&](uploads|uploadType=resumable)\b"
    )
    found = found.with_columns(
        pl.when(succeeded & ~starts_upload)
        .then(pl.when(lifecycle & kind.is_not_null()).then(pl.lit("tier")).otherwise(kind))
        .alias("kind")
    )
    reason = (
        pl.when(pl.col("unread"))
        .then(pl.lit("not a usage log row: the columns are not those of the header, or cut off"))
        .when(pl.col("code").is_null())
        .then(pl.lit("sc_status is not a number"))
        .when(pl.col("bytes_sent").is_null() | ~pl.col("bytes_sent").is_between(0, MAX_BYTES_SENT))
        .then(pl.lit("sc_bytes is beyond any object's size"))
        .when(pl.col("kind").is_not_null() & ((pl.col("bucket") == "") | (pl.col("key") == "")))
        .then(pl.lit("the request has no bucket and object"))
        .when(pl.col("file").is_in(sorted(block.binary)) & pl.col("key").str.contains(r"\\x[0-9a-f]{2}"))
        .then(pl.lit("the object name is not UTF-8"))
        .otherwise(plausible(block, pl.col("at")))
    )
    found = found.with_columns(reason.alias("reason")).sort("file", "line")
    rejects = found.filter(pl.col("reason").is_not_null())
    records = found.filter(pl.col("reason").is_null() & pl.col("kind").is_not_null())
    readable = found.filter(pl.col("reason").is_null())
    total = dict(found.group_by("file").len().iter_rows())
    return parsed_file(block, records, rejects, readable=readable, total=total)


def _take_headers(block: Block) -> tuple[pl.DataFrame, dict[tuple[str, ...], list[int]]]:
    """Take the header rows off; give the other rows, and the files of each header.

    A file that lost its header (the second half of one) is read with the documented one.
    """
    frame = block.frame()
    first = frame.unique("file", keep="first", maintain_order=True)
    storage = set(first.filter(pl.col("text").str.contains("storage_byte_hours", literal=True))["file"].to_list())
    # Only the first row can be a header: what a stranger writes into a request must not pass for one.
    rows = first.filter(pl.all_horizontal(pl.col("text").str.contains(name) for name in ("time_micros", "cs_bucket")))
    named = dict(rows.select("file", "text").iter_rows())
    headers: dict[tuple[str, ...], list[int]] = {}
    for file in range(len(block.files)):
        if file in storage:
            continue
        try:
            header = tuple(next(csv.reader([named[file]]))) if file in named else HEADER
        except csv.Error:
            block.whole.append((file, 0, "the header is damaged", named[file]))
            continue
        if missing := [name for name in NEEDED if name not in header]:
            block.whole.append((file, 0, f"the header lacks {', '.join(missing)}", named[file]))
        elif len(set(header)) < len(header):
            block.whole.append((file, 0, "the header names a column twice", named[file]))
        else:
            headers.setdefault(header, []).append(file)
    kept = [file for members in headers.values() for file in members]
    kept_rows = frame.filter(pl.col("file").is_in(kept)).join(
        rows.select("file", "text"), on=["file", "text"], how="anti"
    )
    return kept_rows.sort("file", "line"), headers


def _fields(frame: pl.DataFrame, header: tuple[str, ...]) -> pl.DataFrame:
    """Read rows as CSV; those that do not have the header's columns are marked ``unread``, their fields null.

    Every row is a record of its own: a quote that is never closed must not swallow the rows after it.
    """
    frame = frame.with_row_index("row")
    whole = frame.filter(
        (pl.col("text").str.count_matches('"', literal=True) % 2 == 0)
        & ~pl.col("text").str.contains("\r", literal=True)
    )
    buffer = whole.select(pl.format('"{}",{}', "row", "text").str.join("\n").fill_null("")).item() if len(whole) else ""
    columns = ["__row", *header]
    if buffer:
        content = buffer.encode()
        table = pa.csv.read_csv(
            io.BytesIO(content),
            # One block: a row that is longer than a block would be an error.
            read_options=pa.csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(content) + 1),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                include_columns=["__row", *NEEDED],
                strings_can_be_null=False,
            ),
        )
    else:
        table = pa.table({name: pa.array([], pa.string()) for name in ("__row", *NEEDED)})
    read = pl.from_arrow(table)
    assert isinstance(read, pl.DataFrame)  # noqa: S101  # of a table, a frame
    read = read.with_columns(pl.col("__row").cast(pl.get_index_type()).alias("row")).drop("__row")
    # The time tells a row of the log from text that happens to have as many commas.
    read = read.filter(pl.col("time_micros").str.contains(r"^\d{1,19}$"))
    joined = frame.join(read, on="row", how="left", maintain_order="left")
    return joined.with_columns(pl.col("time_micros").is_null().alias("unread")).drop("row")


FORMAT: Final = LogFormat("gcs_usage", parse)
