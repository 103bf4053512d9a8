"""Which registered version is champion. Apart from `registry`, whose libraries take seconds to import."""

from __future__ import annotations

from typing import Final

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cloudflux.domain.errors import TransientError

REGISTERED_MODEL: Final = "access-forecaster"
CHAMPION: Final = "champion"
"""The alias of the version that scores."""


def champion_version(tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> str | None:
    """Tell which version is champion, or None. Raises ``TransientError`` when MLflow does not answer."""
    try:
        return str(MlflowClient(tracking_uri).get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as exc:
        if exc.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:  # no such model, no such alias
            return None
        raise TransientError(f"MLflow does not tell the champion of {name}: {exc}") from exc
