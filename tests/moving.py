"""A bucket of objects, a plan to move them, and a worker that can be killed: what the tests of moving share."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sdk_clients import azure_client, gcs_client, s3_client
from sqlalchemy import Engine

from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.tiers import Provider
from cloudflux.stores import make_engine
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.stores.slots import RangeTaken, range_lock
from cloudflux.workflows.migrate import Mover, RangeProgress
from cloudflux.workflows.planned_moves import moves_table

CLASSES: Final = {
    Provider.AWS: ("STANDARD", "STANDARD_IA"),
    Provider.AZURE: ("Hot", "Cool"),
    Provider.GCP: ("STANDARD", "NEARLINE"),
}
PROVIDERS: Final = {"s3": Provider.AWS, "azure": Provider.AZURE, "gcs": Provider.GCP}
CONNECTIONS: Final = {"s3": "AWS", "azure": "WASB", "gcs": "GOOGLE_CLOUD"}
"""The names of Airflow's connections."""
ACTOR: Final = "tests"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Cloud:
    """One emulator, by its address, and how one gets in."""

    dialect: str
    url: str
    """Without a path: a proxy's may take its place."""
    account: str = ""
    secret: str = ""

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.dialect]

    @classmethod
    def of(cls, dialect: str, connection: Mapping[str, Any]) -> Cloud:
        """Read what Airflow's connection to the emulator tells."""
        extra = connection["extra"]
        if dialect == "s3":
            return cls(dialect, extra["endpoint_url"], connection["login"], connection["password"])
        if dialect == "gcs":
            return cls(dialect, extra["endpoint"])
        told = dict(pair.split("=", 1) for pair in extra["connection_string"].rstrip(";").split(";"))
        scheme, _, host = told["BlobEndpoint"].split("/")[:3]
        return cls(dialect, f"{scheme}//{host}", told["AccountName"], told["AccountKey"])

    def sdk(self, **settings: Any) -> Any:
        """Make the cloud's own client."""
        if self.dialect == "s3":
            return s3_client(self.url, self.account, self.secret, **settings)
        if self.dialect == "gcs":
            return gcs_client(self.url)
        endpoint = f"{self.url}/{self.account}"
        scheme = self.url.partition(":")[0]
        return azure_client(
            f"DefaultEndpointsProtocol={scheme};AccountName={self.account};AccountKey={self.secret};"
            f"BlobEndpoint={endpoint};"
        )

    def client(self, *, timeout_seconds: float = 20.0, in_flight: int = 16, attempts: int = 8) -> Any:
        """Make our client, one that gives up an answer after so long, and a request after so many attempts."""
        match self.dialect:
            case "s3":
                from cloudflux.providers.aws import AwsTierClient
                from cloudflux.providers.aws_http import Patience

                patience = Patience(attempts=attempts, silent_seconds=timeout_seconds, connect_seconds=5.0)
                return AwsTierClient(self.sdk(), in_flight=in_flight, patience=patience)
            case "azure":
                from cloudflux.providers.azure import AzureTierClient

                return AzureTierClient(
                    self.sdk(), in_flight=in_flight, timeout_seconds=timeout_seconds, attempts=attempts
                )
            case _:
                from cloudflux.providers.gcp import GcpTierClient

                return GcpTierClient(
                    self.sdk(), in_flight=in_flight, timeout_seconds=timeout_seconds, attempts=attempts
                )


def contents(count: int, seed: int = 1) -> dict[str, bytes]:
    """Make small contents of many sizes, by key; some keys need quoting."""
    dice = random.Random(seed)
    return {
        f"{'logs/ü' if number % 7 == 0 else 'data'}/{number:05} &+.bin": dice.randbytes(dice.choice((0, 1, 700, 5_000)))
        for number in range(count)
    }


def fill(cloud: Cloud, bucket: str, objects: Mapping[str, bytes], *, versioned: bool = False) -> None:
    """Write the objects, each with metadata and a content type, some with tags where there are any."""
    client = cloud.client()
    client.create_bucket(bucket)
    if versioned:
        cloud.sdk().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def write(number_and_key: tuple[int, str]) -> None:
        number, key = number_and_key
        tags = {"team": f"t{number}"} if client.capabilities.has_tags and number % 5 == 0 else None
        client.write_object(
            ObjectRef(cloud.provider, bucket, key),
            objects[key],
            content_type="application/x-test",
            metadata={"number": str(number)},
            tags=tags,
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, enumerate(objects)))


def hashes(cloud: Cloud, bucket: str) -> dict[str, str]:
    """Give the SHA-256 of every object that is there."""
    client = cloud.client()
    keys = [state.ref.key for page in client.list_pages(bucket) for state in page]
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda key: client.get_object(ObjectRef(cloud.provider, bucket, key)), keys)
        return {key: hashlib.sha256(content).hexdigest() for key, content in zip(keys, read, strict=True)}


def expected_hashes(objects: Mapping[str, bytes]) -> dict[str, str]:
    return {key: hashlib.sha256(content).hexdigest() for key, content in objects.items()}


def approve_plan(engine: Engine, cloud: Cloud, bucket: str, plan_id: str) -> int:
    """Store an approved plan that moves every object of the bucket; gives how many."""
    client = cloud.client()
    from_class, to_class = CLASSES[cloud.provider]
    refs = [state.ref for page in client.list_pages(bucket) for state in page]
    moves = [
        PlannedMove(
            move_no=number,
            ref=replace(state.ref, version_id=None) if cloud.provider is not Provider.GCP else state.ref,
            etag=state.etag,
            size_bytes=state.size_bytes,
            last_modified_at=state.last_modified_at,
            class_since_at=state.class_since_at,
            from_class=from_class,
            to_class=to_class,
            saving_usd=Decimal(1),
            one_time_usd=Decimal("0.00001"),
            monthly_saving_usd=Decimal("0.1"),
            payback_days=1.0,
            reason="a test",
        )
        for number, state in enumerate(client.head_many(refs))
    ]
    assert {state.storage_class for state in client.head_many(refs)} == {from_class}
    size = sum(move.size_bytes for move in moves)
    plan = MigrationPlan(
        plan_id=plan_id,
        run_id=ACTOR,
        created_at=now(),
        expires_at=now() + timedelta(days=1),
        decisions_day=now().date(),
        horizon_days=180,
        dry_run=False,
        guardrails=Guardrails(10**6, 2**50, Decimal(100), Decimal(0)),
        totals=PlanTotals(len(moves), size, Decimal(1), Decimal(1), Decimal(1), Decimal(1), len(moves), 0),
        groups=(),
    )
    assert Plans(engine).add(plan, moves_table(moves), PlanState.APPROVED)
    return len(moves)


def carry_out_ranges(
    engine: Engine, client: Any, plan_id: str, range_moves: int, ledger: Any = None, *, together: int | None = None
) -> list[RangeProgress]:
    """Carry out a whole plan once, range by range, as the mapped tasks of the DAG do.

    ``together``: steps of so many moves ask the client at once; None: one step after the other, of the usual size.
    """
    plans = Plans(engine)
    mover = Mover(client, plans, ledger or Ledger(engine), ACTOR, now)
    if together is not None:
        mover = replace(mover, step_moves=together, steps_together=True)
    objects = plans.get(plan_id).totals.objects
    progress = []
    for first in range(0, objects, range_moves):
        with _held(engine, plan_id, first):
            progress.append(mover.carry_out(plan_id, first, min(first + range_moves, objects) - 1))
    return progress


@contextmanager
def _held(engine: Engine, plan_id: str, first: int) -> Iterator[None]:
    """Wait for the range as Airflow's retries do: the server may not yet know that its last holder was killed."""
    deadline = time.monotonic() + 30
    while True:
        lock = range_lock(engine, plan_id, first)
        try:
            lock.__enter__()
            break
        except RangeTaken:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@dataclass(frozen=True)
class Outcome:
    """Where a plan stands, by the ledger and by the bucket."""

    states: Mapping[str, int]
    disagreements: Sequence[str]
    """Moves whose entry in the ledger is not what the bucket shows."""


def outcome_of(engine: Engine, cloud: Cloud, plan_id: str) -> Outcome:
    """Compare the ledger with the bucket, move by move."""
    plans, ledger, client = Plans(engine), Ledger(engine), cloud.client()
    objects = plans.get(plan_id).totals.objects
    moves = plans.moves(plan_id, 0, objects - 1)
    states = ledger.states(plan_id)
    left = ledger.left(plan_id)
    wrong = []
    counts: dict[str, int] = {}
    looked_at = client.head_many([replace(move.ref, version_id=None) for move in moves])
    for move, found in zip(moves, looked_at, strict=True):
        state, detail = states.get(move.move_no, (MigrationState.PLANNED, ""))
        counts[state.value] = counts.get(state.value, 0) + 1
        told = f"{move.ref.uri} is {state} ({detail})"
        if found is None or not hasattr(found, "storage_class"):
            wrong.append(f"{told} and cannot be found: {found}")
        elif state is MigrationState.DONE:
            if found.storage_class != move.to_class:
                wrong.append(f"{told} and lies in {found.storage_class}")
            if left[move.move_no].etag != found.etag or left[move.move_no].metadata != found.metadata:
                wrong.append(f"{told} and is not what the ledger says that it was left as")
        elif found.storage_class != move.from_class:
            wrong.append(f"{told} and lies in {found.storage_class}")
        elif state is MigrationState.FAILED and not detail:
            wrong.append(f"{told} without a reason")
    return Outcome(counts, wrong)


class DeadlyLedger(Ledger):
    """A ledger whose process is killed with kill -9 just before, or just after, the n-th append that has entries."""

    def __init__(self, engine: Engine, number: int, *, after: bool) -> None:
        super().__init__(engine)
        self._left = number
        self._after = after

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        self._left -= bool(entries)
        dies = bool(entries) and self._left == 0
        if dies and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        added = super().append(entries)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return added


@dataclass(frozen=True)
class Job:
    """What a worker is to do."""

    cloud: Mapping[str, str]
    database_url: str
    plan_id: str
    range_moves: int
    in_flight: int = 16
    deadly_append: int = 0
    """The number of the append at which it dies; 0: none."""
    dies_after: bool = False


def work(job: Job) -> None:
    """Carry out a plan as one worker does."""
    engine = make_engine(job.database_url)
    client = Cloud(**job.cloud).client(in_flight=job.in_flight)
    ledger = DeadlyLedger(engine, job.deadly_append, after=job.dies_after)
    carry_out_ranges(engine, client, job.plan_id, job.range_moves, ledger)


class Workers:
    """Starts workers, by forking a process that has loaded all they need: loading takes seconds, and they die young."""

    def __enter__(self) -> Workers:
        root = Path(__file__).resolve().parents[1]
        self._nursery = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{root / 'include'}:{root / 'tests'}"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            assert pipe is not None
            pipe.close()
        self._nursery.kill()
        self._nursery.wait()

    def start(self, job: Job) -> int:
        """Start a worker; gives its process id."""
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps(asdict(job)) + "\n")
        self._nursery.stdin.flush()
        return self._told()

    def has_ended(self) -> bool:
        """Tell whether the worker has ended; ``wait`` then gives its status at once."""
        assert self._nursery.stdout is not None
        return bool(select.select([self._nursery.stdout], [], [], 0)[0])

    def wait(self) -> int:
        """Wait until the worker has ended; gives its status, below 0 the signal that killed it."""
        return self._told()

    def _told(self) -> int:
        assert self._nursery.stdout is not None
        return int(self._nursery.stdout.readline())


def nursery() -> None:
    """Fork a worker for each job that comes in; say its process id, and when it has ended its status."""
    # imported here for all the workers that are forked: it takes seconds
    import azure.storage.blob  # noqa: F401  # see above
    import boto3  # noqa: F401  # see above
    from google.cloud import storage  # noqa: F401  # see above

    import cloudflux.providers.aws
    import cloudflux.providers.azure
    import cloudflux.providers.gcp  # noqa: F401  # see above

    def say(number: int) -> None:
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    for line in iter(sys.stdin.readline, ""):
        job = Job(**json.loads(line))
        child = os.fork()
        if child == 0:
            work(job)
            os._exit(0)
        say(child)
        _, status = os.waitpid(child, 0)
        say(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    nursery()
