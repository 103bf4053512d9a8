"""The compiled scanners give what the rules give, for every line, and leave to the rules what they are not sure of."""

import datetime
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from access_log_lines import GCS_HEADER, azure_line, gcs_line, s3_line, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cloudflux
from cloudflux.access_logs import azure_resource, blocks, gcs_usage, s3_server_access
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.access_logs.scanning import compiled, texts
from cloudflux.access_logs.scanning.lines import ScannedLines
from cloudflux.config import Estate
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.tiers import Provider

FORMATS: dict[str, tuple[ModuleType, Provider, Callable[..., str]]] = {
    "s3_server_access": (s3_server_access, Provider.AWS, s3_line),
    "azure_resource": (azure_resource, Provider.AZURE, azure_line),
    "gcs_usage": (gcs_usage, Provider.GCP, gcs_line),
}
HEADS = {"gcs_usage": f"{GCS_HEADER}\n"}
EXCLUSIONS = (
    Exclusions(("cloudflux/",)),
    Exclusions(("cloudflux/", "é"), ("bot",)),
    Exclusions((), ("bot", "é")),
    Exclusions(),
)
DAMAGE = b'"\\,{}[] \n\r\x00\xff-%09aZ:/+.\t\xc3\xa9'

S3_VALUES = {
    "key": ["a%2520b", "a%20b", "a+b", "a%252Bb", "%FF", "%25FF", "%E9%9B%86", "%25E9%259B%2586", "-", "%00", "a%zz",
            "x%2", "é", "y%253D1", "%F0%9F%98%80", "%ED%A0%80", "%C0%80"],
    "uri": ["-", '"GET /a%20b HTTP/1.1"', '"GET /a%2Bb?x HTTP/1.1"', '"GET /media/y%3D1 HTTP/1.1"', '"a"b"', '""'],
    "error": ["InternalError", "NoSuchKey", "--", ""],
    "operation": ["REST.HEAD.OBJECT", "REST.COPY.OBJECT", "REST.COPY.PART", "REST.POST.UPLOAD",
                  "BATCH.DELETE.OBJECT", "S3.EXPIRE.OBJECT", "REST.NEW.OBJECT", "GET", "é.x"],
    "status": ["206", "304", "404", "-", "99", "0200", "2x0"],
    "bytes_sent": ["-", "0", "9" * 23, "1125899906842624", "1125899906842625", "+5", "00012"],
    "agent": ['"cloudflux/1"', '"-"', '""', '"CLOUDFLUX/x"', '"x y  z"', "-", '"a "q" b"'],
    "requester": ["-", "Bot"],
    "bucket": ["-", "é"],
    "request_id": ["-", "a-much-longer-request-identifier-than-usual", "é1"],
    "time": ["[29/Feb/2024:23:59:59 +0000]", "[29/Feb/2023:23:59:59 +0000]", "[06/Nov/2026:24:00:00 +0000]",
             "[6/Nov/2026:00:00:38 +0000]", "[06/nov/2026:00:00:38 +0000]", "[06/Nov/2026:01:00:38 +0100]",
             "[06/Nov/1999:00:00:38 +0000]", "[21/Nov/2026:00:00:00 +0000]", "[21/Nov/2026:00:00:01 +0000]"],
    "referer": ['"http://x y"', '"a"b"', "-"],
    "version": ["", "\t"],
    "rest": ["", "a  b", 'q"', "x\r"],
}  # fmt: skip
AZURE_REQUESTERS: list[Any] = [
    None, [], {}, "bot", {"upn": "bot"}, {"objectId": "robot-7", "upn": None, "appId": ""}, {"appId": "BOT"},
    {"upn": 5}, {"upn": "b", "objectId": "ot"}, {"upn": 'b"ot'}, {"upn": ["bot"]}, {"appId": True},
    {"tokenIssuer": "bot"}, {"upn": "é"}, {"requester": {"upn": "bot"}},
]  # fmt: skip
AZURE_IDENTITIES: list[Any] = [None, "", "x", 5, [], [{"requester": {"upn": "bot"}}], {"a": [1, {"b": -0.5}, True]}] + [
    {"authorization": [[], [{"principals": [{"id": "bot"}, {}]}]], "requester": requester, "x": [None]}
    for requester in AZURE_REQUESTERS
]
AZURE_VALUES: dict[str, list[Any]] = {
    "operationName": ["PutBlob", "GetBlobProperties", "NewBlobThing", None, 5, ""],
    "status": ["200", 206, 304, 404, None, "x", 99999, "+200"],
    "correlationId": ["", None, "-", 7, 'a"b', "é"],
    "statusText": ["NetworkError", "SASNetworkError", "Error", "", None, 5, 'a"b'],
    "time": ["2026-11-06T02:17:45Z", "2026-11-06T02:17:45.5Z", "2026-11-06 02:17:45", "2026-11-06T02:17:45+01:00",
             "2026-13-06T02:17:45Z", "2026-11-06T24:00:00Z", None, 1, "2027-11-06T02:17:45Z",
             "2026-11-06T02:17:45.123456789Z", "2026-11-06T02:17:45.9999999Z", "2026-02-29T00:00:00Z"],
    "identity": AZURE_IDENTITIES,
    "uri": [None, "é\\\u0001", 1e30],
    "properties": [{"objectKey": key} for key in ("/acct/c/é", '/acct/c/a\\b"c', "/a/b", "/acct//x", "", None)]
    + [{"objectKey": "https://x.blob.core.windows.net/c/k%20x?sas"}]
    + [{"responseBodySize": size} for size in (0, "77", None, -1, 2**50, 2**50 + 1, 1.5, "x")]
    + [{"userAgentHeader": agent} for agent in ("cloudflux/1", "ObjectLifeCycleScanner", 'x"y', None, 5)],
}  # fmt: skip
GCS_VALUES = {
    "time_micros": ["1", "-5", "9" * 20, "x", "", "1894000000000000", "01794000000000000", "1794000000000000.5"],
    "cs_uri": ["/b?uploads", "/b?uploadType=resumable&x", "a,b", 'q"q', "x?uploadsX"],
    "sc_status": ["206", "304", "308", "404", "", "x", "+200", "99999"],
    "sc_bytes": ["", "-1", "x", "1125899906842624", "1125899906842625", "9" * 23, " 5"],
    "cs_user_agent": ["cloudflux/1", "GCS Lifecycle Management", "", 'a"b', "é"],
    "s_request_id": ["-", "", "é"],
    "cs_operation": ["PUT_Object", "POST_Object", "HEAD_Object", "NEW_Object", ""],
    "cs_bucket": ["", "é"],
    "cs_object": ["", "a b", 'q"', "a,b", 'a","b', "\\xff"],
}
VALUES: dict[str, dict[str, list[Any]]] = {
    "s3_server_access": S3_VALUES,
    "azure_resource": AZURE_VALUES,
    "gcs_usage": GCS_VALUES,
}


def odd_line(name: str, rng: random.Random) -> bytes:
    values = VALUES[name]
    some = rng.sample(sorted(values), rng.randint(0, 4))
    line = bytearray(FORMATS[name][2](**{field: rng.choice(values[field]) for field in some}).encode())
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 6))):
        place, chance = rng.randrange(len(line)), rng.random()
        if chance < 0.5:
            line[place] = rng.choice(DAMAGE)
        elif chance < 0.8:
            line.insert(place, rng.choice(DAMAGE))
        else:
            del line[place : place + rng.randint(1, 40)]
    return bytes(line)


def odd_file(name: str, rng: random.Random) -> bytes:
    lines = [odd_line(name, rng) for _ in range(rng.choice((1, 5, 60)))]
    if rng.random() < 0.3:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice((b"", b"  ", b"\t", b" " * 70)))
    text = rng.choice((b"\n", b"\n", b"\r\n")).join(lines) + rng.choice((b"\n", b"", b"\n\n"))
    if rng.random() < 0.7:  # else the whole file counts as binary
        text = text.replace(b"\x00", b"").replace(b"\xff", b"")
    return (HEADS.get(name, "").encode() if rng.random() < 0.8 else b"") + text


def parsed(name: str, files: list[bytes], exclusions: Exclusions) -> ParsedFile:
    module, provider, _ = FORMATS[name]
    given_files = [(source(f"log-{number}", provider, name), data) for number, data in enumerate(files)]
    return parse_whole(module.FORMAT, given_files, exclusions)


def by_rules_alone(block: blocks.Block, *_: object) -> tuple[Any, ...]:
    return (None, block.lines, None) if block.files[0].format == "azure_resource" else (None, block.lines)


def told(found: ParsedFile) -> tuple[Any, ...]:
    hours = found.hours.sort_by([("source_file", "ascending"), ("bucket", "ascending"), ("hour", "ascending")])
    tables = [table.to_pylist() for table in (found.events, found.quarantine, hours)]
    return (*tables, found.lines, dict(found.lines_by_file), found.notices)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), exclusions=st.sampled_from(EXCLUSIONS))
def test_lines_are_read_and_refused_as_by_the_rules_alone_whatever_they_are(
    name: str, seed: int, exclusions: Exclusions
) -> None:
    rng = random.Random(seed)
    files = [odd_file(name, rng) for _ in range(rng.choice((1, 1, 2)))]
    scanned = told(parsed(name, files, exclusions))
    with patch.object(FORMATS[name][0], "_scanned", by_rules_alone):
        assert scanned == told(parsed(name, files, exclusions))


@pytest.mark.parametrize("exclusions", EXCLUSIONS, ids=str)
@pytest.mark.parametrize("identity", AZURE_IDENTITIES, ids=str)
def test_requesters_are_excluded_as_by_the_rules_whatever_azure_tells_of_them(
    identity: object, exclusions: Exclusions
) -> None:
    files = [f"{azure_line(identity=identity)}\n{azure_line()}\n".encode()]
    scanned = told(parsed("azure_resource", files, exclusions))
    with patch.object(azure_resource, "_scanned", by_rules_alone):
        assert scanned == told(parsed("azure_resource", files, exclusions))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_rules_are_not_asked_when_all_lines_are_regular(name: str) -> None:
    module, _, line = FORMATS[name]
    text = HEADS.get(name, "") + "\n".join([line(), "", line()]) + "\n"
    with patch.object(module, "_by_rules", side_effect=AssertionError("a regular line was not scanned")):
        assert parsed(name, [text.encode()], Exclusions(("cloudflux/",))).events.num_rows == 2
        # as they are for an estate that says nothing of whom to exclude
        assert parsed(name, [text.encode()], Estate(buckets=()).exclusions).events.num_rows == 2


def test_the_rules_are_not_asked_when_azure_tells_by_which_roles_a_request_was_allowed() -> None:
    roles = [{"action": "read", "denyAssignmentId": "", "principals": [{"id": "a", "type": "User"}]}]
    requesters = [{"objectId": "robot", "upn": None}, {"appId": "a", "upn": "Bot"}, {"upn": "ann"}]
    lines = [azure_line(identity={"authorization": roles, "requester": requester}) for requester in requesters]
    with patch.object(azure_resource, "_by_rules", side_effect=AssertionError("a regular line was not scanned")):
        found = parsed("azure_resource", ["\n".join(lines).encode()], Exclusions((), ("bot",)))
    assert found.events["excluded"].to_pylist() == [True, True, False]


def numbered(rows: list[tuple[bytes, ...]], most: int) -> tuple[list[list[int]], list[list[bytes]]]:
    """Number the columns of some rows, at most so many rows at once; give the numbers and the distinct texts."""
    columns = len(rows[0])
    data = np.frombuffer(b"".join(map(b"".join, rows)) + bytes(texts.PADDING), dtype=np.uint8)
    words = texts.as_words(data)
    found = ScannedLines.zeros(len(rows), columns, with_uris=False)
    tables, waiting = found.tables(), texts.room_to_wait(columns)
    place = 0
    for first in range(0, len(rows), most):
        some = rows[first : first + most]
        for at, row in enumerate(some):
            waiting[0, columns, at] = first + at
            for column, text in enumerate(row):
                waiting[:, column, at] = place, len(text)
                place += len(text)
        texts.number_texts(
            words, texts.SEED, waiting, len(some), tables, found.starts, found.lengths, found.distinct, found.texts
        )
    distinct = [[text.encode() for text in found.strings(words, column).to_pylist()] for column in range(columns)]
    return found.texts.tolist(), distinct


def numbered_plainly(rows: list[tuple[bytes, ...]]) -> tuple[list[list[int]], list[list[bytes]]]:
    distinct = [list(dict.fromkeys(column)) for column in zip(*rows, strict=True)]
    return [
        [known.index(text) for text in column] for known, column in zip(distinct, zip(*rows, strict=True), strict=True)
    ], distinct


@given(
    st.lists(st.tuples(*[st.text("ab", max_size=40).map(str.encode)] * 2), min_size=1, max_size=150),
    st.integers(1, texts.LINES_AT_ONCE),
)
def test_texts_are_numbered_in_the_order_in_which_they_first_come(rows: list[tuple[bytes, ...]], most: int) -> None:
    assert numbered(rows, most) == numbered_plainly(rows)


def test_texts_that_differ_in_one_byte_have_numbers_of_their_own() -> None:
    whole = bytes(range(65, 105))
    rows = [(whole[:length].replace(bytes([byte]), b"_"),) for length in range(41) for byte in (0, *whole[:length])]
    assert numbered(rows, texts.LINES_AT_ONCE) == numbered_plainly(rows)


def test_texts_that_differ_in_one_byte_have_marks_of_their_own() -> None:
    whole = bytes(range(65, 105))
    rows = [whole[:length].replace(bytes([byte]), b"_") for length in range(41) for byte in (0, *whole[:length])]
    words = texts.as_words(np.frombuffer(b"".join(rows) + bytes(texts.PADDING), dtype=np.uint8))
    places = np.cumsum([0, *map(len, rows[:-1])])
    marks = [
        int(texts.mark_of(words, int(place), len(row), texts.SEED)) for place, row in zip(places, rows, strict=True)
    ]
    assert len(set(marks)) == len(set(rows))
    assert len({mark % 2**16 for mark in marks}) > 0.95 * len(set(rows))  # of the bits that choose a slot


@given(st.dates(min_value=datetime.date(1970, 1, 1)))
def test_days_are_counted_as_by_the_calendar(day: datetime.date) -> None:
    assert texts.days_since_1970(day.year, day.month, day.day) == (day - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize(
    "day", [(2023, 2, 29), (1900, 2, 29), (2024, 4, 31), (2024, 13, 1), (2024, 0, 1), (2024, 1, 0)]
)
def test_there_is_no_such_day(day: tuple[int, int, int]) -> None:
    assert texts.days_since_1970(*day) == -1


@pytest.fixture
def fresh_folder() -> Iterator[None]:
    compiled.compiled_folder.cache_clear()
    yield
    compiled.compiled_folder.cache_clear()


@pytest.mark.usefixtures("fresh_folder")
def test_compiled_code_is_kept_in_a_folder_that_nobody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.FOLDER_VARIABLE, str(tmp_path / "kept"))
    folder = compiled.compiled_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("fresh_folder")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_no_compiled_code_is_kept_or_loaded_when_others_can_write_the_folder(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(mode)
    monkeypatch.setenv(compiled.FOLDER_VARIABLE, str(root))
    assert compiled.compiled_folder() is None


def test_lines_are_scanned_when_no_folder_can_be_written() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from access_log_lines import s3_line, source\n"
        "from cloudflux.access_logs import s3_server_access\n"
        "from cloudflux.access_logs.formats import parse_whole\n"
        "from cloudflux.access_logs.scanning import compiled\n"
        "assert compiled.compiled_folder() is None\n"
        "s3_server_access._by_rules = None\n"
        "print(parse_whole(s3_server_access.FORMAT, [(source(), s3_line().encode())]).events.num_rows)\n"
    )
    environment = os.environ | {
        compiled.FOLDER_VARIABLE: "",
        "PYTHONPATH": str(Path(cloudflux.__file__).parents[1]),
    }
    arguments = [sys.executable, "-c", program, str(Path(__file__).parents[2])]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout == "1\n", done.stderr
