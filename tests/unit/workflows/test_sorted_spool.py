"""Rows on disk: all of them come back, in order, whatever order they came in."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.workflows.sorted_spool import SortedSpool

SCHEMA = pa.schema([("bucket", pa.string()), ("key", pa.string()), ("number", pa.int64())])
ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.text("ab\ud7ff\ue000\U0001f4be\x00", max_size=3)), max_size=12)


def table(rows: list[tuple[str, str]], start: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [{"bucket": bucket, "key": key, "number": start + number} for number, (bucket, key) in enumerate(rows)],
        schema=SCHEMA,
    )


@given(st.lists(ROWS, max_size=8))
def test_all_rows_come_back_in_order(batches: list[list[tuple[str, str]]]) -> None:
    rows = [row for batch in batches for row in batch]
    with SortedSpool(SCHEMA, ["bucket", "key"]) as spool:
        start = 0
        for batch in batches:
            spool.add(table(batch, start))
            start += len(batch)
        for _ in range(2):
            found = pa.concat_tables([SCHEMA.empty_table(), *spool.in_order()])
            assert [(row["bucket"], row["key"]) for row in found.to_pylist()] == sorted(rows)
            assert sorted(found["number"].to_pylist()) == list(range(len(rows)))
            assert all(rows[row["number"]] == (row["bucket"], row["key"]) for row in found.to_pylist())


def test_no_more_than_a_batch_of_each_run_is_given_at_once() -> None:
    with SortedSpool(SCHEMA, ["bucket", "key"]) as spool:
        for start in range(0, 1_000, 100):  # two runs, as a plan's canaries and other moves are
            numbers = range(start, start + 100)
            spool.add(table([("a", f"{number % 500:04}") for number in numbers]))
        assert max(part.num_rows for part in spool.in_order()) <= 300


def test_the_file_is_gone_when_the_spool_is_left() -> None:
    with SortedSpool(SCHEMA, ["key"]) as spool:
        spool.add(table([("a", "b")]))
    with pytest.raises(ValueError, match="closed file"):
        list(spool.in_order())
