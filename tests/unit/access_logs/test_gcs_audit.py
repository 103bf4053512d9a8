import json
from datetime import UTC, datetime
from typing import Any

import pytest
from access_log_lines import gcs_audit_entry, source

from cloudflux.access_logs import gcs_audit
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.tiers import Provider

NOBODY = Exclusions()
SOURCE = source("cloudaudit.googleapis.com/data_access/2026/11/06/03:00:00_03:59:59_S0.json", Provider.GCP, "gcs_audit")


def parse(*entries: dict[str, Any], exclusions: Exclusions = NOBODY) -> ParsedFile:
    return parse_text("\n".join(map(json.dumps, entries)), exclusions)


def parse_text(text: str, exclusions: Exclusions = NOBODY) -> ParsedFile:
    return parse_whole(gcs_audit.FORMAT, [(SOURCE, text.encode())], exclusions)


def test_an_event_has_every_field_but_bytes_when_the_entry_is_regular() -> None:
    parsed = parse(gcs_audit_entry())
    (event,) = parsed.events.to_pylist()
    assert (event["provider"], event["bucket"], event["key"]) == ("gcp", "media", "a/b.bin")
    assert event["at"] == datetime(2026, 11, 6, 3, 0, 0, 480672, tzinfo=UTC)
    assert (event["kind"], event["operation"], event["bytes_sent"]) == ("read", "storage.objects.get", 0)
    assert event["request_id"] == "10qvp9hd3m5k"
    assert parsed.notices == ()


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("storage.objects.get", ["read"]),
        ("storage.objects.create", ["write"]),
        ("storage.objects.delete", ["delete"]),
        ("storage.objects.list", []),
        ("storage.objects.update", []),
        ("storage.objects.getIamPolicy", []),
        ("storage.buckets.get", []),
    ],
)
def test_only_use_of_the_object_counts_when_the_method_is(method: str, kinds: list[str]) -> None:
    parsed = parse(gcs_audit_entry(payload={"methodName": method}))
    assert parsed.events["kind"].to_pylist() == kinds
    assert (parsed.lines, parsed.quarantine.num_rows, parsed.notices) == (1, 0, ())


def test_a_rewrite_is_a_read_and_a_write_when_it_logs_two_entries() -> None:
    read = gcs_audit_entry(payload={"resourceName": "projects/_/buckets/media/objects/from"})
    write = gcs_audit_entry(
        payload={"methodName": "storage.objects.create", "resourceName": "projects/_/buckets/media/objects/to"}
    )
    assert [(event["kind"], event["key"]) for event in parse(read, write).events.to_pylist()] == [
        ("read", "from"),
        ("write", "to"),
    ]


@pytest.mark.parametrize(
    ("status", "reads"), [({}, 1), (None, 1), ({"code": 0}, 1), ({"code": 7}, 0), ({"code": "5"}, 0)]
)
def test_a_failed_request_is_no_access_when_its_status_is(status: Any, reads: int) -> None:
    parsed = parse(gcs_audit_entry(payload={"status": status}))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (reads, 0)


def test_lifecycle_is_a_tier_event_when_it_deletes() -> None:
    entry = gcs_audit_entry(
        payload={
            "methodName": "storage.objects.delete",
            "requestMetadata": {"callerSuppliedUserAgent": "GCS Lifecycle Management,gzip(gfe)"},
        }
    )
    assert parse(entry).events["kind"].to_pylist() == ["tier"]


def test_entries_of_others_are_no_access_when_they_lie_in_the_same_bucket() -> None:
    text = {
        "insertId": "x",
        "timestamp": "2026-11-06T03:00:00Z",
        "textPayload": "hello",
        "logName": "projects/p/logs/a",
    }
    bigquery = gcs_audit_entry(payload={"serviceName": "bigquery.googleapis.com", "methodName": "tables.objects.get"})
    parsed = parse(text, bigquery, gcs_audit_entry())
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows, parsed.notices) == (3, 1, 0, ())
    assert [hour["records"] for hour in parsed.hours.to_pylist()] == [1]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_when_it_was_exported_by_hand(indent: int | None) -> None:
    entries = [gcs_audit_entry(insertId=str(number)) for number in range(3)]
    parsed = parse_text(json.dumps(entries, indent=indent))
    assert parsed.events["request_id"].to_pylist() == ["0", "1", "2"]
    assert parsed.quarantine.num_rows == 0


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
@pytest.mark.parametrize("elements", [2, 3, 12])
def test_an_entry_is_put_together_again_when_lists_in_it_begin_like_entries(
    elements: int, separators: tuple[str, str]
) -> None:
    # Here a file's own first key is that of the elements of authorizationInfo, too.
    permissions = [{"resource": "r", "permission": f"p{number}"} for number in range(elements)]
    entries = [
        {"resource": {}} | gcs_audit_entry(insertId=str(number), payload={"authorizationInfo": permissions})
        for number in range(5)
    ]
    text = json.dumps(entries, separators=separators)
    for whole in (text, text[1:-1], json.dumps(entries, indent=1)):
        parsed = parse_text(whole)
        assert parsed.events["request_id"].to_pylist() == ["0", "1", "2", "3", "4"]
        assert (parsed.lines, parsed.quarantine.num_rows) == (5, 0)


def test_the_other_entries_are_read_when_one_is_torn_in_a_list() -> None:
    permissions = [{"resource": "r", "permission": f"p{number}"} for number in range(3)]
    entries = [
        json.dumps({"resource": {}} | gcs_audit_entry(insertId=name, payload={"authorizationInfo": permissions}))
        for name in "ABC"
    ]
    torn = entries[1][: entries[1].index('"p1"') + 5]
    parsed = parse_text(f"[{entries[0]},{torn},{entries[2]}]")
    assert parsed.events["request_id"].to_pylist() == ["A", "C"]
    assert set(parsed.quarantine["reason"].to_pylist()) == {
        "not a log entry: no JSON object",
        "not a log entry: no timestamp",
    }


@pytest.mark.parametrize("key", ["a/objects/b", "a\nb", '"', "é/集", "x?y#z", "%20", "\\", "objects/"])
def test_a_key_is_taken_as_it_is_when_it_is_odd(key: str) -> None:
    entry = gcs_audit_entry(payload={"resourceName": f"projects/_/buckets/media/objects/{key}"})
    assert parse(entry).events["key"].to_pylist() == [key]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (gcs_audit_entry(timestamp="yesterday"), "not a date"),
        (gcs_audit_entry(timestamp="2036-11-06T03:00:00Z"), "after the file's delivery"),
        (gcs_audit_entry(timestamp=None), "no timestamp"),
        (gcs_audit_entry(payload={"methodName": None}), "no methodName"),
        (gcs_audit_entry(payload={"status": {"code": "many"}}), "status.code"),
        (gcs_audit_entry(payload={"resourceName": "projects/_/buckets/media"}), "no bucket and object"),
        (gcs_audit_entry(payload={"resourceName": None}), "no bucket and object"),
        ({}, "no timestamp"),
    ],
)
def test_an_entry_goes_to_quarantine_with_its_reason_when_it_is_bad(entry: dict[str, Any], reason: str) -> None:
    parsed = parse(gcs_audit_entry(insertId="A"), entry, gcs_audit_entry(insertId="B"))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]
    assert (row["line"], row["raw"]) == (2, json.dumps(entry))


def test_a_requester_is_excluded_when_its_mail_or_agent_is_listed() -> None:
    exclusions = Exclusions(("gcloud-python",), ("reader@P.",))
    other = gcs_audit_entry(payload={"authenticationInfo": {}, "requestMetadata": {}})
    assert parse(gcs_audit_entry(), other, exclusions=exclusions).events["excluded"].to_pylist() == [True, False]
    assert parse(gcs_audit_entry(), exclusions=Exclusions((), ("reader@p.",))).events["excluded"].to_pylist() == [True]


def test_what_is_new_is_noticed_when_an_entry_has_it() -> None:
    entry = gcs_audit_entry(newField=1, payload={"methodName": "storage.objects.teleport", "newer": 1})
    assert {(notice.kind, notice.name) for notice in parse(entry).notices} == {
        (NoticeKind.NEW_FIELD, "newField"),
        (NoticeKind.NEW_FIELD, "protoPayload.newer"),
        (NoticeKind.UNKNOWN_OPERATION, "storage.objects.teleport"),
    }
