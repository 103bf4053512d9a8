"""A stored forecaster, and bringing it to life with our own list of trusted types.

Nothing here needs MLflow, whose libraries take longer to import than a shard of a small bucket takes to score.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import skops.io
import yaml
from skops.io.exceptions import UntrustedTypesFoundException

from cloudflux.domain.errors import CloudFluxError
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
KIND: Final = "models"
"""Where the lake keeps the files of versions that score."""


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


def model_file(folder: Path, what: str) -> Path:
    """Name the file of a model that MLflow's scikit-learn flavour saved with skops. Raises ``ModelUnfit``."""
    flavor: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"].get("sklearn")
    if not flavor or flavor.get("serialization_format") != "skops":
        raise ModelUnfit(f"{what} is not saved with skops and is not loaded")
    return folder / str(flavor["pickled_model"])


def load_folder(folder: Path, what: str) -> AccessForecaster:
    """Load a model that MLflow's scikit-learn flavour saved, trusting our list of types only.

    Raises ``ModelUnfit`` with ``what`` and the reason.
    """
    file = model_file(folder, what)
    return _sound(lambda: skops.io.load(file, trusted=list(TRUSTED_TYPES)), what)


def load_bytes(content: bytes, what: str) -> AccessForecaster:
    """Load a model from the bytes of its file, as ``load_folder`` does."""
    return _sound(lambda: skops.io.loads(content, trusted=list(TRUSTED_TYPES)), what)


def _sound(load: Callable[[], Any], what: str) -> AccessForecaster:
    try:
        forecaster = load()
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
