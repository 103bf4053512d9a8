"""Which files of a listing are passed over: those whose names tell that they are older than the look-back."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.access_logs.formats import FORMATS, log_format

DAY = date(2026, 11, 19)
SINK = "cloudaudit.googleapis.com/data_access/"
ACCOUNT = "resourceId=/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a"
UNIQUE = "00-00-00-0123456789ABCDEF"

# format, what stands before the day, the day and what follows, how many days before the look-back are listed too
NAMES = [
    ("s3_server_access", "", "%Y-%m-%d-" + UNIQUE, 0),
    ("s3_server_access", "access/1media", "%Y-%m-%d-" + UNIQUE, 0),
    ("s3_server_access", "2019-01-01/", "%Y-%m-%d-" + UNIQUE, 0),
    ("s3_server_access", "s3/111122223333/us-east-1/media/", "%Y/%m/%d/%Y-%m-%d-" + UNIQUE, 1),
    ("s3_server_access", "201512345678/eu-west-1/2015/", "%Y/%m/%d/%Y-%m-%d-" + UNIQUE, 1),
    ("cloudtrail", "AWSLogs/123456789012/CloudTrail/us-east-1/", "%Y/%m/%d/123456789012_CloudTrail_x.json.gz", 0),
    ("cloudtrail", "AWSLogs/o-1/123456789012/CloudTrail/us-east-1/", "%Y/%m/%d/123456789012_x.json.gz", 0),
    ("azure_resource", f"{ACCOUNT}/blobServices/default/", "y=%Y/m=%m/d=%d/h=23/m=00/PT1H.json", 1),
    ("azure_classic", "blob/", "%Y/%m/%d/2300/000000.log", 1),
    ("gcs_usage", "logs/media_usage_", "%Y_%m_%d_23_00_00_0123_v0", 1),
    ("gcs_audit", SINK, "%Y/%m/%d/23:00:00_23:59:59_S0.json", 1),
    ("gcs_audit", f"folder/{SINK}", "%Y/%m/%d/23:00:00_23:59:59_S0.json", 1),
]


@pytest.mark.parametrize(("form", "before", "rest", "early"), NAMES)
def test_listing_goes_on_at_the_first_day_when_names_tell_the_day(
    form: str, before: str, rest: str, early: int
) -> None:
    passed_over = log_format(form).passed_over
    first = DAY - timedelta(days=early)
    for days in range(-400, 400):
        day = first + timedelta(days=days)
        key = before + day.strftime(rest)
        behind = passed_over(key, DAY)
        if days >= 0:
            assert behind == key
        else:
            assert key < behind <= before + first.strftime(rest)


@given(
    form=st.sampled_from(FORMATS),
    keys=st.lists(
        st.one_of(
            st.text(max_size=40),
            st.builds(
                lambda name, days, folder: folder + name[1] + (DAY + timedelta(days=days)).strftime(name[2]),
                st.sampled_from(NAMES),
                st.integers(-9000, 30),
                st.sampled_from(["", "a/", "2020", "202512345678/us-east-1/b/", "x2026-"]),
            ),
        ),
        max_size=60,
    ),
)
def test_nothing_is_lost_when_a_listing_goes_on_behind_what_is_old(form: str, keys: list[str]) -> None:
    # Each key is judged by itself, or by jumps along the listing: both list the same.
    passed_over = log_format(form).passed_over
    wanted = [key for key in sorted(keys) if passed_over(key, DAY) == key]
    listed: list[str] = []
    start = ""
    for key in sorted(keys):
        if key < start:
            continue
        behind = passed_over(key, DAY)
        if behind == key:
            listed.append(key)
        else:
            start = behind
    assert listed == wanted


@pytest.mark.parametrize(
    "key", ["", "s3/readme.txt", "2026-11-01", "CloudTrail-Digest/2020/01/01/x", "blob", "x_usage_"]
)
@pytest.mark.parametrize("form", FORMATS)
def test_file_is_listed_when_its_name_tells_no_day(form: str, key: str) -> None:
    assert log_format(form).passed_over(key, DAY) == key
