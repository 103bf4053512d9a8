"""Ask MLflow's server over HTTP which version is champion, without MLflow's client and its seconds of imports.

Only the one request that explaining an object needs, and only where it is plain: whatever else the answer or the
environment asks for (a login, a certificate of one's own) is the client's business.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from cloudflux_ml.model_versions import ABSENT, CHAMPION, ModelVersionId

_CLIENTS_OWN: Final = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_REGISTRY_URI",
)
_LONGEST_ANSWER: Final = 1 << 20


class NotPlain(Exception):
    """The server, or what this process is set to, asks for MLflow's own client."""


def champion_id(tracking_uri: str, name: str, *, seconds: float = 5.0) -> ModelVersionId | None:
    """Tell which version is champion, or None when none is. Raises ``NotPlain`` when it cannot be told this way.

    The request is that of MLflow's REST API, "Get ModelVersion By Alias" (api/2.0/mlflow/registered-models/alias).
    """
    if not tracking_uri.startswith(("http://", "https://")) or any(os.environ.get(set_) for set_ in _CLIENTS_OWN):
        raise NotPlain(f"{tracking_uri} is asked with more than an address")
    query = urllib.parse.urlencode({"name": name, "alias": CHAMPION})
    url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}"
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  # http, as checked above
            told = json.loads(answer.read(_LONGEST_ANSWER))
        return _id_of(told["model_version"])
    except urllib.error.HTTPError as exc:
        with exc:
            if _error_code(exc) in ABSENT:
                return None
        raise NotPlain(f"{tracking_uri} answers {exc.code}") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise NotPlain(f"{tracking_uri} does not answer as MLflow does: {exc!r}") from exc


def _id_of(told: dict[str, Any]) -> ModelVersionId:
    return ModelVersionId(
        name=str(told["name"]),
        version=str(told["version"]),
        source=str(told.get("source") or ""),
        run_id=str(told.get("run_id") or ""),
        created=str(told["creation_timestamp"]),
    )


def _error_code(error: urllib.error.HTTPError) -> str | None:
    try:
        told = json.loads(error.read(_LONGEST_ANSWER))
    except (OSError, ValueError):
        return None
    return str(told["error_code"]) if isinstance(told, dict) and "error_code" in told else None
