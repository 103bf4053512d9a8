"""Train the access forecaster, weigh it against baselines on the newest window, and register it in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version as installed
from typing import Any, Final

import mlflow
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from mlflow.models import infer_signature
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, f1_score, log_loss

from cloudflux.domain.access import BANDS, AccessBand, band_codes
from cloudflux.domain.rules import COLD_UNSEEN_FROM_DAYS, classify
from cloudflux.domain.tiers import Tier
from cloudflux_ml import registry
from cloudflux_ml.champion import REGISTERED_MODEL
from cloudflux_ml.dataset import Dataset, Frame, LakeReader, TooLittleHistory, build_dataset
from cloudflux_ml.model import AccessForecaster, data_frame

_CODES: Final = tuple(range(len(BANDS)))
_REQUIREMENTS: Final = ("scikit-learn", "skops", "numpy", "pandas", "polars", "pyarrow")


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a training came to."""

    trained: bool
    reason: str
    """Why nothing was trained; else why the version is champion or only challenger."""
    version: str | None = None
    run_id: str | None = None
    promoted: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    """On the holdout: ``accuracy``, ``macro_f1``, ``log_loss``, ``brier_any`` and the baselines' figures."""
    train_rows: int = 0
    holdout_rows: int = 0
    holdout_day: date | None = None
    fingerprint: str | None = None


def train_and_register(
    lake: LakeReader,
    *,
    shards: int,
    until: date,
    history_days: int = 400,
    tracking_uri: str | None = None,
    experiment: str = REGISTERED_MODEL,
    registered_model: str = REGISTERED_MODEL,
    content_types: pa.Table | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> TrainingOutcome:
    """Train on the lake's history, log the run, register the version and promote it when it is no worse.

    until : the day after the newest complete day.
    tracking_uri : MLflow's address; None takes it from ``MLFLOW_TRACKING_URI``.
    tags : further tags of the run, e.g. the DAG run's id.
    params : settings of ``AccessForecaster`` that differ from its defaults.

    Too little history is an outcome, not an error. Raises ``TransientError`` when MLflow does not answer.
    The version that is registered is the one that was evaluated: it is not fitted again on the holdout, so that it can
    be compared with its successors on windows that it has not seen.
    """
    try:
        dataset = build_dataset(
            lake, shards=shards, until=until, history_days=history_days, content_types=content_types
        )
        require_two_bands(dataset)
    except TooLittleHistory as exc:
        return TrainingOutcome(trained=False, reason=f"not trained: {exc}")
    forecaster = AccessForecaster(**(params or {})).fit(
        data_frame(dataset.train.values),
        dataset.train.reads,
        later_reads=dataset.train.later_reads,
        later_days=dataset.train.later_days,
    )
    holdout = data_frame(dataset.holdout.values)
    metrics = evaluate(forecaster, dataset.holdout) | baselines(dataset.holdout)
    standing = registry.load_champion(tracking_uri, registered_model)
    standing_metrics = evaluate(standing.champion.forecaster, dataset.holdout) if standing.champion else None
    verdict = registry.judge(metrics, standing_metrics)
    if standing_metrics is None:
        verdict = registry.Verdict(verdict.promoted, f"{verdict.reason} ({standing.reason})")
    else:
        metrics |= {
            "champion_log_loss": standing_metrics["log_loss"],
            "champion_accuracy": standing_metrics["accuracy"],
        }

    mlflow.set_tracking_uri(tracking_uri or mlflow.get_tracking_uri())
    chosen = mlflow.set_experiment(experiment)
    with mlflow.start_run(experiment_id=chosen.experiment_id, run_name=f"until-{until}", tags=dict(tags or {})) as run:
        mlflow.log_params(_parameters(forecaster, dataset))
        mlflow.log_metrics(metrics)
        mlflow.set_tags(
            {
                "cloudflux.data_fingerprint": dataset.fingerprint,
                "cloudflux.first_day": str(dataset.first_day),
                "cloudflux.until": str(until),
                "cloudflux.promoted": str(verdict.promoted).lower(),
                "cloudflux.reason": verdict.reason,
            }
        )
        mlflow.log_figure(calibration_figure(forecaster, dataset.holdout), "calibration.png")
        mlflow.log_figure(confusion_figure(forecaster, dataset.holdout), "confusion.png")
        example = holdout.head(5)
        logged = mlflow.sklearn.log_model(
            forecaster,
            name="model",
            registered_model_name=registered_model,
            signature=infer_signature(example, forecaster.predict(example)),
            input_example=example,
            serialization_format="skops",
            skops_trusted_types=list(registry.TRUSTED_TYPES),
            # inferring them starts a process and takes several seconds
            pip_requirements=[f"{package}=={installed(package)}" for package in _REQUIREMENTS],
        )
    version = str(logged.registered_model_version)
    registry.set_aliases(version, verdict, tracking_uri, registered_model)
    return TrainingOutcome(
        trained=True,
        reason=verdict.reason,
        version=version,
        run_id=run.info.run_id,
        promoted=verdict.promoted,
        metrics=metrics,
        train_rows=len(dataset.train),
        holdout_rows=len(dataset.holdout),
        holdout_day=dataset.windows.holdout,
        fingerprint=dataset.fingerprint,
    )


def require_two_bands(dataset: Dataset) -> None:
    """Raise ``TooLittleHistory`` when the training rows are all of one band: there is nothing to tell apart."""
    codes = np.unique(band_codes(dataset.train.reads))
    if len(codes) < 2:
        band = BANDS[codes[0]] if len(codes) else "none"
        raise TooLittleHistory(f"all {len(dataset.train)} training rows are of one band ({band})")


def evaluate(forecaster: AccessForecaster, holdout: Frame) -> dict[str, float]:
    """Measure a forecaster on a holdout.

    Bands by ``accuracy``, ``macro_f1`` (over the bands that occur) and ``log_loss``; whether there is any read by
    ``brier_any``; expected reads by their sum over that of the reads seen.
    """
    features = data_frame(holdout.values)
    probabilities = forecaster.predict_proba(features)
    truth = band_codes(holdout.reads)
    archive = BANDS.index(AccessBand.ARCHIVE)
    return {
        **_agreement("", truth, probabilities.argmax(axis=1)),
        "log_loss": float(log_loss(truth, probabilities, labels=_CODES)),
        "brier_any": float(brier_score_loss(holdout.reads > 0, 1.0 - probabilities[:, archive], pos_label=True)),
        "reads_expected_per_read_seen": float(
            forecaster.predict(features).sum() / max(1.0, float(holdout.reads.sum()))
        ),
    }


def baselines(holdout: Frame) -> dict[str, float]:
    """Measure what needs no training on the same holdout.

    Persistence says that the next 30 days are of the band of the last 30. The rules' tiers are read as bands of the
    same name; they know no archive, so an object that they call cold because it was unseen for 90 days (or ever) counts
    as the band that means: no read.
    """
    truth = band_codes(holdout.reads)
    idle = np.where(holdout.column("never_read") > 0, np.inf, holdout.column("recency_days"))
    tiers = classify(holdout.previous_reads, idle).tiers
    unseen = (tiers == Tier.COLD.value) & (idle >= COLD_UNSEEN_FROM_DAYS)
    rules = np.select(
        [tiers == Tier.HOT.value, tiers == Tier.WARM.value, unseen],
        [BANDS.index(AccessBand.HOT), BANDS.index(AccessBand.WARM), BANDS.index(AccessBand.ARCHIVE)],
        default=BANDS.index(AccessBand.COLD),
    )
    return {
        **_agreement("persistence_", truth, band_codes(holdout.previous_reads)),
        **_agreement("rules_", truth, rules),
    }


def calibration_figure(forecaster: AccessForecaster, holdout: Frame) -> Figure:
    """Draw how often objects were read, against how probable a read was said to be."""
    said = forecaster.probability_any(data_frame(holdout.values))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    seen, mean = calibration_curve(holdout.reads > 0, said, n_bins=10, strategy="quantile")
    axes.plot(mean, seen, marker="o")
    axes.set(xlabel="probability of a read, as forecast", ylabel="share of objects read", title="Calibration")
    return figure


def confusion_figure(forecaster: AccessForecaster, holdout: Frame) -> Figure:
    """Draw the objects by true and forecast band."""
    forecast = forecaster.predict_band(data_frame(holdout.values))
    counts = confusion_matrix(band_codes(holdout.reads), forecast, labels=_CODES)
    names = [str(band) for band in BANDS]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.log1p(counts), cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count:,}", ha="center", va="center")
    axes.set(xlabel="forecast band", ylabel="band seen", title="Objects of the holdout")
    axes.set_xticks(_CODES, names)
    axes.set_yticks(_CODES, names)
    return figure


def _agreement(prefix: str, truth: NDArray[Any], forecast: NDArray[Any]) -> dict[str, float]:
    occurring = np.unique(truth)  # the same bands for the model and the baselines
    macro_f1 = f1_score(truth, forecast, labels=occurring, average="macro", zero_division=0)
    return {f"{prefix}accuracy": float(accuracy_score(truth, forecast)), f"{prefix}macro_f1": float(macro_f1)}


def _parameters(forecaster: AccessForecaster, dataset: Dataset) -> dict[str, Any]:
    windows = dataset.windows
    return {
        **forecaster.get_params(),
        "label_days": windows.label_days,
        "cutoffs": " ".join(map(str, windows.cutoffs)),
        "holdout_cutoff": str(windows.holdout),
        "objects": dataset.objects,
        "train_rows": len(dataset.train),
        "train_rows_before_sampling": dataset.train_rows_found,
        "holdout_rows": len(dataset.holdout),
        "holdout_rows_before_sampling": dataset.holdout_rows_found,
        "decay": " ".join(f"{BANDS[code]}={value:.3f}" for code, value in enumerate(forecaster.decay_)),
    }
