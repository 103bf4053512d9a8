"""The tasks of `score_objects`: shards, scoring of one shard, publication, drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from cloudflux.orchestration.edge import (
    audit,
    batch_of_run,
    day_of_run,
    engine,
    lake,
    now,
    recent_content_types,
    settings,
    terminal_errors_fail,
)

if TYPE_CHECKING:
    from cloudflux.config import Settings
    from cloudflux_ml.stored_model import Champion

_KEEP_ARTEFACTS: Final = timedelta(days=30)
"""How long models and solved placement tables stay in the lake; what is still used is made once more then."""


@terminal_errors_fail
def find_shards() -> list[dict[str, Any]]:
    """Name the shards, with the one version of the forecaster that scores them all; its file goes to the lake."""
    from cloudflux.orchestration.kept_models import keep_version
    from cloudflux_ml.champion import champion_id
    from cloudflux_ml.stored_model import ModelUnfit

    current = settings()
    found = champion_id(name=current.registered_model)
    if found is not None:
        try:
            keep_version(lake(), found)
        except ModelUnfit as exc:
            print(exc)  # noqa: T201  # the task's log; the shards ask the registry, and say the same
    model = (None, None) if found is None else (found.version, found.artefact)
    return [{"shard": shard, "model_version": model[0], "model_artefact": model[1]} for shard in range(current.shards)]


@terminal_errors_fail
def score_shard(shard: int, model_version: str | None, model_artefact: str | None = None) -> dict[str, Any]:
    """Forecast and decide for every object of one shard.

    model_artefact : the name under which the lake keeps the version's file; without it MLflow is asked.
    """
    from functools import partial

    from cloudflux.domain.policy import PolicySettings
    from cloudflux.orchestration.estate_books import books_of
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.stores.slots import only_one
    from cloudflux.workflows import score as workflow
    from cloudflux.workflows.coverage import recent
    from cloudflux.workflows.placements import Placements
    from cloudflux_ml.score import forecast_objects
    from cloudflux_ml.stored_model import ModelUnfit

    current = settings()
    estate = current.load_estate()
    champion: Champion | None = None
    if model_version is None:
        print("no version is champion: the rules speak")  # noqa: T201  # the task's log
    else:
        try:
            champion = _champion(model_version, model_artefact, current)
        except ModelUnfit as exc:
            print(f"the rules speak: {exc}")  # noqa: T201  # the task's log
    coverage = recent(CoverageLog(engine()), estate, day_of_run())
    placements = Placements(lake(), only_one=partial(only_one, engine()))
    for bucket in estate.buckets:
        withheld = coverage[str(bucket.provider), bucket.bucket].withheld(bucket.min_coverage)
        if withheld:
            print(f"{bucket.provider}:{bucket.bucket} is {withheld}")  # noqa: T201  # the task's log
    scored = workflow.score_shard(
        day=day_of_run(),
        shard=shard,
        batch=batch_of_run(),
        lake=lake(),
        forecast=partial(
            forecast_objects,
            champion=champion,
            lookback_days=current.history_days,
            content_types=recent_content_types(),
        ),
        estate=estate,
        books=books_of(estate),
        policy=PolicySettings(horizon_days=current.horizon_days),
        history_days=current.history_days,
        coverage=coverage,
        placements=placements,
    )
    return {
        "shard": shard,
        "objects": scored.objects,
        "moves": scored.moves,
        "from_rules": scored.from_rules,
        "withheld": scored.withheld,
        "placed": scored.placed,
        "refuted": scored.refuted,
        "model_version": champion.version if champion else None,
        "tables_solved": placements.solved,
        "tables_read": placements.read,
        "feature_counts": None if scored.feature_counts is None else scored.feature_counts.tolist(),
    }


def _champion(version: str, artefact: str | None, current: Settings) -> Champion:
    """Load the version that scores: from the lake, or else from MLflow. Raises ``ModelUnfit`` or ``TransientError``."""
    from cloudflux.orchestration.kept_models import NotKept, kept_champion

    if artefact is not None:
        try:
            return kept_champion(current.lake_url, current.shards, version, artefact)
        except NotKept as exc:
            print(exc)  # noqa: T201  # the task's log
    from cloudflux_ml.registry import load_version

    return load_version(version, name=current.registered_model)


@terminal_errors_fail
def publish_decisions() -> dict[str, Any]:
    """Audit all shards' decisions together and publish them."""
    from cloudflux.domain.bucket_autopilots import proposed
    from cloudflux.workflows import placement_files
    from cloudflux.workflows import score as workflow
    from cloudflux.workflows.bucket_autopilots import autopilot_proposals
    from cloudflux_ml import stored_model

    totals = workflow.audit_and_publish(batch=batch_of_run(), day=day_of_run(), lake=lake(), audit=audit)
    for kind in (placement_files.KIND, stored_model.KIND):
        lake().prune_artefacts(kind, now() - _KEEP_ARTEFACTS)
    autopilots = [one.described() for one in proposed(autopilot_proposals(lake(), day_of_run()))]
    for line in autopilots:
        print(line)  # noqa: T201  # the task's log
    return {
        "objects": totals.objects,
        "moves": totals.moves,
        "withheld": totals.withheld,
        "before_usd_month": str(totals.before_usd_month),
        "after_usd_month": str(totals.after_usd_month),
        "saving_usd": str(totals.saving_usd),
        "one_time_usd": str(totals.one_time_usd),
        "autopilots_proposed": autopilots,
    }


@terminal_errors_fail
def measure_drift(scored: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure how far the scored objects, and what came of earlier forecasts, are from what the champion learnt.

    scored : what ``score_shard`` gives, of all shards. The figures go to the table ``drift`` and to an MLflow run;
    ``reasons`` says which ask for training. They are none when nothing was logged since the newest training: it would
    learn the same again.
    """
    from cloudflux.domain.drift import DriftLimits, reasons_to_retrain, refuted_measure, worth_training
    from cloudflux.stores.drift import DriftLog
    from cloudflux_ml.champion import trained_until
    from cloudflux_ml.drift import AGEING_FEATURES, feature_drift, log_drift, realised_drift

    current, day = settings(), day_of_run()
    shards = list(scored)
    version = next((shard["model_version"] for shard in shards if shard["model_version"]), None)
    measures = realised_drift(lake(), day=day, shards=current.shards)
    if version is not None:
        from cloudflux_ml.registry import load_version

        reference = load_version(version, name=current.registered_model).forecaster.reference_counts_
        measures += feature_drift(reference, [shard["feature_counts"] for shard in shards if shard["feature_counts"]])
    measures += refuted_measure(*(sum(shard[name] for shard in shards) for name in ("placed", "refuted")))
    limits = DriftLimits(
        current.drift_max_psi,
        current.drift_max_ratio,
        current.drift_max_calibration_error,
        current.drift_max_refuted_share,
    )
    reasons = list(reasons_to_retrain(measures, limits, ageing=AGEING_FEATURES))
    wanted = worth_training(
        reasons,
        last_logged=max((known for known in lake().days("daily_access") if known < day), default=None),
        trained_until=trained_until(name=current.registered_model),
    )
    DriftLog(engine()).record(day, version, measures, now())
    run_id = log_drift(
        measures, reasons, day=day, model_version=version, experiment=f"{current.registered_model}-drift"
    )
    for reason in reasons:
        print(reason)  # noqa: T201  # the task's log
    return {"retrain": wanted, "reasons": reasons[:10], "figures": len(measures), "run_id": run_id}


@terminal_errors_fail
def ask_for_training(drift: Mapping[str, Any]) -> list[str]:
    """Publish that training is wanted; skipped, and nothing published, when drift gives no reason."""
    from airflow.sdk.exceptions import AirflowSkipException

    if not drift["retrain"]:
        raise AirflowSkipException("no drift asks for training")
    return list(drift["reasons"])
