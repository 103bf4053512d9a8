"""The Intelligent-Tiering configurations of the S3 on this machine: kept and told, by bucket. Nothing is archived."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from cloudflux.local.emulators.s3_errors import error_body

_XMLNS: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_PAGE: Final = 100
_MOST: Final = 1000
"""Configurations of one bucket."""
_DAYS: Final = {"ARCHIVE_ACCESS": range(90, 731), "DEEP_ARCHIVE_ACCESS": range(180, 731)}
_DECLARATION: Final = re.compile(rb"\A\s*<\?xml[^>]*\?>")

Answer = tuple[str, bytes]


class IntelligentTiering:
    """Answers what is asked with ``?intelligent-tiering`` of a bucket, under its caller's lock.

    ``has_bucket`` tells whether there is a bucket.
    """

    def __init__(self, has_bucket: Callable[[str], bool]) -> None:
        self._has_bucket = has_bucket
        self._kept: dict[str, dict[str, bytes]] = {}

    def answer(self, environ: dict[str, Any], bucket: str, query: Mapping[str, Sequence[str]]) -> Answer:
        """Put, get, list or delete."""
        if not self._has_bucket(bucket):
            return _error("404 Not Found", "NoSuchBucket", "The specified bucket does not exist")
        kept = self._kept.setdefault(bucket, {})
        method, name = environ["REQUEST_METHOD"], next(iter(query.get("id", ())), None)
        if name is None:
            if method == "GET":
                return _listed(kept, next(iter(query.get("continuation-token", ())), ""))
            return _error("400 Bad Request", "InvalidRequest", "Missing required parameter: id")
        if method == "PUT":
            return _put(kept, name, environ["wsgi.input"].read())
        if name not in kept:
            return _error("404 Not Found", "NoSuchConfiguration", "The specified configuration does not exist.")
        return ("200 OK", kept[name]) if method == "GET" else ("204 No Content", kept.pop(name)[:0])


def _put(kept: dict[str, bytes], name: str, body: bytes) -> Answer:
    written = _DECLARATION.sub(b"", body)
    try:
        document = ET.fromstring(written)  # noqa: S314  # from loopback
    except ET.ParseError:
        return _error("400 Bad Request", "MalformedXML", "The XML you provided was not well-formed")
    told = {part.tag.rpartition("}")[2]: part for part in document.iter()}
    tierings = [
        {part.tag.rpartition("}")[2]: part.text or "" for part in tiering}
        for tiering in document
        if tiering.tag.endswith("Tiering")
    ]
    if "Id" not in told or told["Id"].text != name or not tierings:
        return _error("400 Bad Request", "MalformedXML", "The XML you provided did not validate")
    for tiering in tierings:
        days = tiering.get("Days", "")
        if not days.isdecimal() or int(days) not in _DAYS.get(tiering.get("AccessTier", ""), ()):
            return _error("400 Bad Request", "InvalidArgument", f"Days of {tiering} are not allowed")
    if name not in kept and len(kept) >= _MOST:
        return _error("400 Bad Request", "TooManyConfigurations", "You are attempting to create too many")
    kept[name] = written
    return "200 OK", b""


def _listed(kept: Mapping[str, bytes], after: str) -> Answer:
    names = sorted(name for name in kept if name > after)
    page = names[:_PAGE]
    more = len(names) > len(page)
    next_token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    head = f"<IsTruncated>{str(more).lower()}</IsTruncated>{next_token}"
    root = "ListBucketIntelligentTieringConfigurationsOutput"
    opened = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_XMLNS}">{head}'.encode()
    return "200 OK", b"".join((opened, *(kept[name] for name in page), f"</{root}>".encode()))


def _error(status: str, code: str, message: str) -> Answer:
    return status, error_body(code, message)
