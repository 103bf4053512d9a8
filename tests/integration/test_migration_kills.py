"""A worker is killed with kill -9 at many moments of one plan: nothing is lost or moved twice, the ledger is right.

The moments are spread over the whole plan by counting what the worker does: requests, held by a proxy before the server
sees them or after it acted, and appends to the ledger, before and after. The sizes are CLOUDFLUX_KILLS_FULL=1's: 2,000
objects and 30 kills; without it they are smaller.
"""

from __future__ import annotations

import json
import os
import random
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from conftest import StackWith
from faulty_proxy import FaultyProxy, Plan, Record, moved_more_than_once
from moving import (
    CONNECTIONS,
    Cloud,
    Job,
    Outcome,
    Workers,
    approve_plan,
    contents,
    expected_hashes,
    fill,
    hashes,
    now,
    outcome_of,
)
from sqlalchemy import Engine

from cloudflux.stores import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.workflows.migrate import close

pytestmark = pytest.mark.stack

FULL = bool(os.environ.get("CLOUDFLUX_KILLS_FULL"))


@pytest.fixture(scope="module")
def database_url(stack_with: StackWith) -> str:
    return stack_with("postgres").environment()["CLOUDFLUX_DATABASE_URL"]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture(scope="module")
def cloud_of(stack_with: StackWith) -> Callable[[str], Cloud]:
    def cloud_of(dialect: str) -> Cloud:
        environment = stack_with(dialect).environment()
        return Cloud.of(dialect, json.loads(environment[f"AIRFLOW_CONN_{CONNECTIONS[dialect]}_DEFAULT"]))

    return cloud_of


CHANGE = {"s3": "copy", "azure": "batch", "gcs": "batch"}
MOMENTS = ["after change", "before append", "before request", "after append", "after request", "before change"]


@dataclass
class Killed:
    """How often the worker was killed, and at what."""

    moments: list[str] = field(default_factory=list)
    share_moved: list[float] = field(default_factory=list)
    """The share of the objects that the server had moved at each kill."""
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Events:
    """What a worker that nobody disturbs does for each move, on average."""

    requests: float
    appends: float
    changes: float


def undisturbed(
    cloud: Cloud, engine: Engine, database_url: str, workers: Workers, folder: Path, *, range_moves: int
) -> Events:
    """Carry out a plan of two ranges and count."""
    bucket = f"kills-{uuid.uuid4().hex[:12]}"
    fill(cloud, bucket, contents(2 * range_moves))
    approve_plan(engine, cloud, bucket, f"plan-{bucket}")
    with FaultyProxy(cloud.dialect, cloud.url, folder) as proxy:
        through = asdict(replace(cloud, url=proxy.url))
        workers.start(Job(through, database_url, f"plan-{bucket}", range_moves))
        assert workers.wait() == 0
    records = proxy.records()
    changes = sum(record.kind == CHANGE[cloud.dialect] for record in records)
    # what was seen, what was submitted, what is done
    return Events(len(records) / (2 * range_moves), 3 / range_moves, changes / (2 * range_moves))


def moved_keys(records: list[Record]) -> set[str]:
    return {move.key for record in records for move in record.moves if move.done}


def kill_again_and_again(
    cloud: Cloud, workers: Workers, job: Job, folder: Path, *, events: Events, objects: int, kills: int, seed: int
) -> Killed:
    """Let workers carry out a plan and kill each at another moment, until the last one ends by itself."""
    dice = random.Random(seed)
    found = Killed()
    while len(found.moments) <= kills:
        left = kills - len(found.moments)
        holds: dict[str, str] = {}
        at = where = ""
        append, after = 0, False
        if left > 0:
            # this many of the moves that are left, on average, before the next kill
            moves = (objects - len(moved_keys(found.records))) / (left + 1)
            share = moves * dice.uniform(0.0, 1.7)
            at = MOMENTS[len(found.moments) % len(MOMENTS)]
            where, _, what = at.partition(" ")
            match what:
                case "append":
                    append, after = 1 + int(share * events.appends), where == "after"
                case "request":
                    holds = {str(1 + int(share * events.requests)): where}
                case "change":
                    holds = {f"{CHANGE[cloud.dialect]} {1 + int(share * events.changes)}": where}
        with FaultyProxy(cloud.dialect, cloud.url, folder, Plan(holds=holds)) as proxy:
            through = asdict(replace(cloud, url=proxy.url))
            pid = workers.start(replace(job, cloud=through, deadly_append=append, dies_after=after))
            if holds and (held := proxy.next_line_or(workers.has_ended)) is not None:
                at = f"{where} {held['kind']}"
                os.kill(pid, signal.SIGKILL)
            status = workers.wait()
        found.records += proxy.records()
        if status == -signal.SIGKILL:
            found.moments.append(at)
            found.share_moved.append(len(moved_keys(found.records)) / objects)
        elif status != 0:
            raise RuntimeError(f"a worker ended with status {status}")
        else:
            return found  # the plan is carried out: whether it is the right way is the caller's to see
    raise RuntimeError(f"workers die that nobody killed: {found.moments}")


def killed_plan(
    cloud: Cloud,
    database_url: str,
    workers: Workers,
    folder: Path,
    *,
    objects: int,
    kills: int,
    range_moves: int,
    versioned: bool = False,
    seed: int = 5,
) -> tuple[str, Killed]:
    engine = make_engine(database_url)
    bucket = f"kills-{uuid.uuid4().hex[:12]}"
    plan_id = f"plan-{bucket}"
    held = contents(objects)
    fill(cloud, bucket, held, versioned=versioned)
    assert approve_plan(engine, cloud, bucket, plan_id) == objects
    job = Job(asdict(cloud), database_url, plan_id, range_moves)
    events = undisturbed(cloud, engine, database_url, workers, folder, range_moves=range_moves)
    killed = kill_again_and_again(cloud, workers, job, folder, events=events, objects=objects, kills=kills, seed=seed)
    assert hashes(cloud, bucket) == expected_hashes(held)
    assert outcome_of(engine, cloud, plan_id) == Outcome({"done": objects}, [])
    assert moved_more_than_once(killed.records) == {}
    assert moved_keys(killed.records) == set(held)
    assert close(Plans(engine), Ledger(engine), plan_id=plan_id, actor="tests", clock=now) == {"done": objects}
    engine.dispose()
    return bucket, killed


SIZES = {  # objects, kills, moves a range
    "s3": (2000, 30, 100) if FULL else (300, 12, 50),
    "azure": (600, 30, 10) if FULL else (120, 8, 10),
    "gcs": (600, 30, 10) if FULL else (120, 8, 10),
}


@pytest.mark.parametrize("dialect", ["s3", "azure", "gcs"])
def test_nothing_is_lost_or_moved_twice_when_the_worker_is_killed_again_and_again(
    dialect: str, cloud_of: Callable[[str], Cloud], database_url: str, workers: Workers, tmp_path: Path
) -> None:
    objects, kills, range_moves = SIZES[dialect]
    _, killed = killed_plan(
        cloud_of(dialect),
        database_url,
        workers,
        tmp_path,
        objects=objects,
        kills=kills,
        range_moves=range_moves,
    )
    assert len(killed.moments) == kills, killed.moments
    # spread over the plan, and of every kind
    assert killed.share_moved[0] < 0.2
    assert killed.share_moved[-1] > 0.6
    change = CHANGE[dialect]
    assert {"before append", "after append", f"before {change}", f"after {change}"} <= set(killed.moments)


def test_no_superseded_version_is_left_when_the_worker_is_killed_again_and_again(
    cloud_of: Callable[[str], Cloud], database_url: str, workers: Workers, tmp_path: Path
) -> None:
    cloud = cloud_of("s3")
    bucket, killed = killed_plan(
        cloud, database_url, workers, tmp_path, objects=80, kills=6, range_moves=20, versioned=True, seed=8
    )
    assert len(killed.moments) == 6
    versions = cloud.sdk().list_object_versions(Bucket=bucket)
    assert len(versions["Versions"]) == 80
    assert "DeleteMarkers" not in versions
