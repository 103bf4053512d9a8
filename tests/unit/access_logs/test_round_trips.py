"""What is written in a format is read back the same, whatever strangers put into keys, user agents and referrers."""

import gzip
from collections.abc import Iterator
from unittest.mock import patch

import pyarrow as pa
import pytest
from access_log_lines import PROVIDERS, Request, source, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudflux.access_logs import blocks, unpacked
from cloudflux.access_logs.formats import FORMATS, log_format
from cloudflux.access_logs.parsed import ParsedFile, joined
from cloudflux.domain.exclusions import Exclusions

EXCLUSIONS = Exclusions(("cloudflux/", '";"', "Ünïque"))
JSON_LAYOUTS = ("lines", "envelope", "compact", "array", "printed", "together")
COUNTED_BYTES = {name: name != "gcs_audit" for name in FORMATS}


# Texts that are punctuation in one of the formats, so that they come often.
PUNCTUATION = (
    '"', '""', '";"', '","', "'", ";", ",", "\\", '\\"', "%", "%20", "%2520", "+", "&amp;", "&quot;", "&#39;", "&", "{",
    "}", '},{"time":"', '}\n{"eventVersion":', '"}]}', "[", "]", "/", "//", "?", "#", " ", "  ", "\t", "\u202e",
    "\u0301", "\u2028", "\x85", "\x1f", "\x7f", "é", "集", "\U0001f600", "-", " 200 - 1 1 1 1 ", "projects/_/buckets/",
    "null", "cloudflux/", "Ünïque",
)  # fmt: skip


def texts(forbidden: str, *, min_size: int = 0) -> st.SearchStrategy[str]:
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0" + forbidden), max_size=20)
    pieces = st.sampled_from([text for text in PUNCTUATION if not set(text) & set(forbidden)])
    return (
        st.lists(anything | pieces, min_size=min_size, max_size=5)
        .map("".join)
        .filter(lambda text: len(text) >= min_size)
    )


def requests_of(name: str) -> st.SearchStrategy[list[Request]]:
    # Lines end at \n, and a CSV row of GCS at \r too (GCS object names can hold neither); JSON and the classic log
    # encode both. A request to S3 or GCS cannot have line ends in its headers.
    unquoted = "\r\n" if name in ("s3_server_access", "gcs_usage") else ""
    key_forbidden = "\r\n" if name == "gcs_usage" else ""
    keys = texts(key_forbidden, min_size=1).filter(lambda key: key != "-")
    request = st.builds(Request, keys, texts(unquoted), texts(unquoted), st.integers(0, 5 * 1024**4), st.booleans())
    return st.lists(request, min_size=1, max_size=8)


def packed(data: bytes, packing: str) -> bytes:
    match packing:
        case "gzip":
            return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
        case "zstd":
            return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return data


def parsed_in_blocks(name: str, data: bytes, block_bytes: int, piece_bytes: int) -> ParsedFile:
    form = log_format(name)
    file = source("log-1", PROVIDERS[name], name)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), piece_bytes):
            yield data[start : start + piece_bytes]

    with patch.object(unpacked, "READ_BYTES", min(block_bytes, 1 << 20)):
        cut = blocks.read_blocks([(file, pieces())], whole=form.is_whole, lined=form.lined, block_bytes=block_bytes)
        return joined([form.parse(block, EXCLUSIONS) for block in cut])


def check(name: str, requests: list[Request], parsed: ParsedFile) -> None:
    assert parsed.quarantine.to_pylist() == []
    assert parsed.lines == len(requests)
    found = [
        (event["request_id"], event["key"], event["kind"], event["bytes_sent"], event["excluded"])
        for event in parsed.events.to_pylist()
    ]
    assert found == [
        (
            f"R{number}",
            request.key,
            "write" if request.is_write else "read",
            request.sent if COUNTED_BYTES[name] else 0,
            EXCLUSIONS.excludes(request.agent),
        )
        for number, request in enumerate(requests)
    ]
    assert sum(hour["records"] for hour in parsed.hours.to_pylist()) == len(requests)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_requests_are_read_back_when_they_were_written(name: str, data: st.DataObject) -> None:
    requests = data.draw(requests_of(name))
    layout = data.draw(st.sampled_from(JSON_LAYOUTS))
    text = written(name, requests, layout, data.draw(st.booleans()))
    content = packed(text.encode(), data.draw(st.sampled_from(["plain", "gzip", "zstd"])))
    check(name, requests, parsed_in_blocks(name, content, 1 << 24, 1 << 20))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_requests_are_read_back_when_the_file_is_cut_into_blocks(name: str, data: st.DataObject) -> None:
    requests = data.draw(requests_of(name))
    text = written(name, requests, data.draw(st.sampled_from(JSON_LAYOUTS)), False)
    block_bytes = data.draw(st.sampled_from([700, 1500, 3000]))
    content = packed(text.encode(), data.draw(st.sampled_from(["plain", "gzip", "zstd"])))
    parsed = parsed_in_blocks(name, content, block_bytes, data.draw(st.sampled_from([1, 100, 10_000])))
    check(name, requests, parsed)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_lines_keep_their_numbers_when_the_file_is_cut_into_blocks(name: str) -> None:
    requests = [Request(f"key {number}", "agent", "", number, False) for number in range(40)]
    text = written(name, requests, "compact", False)
    once = parsed_in_blocks(name, text.encode(), 1 << 24, 1 << 20)
    cut = parsed_in_blocks(name, text.encode(), 4000, 333)
    assert cut.events["line"].to_pylist() == once.events["line"].to_pylist()
    assert cut.events["line"].to_pylist() == [number + (2 if name == "gcs_usage" else 1) for number in range(40)]
