"""Bytes are changed, cut out and put in: nothing crashes, nothing hangs, and what was not touched is read as before."""

import json
import random
from collections.abc import Callable

import pytest
from access_log_lines import GCS_HEADER, PROVIDERS, Request, azure_line, gcs_line, source, written
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.access_logs import blocks
from cloudflux.access_logs.formats import FORMATS, log_format, parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions

RECORDS = 12
JSON_FORMATS = ("azure_resource", "cloudtrail", "gcs_audit")
JUNK = (
    b"\x00", b"\xff\xfe", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b";", b":", b"\r", b"\t", b" ", b"%", b"&",
    b"\xe9", b'"""', b'","', b'";"', b'},{"', b"null", b"nan", b"-1", b"1e999", b"\xf0\x9f", b"\xed\xa0\x80",
    b"\x1b[31m", b"${jndi:x}", b'{"a":' * 200, b"[" * 3000, b'"' * 1001, b"A" * 70_000, b"\xe2\x80\xa8",
    b'{"records":[', b'{"Records":[{}]}',
)  # fmt: skip
"""Put into records: no line end, and nothing that a record begins with."""
LINES = (
    b"", b" ", b"\x00", b"junk", b'"', b'{"', b'{"time":', b"{}", b"[]", b'{"eventVersion":"1.0"', b"[[[[", b"1.0;;;",
    b'2.0;"', b"\xff" * 50, b'"time_micros","cs_bucket"', b'{"records":[]}', b'{"Records":[', b"]}", b'"' * 99,
    b"null", b"x" * 300_000, b'{"a":' * 5000, b'1,"2', b"[06/Nov/2026:00:00:38 +0000]",
)  # fmt: skip
"""Put between lines."""
Change = Callable[[random.Random, bytes], bytes]


def parse(name: str, data: bytes) -> ParsedFile:
    file = source("log-1", PROVIDERS[name], name)
    return parse_whole(log_format(name), [(file, data)], Exclusions(("cloudflux/",), ("nobody",)))


def ids(parsed: ParsedFile) -> list[str]:
    return [request_id for request_id in parsed.events["request_id"].to_pylist() if request_id.startswith("R")]


def requests() -> list[Request]:
    return [
        Request(f'a/b "{number}" é.bin', "agent/1 (x; y)", "http://x/?q=1", number, False) for number in range(RECORDS)
    ]


def changed(rng: random.Random, record: bytes) -> bytes:
    """Change a record, in place or not; it may end up whole, torn or empty."""
    data = bytearray(record)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.choice([b for b in range(256) if b != 10])])
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2:
                data[at:at] = rng.choice(JUNK)
            case 3:
                del data[at:]
    return bytes(data)


def records_of(name: str, layout: str) -> tuple[bytes, list[bytes], bytes, bytes]:
    """Give a file as its begin, its records, what stands between them, and its end."""
    if layout == "lines":
        lines = written(name, requests(), "lines", False).encode().rstrip(b"\n").split(b"\n")
        begin = lines.pop(0) + b"\n" if name == "gcs_usage" else b""
        return begin, lines, b"\n", b"\n"
    single = [json.dumps(json.loads(line)).encode() for line in written(name, requests(), "lines", False).split("\n")]
    match layout:
        case "compact":
            return b'{"Records":[', [line.replace(b'", "', b'","') for line in single], b",", b"]}"
        case "printed":
            printed = [json.dumps(json.loads(line), indent=2).encode() for line in single]
            return b"[\n", printed, b",\n", b"\n]\n"
    return b"", single, b"", b""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, "lines") for name in sorted(FORMATS)]
    + [(name, layout) for name in sorted(JSON_FORMATS) for layout in ("compact", "printed", "together")],
)
def test_untouched_records_are_read_when_others_are_changed(name: str, layout: str) -> None:
    begin, records, between, end = records_of(name, layout)
    untouched_ids = [f"R{number}" for number in range(RECORDS)]
    assert ids(parse(name, begin + between.join(records) + end)) == untouched_ids
    for seed in range(16):
        rng = random.Random(f"{name} {layout} {seed}")
        touched = set(rng.sample(range(RECORDS), rng.randint(1, 4)))
        body = [changed(rng, record) if number in touched else record for number, record in enumerate(records)]
        if between == b"\n":
            for _ in range(rng.randint(0, 3)):
                place = rng.randrange(len(body) + 1)
                body.insert(place, rng.choice(LINES))
        parsed = parse(name, begin + between.join(body) + end)
        expected = [f"R{number}" for number in range(RECORDS) if number not in touched]
        found = ids(parsed)
        assert [request_id for request_id in found if request_id in expected] == expected, f"seed {seed}"
        assert len(found) <= RECORDS, f"seed {seed}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_crashes_when_a_file_is_cut_or_filled_with_junk(name: str) -> None:
    for seed in range(12):
        rng = random.Random(f"{name} {seed}")
        data = written(name, requests(), rng.choice(["compact", "printed", "together"]), seed % 2 == 0).encode()
        start, stop = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
        cut = data[start:stop] + rng.randbytes(rng.choice([0, 0, 1, 5000])) + data[: rng.randrange(len(data))]
        parsed = parse(name, cut)
        assert parsed.events.num_rows <= 2 * RECORDS
        assert parsed.quarantine.num_rows > 0 or parsed.lines == parsed.events.num_rows


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=20)
@given(st.data())
def test_nothing_crashes_when_a_file_is_anything(name: str, data: st.DataObject) -> None:
    heads = {"gcs_usage": GCS_HEADER.encode() + b"\n", "azure_classic": b"1.0;"}
    pieces = st.sampled_from(
        [*LINES[:-3], *JUNK[:-9], b"\n", b"1.0;", b"2.0;", b'{"eventVersion":"1"}', heads.get(name, b"")]
    )
    content = data.draw(st.lists(pieces | st.binary(max_size=40), max_size=30).map(b"".join))
    parsed = parse(name, content)
    assert parsed.events.num_rows == 0
    assert parsed.lines <= len(content)  # junk before, between and after objects counts as records that are refused


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "line",
    [
        "{" * 400_000,
        '{"a":' * 200_000,
        '[{"time":' * 100_000,
        '{"records":[' * 50_000,
        "}" * 1_000_000,
        "} " * 500_000,
        '{"time":"' + " " * 1_000_000,
        '},{"time":' * 100_000,
        "\n".join(['{"time":{', "[{},"] * 20_000),
        '{"time":"' + "\\" * 999_999,
        '"' * 1_000_001,
        "\n".join(['{"a":"' + "x" * 500 + '","b":'] * 3000),
    ],
)
@pytest.mark.parametrize("name", JSON_FORMATS)
def test_a_good_record_is_read_in_time_when_what_precedes_it_is_built_to_take_long(name: str, line: str) -> None:
    good = written(name, requests()[:1], "lines", False)
    parsed = parse(name, f"{line}\n{good}\n".encode())
    assert ids(parsed)[-1:] == ["R0"]


def test_a_record_is_read_when_it_is_a_megabyte_long() -> None:
    long = azure_line(correlationId="RA", properties={"userAgentHeader": "x" * 1_000_000})
    assert ids(parse("azure_resource", f"{azure_line(correlationId='RB')}\n{long}\n".encode())) == ["RB", "RA"]
    row = gcs_line(s_request_id="RA", cs_user_agent='"x' * 500_000)
    assert ids(parse("gcs_usage", f"{GCS_HEADER}\n{row}\n{gcs_line(s_request_id='RB')}\n".encode())) == ["RA", "RB"]


@pytest.mark.parametrize("count", [3, 30_000])
def test_only_the_line_is_lost_when_it_is_longer_than_any_provider_writes(count: int) -> None:
    before = [azure_line(correlationId=f"R{number}") for number in range(count)]
    lines = [*before, "x" * (blocks.MAX_LINE_BYTES + (3 << 20)), azure_line(correlationId="RZ")]
    parsed = parse("azure_resource", "\n".join(lines).encode())
    assert ids(parsed) == [f"R{number}" for number in range(count)] + ["RZ"]
    assert parsed.events["line"].to_pylist() == [*range(1, count + 1), count + 2]
    assert parsed.quarantine["line"].to_pylist() == [count + 1]
    assert parsed.quarantine["reason"].to_pylist() == [f"a line of more than {blocks.MAX_LINE_BYTES} bytes"]


def test_nothing_is_lost_when_the_last_line_of_a_large_file_has_no_end() -> None:
    line = azure_line(correlationId="R")
    count = (10 << 20) // len(line)
    last = azure_line(correlationId="RZ", properties={"userAgentHeader": "x" * (2 << 20)})
    parsed = parse("azure_resource", ("\n".join([line] * count) + "\n" + last).encode())
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (count + 1, 0)


def test_the_first_of_two_equal_keys_counts_in_lines_and_envelopes_alike() -> None:
    record = azure_line(correlationId="RA")[:-1] + ',"correlationId":"RB"}'
    assert ids(parse("azure_resource", record.encode())) == ["RA"]
    assert ids(parse("azure_resource", f'{{"records":[{record},{record}]}}'.encode())) == ["RA", "RA"]
