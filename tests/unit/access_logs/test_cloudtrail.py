import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from access_log_lines import cloudtrail_file, cloudtrail_record, source

from cloudflux.access_logs import cloudtrail
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind

NOBODY = Exclusions()
SOURCE = source("123_CloudTrail_us-east-1_20261106T0305Z_x.json.gz", fmt="cloudtrail")


def parse(*records: dict[str, Any], exclusions: Exclusions = NOBODY) -> ParsedFile:
    return parse_text(cloudtrail_file(records), exclusions)


def parse_text(text: str, exclusions: Exclusions = NOBODY) -> ParsedFile:
    return parse_whole(cloudtrail.FORMAT, [(SOURCE, gzip.compress(text.encode()))], exclusions)


def test_an_event_has_every_field_when_the_record_is_regular() -> None:
    parsed = parse(cloudtrail_record())
    (event,) = parsed.events.to_pylist()
    assert (event["provider"], event["bucket"], event["key"]) == ("aws", "media", "a/b.bin")
    assert event["at"] == datetime(2026, 11, 6, 3, tzinfo=UTC)
    assert (event["kind"], event["operation"], event["bytes_sent"]) == ("read", "GetObject", 7759)
    assert event["request_id"] == "8d96391c-83f4-3491-bb84-4b389122ffb9"
    assert parsed.hours.to_pylist()[0]["records"] == 1
    assert parsed.notices == ()


@pytest.mark.parametrize(
    ("operation", "kinds"),
    [
        ("GetObject", ["read"]),
        ("SelectObjectContent", ["read"]),
        ("PutObject", ["write"]),
        ("CompleteMultipartUpload", ["write"]),
        ("UploadPart", []),
        ("DeleteObject", ["delete"]),
        ("DeleteObjects", []),  # names no key; each deletion has a record of its own
        ("RestoreObject", ["tier"]),
        ("HeadObject", []),
        ("ListObjectsV2", []),
        ("GetObjectTagging", []),
        ("GetObjectAcl", []),
        ("PutObjectAcl", []),
        ("GetObjectAttributes", []),
        ("CreateMultipartUpload", []),
    ],
)
def test_only_use_of_the_object_counts_when_the_event_is(operation: str, kinds: list[str]) -> None:
    parsed = parse(cloudtrail_record(eventName=operation))
    assert parsed.events["kind"].to_pylist() == kinds
    assert (parsed.lines, parsed.quarantine.num_rows, parsed.notices) == (1, 0, ())


@pytest.mark.parametrize(
    ("copy_source", "bucket", "key"),
    [
        ("source/a/b.bin", "source", "a/b.bin"),
        ("/source/a%20b%2Bc.bin?versionId=3L4kqtJlcpXroDTDmJ", "source", "a b+c.bin"),
        ("source%2Fa+b", "source", "a b"),
        ("source/a?b", "source", "a?b"),
        (["source/a%2Bb"], "source", "a+b"),
    ],
)
def test_a_copy_is_a_write_and_a_read_of_its_source_when_it_names_one(copy_source: Any, bucket: str, key: str) -> None:
    record = cloudtrail_record(eventName="CopyObject", parameters={"x-amz-copy-source": copy_source})
    events = parse(cloudtrail_record(eventID="A"), record, cloudtrail_record(eventID="C")).events.to_pylist()
    assert [(event["kind"], event["bucket"], event["key"]) for event in events] == [
        ("read", "media", "a/b.bin"),
        ("write", "media", "a/b.bin"),
        ("read", bucket, key),
        ("read", "media", "a/b.bin"),
    ]
    assert (events[2]["request_id"], events[2]["bytes_sent"]) == (events[1]["request_id"], 0)


def test_a_request_has_one_id_when_several_accounts_are_told_of_it() -> None:
    records = [cloudtrail_record(eventID=name, sharedEventID="S") for name in "AB"]
    parsed = parse(*records, cloudtrail_record(eventID="C", sharedEventID=None))
    assert parsed.events["request_id"].to_pylist() == ["S", "S", "C"]


def test_an_event_of_a_network_is_no_access_when_the_data_event_stands_beside() -> None:
    network = cloudtrail_record(eventCategory="NetworkActivity", eventType="AwsVpceEvent")
    parsed = parse(cloudtrail_record(eventCategory="Data"), network)
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (2, 1, 0)


def test_a_copied_part_is_a_read_of_its_source_and_no_write() -> None:
    record = cloudtrail_record(eventName="UploadPartCopy", parameters={"x-amz-copy-source": "source/a"})
    assert [(event["kind"], event["key"]) for event in parse(record).events.to_pylist()] == [("read", "a")]


def test_a_copy_that_failed_reads_nothing() -> None:
    record = cloudtrail_record(
        eventName="CopyObject", errorCode="AccessDenied", parameters={"x-amz-copy-source": "source/a"}
    )
    assert parse(record).events.num_rows == 0


@pytest.mark.parametrize(("error", "reads"), [(None, 1), ("NotModified", 1), ("AccessDenied", 0), ("NoSuchKey", 0)])
def test_a_failed_request_is_no_access_when_its_error_is(error: str | None, reads: int) -> None:
    parsed = parse(cloudtrail_record(errorCode=error, additional={"bytesTransferredOut": None}))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (reads, 0)


def test_an_access_point_is_its_bucket_when_the_resources_name_it() -> None:
    arn = "arn:aws:s3:us-east-1:111122223333:accesspoint/readers"
    (event,) = parse(cloudtrail_record(parameters={"bucketName": arn})).events.to_pylist()
    assert event["bucket"] == "media"


def test_lifecycle_is_a_tier_event_when_the_service_deletes() -> None:
    record = cloudtrail_record(
        eventName="DeleteObject", userIdentity={"type": "AWSService", "invokedBy": "lifecycle.s3.amazonaws.com"}
    )
    assert parse(record).events["kind"].to_pylist() == ["tier"]


def test_other_records_are_passed_over_when_they_lie_in_the_same_bucket() -> None:
    insight = {"eventVersion": "1.07", "eventType": "AwsCloudTrailInsight", "insightDetails": {"state": "Start"}}
    management = cloudtrail_record(eventName="PutBucketPolicy", managementEvent=True, eventCategory="Management")
    foreign = cloudtrail_record(eventSource="ec2.amazonaws.com", eventName="DescribeObjects", requestParameters=None)
    parsed = parse(insight, management, foreign, cloudtrail_record())
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows, parsed.notices) == (3, 1, 0, ())
    assert [hour["records"] for hour in parsed.hours.to_pylist()] == [1]  # what covers the bucket is data events alone


@pytest.mark.parametrize("indent", [None, 2])
def test_a_digest_is_passed_over(indent: int | None) -> None:
    digest = {"awsAccountId": "1", "digestStartTime": "2026-11-06T03:00:00Z", "logFiles": [{"s3Bucket": "logs"}]}
    parsed = parse_text(json.dumps(digest, indent=indent))
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (0, 0, 0)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (cloudtrail_record(eventTime="yesterday"), "not a date"),
        (cloudtrail_record(eventTime="2036-11-06T03:00:00Z"), "after the file's delivery"),
        (cloudtrail_record(additional={"bytesTransferredOut": -1}), "bytesTransferredOut"),
        (cloudtrail_record(additional={"bytesTransferredOut": "many"}), "bytesTransferredOut"),
        (cloudtrail_record(parameters={"key": None}), "no bucket and key"),
        (cloudtrail_record(requestParameters=None), "no bucket and key"),
        (cloudtrail_record(parameters={"key": "a\0b"}), "no bucket and key"),
        ({"eventVersion": "1.11"}, "no eventName"),
        ({}, "no eventName"),
    ],
)
def test_a_record_goes_to_quarantine_with_its_reason_when_it_is_bad(record: dict[str, Any], reason: str) -> None:
    parsed = parse(cloudtrail_record(eventID="A"), record, cloudtrail_record(eventID="B"))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]


LAYOUTS = {
    "envelope": lambda records: json.dumps({"Records": records}),
    "compact": lambda records: json.dumps({"Records": records}, separators=(",", ":")),
    "printed": lambda records: json.dumps({"Records": records}, indent=2),
    "array": lambda records: json.dumps(records, indent=4),
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "together": lambda records: "".join(map(json.dumps, records)),
    "envelopes": lambda records: "\n".join(json.dumps({"Records": [record]}) for record in records),
    "further keys": lambda records: json.dumps({"Records": records, "next": {"a": [1]}}),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_records_are_read_when_they_are_laid_out_as(layout: str) -> None:
    records = [
        cloudtrail_record(eventID=str(number), parameters={"key": f'}},{{"eventVersion": {number}'})
        for number in range(5)
    ]
    parsed = parse_text(LAYOUTS[layout](records))
    assert parsed.events["request_id"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert parsed.events["key"].to_pylist() == [f'}},{{"eventVersion": {number}' for number in range(5)]
    assert parsed.quarantine.num_rows == (layout == "further keys")


@pytest.mark.parametrize("layout", ["compact", "printed", "lines", "together"])
def test_the_other_records_are_read_when_one_is_torn(layout: str) -> None:
    records = [cloudtrail_record(eventID=str(number)) for number in range(5)]
    text = LAYOUTS[layout](records)
    torn = text.replace('"2"', '"2')
    parsed = parse_text(torn)
    assert parsed.events["request_id"].to_pylist() == ["0", "1", "3", "4"]
    assert parsed.quarantine.num_rows > 0


@pytest.mark.parametrize("layout", ["compact", "printed", "lines"])
def test_the_whole_records_are_read_when_the_file_is_cut(layout: str) -> None:
    text = LAYOUTS[layout]([cloudtrail_record(eventID=str(number)) for number in range(3)])
    parsed = parse_text(text[:-300])
    assert parsed.events["request_id"].to_pylist() == ["0", "1"]
    assert parsed.quarantine.num_rows > 0


def test_a_requester_is_excluded_when_the_arn_or_the_service_names_it() -> None:
    service = cloudtrail_record(userIdentity={"type": "AWSService", "invokedBy": "replication.s3.amazonaws.com"})
    agent = cloudtrail_record(userAgent="[restic 0.17]")
    parsed = parse(
        cloudtrail_record(), service, agent, exclusions=Exclusions(("Restic",), ("user/reader", "replication.s3"))
    )
    assert parsed.events["excluded"].to_pylist() == [True, True, True]
    assert parse(cloudtrail_record(), exclusions=Exclusions(("restic",))).events["excluded"].to_pylist() == [False]


def test_what_is_new_is_noticed_when_a_record_has_it() -> None:
    first = cloudtrail_record(eventVersion="2.0", newField=1, additional={"newer": 2})
    parsed = parse(first, cloudtrail_record(eventName="TeleportObject"))
    assert {(notice.kind, notice.name) for notice in parsed.notices} == {
        (NoticeKind.UNKNOWN_VERSION, "2.0"),
        (NoticeKind.NEW_FIELD, "newField"),
        (NoticeKind.NEW_FIELD, "additionalEventData.newer"),
        (NoticeKind.UNKNOWN_OPERATION, "TeleportObject"),
    }
