"""GCS usage logs: CSV with a header and, so far, 17 quoted columns.

Format: docs.cloud.google.com/storage/docs/access-logs. Files are named
``<prefix>_usage_YYYY_MM_DD_hh_mm_ss_<id>_v0`` by the hour that they tell of. The daily storage logs that land in the
same bucket (``bucket,storage_byte_hours``) tell of no request and are passed over. Columns are found by their names;
new ones are noticed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import MAX_LINE_BYTES, Block
from cloudflux.access_logs.columns import duckdb_with
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.drift import new_fields, unknown_operations
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.json_records import listed, timed, times
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
from cloudflux.access_logs.scanning import gcs_rows
from cloudflux.access_logs.scanning.texts import as_words, strings_of
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.objects import MAX_OBJECT_BYTES

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
_OBJECT_OPERATION: Final = re.compile(r"object", re.IGNORECASE)
_OTHER_OPERATIONS: Final = re.compile(r"^(HEAD|OPTIONS)_|acl|tagging|metadata|list|bucket|patch|update", re.IGNORECASE)

LIFECYCLE_AGENT: Final = "GCS Lifecycle Management"
"""The user agent of lifecycle's own requests (docs: access-logs, cs_user_agent)."""

_BEGUN_UPLOAD: Final = r"[?&](uploads|uploadType=resumable)\b"
"""In the URI of a POST that begins an upload and writes no object yet."""
_SCANNED: Final = {
    "time_micros": gcs_rows.TIME,
    "cs_uri": gcs_rows.URI,
    "sc_status": gcs_rows.STATUS,
    "sc_bytes": gcs_rows.SENT,
    "cs_user_agent": gcs_rows.AGENT,
    "s_request_id": gcs_rows.REQUEST_ID,
    "cs_operation": gcs_rows.OPERATION,
    "cs_bucket": gcs_rows.BUCKET,
    "cs_object": gcs_rows.KEY,
}

_UNREAD: Final = "not a usage log row: the columns are not those of the header, or cut off"
_MICROS: Final = re.compile(r"\d{1,19}")
_ROW: Final = re.compile(r'\s*"?\d{10,19}"?,')

# Rows are quoted field by field. Where as many quotes stand in a row as its columns need, none is inside a field, and
# the row splits at `","`, four times faster than a CSV reader. No row can swallow another.
_SPLIT: Final = r"""
WITH pieces AS (
    SELECT file, line, string_split(text, '","') AS f, strlen(text) - strlen(replace(text, '"', '')) AS quotes,
        starts_with(text, '"') AS begins FROM lines
), fields AS (
    SELECT file, line, {columns}, begins AND quotes = 2 * {width} AND len(f) = {width} AS is_split FROM pieces
), """
_GIVEN: Final = "WITH fields AS (SELECT * FROM lines), "
_JUDGED: Final = r"""
typed AS (
    SELECT *, try_cast(time_micros AS BIGINT) AS micros, try_cast(sc_status AS SMALLINT) AS code, {listed} AS listed,
        CASE WHEN sc_bytes = '' THEN 0 ELSE try_cast(sc_bytes AS BIGINT) END AS sent
    FROM fields
), records AS (
    SELECT *, CASE WHEN micros >= 0 THEN try(make_timestamp(micros)) END AS happened,
        -- A 304 is a read of no bytes: requests are billed unless they answer 307, 4xx or 5xx (storage pricing,
        -- operations). A 308 asks for the rest of a resumable upload: its last request answers 200.
        CASE WHEN (code BETWEEN 200 AND 299 OR code = 304) AND NOT (cs_operation = 'POST_Object'
                AND regexp_matches(cs_uri, '{begun}'))
            THEN CASE WHEN listed IS NOT NULL AND cs_user_agent = '{lifecycle}' THEN 'tier' ELSE listed END END AS kind
    FROM typed
), judged AS (
    SELECT *, CASE
        WHEN NOT is_split THEN '{unread}'
        WHEN code IS NULL THEN 'sc_status is not a number'
        WHEN sent IS NULL OR sent < 0 OR sent > {max_bytes} THEN 'sc_bytes is beyond any object''s size'
        WHEN kind IS NOT NULL AND (cs_bucket = '' OR cs_object = '') THEN 'the request has no bucket and object'
        {binary}
        {timed} END AS reason
    FROM records
)
SELECT file, line, cs_bucket AS bucket, cs_object AS key, happened AS "at", kind, cs_operation AS operation,
    sent AS bytes_sent, s_request_id AS request_id, cs_user_agent AS agent, listed IS NULL AS unlisted,
    coalesce(is_split AND micros IS NOT NULL, false) AS regular, reason
FROM judged
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files.

    Rows that are plainly regular are scanned; all others, which are few, are read by the rules below.
    """
    headers, notices = _headers(block)
    scanned, odd = _scanned(block, headers, exclusions)
    if scanned is None:
        found = _by_rules(block, headers, odd, exclusions)
    elif (rest := _without_headers(block, odd)).num_rows:
        found = in_order([scanned, _by_rules(block, headers, rest, exclusions)])
    else:
        found = scanned
    return assembled(
        block,
        found,
        notices=[*notices, *unknown_operations(block, found, _OBJECT_OPERATION, _OTHER_OPERATIONS)],
    )


def _scanned(
    block: Block, headers: Mapping[int, tuple[str, ...]], exclusions: Exclusions
) -> tuple[pa.Table | None, pa.Table]:
    """Give the records of the rows that the scanner is sure of, None when there are none, and all other lines."""
    if block.text is None or block.binary or len(headers) < len(block.files) or len(set(headers.values())) != 1:
        return None, block.lines
    header = headers[0]
    data = block.text.data
    words = as_words(data)
    columns = np.array([_SCANNED.get(name, -1) for name in header], dtype=np.int64)
    rows = gcs_rows.scan(data, words, block.text.size, int(block.text.count.sum()), columns)
    if not rows.distinct[gcs_rows.BUCKET]:
        return None, block.lines
    buckets, operations, keys, agents = (rows.strings(words, column) for column in range(4))
    names = operations.to_pylist()
    is_lifecycle = pc.equal(agents, LIFECYCLE_AGENT).to_numpy(zero_copy_only=False)
    kind = kinds_of(names, KINDS)[rows.texts[gcs_rows.OPERATION]]
    unlisted = kind == NO_KIND
    kind[~unlisted & is_lifecycle[rows.texts[gcs_rows.AGENT]]] = KIND_CODES["tier"]
    kind[~succeeded(rows)] = NO_KIND
    posts = np.flatnonzero(
        rows.regular & np.array([name == "POST_Object" for name in names])[rows.texts[gcs_rows.OPERATION]]
    )
    if len(posts):
        uris = strings_of(words, *rows.uris[:, posts])
        kind[posts[pc.match_substring_regex(uris, _BEGUN_UPLOAD).to_numpy(zero_copy_only=False)]] = NO_KIND
    is_named = (pc.binary_length(buckets).to_numpy() > 0)[rows.texts[gcs_rows.BUCKET]]
    is_named &= (pc.binary_length(keys).to_numpy() > 0)[rows.texts[gcs_rows.KEY]]
    sure = plausible(block, rows) & ((kind == NO_KIND) | is_named)
    found = records_of(
        block.text,
        words,
        rows,
        np.flatnonzero(sure),
        {
            "bucket": (gcs_rows.BUCKET, buckets),
            "key": (gcs_rows.KEY, keys),
            "operation": (gcs_rows.OPERATION, operations),
        },
        kind=kind,
        unlisted=unlisted,
        excluded=are_excluded(agents, "agent", exclusions)[rows.texts[gcs_rows.AGENT]],
    )
    found = found.append_column("reason", pa.nulls(found.num_rows, pa.string()))
    odd, _ = block.text.some(rows.begins, np.flatnonzero(~sure))
    return found, odd


def _without_headers(block: Block, lines: pa.Table) -> pa.Table:
    """Leave out the lines that repeat their file's header."""
    heads = [block.heads.get(file, "") for file in range(len(block.files))]
    headers = pa.array([head if _is_header(head) else None for head in heads], pa.string()).take(lines["file"])
    repeats = pc.fill_null(pc.equal(pc.utf8_rtrim(lines["text"], "\r\n"), headers), False)
    return lines.filter(pc.invert(repeats))


def _by_rules(
    block: Block, headers: Mapping[int, tuple[str, ...]], lines: pa.Table, exclusions: Exclusions
) -> pa.Table:
    """Give the records of any lines: split in DuckDB, the odd ones read as CSV."""
    parameters = times(block)
    binary = ""
    if block.binary:
        files = ", ".join(map(str, sorted(block.binary)))
        binary = f"WHEN file IN ({files}) AND regexp_matches(cs_object, '\\\\x[0-9a-f]{{2}}')"
        binary += " THEN 'the object name is not UTF-8'"
    judged = _JUDGED.format(
        listed=listed(KINDS, "cs_operation"),
        lifecycle=LIFECYCLE_AGENT,
        unread=_UNREAD,
        begun=_BEGUN_UPLOAD,
        max_bytes=MAX_OBJECT_BYTES,
        binary=binary,
        timed=timed(),
    )
    parts = [
        _rows(block, some, header, judged, parameters) for header, some in _by_header(block, headers, lines)
    ]  # of one header, as a rule
    found = pa.concat_tables(parts)
    if len(parts) > 1:
        found = found.sort_by([("file", "ascending"), ("line", "ascending")])
    return with_excluded(found, exclusions)


def _rows(
    block: Block, lines: pa.Table, header: tuple[str, ...], judged: str, parameters: Mapping[str, Any]
) -> pa.Table:
    """Give the rows of one header's files; those that are not split by their quotes alone are read one by one."""
    columns = ", ".join(f"{_column(header, name)} AS {name}" for name in NEEDED)
    found = _asked(lines, _SPLIT.format(columns=columns, width=len(header)) + judged, parameters)
    if found.num_rows and not pc.all(found["regular"]).as_py():
        regular = found["regular"].combine_chunks()
        rows = np.flatnonzero(~regular.to_numpy(zero_copy_only=False))
        given = _read(block, lines.take(rows), header)
        # As a rule it is the header alone, which is cheaper to leave out than to filter out.
        found = found.slice(len(rows)) if rows[-1] == len(rows) - 1 else found.filter(regular)
        if given.num_rows:
            found = pa.concat_tables([found, _asked(given, _GIVEN + judged, parameters)])
            found = found.sort_by([("file", "ascending"), ("line", "ascending")])
    return found.append_column("raw", _raw(found, lines))


def _column(header: tuple[str, ...], name: str) -> str:
    """Give the SQL of a column's text among the pieces between ``","``: the first and the last have a quote more."""
    position = header.index(name) + 1
    text = f"f[{position}]"
    if position == len(header):
        text = f"rtrim({text}, chr(10) || chr(13))"
        text = f"left({text}, length({text}) - 1)"
    return f"substr({text}, 2)" if position == 1 else text


def _read(block: Block, lines: pa.Table, header: tuple[str, ...]) -> pa.Table:
    """Read single rows as CSV; headers that are repeated are left out, and what is no row has no fields."""
    columns: dict[str, list[Any]] = {name: [] for name in ("file", "line", *NEEDED, "is_split")}
    csv.field_size_limit(MAX_LINE_BYTES)  # else 128 KiB
    places = [header.index(name) for name in NEEDED]
    texts = zip(lines["file"].to_pylist(), lines["line"].to_pylist(), lines["text"].to_pylist(), strict=True)
    for file, line, text in texts:
        row = text.rstrip("\r\n")
        if _is_header(block.heads.get(file, "")) and row == block.heads[file]:
            continue
        try:
            fields = next(csv.reader([row], strict=True))
        except (csv.Error, StopIteration):
            fields = []
        # The time tells a row of the log from text that happens to have as many commas.
        is_split = len(fields) == len(header) and _MICROS.fullmatch(fields[places[0]]) is not None
        columns["file"].append(file)
        columns["line"].append(line)
        columns["is_split"].append(is_split)
        for name, place in zip(NEEDED, places, strict=True):
            columns[name].append(fields[place] if is_split else None)
    schema = pa.schema(
        [lines.schema.field("file"), lines.schema.field("line"), *((name, pa.string()) for name in NEEDED)]
    ).append(pa.field("is_split", pa.bool_()))
    return pa.table(columns, schema=schema)


def _raw(found: pa.Table, lines: pa.Table) -> pa.Array:
    """Give the text of the rows that are refused, nulls for the others."""
    if found["reason"].null_count == found.num_rows:
        return pa.nulls(found.num_rows, pa.string())
    refused = np.flatnonzero(pc.is_valid(found["reason"]).to_numpy())
    texts = lines.take(np.searchsorted(_place(lines), _place(found)[refused]))["text"].to_pylist()
    raw: list[str | None] = [None] * found.num_rows
    for row, text in zip(refused.tolist(), texts, strict=True):
        raw[row] = text.rstrip("\r\n")
    return pa.array(raw, pa.string())


def _place(rows: pa.Table) -> np.ndarray[Any, Any]:
    place: np.ndarray[Any, Any] = (rows["file"].to_numpy().astype(np.int64) << 40) | rows["line"].to_numpy()
    return place


def _asked(lines: pa.Table, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
    with duckdb_with(lines=lines) as connection:
        table: pa.Table = connection.sql(sql, params=dict(parameters)).to_arrow_table()
    return table


def _is_header(head: str) -> bool:
    # Only the first row can be a header, and none begins with a time: what a stranger writes into a request must not
    # pass for one.
    return "time_micros" in head and "cs_bucket" in head and not _ROW.match(head)


def _headers(block: Block) -> tuple[dict[int, tuple[str, ...]], list[FormatNotice]]:
    """Give the header of each file that has requests; a file whose header cannot be read goes to quarantine.

    A file that lost its header (the second half of one) is read with the documented one.
    """
    headers: dict[int, tuple[str, ...]] = {}
    known: dict[str, tuple[str, ...] | str] = {}
    names: list[tuple[int, str]] = []
    for file in range(len(block.files)):
        head = block.heads.get(file, "")
        if "storage_byte_hours" in head and not _is_header(head) and not _ROW.match(head):
            continue
        header = known.setdefault(head, _header(head)) if _is_header(head) else HEADER
        if isinstance(header, str):
            if block.first_line or file:  # once, in the block where the file begins
                block.whole.append((file, 0, header, head))
            continue
        headers[file] = header
        names += [(file, name) for name in header]
    return headers, list(new_fields(block, names, frozenset(HEADER)))


def _header(head: str) -> tuple[str, ...] | str:
    """Give the names of a header's columns, or what is wrong with it."""
    try:
        header = tuple(next(csv.reader([head], strict=True)))
    except (csv.Error, StopIteration):
        return "the header is damaged"
    if missing := [name for name in NEEDED if name not in header]:
        return f"the header lacks {', '.join(missing)}"
    if len(set(header)) < len(header):
        return "the header names a column twice"
    return header


def _by_header(
    block: Block, headers: Mapping[int, tuple[str, ...]], lines: pa.Table
) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Give lines of the block by the headers of their files."""
    distinct = sorted(set(headers.values()))
    if len(distinct) == 1 and len(headers) == len(block.files):
        yield distinct[0], lines
        return
    for header in distinct or [HEADER]:
        files = pa.array([file for file, its in headers.items() if its == header], pa.int32())
        yield header, lines.filter(pc.is_in(lines["file"], files))


# By the hour of the requests; files come some hours later.
_PASSED_OVER: Final = passed_over(r"(.*?_usage_)(\d{4})_(\d\d)_(\d\d)_\d\d_", "%Y_%m_%d", days_early=1)
FORMAT: Final = LogFormat("gcs_usage", parse, passed_over=_PASSED_OVER)
