"""The registered forecaster in MLflow: who is champion, and loading it with our own list of trusted types."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import mlflow
import skops.io
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from skops.io.exceptions import UntrustedTypesFoundException

from cloudflux.domain.errors import CloudFluxError, TransientError
from cloudflux_ml.champion import CHALLENGER, CHAMPION, REGISTERED_MODEL, UNTIL_TAG, champion_version
from cloudflux_ml.features import FEATURE_NAMES
from cloudflux_ml.model import AccessForecaster
from cloudflux_ml.usage import USAGE_FEATURES, UsageStates

TRUSTED_TYPES: Final = (
    "cloudflux_ml.model.AccessForecaster",
    "cloudflux_ml.usage.UsageStates",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""The only types beside scikit-learn's and numpy's plain ones that a stored model may bring to life.

MLflow's own loader takes this list from the stored model, so that a forged one could name whatever it likes.
"""
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


class ModelUnfit(CloudFluxError):
    """A registered version that cannot be used; the text says why. Scoring goes on with the rules."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that scores."""

    version: str
    forecaster: AccessForecaster

    @property
    def source(self) -> str:
        """How a forecast names it."""
        return f"model:{self.version}"


@dataclass(frozen=True, slots=True)
class ChampionFound:
    """The champion, or the reason why there is none."""

    champion: Champion | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger becomes champion, and why."""

    promoted: bool
    reason: str


def judge(challenger: Mapping[str, float], champion: Mapping[str, float] | None) -> Verdict:
    """Promote a challenger that is no worse than the standing champion on the same holdout, in cost and calibration.

    Both are metrics; ``champion`` is None when none stands or it can no longer be used. Compared are those of
    ``TOLERANCES`` that both have. The reason names each that is worse, else all.
    """
    if champion is None:
        figures = ", ".join(_figure(name, challenger[name]) for name in TOLERANCES if name in challenger)
        return Verdict(True, f"no standing champion to compare with; {figures}")
    worse: list[str] = []
    no_worse: list[str] = []
    for name, (relative, absolute) in TOLERANCES.items():
        if name not in challenger or name not in champion:
            continue
        new, old = challenger[name], champion[name]
        tolerance = relative * abs(old) + absolute
        said = f"{_figure(name, new)} against {_figure(None, old)} (+{tolerance:.2g})"
        (no_worse if new <= old + tolerance else worse).append(said)
    if worse:
        return Verdict(False, f"worse than the standing champion: {'; '.join(worse)}")
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
    with tempfile.TemporaryDirectory() as scratch:
        try:
            uri = MlflowClient(tracking_uri).get_model_version_download_uri(name, version)
            folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=tracking_uri)
        except (MlflowException, OSError) as exc:
            raise TransientError(f"MLflow does not hand out {what}: {exc}") from exc
        return Champion(str(version), load_folder(Path(folder), what))


def load_folder(folder: Path, what: str) -> AccessForecaster:
    """Load a model that MLflow's scikit-learn flavour saved, trusting our list of types only.

    Raises ``ModelUnfit`` with ``what`` and the reason.
    """
    flavor: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"].get("sklearn")
    if not flavor or flavor.get("serialization_format") != "skops":
        raise ModelUnfit(f"{what} is not saved with skops and is not loaded")
    try:
        forecaster = skops.io.load(folder / flavor["pickled_model"], trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as exc:
        raise ModelUnfit(f"{what} holds types that are not trusted: {exc}") from exc
    except (AttributeError, KeyError, TypeError, ValueError, ImportError, OSError, zipfile.BadZipFile) as exc:
        # what skops raises for a damaged file, or one that another release of scikit-learn wrote
        raise ModelUnfit(f"{what} cannot be read: {exc!r}") from exc
    if not isinstance(forecaster, AccessForecaster):
        raise ModelUnfit(f"{what} is a {type(forecaster).__name__}, no AccessForecaster")
    if tuple(getattr(forecaster, "feature_names_in_", ())) != FEATURE_NAMES:
        raise ModelUnfit(f"{what} was made for other features than this release computes")
    # versions of before there was a usage chain do not even have the attribute
    forecaster.usage_ = getattr(forecaster, "usage_", None)
    if forecaster.usage_ is not None:
        _require_sound_usage(forecaster.usage_, what)
    return forecaster


def _require_sound_usage(usage: object, what: str) -> None:
    """Raise ``ModelUnfit`` when the usage chain saved along is none, or not one for the features of this release."""
    if not isinstance(usage, UsageStates):
        raise ModelUnfit(f"{what} holds a {type(usage).__name__} for its usage chain, no UsageStates")
    if getattr(usage, "n_features_in_", None) != len(USAGE_FEATURES):
        raise ModelUnfit(f"{what} has a usage chain for other features than this release computes")
    try:
        usage.require_sound()
    except (AttributeError, ValueError) as exc:
        raise ModelUnfit(f"{what} has a damaged usage chain: {exc}") from exc


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
