"""The usage chain in training: fitted on what lies before the holdout, saved with the forecaster, and never damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import skops.io
from foreign_warnings import MLFLOW
from mlflow.tracking import MlflowClient
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, rhythmic_history

from cloudflux.domain.prices import Latency
from cloudflux.price_books import load_book
from cloudflux_ml import registry
from cloudflux_ml import train as training
from cloudflux_ml.backtest.holdout import BucketPrices
from cloudflux_ml.backtest.run import classes_of
from cloudflux_ml.dataset import TooLittleHistory, build_dataset
from cloudflux_ml.features import FEATURE_NAMES
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.train import TrainingOutcome, train_and_register
from cloudflux_ml.usage import USAGE_FEATURES, UsageStates

pytestmark = MLFLOW

DAYS = 120
UNTIL = FIRST_DAY + timedelta(days=DAYS)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.chdir(folder)  # artifacts of a database store go to ./mlruns
        yield f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(before)
    registry.load_version.cache_clear()


@pytest.fixture(scope="module")
def lake() -> MemoryLake:
    return MemoryLake(*rhythmic_history(objects=200, days=DAYS))


def save(folder: Path, model: object) -> Path:
    skops.io.dump(model, folder / "model.skops")
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops"}
    (folder / "MLmodel").write_text(f"flavors: {{sklearn: {flavor}}}", encoding="utf-8")
    return folder


def some_forecaster() -> AccessForecaster:
    values = data_frame(np.zeros((120, len(FEATURE_NAMES))))
    return AccessForecaster(max_iter=2).fit(values, np.repeat([0.0, 10.0], 60))


def some_usage(features: int = len(USAGE_FEATURES)) -> UsageStates:
    rng = np.random.default_rng(3)
    today, tomorrow = rng.random((2, 2000, features))
    reads = (today[:, 0] > rng.random(2000)).astype(float)
    return UsageStates(max_states=12).fit(today, reads[:, None], tomorrow=tomorrow, reads=reads)


def test_usage_is_saved_along_when_there_is_one(tmp_path: Path) -> None:
    made = some_forecaster()
    made.usage_ = some_usage()
    again = registry.load_folder(save(tmp_path, made), "version 7")
    assert isinstance(again.usage_, UsageStates)
    values = np.random.default_rng(4).random((500, len(USAGE_FEATURES)))
    np.testing.assert_array_equal(again.usage_.predict(values), made.usage_.predict(values))
    for name in ("unread", "read", "reads", "seen"):
        np.testing.assert_array_equal(getattr(again.usage_.chain, name), getattr(made.usage_.chain, name))


def test_version_is_loaded_without_usage_when_it_is_older_than_the_chain(tmp_path: Path) -> None:
    made = some_forecaster()
    del made.usage_
    assert registry.load_folder(save(tmp_path, made), "version 7").usage_ is None


def test_model_is_refused_when_its_usage_is_none_or_of_other_features(tmp_path: Path) -> None:
    made = some_forecaster()
    made.usage_ = {"reads": np.arange(3.0)}  # type: ignore[assignment]  # a wrong one, on purpose
    with pytest.raises(registry.ModelUnfit, match="holds a dict for its usage chain"):
        registry.load_folder(save(tmp_path, made), "version 7")
    made.usage_ = some_usage(features=4)
    with pytest.raises(registry.ModelUnfit, match="usage chain for other features"):
        registry.load_folder(save(tmp_path, made), "version 7")


def damaged_nodes(usage: UsageStates) -> None:
    state = usage.tree_.tree_.__getstate__()
    state["nodes"]["left_child"][0] = 10**6
    usage.tree_.tree_.__setstate__(state)


def damaged_feature(usage: UsageStates) -> None:
    state = usage.tree_.tree_.__getstate__()
    state["nodes"]["feature"][0] = 99
    usage.tree_.tree_.__setstate__(state)


def damaged_states(usage: UsageStates) -> None:
    usage.state_of_node_ = usage.state_of_node_ + 5


def damaged_chain(usage: UsageStates) -> None:
    usage.read_ = usage.read_ * 2.0


@pytest.mark.parametrize("damage", [damaged_nodes, damaged_feature, damaged_states, damaged_chain])
def test_model_is_refused_when_its_usage_is_damaged(tmp_path: Path, damage: Callable[[UsageStates], None]) -> None:
    made = some_forecaster()
    made.usage_ = some_usage()
    damage(made.usage_)
    with pytest.raises(registry.ModelUnfit, match="version 7 has a damaged usage chain"):
        registry.load_folder(save(tmp_path, made), "version 7")


def test_usage_is_the_same_bytes_when_the_days_from_the_holdout_on_change(lake: MemoryLake) -> None:
    access, listed = rhythmic_history(objects=200, days=DAYS)
    dataset = build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)
    holdout = dataset.windows.holdout
    before = access.filter(pc.less(access["day"], pa.scalar(holdout)))
    flood = [(key, holdout + timedelta(days=day), 500) for key in listed["key"].to_pylist() for day in (0, 20)]
    changed = MemoryLake(pa.concat_tables([before, daily_access(flood)]), listed)
    fitted = [training.fit_usage(each, dataset, shards=1) for each in (lake, lake, changed)]
    assert len({usage.tree_.tree_.value.tobytes() for usage in fitted}) == 1
    for name in ("unread_", "read_", "reads_", "seen_", "state_of_node_"):
        assert len({getattr(usage, name).tobytes() for usage in fitted}) == 1, name


def test_usage_learns_from_every_shard_in_proportion_when_there_are_several() -> None:
    history = rhythmic_history(objects=200, days=DAYS)
    lake = MemoryLake(*history, shards=3)
    dataset = build_dataset(lake, shards=3, until=UNTIL)
    usage = training.fit_usage(lake, dataset, shards=3, most=6000)
    assert 0.8 * 6000 < usage.seen_.sum() <= 6100
    alone = training.fit_usage(MemoryLake(*history), dataset, shards=1, most=6000)
    assert usage.reads_ @ usage.seen_ / usage.seen_.sum() == pytest.approx(
        alone.reads_ @ alone.seen_ / alone.seen_.sum(), rel=0.1
    )


def test_usage_is_registered_when_trained(lake: MemoryLake, tracking_uri: str) -> None:
    outcome = train_and_register(
        lake, shards=1, until=UNTIL, tracking_uri=tracking_uri, registered_model="with-usage", params={"max_iter": 2}
    )
    champion = registry.load_champion(tracking_uri, "with-usage").champion
    assert champion is not None
    assert champion.forecaster.usage_ is not None
    run = MlflowClient(tracking_uri).get_run(str(outcome.run_id))
    assert run.data.tags["cloudflux.usage"] == "fitted"
    assert int(run.data.params["usage_states"]) == len(champion.forecaster.usage_.chain)
    assert int(run.data.params["usage_rows"]) > 1000


def test_costs_are_logged_and_the_dearer_challenger_is_kept_back_when_there_are_prices(
    lake: MemoryLake, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = load_book("aws-us-east-1")

    def train() -> TrainingOutcome:
        return train_and_register(
            lake,
            shards=1,
            until=UNTIL,
            tracking_uri=tracking_uri,
            registered_model="priced",
            params={"max_iter": 2},
            prices={("aws", "data"): BucketPrices(book, classes_of(book, Latency.MS))},
        )

    first = train()
    run = MlflowClient(tracking_uri).get_run(str(first.run_id)).data
    logged = run.metrics
    assert run.params["backtest_price_books"] == "aws-us-east-1"
    assert int(run.params["backtest_objects"]) > 100
    names = {"cost", "stay", "rules", "persistence", "optimum"}
    assert {f"backtest_{name}_usd" for name in names} <= logged.keys()
    cost, optimum = logged["backtest_cost_usd"], logged["backtest_optimum_usd"]
    assert logged["backtest_regret"] == pytest.approx(cost / optimum)
    assert 1.0 <= logged["backtest_regret"] < logged["backtest_rules_usd"] / optimum
    card = mlflow.artifacts.load_text(f"runs:/{first.run_id}/model_card.md")
    assert f"| backtest cost, USD | {cost:.4f} | {logged['backtest_persistence_usd']:.4f} |" in card

    again = train()
    assert again.promoted, "the same data gives the same chain, at the same cost"
    assert again.metrics["champion_backtest_cost_usd"] == again.metrics["backtest_cost_usd"] == cost

    def contrary(*args: Any, **kwargs: Any) -> UsageStates:
        usage = fit_usage(*args, **kwargs)
        # busy objects pass for idle ones, and go where reading is dear
        usage.state_of_node_ = np.where(usage.state_of_node_ < 0, -1, np.argmin(usage.reads_))
        return usage

    fit_usage = training.fit_usage
    monkeypatch.setattr(training, "fit_usage", contrary)
    dearer = train()
    assert not dearer.promoted
    assert dearer.reason.startswith("worse than the standing champion: backtest cost in USD")
    assert dearer.metrics["backtest_cost_usd"] > 1.05 * dearer.metrics["champion_backtest_cost_usd"]


def test_usage_is_none_and_the_run_says_why_when_no_object_is_old_enough(
    lake: MemoryLake, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_little(*_: object, **__: object) -> None:
        raise TooLittleHistory("no object is known for long enough")

    monkeypatch.setattr(training, "fit_usage", too_little)
    outcome = train_and_register(
        lake, shards=1, until=UNTIL, tracking_uri=tracking_uri, registered_model="unused", params={"max_iter": 2}
    )
    run = MlflowClient(tracking_uri).get_run(str(outcome.run_id))
    assert run.data.tags["cloudflux.usage"] == "not fitted: no object is known for long enough"
    champion = registry.load_champion(tracking_uri, "unused").champion
    assert champion is not None
    assert champion.forecaster.usage_ is None


def test_training_asks_for_longer_logs_when_every_object_is_new() -> None:
    access, listed = rhythmic_history(objects=200, days=DAYS)
    dataset = build_dataset(MemoryLake(access, listed), shards=1, until=UNTIL)
    eve = dataset.windows.holdout - timedelta(days=3)
    with pytest.raises(TooLittleHistory, match="no object is known for long enough on the 90 days from"):
        training.fit_usage(MemoryLake(daily_access([("a", eve, 1)])), dataset, shards=1)
