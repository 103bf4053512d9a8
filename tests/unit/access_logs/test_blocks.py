import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard
from access_log_lines import (
    GCS_HEADER,
    azure_line,
    classic_line,
    cloudtrail_record,
    gcs_audit_entry,
    gcs_line,
    s3_line,
    source,
)

from cloudflux.access_logs.formats import log_format, parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider

FORMATS = {
    "s3_server_access": (Provider.AWS, "\n".join([s3_line(), s3_line(request_id="B")])),
    "azure_resource": (Provider.AZURE, "\n".join([azure_line(), azure_line(correlationId="B")])),
    "gcs_usage": (Provider.GCP, "\n".join([GCS_HEADER, gcs_line(), gcs_line(s_request_id="B")])),
    "cloudtrail": (
        Provider.AWS,
        "\n".join([json.dumps(cloudtrail_record()), json.dumps(cloudtrail_record(eventID="B"))]),
    ),
    "azure_classic": (Provider.AZURE, "\n".join([classic_line(), classic_line(request_id="B")])),
    "gcs_audit": (
        Provider.GCP,
        "\n".join([json.dumps(gcs_audit_entry()), json.dumps(gcs_audit_entry(insertId="B"))]),
    ),
}

Parse = Callable[..., ParsedFile]


def parser(name: str) -> Parse:
    def parse(data: bytes, file: SourceFile, agents: tuple[str, ...] = ()) -> ParsedFile:
        return parse_whole(log_format(name), [(file, data)], Exclusions(agents))

    return parse


@pytest.fixture(params=sorted(FORMATS))
def fmt(request: pytest.FixtureRequest) -> tuple[SourceFile, Parse, bytes]:
    provider, text = FORMATS[request.param]
    return source(provider=provider, fmt=request.param), parser(request.param), text.encode()


Format = tuple[SourceFile, Parse, bytes]


def test_the_id_stays_when_the_file_grows() -> None:
    assert replace(source(), etag="other", size_bytes=2).file_id == source().file_id
    assert source("log-2").file_id != source("log-1").file_id


def test_nothing_comes_of_an_empty_file(fmt: Format) -> None:
    file, parse, _ = fmt
    for data in (b"", b"\n\n", b"\xef\xbb\xbf"):
        parsed = parse(data, file)
        assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (0, 0, 0)


def test_the_whole_lines_go_through_when_the_file_is_cut_in_half(fmt: Format) -> None:
    file, parse, data = fmt
    whole = parse(data, file)
    assert whole.events.num_rows == 2
    cut = parse(data[: len(data) - 80], file)
    if file.format == "s3_server_access":  # the fields that are needed stand in front: cut those
        cut = parse(data[: len(data) - 200], file)
    assert cut.events.num_rows == 1
    assert cut.quarantine.num_rows == 1
    assert cut.quarantine["line"].to_pylist() == [data.count(b"\n") + 1]


def test_binary_junk_is_one_row_of_quarantine_when_it_has_no_good_line(fmt: Format) -> None:
    file, parse, _ = fmt
    junk = random.Random(7).randbytes(20_000)
    parsed = parse(junk, file)
    assert parsed.events.num_rows == 0
    (row,) = parsed.quarantine.to_pylist()
    assert (row["line"], row["reason"]) == (0, "binary data, not a log file")
    assert "\0" not in row["raw"]
    assert len(row["raw"]) <= 2000


def test_the_good_lines_go_through_when_junk_stands_between_them(fmt: Format) -> None:
    file, parse, data = fmt
    lines = data.split(b"\n")
    parsed = parse(b"\n".join([*lines[:-1], b"\x00\xff\xfe junk", lines[-1]]), file)
    assert parsed.events.num_rows == 2
    (row,) = parsed.quarantine.to_pylist()
    assert row["line"] == len(lines)
    assert row["raw"] == r"\x00\xff\xfe junk"


@pytest.mark.parametrize("members", [1, 2])
def test_a_gzip_file_is_unpacked_when_it_is_whole(fmt: Format, members: int) -> None:
    file, parse, data = fmt
    half = data.rfind(b"\n") + 1
    packed = gzip.compress(data) if members == 1 else gzip.compress(data[:half]) + gzip.compress(data[half:])
    parsed = parse(packed, file)
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (2, 0)


def test_gzip_junk_is_one_row_of_quarantine(fmt: Format) -> None:
    file, parse, _ = fmt
    parsed = parse(b"\x1f\x8b" + random.Random(7).randbytes(5000), file)
    assert parsed.quarantine["reason"].to_pylist() == ["gzip: the file is damaged"]
    assert parsed.quarantine["line"].to_pylist() == [0]


def test_what_unpacks_goes_through_when_a_gzip_file_is_cut(fmt: Format) -> None:
    file, parse, data = fmt
    packed = gzip.compress(data, compresslevel=0)
    parsed = parse(packed[: len(packed) - 170], file)
    assert parsed.events.num_rows == 1
    assert parsed.quarantine.sort_by("line")["reason"].to_pylist()[0] == "gzip: the file ends too early"


@pytest.mark.parametrize("skipped", [b"", b"\x5a\x2a\x4d\x18\x03\0\0\0abc"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_zstd_file_is_unpacked_when_it_is_whole(fmt: Format, frames: int, skipped: bytes) -> None:
    file, parse, data = fmt
    half = len(data) // frames
    packed = b"".join(zstandard.compress(part) for part in (b"\xef\xbb\xbf" + data[:half], data[half:]))
    parsed = parse(skipped + packed, file)
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (2, 0)


@pytest.mark.parametrize("frames", [1, 2])
def test_what_unpacks_goes_through_when_a_zstd_file_is_cut(fmt: Format, frames: int) -> None:
    file, parse, data = fmt
    rest = b"\n" + random.Random(7).randbytes(200_000).hex().encode()
    packed = zstandard.compress(data + rest) if frames == 1 else zstandard.compress(data) + zstandard.compress(rest)
    parsed = parse(packed[: len(packed) - 10], file)
    assert parsed.events.num_rows == 2
    assert parsed.quarantine.sort_by("line")["reason"].to_pylist()[0] == "zstd: the file ends too early"


@pytest.mark.parametrize("after", [b"\0" * 9, b"\x28\xb5\x2f\xfd" + b"\xff" * 40, b"text"])
def test_zstd_junk_is_one_row_of_quarantine_when_it_follows_a_frame(fmt: Format, after: bytes) -> None:
    file, parse, data = fmt
    parsed = parse(zstandard.compress(data) + after, file)
    assert parsed.events.num_rows == 2
    assert parsed.quarantine["reason"].to_pylist() == ["zstd: the file is damaged"]


@pytest.mark.parametrize("seed", range(40))
def test_no_file_raises_when_bytes_of_it_are_changed(fmt: Format, seed: int) -> None:
    file, parse, data = fmt
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        changed[rng.randrange(len(changed))] = rng.choice(b'"\\,{}[] \n\r\x00\xff-%09aZ')
    parsed = parse(bytes(changed), file, ("cloudflux/",))
    assert parsed.events.num_rows + parsed.quarantine.num_rows <= parsed.lines + 1
