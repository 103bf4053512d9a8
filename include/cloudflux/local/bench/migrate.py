"""`bench migrate`: plans carried out on the emulators, beside bare clients and rclone; a slow endpoint; memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.local.bench.measured import in_fresh_process, load_average, peak_bytes
from cloudflux.local.bench.migrate_emulators import EMULATORS, SERVICE, Say, on_emulator, slower_gcs
from cloudflux.local.bench.migrate_endpoint import answering_endpoint, endpoint_rate, etag_of, pin
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

ENDPOINT: Final = "endpoint"
DELAY_SECONDS: Final = 0.05
ENDPOINT_TARGET: Final = 2500
BARE_TARGET: Final = 0.8
_ONE_BYTE: Final = b"x"


def bench_migrate(
    objects: int,
    large: int,
    folder: Path,
    *,
    providers: Sequence[str] = (*EMULATORS, ENDPOINT),
    rounds: int = 3,
    rewrite_us: int = 0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Carry out plans of so many objects on each emulator and against an endpoint of our own, and one of ``large``.

    Gives ``emulators`` by provider, ``endpoint`` and ``memory``, whichever were asked for; ``large`` 0 leaves memory
    out. Each rewrite takes the Google emulator ``rewrite_us`` microseconds more than it needs.
    """
    from cloudflux.local.stack import Stack

    services = {"postgres", *(SERVICE[name] for name in EMULATORS if name in providers)}
    stack = Stack(folder / "stack", _own_settings())
    figures: dict[str, Any] = {"objects": objects, "large": large, "rounds": rounds, "rewrite_us": rewrite_us}
    emulators = figures["emulators"] = {}
    try:
        say(f"starting {', '.join(sorted(services))}")
        stack.start(services, ports="free")
        for name in EMULATORS:
            if name in providers:
                slowed = name == Provider.GCP and rewrite_us > 0
                slower = slower_gcs(stack.environment(), folder / "gcs", rewrite_us) if slowed else nullcontext()
                with slower as url:
                    emulators[name] = on_emulator(stack, Provider(name), objects, rounds, say, endpoint=url)
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


# -- against an endpoint of our own -----------------------------------------------------------------------------------


def _cores() -> tuple[set[int], set[int]]:
    """Give a core for the client and one for the endpoint; none where processes cannot be kept on cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (set(cores[:1]), set(cores[1:2])) if len(cores) > 1 else (set(), set())


def _against_endpoint(database: str, objects: int, rounds: int, say: Say) -> dict[str, Any]:
    mine, theirs = _cores()
    with answering_endpoint(DELAY_SECONDS, cores=theirs) as url:
        say(f"an endpoint that answers after {DELAY_SECONDS * 1000:.0f} ms: how many a second it can answer")
        load = load_average()
        own = in_fresh_process(endpoint_rate, url, max(objects, 1) * 2, mine)
        say(f"{objects:,} copies by one process on one core, {rounds} times, then as whole moves")
        found = in_fresh_process(move_on_endpoint, database, url, objects, rounds, mine)
    return {
        "delay_seconds": DELAY_SECONDS,
        "one_core_each": bool(mine),
        "endpoint_per_second": own["requests_per_second"],
        "load_before_and_after": [load, load_average()],
        **found,
    }


def move_on_endpoint(database: str, url: str, objects: int, rounds: int, cores: set[int]) -> dict[str, Any]:
    """Change the class of so many objects of an endpoint, and then carry out plans to do so; medians of the rounds.

    ``processor_share`` is how much of a core this process used meanwhile.
    """
    from cloudflux.domain.migrations import ChangeOutcome, TierChange

    pin(cores)
    client = aws_client(boto3_client(url, "bench", "bench"))
    states = client.head_many(_refs(objects))  # warm, and what `now` is below
    classes = (WARM[Provider.AWS], STANDARD_CLASS[Provider.AWS])
    seconds: dict[str, list[float]] = {"changes": [], "moves": []}
    processor = {"changes": 0.0, "moves": 0.0}
    with database_of(database) as (plans, ledger):
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

    return [ObjectRef(Provider.AWS, BUCKET, f"objects/{number:07d}.bin") for number in range(objects)]


def _as_inventory(objects: int, storage_class: str) -> pa.Table:
    """Give the columns of an inventory of the endpoint's objects: any key exists there."""
    import pyarrow as pa

    keys = [ref.key for ref in _refs(objects)]
    at = pa.repeat(pa.scalar(datetime(2026, 1, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC")), objects)
    return pa.table(
        {
            "key": keys,
            "version_id": pa.nulls(objects, pa.string()),
            "etag": [etag_of(f"/{BUCKET}/{key}".encode()) for key in keys],
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
        with answering_endpoint(0.0) as url, database_of(database) as (plans, _):
            plan_id = f"bench-memory-{objects}-{time.time_ns()}"
            store_plan(
                plans,
                plan_id,
                Provider.AWS,
                _as_inventory(objects, STANDARD_CLASS[Provider.AWS]),
                WARM[Provider.AWS],
            )
            found.append(in_fresh_process(carry_out_alone, database, url, plan_id, objects))
    return {"sizes": found, "ratio": found[-1]["peak_bytes"] / found[0]["peak_bytes"]}


def carry_out_alone(database: str, url: str, plan_id: str, objects: int) -> dict[str, Any]:
    """Carry out a stored plan as the task does, in one call."""
    client = aws_client(boto3_client(url, "bench", "bench"))
    with database_of(database) as (plans, ledger):
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
