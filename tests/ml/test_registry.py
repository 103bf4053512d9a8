"""Training and the registry: who becomes champion, what the run says, and what is never loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from foreign_warnings import MLFLOW
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LinearRegression
from synthetic_access import FIRST_DAY, MemoryLake, daily_access, rhythmic_history

from cloudflux.domain.errors import TransientError
from cloudflux_ml import registry
from cloudflux_ml import train as training
from cloudflux_ml.champion import REGISTERED_MODEL, champion_version, trained_until
from cloudflux_ml.features import FEATURE_NAMES
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.train import TrainingOutcome, train_and_register

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


def train(lake: MemoryLake, tracking_uri: str, name: str, **params: object) -> TrainingOutcome:
    return train_and_register(
        lake, shards=1, until=UNTIL, tracking_uri=tracking_uri, registered_model=name, params=params
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A good version, then a bad one."""

    uri: str
    before: registry.ChampionFound
    good: TrainingOutcome
    bad: TrainingOutcome

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)


@pytest.fixture(scope="module")
def trained(lake: MemoryLake, tracking_uri: str) -> Trained:
    before = registry.load_champion(tracking_uri)
    good = train(lake, tracking_uri, REGISTERED_MODEL, max_iter=30)
    bad = train(lake, tracking_uri, REGISTERED_MODEL, max_iter=1)
    return Trained(tracking_uri, before, good, bad)


def test_first_version_becomes_champion_when_none_stands(trained: Trained) -> None:
    assert trained.before == registry.ChampionFound(None, "no version of access-forecaster is champion yet")
    assert (trained.good.trained, trained.good.promoted, trained.good.version) == (True, True, "1")
    assert "no standing champion" in trained.good.reason


def test_champion_stays_when_the_challenger_is_worse(trained: Trained) -> None:
    good, bad = trained.good, trained.bad
    assert (bad.trained, bad.promoted, bad.version) == (True, False, "2")
    assert bad.metrics["log_loss"] > good.metrics["log_loss"] + registry.TOLERANCES["log_loss"][1]
    assert bad.metrics["champion_log_loss"] == pytest.approx(good.metrics["log_loss"])
    assert champion_version(trained.uri) == "1"
    challenger = trained.client.get_model_version_by_alias("access-forecaster", "challenger")
    assert str(challenger.version) == "2"
    assert bad.reason.startswith("worse than the standing champion: log loss of the tiers ")
    assert trained.client.get_model_version("access-forecaster", "2").tags["cloudflux.reason"] == bad.reason
    assert trained.client.get_run(str(bad.run_id)).data.tags["cloudflux.reason"] == bad.reason


def test_run_holds_all_that_a_reader_needs_when_trained(trained: Trained) -> None:
    outcome, client = trained.good, trained.client
    run = client.get_run(str(outcome.run_id))
    wanted = {
        "accuracy", "macro_f1", "log_loss", "brier_any", "ece_any", "brier_any_7", "ece_any_7",
        "persistence_accuracy", "persistence_macro_f1", "persistence_brier_any", "persistence_ece_any",
        "rules_accuracy", "rules_macro_f1", "rules_brier_any", "rules_ece_any",
    }  # fmt: skip
    assert wanted <= run.data.metrics.keys()
    assert {"max_iter", "label_days", "cutoffs", "holdout_cutoff", "train_rows"} <= run.data.params.keys()
    assert run.data.tags["cloudflux.data_fingerprint"] == outcome.fingerprint == trained.bad.fingerprint
    assert {file.path for file in client.list_artifacts(str(outcome.run_id))} >= {
        "calibration.png",
        "confusion.png",
        "model_card.md",
    }
    card = mlflow.artifacts.load_text(f"runs:/{outcome.run_id}/model_card.md")
    for part in (
        outcome.reason,
        outcome.fingerprint,
        "| accuracy of the tiers |",
        "| persistence | rules |",
        "| 7 days |",
    ):
        assert str(part) in card
    model = mlflow.models.get_model_info(f"models:/access-forecaster/{outcome.version}")
    assert [column.name for column in model.signature.inputs] == list(FEATURE_NAMES)
    assert model.saved_input_example_info is not None


def test_champion_is_loaded_once_when_asked_for_twice(trained: Trained) -> None:
    found = registry.load_champion(trained.uri)
    assert found.champion is not None
    assert found.champion.source == "model:1"
    assert found.champion.forecaster.get_params() == AccessForecaster(max_iter=30).get_params()
    assert registry.load_champion(trained.uri).champion is found.champion
    example = pd.DataFrame(np.zeros((3, len(FEATURE_NAMES))), columns=list(FEATURE_NAMES))
    assert found.champion.forecaster.predict(example).shape == (3,)


def test_newest_training_says_how_far_it_looked_when_asked(trained: Trained) -> None:
    assert trained_until(trained.uri) == UNTIL
    assert trained_until(trained.uri, "never") is None


def test_reference_of_drift_is_saved_along_when_a_model_is(tmp_path: Path) -> None:
    reads = np.repeat([0.0, 10.0], 60)
    made = AccessForecaster(max_iter=2).fit(
        data_frame(np.random.default_rng(1).random((120, len(FEATURE_NAMES)))), reads
    )
    again = registry.load_folder(save(tmp_path, made), "version 7")
    np.testing.assert_array_equal(again.reference_edges_, made.reference_edges_)
    np.testing.assert_array_equal(again.reference_counts_, made.reference_counts_)
    assert again.usage_ is None


def test_costs_decide_and_are_drawn_when_the_backtest_measures_them(
    lake: MemoryLake, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter([50.0, 80.0, 50.0])  # the first version; then a dearer challenger, and the champion again
    monkeypatch.setattr(training, "backtest_cost", lambda *_, **__: next(costs))
    first, second = (train(lake, tracking_uri, "costed", max_iter=5) for _ in range(2))
    assert first.promoted
    assert not second.promoted
    assert second.reason.startswith("worse than the standing champion: backtest cost in USD 80.0000 against 50.0000")
    assert (second.metrics["backtest_cost_usd"], second.metrics["champion_backtest_cost_usd"]) == (80.0, 50.0)
    artifacts = MlflowClient(tracking_uri).list_artifacts(str(second.run_id))
    assert "cost.png" in {file.path for file in artifacts}


def test_nothing_is_registered_when_the_history_is_short(tracking_uri: str) -> None:
    lake = MemoryLake(*rhythmic_history(objects=120, days=30))
    outcome = train_and_register(
        lake, shards=1, until=FIRST_DAY + timedelta(days=30), tracking_uri=tracking_uri, registered_model="never"
    )
    assert outcome == TrainingOutcome(False, "not trained: 30 days of daily access, 45 are needed")
    assert champion_version(tracking_uri, "never") is None


def test_nothing_is_registered_when_all_objects_are_of_one_band(tracking_uri: str) -> None:
    days = [FIRST_DAY + timedelta(days=place) for place in range(DAYS)]
    rows = [(f"object-{index}", FIRST_DAY, 0, 1) for index in range(150)]
    lake = MemoryLake(pa.concat_tables([daily_access(rows), daily_access([("object-0", day, 0, 1) for day in days])]))
    outcome = train_and_register(lake, shards=1, until=UNTIL, tracking_uri=tracking_uri)
    assert not outcome.trained
    assert "training rows are of one band (archive)" in outcome.reason


def save(folder: Path, model: object, **flavor: str) -> Path:
    skops.io.dump(model, folder / "model.skops")
    settings = {"pickled_model": "model.skops", "serialization_format": "skops"} | flavor
    (folder / "MLmodel").write_text(f"flavors: {{sklearn: {settings}}}", encoding="utf-8")
    return folder


class Stranger(LinearRegression):
    """A type that nobody trusts, although the stored model does."""


def test_model_is_refused_when_it_names_types_of_its_own(tmp_path: Path) -> None:
    folder = save(tmp_path, Stranger(), skops_trusted_types=f"{Stranger.__module__}.Stranger")
    with pytest.raises(registry.ModelUnfit, match=r"version 7 holds types that are not trusted: .*Stranger"):
        registry.load_folder(folder, "version 7")


def test_model_is_refused_when_it_is_a_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, LinearRegression(), serialization_format="pickle")
    with pytest.raises(registry.ModelUnfit, match="not saved with skops"):
        registry.load_folder(folder, "version 7")


def test_model_is_refused_when_it_is_none_of_ours_or_damaged(tmp_path: Path) -> None:
    folder = save(tmp_path, LinearRegression())
    with pytest.raises(registry.ModelUnfit, match="is a LinearRegression, no AccessForecaster"):
        registry.load_folder(folder, "version 7")
    (folder / "model.skops").write_bytes(b"not a zip file")
    with pytest.raises(registry.ModelUnfit, match="cannot be read"):
        registry.load_folder(folder, "version 7")


def test_model_is_refused_when_it_was_made_for_other_features(tmp_path: Path) -> None:
    values = np.zeros((60, len(FEATURE_NAMES)))
    made = AccessForecaster(max_iter=2).fit(data_frame(values), np.repeat([0.0, 10.0], 30))
    made.feature_names_in_ = np.array([f"{name}_of_old" for name in FEATURE_NAMES], dtype=object)
    with pytest.raises(registry.ModelUnfit, match="made for other features"):
        registry.load_folder(save(tmp_path, made), "version 7")


STANDING = {"backtest_cost_usd": 100.0, "log_loss": 0.5, "brier_any": 0.1, "ece_any": 0.02}


def test_first_challenger_is_promoted_when_no_champion_stands() -> None:
    verdict = registry.judge(STANDING, None)
    assert verdict.promoted
    assert verdict.reason.startswith("no standing champion to compare with; backtest cost in USD 100.0000, log loss")


@pytest.mark.parametrize("name", list(STANDING))
def test_challenger_is_kept_back_and_the_reason_names_it_when_one_figure_is_worse(name: str) -> None:
    relative, absolute = registry.TOLERANCES[name]
    tolerance = relative * STANDING[name] + absolute
    assert registry.judge(STANDING | {name: STANDING[name] + 0.9 * tolerance}, STANDING).promoted
    verdict = registry.judge(STANDING | {name: STANDING[name] + 1.1 * tolerance}, STANDING)
    assert not verdict.promoted
    words = {
        "backtest_cost_usd": "backtest cost",
        "log_loss": "log loss",
        "brier_any": "Brier",
        "ece_any": "calibration",
    }
    assert verdict.reason.startswith(f"worse than the standing champion: {words[name]}")
    assert verdict.reason.count(";") == 0, "the others were no worse"


def with_figure(name: str, value: float | None) -> dict[str, float]:
    others = {other: figure for other, figure in STANDING.items() if other != name}
    return others if value is None else others | {name: value}


@pytest.mark.parametrize("lacking", [None, math.nan, math.inf])
@pytest.mark.parametrize("name", list(STANDING))
def test_challenger_is_kept_back_when_it_lacks_a_figure_that_the_champion_has(name: str, lacking: float | None) -> None:
    verdict = registry.judge(with_figure(name, lacking), STANDING)
    assert not verdict.promoted
    assert verdict.reason.startswith("worse than the standing champion: no ")
    assert f"the champion's is {STANDING[name]:.4f}" in verdict.reason
    assert ";" not in verdict.reason, "the others were no worse"


@pytest.mark.parametrize("lacking", [None, math.nan])
def test_challenger_is_promoted_when_the_champion_lacks_a_figure_that_it_has(lacking: float | None) -> None:
    verdict = registry.judge(STANDING, with_figure(registry.COST, lacking))
    assert verdict.promoted
    assert "backtest cost in USD 100.0000, which the champion lacks" in verdict.reason
    assert "log loss of the tiers 0.5000 against 0.5000" in verdict.reason


def test_figures_that_both_lack_are_left_out() -> None:
    without = with_figure(registry.COST, None)
    verdict = registry.judge(without, without)
    assert verdict.promoted
    assert "cost" not in verdict.reason


@pytest.mark.parametrize("champion", [STANDING, {}])
def test_challenger_is_kept_back_with_a_reason_when_nothing_was_measured(champion: dict[str, float]) -> None:
    verdict = registry.judge({}, champion)
    assert not verdict.promoted
    assert not verdict.reason.endswith(": ")
    assert registry.judge({}, None) == registry.Verdict(
        True, "no standing champion to compare with; nothing was measured"
    )


def test_error_is_transient_when_mlflow_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TransientError, match="MLflow does not tell the champion"):
        champion_version("http://127.0.0.1:1")
