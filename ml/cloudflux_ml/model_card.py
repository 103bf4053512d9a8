"""The model card of one training: what was learnt of which data, and how good it is against the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cloudflux_ml.dataset import Dataset
from cloudflux_ml.features import HORIZONS
from cloudflux_ml.model import AccessForecaster

_COMPARED: Final = (
    ("accuracy", "accuracy of the tiers"),
    ("macro_f1", "macro-F1 of the tiers"),
    ("brier_any", "Brier score, any read in 30 days"),
    ("ece_any", "calibration error, any read in 30 days"),
    ("backtest_cost_usd", "backtest cost, USD"),
    ("backtest_regret", "backtest regret"),
)
_AGAINST: Final = (
    ("", "this version"),
    ("champion_", "champion"),
    ("persistence_", "persistence"),
    ("rules_", "rules"),
)
_RIVALS_COST: Final = MappingProxyType(
    {
        ("persistence_", "backtest_cost_usd"): "backtest_persistence_usd",
        ("rules_", "backtest_cost_usd"): "backtest_rules_usd",
    }
)


def model_card(forecaster: AccessForecaster, dataset: Dataset, metrics: Mapping[str, float], reason: str) -> str:
    """Write the card as Markdown.

    metrics : on the holdout, with the prefixes ``champion_``, ``persistence_`` and ``rules_`` for the others'.
    reason : why the version is champion or only challenger.
    """
    windows = dataset.windows
    shown = [
        (prefix, title) for prefix, title in _AGAINST if any(f"{prefix}{name}" in metrics for name, _ in _COMPARED)
    ]
    lines = [
        "# Access forecaster: this version",
        "",
        f"Verdict: {reason}.",
        "",
        "## Data",
        "",
        f"- Daily access from {dataset.first_day} to the day before {windows.end}; {dataset.objects:,} objects.",
        f"- {len(windows.cutoffs)} training cutoffs, {windows.cutoffs[0]} to {windows.cutoffs[-1]}: "
        f"{len(dataset.train):,} rows of {dataset.train_rows_found:,}. Every label ends before {windows.holdout}.",
        f"- Holdout: the {windows.label_days} days from {windows.holdout} on: {len(dataset.holdout):,} rows of "
        f"{dataset.holdout_rows_found:,}.",
        f"- Fingerprint: `{dataset.fingerprint}`.",
        f"- Learnt horizons: {_days(forecaster, True) or 'none'} days; derived from shorter ones: "
        f"{_days(forecaster, False) or 'none'}.",
        "",
        "## On the holdout",
        "",
        "| | " + " | ".join(title for _, title in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name, words in _COMPARED:
        figures = [metrics.get(_RIVALS_COST.get((prefix, name), f"{prefix}{name}")) for prefix, _ in shown]
        if any(figure is not None for figure in figures):
            cells = " | ".join("" if figure is None else f"{figure:.4f}" for figure in figures)
            lines.append(f"| {words} | {cells} |")
    if "backtest_optimum_usd" in metrics:
        lines += [
            "",
            "On the same objects, prices and days, leaving everything in the standard class would have cost "
            f"{metrics['backtest_stay_usd']:.4f} USD, the clairvoyant optimum {metrics['backtest_optimum_usd']:.4f}.",
        ]
    lines += ["", "| horizon | Brier | calibration error | reads expected for each seen |", "|---|---|---|---|"]
    for days in HORIZONS:
        if f"brier_any_{days}" in metrics:
            lines.append(
                f"| {days} days | {metrics[f'brier_any_{days}']:.4f} | {metrics[f'ece_any_{days}']:.4f} | "
                f"{metrics[f'reads_expected_per_read_seen_{days}']:.2f} |"
            )
    lines += [
        "",
        "What the forecaster is, what it must not be used for and where it is weak stands in `ml/MODEL_CARD.md` and "
        "`docs/forecaster.md` of the project.",
        "",
    ]
    return "\n".join(lines)


def _days(forecaster: AccessForecaster, learnt: bool) -> str:
    return ", ".join(
        f"{days}" for days, known in zip(HORIZONS, forecaster.learnt_, strict=True) if bool(known) is learnt
    )
