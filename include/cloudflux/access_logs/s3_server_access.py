"""S3 server access logs: space-delimited text with 18 (2010) to 28 fields and more to come.

Format: AmazonS3/latest/userguide/LogFormat.html. Trailing fields that are not known are ignored, as the page asks, and
noticed. Names: `[prefix]YYYY-MM-DD-hh-mm-ss-Unique`, or date-partitioned
`[prefix]account/region/bucket/YYYY/MM/DD/YYYY-MM-DD-hh-mm-ss-Unique`; both are found by listing the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import Block
from cloudflux.access_logs.columns import duckdb_with
from cloudflux.access_logs.dated_names import passed_over
from cloudflux.access_logs.formats import LogFormat
from cloudflux.access_logs.parsed import (
    CLOCK_SKEW,
    FIRST_AT,
    NO_KIND,
    ParsedFile,
    are_excluded,
    assembled,
    in_order,
    with_excluded,
)
from cloudflux.access_logs.scanned import kinds_of, plausible, records_of, succeeded
from cloudflux.access_logs.scanning import s3_keys, s3_lines
from cloudflux.access_logs.scanning.lines import ScannedLines
from cloudflux.access_logs.scanning.texts import as_words
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.objects import MAX_OBJECT_BYTES

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
    # No write by itself: it tells whose copy the read of its source is, which is logged without an agent.
    "REST.COPY.PART": "part",
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

# The same fields where the quick split finds something odd: quotes inside quoted fields, doubled spaces, `-` in place
# of a quoted field. The request URI ends at the first quote that a status and five more fields follow, the user
# agent at the last quote of the line.
_LINE: Final = (
    r"^\S+ +(?P<bucket>\S+) +\[(?P<time>[^\]]+)\] +\S+ +(?P<requester>\S+) +(?P<request_id>\S+) +(?P<operation>\S+)"
    r" +(?P<key>\S+)"
    r' +(?:"(?P<uri>.*?)"|-) +(?P<status>\d{3}|-) +(?P<error>\S+) +(?P<bytes_sent>\d+|-)'
    r' +(?:\d+|-) +(?:\d+|-) +(?:\d+|-) +(?:".*?"|-) +(?:"(?P<agent>.*)"|-) +[^ "]+(?: +[^"]*)?$'
)
_TIMED: Final = r"\[\d{2}/\w{3}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4}\]"
_NAMES: Final = (
    "'bucket', 'time', 'requester', 'request_id', 'operation', 'key', 'uri', 'status', 'error', 'bytes_sent', 'agent'"
)

KNOWN_FIELDS: Final = 28
_FIELDS_BEFORE_REST: Final = 17
_OBJECT_OPERATION: Final = re.compile(r"(\.(OBJECT|UPLOAD|PART|RESTORE)(_|\.|$))|^S3\.TRANSITION")
_OTHER_OPERATIONS: Final = re.compile(
    # on objects, and no use of their content: properties, tags, locks, single parts, forms of the same names
    r"\.(HEAD|OPTIONS)\.|\.(OBJECT|PART)_?(ACL|TAGGING|RETENTION|LEGALHOLD|LEGAL_HOLD|LOCK\w*|ATTRIBUTES|TORRENT|CHECKSUM)"
    r"|\.PART$|\.UPLOADS?$|\.PUT\.PART|\.COPY\.PART$|^S3\.COMPUTE|^S3\.DELETE\.UPLOAD|MULTI_OBJECT_DELETE|\.OBJECT_LOCK"
)
"""Operations whose name has OBJECT in it and that are no access all the same."""

_KIND: Final = f"CASE operation {' '.join(f'WHEN {name!r} THEN {kind!r}' for name, kind in KINDS.items())} END"

# The key is URL-encoded: most keys twice, those of lifecycle and batch deletion once (engineeringblog.yelp.com,
# 2025-09-26, S3 server access logs at scale). Where the request URI is known it tells which: it is encoded once.
_ENCODED: Final = "(contains({0}, '%') OR contains({0}, '+'))"
_DECODED: Final = "try(url_decode(replace({0}, '+', '%20')))"
_TWICE: Final = _DECODED.format("once")
_PATH: Final = r"try(url_decode(regexp_extract(uri, '^\S+ ([^ ?]*)', 1)))"
_ONCE: Final = f"CASE WHEN {_ENCODED.format('key')} THEN {_DECODED.format('key')} ELSE key END"
_OBJECT_KEY: Final = f"""
    CASE
    WHEN NOT {_ENCODED.format("once")} OR {_TWICE} IS NULL THEN once
    WHEN contains(uri, once) THEN {_TWICE}
    WHEN {_PATH} = '/' || once OR ends_with({_PATH}, '/' || once) THEN once
    WHEN {_PATH} = '/' || {_TWICE} OR ends_with({_PATH}, '/' || {_TWICE}) THEN {_TWICE}
    WHEN starts_with(operation, 'S3.') OR starts_with(operation, 'BATCH.') THEN once
    ELSE {_TWICE} END"""

_SUCCEEDED: Final = "(code BETWEEN 200 AND 299 OR code = 304)"
"""304 is a read of no bytes: S3 bills the request, and an archive class would have refused it. Redirects are sent again
and logged again; what failed used nothing."""
_KIND_OF_DONE: Final = (
    f"CASE WHEN error = '-' OR NOT starts_with({_KIND}, 'write') THEN {_KIND}"
    " WHEN contains(operation, 'COPY') THEN 'part' END"
)
"""Copies and completed uploads may fail after the answer's status was sent (API_CopyObject and
API_CompleteMultipartUpload): the error code tells. Whose a failed copy was is still worth knowing."""

# Most lines split on quotes and spaces, ten times faster than by the regular expression that the others need. A step is
# a subquery of its own where its columns are used more than once: inside CASE and AND they would be computed each time.
# No WHERE: it would be pushed down to the lines, and everything be computed twice.
_QUICK: Final = r"""
WITH quoted AS (
    SELECT file, line, string_split(text, '"') AS q FROM lines
), spaced AS (
    SELECT file, line, q, string_split(q[1], ' ') AS h, string_split(q[3], ' ') AS m FROM quoted
), named AS (
    SELECT file, line, h[2] AS bucket, try_strptime(h[3], '[%d/%b/%Y:%H:%M:%S') AS happened, h[7] AS request_id,
        h[8] AS operation, h[9] AS key, q[2] AS uri, hash({agent}) AS agent,
        m[3] AS error,
        CASE m[2] WHEN '200' THEN 200 WHEN '206' THEN 206 ELSE try_cast(m[2] AS SMALLINT) END AS code,
        CASE WHEN m[4] = '-' THEN 0 ELSE try_cast(m[4] AS BIGINT) END AS sent,
        len(q) = 7 AND len(h) = 10 AND len(m) = 8 AND strlen(h[10]) + strlen(m[1]) + strlen(m[8]) = 0
            AND strlen(h[1]) > 0 AND h[4] = '+0000]' AND q[5] = ' ' AND starts_with(q[7], ' ') AND strlen(q[7]) > 2
            AS is_spaced
    FROM spaced
), kinds AS (
    SELECT *, CASE WHEN {succeeded} THEN {kind} END AS kind, {once} AS once FROM named
), objects AS (
    SELECT *, {object_key} AS object_key FROM kinds
)
SELECT file, line, bucket, object_key AS key, happened AS "at", kind, operation, sent AS bytes_sent, request_id, agent,
    coalesce(is_spaced AND code BETWEEN 100 AND 999 AND sent BETWEEN 0 AND {max_bytes}
        AND happened BETWEEN $first AND $latest AND contains(operation, '.')
        AND (kind IS NULL OR (object_key <> '-' AND bucket <> '-' AND NOT contains(object_key, chr(0)))), false)
        AS regular
FROM objects
"""
_SLOW: Final = r"""
WITH matched AS (
    SELECT file, line, text, regexp_extract(rtrim(text, chr(10) || chr(13)), $line, [{names}]) AS f
    FROM odd_lines
), named AS (
    SELECT file, line, text, f.bucket, timezone('UTC', try_strptime(f.time, '%d/%b/%Y:%H:%M:%S %z')) AS happened,
        f.requester, f.request_id, f.operation, f.key, f.error, nullif(f.uri, '') AS uri, nullif(f.agent, '') AS agent,
        try_cast(f.status AS SMALLINT) AS code,
        CASE WHEN f.bytes_sent = '-' THEN 0 ELSE try_cast(f.bytes_sent AS BIGINT) END AS sent
    FROM matched
), kinds AS (
    SELECT *, CASE WHEN {succeeded} OR (code IS NULL AND starts_with(operation, 'S3.')) THEN {kind} END AS kind,
        {once} AS once
    FROM named
), objects AS (
    SELECT *, {object_key} AS object_key FROM kinds
), judged AS (
    SELECT *, CASE
        WHEN bucket = '' THEN
            CASE WHEN regexp_matches(text, $timed) THEN 'not a server access log line: fields are missing or cut off'
            ELSE 'not a server access log line: no time in brackets' END
        WHEN code IS NULL AND NOT starts_with(operation, 'S3.') THEN 'http_status is not a number'
        WHEN NOT regexp_matches(operation, '^[A-Z0-9]+\.\w+(\.\w+)*$') THEN 'the operation is none of S3''s'
        WHEN sent IS NULL OR sent > {max_bytes} THEN 'bytes_sent is beyond any object''s size'
        WHEN kind IS NOT NULL AND (object_key IS NULL OR contains(object_key, chr(0))) THEN 'the key is not UTF-8'
        WHEN kind IS NOT NULL AND (object_key = '-' OR bucket = '-') THEN 'the request has no bucket and key'
        WHEN happened IS NULL THEN 'the time is not a date'
        WHEN happened > $latest[file + 1] THEN 'the time lies after the file''s delivery'
        WHEN happened < $first THEN 'the time lies before all cloud storage'
        END AS reason
    FROM objects
)
SELECT file, line, bucket, object_key AS key, happened AS "at", kind, operation, sent AS bytes_sent, request_id,
    agent, requester, reason, CASE WHEN reason IS NOT NULL THEN rtrim(text, chr(10) || chr(13)) END AS raw
FROM judged
"""


def parse(block: Block, exclusions: Exclusions) -> ParsedFile:
    """Parse one block of log files.

    Lines that are plainly regular are scanned; all others, which are few, are split by the rules below.
    """
    found, odd = _scanned(block, exclusions)
    if found is None:
        found = _by_rules(block, odd, exclusions)
    elif odd.num_rows:
        found = in_order([found, _by_rules(block, odd, exclusions)])
    return assembled(block, found, notices=_notices(block, found))


def _scanned(block: Block, exclusions: Exclusions) -> tuple[pa.Table | None, pa.Table]:
    """Give the records of the lines that the scanner is sure of, None when there are none, and all other lines."""
    if block.text is None:
        return None, block.lines
    data = block.text.data
    words = as_words(data)
    lines = s3_lines.scan(data, words, block.text.size, int(block.text.count.sum()))
    if not lines.distinct[s3_lines.BUCKET]:
        return None, block.lines
    operations = lines.strings(words, s3_lines.OPERATION)
    buckets = lines.strings(words, s3_lines.BUCKET)
    names = operations.to_pylist()
    kind = np.where(succeeded(lines), kinds_of(names, KINDS)[lines.texts[s3_lines.OPERATION]], NO_KIND)
    is_dotted = np.array(["." in name for name in names])[lines.texts[s3_lines.OPERATION]]
    sure = plausible(block, lines) & is_dotted
    events = np.flatnonzero(sure & (kind != NO_KIND))
    keys = s3_keys.decode(data, *lines.places(s3_lines.KEY))
    is_named = _are_named(lines, buckets, keys, events)
    is_twice = keys.how[lines.texts[s3_lines.KEY, events]] == s3_keys.TWICE
    twice = events[is_twice]
    is_named[is_twice] &= s3_keys.are_in_uris(words, lines.uris, lines.texts[s3_lines.KEY], twice, keys)
    sure[events[~is_named]] = False
    excluded = are_excluded(lines.strings(words, s3_lines.AGENT), "agent", exclusions)[lines.texts[s3_lines.AGENT]]
    if exclusions.requesters:
        requesters = are_excluded(lines.strings(words, s3_lines.REQUESTER), "requester", exclusions)
        excluded |= requesters[lines.texts[s3_lines.REQUESTER]]
    found = records_of(
        block.text,
        words,
        lines,
        np.flatnonzero(sure),
        {
            "bucket": (s3_lines.BUCKET, buckets),
            "key": (s3_lines.KEY, keys.keys),
            "operation": (s3_lines.OPERATION, operations),
        },
        kind=kind,
        excluded=excluded,
    )
    odd, _ = block.text.some(lines.begins, np.flatnonzero(~sure))
    return found, odd


def _are_named(
    lines: ScannedLines, buckets: pa.StringArray, keys: s3_keys.DecodedKeys, events: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell which events have a bucket, and a key that could be decoded; shape (events,)."""
    has_bucket = ~pc.equal(buckets, "-").to_numpy(zero_copy_only=False)
    has_key = (keys.how != s3_keys.UNSURE) & ~pc.equal(keys.keys, "-").to_numpy(zero_copy_only=False)
    named: npt.NDArray[np.bool_] = has_key[lines.texts[s3_lines.KEY, events]]
    named &= has_bucket[lines.texts[s3_lines.BUCKET, events]]
    return named


def _latest(block: Block) -> list[datetime]:
    """Give the latest plausible time of each file's requests, UTC without a zone."""
    return [(source.last_modified_at + CLOCK_SKEW).astimezone(UTC).replace(tzinfo=None) for source in block.files]


def _by_rules(block: Block, lines: pa.Table, exclusions: Exclusions) -> pa.Table:
    """Give the records of any lines: split in DuckDB, the odd ones matched by a regular expression."""
    latest = _latest(block)
    first = FIRST_AT.replace(tzinfo=None)
    # Agents are few and long: their hashes tell them apart here.
    sql = _QUICK.replace("{agent}", "q[6], h[6]" if exclusions.requesters else "q[6]")
    with duckdb_with(lines=lines) as connection:
        found = connection.sql(_query(sql), params={"first": first, "latest": min(latest)}).to_arrow_table()
    regular = found["regular"]
    found = found.drop_columns(["regular"])
    if pc.all(regular).as_py():
        return _with_excluded(found, lines, exclusions)
    odd = lines.filter(pc.invert(pc.is_in(_place(lines), _place(found.filter(regular)))))
    quick = _with_excluded(found.filter(regular), lines.filter(regular), exclusions)
    with duckdb_with(odd_lines=odd) as connection:
        slow = {"first": first, "latest": latest, "timed": _TIMED, "line": _LINE}
        other = connection.sql(_query(_SLOW), params=slow).to_arrow_table()
    return in_order([quick, with_excluded(other, exclusions)])


def _with_excluded(found: pa.Table, lines: pa.Table, exclusions: Exclusions) -> pa.Table:
    """Put the column ``excluded`` in place of the hashes of agents; ``lines`` are those of the same rows."""
    _, firsts, codes = np.unique(found["agent"].to_numpy(), return_index=True, return_inverse=True)
    texts = lines["text"].take(pa.array(firsts)).combine_chunks()
    quoted = pc.split_pattern(texts, '"')
    agents = pc.list_element(quoted, 5) if len(texts) else pa.array([], pa.string())
    requesters = pc.list_element(pc.split_pattern(texts, " "), 5) if len(texts) else agents
    named = with_excluded(pa.table({"agent": agents, "requester": requesters}), exclusions)["excluded"]
    return found.drop_columns(["agent"]).append_column("excluded", named.take(pa.array(codes)))


def _place(lines: pa.Table) -> pa.ChunkedArray:
    return pc.bit_wise_or(pc.shift_left(lines["file"].cast(pa.int64()), 40), lines["line"])


def _query(sql: str) -> str:
    return sql.format(
        names=_NAMES,
        succeeded=_SUCCEEDED,
        kind=_KIND_OF_DONE,
        once=_ONCE,
        object_key=_OBJECT_KEY,
        max_bytes=MAX_OBJECT_BYTES,
    )


def _notices(block: Block, found: pa.Table) -> Iterable[FormatNotice]:
    most: dict[int, int] = {}
    for place, head in block.sampled():
        rest = head.rpartition('"')[2]
        fields = _FIELDS_BEFORE_REST + len(rest.split())
        if fields > max(KNOWN_FIELDS, most.get(place, 0)) and head.count('"') >= 6:
            most[place] = fields
    for place, fields in most.items():
        yield _notice(
            block, place, NoticeKind.NEW_FIELD, f"field {KNOWN_FIELDS + 1}",
            f"lines have {fields} fields, the documented ones are {KNOWN_FIELDS}: what follows is passed over",
        )  # fmt: skip
    for name in sorted(set(pc.unique(found["operation"]).to_pylist()) - set(KINDS) - {None, ""}):
        if _OBJECT_OPERATION.search(name) and not _OTHER_OPERATIONS.search(name):
            here = found.filter(pc.equal(found["operation"].cast(pa.string()), name))
            if "reason" in here.column_names:
                here = here.filter(pc.is_null(here["reason"]))
            if here.num_rows:
                yield _notice(
                    block, pc.min(here["file"]).as_py(), NoticeKind.UNKNOWN_OPERATION, name[:200],
                    "it names an object and is not in our list: it counts as no access",
                )  # fmt: skip


def _notice(block: Block, place: int, kind: NoticeKind, name: str, detail: str) -> FormatNotice:
    source = block.files[place]
    return FormatNotice(source.provider, source.bucket, "s3_server_access", kind, name, detail, source.key)


_SIMPLE: Final = passed_over(r"(.*?)(\d{4})-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-[0-9A-Z]+$", "%Y-%m-%d", by_year=True)
# By the time of delivery, or by that of the events, which are delivered later (PartitionDateSource).
_PASSED_OVER: Final = passed_over(
    r"(.*?\b\d{12}/[a-z0-9-]+/[^/]+/)(\d{4})/(\d\d)/(\d\d)/\d{4}-", "%Y/%m/%d/", days_early=1, otherwise=_SIMPLE
)

FORMAT: Final = LogFormat("s3_server_access", parse, passed_over=_PASSED_OVER)
