from datetime import UTC, datetime

import pytest
from access_log_lines import GCS_HEADER, gcs_line, source

from cloudflux.access_logs import gcs_usage
from cloudflux.access_logs.blocks import one_piece, read_blocks
from cloudflux.access_logs.formats import parse_whole
from cloudflux.access_logs.parsed import ParsedFile, joined
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.tiers import Provider

SOURCE = source("bucket_usage_2026_11_06_07_00_00_0b_v0", Provider.GCP, "gcs_usage")


def parse(*lines: str, header: str = GCS_HEADER, agents: tuple[str, ...] = ("cloudflux/",)) -> ParsedFile:
    return parse_whole(gcs_usage.FORMAT, [(SOURCE, "\n".join([header, *lines]).encode())], Exclusions(agents))


def test_an_event_has_every_field_when_the_row_is_regular() -> None:
    parsed = parse(gcs_line())
    (event,) = parsed.events.to_pylist()
    assert (event["provider"], event["bucket"], event["key"]) == ("gcp", "kanjiapi.dev", "v1/kanji/集")
    assert event["at"] == datetime.fromtimestamp(1794000000, UTC)
    assert (event["kind"], event["operation"], event["bytes_sent"]) == ("read", "GET_Object", 277)
    assert parsed.lines == 1


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("GET_Object", "read"),
        ("PUT_Object", "write"),
        ("POST_Object", "write"),
        ("DELETE_Object", "delete"),
        ("HEAD_Object", None),
        ("GET_Bucket", None),
        ("GET_Object_Acl", None),
    ],
)
def test_only_use_of_the_object_counts_when_the_operation_is(operation: str, kind: str | None) -> None:
    parsed = parse(gcs_line(cs_operation=operation))
    assert parsed.events["kind"].to_pylist() == ([kind] if kind else [])
    assert parsed.quarantine.num_rows == 0


def test_lifecycle_is_a_tier_event_when_it_deletes() -> None:
    parsed = parse(gcs_line(cs_operation="DELETE_Object", cs_user_agent="GCS Lifecycle Management"))
    assert parsed.events["kind"].to_pylist() == ["tier"]


def test_a_resumable_upload_is_one_write_when_it_takes_three_requests() -> None:
    parsed = parse(
        gcs_line(cs_operation="POST_Object", cs_uri="/upload/b?uploadType=resumable"),
        gcs_line(cs_operation="PUT_Object", sc_status="308"),
        gcs_line(cs_operation="PUT_Object"),
    )
    assert parsed.events["kind"].to_pylist() == ["write"]


@pytest.mark.parametrize(("status", "reads"), [("200", 1), ("206", 1), ("304", 1), ("404", 0), ("503", 0)])
def test_a_failed_request_is_no_access_when_its_status_is(status: str, reads: int) -> None:
    parsed = parse(gcs_line(sc_status=status, sc_bytes=""))
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (reads, 0)


@pytest.mark.parametrize("key", ['a,b","c', '",",', '"', "a b", "%20", "v1/é", " x ", "\\x41"])
def test_an_object_name_round_trips_when_it_is_odd(key: str) -> None:
    parsed = parse(gcs_line(cs_object=key, s_request_id="A"), gcs_line(s_request_id="B"))
    assert parsed.quarantine.to_pylist() == []
    assert parsed.events["key"].to_pylist() == [key, "v1/kanji/集"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("junk", "not those of the header"),
        (gcs_line()[:-5], "cut off"),
        (gcs_line()[:100], "cut off"),
        (gcs_line()[40:], "cut off"),
        (gcs_line() + ',"more"', "not those of the header"),
        (gcs_line(time_micros="today"), "not those of the header"),
        (gcs_line(time_micros="9999999999999999999"), "not a date"),
        (gcs_line(time_micros="99999999999999999"), "after the file's delivery"),
        (gcs_line(sc_status="OK"), "sc_status"),
        (gcs_line(sc_bytes="-1"), "sc_bytes"),
        (gcs_line(cs_object=""), "no bucket and object"),
    ],
)
def test_a_row_goes_to_quarantine_with_its_reason_when_it_is_bad(line: str, reason: str) -> None:
    parsed = parse(gcs_line(s_request_id="A"), line, gcs_line(s_request_id="B"))
    assert parsed.events["request_id"].to_pylist() == ["A", "B"]
    (row,) = parsed.quarantine.to_pylist()
    assert reason in row["reason"]
    assert (row["line"], row["raw"]) == (3, line)


def test_rows_are_read_when_a_blank_line_and_a_byte_order_mark_come_first() -> None:
    data = b"\xef\xbb\xbf" + f"{GCS_HEADER}\r\n\r\n{gcs_line()}\r\n".encode()
    parsed = parse_whole(gcs_usage.FORMAT, [(SOURCE, data)])
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (1, 0)


def test_columns_are_found_by_name_when_the_header_has_more_of_them() -> None:
    for line, header in (
        ('"x",' + gcs_line(), '"new_column",' + GCS_HEADER),
        (gcs_line() + ',"x"', GCS_HEADER + ',"new_column"'),
    ):
        parsed = parse(line, line, header, line, header=header)
        assert parsed.events["key"].to_pylist() == ["v1/kanji/集"] * 3
        assert parsed.quarantine.num_rows == 0


def test_a_request_is_no_header_when_it_says_that_it_is_one() -> None:
    parsed = parse(gcs_line(cs_user_agent='"time_micros","cs_bucket"'))
    assert parsed.events.num_rows == 1


def test_the_file_goes_to_quarantine_when_its_header_lacks_a_column() -> None:
    parsed = parse(gcs_line(), header=GCS_HEADER.replace("cs_object", "cs_thing"))
    assert parsed.events.num_rows == 0
    (row,) = parsed.quarantine.to_pylist()
    assert (row["line"], row["reason"]) == (0, "the header lacks cs_object")


def test_rows_are_read_when_the_header_was_cut_off() -> None:
    parsed = parse_whole(gcs_usage.FORMAT, [(SOURCE, (gcs_line()[30:] + "\n" + gcs_line()).encode())])
    assert (parsed.events.num_rows, parsed.quarantine.num_rows) == (1, 1)


def test_a_storage_log_is_passed_over_when_it_lies_in_the_same_bucket() -> None:
    parsed = parse_whole(gcs_usage.FORMAT, [(SOURCE, b'"bucket","storage_byte_hours"\n"b","123"\n')])
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (0, 0, 0)


def test_a_name_goes_to_quarantine_when_its_bytes_are_no_utf8() -> None:
    data = f"{GCS_HEADER}\n{gcs_line(cs_object='KEY')}\n{gcs_line()}".encode().replace(b"KEY", b"a\xffb")
    parsed = parse_whole(gcs_usage.FORMAT, [(SOURCE, data)])
    assert parsed.events["key"].to_pylist() == ["v1/kanji/集"]
    assert parsed.quarantine["reason"].to_pylist() == ["the object name is not UTF-8"]


def test_new_columns_and_operations_are_noticed_once_a_block() -> None:
    header = GCS_HEADER + ',"cs_new"'
    lines = [gcs_line() + ',"x"', gcs_line(cs_operation="REWRITE_Object") + ',"y"', gcs_line() + ',"z"']
    parsed = parse(*lines, header=header)
    assert [(notice.kind, notice.name) for notice in parsed.notices] == [
        (NoticeKind.NEW_FIELD, "cs_new"),
        (NoticeKind.UNKNOWN_OPERATION, "REWRITE_Object"),
    ]
    assert parsed.events.num_rows == 2


def test_the_header_is_known_when_the_file_is_cut_into_blocks() -> None:
    header = ",".join(reversed(GCS_HEADER.split(",")))
    row = ",".join(reversed(gcs_line(cs_bucket="b", cs_object="o").split(",")))
    data = "\n".join([header, *[row] * 20_000]).encode()
    cut = list(read_blocks(one_piece([(SOURCE, data)]), block_bytes=1 << 20))
    assert len(cut) > 2
    parsed = joined([gcs_usage.parse(block, Exclusions()) for block in cut])
    assert (parsed.lines, parsed.events.num_rows, parsed.quarantine.num_rows) == (20_000, 20_000, 0)


def test_files_with_different_headers_are_read_when_they_share_a_block() -> None:
    other = ",".join(reversed(GCS_HEADER.split(",")))
    row = ",".join(reversed(gcs_line(s_request_id="B").split(",")))
    files = [
        (source("a", Provider.GCP, "gcs_usage"), f"{GCS_HEADER}\n{gcs_line(s_request_id='A')}\n".encode()),
        (source("b", Provider.GCP, "gcs_usage"), f"{other}\n{row}\n".encode()),
        (source("c", Provider.GCP, "gcs_usage"), b'"bucket","storage_byte_hours"\n"b","123"\n'),
        (source("d", Provider.GCP, "gcs_usage"), f"{GCS_HEADER}\n{gcs_line(s_request_id='D')}\n".encode()),
    ]
    parsed = parse_whole(gcs_usage.FORMAT, files)
    assert parsed.events["request_id"].to_pylist() == ["A", "B", "D"]
    assert parsed.quarantine.num_rows == 0
    assert list(parsed.lines_by_file.values()) == [1, 1, 0, 1]


def test_a_row_is_read_when_it_is_not_quoted() -> None:
    row = ",".join(field.strip('"') for field in gcs_line().split(","))
    assert parse(row, gcs_line()).events.num_rows == 2
