"""Reading a trace: what is sorted, what is allowed, and what is refused with the object and the day."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from cloudflux.domain.errors import CloudFluxError, SettingsError
from cloudflux.price_books import load_book
from cloudflux_ml.backtest.run import backtest
from cloudflux_ml.backtest.trace import MOST_DAYS, TraceError, read_trace, trace_of

ROWS = {
    "object_id": ["b", "a", "b", "a"],
    "day": [date(2024, 1, 4), date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)],
    "reads": [3, 1, 2, 0],
    "size_bytes": [10, 0, 10, 0],
    "created_day": [date(2024, 1, 2), date(2023, 12, 30), date(2024, 1, 2), date(2023, 12, 30)],
}


def rows(**changed):
    return pl.DataFrame(ROWS | changed)


def test_rows_in_any_order_become_days_and_objects_in_order():
    trace = trace_of(rows())
    assert (trace.objects, trace.days, trace.eval_from, trace.first_day) == (2, 4, 2, date(2024, 1, 1))
    assert trace.object_ids.tolist() == ["a", "b"]
    assert trace.size_bytes.tolist() == [0, 10]
    assert trace.created.tolist() == [-2, 1]
    assert [tuple(part.tolist() for part in trace.on(day)) for day in range(4)] == [
        ([0], [1]),
        ([1], [2]),
        ([], []),  # a row without reads is a day of the trace, and no read
        ([1], [3]),
    ]
    past = trace.before(2)
    assert [past.on(day)[0].tolist() for day in range(2)] == [[0], [1]]
    for day in (-1, 2, 3):
        with pytest.raises(ValueError, match=f"the reads of day {day} are not known"):
            past.on(day)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_parquet_and_csv_say_the_same(tmp_path, suffix):
    file = tmp_path / f"mine{suffix}"
    (rows().write_csv if suffix == ".csv" else rows().write_parquet)(file)
    trace = read_trace(file, 0.25)
    assert (trace.name, trace.eval_from) == ("mine", 3)
    assert trace.read_counts.tolist() == [1, 2, 3]


DAY_3 = date(2024, 1, 3)
WRONG = {
    "negative reads": (
        rows(reads=[3, 1, 2, -7]),
        r"object 'a' has negative reads, on 2024-01-03 \(row 4: reads -7, size_bytes 0, created_day 2023-12-30\)",
    ),
    "the same day twice": (
        rows(day=[DAY_3, ROWS["day"][1], DAY_3, DAY_3]),
        r"object 'b' has the same day twice, on 2024-01-03 \(row 3",
    ),
    "unknown columns": (
        rows(colour=["red"] * 4, writes=[1] * 4),
        r"has unknown columns \(colour, writes\): a trace has object_id, day, reads, size_bytes, created_day",
    ),
    "missing columns": (rows().drop("reads", "day"), "lacks the columns day, reads: a trace has object_id, "),
    "a day before creation": (
        rows(created_day=[DAY_3, *ROWS["created_day"][1:2], DAY_3, ROWS["created_day"][3]]),
        "object 'b' has a day before its created_day, on 2024-01-02",
    ),
    "two sizes": (rows(size_bytes=[10, 0, 11, 0]), r"object 'b' has two sizes, on 2024-01-02 \(row 3: .*size_bytes 11"),
    "two created_days": (
        rows(created_day=[*ROWS["created_day"][:3], date(2023, 12, 31)]),
        "object 'a' has two created_days, on 2024-01-03",
    ),
    "a negative size": (rows(size_bytes=[-1, 0, -1, 0]), "object 'b' has a negative size, on 2024-01-04"),
    "no rows": (rows().clear(), "has no rows"),
    "nothing in a cell": (rows(reads=[3, None, 2, 1]), "column reads is empty in row 2"),
    "text for a number": (
        rows(reads=["3", "x", "2", "1"]),
        "column reads is 'x', which is not a whole number in row 2",
    ),
    "a broken number": (rows(reads=[3.0, 1.5, 2.0, 1.0]), "column reads must be a whole number, it is Float64"),
    "text for a date": (rows(day=["2024-01-04", "soon", "2024-01-02", "2024-01-03"]), "column day is 'soon'"),
    "a time for a date": (
        rows(day=[datetime(2024, 1, 4, 5, tzinfo=UTC)] * 4),
        "column day must be a date, it is Datetime",
    ),
    "more reads than can be added up": (
        rows(reads=[2**62, 1, 2**62, 0]),
        r"more than 9,007,199,254,740,992 reads in all, of which object 'b' has 9.22e\+18: they cannot be added up",
    ),
    "more reads of all objects than can be added up": (
        rows(reads=[2**52, 2**52, 2, 0]),
        r"more than 9,007,199,254,740,992 reads in all, of which object 'b' has 4.5e\+15",
    ),
    "a day far away": (
        rows(day=[date(9000, 1, 1), *ROWS["day"][1:]]),
        "goes from 2024-01-01 to 9000-01-01, which is 2,547,933 days: at most 7,320 are replayed",
    ),
    "one day": (
        pl.DataFrame({name: values[:1] for name, values in ROWS.items()}),
        "has one day only, 2024-01-04: a backtest needs a day of history and one to evaluate",
    ),
}


@pytest.mark.parametrize("what", [*WRONG])
def test_what_is_wrong_is_refused_with_its_place(what):
    frame, text = WRONG[what]
    with pytest.raises(TraceError, match=text) as caught:
        trace_of(frame, source="traces/mine.parquet")
    assert isinstance(caught.value, CloudFluxError)
    assert str(caught.value).startswith("traces/mine.parquet")
    assert "\n" not in str(caught.value)


def test_as_many_reads_and_days_as_can_be_replayed_are_taken():
    trace = trace_of(rows(reads=[2**53 - 3, 1, 2, 0], day=[date(2044, 1, 15), *ROWS["day"][1:]]))
    assert (trace.days, int(trace.read_counts.sum())) == (MOST_DAYS, 2**53)


def test_a_csv_cell_that_is_no_number_is_refused_by_its_row(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "object_id,day,reads,size_bytes,created_day\na,2024-01-01,1,5,2024-01-01\na,2024-01-02,1.5,5,2024-01-01\n"
    )
    with pytest.raises(TraceError, match=r"mine\.csv: column reads is '1\.5', which is not a whole number in row 2"):
        read_trace(file)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "the evaluation share must lie between 0 and 1, it is 0"),
        (1.0, "the evaluation share must lie between 0 and 1, it is 1"),
        (float("nan"), "the evaluation share must lie between 0 and 1, it is nan"),
        (0.05, "an evaluation share of 0.05 leaves no day to evaluate of the 4 days"),
        (0.95, "an evaluation share of 0.95 leaves no history of the 4 days"),
    ],
)
def test_a_share_that_leaves_no_history_or_no_window_is_refused(share, text):
    with pytest.raises(SettingsError, match=text):
        trace_of(rows(), share)


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    with pytest.raises(TraceError, match="there is no trace file"):
        read_trace(tmp_path / "none.parquet")
    for name in ("mine.parquet", "mine.csv"):
        (tmp_path / name).write_bytes(b"\0\xff\xfe\x00" * 5 if name.endswith("parquet") else b"")
        with pytest.raises(TraceError, match=r"mine.* cannot be read as (CSV|Parquet)"):
            read_trace(tmp_path / name)


def test_zero_byte_objects_cost_their_requests_and_no_storage():
    result = backtest(trace_of(rows(size_bytes=[0] * 4), 0.75), load_book("aws-us-east-1"), ["stay", "autopilot"])
    stay = result.policies["stay"]
    assert stay.parts_usd["storage"] == 0
    assert stay.usd == pytest.approx(5 * 4e-7)
    assert result.regret("stay") == pytest.approx(1)


def test_where_the_optimum_costs_nothing_there_is_no_regret():
    result = backtest(trace_of(rows(size_bytes=[0] * 4, reads=[0] * 4)), load_book("aws-us-east-1"), ["stay"])
    assert result.policies["stay"].usd == 0
    assert result.regret("stay") is None
