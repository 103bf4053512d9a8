"""Moves through a network and a service that fail: nothing is lost or moved twice, and the ledger tells the truth.

The real workflow with the real stores and clients; between client and emulator stands a proxy (`faulty_proxy`) that
breaks answers and records what the server did.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import StackWith
from faulty_proxy import Fault, FaultyProxy, Plan, Record, moved_more_than_once
from moving import (
    CONNECTIONS,
    Cloud,
    Outcome,
    approve_plan,
    carry_out_ranges,
    contents,
    expected_hashes,
    fill,
    hashes,
    now,
    outcome_of,
)
from sqlalchemy import Engine

from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.stores import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.workflows.migrate import STEPS_AT_ONCE, close

pytestmark = pytest.mark.stack

MOST_CALLS = 8
TIMEOUT_S = 1.0

ALL_AT_ONCE = {
    Fault.REFUSED: 0.05,
    Fault.REFUSED_RETRY_AFTER: 0.005,
    Fault.RESET_BEFORE: 0.01,
    Fault.RESET_IN_ANSWER: 0.01,
    Fault.LOST: 0.01,
    Fault.SILENCE: 0.004,
    Fault.LOST_IN_SILENCE: 0.004,
    Fault.FAILED_AFTER: 0.01,
    Fault.GATEWAY_AFTER: 0.01,
    Fault.TRICKLE: 0.02,
    Fault.ERROR_IN_200_AFTER: 0.02,
    Fault.ERROR_IN_200_BEFORE: 0.02,
}
BATCHES = {fault: 8 * share for fault, share in ALL_AT_ONCE.items() if fault not in (Fault.REFUSED, Fault.TRICKLE)} | {
    Fault.PART_REFUSED: 0.2
}
CHANGES = ["copy", "rewrite", "batch", "set_tier"]


@pytest.fixture(scope="module")
def engine(stack_with: StackWith) -> Iterator[Engine]:
    engine = make_engine(stack_with("postgres").environment()["CLOUDFLUX_DATABASE_URL"])
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def cloud_of(stack_with: StackWith) -> Callable[[str], Cloud]:
    def cloud_of(dialect: str) -> Cloud:
        environment = stack_with(dialect).environment()
        return Cloud.of(dialect, json.loads(environment[f"AIRFLOW_CONN_{CONNECTIONS[dialect]}_DEFAULT"]))

    return cloud_of


class Moved:
    """What came of a plan that was carried out through a broken network."""

    def __init__(self, calls: int, outcome: Outcome, records: list[Record], objects: Mapping[str, bytes]) -> None:
        self.calls = calls
        self.outcome = outcome
        self.records = records
        self.objects = objects

    @property
    def faults(self) -> Counter[str]:
        return Counter(record.fault for record in self.records if record.fault)


class AtOnce:
    """A client that counts how many of its changes are under way at once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._under_way = 0
        self._lock = threading.Lock()
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            results: list[TierChangeResult] = self._client.change_tiers(changes)
            return results
        finally:
            with self._lock:
                self._under_way -= 1


def moved_through(
    plan: Plan,
    cloud: Cloud,
    engine: Engine,
    folder: Path,
    *,
    objects: int,
    range_moves: int,
    versioned: bool = False,
    together: int | None = None,
) -> Moved:
    """Move all objects of a new bucket through a proxy, calling again as long as something was unavailable."""
    bucket = f"faults-{uuid.uuid4().hex[:12]}"
    plan_id = f"plan-{bucket}"
    held = contents(objects)
    fill(cloud, bucket, held, versioned=versioned)
    assert approve_plan(engine, cloud, bucket, plan_id) == objects
    calls = 0
    with FaultyProxy(cloud.dialect, cloud.url, folder, plan) as proxy:
        client = AtOnce(replace(cloud, url=proxy.url).client(timeout_seconds=TIMEOUT_S, in_flight=32))
        unavailable = 1
        while unavailable and calls < MOST_CALLS:
            calls += 1
            unavailable = sum(
                progress.unavailable
                for progress in carry_out_ranges(engine, client, plan_id, range_moves, together=together)
            )
    records = proxy.records()
    outcome = outcome_of(engine, cloud, plan_id)
    assert not unavailable, f"after {calls} calls {unavailable} moves are still unavailable"
    assert outcome.disagreements == []
    assert hashes(cloud, bucket) == expected_hashes(held)
    assert moved_more_than_once(records) == {}
    assert outcome.states.keys() <= {"done", "failed"}
    # settled: this raises when a move is neither done nor failed nor skipped
    assert close(Plans(engine), Ledger(engine), plan_id=plan_id, actor="tests", clock=now) == outcome.states
    # How many changes meet depends on the faults of each: one step may wait for an answer while another looks.
    assert client.most == 1 if together is None else 2 <= client.most <= STEPS_AT_ONCE
    return Moved(calls, outcome, records, held)


@pytest.mark.parametrize("dialect", ["s3", "azure", "gcs"])
def test_all_objects_are_moved_once_when_everything_fails_now_and_then(
    dialect: str, cloud_of: Callable[[str], Cloud], engine: Engine, tmp_path: Path
) -> None:
    plan = Plan(ALL_AT_ONCE, seed=20, batch_shares=BATCHES)
    # small ranges make many batches
    objects, range_moves = (300, 150) if dialect == "s3" else (200, 10)
    moved = moved_through(plan, cloud_of(dialect), engine, tmp_path, objects=objects, range_moves=range_moves)
    assert moved.outcome.states == {"done": objects}
    assert len(moved.faults) >= 6, moved.faults
    assert moved.faults.total() >= 15, moved.faults


@pytest.mark.parametrize("dialect", ["s3", "azure", "gcs"])
def test_all_objects_are_moved_once_when_steps_at_once_fail_now_and_then(
    dialect: str, cloud_of: Callable[[str], Cloud], engine: Engine, tmp_path: Path
) -> None:
    plan = Plan(ALL_AT_ONCE, seed=21, batch_shares=BATCHES)
    moved = moved_through(plan, cloud_of(dialect), engine, tmp_path, objects=200, range_moves=100, together=10)
    assert moved.outcome.states == {"done": 200}
    assert len(moved.faults) >= 6, moved.faults
    assert moved.faults.total() >= 15, moved.faults


FAULTS = {
    "s3": [fault for fault in Fault if fault is not Fault.PART_REFUSED],
    "azure": [fault for fault in Fault if not fault.startswith("error_in_200")],
    "gcs": [fault for fault in Fault if not fault.startswith("error_in_200")],
}


@pytest.mark.parametrize(
    ("dialect", "fault"), [(dialect, fault) for dialect, faults in FAULTS.items() for fault in faults]
)
def test_all_objects_are_moved_once_when_every_change_fails_at_first(
    dialect: str, fault: Fault, cloud_of: Callable[[str], Cloud], engine: Engine, tmp_path: Path
) -> None:
    plan = Plan({fault: 1.0}, kinds=CHANGES, most_per_target=1)
    # each Retry-After makes the whole bucket wait for a second
    objects = 6 if fault is Fault.REFUSED_RETRY_AFTER else 24
    moved = moved_through(plan, cloud_of(dialect), engine, tmp_path, objects=objects, range_moves=objects // 2)
    assert moved.outcome.states == {"done": objects}
    assert moved.faults[fault] >= (objects if dialect == "s3" else 2)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.FAILED_AFTER, Fault.REFUSED])
def test_no_superseded_version_is_left_when_every_change_and_deletion_fails_at_first(
    fault: Fault, cloud_of: Callable[[str], Cloud], engine: Engine, tmp_path: Path
) -> None:
    cloud = cloud_of("s3")
    plan = Plan({fault: 1.0}, kinds=["copy", "delete"], most_per_target=1)
    moved = moved_through(plan, cloud, engine, tmp_path, objects=24, range_moves=24, versioned=True)
    assert moved.outcome.states == {"done": 24}
    bucket = next(record.bucket for record in moved.records if record.kind == "copy")
    versions = cloud.sdk().list_object_versions(Bucket=bucket)
    assert Counter(version["Key"] for version in versions["Versions"]) == Counter(dict.fromkeys(moved.objects, 1))
    assert "DeleteMarkers" not in versions


@pytest.mark.parametrize("dialect", ["s3", "azure", "gcs"])
def test_moves_are_called_unavailable_or_failed_and_nothing_is_hurt_when_no_change_ever_gets_through(
    dialect: str, cloud_of: Callable[[str], Cloud], engine: Engine, tmp_path: Path
) -> None:
    cloud = cloud_of(dialect)
    bucket = f"faults-{uuid.uuid4().hex[:12]}"
    held = contents(6)
    fill(cloud, bucket, held)
    approve_plan(engine, cloud, bucket, f"plan-{bucket}")
    plan = Plan({Fault.REFUSED: 1.0}, kinds=CHANGES, most_per_target=10**6)
    with FaultyProxy(dialect, cloud.url, tmp_path, plan) as proxy:
        client = replace(cloud, url=proxy.url).client(timeout_seconds=TIMEOUT_S, attempts=2)
        progress = carry_out_ranges(engine, client, f"plan-{bucket}", 6)
    assert sum(step.unavailable for step in progress) == 6
    outcome = outcome_of(engine, cloud, f"plan-{bucket}")
    assert outcome.states == {"submitted": 6}
    assert outcome.disagreements == []
    assert hashes(cloud, bucket) == expected_hashes(held)
    # and it goes on from there when the service is well again
    carry_out_ranges(engine, cloud.client(), f"plan-{bucket}", 6)
    assert outcome_of(engine, cloud, f"plan-{bucket}") == Outcome({"done": 6}, [])
