"""What is written in a report is read back the same, whatever is in keys, sizes and dates."""

from __future__ import annotations

import contextlib
import gzip
import urllib.parse
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inventory_report_files import azure_report, azure_row, gcs_report, gcs_row, s3_report, s3_row

from cloudflux.domain.errors import TerminalError
from cloudflux.inventories.formats import FORMATS
from cloudflux.inventories.url_keys import decoded_keys

DAY = date(2026, 3, 10)

KEYS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
    st.text(st.sampled_from("\",;'%+ \n\t|/&=?#\\2Fü日😀a"), min_size=1, max_size=30),
)
SIZES = st.integers(0, 2**50)
TIMES = st.datetimes(datetime(2006, 3, 14), datetime(2026, 3, 9), timezones=st.just(UTC)).map(  # noqa: DTZ001  # naive bounds
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)
OBJECTS = st.lists(st.tuples(KEYS, SIZES, TIMES), min_size=1, max_size=12)


def s3_files(objects: list[Any], data_format: str) -> dict[str, bytes]:
    return s3_report(
        [[s3_row(key, Size=size, LastModifiedDate=at) for key, size, at in objects]], data_format=data_format
    )


def azure_files(objects: list[Any], data_format: str) -> dict[str, bytes]:
    rows = [azure_row(key, **{"Content-Length": size, "Last-Modified": at}) for key, size, at in objects]
    return azure_report([rows], data_format=data_format)


def gcs_files(objects: list[Any], data_format: str) -> dict[str, bytes]:
    return gcs_report([[gcs_row(key, size=size, updated=at) for key, size, at in objects]], data_format=data_format)


WRITERS: dict[str, tuple[Callable[[list[Any], str], dict[str, bytes]], tuple[str, ...]]] = {
    "s3_inventory": (s3_files, ("CSV", "ORC", "Parquet")),
    "azure_inventory": (azure_files, ("csv", "parquet")),
    "gcs_insights": (gcs_files, ("csv", "parquet")),
}


@pytest.mark.parametrize(
    ("form", "data_format"), [(form, data_format) for form, (_, formats) in WRITERS.items() for data_format in formats]
)
@settings(max_examples=60)
@given(objects=OBJECTS)
def test_objects_are_the_same_when_read_back(
    tmp_path_factory: pytest.TempPathFactory, form: str, data_format: str, objects: list[Any]
) -> None:
    found = read(form, WRITERS[form][0](objects, data_format), tmp_path_factory.mktemp("read"))
    assert [(row["key"], row["size_bytes"], row["last_modified_at"]) for row in found] == objects


def read(form: str, files: dict[str, bytes], folder: Path) -> list[dict[str, Any]]:
    reader = FORMATS[form]
    manifest = next(key for key in files if reader.taken_at(key, "media") is not None)
    report = reader.read_manifest("reports", manifest, files[manifest], "media")
    rows: list[dict[str, Any]] = []
    for file in report.files:
        path = folder / "data"
        path.write_bytes(files[file.key])
        data = reader.open_file(report, path)
        reader.notices(report, file, data.fields)
        for batch in reader.rows(report, file, data, bucket="media", day=DAY):
            assert (batch.bad, batch.quarantine.num_rows) == (0, 0), batch.quarantine.to_pylist()
            rows += batch.objects.to_dicts()
    return rows


@settings(max_examples=100)
@given(content=st.one_of(st.binary(max_size=400), st.text(st.sampled_from('",\n\r;a1%'), max_size=200).map(str.encode)))
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", list(WRITERS))
def test_junk_ends_in_rows_quarantine_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, form: str, packed: bool, content: bytes
) -> None:
    content = gzip.compress(content) if packed else content
    writer, formats = WRITERS[form]
    for data_format in formats:
        files = writer([("a", 1, datetime(2026, 1, 1, tzinfo=UTC))], data_format)
        reader = FORMATS[form]
        manifest = next(key for key in files if reader.taken_at(key, "media") is not None)
        report = reader.read_manifest("reports", manifest, files[manifest], "media")
        path = tmp_path_factory.mktemp("junk") / "data"
        path.write_bytes(content)
        with contextlib.suppress(TerminalError):  # a refusal is as good as rows; anything else is a crash
            data = reader.open_file(report, path)
            reader.notices(report, report.files[0], data.fields)
            for rows in reader.rows(report, report.files[0], data, bucket="media", day=DAY):
                assert rows.bad == rows.quarantine.num_rows
                assert rows.bad + rows.objects.height <= rows.records


@settings(max_examples=200)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
@pytest.mark.parametrize("form", list(WRITERS))
def test_junk_manifest_ends_in_an_error_of_ours(form: str, content: bytes) -> None:
    key = {
        "s3_inventory": "media/daily/2026-03-09T01-00Z/manifest.json",
        "azure_inventory": "2026/03/09/01-00-00/daily/daily-manifest.json",
        "gcs_insights": "x_2026-03-09T01:00_manifest.json",
    }[form]
    with pytest.raises(TerminalError):
        FORMATS[form].read_manifest("reports", key, content, "media")


@settings(max_examples=300)
@given(keys=st.lists(st.one_of(st.none(), KEYS), max_size=8))
def test_keys_are_the_same_when_encoded_and_decoded(keys: list[str | None]) -> None:
    for quote in (urllib.parse.quote, urllib.parse.quote_plus):
        encoded = pl.Series("key", [None if key is None else quote(key) for key in keys], dtype=pl.String)
        assert decoded_keys(encoded).to_list() == keys


@settings(max_examples=300)
@given(keys=st.lists(st.text(st.sampled_from("%2Fac3b9zZ+é"), max_size=12), min_size=1, max_size=8))
def test_keys_are_decoded_as_the_standard_library_does_it_or_not_at_all(keys: list[str]) -> None:
    for key, found in zip(keys, decoded_keys(pl.Series("key", keys)), strict=True):
        rest = key
        for digit in "0123456789abcdefABCDEF":
            for other in "0123456789abcdefABCDEF":
                rest = rest.replace(f"%{digit}{other}", "")
        try:
            expected = urllib.parse.unquote_plus(key, errors="strict")
        except UnicodeDecodeError:
            expected = None
        if found is None:
            assert expected is None or "%" in key
        else:
            assert found == expected


@pytest.mark.parametrize("key", ["%", "a%2", "%zz", "a%G1b", "%C3", "%ff%fe", "100%"])
def test_key_is_null_when_its_encoding_is_none(key: str) -> None:
    assert decoded_keys(pl.Series("key", ["good", key, "also%20good"])).to_list() == ["good", None, "also good"]
