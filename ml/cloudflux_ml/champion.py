"""Which registered version is champion. Apart from `registry`, whose libraries take seconds to import."""

from __future__ import annotations

from datetime import date
from typing import Final

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cloudflux.domain.errors import TransientError
from cloudflux_ml.model_versions import ABSENT, CHAMPION, ModelVersionId

REGISTERED_MODEL: Final = "access-forecaster"
CHALLENGER: Final = "challenger"
"""The alias of the newest version."""
UNTIL_TAG: Final = "cloudflux.until"
"""The tag of a version that says up to which day (exclusive) its training looked."""


def trained_until(tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> date | None:
    """Tell up to which day the newest version's training looked, or None when there is none or it does not say.

    Raises ``TransientError`` when MLflow does not answer.
    """
    try:
        newest = MlflowClient(tracking_uri).get_model_version_by_alias(name, CHALLENGER)
    except MlflowException as exc:
        if exc.error_code in ABSENT:
            return None
        raise TransientError(f"MLflow does not tell the newest version of {name}: {exc}") from exc
    until = newest.tags.get(UNTIL_TAG)
    return date.fromisoformat(until) if until else None


def champion_version(tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> str | None:
    """Tell which version is champion, or None. Raises ``TransientError`` when MLflow does not answer."""
    found = champion_id(tracking_uri, name)
    return None if found is None else found.version


def champion_id(tracking_uri: str | None = None, name: str = REGISTERED_MODEL) -> ModelVersionId | None:
    """Tell which version is champion, and what tells it apart, or None. Raises as ``champion_version`` does."""
    try:
        found = MlflowClient(tracking_uri).get_model_version_by_alias(name, CHAMPION)
        return ModelVersionId(
            name=str(found.name),
            version=str(found.version),
            source=str(found.source or ""),
            run_id=str(found.run_id or ""),
            created=str(found.creation_timestamp),
        )
    except MlflowException as exc:
        if exc.error_code in ABSENT:
            return None
        raise TransientError(f"MLflow does not tell the champion of {name}: {exc}") from exc
