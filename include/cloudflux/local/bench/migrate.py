"""`bench migrate`: plans carried out on the emulators, beside bare clients and rclone; a slow endpoint; memory.

A whole move is what the task does: the plan's rows from PostgreSQL, a look, the ledger, the change on condition that
nothing else has changed, the comparison with what the provider tells afterwards, the ledger. Azure and Google tell it
with and after the change; S3's copies are looked at again. The bare client sends the changes alone, or looks, changes,
looks: it reads no states, compares nothing and keeps no record. Google's changes depend on the generation that was
seen: the bare client is told it before the clock starts. Of several ways the fastest is taken, for the bare client how
it asks, for ours how many requests its owner lets be under way.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.local.bench import migrate_bare as bare
from cloudflux.local.bench.measured import in_fresh_process, peak_bytes
from cloudflux.local.bench.migrate_endpoint import answering_endpoint, endpoint_rate, etag_of, pin

if TYPE_CHECKING:
    import pyarrow as pa

    from cloudflux.local.stack import Stack
    from cloudflux.workflows.migrate import Mover

EMULATORS: Final = ("aws", "azure", "gcp")
ENDPOINT: Final = "endpoint"
DELAY_SECONDS: Final = 0.05
ENDPOINT_TARGET: Final = 2500
BARE_TARGET: Final = 0.8
_SERVICE: Final = {"aws": "s3", "azure": "azure", "gcp": "gcs"}
_WARM: Final = {Provider.AWS: "STANDARD_IA", Provider.AZURE: "Cool", Provider.GCP: "NEARLINE"}
_BOOK: Final = {Provider.AWS: "aws-us-east-1", Provider.AZURE: "azure-eastus-lrs", Provider.GCP: "gcs-us-central1"}
_BUCKET: Final = "bench-migrate"
_SAMPLE: Final = 512
"""So many objects are moved by each way that a bare client has, before the fastest is taken."""
_IN_FLIGHT: Final = (6, 32, 128)
"""What an owner may have set as `max_in_flight`: the fastest of these is taken for our client as well. By default a
task has 128."""
_TRIED: Final = 5000
"""So many objects are moved there and back with each of these."""
_PUT_AT_ONCE: Final = 16
_USD: Final = Decimal("0.0000100000")
_ONE_BYTE: Final = b"x"

Say = Callable[[str], None]


def bench_migrate(
    objects: int,
    large: int,
    folder: Path,
    *,
    providers: Sequence[str] = (*EMULATORS, ENDPOINT),
    rounds: int = 3,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Carry out plans of so many objects on each emulator and against an endpoint of our own, and one of ``large``.

    Gives ``emulators`` by provider, ``endpoint`` and ``memory``, whichever were asked for; ``large`` 0 leaves memory
    out.
    """
    from cloudflux.local.stack import Stack

    services = {"postgres", *(_SERVICE[name] for name in EMULATORS if name in providers)}
    stack = Stack(folder / "stack", _own_settings())
    figures: dict[str, Any] = {"objects": objects, "large": large, "rounds": rounds, "emulators": {}}
    try:
        say(f"starting {', '.join(sorted(services))}")
        stack.start(services, ports="free")
        for name in EMULATORS:
            if name in providers:
                figures["emulators"][name] = _on_emulator(stack, Provider(name), objects, rounds, say)
        if ENDPOINT in providers:
            database = stack.environment()["CLOUDFLUX_DATABASE_URL"]
            figures["endpoint"] = _against_endpoint(database, objects, rounds, say)
            if large:
                figures["memory"] = _memory(database, (objects, large), say)
    finally:
        stack.stop()
    return figures


def _own_settings() -> dict[str, str]:
    """Give the environment without what would put real services in the emulators' place."""
    foreign = ("CLOUDFLUX_", "AIRFLOW_", "KAFKA_", "MLFLOW_", "STORAGE_EMULATOR_HOST")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


# -- on the emulators -------------------------------------------------------------------------------------------------


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


def _on_emulator(stack: Stack, provider: Provider, objects: int, rounds: int, say: Say) -> dict[str, Any]:
    emulated = _emulated(provider, json.loads(stack.environment()[_CONNECTION[provider]]))
    try:
        say(f"{provider}: putting {objects:,} objects")
        keys = _put(emulated.client, provider, objects)
        with _database(stack.environment()["CLOUDFLUX_DATABASE_URL"]) as (plans, ledger):
            return _contest(_Contest(emulated, provider, keys, plans, ledger), rounds, say)
    finally:
        emulated.close()


def _contest(contest: _Contest, rounds: int, say: Say) -> dict[str, Any]:
    """Let all take their turns: every other round in the opposite order, each moving all objects to the other class."""
    sample = contest.keys[:_SAMPLE]
    both = (_WARM[contest.provider], STANDARD_CLASS[contest.provider])
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
    load = _load()
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
        "load_before_and_after": [load, _load()],
    }


def _load() -> float:
    """Give the machine's load average of a minute: what others do takes its time from all of this."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


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
        return standard if self._now_in != standard else _WARM[self.provider]

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
        for to_class in (_WARM[self.provider], STANDARD_CLASS[self.provider]):
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

        refs = [ObjectRef(self.provider, _BUCKET, key) for key in self.keys]
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
            s3 = _boto3_client(extra["endpoint_url"], connection["login"], connection["password"])
            aws = {in_flight: _aws_client(s3, in_flight) for in_flight in _IN_FLIGHT}
            aws[_IN_FLIGHT[0]].create_bucket(_BUCKET)
            return _Emulated(aws, *bare.s3_ways(s3, _BUCKET), bare.s3_remote(s3, _BUCKET), s3.close)
        case Provider.AZURE:
            from azure.storage.blob import BlobServiceClient

            from cloudflux.providers.azure import AzureTierClient

            service = BlobServiceClient.from_connection_string(extra["connection_string"])
            azure = {in_flight: AzureTierClient(service, in_flight=in_flight) for in_flight in _IN_FLIGHT}
            azure[_IN_FLIGHT[0]].create_bucket(_BUCKET)
            return _Emulated(
                azure, *bare.azure_ways(service, _BUCKET), bare.azure_remote(service, _BUCKET), service.close
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
            gcp = {in_flight: GcpTierClient(client, in_flight=in_flight) for in_flight in _IN_FLIGHT}
            gcp[_IN_FLIGHT[0]].create_bucket(_BUCKET)
            return _Emulated(gcp, *bare.gcs_ways(client, _BUCKET), bare.gcs_remote(client, _BUCKET), client.close)


def _boto3_client(url: str, access_key: str, secret_key: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(max_pool_connections=32, s3={"addressing_style": "path"}),
    )


def _aws_client(s3: Any, in_flight: int = 256) -> Any:
    from cloudflux.providers.aws import AwsTierClient

    return AwsTierClient(s3, in_flight=in_flight)


def _put(client: Any, provider: Provider, objects: int) -> list[str]:
    from concurrent.futures import ThreadPoolExecutor

    from cloudflux.domain.objects import ObjectRef

    keys = [f"objects/{number:07d}.bin" for number in range(objects)]
    with ThreadPoolExecutor(_PUT_AT_ONCE) as pool:
        put = [pool.submit(client.write_object, ObjectRef(provider, _BUCKET, key), key.encode()) for key in keys]
    for done in put:
        done.result()
    return keys


def _listed(client: Any) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(list(client.list_inventory(_BUCKET, datetime.now(UTC).date()))).sort_by("key")


# -- plans ------------------------------------------------------------------------------------------------------------


def real_mover(client: Any, provider: Provider, plans: Any, ledger: Any) -> Mover:
    """Give what the task uses to carry out a plan, with the costs of a price book."""
    from cloudflux.price_books import load_book
    from cloudflux.workflows.migrate import Mover
    from cloudflux.workflows.move_costs import move_costs, restore_orders

    book = load_book(_BOOK[provider])
    return Mover(
        client,
        plans,
        ledger,
        "bench",
        lambda: datetime.now(UTC),
        restore_of=restore_orders(book, within_hours=12, keep_days=7),
        steps_together=True,  # as for every client but those of lifecycle rules and jobs
        costs_of=move_costs(book),
    )


def store_plan(plans: Any, plan_id: str, provider: Provider, listed: pa.Table, to_class: str) -> None:
    """Store an approved plan to move all listed objects; ``listed`` has the columns of the inventory."""
    import pyarrow as pa

    from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlanState, PlanTotals
    from cloudflux.workflows.planned_moves import PLANNED_MOVES

    count = listed.num_rows
    total, from_class = count * _USD, listed["storage_class"][0].as_py()
    size_bytes = sum(listed["size_bytes"].to_pylist())
    same = {
        "provider": provider.value,
        "bucket": _BUCKET,
        "to_class": to_class,
        "from_class": from_class,
        "saving_usd": _USD,
        "one_time_usd": _USD,
        "monthly_saving_usd": _USD,
        "payback_days": 30.0,
        "reason": "a benchmark",
        "role": "move",
        "undoes_move_no": None,
    }
    columns = []
    for wanted in PLANNED_MOVES:
        if wanted.name == "move_no":
            column = pa.array(range(count), wanted.type)
        elif wanted.name in same:
            column = pa.repeat(pa.scalar(same[wanted.name], wanted.type), count)
        else:
            column = listed[wanted.name].cast(wanted.type)
        columns.append(column)
    at = datetime.now(UTC)
    plan = MigrationPlan(
        plan_id=plan_id,
        run_id="bench",
        created_at=at,
        expires_at=at + timedelta(days=14),
        decisions_day=at.date(),
        horizon_days=180,
        dry_run=False,
        guardrails=Guardrails(10**9, 10**15, Decimal(10**6), Decimal(0)),
        totals=PlanTotals(count, size_bytes, total, total, total, total, count, 0),
        groups=(PlanGroup(provider.value, _BUCKET, from_class, to_class, count, size_bytes, total, total, 30.0),),
    )
    plans.add(plan, pa.Table.from_arrays(columns, schema=PLANNED_MOVES), PlanState.APPROVED)


@contextmanager
def _database(url: str) -> Iterator[tuple[Any, Any]]:
    from cloudflux.stores import make_engine
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import STEPS_AT_ONCE

    engine = make_engine(url, pool_size=STEPS_AT_ONCE)
    try:
        yield Plans(engine), Ledger(engine)
    finally:
        engine.dispose()


# -- against an endpoint of our own -----------------------------------------------------------------------------------


def _cores() -> tuple[set[int], set[int]]:
    """Give a core for the client and one for the endpoint; none where processes cannot be kept on cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (set(cores[:1]), set(cores[1:2])) if len(cores) > 1 else (set(), set())


def _against_endpoint(database: str, objects: int, rounds: int, say: Say) -> dict[str, Any]:
    mine, theirs = _cores()
    with answering_endpoint(DELAY_SECONDS, cores=theirs) as url:
        say(f"an endpoint that answers after {DELAY_SECONDS * 1000:.0f} ms: how many a second it can answer")
        load = _load()
        own = in_fresh_process(endpoint_rate, url, max(objects, 1) * 2, mine)
        say(f"{objects:,} copies by one process on one core, {rounds} times, then as whole moves")
        found = in_fresh_process(move_on_endpoint, database, url, objects, rounds, mine)
    return {
        "delay_seconds": DELAY_SECONDS,
        "one_core_each": bool(mine),
        "endpoint_per_second": own["requests_per_second"],
        "load_before_and_after": [load, _load()],
        **found,
    }


def move_on_endpoint(database: str, url: str, objects: int, rounds: int, cores: set[int]) -> dict[str, Any]:
    """Change the class of so many objects of an endpoint, and then carry out plans to do so; medians of the rounds.

    ``processor_share`` is how much of a core this process used meanwhile.
    """
    from cloudflux.domain.migrations import ChangeOutcome, TierChange

    pin(cores)
    client = _aws_client(_boto3_client(url, "bench", "bench"))
    states = client.head_many(_refs(objects))  # warm, and what `now` is below
    classes = (_WARM[Provider.AWS], STANDARD_CLASS[Provider.AWS])
    seconds: dict[str, list[float]] = {"changes": [], "moves": []}
    processor = {"changes": 0.0, "moves": 0.0}
    with _database(database) as (plans, ledger):
        for number in range(2 * rounds):
            to_class = classes[number % 2]
            began, used = time.perf_counter(), time.process_time()
            if number < rounds:
                name = "changes"
                results = client.change_tiers([TierChange(state, to_class, state) for state in states])
                ended = sum(result.outcome is ChangeOutcome.CHANGED for result in results)
            else:
                name = "moves"
                plan_id = f"bench-endpoint-{number}-{time.time_ns()}"
                store_plan(plans, plan_id, Provider.AWS, _as_inventory(objects, classes[1 - number % 2]), to_class)
                mover = real_mover(client, Provider.AWS, plans, ledger)
                began, used = time.perf_counter(), time.process_time()
                ended = mover.carry_out(plan_id, 0, objects - 1).ended.get("done", 0)
            seconds[name].append(time.perf_counter() - began)
            processor[name] += time.process_time() - used
            if ended != objects:
                raise RuntimeError(f"{ended} of {objects} {name} on the endpoint came to their end")
            if name == "changes":
                states = client.head_many(_refs(objects))
    client.close()
    return {
        "changes_per_second": objects / statistics.median(seconds["changes"]),
        "moves_per_second": objects / statistics.median(seconds["moves"]),
        "seconds": seconds,
        "processor_share": {name: used / sum(seconds[name]) for name, used in processor.items()},
    }


def _refs(objects: int) -> list[Any]:
    from cloudflux.domain.objects import ObjectRef

    return [ObjectRef(Provider.AWS, _BUCKET, f"objects/{number:07d}.bin") for number in range(objects)]


def _as_inventory(objects: int, storage_class: str) -> pa.Table:
    """Give the columns of an inventory of the endpoint's objects: any key exists there."""
    import pyarrow as pa

    keys = [ref.key for ref in _refs(objects)]
    at = pa.repeat(pa.scalar(datetime(2026, 1, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC")), objects)
    return pa.table(
        {
            "key": keys,
            "version_id": pa.nulls(objects, pa.string()),
            "etag": [etag_of(f"/{_BUCKET}/{key}".encode()) for key in keys],
            "size_bytes": pa.repeat(pa.scalar(len(_ONE_BYTE), pa.int64()), objects),
            "storage_class": pa.repeat(pa.scalar(storage_class), objects),
            "last_modified_at": at,
            "class_since_at": at,
        }
    )


# -- memory -----------------------------------------------------------------------------------------------------------


def _memory(database: str, sizes: Sequence[int], say: Say) -> dict[str, Any]:
    """Carry out a plan of each size against an endpoint without delay, each in a fresh process."""
    found = []
    for objects in sizes:
        say(f"{objects:,} moves in a fresh process: its peak memory")
        with answering_endpoint(0.0) as url, _database(database) as (plans, _):
            plan_id = f"bench-memory-{objects}-{time.time_ns()}"
            store_plan(
                plans,
                plan_id,
                Provider.AWS,
                _as_inventory(objects, STANDARD_CLASS[Provider.AWS]),
                _WARM[Provider.AWS],
            )
            found.append(in_fresh_process(carry_out_alone, database, url, plan_id, objects))
    return {"sizes": found, "ratio": found[-1]["peak_bytes"] / found[0]["peak_bytes"]}


def carry_out_alone(database: str, url: str, plan_id: str, objects: int) -> dict[str, Any]:
    """Carry out a stored plan as the task does, in one call."""
    client = _aws_client(_boto3_client(url, "bench", "bench"))
    with _database(database) as (plans, ledger):
        mover = real_mover(client, Provider.AWS, plans, ledger)
        before_bytes = peak_bytes()
        began = time.perf_counter()
        progress = mover.carry_out(plan_id, 0, objects - 1)
        seconds = time.perf_counter() - began
    client.close()
    if progress.ended.get("done") != objects:
        raise RuntimeError(f"not all moves were done: {progress}")
    return {
        "objects": objects,
        "seconds": seconds,
        "moves_per_second": objects / seconds,
        "before_bytes": before_bytes,
    }
