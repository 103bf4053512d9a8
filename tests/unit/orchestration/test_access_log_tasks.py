"""The tasks of `collect_access_logs` that have a say of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.tiers import Provider
from cloudflux.orchestration import access_log_tasks, coverage_tasks
from cloudflux.workflows import coverage

PUBLISHED: dict[str, Any] = {
    "collected_until": "2026-11-20T08:30:00+00:00",
    "touched": [["2026-11-19", "2026-11-20"]],
    "refused": ["aws: the logs of a: it is gone", "gcp: the logs of b: refused"],
    "unlisted": [["aws", "a"], ["gcp", "b"]],
}


def test_task_is_green_when_all_logs_were_listed() -> None:
    access_log_tasks.name_refused_log_sources(PUBLISHED | {"refused": []})


def test_task_fails_with_each_reason_when_logs_could_not_be_listed() -> None:
    with pytest.raises(AirflowFailException, match=r"2 log sources could not: aws: .* gone; gcp: .*no coverage"):
        access_log_tasks.name_refused_log_sources(PUBLISHED)


def test_buckets_are_not_measured_when_their_logs_could_not_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def bucket(provider: Provider, name: str) -> BucketSettings:
        return BucketSettings(provider=provider, bucket=name, price_book="any", connection_id="any")

    estate = Estate(buckets=(bucket(Provider.AWS, "a"), bucket(Provider.AWS, "b"), bucket(Provider.GCP, "b")))
    measured: list[Estate] = []

    def measure(lake: Any, log: Any, of: Estate, **_: Any) -> dict[str, Any]:
        measured.append(of)
        return {}

    monkeypatch.setattr(coverage, "measure", measure)
    monkeypatch.setattr(coverage_tasks, "settings", lambda: SimpleNamespace(load_estate=lambda: estate))
    monkeypatch.setattr(coverage_tasks, "lake", lambda: None)
    monkeypatch.setattr(coverage_tasks, "engine", lambda: None)
    coverage_tasks.measure_coverage(PUBLISHED)
    coverage_tasks.measure_coverage(PUBLISHED | {"unlisted": []})
    assert [[bucket.bucket for bucket in estate.buckets] for estate in measured] == [["b"], ["a", "b", "b"]]
