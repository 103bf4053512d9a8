"""The emulators' part of `bench migrate`: our plans beside bare clients and rclone, each moving the same objects.

A whole move is what the task does: the plan's rows from PostgreSQL, a look, the ledger, the change on condition that
nothing else has changed, the comparison with what the provider tells afterwards, the ledger. Azure and Google tell it
with and after the change; S3's copies are looked at again. The bare client sends the changes alone, or looks, changes,
looks: it reads no states, compares nothing and keeps no record. Its changes of S3's and Azure's objects have no
conditions; Google's depend on the generation that was seen, which it is told before the clock starts. Of several ways
the fastest is taken, for the bare client how it asks, for ours how many requests its owner lets be under way.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.local.bench import migrate_bare as bare
from cloudflux.local.bench.measured import load_average
from cloudflux.local.bench.migrate_plans import (
    BUCKET,
    WARM,
    aws_client,
    boto3_client,
    database_of,
    real_mover,
    store_plan,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from cloudflux.local.stack import Stack
    from cloudflux.workflows.migrate import Mover

EMULATORS: Final = ("aws", "azure", "gcp")
SERVICE: Final = {"aws": "s3", "azure": "azure", "gcp": "gcs"}
_SAMPLE: Final = 512
"""So many objects are moved by each way that a bare client has, before the fastest is taken."""
_IN_FLIGHT: Final = (6, 32, 128)
"""What an owner may have set as `max_in_flight`: the fastest of these is taken for our client as well. By default a
task has 128."""
_TRIED: Final = 5000
"""So many objects are moved there and back with each of these."""
_PUT_AT_ONCE: Final = 16

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Emulated:
    """One emulator's bucket, and all clients of it."""

    clients: Mapping[int, Any]
    """Ours, by how many requests each has under way at most."""
    change_ways: bare.Ways
    look_ways: bare.Ways
    remote: tuple[str, dict[str, str]]
    close: Callable[[], None] = field(default=lambda: None)

    @property
    def client(self) -> Any:
        """One of our clients, for what is not timed."""
        return next(iter(self.clients.values()))


def on_emulator(
    stack: Stack, provider: Provider, objects: int, rounds: int, say: Say, *, endpoint: str | None = None
) -> dict[str, Any]:
    """Let all contenders move so many objects of one emulator, and give their rates and ratios.

    endpoint : of a Google emulator that takes the place of the stack's.
    """
    connection = json.loads(stack.environment()[_CONNECTION[provider]])
    if endpoint is not None:
        connection["extra"]["endpoint"] = endpoint
    emulated = _emulated(provider, connection)
    try:
        say(f"{provider}: putting {objects:,} objects")
        keys = _put(emulated.client, provider, objects)
        with database_of(stack.environment()["CLOUDFLUX_DATABASE_URL"]) as (plans, ledger):
            return _contest(_Contest(emulated, provider, keys, plans, ledger), rounds, say)
    finally:
        emulated.close()


@contextmanager
def slower_gcs(environment: Mapping[str, str], data: Path, rewrite_us: int) -> Generator[str]:
    """Run a Google emulator whose rewrites take so many microseconds more, on a free port; gives its address."""
    module = "cloudflux.local.emulators.gcs"
    command = (sys.executable, "-m", module, "--port", "0", "--data", data, "--rewrite-microseconds", str(rewrite_us))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
            said = process.stdout.readline()
            if not said:
                raise RuntimeError(f"{module} did not start")
            yield said.split()[-1]
        finally:
            process.terminate()


def _contest(contest: _Contest, rounds: int, say: Say) -> dict[str, Any]:
    """Let all take their turns: every other round in the opposite order, each moving all objects to the other class."""
    sample = contest.keys[:_SAMPLE]
    both = (WARM[contest.provider], STANDARD_CLASS[contest.provider])
    change_way = bare.fastest(contest.emulated.change_ways, sample, both)
    look_way = bare.fastest(contest.emulated.look_ways, sample, both[:1])
    contest.choose_in_flight(min(_TRIED, len(contest.keys)))
    say(
        f"{contest.provider}: the bare client changes by {change_way!r} and looks by {look_way!r}, "
        f"ours has {contest.in_flight} requests under way at most"
    )
    change, look = contest.emulated.change_ways[change_way], contest.emulated.look_ways[look_way]

    def safe(keys: Sequence[str], to_class: str) -> float:
        return look(keys, to_class) + change(keys, to_class) + look(keys, to_class)

    turns: dict[str, Callable[[str], float | None]] = {
        "bare": lambda to_class: change(contest.keys, to_class),
        "bare_safe": lambda to_class: safe(contest.keys, to_class),
        "moves": contest.carry_out,
        "changes": contest.change_tiers,
        "rclone": contest.rclone,
    }
    load = load_average()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    processor: dict[str, list[float]] = {name: [] for name in ("bare", "bare_safe", "moves")}
    for number in range(rounds):
        for name in list(turns)[:: 1 if number % 2 == 0 else -1]:
            to_class = contest.other_class()
            used = time.process_time()
            taken = turns[name](to_class)
            used = time.process_time() - used
            if taken is None:
                del turns[name]
                continue
            contest.check(name, to_class)
            seconds[name].append(taken)
            if name in processor:
                processor[name].append(contest.processor_seconds if name == "moves" else used)
            say(f"{contest.provider}: {name} {len(contest.keys) / taken:,.0f}/s")
    rates = {name: len(contest.keys) / statistics.median(taken) for name, taken in seconds.items() if taken}
    return {
        "objects": len(contest.keys),
        "bare_way": change_way,
        "look_way": look_way,
        "in_flight": contest.in_flight,
        "per_second": rates,
        "seconds": seconds,
        "rclone_cannot": contest.rclone_cannot,
        "moves_to_bare": rates["moves"] / rates["bare"],
        "moves_to_bare_safe": rates["moves"] / rates["bare_safe"],
        "changes_to_bare": rates["changes"] / rates["bare"],
        "changes_to_rclone": rates["changes"] / rates["rclone"] if "rclone" in rates else None,
        "moves_to_rclone": rates["moves"] / rates["rclone"] if "rclone" in rates else None,
        "plan_seconds": contest.plan_seconds,
        "processor_seconds": {name: statistics.median(used) for name, used in processor.items()},
        "load_before_and_after": [load, load_average()],
    }


@dataclass
class _Contest:
    """The objects of one bucket, all in one class, which each contender moves to the other one."""

    emulated: _Emulated
    provider: Provider
    keys: Sequence[str]
    plans: Any
    ledger: Any
    plan_seconds: float = 0.0
    processor_seconds: float = 0.0
    """Of the last plan that was carried out, without storing it."""
    rclone_cannot: str | None = None
    in_flight: int = _IN_FLIGHT[-1]
    _plans_made: int = 0
    _now_in: str = ""

    def __post_init__(self) -> None:
        self._now_in = STANDARD_CLASS[self.provider]

    def other_class(self) -> str:
        """Give the class that the objects are not in."""
        standard = STANDARD_CLASS[self.provider]
        return standard if self._now_in != standard else WARM[self.provider]

    def carry_out(self, to_class: str) -> float:
        """Store a plan to move all objects, and give the seconds of carrying it out in one call."""
        plan_id = self._plan(len(self.keys), to_class)
        mover = self._mover(self.in_flight)
        began, processor = time.perf_counter(), time.process_time()
        progress = mover.carry_out(plan_id, 0, len(self.keys) - 1)
        seconds = time.perf_counter() - began
        self.processor_seconds = time.process_time() - processor
        if dict(progress.ended) != {"done": len(self.keys)}:
            raise RuntimeError(f"{self.provider}: not all moves were done: {progress}")
        return seconds

    def choose_in_flight(self, count: int) -> None:
        """Move some objects there and back with each number of requests under way, and keep to the fastest.

        Of two times, the faster one: the first makes connections, and each client learns what it has to know of the
        bucket.
        """
        seconds: dict[int, list[float]] = {in_flight: [] for in_flight in self.emulated.clients}
        for _again in range(2):
            for in_flight, taken in seconds.items():
                taken.append(self._there_and_back(in_flight, count))
        self.in_flight = min(seconds, key=lambda in_flight: min(seconds[in_flight]))

    def _there_and_back(self, in_flight: int, count: int) -> float:
        seconds = 0.0
        for to_class in (WARM[self.provider], STANDARD_CLASS[self.provider]):
            plan_id = self._plan(count, to_class)
            began = time.perf_counter()
            self._mover(in_flight).carry_out(plan_id, 0, count - 1)
            seconds += time.perf_counter() - began
        return seconds

    def _mover(self, in_flight: int) -> Mover:
        return real_mover(self.emulated.clients[in_flight], self.provider, self.plans, self.ledger)

    def change_tiers(self, to_class: str) -> float:
        """Give the seconds of all changes in one call, of objects that were looked at before.

        The garbage collector is as rare as when a plan is carried out.
        """
        from cloudflux.domain.migrations import ChangeOutcome, TierChange
        from cloudflux.domain.objects import ObjectRef
        from cloudflux.workflows.garbage_collection import collecting_seldom

        refs = [ObjectRef(self.provider, BUCKET, key) for key in self.keys]
        client = self.emulated.clients[self.in_flight]
        changes = [TierChange(state, to_class, state) for state in client.head_many(refs)]
        with collecting_seldom():
            began = time.perf_counter()
            results = client.change_tiers(changes)
            seconds = time.perf_counter() - began
        wrong = [result for result in results if result.outcome is not ChangeOutcome.CHANGED]
        if wrong:
            raise RuntimeError(f"{self.provider}: {len(wrong)} changes were not made: {wrong[0]}")
        return seconds

    def rclone(self, to_class: str) -> float | None:
        """Give the seconds of `rclone settier` on the whole bucket; None when it cannot."""
        found = bare.rclone_settier(*self.emulated.remote, to_class)
        self.rclone_cannot = found.get("cannot")
        seconds: float | None = found.get("seconds")
        return seconds

    def check(self, name: str, to_class: str) -> None:
        """Make sure that all objects are in the class that a contender was to move them to."""
        found = _listed(self.emulated.client)
        there = sum(stored == to_class for stored in found["storage_class"].to_pylist())
        if there != len(self.keys):
            raise RuntimeError(f"{self.provider}: after {name} {there} of {len(self.keys)} objects are in {to_class}")
        self._now_in = to_class

    def _plan(self, count: int, to_class: str) -> str:
        self._plans_made += 1
        plan_id = f"bench-{self.provider}-{self._plans_made}"
        listed = _listed(self.emulated.client).slice(0, count)
        began = time.perf_counter()
        store_plan(self.plans, plan_id, self.provider, listed, to_class)
        self.plan_seconds = time.perf_counter() - began
        return plan_id


_CONNECTION: Final = {
    Provider.AWS: "AIRFLOW_CONN_AWS_DEFAULT",
    Provider.AZURE: "AIRFLOW_CONN_WASB_DEFAULT",
    Provider.GCP: "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT",
}


def _emulated(provider: Provider, connection: Mapping[str, Any]) -> _Emulated:
    """Make the clients, with a bucket, as the hooks make them from this connection."""
    extra = connection["extra"]
    match provider:
        case Provider.AWS:
            s3 = boto3_client(extra["endpoint_url"], connection["login"], connection["password"])
            aws = _with_a_bucket(lambda in_flight: aws_client(s3, in_flight))

            def close() -> None:
                for client in aws.values():
                    client.close()
                s3.close()

            return _Emulated(aws, *bare.s3_ways(s3, BUCKET), bare.s3_remote(s3, BUCKET), close)
        case Provider.AZURE:
            from azure.storage.blob import BlobServiceClient

            from cloudflux.providers.azure import AzureTierClient

            service = BlobServiceClient.from_connection_string(extra["connection_string"])
            azure = _with_a_bucket(lambda in_flight: AzureTierClient(service, in_flight=in_flight))
            return _Emulated(
                azure, *bare.azure_ways(service, BUCKET), bare.azure_remote(service, BUCKET), service.close
            )
        case Provider.GCP:
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import storage

            from cloudflux.providers.gcp import GcpTierClient

            client = storage.Client(
                project=extra["project"],
                credentials=AnonymousCredentials(),
                client_options={"api_endpoint": extra["endpoint"]},
            )
            gcp = _with_a_bucket(lambda in_flight: GcpTierClient(client, in_flight=in_flight))
            return _Emulated(gcp, *bare.gcs_ways(client, BUCKET), bare.gcs_remote(client, BUCKET), client.close)


def _with_a_bucket(make: Callable[[int], Any]) -> dict[int, Any]:
    """Make our clients, by how many requests each has under way at most, and the bucket by one of them."""
    clients = {in_flight: make(in_flight) for in_flight in _IN_FLIGHT}
    clients[_IN_FLIGHT[0]].create_bucket(BUCKET)
    return clients


def _put(client: Any, provider: Provider, objects: int) -> list[str]:
    from concurrent.futures import ThreadPoolExecutor

    from cloudflux.domain.objects import ObjectRef

    keys = [f"objects/{number:07d}.bin" for number in range(objects)]
    with ThreadPoolExecutor(_PUT_AT_ONCE) as pool:
        put = [pool.submit(client.write_object, ObjectRef(provider, BUCKET, key), key.encode()) for key in keys]
    for done in put:
        done.result()
    return keys


def _listed(client: Any) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(list(client.list_inventory(BUCKET, datetime.now(UTC).date()))).sort_by("key")
