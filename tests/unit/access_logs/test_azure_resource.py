import json
from datetime import UTC, datetime
from typing import Any

import pytest
from access_log_lines import azure_line, azure_record, source

from cloudflux.access_logs import azure_resource
from cloudflux.access_logs.blocks import MAX_LINE_BYTES, one_piece, read_blocks
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.tiers import Provider

SOURCE = source("PT1H.json", Provider.AZURE, "azure_resource")


def parse(text: str, agents: tuple[str, ...] = ("cloudflux/",)) -> ParsedFile:
    return parse_whole(azure_resource.FORMAT, [(SOURCE, text.encode())], Exclusions(agents))


def test_an_event_has_every_field_when_the_record_is_regular() -> None:
    (event,) = parse(azure_line()).events.to_pylist()
    assert (event["provider"], event["bucket"], event["key"]) == ("azure", "reports", "q1 final.xlsx")
    assert event["at"] == datetime(2026, 11, 6, 2, 17, 45, 123456, tzinfo=UTC)
    assert (event["kind"], event["operation"], event["bytes_sent"]) == ("read", "GetBlob", 18432)
    assert event["request_id"] == "5c6d7e8f-0000-4111-8222-933344445555"


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("GetBlob", "read"),
        ("PutBlob", "write"),
        ("PutBlockList", "write"),
        ("PutBlock", None),
        ("DeleteBlob", "delete"),
        ("SetBlobTier", "tier"),
        ("GetBlobProperties", None),
        ("GetBlobTags", None),
        ("ListBlobs", None),
        ("CopyBlobDestination", None),
    ],
)
def test_only_use_of_the_blob_counts_when_the_operation_is(operation: str, kind: str | None) -> None:
    parsed = parse(azure_line(operationName=operation))
    assert parsed.events["kind"].to_pylist() == ([kind] if kind else [])
    assert parsed.quarantine.num_rows == 0


def test_a_copy_is_one_read_and_one_write_when_it_logs_three_records() -> None:
    source_url = "https://acct.blob.core.windows.net/samples/from%20here.txt"
    parsed = parse(
        "\n".join(
            [
                azure_line(operationName="CopyBlob", status=202, properties={"objectKey": "/acct/samples/to.txt"}),
                azure_line(operationName="CopyBlobSource", status=202, properties={"objectKey": source_url}),
                azure_line(
                    operationName="CopyBlobDestination", status=202, properties={"objectKey": "/acct/samples/to.txt"}
                ),
            ]
        )
    )
    assert [(row["kind"], row["key"]) for row in parsed.events.to_pylist()] == [
        ("write", "to.txt"),
        ("read", "from here.txt"),
    ]


@pytest.mark.parametrize(
    ("status", "text", "reads"),
    [
        (200, "NetworkError", 0),
        (206, "SASNetworkError", 0),
        (200, "SASSuccess", 1),
        (200, None, 1),
        ("Unknown", "AnonymousNetworkError", 0),
        ("unknown", None, 0),
    ],
)
def test_a_request_is_no_access_when_the_client_got_no_answer(status: Any, text: str | None, reads: int) -> None:
    parsed = parse(azure_line(status=status, statusText=text) + "\n" + azure_line(correlationId="next"))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows, parsed.lines) == (reads + 1, 0, 2)


def test_a_page_of_a_static_website_is_read_when_it_is_got() -> None:
    get = azure_line(operationName="GetWebContent", properties={"objectKey": "/acct/$web/index.html"})
    parsed = parse(get + "\n" + azure_line(operationName="GetWebContentProperties", correlationId="next"))
    assert [(row["kind"], row["bucket"], row["key"]) for row in parsed.events.to_pylist()] == [
        ("read", "$web", "index.html")
    ]
    assert parsed.notices == ()


@pytest.mark.parametrize("operation", ["SftpReadFile", "NfsRead", "WebContentThing"])
def test_an_operation_is_noticed_when_it_may_be_use_of_a_file(operation: str) -> None:
    (noticed,) = parse(azure_line(operationName=operation)).notices
    assert (noticed.kind, noticed.name) == (NoticeKind.UNKNOWN_OPERATION, operation)


@pytest.mark.parametrize(("status", "reads"), [(200, 1), ("206", 1), (304, 1), (404, 0), (500, 0)])
def test_a_failed_request_is_no_access_when_its_status_is(status: Any, reads: int) -> None:
    parsed = parse(azure_line(status=status, properties={"responseBodySize": None}))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (reads, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Content", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("nan", "no JSON object"),
        (azure_line()[:300], "no JSON object"),
        (azure_line()[100:], "no JSON object"),
        ("{}", "no operationName"),
        (azure_line(status="many"), "statusCode"),
        (azure_line(time="yesterday"), "not a date"),
        (azure_line(time="infinity"), "after the file's delivery"),
        (azure_line(time="2036-11-06T02:17:45Z"), "after the file's delivery"),
        (azure_line(properties={"responseBodySize": 1e30}), "responseBodySize"),
        (azure_line(properties={"responseBodySize": -5}), "responseBodySize"),
        (azure_line(uri=None, properties={"objectKey": "/acct/onlyacontainer"}), "no container and blob"),
        (azure_line(properties={"objectKey": "/acct/reports/\0"}), "no container and blob"),
        ('{"a":' * 5000, "no JSON object"),
    ],
)
def test_a_record_goes_to_quarantine_with_its_reason_when_it_is_bad(text: str, reason: str) -> None:
    parsed = parse("\n".join([azure_line(correlationId="A"), text, azure_line(correlationId="B")]))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]
    assert (row["line"], row["raw"]) == (2, text[:2000])


def test_the_uri_names_the_blob_when_the_object_key_is_missing() -> None:
    (event,) = parse(azure_line(properties={"objectKey": None})).events.to_pylist()
    assert (event["bucket"], event["key"]) == ("reports", "q1 final.xlsx")


def test_an_object_key_is_taken_as_it_is_when_it_looks_encoded() -> None:
    key = 'a%20b+c"d\n$é/?x=1'
    (event,) = parse(azure_line(properties={"objectKey": f"/acct/reports/{key}"})).events.to_pylist()
    assert event["key"] == key


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"records": [azure_record(correlationId="A"), azure_record(correlationId="B")]}),
        json.dumps({"records": [azure_record(correlationId="A"), azure_record(correlationId="B")]}, indent=2),
        json.dumps([azure_record(correlationId="A"), azure_record(correlationId="B")], indent=4),
        json.dumps(azure_record(correlationId="A"), indent=2) + json.dumps(azure_record(correlationId="B"), indent=2),
        "{\n" + azure_line(correlationId="A")[1:] + "\n\n" + azure_line(correlationId="B"),
    ],
)
def test_records_are_read_when_they_are_wrapped_or_printed_over_lines(text: str) -> None:
    parsed = parse(text)
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    assert (parsed.lines, parsed.quarantine.num_rows) == (2, 0)


def test_the_whole_records_are_read_when_a_printed_file_is_cut() -> None:
    text = json.dumps(azure_record(correlationId="A"), indent=2) + "\n" + json.dumps(azure_record(), indent=2)[:400]
    parsed = parse("Content\n" + text)
    assert parsed.events["request_id"].to_pylist() == ["A"]
    assert parsed.quarantine["line"].to_pylist()[0] == 1
    assert set(parsed.quarantine["reason"].to_pylist()) == {"not a resource log record: no JSON object"}


def test_excluded_agents_are_marked_when_their_name_is_in_the_user_agent() -> None:
    ours = azure_line(properties={"userAgentHeader": "cloudflux/0.1 azsdk-python"})
    nobody = azure_line(properties={"userAgentHeader": None})
    assert parse(f"{ours}\n{nobody}").events["excluded"].to_pylist() == [True, False]


@pytest.mark.parametrize("agent", ["xAzure/1.0 AzureStorage/1.0 ObjectLifeCycleScanner/0.50", "OLCMScanner/1.0"])
@pytest.mark.parametrize("operation", ["DeleteBlob", "SetBlobTier"])
def test_lifecycle_is_a_tier_event_when_it_moves_or_deletes(operation: str, agent: str) -> None:
    parsed = parse(azure_line(operationName=operation, properties={"userAgentHeader": agent}))
    assert parsed.events["kind"].to_pylist() == ["tier"]


def test_each_blob_has_its_tier_event_when_a_batch_moved_them() -> None:
    batch = azure_line(operationName="BlobBatch", status=202, properties={"objectKey": "/acct"})
    moved = [
        azure_line(operationName="SetBlobTier", properties={"objectKey": f"/acct/reports/{key}", "operationCount": key})
        for key in (1, 2)
    ]
    parsed = parse("\n".join([batch, *moved]))
    assert [(event["kind"], event["key"]) for event in parsed.events.to_pylist()] == [("tier", "1"), ("tier", "2")]
    assert (parsed.quarantine.num_rows, parsed.notices) == (0, ())


def test_a_requester_is_excluded_when_one_of_its_names_is_listed() -> None:
    requesters: list[dict[str, str]] = [
        {"objectId": "0-backup"},
        {"appId": "1-SCANNER"},
        {"upn": "some@contoso.com"},
        {},
    ]
    lines = [azure_line(identity={"type": "OAuth", "requester": requester}) for requester in requesters]
    parsed = parse_whole(
        azure_resource.FORMAT, [(SOURCE, "\n".join(lines).encode())], Exclusions((), ("BACKUP", "scanner", "some@"))
    )
    assert parsed.events["excluded"].to_pylist() == [True, True, True, False]


def test_what_is_new_is_noticed_when_a_record_has_it() -> None:
    first = azure_line(newField=1, schemaVersion="2.0", properties={"newer": 1, "accessTier": "Cool"})
    parsed = parse(azure_line() + "\n" + first + "\n" + azure_line(operationName="TeleportBlob"))
    assert {(notice.kind, notice.name) for notice in parsed.notices} == {
        (NoticeKind.UNKNOWN_VERSION, "2.0"),
        (NoticeKind.NEW_FIELD, "newField"),
        (NoticeKind.NEW_FIELD, "properties.newer"),
        (NoticeKind.UNKNOWN_OPERATION, "TeleportBlob"),
    }
    assert parsed.events.num_rows == 2


def test_memory_is_bounded_by_blocks_when_an_envelope_is_one_long_line() -> None:
    records = ",".join([azure_line()] * 20_000)
    text = f'{{"records":[{records}]}}'
    cut = list(
        read_blocks(one_piece([(SOURCE, text.encode())]), lined=azure_resource.FORMAT.lined, block_bytes=2 << 20)
    )
    assert len(text) > MAX_LINE_BYTES
    assert [block.whole for block in cut] == [[]] * len(cut)
    assert max(block.lines.nbytes for block in cut) < 4 << 20
    assert sum(azure_resource.parse(block, Exclusions()).events.num_rows for block in cut) == 20_000


@pytest.mark.parametrize(
    ("time", "hour"),
    [
        ("2026-11-06T02:17:45Z", 2),
        ("2026-11-06T02:17:45.1234567Z", 2),
        ("2026-11-06T02:17:45+02:00", 0),
        ("2026-11-06T02:17:45", 2),
    ],
)
def test_a_time_is_in_utc_when_it_is_written_with_an_offset_or_none(time: str, hour: int) -> None:
    assert parse(azure_line(time=time)).events["at"].to_pylist()[0].hour == hour
