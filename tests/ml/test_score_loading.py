"""A process that scores several shards loads the model once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mlflow
import pytest
from ml.test_score import DAY, DAYS, POLICY, SHARDS, estate, published
from synthetic_access import MemoryLake, rhythmic_history

from cloudflux.domain.coverage import RecentCoverage
from cloudflux.price_books import load_book
from cloudflux.workflows.score import score_shard
from cloudflux_ml import registry
from cloudflux_ml.dataset import build_dataset
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.score import forecast_objects


class Client:
    """MLflow's, as far as loading a version asks it."""

    def __init__(self, uri: str | None) -> None:
        pass

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        return f"models:/{name}/{version}"


def test_model_is_loaded_once_when_a_process_scores_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, listed = rhythmic_history(objects=200, days=DAYS)
    train = build_dataset(MemoryLake(access, listed), shards=1, until=DAY).train
    made = AccessForecaster(max_iter=2).fit(data_frame(train.values), train.horizon_reads)
    made.usage_ = None
    loaded: list[str] = []

    def load_folder(folder: Path, what: str) -> AccessForecaster:
        loaded.append(what)
        return made

    monkeypatch.setattr(registry, "MlflowClient", Client)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: str(tmp_path))
    monkeypatch.setattr(registry, "load_folder", load_folder)
    registry.load_version.cache_clear()
    lake, books = published(tmp_path, access, listed), {"aws-us-east-1": load_book("aws-us-east-1")}
    scored = [
        score_shard(
            day=DAY,
            shard=shard,
            batch="batch",
            lake=lake,
            forecast=partial(forecast_objects, champion=registry.load_version("4", name="loaded-once")),
            estate=estate(),
            books=books,
            policy=POLICY,
            history_days=400,
            coverage={("aws", "data"): RecentCoverage(1.0, 30)},
        )
        for shard in range(SHARDS)
    ]
    registry.load_version.cache_clear()
    assert sum(shard.objects for shard in scored) == listed.num_rows
    assert all(shard.objects > shard.from_rules for shard in scored), "the model speaks in each shard"
    assert loaded == ["version 4 of loaded-once"]
