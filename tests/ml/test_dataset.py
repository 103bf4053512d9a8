"""Frames: time runs one way, and the same lake gives the same rows."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, rhythmic_history

from cloudflux_ml.dataset import TooLittleHistory, build_dataset, choose_windows

DAYS = 130
UNTIL = FIRST_DAY + timedelta(days=DAYS)


@given(st.integers(45, 2000), st.integers(1, 12))
def test_no_training_label_reaches_the_holdout_when_windows_are_chosen(days: int, max_cutoffs: int) -> None:
    end = FIRST_DAY + timedelta(days=days)
    windows = choose_windows(FIRST_DAY, end, max_cutoffs)
    label = timedelta(days=windows.label_days)
    assert windows.end == windows.holdout + label == end
    assert 1 <= len(windows.cutoffs) <= max_cutoffs
    assert list(windows.cutoffs) == sorted(set(windows.cutoffs))
    assert windows.cutoffs[-1] + label == windows.holdout
    assert windows.cutoffs[0] >= FIRST_DAY + timedelta(days=14)
    assert windows.label_days == 30 or days < 74


def test_windows_are_refused_when_the_history_is_short() -> None:
    with pytest.raises(TooLittleHistory, match="44 days of daily access, 45 are needed"):
        choose_windows(FIRST_DAY, FIRST_DAY + timedelta(days=44))


def test_eight_cutoffs_reach_back_a_year_when_the_history_is_long() -> None:
    windows = choose_windows(FIRST_DAY, FIRST_DAY + timedelta(days=700))
    assert len(windows.cutoffs) == 8
    assert (windows.holdout - windows.cutoffs[0]).days > 300


@pytest.fixture(scope="module")
def history() -> tuple[pa.Table, pa.Table]:
    return rhythmic_history(objects=200, days=DAYS)


def test_training_frame_stays_the_same_when_the_holdout_days_change(history: tuple[pa.Table, pa.Table]) -> None:
    access, listed = history
    original = build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)
    kept = access.filter(pa.array([day < original.windows.holdout for day in access["day"].to_pylist()]))
    keys = listed["key"].to_pylist()
    burst = daily_access([(key, UNTIL - timedelta(days=1), 5_000) for key in keys])
    changed = build_dataset(MemoryLake(pa.concat_tables([kept, burst]), listed), shards=1, until=UNTIL)
    assert changed.windows == original.windows
    assert changed.train.fingerprint == original.train.fingerprint
    assert changed.holdout.fingerprint != original.holdout.fingerprint
    np.testing.assert_array_equal(changed.holdout.values, original.holdout.values)


def test_dataset_stays_the_same_when_later_days_are_logged(history: tuple[pa.Table, pa.Table]) -> None:
    access, listed = history
    today = daily_access([(key, UNTIL, 5_000) for key in listed["key"].to_pylist()])
    original = build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)
    changed = build_dataset(MemoryLake(pa.concat_tables([access, today]), listed), shards=1, until=UNTIL)
    assert changed.fingerprint == original.fingerprint


def test_labels_are_the_reads_after_the_cutoff_when_counted_by_hand(history: tuple[pa.Table, pa.Table]) -> None:
    access, listed = history
    dataset = build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)
    days, reads = access["day"].to_pylist(), access["reads"].to_pylist()
    holdout = dataset.windows.holdout
    in_window = sum(count for day, count in zip(days, reads, strict=True) if day >= holdout)
    before = sum(count for day, count in zip(days, reads, strict=True) if holdout - timedelta(days=30) <= day < holdout)
    born_later = {  # objects that came within the label window are in no row
        key
        for key, first in access.group_by("key")
        .aggregate([("day", "min")])
        .select(["key", "day_min"])
        .to_pandas()
        .values
        if first >= holdout
    }
    missed = sum(
        count
        for key, day, count in zip(access["key"].to_pylist(), days, reads, strict=True)
        if key in born_later and day >= holdout
    )
    assert dataset.holdout.reads.sum() == in_window - missed
    assert dataset.holdout.previous_reads.sum() == before


def test_rows_are_a_seeded_sample_when_there_are_more_than_the_cap(history: tuple[pa.Table, pa.Table]) -> None:
    lake = MemoryLake(*history, shards=3)
    whole = build_dataset(lake, shards=3, until=UNTIL)
    capped = [build_dataset(lake, shards=3, until=UNTIL, max_train_rows=100) for _ in range(2)]
    other = build_dataset(lake, shards=3, until=UNTIL, max_train_rows=100, seed=1)
    assert len(capped[0].train) == 100
    assert capped[0].train_rows_found == len(whole.train) > 100
    assert capped[0].fingerprint == capped[1].fingerprint
    assert other.train.fingerprint != capped[0].train.fingerprint


def test_every_object_has_its_row_when_shards_are_read_one_after_another(history: tuple[pa.Table, pa.Table]) -> None:
    one = build_dataset(MemoryLake(*history), shards=1, until=UNTIL)
    three = build_dataset(MemoryLake(*history, shards=3), shards=3, until=UNTIL)
    assert three.objects == one.objects
    assert np.sort(three.holdout.reads).tolist() == np.sort(one.holdout.reads).tolist()


def test_dataset_is_refused_when_there_are_few_objects() -> None:
    access, listed = rhythmic_history(objects=50, days=DAYS)
    with pytest.raises(TooLittleHistory, match=r"objects known on .* 100 are needed"):
        build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)


def test_dataset_is_refused_when_nothing_was_logged() -> None:
    with pytest.raises(TooLittleHistory, match="no daily access before 2025-01-01"):
        build_dataset(MemoryLake(daily_access([])), shards=1, until=date(2025, 1, 1))
