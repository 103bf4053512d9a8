from datetime import UTC, datetime

import pytest
from access_log_lines import CLASSIC_FIELDS, classic_line, source

from cloudflux.access_logs import azure_classic
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.tiers import Provider

NOBODY = Exclusions()
SOURCE = source("blob/2026/11/06/0300/000000.log", Provider.AZURE, "azure_classic")


def parse(*lines: str, exclusions: Exclusions = NOBODY) -> ParsedFile:
    return parse_whole(azure_classic.FORMAT, [(SOURCE, "\n".join(lines).encode())], exclusions)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_an_event_has_every_field_when_the_entry_is_regular(version: str) -> None:
    (event,) = parse(classic_line(version)).events.to_pylist()
    assert (event["provider"], event["bucket"], event["key"]) == ("azure", "reports", "q1 final.xlsx")
    assert event["at"] == datetime(2026, 11, 6, 2, 18, 3, 555012, tzinfo=UTC)
    assert (event["kind"], event["operation"], event["bytes_sent"]) == ("read", "GetBlob", 18432)
    assert event["request_id"] == "0b1c2d3e-0000-4a5b-8c9d-0e1f2a3b4c5d"


def test_both_versions_are_read_when_they_stand_in_one_file() -> None:
    parsed = parse(classic_line(request_id="A"), classic_line("2.0", request_id="B"), classic_line(request_id="C"))
    assert parsed.events["request_id"].to_pylist() == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("status", "code", "reads"),
    [
        ("Success", "200", 1),
        ("SASSuccess", "206", 1),
        ("OAuthSuccess", "200", 1),
        ("AnonymousSuccess", "200", 1),
        ("ClientOtherError", "304", 1),
        ("ConditionNotMet", "304", 1),
        ("ClientOtherError", "404", 0),
        ("SASAuthorizationError", "403", 0),
        ("NetworkError", "200", 0),
        ("AnonymousNetworkError", "Unknown", 0),
        ("ThrottlingError", "503", 0),
    ],
)
def test_the_status_decides_when_a_request_ended(status: str, code: str, reads: int) -> None:
    parsed = parse(classic_line(status=status, code=code))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows, parsed.lines) == (reads, 0, 1)


def test_a_copy_is_one_read_and_one_write_when_it_logs_three_entries() -> None:
    parsed = parse(
        classic_line(operation="CopyBlob", code="202", key="/acct/samples/to.txt"),
        classic_line(
            operation="CopyBlobSource", code="202", count="1", key="https://acct.blob.core.windows.net/s/from%20a.txt"
        ),
        classic_line(operation="CopyBlobDestination", code="202", count="2", key="/acct/samples/to.txt"),
    )
    assert [(row["kind"], row["key"], row["request_id"][36:]) for row in parsed.events.to_pylist()] == [
        ("write", "to.txt", ""),
        ("read", "from a.txt", ":1"),
    ]


@pytest.mark.parametrize("agent", ["xAzure/1.0 AzureStorage/1.0 ObjectLifeCycleScanner/0.50", "OLCMScanner/1.0"])
def test_lifecycle_is_a_tier_event_when_it_deletes(agent: str) -> None:
    assert parse(classic_line(operation="DeleteBlob", agent=agent)).events["kind"].to_pylist() == ["tier"]


@pytest.mark.parametrize(
    "key",
    ['";"', "a;b", "&quot;", "&amp;quot;", "it's <b>", "a b%20+", "é", "\U0001f600", "a\nb", "&#39;", "x\\", "&copy"],
)
def test_a_key_is_decoded_once_when_it_is_odd(key: str) -> None:
    parsed = parse(classic_line(key=f"/acct/reports/{key}"), classic_line())
    assert parsed.quarantine.to_pylist() == []
    assert parsed.events["key"].to_pylist() == [key, "q1 final.xlsx"]


def test_other_services_are_passed_over() -> None:
    parsed = parse(classic_line(service="queue", operation="GetMessages", key="/acct/q"), classic_line())
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (1, 1, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Content", "not those of its version"),
        (classic_line()[:200], "cut off"),
        (classic_line()[20:], "not those of its version"),
        (classic_line() + ";more", "not those of its version"),
        (classic_line("2.0")[:-3], "not those of its version"),
        (classic_line().replace('"/acct', "/acct"), "not those of its version"),
        (classic_line(start="yesterday"), "not a date"),
        (classic_line(start="2036-11-06T02:18:03Z"), "after the file's delivery"),
        (classic_line(code="OK"), "http-status-code"),
        (classic_line(status="", code=""), "no request-status"),
        (classic_line(sent="-1"), "response-packet-size"),
        (classic_line(sent="many"), "response-packet-size"),
        (classic_line(key="/acct/onlyacontainer"), "no container and blob"),
    ],
)
def test_an_entry_goes_to_quarantine_with_its_reason_when_it_is_bad(line: str, reason: str) -> None:
    parsed = parse(classic_line(request_id="A"), line, classic_line(request_id="B"))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]
    assert (row["line"], row["raw"]) == (2, line)


def test_an_unknown_version_is_noticed_and_read_by_its_front_fields() -> None:
    parsed = parse(classic_line("3.0") + ";new;newer" * 5, classic_line("3.0")[:100], classic_line())
    assert parsed.events["key"].to_pylist() == ["q1 final.xlsx"] * 2
    assert parsed.quarantine["line"].to_pylist() == [2]
    assert [(notice.kind, notice.name) for notice in parsed.notices] == [(NoticeKind.UNKNOWN_VERSION, "3.0")]


def test_a_requester_is_excluded_when_one_of_its_names_is_listed() -> None:
    lines = [
        classic_line("2.0", object_id="0000-backup", request_id="A"),
        classic_line("2.0", app_id="1111-scanner", request_id="B"),
        classic_line("2.0", upn="someone@contoso.com", request_id="C"),
        classic_line("2.0", request_id="D"),
    ]
    exclusions = Exclusions((), ("backup", "SCANNER", "someone@"))
    assert parse(*lines, exclusions=exclusions).events["excluded"].to_pylist() == [True, True, True, False]


def test_no_line_swallows_the_next_when_its_quotes_add_up() -> None:
    swallowing = 'x";' + ";" * 10 + '"'
    line = "1.0;" + swallowing
    parsed = parse(classic_line(request_id="A"), line, classic_line(request_id="B"), "\r".join(["1.0;a", "1.0;b"]))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    assert parsed.quarantine["line"].to_pylist() == [2, 4]


def test_the_entry_has_the_documented_fields() -> None:
    assert len(CLASSIC_FIELDS) == azure_classic.WIDTHS["2.0"]
    assert (
        len(classic_line(agent="a", key="/a/b/c").split(";")) == azure_classic.WIDTHS["1.0"] + 2
    )  # &quot; of the ETag
