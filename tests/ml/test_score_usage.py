"""Scoring with a champion that learnt states of use, and with what owners ask for below a prefix."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from ml.test_score import DAY, DAYS, AuditSpy, estate, published, score_all
from pydantic import ValidationError
from synthetic_access import MemoryLake, rhythmic_history

from cloudflux.config import PrefixSettings
from cloudflux.lake.schemas import DECISIONS
from cloudflux.price_books import load_book
from cloudflux.quality import audit as check
from cloudflux.workflows.score import audit_and_publish
from cloudflux_ml.dataset import build_dataset
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.registry import Champion
from cloudflux_ml.train import fit_usage

BOOKS = {"aws-us-east-1": load_book("aws-us-east-1")}


@pytest.fixture(scope="module")
def history():
    access, listed = rhythmic_history(objects=200, days=DAYS)
    place = listed.schema.get_field_index("size_bytes")
    return access, listed.set_column(place, listed.schema.field(place), pa.array([2**30] * listed.num_rows, pa.int64()))


@pytest.fixture(scope="module")
def champion(history):
    lake = MemoryLake(*history)
    dataset = build_dataset(lake, shards=1, until=DAY)
    train = dataset.train
    made = AccessForecaster(max_iter=20).fit(
        data_frame(train.values), train.horizon_reads, cutoffs=train.cutoff, growth=train.growth
    )
    made.usage_ = fit_usage(lake, dataset, shards=1)
    assert made.usage_ is not None
    return Champion("7", made)


def decided(tmp_path, history, champion, owner):
    lake = published(tmp_path, *history)
    score_all(lake, champion, owner, BOOKS)
    audit_and_publish(batch="batch", day=DAY, lake=lake, audit=AuditSpy())
    return lake.read("decisions", days=[DAY]).to_pylist()


@GREAT_EXPECTATIONS
def test_decisions_pass_their_audit_and_hang_on_use_when_states_were_learnt(tmp_path, history, champion):
    rows = decided(tmp_path, history, champion, estate())
    assert len(rows) == 200
    read = np.array([row["expected_reads"] for row in rows])
    moved = np.array([row["action"] == "move" for row in rows])
    assert moved.any()
    assert read[moved].mean() < read[~moved].mean() or moved.all()
    report = check("decisions", pa.Table.from_pylist(rows, DECISIONS), "batch")
    assert report.passed, report.checks


def test_longest_prefix_holds_when_owners_ask_for_something_below_it(tmp_path, history, champion):
    listed = sorted({row["key"].split("/")[0] for row in history[1].to_pylist()})
    first, second = listed[0], listed[1]
    owner = estate(
        prefixes=(
            PrefixSettings(prefix=f"{first}/", pinned_class="STANDARD_IA"),
            PrefixSettings(prefix=f"{second}/", min_retention_days=10_000),
        )
    )
    rows = decided(tmp_path, history, champion, owner)
    pinned = [row for row in rows if row["key"].startswith(f"{first}/")]
    young = [row for row in rows if row["key"].startswith(f"{second}/")]
    assert {row["chosen_class"] for row in pinned} == {"STANDARD_IA"}
    assert {row["action"] for row in young} == {"keep"}
    assert all("minimum retention" in row["reason"] for row in young)


def test_archive_is_weighed_only_below_the_prefix_whose_owner_accepts_hours(tmp_path, history, champion):
    listed = sorted({row["key"].split("/")[0] for row in history[1].to_pylist()})
    owner = estate(prefixes=(PrefixSettings(prefix=f"{listed[0]}/", latency="hours"),))
    rows = decided(tmp_path, history, champion, owner)
    assert len(rows) == 200
    for row in rows:
        weighed = {candidate["storage_class"] for candidate in row["candidates"]}
        assert ("DEEP_ARCHIVE" in weighed) is row["key"].startswith(f"{listed[0]}/"), row["key"]


def test_pinned_class_is_refused_when_the_provider_does_not_have_it():
    with pytest.raises(ValidationError, match="pinned_class 'Cool' of 'a/' is no storage class of aws"):
        estate(prefixes=(PrefixSettings(prefix="a/", pinned_class="Cool"),))


def test_scoring_gives_the_same_decisions_when_it_runs_again(tmp_path, history, champion):
    owner = estate()
    assert decided(tmp_path / "a", history, champion, owner) == decided(tmp_path / "b", history, champion, owner)
