"""Lines that others wrote: each is read, or refused for what it is.

The lines themselves lie beside the repository; where they do not, their constructed twins are tested alone.
"""

import os
from pathlib import Path

import pytest
from access_log_lines import GCS_HEADER, azure_line, classic_line, gcs_line, s3_line, source

from cloudflux.access_logs.formats import log_format, parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.tiers import Provider

FOLDER = Path(os.environ.get("CLOUDFLUX_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data" / "raw-logs"

S3, RESOURCE, CLASSIC, USAGE = "s3_server_access", "azure_resource", "azure_classic", "gcs_usage"
PROVIDERS = {S3: Provider.AWS, RESOURCE: Provider.AZURE, CLASSIC: Provider.AZURE, USAGE: Provider.GCP}

FILES = {  # format, lines, events
    "s3/archive_bucket.log": (S3, 10, 9),
    "s3/documentation_examples.log": (S3, 5, 1),
    "s3/malformed.log": (S3, 3, 0),
    "s3/old_18_field_lines.log": (S3, 13, 8),
    "s3/website_bucket.log": (S3, 46, 27),
    "azure/resource_log_1.json": (RESOURCE, 2, 0),  # a SetBlobMetadata
    "azure/resource_log_sas.json": (RESOURCE, 1, 1),
    "azure/classic_v1.log": (CLASSIC, 5, 3),
    "gcs/usage_1.csv": (USAGE, 2, 1),  # the other one is a 404
    "gcs/usage_signed_url.csv": (USAGE, 1, 1),
}

MALFORMED = [  # file, line, what it is, why it is refused, its constructed twin
    (
        "s3/malformed.log", 1, "a GET whose time is missing: two blanks stand where the brackets would",
        "not a server access log line: no time in brackets", (S3, s3_line(time=" ")),
    ),
    (
        "s3/malformed.log", 2, "a sentence",
        "not a server access log line: no time in brackets", (S3, "this is no log entry either"),
    ),
    (
        "s3/malformed.log", 3, "a single word",
        "not a server access log line: no time in brackets", (S3, "one_word"),
    ),
    (
        "azure/resource_log_1.json", 1, "the heading of the table cell that the record was copied from",
        "not a resource log record: no JSON object", (RESOURCE, "Content"),
    ),
    (
        "azure/classic_v1.log", 1, "a CopyBlob of which nothing but time, service and key was filled in",
        "the entry has no request-status", (CLASSIC, classic_line(operation="CopyBlob", status="", code="", sent="")),
    ),
]  # fmt: skip


def parse(form: str, name: str, data: bytes) -> ParsedFile:
    return parse_whole(log_format(form), [(source(name, PROVIDERS[form], form), data)])


def raw(name: str) -> bytes:
    if not FOLDER.is_dir():
        pytest.skip(f"the raw log lines of others are not here ({FOLDER})")
    return (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_others_is_read_and_its_malformed_lines_are_refused(name: str) -> None:
    form, lines, events = FILES[name]
    parsed = parse(form, name, raw(name))
    refused = {(row["line"], row["reason"]) for row in parsed.quarantine.to_pylist()}
    assert refused == {(line, reason) for file, line, _, reason, _ in MALFORMED if file == name}
    assert (parsed.lines, parsed.events.num_rows, parsed.notices) == (lines, events, ())


def test_no_file_of_others_is_left_out() -> None:
    raw("README.md")
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert found - {"README.md"} == set(FILES)


@pytest.mark.parametrize(
    ("reason", "twin"),
    [(reason, twin) for _, _, _, reason, twin in MALFORMED],
    ids=[what for _, _, what, _, _ in MALFORMED],
)
def test_a_constructed_line_is_refused_when_it_is(reason: str, twin: tuple[str, str]) -> None:
    form, line = twin
    good = {S3: s3_line(), RESOURCE: azure_line(), CLASSIC: classic_line(), USAGE: gcs_line()}[form]
    parsed = parse(form, "twin", "\n".join([good, line, good]).encode())
    assert parsed.events.num_rows == 2
    assert [(row["line"], row["reason"], row["raw"]) for row in parsed.quarantine.to_pylist()] == [(2, reason, line)]


@pytest.mark.parametrize(
    ("form", "line", "key"),
    [
        pytest.param(S3, s3_line(rest=""), "a/b.bin", id="2010 to 2014: 18 fields and no host id"),
        pytest.param(
            S3, s3_line(referer='"http://x/?id=4""', rest=""), "a/b.bin", id="an unescaped quote in the referrer"
        ),
        pytest.param(
            S3,
            s3_line(owner="2010-10-02-19-15-45-6879098C3140BE9D:2cf7e6b"),
            "a/b.bin",
            id="a file name glued in front",
        ),
        pytest.param(CLASSIC, classic_line(key='/acct/input//";"'), '/";"', id="quotes and a semicolon in a key"),
        pytest.param(
            CLASSIC,
            classic_line(operation="CopyBlobSource", count="1", key="https://acct.blob.core.windows.net/input/from"),
            "from",
            id="a copy's source, a URL",
        ),
        pytest.param(
            USAGE, f"{GCS_HEADER}\n\n{gcs_line(cs_object='v1/集')}", "v1/集", id="a blank line after the header"
        ),
        pytest.param(
            USAGE,
            f"{GCS_HEADER}\n{gcs_line(cs_uri='/b/o?Signature=a%2Fb%2Bc&Expires=1')}",
            "v1/kanji/集",
            id="a signed URL",
        ),
    ],
)
def test_a_constructed_line_is_read_when_it_is(form: str, line: str, key: str) -> None:
    parsed = parse(form, "twin", line.encode())
    assert parsed.events["key"].to_pylist() == [key]
    assert parsed.quarantine.num_rows == 0
