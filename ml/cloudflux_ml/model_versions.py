"""What tells one registered version of a model from another. Imports nothing that takes long."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import Final

CHAMPION: Final = "champion"
"""The alias of the version that scores."""
ABSENT: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""What MLflow answers when there is no such model, or no such alias."""


@dataclass(frozen=True, slots=True)
class ModelVersionId:
    """One registered version, told apart from the same number of a registry that was set up anew."""

    name: str
    version: str
    source: str
    run_id: str
    created: str
    """When it was registered, in milliseconds since 1970."""

    @property
    def artefact(self) -> str:
        """The name under which the lake keeps its file."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:40]
