"""Explain one object with what this process is set to: its lake, its database, its model registry.

For the command line and the plugin. Nothing here imports Airflow, and what is heavy is imported inside the functions.
"""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudflux.config import Estate, Settings
    from cloudflux.domain.prices import PriceBook
    from cloudflux.workflows.explanation import Explanation
    from cloudflux.workflows.placements import Placements
    from cloudflux_ml.stored_model import ChampionFound

_CONTENT_TYPES_SINCE: Final = timedelta(days=180)
_PROBE_SECONDS: Final = 5.0
_one_at_a_time = (
    threading.Lock()
)  # a shard's forecast takes memory: a page that is asked for often must not multiply it


def explain(uri: str, current: Settings | None = None) -> Explanation:
    """Explain the object at an address, as of now, with the settings given or else those of the environment.

    Without a model registry, or when it is away, the rules forecast, and the explanation says so. Raises what
    ``explain_object`` raises, ``SettingsError``, and ``TransientError`` when the database is away.
    """
    from cloudflux.config import load_settings
    from cloudflux.domain.policy import PolicySettings
    from cloudflux.lake.partitions import Lake
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.stores.engine import make_engine
    from cloudflux.stores.staging import Staging
    from cloudflux.workflows.coverage import recent
    from cloudflux.workflows.explain import explain_object, parse_address

    ref = parse_address(uri)
    current = current or load_settings()
    estate = current.load_estate()
    now = datetime.now(UTC)
    engine = make_engine(current.database_url)
    try:
        coverage = recent(CoverageLog(engine), estate, now.date())
        content_types = Staging(engine).content_types(now - _CONTENT_TYPES_SINCE)
    finally:
        engine.dispose()
    from cloudflux_ml.score import forecast_objects

    found = find_champion(current.registered_model, current)
    with _one_at_a_time, _lake_problems_named():
        return explain_object(
            ref,
            day=now.date(),
            lake=Lake(current.lake_url, current.shards),
            shards=current.shards,
            forecast=partial(
                forecast_objects,
                champion=found.champion,
                lookback_days=current.history_days,
                content_types=content_types,
            ),
            estate=estate,
            books=_books(estate),
            policy=PolicySettings(horizon_days=current.horizon_days),
            history_days=current.history_days,
            coverage=coverage,
            placements=_placements(current.lake_url, current.shards),
            why_rules=None if found.champion is not None else found.reason,
        )


@contextmanager
def _lake_problems_named() -> Iterator[None]:
    """Raise ``TransientError`` for what the lake's file system says; our own errors, some of them OS errors, pass."""
    from cloudflux.domain.errors import CloudFluxError, TransientError

    try:
        yield
    except CloudFluxError:
        raise
    except OSError as exc:  # also a partition that is swapped while it is read
        raise TransientError(f"the lake of CLOUDFLUX_LAKE_URL cannot be read, try again: {exc}") from exc


def find_champion(registered_model: str, current: Settings | None = None) -> ChampionFound:
    """Load the model that scores; when there is none, or MLflow is away, say why instead.

    current : where the lake is, which keeps the file of the version that has scored; MLflow then has to say no more
        than which version that is.
    """
    from cloudflux.domain.errors import TransientError
    from cloudflux_ml.stored_model import ChampionFound

    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking_uri:
        # MLflow would make a registry of its own in the working directory
        return ChampionFound(None, "MLFLOW_TRACKING_URI names no model registry")
    if not _answers(tracking_uri):
        return ChampionFound(None, "MLflow does not answer")
    found = None if current is None else _kept_champion(tracking_uri, registered_model, current)
    if found is not None:
        return found
    from cloudflux_ml.registry import load_champion

    try:
        return load_champion(name=registered_model)
    except TransientError as exc:
        return ChampionFound(None, str(exc))


def _kept_champion(tracking_uri: str, registered_model: str, current: Settings) -> ChampionFound | None:
    """Load the champion from the lake; None when it takes MLflow's client to find or to load it."""
    from cloudflux.orchestration.kept_models import NotKept, kept_champion
    from cloudflux_ml.registry_rest import NotPlain, champion_id
    from cloudflux_ml.stored_model import ChampionFound

    try:
        version = champion_id(tracking_uri, registered_model, seconds=_PROBE_SECONDS)
        if version is None:
            return ChampionFound(None, f"no version of {registered_model} is champion yet")
        with _lake_problems_named():
            kept = kept_champion(current.lake_url, current.shards, version.version, version.artefact)
    except (NotPlain, NotKept):
        return None
    return ChampionFound(kept, f"version {version.version} is champion")


def _answers(tracking_uri: str) -> bool:
    """Tell whether a server is there: MLflow's own client tries for minutes."""
    if not tracking_uri.startswith(("http://", "https://")):
        return True
    try:
        with urllib.request.urlopen(f"{tracking_uri.rstrip('/')}/health", timeout=_PROBE_SECONDS):  # noqa: S310  # http
            return True
    except urllib.error.HTTPError:
        return True  # somebody answers, if only to ask who we are
    except (OSError, ValueError):
        return False


def _books(estate: Estate) -> Mapping[str, PriceBook]:
    from cloudflux.orchestration.estate_books import books_of

    return books_of(estate)


@cache
def _placements(lake_url: str, shards: int) -> Placements:
    """Give the tables known so far in this process: scoring leaves those that it solved in the lake.

    What nobody has solved yet takes seconds, and is not written: who asks for an explanation changes nothing.
    """
    from cloudflux.lake.partitions import Lake
    from cloudflux.workflows.placements import Placements

    return Placements(Lake(lake_url, shards), keeps=False)
