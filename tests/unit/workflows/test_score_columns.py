"""Columns on their way from the lake to the policy: the same values, without copies that nobody needs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.workflows.score import _rows_of, _texts


@pytest.mark.parametrize(
    "chunks",
    [
        [["STANDARD", None, "GLACIER", "STANDARD"]],
        [["a", None], [], ["b", "a"], [None, None]],
        [[None, None, None]],
        [[""]],
        [[]],
        [],
    ],
)
def test_texts_are_those_of_the_column_when_it_has_nulls_and_chunks(chunks):
    column = pa.chunked_array(chunks, pa.string())
    texts = _texts(column)
    assert texts.dtype == object
    assert texts.tolist() == column.to_pylist()


def test_one_string_stands_for_all_that_are_alike():
    texts = _texts(pa.chunked_array([["STANDARD"] * 3, ["STANDARD"]]))
    assert len({id(text) for text in texts}) == 1


def test_rows_are_taken_when_they_are_not_all():
    table = pa.table({"key": ["a", "b", "c"]})
    assert _rows_of(table, np.array([0, 2]))["key"].to_pylist() == ["a", "c"]
    assert _rows_of(table, np.arange(3)) is table
