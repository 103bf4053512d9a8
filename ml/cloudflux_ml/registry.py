"""The registered forecaster in MLflow: who is champion, and loading it with our own list of trusted types."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cloudflux.domain.errors import TransientError
from cloudflux_ml.champion import CHALLENGER, REGISTERED_MODEL, UNTIL_TAG, champion_version
from cloudflux_ml.model_versions import CHAMPION
from cloudflux_ml.stored_model import TRUSTED_TYPES, Champion, ChampionFound, ModelUnfit, load_folder, model_file

__all__ = ["TRUSTED_TYPES", "Champion", "ChampionFound", "ModelUnfit", "load_folder"]

COST: Final = "backtest_cost_usd"
TOLERANCES: Final = MappingProxyType(
    {
        # relative, absolute
        COST: (0.02, 0.0),  # another sample of the same days makes one percent, on a small trace up to five
        "log_loss": (0.0, 0.001),  # of the tiers: less than a seed makes
        "brier_any": (0.0, 0.001),
        "ece_any": (0.0, 0.01),  # of a few thousand rows, half of that is chance
    }
)
"""How much worse a challenger's figures may be and still count as no worse; lower is better in each."""
_WORDS: Final = MappingProxyType(
    {
        COST: "backtest cost in USD",
        "log_loss": "log loss of the tiers",
        "brier_any": "Brier score of any read in 30 days",
        "ece_any": "calibration error of any read in 30 days",
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger becomes champion, and why."""

    promoted: bool
    reason: str


def judge(challenger: Mapping[str, float], champion: Mapping[str, float] | None) -> Verdict:
    """Promote a challenger that is no worse than the standing champion on the same holdout, in cost and calibration.

    Both are metrics; ``champion`` is None when none stands or it can no longer be used. Compared are those of
    ``TOLERANCES``; a figure that is not finite counts as none. What the champion has and the challenger lacks keeps the
    challenger back, as does having nothing to compare. The reason names each that is worse or lacking, else all.
    """
    figures = {name: challenger[name] for name in TOLERANCES if math.isfinite(challenger.get(name, math.nan))}
    if champion is None:
        said = ", ".join(_figure(name, value) for name, value in figures.items()) or "nothing was measured"
        return Verdict(True, f"no standing champion to compare with; {said}")
    against: list[str] = []
    no_worse: list[str] = []
    for name, (relative, absolute) in TOLERANCES.items():
        new, old = figures.get(name), champion.get(name, math.nan)
        if not math.isfinite(old):
            if new is not None:
                no_worse.append(f"{_figure(name, new)}, which the champion lacks")
        elif new is None:
            against.append(f"no {_WORDS[name]}, the champion's is {_figure(None, old)}")
        else:
            tolerance = relative * abs(old) + absolute
            said = f"{_figure(name, new)} against {_figure(None, old)} (+{tolerance:.2g})"
            (no_worse if new <= old + tolerance else against).append(said)
    if against:
        return Verdict(False, f"worse than the standing champion: {'; '.join(against)}")
    if not no_worse:
        return Verdict(False, "no figure to compare with the standing champion: nothing was measured")
    return Verdict(True, f"no worse than the standing champion: {'; '.join(no_worse)}")


def _figure(name: str | None, value: float) -> str:
    return f"{value:.4f}" if name is None else f"{_WORDS[name]} {value:.4f}"


def load_champion(tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> ChampionFound:
    """Load the champion, once per process and version; without a usable one, give the reason.

    Raises ``TransientError`` when MLflow does not answer.
    """
    version = champion_version(tracking_uri, name)
    if version is None:
        return ChampionFound(None, f"no version of {name} is champion yet")
    try:
        return ChampionFound(load_version(version, tracking_uri, name), f"version {version} is champion")
    except ModelUnfit as exc:
        return ChampionFound(None, str(exc))


@lru_cache(maxsize=4)
def load_version(version: str, tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> Champion:
    """Load one registered version; kept for the process's life.

    Raises ``ModelUnfit`` when it is not a skops file of the trusted types or was made for other features, and
    ``TransientError`` when MLflow does not hand it out.
    """
    what = f"version {version} of {name}"
    with _downloaded(version, tracking_uri, name) as folder:
        return Champion(str(version), load_folder(folder, what))


def version_bytes(version: str, tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> bytes:
    """Give the file of one registered version, for ``stored_model.load_bytes``. Raises as ``load_version`` does."""
    with _downloaded(version, tracking_uri, name) as folder:
        return model_file(folder, f"version {version} of {name}").read_bytes()


@contextmanager
def _downloaded(version: str, tracking_uri: str | None, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            uri = MlflowClient(tracking_uri).get_model_version_download_uri(name, version)
            folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=tracking_uri)
        except (MlflowException, OSError) as exc:
            raise TransientError(f"MLflow does not hand out version {version} of {name}: {exc}") from exc
        yield Path(folder)


def set_aliases(
    version: str, verdict: Verdict, tracking_uri: str | None = None, name: str = REGISTERED_MODEL, *, until: date
) -> None:
    """Make a version the challenger, and the champion when the verdict says so; tag it with the reason.

    until : the day before which its training data ends.
    """
    client = MlflowClient(tracking_uri)
    client.set_model_version_tag(name, version, UNTIL_TAG, str(until))
    client.set_registered_model_alias(name, CHALLENGER, version)
    client.set_model_version_tag(name, version, "cloudflux.promoted", str(verdict.promoted).lower())
    client.set_model_version_tag(name, version, "cloudflux.reason", verdict.reason)
    if verdict.promoted:
        client.set_registered_model_alias(name, CHAMPION, version)
