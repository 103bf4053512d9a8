"""Training and holdout frames from the lake: features at several cutoffs, and the reads that followed them.

Time runs one way: the holdout is the newest complete label window, and no label of the training frame reaches into it.
Shards are read one after another, so that memory holds one shard's history and the rows that are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from cloudflux_ml.features import FEATURE_NAMES, HORIZONS, AccessHistory, Features, Floats, Integers

MIN_HISTORY_DAYS: Final = 45
MIN_OBJECTS: Final = 100
MAX_LABEL_DAYS: Final = 30
MIN_WARM_UP_DAYS: Final = 14
_HISTORY_COLUMNS: Final = ["provider", "bucket", "key", "day", "reads", "writes"]


class TooLittleHistory(Exception):
    """The lake holds too little to learn from; the text is the reason that is shown and recorded."""


class LakeReader(Protocol):
    """What is needed of ``cloudflux.lake.partitions.Lake``."""

    def read(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        """Read a dataset's rows; a tuple of two days is an inclusive range."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Where training looks: the cutoffs, and the days behind each that make its label."""

    label_days: int
    cutoffs: tuple[date, ...]
    """Training cutoffs, oldest first; the last label window ends where the holdout's begins."""
    holdout: date
    """The holdout's cutoff: its label window ends with the newest complete day."""

    @property
    def end(self) -> date:
        """The day after the newest complete day."""
        return self.holdout + timedelta(days=self.label_days)


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of features and of what followed. All arrays have one entry a row."""

    values: Floats
    """Features, shape (n, len(FEATURE_NAMES))."""
    reads: Floats
    """Reads in the label window, as a rate per 30 days."""
    previous_reads: Floats
    """Reads in the window of the same length before the cutoff, as a rate per 30 days: what persistence predicts."""
    horizon_reads: Floats
    """Reads in each of ``HORIZONS`` from the cutoff on, shape (n, 4); that of 30 days is ``reads``. NaN where the days
    are not over: before the holdout for training rows, before the newest complete day for the holdout's."""
    growth: Floats
    """Reads of the bucket in the label window, divided by those of the window before."""
    cutoff: Integers
    """The cutoff of each row, in days since 1970-01-01."""

    def __len__(self) -> int:
        return len(self.reads)

    def column(self, name: str) -> Floats:
        """Give one feature. Shape (n,)."""
        column: Floats = self.values[:, FEATURE_NAMES.index(name)]
        return column

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all values: equal frames have equal fingerprints."""
        digest = hashlib.sha256()
        for array in (self.values, self.reads, self.horizon_reads, self.growth, self.cutoff):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """What training and evaluation work on."""

    windows: Windows
    first_day: date
    objects: int
    train: Frame
    holdout: Frame
    train_rows_found: int
    """Rows before the seeded sample; more than ``len(train)`` when the cap cut."""
    holdout_rows_found: int
    inventory_day: date | None = None
    """The day of the inventory snapshot that says which objects there are."""
    history_days: int = 400
    """How far back a feature may look."""

    @property
    def fingerprint(self) -> str:
        """One fingerprint of both frames."""
        return hashlib.sha256((self.train.fingerprint + self.holdout.fingerprint).encode()).hexdigest()


def choose_windows(first_day: date, end: date, max_cutoffs: int = 8) -> Windows:
    """Choose the cutoffs for a history of the days from ``first_day`` to the day before ``end``.

    Labels are 30 days; on histories under 74 days they get shorter, so that two windows and 14 days before them fit.
    Cutoffs are a week to a month and a half apart. Raises ``TooLittleHistory`` below 45 days.
    """
    days = (end - first_day).days
    if days < MIN_HISTORY_DAYS:
        raise TooLittleHistory(f"{days} days of daily access, {MIN_HISTORY_DAYS} are needed")
    label = min(MAX_LABEL_DAYS, (days - MIN_WARM_UP_DAYS) // 2)
    holdout = days - label
    newest = holdout - label
    oldest = min(newest, max(MIN_WARM_UP_DAYS, min(90, days // 5)))
    step = min(45, max(7, (newest - oldest) // max(1, max_cutoffs - 1)))
    places = range(newest, oldest - 1, -step)[:max_cutoffs]
    return Windows(
        label_days=label,
        cutoffs=tuple(first_day + timedelta(days=place) for place in reversed(places)),
        holdout=first_day + timedelta(days=holdout),
    )


def build_dataset(
    lake: LakeReader,
    *,
    shards: int,
    until: date,
    history_days: int = 400,
    max_cutoffs: int = 8,
    max_train_rows: int = 80_000,
    max_holdout_rows: int = 60_000,
    seed: int = 20,
    content_types: pa.Table | None = None,
) -> Dataset:
    """Build both frames from ``daily_access`` and the newest ``inventory``.

    until : the day after the newest complete day; logs of later days are not looked at.
    history_days : how far back a feature may look.
    max_train_rows, max_holdout_rows : beyond them a seeded uniform sample of the rows (object, cutoff) is kept.
    Raises ``TooLittleHistory`` with the reason when there is too little to learn from.
    """
    logged = [day for day in lake.days("daily_access") if day < until]
    if not logged:
        raise TooLittleHistory(f"no daily access before {until}")
    first_day, end = logged[0], min(until, logged[-1] + timedelta(days=1))
    windows = choose_windows(first_day, end, max_cutoffs)
    snapshots = [day for day in lake.days("inventory") if day <= until]
    snapshot = snapshots[-1] if snapshots else None
    train, holdout, objects = _Sample(max_train_rows, seed), _Sample(max_holdout_rows, seed), 0
    for shard in range(shards):
        history = read_history(
            lake, shard, first_day, end, snapshot, lookback_days=history_days, content_types=content_types
        )
        for cutoff in windows.cutoffs:
            train.add(_label(history, history.features(cutoff), windows, windows.holdout), shard, cutoff)
        newest = history.features(windows.holdout)
        objects += len(newest.rows)
        holdout.add(_label(history, newest, windows, windows.end), shard, windows.holdout)
    if objects < MIN_OBJECTS:
        raise TooLittleHistory(f"{objects} objects known on {windows.holdout}, {MIN_OBJECTS} are needed")
    return Dataset(
        windows=windows,
        first_day=first_day,
        objects=objects,
        train=train.frame(),
        holdout=holdout.frame(),
        train_rows_found=train.found,
        holdout_rows_found=holdout.found,
        inventory_day=snapshot,
        history_days=history_days,
    )


def read_history(
    lake: LakeReader,
    shard: int,
    first_day: date,
    end: date,
    inventory_day: date | None,
    *,
    lookback_days: int = 400,
    content_types: pa.Table | None = None,
) -> AccessHistory:
    """Read one shard's daily access from ``first_day`` to the day before ``end``, and its objects."""
    return AccessHistory(
        lake.read("daily_access", days=(first_day, end - timedelta(days=1)), shard=shard, columns=_HISTORY_COLUMNS),
        lake.read("inventory", days=[inventory_day], shard=shard) if inventory_day else None,
        history_start=first_day,
        lookback_days=lookback_days,
        content_types=content_types,
    )


def usage_start(dataset: Dataset) -> date:
    """Give the day from which the usage chain's days are numbered: as early as scoring looks back at the holdout."""
    return max(dataset.first_day, dataset.windows.holdout - timedelta(days=dataset.history_days))


def _label(history: AccessHistory, features: Features, windows: Windows, end: date) -> Frame:
    """Count what followed, up to the day before ``end``: nothing of the holdout's days may be seen in training."""
    cutoff, rows = features.cutoff, features.rows
    label = timedelta(days=windows.label_days)
    per_30_days = 30.0 / windows.label_days
    reads = history.reads_between(cutoff, cutoff + label, rows) * per_30_days
    horizon_reads = np.full((len(rows), len(HORIZONS)), np.nan)
    for place, horizon in enumerate(HORIZONS):
        over = cutoff + timedelta(days=horizon)
        if horizon == MAX_LABEL_DAYS:
            horizon_reads[:, place] = reads
        elif over <= end:
            horizon_reads[:, place] = history.reads_between(cutoff, over, rows)
    return Frame(
        values=features.values,
        reads=reads,
        previous_reads=history.reads_between(cutoff - label, cutoff, rows) * per_30_days,
        horizon_reads=horizon_reads,
        growth=history.growth(cutoff, windows.label_days, rows),
        cutoff=np.full(len(rows), (cutoff - date(1970, 1, 1)).days, dtype=np.int64),
    )


class _Sample:
    """A uniform sample of a stream of frames: the rows with the smallest seeded random numbers."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed, self.found = most, seed, 0
        self._frames: list[Frame] = []
        self._ranks: list[Floats] = []

    def add(self, frame: Frame, shard: int, cutoff: date) -> None:
        self.found += len(frame)
        self._frames.append(frame)
        self._ranks.append(np.random.default_rng([self.seed, shard, cutoff.toordinal()]).random(len(frame)))
        if sum(map(len, self._ranks)) > 2 * self.most:
            self._shrink()

    def frame(self) -> Frame:
        self._shrink()
        return self._frames[0]

    def _shrink(self) -> None:
        ranks = np.concatenate(self._ranks)
        kept = np.arange(len(ranks))
        if len(ranks) > self.most:
            kept = np.sort(np.argpartition(ranks, self.most)[: self.most])
        self._ranks = [ranks[kept]]
        self._frames = [_concatenate(self._frames, kept)]


def _concatenate(frames: list[Frame], kept: Integers) -> Frame:
    return Frame(
        values=np.concatenate([frame.values for frame in frames])[kept],
        reads=np.concatenate([frame.reads for frame in frames])[kept],
        previous_reads=np.concatenate([frame.previous_reads for frame in frames])[kept],
        horizon_reads=np.concatenate([frame.horizon_reads for frame in frames])[kept],
        growth=np.concatenate([frame.growth for frame in frames])[kept],
        cutoff=np.concatenate([frame.cutoff for frame in frames])[kept],
    )
