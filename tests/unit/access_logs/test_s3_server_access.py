from datetime import UTC, date, datetime
from urllib.parse import quote

import pyarrow as pa
import pytest
from access_log_lines import s3_line, source
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.access_logs import s3_server_access
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.lake.schemas import ACCESS_EVENTS, QUARANTINE


def parse(*lines: str, agents: tuple[str, ...] = ("cloudflux/",)) -> ParsedFile:
    return parse_whole(s3_server_access.FORMAT, [(source(), ("\n".join(lines) + "\n").encode())], Exclusions(agents))


def test_an_event_has_every_field_when_the_line_is_regular() -> None:
    parsed = parse(s3_line())
    assert parsed.events.schema == ACCESS_EVENTS
    assert parsed.quarantine == QUARANTINE.empty_table()
    assert parsed.events.to_pylist() == [
        {
            "provider": "aws",
            "bucket": "media",
            "key": "a/b.bin",
            "at": datetime(2026, 11, 6, 0, 0, 38, tzinfo=UTC),
            "day": date(2026, 11, 6),
            "kind": "read",
            "operation": "REST.GET.OBJECT",
            "bytes_sent": 2048,
            "request_id": "3E57427F3EXAMPLE",
            "excluded": False,
            "source_file": source().file_id,
            "line": 1,
        }
    ]


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("REST.GET.OBJECT", "read"),
        ("WEBSITE.GET.OBJECT", "read"),
        ("REST.COPY.OBJECT_GET", "read"),
        ("REST.COPY.PART_GET", "read"),
        ("REST.PUT.OBJECT", "write"),
        ("REST.COPY.OBJECT", "write"),
        ("REST.POST.UPLOAD", "write"),
        ("REST.PUT.PART", None),
        ("REST.COPY.PART", "part"),
        ("REST.DELETE.OBJECT", "delete"),
        ("BATCH.DELETE.OBJECT", "delete"),
        ("REST.HEAD.OBJECT", None),
        ("REST.GET.BUCKET", None),
        ("REST.GET.OBJECT_TAGGING", None),
        ("S3.COMPUTE.OBJECT.CHECKSUM", None),
        ("REST.GET.SOMETHING_NEW", None),
    ],
)
def test_only_use_of_the_object_counts_when_the_operation_is(operation: str, kind: str | None) -> None:
    parsed = parse(s3_line(operation=operation))
    assert parsed.events["kind"].to_pylist() == ([kind] if kind else [])
    assert parsed.quarantine.num_rows == 0
    assert parsed.lines == 1


@pytest.mark.parametrize("operation", ["S3.EXPIRE.OBJECT", "S3.TRANSITION_SIA.OBJECT", "S3.TRANSITION.OBJECT"])
def test_lifecycle_is_a_tier_event_when_no_status_is_logged(operation: str) -> None:
    parsed = parse(
        s3_line(operation=operation, uri="-", status="-", bytes_sent="-", total_ms="-", turn_ms="-", agent="-")
    )
    assert parsed.events["kind"].to_pylist() == ["tier"]


@pytest.mark.parametrize(
    ("status", "kinds"),
    [("200", ["read"]), ("206", ["read"]), ("304", ["read"]), ("307", []), ("403", []), ("404", []), ("503", [])],
)
def test_a_failed_request_is_no_access_when_its_status_is(status: str, kinds: list[str]) -> None:
    parsed = parse(s3_line(status=status, bytes_sent="-"))
    assert parsed.events["kind"].to_pylist() == kinds
    assert parsed.quarantine.num_rows == 0
    assert sum(parsed.events["bytes_sent"].to_pylist()) == 0


@pytest.mark.parametrize(
    ("operation", "kinds"),
    [("REST.POST.UPLOAD", []), ("REST.PUT.OBJECT", []), ("REST.COPY.OBJECT", ["part"]), ("REST.GET.OBJECT", ["read"])],
)
def test_a_write_is_none_when_an_error_followed_the_status(operation: str, kinds: list[str]) -> None:
    parsed = parse(s3_line(operation=operation, error="InternalError"))
    assert parsed.events["kind"].to_pylist() == kinds
    assert (parsed.lines, parsed.quarantine.num_rows) == (1, 0)


def test_new_fields_are_noticed_when_the_first_line_has_none() -> None:
    (noticed,) = parse(s3_line() + "\n" + s3_line(rest=" ".join(f"f{n}" for n in range(19, 31)))).notices
    assert (noticed.kind, noticed.name) == (NoticeKind.NEW_FIELD, "field 29")
    assert "30 fields" in noticed.detail


@pytest.mark.parametrize("fields", [18, 24, 25, 26, 27, 31])
def test_a_line_is_read_when_it_has_so_many_fields(fields: int) -> None:
    rest = [f"field{number}" for number in range(19, fields + 1)]
    parsed = parse(s3_line(rest=" ".join(rest)))
    assert parsed.events.num_rows == 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"agent": '""Mozilla/5.0 (X11)"'},
        {"agent": '"a "b" c 200 - 1 1 1 1 "-" d"'},
        {"referer": '"http://x/?q=1""'},
        {"uri": '"GET /a/b.bin?filename="b.bin"&x=1 HTTP/1.1"'},
        {"uri": "-", "referer": "-", "agent": "-"},
        {"ip": "192.0.2.3 "},
        {"owner": "2010-10-02-19-15-45-6879098C3140BE9D:2cf7e6b0"},
    ],
)
def test_a_line_is_read_when_its_fields_are_odd(overrides: dict[str, str]) -> None:
    (event,) = parse(s3_line(**overrides)).events.to_pylist()
    assert (event["key"], event["bytes_sent"], event["request_id"]) == ("a/b.bin", 2048, "3E57427F3EXAMPLE")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("this is not a valid log entry", "no time in brackets"),
        (s3_line(time=""), "no time in brackets"),
        (s3_line(status="OK"), "fields are missing"),
        (s3_line(status="-"), "http_status is not a number"),
        (s3_line(time="[31/Feb/2026:00:00:38 +0000]"), "not a date"),
        (s3_line(time="[06/Nov/9999:00:00:38 +0000]"), "after the file's delivery"),
        (s3_line(time="[06/Nov/1999:00:00:38 +0000]"), "before all cloud storage"),
        (s3_line(bytes_sent="99999999999999999999999"), "beyond any object's size"),
        (s3_line(operation="GET"), "operation is none"),
        (s3_line(key="-"), "no bucket and key"),
        (s3_line(key="%FF"), "not UTF-8"),
        (s3_line()[:200], "fields are missing or cut off"),
        (s3_line()[150:], "no time in brackets"),
    ],
)
def test_a_line_goes_to_quarantine_with_its_reason_when_it_is_bad(line: str, reason: str) -> None:
    parsed = parse(s3_line(), line, s3_line(request_id="B"))
    assert parsed.events["request_id"].to_pylist() == ["3E57427F3EXAMPLE", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]
    assert (row["line"], row["raw"], row["day"]) == (2, line, date(2026, 11, 20))


@pytest.mark.parametrize(
    ("logged", "operation", "uri", "key"),
    [
        ("a%2520b", "REST.GET.OBJECT", '"GET /a%20b HTTP/1.1"', "a b"),
        ("a%2520b", "REST.GET.OBJECT", '"GET /media/a%20b?x=1 HTTP/1.1"', "a b"),
        ("a%2520b", "REST.GET.OBJECT", '"GET /a%2520b HTTP/1.1"', "a%20b"),
        ("a%20b", "REST.GET.OBJECT", '"GET /a%20b HTTP/1.1"', "a b"),
        ("a%252Bb", "REST.GET.OBJECT", '"GET /a%2Bb HTTP/1.1"', "a+b"),
        ("foo-%2525Y", "REST.GET.OBJECT", "-", "foo-%Y"),
        ("foo-%2525Y", "BATCH.DELETE.OBJECT", "-", "foo-%25Y"),
        ("100%25", "BATCH.DELETE.OBJECT", "-", "100%"),
        ("a+b", "S3.EXPIRE.OBJECT", "-", "a b"),
        ("%E9%9B%86", "REST.GET.OBJECT", '"GET /%E9%9B%86 HTTP/1.1"', "集"),
    ],
)
def test_a_key_is_decoded_as_often_as_it_was_encoded_when_it_has_escapes(
    logged: str, operation: str, uri: str, key: str
) -> None:
    assert parse(s3_line(key=logged, operation=operation, uri=uri)).events["key"].to_pylist() == [key]


def test_excluded_agents_are_marked_when_their_name_is_in_the_user_agent() -> None:
    agents = ['"Boto3/1.40 CloudFlux/0.1"', '"Mozilla/5.0"', '"x" cloudflux/ "y"', "-"]
    parsed = parse(*(s3_line(agent=agent) for agent in agents))
    assert parsed.events["excluded"].to_pylist() == [True, False, True, False]
    assert parse(s3_line(agent=agents[0]), agents=()).events["excluded"].to_pylist() == [False]


def test_the_referer_excludes_nothing_when_it_names_an_excluded_agent() -> None:
    assert parse(s3_line(referer='"https://cloudflux/"')).events["excluded"].to_pylist() == [False]


def test_a_request_without_id_is_told_apart_by_its_line_when_it_is_logged() -> None:
    ids = parse(s3_line(request_id="-"), s3_line(request_id="-")).events["request_id"].to_pylist()
    assert ids == [f"{source().file_id}:1", f"{source().file_id}:2"]


def test_a_chunk_gives_what_its_files_give_when_they_are_parsed_at_once() -> None:
    contents = [
        s3_line(request_id="A") + "\n" + s3_line(key="x%2520y"),
        "",
        "junk\n\n" + s3_line(request_id="B"),
        "\r\n".join([s3_line(request_id="C"), s3_line(status="x")]),
    ]
    files = [(source(f"log-{number}"), text.encode()) for number, text in enumerate(contents)]
    together = parse_whole(s3_server_access.FORMAT, files)
    singles = [parse_whole(s3_server_access.FORMAT, [file]) for file in files]
    keys = [("source_file", "ascending"), ("request_id", "ascending")]
    assert together.events.sort_by(keys) == pa.concat_tables([one.events for one in singles]).sort_by(keys)
    assert together.quarantine.sort_by("source_file") == pa.concat_tables([one.quarantine for one in singles]).sort_by(
        "source_file"
    )
    assert together.lines == sum(one.lines for one in singles) == 6
    assert dict(together.lines_by_file) == {
        file.file_id: count for (file, _), count in zip(files, [2, 0, 2, 2], strict=True)
    }


def test_nothing_comes_of_no_files() -> None:
    parsed = parse_whole(s3_server_access.FORMAT, [])
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (0, 0, 0)


# S3 keys are any text but NUL; user agents are what strangers send, without line breaks.
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40).filter(
    lambda key: key != "-"
)
agents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=60)


@settings(max_examples=150)
@given(key=keys, agent=agents, twice=st.booleans())
def test_a_line_round_trips_when_key_and_agent_are_odd(key: str, agent: str, twice: bool) -> None:
    once = quote(key, safe="/")
    logged = quote(once, safe="/") if twice else once
    line = s3_line(key=logged, uri=f'"GET /media/{once}?versionId=1 HTTP/1.1"', agent=f'"{agent}"')
    parsed = parse(line)
    assert parsed.quarantine.to_pylist() == []
    (event,) = parsed.events.to_pylist()
    assert (event["key"], event["bytes_sent"]) == (key, 2048)
    assert event["excluded"] == ("cloudflux/" in agent.lower())
