"""The forecaster's file in the lake: put there once for a run, read by its shards and by whoever explains a decision.

MLflow's client takes seconds to import and its server hands out one file after another; the lake is at hand anyway.
"""

from __future__ import annotations

import io
import logging
import zipfile
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudflux.lake.partitions import Lake
    from cloudflux_ml.model_versions import ModelVersionId
    from cloudflux_ml.stored_model import Champion

_log = logging.getLogger(__name__)


class NotKept(LookupError):
    """The lake does not have the version's file."""


def keep_version(lake: Lake, found: ModelVersionId) -> None:
    """Put a version's file into the lake unless it is there, whole. Raises ``ModelUnfit`` or ``TransientError``."""
    from cloudflux_ml.stored_model import KIND

    content = lake.artefact(KIND, found.artefact)
    if content is None or not zipfile.is_zipfile(io.BytesIO(content)):
        from cloudflux_ml.registry import version_bytes

        lake.keep_artefact(KIND, found.artefact, version_bytes(found.version, name=found.name))


@lru_cache(maxsize=4)
def kept_champion(lake_url: str, shards: int, version: str, artefact: str) -> Champion:
    """Load a version from the lake; kept for the process's life.

    Raises ``NotKept`` when it is not there or cannot be read, and says the reason in the log.
    """
    from cloudflux.lake.partitions import Lake
    from cloudflux_ml.stored_model import KIND, Champion, ModelUnfit, load_bytes

    content = Lake(lake_url, shards).artefact(KIND, artefact)
    if content is None:
        raise NotKept(f"the lake does not keep version {version}")
    try:
        return Champion(version, load_bytes(content, f"version {version} in the lake"))
    except ModelUnfit as exc:
        _log.warning("%s; it is asked of MLflow", exc)
        raise NotKept(str(exc)) from exc
