"""Train the access forecaster, weigh it against baselines on the newest window, and register it in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version as installed
from types import MappingProxyType
from typing import Any, Final

import mlflow
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from mlflow.models import infer_signature
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from cloudflux.domain.access import BANDS, FORECAST_TIERS, band_codes, tier_codes
from cloudflux.domain.rules import classify
from cloudflux_ml import registry
from cloudflux_ml.backtest.holdout import Bucket, BucketPrices, HoldoutBacktest, sample_holdout
from cloudflux_ml.champion import REGISTERED_MODEL
from cloudflux_ml.dataset import (
    Dataset,
    Frame,
    LakeReader,
    TooLittleHistory,
    build_dataset,
    read_history,
    usage_start,
)
from cloudflux_ml.features import HORIZONS
from cloudflux_ml.model import AccessForecaster, data_frame
from cloudflux_ml.model_card import model_card
from cloudflux_ml.usage import MOST_TRANSITIONS, UsageStates, fit_usage_states, join_transitions, sample_transitions

_CODES: Final = list(range(len(FORECAST_TIERS)))
REGRET: Final = "backtest_regret"
_COSTS: Final = MappingProxyType(
    {
        "optimum": "backtest_optimum_usd",
        "this version": registry.COST,
        "champion": f"champion_{registry.COST}",
        "persistence": "backtest_persistence_usd",
        "rules": "backtest_rules_usd",
        "stay": "backtest_stay_usd",
    }
)
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
    """On the holdout: what ``evaluate`` and ``baselines`` measure, the backtest's cost, and the standing champion's."""
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
    prices: Mapping[Bucket, BucketPrices] = MappingProxyType({}),
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> TrainingOutcome:
    """Train on the lake's history, log the run, register the version and promote it when it is no worse.

    until : the day after the newest complete day.
    tracking_uri : MLflow's address; None takes it from ``MLFLOW_TRACKING_URI``.
    prices : what placement on the holdout is charged by, so that costs have a say in who is champion: of each bucket
        whose objects count.
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
        dataset.train.horizon_reads,
        cutoffs=dataset.train.cutoff,
        growth=dataset.train.growth,
    )
    usage = "fitted"
    try:
        forecaster.usage_ = fit_usage(lake, dataset, shards=shards)
    except TooLittleHistory as exc:
        usage = f"not fitted: {exc}"
    holdout = data_frame(dataset.holdout.values)
    metrics = evaluate(forecaster, dataset.holdout) | baselines(dataset.holdout)
    window = holdout_backtest(lake, dataset, shards=shards, prices=prices)
    rivals = {} if window is None else window.rivals_usd()
    metrics |= {f"backtest_{name}_usd": usd for name, usd in rivals.items()}
    metrics |= cost_figures(backtest_cost(forecaster, window), rivals)
    standing = registry.load_champion(tracking_uri, registered_model)
    standing_metrics = None
    if standing.champion:
        standing_metrics = evaluate(standing.champion.forecaster, dataset.holdout)
        standing_metrics |= cost_figures(backtest_cost(standing.champion.forecaster, window), rivals)
    verdict = registry.judge(metrics, standing_metrics)
    if standing_metrics is None:
        verdict = registry.Verdict(verdict.promoted, f"{verdict.reason} ({standing.reason})")
    else:
        compared = ("accuracy", "macro_f1", "log_loss", "brier_any", "ece_any", registry.COST, REGRET)
        metrics |= {f"champion_{name}": standing_metrics[name] for name in compared if name in standing_metrics}

    mlflow.set_tracking_uri(tracking_uri or mlflow.get_tracking_uri())
    chosen = mlflow.set_experiment(experiment)
    with mlflow.start_run(experiment_id=chosen.experiment_id, run_name=f"until-{until}", tags=dict(tags or {})) as run:
        mlflow.log_params(_parameters(forecaster, dataset, window))
        mlflow.log_metrics(metrics)
        mlflow.set_tags(
            {
                "cloudflux.data_fingerprint": dataset.fingerprint,
                "cloudflux.first_day": str(dataset.first_day),
                "cloudflux.until": str(until),
                "cloudflux.promoted": str(verdict.promoted).lower(),
                "cloudflux.reason": verdict.reason,
                "cloudflux.usage": usage,
            }
        )
        mlflow.log_figure(calibration_figure(forecaster, dataset.holdout), "calibration.png")
        mlflow.log_figure(confusion_figure(forecaster, dataset.holdout), "confusion.png")
        costs = {title: metrics[name] for title, name in _COSTS.items() if name in metrics}
        if costs:
            mlflow.log_figure(cost_figure(costs), "cost.png")
        mlflow.log_text(model_card(forecaster, dataset, metrics, verdict.reason), "model_card.md")
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
    registry.set_aliases(version, verdict, tracking_uri, registered_model, until=dataset.windows.end)
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

    Tiers of the 30 days by ``accuracy``, ``macro_f1`` (over the tiers that occur) and ``log_loss``; whether there is
    any read, for each horizon that is over, by ``brier_any_<days>`` and ``ece_any_<days>``, and without the days for
    30; expected reads by their sum over that of the reads seen.
    """
    distribution = forecaster.distribution(data_frame(holdout.values))
    truth = tier_codes(holdout.reads)
    measured = {
        **_agreement("", truth, distribution.recommendation.tier),
        "log_loss": float(log_loss(truth, _never_certain(distribution.tier_probabilities), labels=_CODES)),
    }
    for place, days in enumerate(HORIZONS):
        seen = holdout.horizon_reads[:, place]
        if not np.isfinite(seen).all():
            continue
        said = distribution.probability_any[:, place]
        measured |= {
            f"brier_any_{days}": float(np.mean((said - (seen > 0)) ** 2)),
            f"ece_any_{days}": calibration_error(seen > 0, said),
            f"reads_expected_per_read_seen_{days}": float(
                distribution.expected_reads[:, place].sum() / max(1.0, float(seen.sum()))
            ),
        }
    for name in ("brier_any", "ece_any", "reads_expected_per_read_seen"):
        measured[name] = measured[f"{name}_30"]
    return measured


def baselines(holdout: Frame) -> dict[str, float]:
    """Measure what needs no training on the same holdout.

    Persistence says that the next 30 days are as the last 30: the same tier, and a read if and only if there was one.
    Rules: the rule-based classifier's tiers, and reads as a Poisson process with the rate of the last 30 days.
    """
    truth, any_read = tier_codes(holdout.reads), holdout.reads > 0
    idle = np.where(holdout.column("never_read") > 0, np.inf, holdout.column("recency_days"))
    tiers = classify(holdout.previous_reads, idle).tiers
    rules = np.select([tiers == tier.value for tier in FORECAST_TIERS], _CODES)
    measured = _agreement("persistence_", truth, tier_codes(holdout.previous_reads)) | _agreement(
        "rules_", truth, rules
    )
    for name, said in (
        ("persistence", (holdout.previous_reads > 0).astype(np.float64)),
        ("rules", -np.expm1(-holdout.previous_reads)),
    ):
        measured[f"{name}_brier_any"] = float(np.mean((said - any_read) ** 2))
        measured[f"{name}_ece_any"] = calibration_error(any_read, said)
    return measured


def calibration_error(happened: NDArray[np.bool_], said: NDArray[np.float64], bins: int = 10) -> float:
    """Give the expected calibration error: in bins of equal width, how far what was said is from what happened.

    Bins weigh as much as they hold (Guo et al., 2017). Both arrays have shape (n,); 0 when they are empty.
    """
    place = np.minimum((said * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=said - happened, minlength=bins)
    return float(np.abs(gap).sum() / max(1, len(said)))


def fit_usage(
    lake: LakeReader, dataset: Dataset, *, shards: int, most: int = MOST_TRANSITIONS, seed: int = 20
) -> UsageStates:
    """Fit the states of use and the chain between them, on the days before ``dataset.windows.holdout`` only.

    most : days of objects to learn from, divided over the shards by their objects. One shard's history is in memory at
        a time.
    Raises ``TooLittleHistory`` when no object has been followed for as long as the longest label.
    """
    start, end = usage_start(dataset), dataset.windows.holdout
    days, parts = (end - start).days, []
    for shard in range(shards):
        history = read_history(lake, shard, start, end, dataset.inventory_day)
        reads = history.daily_reads(end)
        objects = int((reads.created < days).sum())
        share = round(most * objects / max(1, dataset.objects))
        parts.append(sample_transitions(reads, end=days, most=share, seed=seed + shard))
    transitions = join_transitions(parts)
    if not np.isfinite(transitions.labels).all(axis=1).any():
        raise TooLittleHistory(f"no object is known for long enough on the {days} days from {start} to {end}")
    return fit_usage_states(transitions, random_state=seed)


def holdout_backtest(
    lake: LakeReader, dataset: Dataset, *, shards: int, prices: Mapping[Bucket, BucketPrices]
) -> HoldoutBacktest | None:
    """Read what the backtest of the holdout's window charges; None without prices, an inventory, or objects of theirs.

    It is read once for all, so that challenger, champion and rivals are charged for the same objects, days and prices.
    """
    sample = sample_holdout(lake, dataset, shards=shards) if prices else None
    return None if sample is None else HoldoutBacktest.of(sample, prices)


def backtest_cost(forecaster: AccessForecaster, window: HoldoutBacktest | None) -> float | None:
    """Give what placement by this forecaster's usage chain would have cost on the holdout's window, in USD.

    None: there is nothing to measure it on, or the forecaster has no usage chain.
    """
    return None if window is None or forecaster.usage_ is None else window.usage_usd(forecaster.usage_)


def cost_figures(cost: float | None, rivals: Mapping[str, float]) -> dict[str, float]:
    """Give the cost as a metric and, where the optimum's is known, the regret: cost divided by the optimum's."""
    if cost is None:
        return {}
    optimum = rivals.get("optimum", 0.0)
    return {registry.COST: cost} | ({REGRET: cost / optimum} if optimum > 0 else {})


def calibration_figure(forecaster: AccessForecaster, holdout: Frame) -> Figure:
    """Draw for each horizon how often objects were read, against how probable a read was said to be."""
    distribution = forecaster.distribution(data_frame(holdout.values))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for place, days in enumerate(HORIZONS):
        seen = holdout.horizon_reads[:, place]
        if np.isfinite(seen).all():
            share, mean = calibration_curve(seen > 0, distribution.probability_any[:, place], n_bins=10)
            axes.plot(mean, share, marker="o", label=f"{days} days")
    axes.legend()
    axes.set(xlabel="probability of a read, as forecast", ylabel="share of objects read", title="Calibration")
    return figure


def cost_figure(costs: Mapping[str, float]) -> Figure:
    """Draw what each policy would have cost on the holdout's window, in USD."""
    figure = Figure(figsize=(5, 1 + 0.5 * len(costs)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(costs), list(costs.values()))
    axes.invert_yaxis()
    axes.set(xlabel="USD", title="Cost of the holdout's window")
    return figure


def confusion_figure(forecaster: AccessForecaster, holdout: Frame) -> Figure:
    """Draw the objects by true and recommended tier."""
    forecast = forecaster.recommend_tier(data_frame(holdout.values)).tier
    counts = confusion_matrix(tier_codes(holdout.reads), forecast, labels=_CODES)
    names = [str(tier) for tier in FORECAST_TIERS]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.log1p(counts), cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count:,}", ha="center", va="center")
    axes.set(xlabel="recommended tier", ylabel="tier of the reads seen", title="Objects of the holdout")
    axes.set_xticks(_CODES, names)
    axes.set_yticks(_CODES, names)
    return figure


def _never_certain(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep a tier that was never seen from costing an infinite log loss. Rows sum to 1."""
    kept: NDArray[np.float64] = 0.999 * probabilities + 0.001 / probabilities.shape[1]
    return kept


def _agreement(prefix: str, truth: NDArray[Any], forecast: NDArray[Any]) -> dict[str, float]:
    occurring = np.unique(truth)  # the same tiers for the model and the baselines
    macro_f1 = f1_score(truth, forecast, labels=occurring, average="macro", zero_division=0)
    return {f"{prefix}accuracy": float(accuracy_score(truth, forecast)), f"{prefix}macro_f1": float(macro_f1)}


def _parameters(forecaster: AccessForecaster, dataset: Dataset, window: HoldoutBacktest | None) -> dict[str, Any]:
    windows = dataset.windows
    learnt = [str(days) for days, known in zip(HORIZONS, forecaster.learnt_, strict=True) if known]
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
        "usage_states": 0 if forecaster.usage_ is None else len(forecaster.usage_.seen_),
        "usage_rows": 0 if forecaster.usage_ is None else int(forecaster.usage_.seen_.sum()),
        "backtest_objects": 0 if window is None else window.objects,
        "backtest_price_books": "" if window is None else " ".join(window.book_names),
        "learnt_horizons": " ".join(learnt),
        "tier_thresholds": " ".join(f"{value:.2f}" for value in forecaster.tier_thresholds_),
        "calibration": " ".join(f"{slope:.2f}x{shift:+.2f}" for slope, shift in forecaster.calibration_),
    }
