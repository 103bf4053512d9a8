"""`bench decide`: every object of a lake featurised, forecast and decided, beside the bare prediction of the model."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from cloudflux.local.bench.measured import in_fresh_process

SHARD_OBJECTS: Final = 250_000
SAMPLE_OBJECTS: Final = 30_000
"""What the champion learns from."""
WORKERS: Final = 2
PARTS: Final = ("featurise", "forecast", "states", "solve", "decide", "table", "rest")
_HISTORY_DAYS: Final = 400
_MODEL: Final = "model.skops"
_ONE_THREAD: Final = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SAMPLED_EVERY_S: Final = 0.05


def bench_decide(
    objects: int,
    folder: Path,
    *,
    shards: int | None = None,
    workers: int = WORKERS,
    sample_objects: int = SAMPLE_OBJECTS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a lake of so many objects, train on a sample, score a tenth of the shards and then all of them.

    shards : of about ``SHARD_OBJECTS`` objects each when it is left out. The tenth has shards of the same size.
    Gives ``tenth`` and ``all`` as ``score_shards`` gives them, their ratio of seconds, and the ratio to the bare
    prediction.
    """
    shards = shards or max(1, round(objects / SHARD_OBJECTS))
    counts = [objects * (place + 1) // shards - objects * place // shards for place in range(shards)]
    say(f"{objects:,} objects in {shards} shards: writing inventory and daily access")
    sample_objects = min(sample_objects, objects)
    sample, lake = str(folder / "sample"), str(folder / "lake")
    with _pool(workers) as pool:
        waiting = pool.apply_async(_write, (sample, 1, 0, sample_objects, 8))
        rows = sum(pool.starmap(_write, [(lake, shards, place, count, 7) for place, count in enumerate(counts)], 1))
        waiting.get()
    say(f"{rows:,} rows of daily access; training on {sample_objects:,} other objects")
    trained = in_fresh_process(train, sample, str(folder / "model"))
    figures: dict[str, Any] = {
        "objects": objects,
        "shards": shards,
        "workers": workers,
        "threads_per_worker": 1,
        "rows": rows,
        "trained": trained,
    }
    tenth = max(1, round(shards / 10))
    say(f"scoring {tenth} of {shards} shards")
    figures["tenth"] = score_shards(lake, str(folder / "model"), range(tenth), shards=shards, workers=workers)
    say(f"scoring all {shards} shards")
    figures["all"] = score_shards(lake, str(folder / "model"), range(shards), shards=shards, workers=workers)
    figures["times_the_objects"] = figures["all"]["objects"] / figures["tenth"]["objects"]
    figures["times_the_seconds"] = figures["all"]["seconds"] / figures["tenth"]["seconds"]
    return figures


def score_shards(lake: str, model: str, chosen: range, *, shards: int, workers: int) -> dict[str, Any]:
    """Score some shards of a lake, each worker with one model; what one solves, the others read from the lake.

    ``seconds`` are those of the worker that took longest: loading the model, solving the tables, and for each of its
    shards all that the task does but reading and writing Parquet, which ``read`` and ``stage`` tell apart. ``parts``
    add up all workers' seconds. ``peak_bytes`` is the memory of all processes together.
    """
    from cloudflux.lake.partitions import Lake
    from cloudflux.workflows.placement_files import KIND

    workers = min(workers, len(chosen))
    # what an earlier call has solved is no part of this one's figures
    Lake(lake, shards).prune_artefacts(KIND, datetime.max.replace(tzinfo=UTC))
    with _pool(workers, _start, (lake, shards, model)) as pool, _peak_memory() as peak:
        scored = pool.map(_score, chosen, 1)
    by_worker: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for shard in scored:
        by_worker[shard["worker"]].append(shard)
    parts: dict[str, float] = defaultdict(float)
    for shard in scored:
        for name, seconds in shard["parts"].items():
            parts[name] += seconds
    loads = [max(shard["load"] for shard in done) for done in by_worker.values()]
    seconds = [
        sum(shard["seconds"] for shard in done) + load for done, load in zip(by_worker.values(), loads, strict=True)
    ]
    objects = sum(shard["objects"] for shard in scored)
    # workers share the shards as they come: how fast they are together is what each of them does in its own seconds
    rate = sum(
        sum(shard["objects"] for shard in done) / own for done, own in zip(by_worker.values(), seconds, strict=True)
    )
    bare = sum(
        sum(shard["objects"] for shard in done) / sum(shard["bare"] for shard in done) for done in by_worker.values()
    )
    return {
        "objects": objects,
        "shards": len(scored),
        "workers": len(by_worker),
        "seconds": max(seconds),
        "objects_per_second": objects / max(seconds),
        "bare_objects_per_second": bare,
        "ratio_to_bare": rate / bare,
        # what others do on the machine takes its time from both, but not evenly; this does not see them
        "processor_ratio_to_bare": sum(shard["bare_processor"] for shard in scored)
        / sum(shard["processor"] for shard in scored),
        "parts": {name: parts[name] for name in PARTS},
        "read": sum(shard["read"] for shard in scored),
        "stage": sum(shard["stage"] for shard in scored),
        "load": sum(loads),
        "models_loaded": sum(max(shard["models_loaded"] for shard in done) for done in by_worker.values()),
        "tables_solved": sum(max(shard["tables_solved"] for shard in done) for done in by_worker.values()),
        "peak_bytes": peak[0],
        "moves": sum(shard["moves"] for shard in scored),
        "from_rules": sum(shard["from_rules"] for shard in scored),
    }


def train(lake: str, folder: str) -> dict[str, Any]:
    """Fit forecaster and usage chain to a small lake, and save them as the registry's versions are saved."""
    import skops.io
    import yaml

    from cloudflux.lake.partitions import Lake
    from cloudflux.local.bench.history import DAY
    from cloudflux_ml.dataset import build_dataset, read_history, usage_start
    from cloudflux_ml.model import AccessForecaster, data_frame
    from cloudflux_ml.usage import fit_usage_states, sample_transitions

    began = time.perf_counter()
    source = Lake(lake, 1)
    dataset = build_dataset(source, shards=1, until=DAY, history_days=_HISTORY_DAYS)
    rows = dataset.train
    forecaster = AccessForecaster().fit(
        data_frame(rows.values), rows.horizon_reads, cutoffs=rows.cutoff, growth=rows.growth
    )
    start, end = usage_start(dataset), dataset.windows.holdout
    history = read_history(source, 0, start, end, dataset.inventory_day)
    forecaster.usage_ = fit_usage_states(sample_transitions(history.daily_reads(end), end=(end - start).days))
    target = Path(folder)
    target.mkdir(parents=True)
    skops.io.dump(forecaster, target / _MODEL)
    flavor = {"serialization_format": "skops", "pickled_model": _MODEL}
    (target / "MLmodel").write_text(yaml.safe_dump({"flavors": {"sklearn": flavor}}), encoding="utf-8")
    return {
        "rows": len(rows),
        "states": len(forecaster.usage_.seen_),
        "seconds": time.perf_counter() - began,
    }


class _TimedLake:
    """A lake that keeps the time of reading and staging apart."""

    def __init__(self, lake: Any) -> None:
        self._lake = lake
        self.seconds: dict[str, float] = defaultdict(float)
        self.processor = 0.0

    def read(self, dataset: str, **wanted: Any) -> Any:
        with self._timed("read"):
            return self._lake.read(dataset, **wanted)

    def days(self, dataset: str) -> Any:
        with self._timed("read"):
            return self._lake.days(dataset)

    def stage(self, *arguments: Any) -> Any:
        with self._timed("stage"):
            return self._lake.stage(*arguments)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.processor += time.process_time() - processor


class _Stopwatch:
    """Counts the seconds inside some functions, by part; what a timed function calls is its own part's alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def watch(self, part: str, owner: Any, name: str) -> None:
        """Replace a function of a module or class by one that is timed."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._turn(part)
            try:
                return function(*arguments, **named)
            finally:
                self._turn(None)

        setattr(owner, name, timed)

    def _turn(self, part: str | None) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
        if part is None:
            self._running.pop()
        else:
            self._running.append(part)


@dataclass(slots=True)
class _Worker:
    """What a worker process keeps from shard to shard."""

    lake: Any
    champion: Any
    placements: Any
    owner: Any
    books: Mapping[str, Any]
    watch: _Stopwatch
    load: float
    models_loaded: int = 1


_WORKER: list[_Worker] = []


def _write(lake: str, shards: int, shard: int, objects: int, seed: int) -> int:
    from cloudflux.lake.partitions import Lake
    from cloudflux.local.bench.history import write_shard

    return write_shard(Lake(lake, shards), shard, objects, seed=seed)


def _start(lake: str, shards: int, model: str) -> None:
    """Import what scoring needs, and load the model: once in the life of a worker."""
    import pyarrow as pa

    from cloudflux.config import BucketSettings, Estate
    from cloudflux.domain.tiers import Provider
    from cloudflux.lake.partitions import Lake
    from cloudflux.local.bench.history import BUCKET, PRICE_BOOK
    from cloudflux.price_books import load_book
    from cloudflux.workflows import score as workflow
    from cloudflux.workflows.placements import Placements
    from cloudflux_ml import features, score, stored_model
    from cloudflux_ml.model import AccessForecaster
    from cloudflux_ml.usage import UsageStates

    pa.set_cpu_count(1)
    watch = _Stopwatch()
    for part, owner, name in (
        ("featurise", score, "AccessHistory"),
        ("featurise", features.AccessHistory, "features_of_all"),
        ("states", features.AccessHistory, "usage_features"),
        ("states", UsageStates, "predict"),
        ("forecast", AccessForecaster, "distribution"),
        ("solve", Placements, "usage"),
        ("decide", workflow, "decide"),
        ("table", workflow, "forecast_table"),
        ("table", workflow, "decision_table"),
    ):
        watch.watch(part, owner, name)
    opened = Lake(lake, shards)
    began = time.perf_counter()
    champion = stored_model.Champion("bench", stored_model.load_folder(Path(model), "the bench's model"))
    bucket = BucketSettings(provider=Provider.AWS, bucket=BUCKET, price_book=PRICE_BOOK, connection_id="any")
    _WORKER.append(
        _Worker(
            lake=opened,
            champion=champion,
            placements=Placements(opened, only_one=partial(_only_one, Path(lake))),
            owner=Estate(buckets=(bucket,)),
            books={PRICE_BOOK: load_book(PRICE_BOOK)},
            watch=watch,
            load=time.perf_counter() - began,
        )
    )


@contextmanager
def _only_one(folder: Path, what: str) -> Iterator[None]:
    """Keep the other worker waiting, as PostgreSQL's lock does in production."""
    with (folder / f".{what.replace('/', '-')}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _score(shard: int) -> dict[str, Any]:
    """Score one shard by the very use case that the task calls, then predict from its ready matrices alone."""
    from cloudflux.domain.coverage import RecentCoverage
    from cloudflux.domain.policy import PolicySettings
    from cloudflux.local.bench.history import BUCKET, DAY
    from cloudflux.workflows.score import score_shard
    from cloudflux_ml.score import forecast_objects

    here = _WORKER[-1]
    batch = f"scored-{shard}"
    lake: Any = _TimedLake(here.lake)
    here.watch.seconds.clear()
    began, processor = time.perf_counter(), time.process_time()
    scored = score_shard(
        day=DAY,
        shard=shard,
        batch=batch,
        lake=lake,
        forecast=partial(forecast_objects, champion=here.champion, lookback_days=_HISTORY_DAYS),
        estate=here.owner,
        books=here.books,
        policy=PolicySettings(),
        history_days=_HISTORY_DAYS,
        coverage={("aws", BUCKET): RecentCoverage(1.0, 30)},
        placements=here.placements,
    )
    seconds = time.perf_counter() - began - sum(lake.seconds.values())
    processor = time.process_time() - processor - lake.processor
    parts = dict(here.watch.seconds)
    here.lake.discard(batch)
    bare, bare_processor = _bare_seconds(here, shard)
    return {
        "worker": os.getpid(),
        "objects": scored.objects,
        "moves": scored.moves,
        "from_rules": scored.from_rules,
        "seconds": seconds,
        "parts": parts | {"rest": seconds - sum(parts.values())},
        **lake.seconds,
        "processor": processor,
        "bare": bare,
        "bare_processor": bare_processor,
        "load": here.load,
        "models_loaded": here.models_loaded,
        "tables_solved": here.placements.solved,
        "tables_read": here.placements.read,
    }


def _bare_seconds(here: _Worker, shard: int) -> tuple[float, float]:
    """Give the seconds, and those of the processor, of the model's own prediction from feature matrices that are ready.

    It is done in the task's chunks.
    """
    from cloudflux.local.bench.history import DAY, FIRST_DAY
    from cloudflux_ml.features import AccessHistory
    from cloudflux_ml.model import data_frame
    from cloudflux_ml.score import CHUNK_OBJECTS

    history = AccessHistory(
        here.lake.read("daily_access", shard=shard),
        here.lake.read("inventory", shard=shard),
        history_start=FIRST_DAY,
        lookback_days=_HISTORY_DAYS,
    )
    values, used = history.features_of_all(DAY).values, history.usage_features(DAY)
    del history
    forecaster = here.champion.forecaster
    began, processor = time.perf_counter(), time.process_time()
    for first in range(0, len(values), CHUNK_OBJECTS):
        forecaster.distribution(data_frame(values[first : first + CHUNK_OBJECTS]))
    forecaster.usage_.predict(used)
    return time.perf_counter() - began, time.process_time() - processor


@contextmanager
def _pool(workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Start worker processes that are new interpreters with one thread each, as task slots of one core are."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # read when the libraries are imported
    try:
        with multiprocessing.get_context("spawn").Pool(workers, start, arguments) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Sample what this process and its children hold; the list's one figure is the most, in bytes."""
    own, peak, over = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLED_EVERY_S):
            held = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], held)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()
