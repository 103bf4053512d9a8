"""Azure's classic Storage Analytics logs, in the container ``$logs``: semicolon separated text.

Format: learn.microsoft.com/rest/api/storageservices/storage-analytics-log-format; version 1.0 has 30 fields, version
2.0 has 38. Fields that may contain a quote, a semicolon or a line end are quoted and HTML-encoded. A record is told
apart by its request id and its operation count. What a status means:
storage-analytics-logged-operations-and-status-messages. Files are named ``blob/YYYY/MM/DD/hh00/nnnnnn.log``, in UTC, by
the hour in which the requests ended; they may come an hour late. Records of other services than blob are passed over.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from cloudflux.access_logs.azure_operations import KINDS, LIFECYCLE_AGENTS, OBJECT_OPERATION, OTHER_OPERATIONS
from cloudflux.access_logs.blocks import MAX_LINE_BYTES, Block
from cloudflux.access_logs.columns import duckdb_with
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.drift import notice, unknown_operations
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.json_records import listed, moment, timed, times
from cloudflux.access_logs.parsed import ParsedFile, assembled, with_excluded
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.objects import MAX_OBJECT_BYTES

WIDTHS: Final = {"1.0": 30, "2.0": 38}
_FRONT_FIELDS: Final = 30
"""Every version so far begins with the fields of 1.0; a new one is read by them."""
_FIELDS: Final = {  # by position in the entry, from 0
    "version": 0,
    "time": 1,
    "operation": 2,
    "status": 3,
    "code_text": 4,
    "service": 10,
    "url": 11,
    "object_key": 12,
    "request_id": 13,
    "operation_count": 14,
    "sent_text": 20,
    "agent": 27,
}
_REQUESTER_FIELDS: Final = {"object_id": 30, "app_id": 32, "upn": 35}
_NAMES: Final = (*_FIELDS, *_REQUESTER_FIELDS)
_ENCODED: Final = ("url", "object_key", "agent")
_ENTITY: Final = re.compile(r"&(?:quot|amp|lt|gt|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,3}")

# A status tells more than its code: NetworkError has the code 200, and the client got no answer. 304 is a read of no
# bytes: ClientOtherError, or since 2017-04-17 ConditionNotMet, which is billed.
_SQL: Final = r"""
WITH typed AS (
    SELECT *, {moment} AS happened, try_cast(code_text AS SMALLINT) AS code, {listed} AS listed,
        lower(service) = 'blob' AS is_blob,
        CASE WHEN sent_text = '' THEN 0 ELSE try_cast(sent_text AS BIGINT) END AS sent,
        starts_with(object_key, '/') AS is_plain,
        CASE WHEN starts_with(object_key, '/')
            THEN regexp_extract(object_key, '(?s)^/[^/]*/([^/]+)/(.+)$', ['bucket', 'key'])
            ELSE regexp_extract(CASE WHEN object_key = '' THEN url ELSE object_key END,
                '^[a-z]+://[^/]+/([^/?]+)/([^?]+)', ['bucket', 'key']) END AS name
    FROM fields
), objects AS (
    SELECT *, name.bucket AS bucket,
        CASE WHEN is_blob AND (ends_with(status, 'Success') OR code = 304)
            THEN CASE WHEN listed IS NOT NULL AND ({lifecycle}) THEN 'tier' ELSE listed END END AS kind,
        CASE WHEN is_plain THEN name.key ELSE try(url_decode(replace(name.key, '+', '%2B'))) END AS key
    FROM typed
), judged AS (
    SELECT *, CASE
    WHEN version IS NULL THEN 'not a $logs entry: the fields are not those of its version, or cut off'
    WHEN is_blob AND status = '' AND code_text = '' THEN 'the entry has no request-status'
    WHEN code IS NULL AND code_text <> 'Unknown' AND is_blob THEN 'http-status-code is not a number'
    WHEN is_blob AND (sent IS NULL OR sent < 0 OR sent > {max_bytes})
        THEN 'response-packet-size is beyond any blob''s size'
    WHEN kind IS NOT NULL AND (bucket IS NULL OR bucket = '' OR key IS NULL OR key = '' OR contains(key, chr(0)))
        THEN 'the entry names no container and blob'
    {binary}
    {timed} END AS reason
    FROM objects
)
SELECT file, line, CASE WHEN is_blob THEN nullif(bucket, '') END AS bucket, key, happened AS "at", kind, operation,
    sent AS bytes_sent,
    CASE WHEN operation_count IN ('', '0') OR request_id = '' THEN request_id
        ELSE request_id || ':' || operation_count END AS request_id,
    agent{requester}, is_blob AND listed IS NULL AS unlisted, reason, version IS NULL OR is_blob AS is_ours
FROM judged
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files."""
    fields, odd = _fields(block)
    sql = _SQL.format(
        moment=moment("time"),
        listed=listed(KINDS),
        lifecycle=" OR ".join(f"contains(agent, '{agent}')" for agent in LIFECYCLE_AGENTS),
        max_bytes=MAX_OBJECT_BYTES,
        binary=_binary(block),
        timed=timed(),
        requester=", concat_ws(chr(10), object_id, upn, app_id) AS requester" if exclusions.requesters else "",
    ).replace("FROM fields", "FROM lines")
    with duckdb_with(lines=fields) as connection:
        found: pa.Table = connection.sql(sql, params=times(block)).to_arrow_table()
    refused = np.flatnonzero(pc.is_valid(found["reason"]).to_numpy())
    raw: list[str | None] = [None] * found.num_rows
    texts = block.lines["text"].take(pa.array(_rows_of(block.lines, found.take(refused)))).to_pylist()
    for row, text in zip(refused.tolist(), texts, strict=True):
        raw[row] = text.rstrip("\r\n")
    found = found.append_column("raw", pa.array(raw, pa.string()))
    if not pc.all(found["is_ours"]).as_py():
        found = found.filter(found["is_ours"])
    found = with_excluded(found, exclusions)
    unknown = unknown_operations(block, found, OBJECT_OPERATION, OTHER_OPERATIONS)
    return assembled(block, found, notices=[*_versions(block, odd), *unknown])


def _binary(block: Block) -> str:
    if not block.binary:
        return ""
    files = ", ".join(map(str, sorted(block.binary)))
    return f"WHEN file IN ({files}) AND regexp_matches(object_key, '\\\\x[0-9a-f]{{2}}') THEN 'the key is not UTF-8'"


def _fields(block: Block) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Give the fields of all lines, in their order, and the versions (file, version) that are not known."""
    text = block.lines["text"].combine_chunks()
    parts: list[pa.Table] = []
    read = np.zeros(len(text), dtype=bool)
    for version, width in WIDTHS.items():
        rows = np.flatnonzero(pc.starts_with(text, f"{version};").to_numpy(zero_copy_only=False))
        part = _read_at_once(text if len(rows) == len(text) else text.take(rows), width)
        if part is None:
            rows = rows[_is_whole(text.take(rows))]
            part = _read_at_once(text.take(rows), width)
        if part is not None:
            parts.append(_placed(block.lines, rows, part))
            read[rows] = True
    rest = np.flatnonzero(~read)
    unknown: list[tuple[int, str]] = []
    if len(rest) or not parts:
        csv.field_size_limit(MAX_LINE_BYTES)  # else 128 KiB
        lines = block.lines.take(rest)
        entries = [_entry(line) for line in lines["text"].to_pylist()]
        unknown = [
            (file, entry["version"])
            for file, entry in zip(lines["file"].to_pylist(), entries, strict=True)
            if entry["version"] is not None and entry["version"] not in WIDTHS
        ]
        schema = pa.schema([(name, pa.string()) for name in _NAMES])
        parts.append(_placed(block.lines, rest, pa.Table.from_pylist(entries, schema)))
    fields = pa.concat_tables(parts)
    if len(parts) > 1:
        fields = fields.sort_by([("file", "ascending"), ("line", "ascending")])
    # Quotes are encoded inside fields: where one is left, another is missing.
    torn = pc.or_kleene(pc.match_substring(fields["object_key"], '"'), pc.match_substring(fields["agent"], '"'))
    if pc.any(torn).as_py():
        version = pc.if_else(pc.fill_null(torn, False), pa.scalar(None, pa.string()), fields["version"])
        fields = fields.set_column(fields.column_names.index("version"), "version", version)
    for name in _ENCODED:
        fields = fields.set_column(fields.column_names.index(name), name, _decoded(fields[name]))
    return fields, unknown


def _read_at_once(text: pa.StringArray, width: int) -> pa.Table | None:
    """Read lines as one CSV text; nothing when they do not give a row each."""
    if not len(text):
        return None
    offsets = np.frombuffer(text.buffers()[1], np.int32)
    first, last = int(offsets[text.offset]), int(offsets[text.offset + len(text)])
    content = text.buffers()[2].slice(first, last - first).to_pybytes()
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return None  # the reader would end a row there
    names = [str(position) for position in range(width)]
    wanted = {name: str(at) for name, at in (_FIELDS | _REQUESTER_FIELDS).items() if at < width}
    skipped: list[str] = []

    def skip(row: Any) -> str:
        skipped.append(row.text)
        return "skip"

    try:
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            read_options=pa.csv.ReadOptions(
                column_names=names,
                block_size=max(1 << 20, int(np.diff(offsets[text.offset : text.offset + len(text) + 1]).max()) + 1),
            ),
            parse_options=pa.csv.ParseOptions(delimiter=";", invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(wanted.values()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(text) or skipped:
        return None
    columns = {name: table[position] for name, position in wanted.items()}
    nothing = pa.nulls(table.num_rows, pa.string())
    return pa.table({name: columns.get(name, nothing) for name in _NAMES})


def _is_whole(text: pa.StringArray) -> np.ndarray[Any, Any]:
    """Tell the lines that cannot swallow the next, and are one: quotes are encoded inside fields, so they are even."""
    even = pc.equal(pc.bit_wise_and(pc.count_substring(text, '"'), 1), 0)
    one = pc.invert(pc.match_substring_regex(text, r"\r[^\n]"))
    return np.asarray(pc.and_(even, one).to_numpy(zero_copy_only=False), dtype=bool)


def _entry(line: str) -> dict[str, str | None]:
    """Read one line; its fields are null when it is none of a version that is known, or as long as one must be."""
    nothing: dict[str, str | None] = dict.fromkeys(_NAMES)
    try:
        fields = next(csv.reader([line.rstrip("\r\n")], delimiter=";"), [])
    except csv.Error:
        return nothing
    version = fields[0] if fields else ""
    width = WIDTHS.get(version)
    fits = len(fields) == width if width else len(fields) >= _FRONT_FIELDS and _VERSION.fullmatch(version) is not None
    if not fits or line.count('"') % 2:
        return nothing
    known = _FIELDS | (_REQUESTER_FIELDS if version == "2.0" else {})
    return nothing | {name: fields[at] for name, at in known.items()}


def _placed(lines: pa.Table, rows: np.ndarray[Any, Any], fields: pa.Table) -> pa.Table:
    places = lines.select(["file", "line"])
    places = places if len(rows) == lines.num_rows else places.take(rows)
    return pa.table({"file": places["file"], "line": places["line"]} | {name: fields[name] for name in _NAMES})


def _rows_of(lines: pa.Table, found: pa.Table) -> np.ndarray[Any, Any]:
    """Give where the lines of ``found`` stand in ``lines``."""

    def place(table: pa.Table) -> np.ndarray[Any, Any]:
        numbers: np.ndarray[Any, Any] = (table["file"].to_numpy().astype(np.int64) << 40) | table["line"].to_numpy()
        return numbers

    return np.searchsorted(place(lines), place(found))


def _decoded(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo the HTML encoding, once: ``&amp;quot;`` was ``&quot;``."""
    encoded = pc.fill_null(pc.match_substring(texts, "&"), False).combine_chunks()
    if not pc.any(encoded).as_py():
        return texts
    column = texts.combine_chunks()
    decoded = [_ENTITY.sub(_character, text) for text in column.filter(encoded).to_pylist()]
    return pa.chunked_array([pc.replace_with_mask(column, encoded, pa.array(decoded, pa.string()))])


def _character(entity: re.Match[str]) -> str:
    text = html.unescape(entity[0])
    return entity[0] if text == "�" or "\ud800" <= text <= "\udfff" else text


def _versions(block: Block, unknown: Sequence[tuple[int, str]]) -> Iterator[FormatNotice]:
    first: dict[str, int] = {}
    for file, version in unknown:
        first.setdefault(version, file)
    for version, file in sorted(first.items()):
        yield notice(
            block, file, NoticeKind.UNKNOWN_VERSION, version,
            f"versions {' and '.join(WIDTHS)} are known: it is read by its first {_FRONT_FIELDS} fields",
        )  # fmt: skip


# By the hour of the requests' end; files may come later.
_PASSED_OVER: Final = passed_over(r"((?:.*/)?blob/)(\d{4})/(\d\d)/(\d\d)/", "%Y/%m/%d/", days_early=1)
FORMAT: Final = LogFormat("azure_classic", parse, passed_over=_PASSED_OVER)
