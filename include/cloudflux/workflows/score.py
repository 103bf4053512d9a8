"""Score objects: forecast each shard's accesses, decide each object's storage class, audit and publish both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.costs import usd
from cloudflux.domain.coverage import WITHHELD, RecentCoverage
from cloudflux.domain.errors import SettingsError, TerminalError
from cloudflux.domain.forecasts import AccessForecasts
from cloudflux.domain.policy import Decisions, LearntUsage, ObjectColumns, OwnerLimits, PolicySettings, decide
from cloudflux.domain.prices import Latency, PriceBook
from cloudflux.domain.reasons import Phrases
from cloudflux.domain.rules import classify
from cloudflux.lake.schemas import DECISIONS
from cloudflux.workflows.bucket_autopilots import AutopilotBids
from cloudflux.workflows.lake_ports import PublishedLake
from cloudflux.workflows.placements import Placements, read_share_of
from cloudflux.workflows.refutations import Refutations
from cloudflux.workflows.scored_tables import decision_table, forecast_table
from cloudflux.workflows.surprises import weigh_surprises

HISTORY_COLUMNS: Final = ["provider", "bucket", "key", "day", "reads", "writes", "bytes_read"]
"""What a forecast reads of ``daily_access``."""
_USD_COLUMNS: Final = ("current_monthly_usd", "chosen_monthly_usd", "saving_usd", "one_time_usd")


class ScoringLake(PublishedLake, Protocol):
    """What scoring needs of the lake."""

    def read(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        """Read published rows; a tuple of two days is an inclusive range."""

    def stage(self, dataset: str, day: date, shard: int, table: pa.Table, batch: str) -> str:
        """Write one partition beside the published data."""

    def staged(self, dataset: str, batch: str) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in what a batch has staged; again is harmless."""


class Forecast(Protocol):
    """Gives the forecasts of an inventory's objects, in its order."""

    def __call__(
        self, inventory: pa.Table, daily_access: pa.Table, day: date, horizon_days: int, *, history_start: date | None
    ) -> AccessForecasts:
        """Forecast reads from ``day`` on, from what the logs hold before it."""


class AuditReport(Protocol):
    """What an audit found."""

    passed: bool

    def raise_if_failed(self) -> None:
        """Raise ``AuditFailed`` naming the expectation."""


class Audit(Protocol):
    """Checks a batch against its suite of expectations."""

    def __call__(self, suite: str, data: Any, batch: str) -> AuditReport:
        """Check ``data``."""


@dataclass(frozen=True, slots=True)
class ShardScored:
    """What scoring one shard came to."""

    shard: int
    objects: int
    moves: int
    from_rules: int
    """Objects whose forecast came from the rules."""
    left_out: int
    """Objects of buckets that the estate does not name (any more)."""
    withheld: int = 0
    """Objects whose decision is withheld, because the access logs of their bucket tell too little."""
    placed: int = 0
    """Objects that the usage chain speaks for,"""
    refuted: int = 0
    """and those that have refuted it by their own reads: break-even decides for them."""
    feature_counts: NDArray[np.int64] | None = None
    """See ``AccessForecasts.feature_counts``."""


@dataclass(frozen=True, slots=True)
class DecisionTotals:
    """What the published decisions of a day amount to."""

    day: date
    objects: int
    moves: int
    before_usd_month: Decimal
    """Expected running cost of a 30-day month of all scored objects where they are."""
    after_usd_month: Decimal
    """The same with every proposed move made."""
    saving_usd: Decimal
    """Expected net saving over the horizon."""
    one_time_usd: Decimal
    withheld: int = 0
    """Objects that are kept because the access logs of their bucket tell too little."""


class DatedLake(Protocol):
    """What tells which days there are."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""


def latest_inventory_day(lake: DatedLake, day: date) -> date:
    """Tell the newest inventory snapshot up to ``day``. Raises ``TerminalError`` when there is none."""
    snapshots = [snapshot for snapshot in lake.days("inventory") if snapshot <= day]
    if not snapshots:
        raise TerminalError(f"there is no inventory up to {day}: run collect_inventory first")
    return snapshots[-1]


def score_shard(
    *,
    day: date,
    shard: int,
    batch: str,
    lake: ScoringLake,
    forecast: Forecast,
    estate: Estate,
    books: Mapping[str, PriceBook],
    policy: PolicySettings,
    history_days: int,
    coverage: Mapping[tuple[str, str], RecentCoverage],
    placements: Placements | None = None,
) -> ShardScored:
    """Forecast and decide for all objects of one shard, and stage both tables as partitions of ``day``.

    day : the first day of the horizon; nothing that was logged on it or later is looked at.
    books : price books by the name that the estate's buckets give.
    coverage : how much the access logs tell, by (provider, bucket). Where that is less than the bucket's
    ``min_coverage``, and where there is nothing, its decisions are withheld: they keep, and say why.
    placements : the tables solved so far, for whoever scores several shards in one process.
    Raises ``TerminalError`` when there is no inventory, and ``KeyError`` naming a price book that is not in ``books``.
    """
    snapshot = latest_inventory_day(lake, day)
    inventory = lake.read("inventory", days=[snapshot], shard=shard)
    listed = inventory.num_rows
    named = {(str(bucket.provider), bucket.bucket): bucket for bucket in estate.buckets}
    inventory = _of_buckets(inventory, named)
    logged = [known for known in lake.days("daily_access") if known < day]
    daily_access = lake.read(
        "daily_access",
        days=(day - timedelta(days=history_days), day - timedelta(days=1)),
        shard=shard,
        columns=HISTORY_COLUMNS,
    )
    forecasts = forecast(inventory, daily_access, day, policy.horizon_days, history_start=logged[0] if logged else None)
    lake.stage("forecasts", day, shard, forecast_table(inventory, forecasts, day), batch)
    logged_from = logged[0] if logged else None
    surprises = weigh_surprises(
        day=day,
        shard=shard,
        lake=lake,
        inventory=inventory,
        daily_access=daily_access,
        forecasts=forecasts,
        logged_from=logged_from,
        buckets=named,
        books=books,
    )
    lake.stage("surprises", day, shard, surprises.table(inventory), batch)
    refutations = Refutations.of(surprises, daily_access, history_from(logged_from, day, history_days))

    tables: list[pa.Table] = []
    placements = placements or Placements()
    autopilots = AutopilotBids(day, 0 if logged_from is None else (day - logged_from).days, policy, placements)
    for (provider, name), rows in _rows_by_bucket(inventory):
        bucket = named[provider, name]
        objects, expected = _rows_of(inventory, rows), forecast_rows(forecasts, rows)
        told = coverage.get((provider, name), RecentCoverage(0.0, 0, problem="its coverage was never measured"))
        withheld = told.withheld(bucket.min_coverage)
        tables.append(
            _decide_bucket(
                objects,
                expected,
                bucket,
                books[bucket.price_book],
                policy=policy,
                day=day,
                withheld=withheld,
                placements=placements,
                refutations=refutations.take(rows),
                autopilots=autopilots,
            )
        )
    decisions = pa.concat_tables(tables) if tables else DECISIONS.empty_table()
    lake.stage("decisions", day, shard, decisions, batch)
    lake.stage("bucket_autopilots", day, shard, autopilots.table(), batch)
    return ShardScored(
        shard=shard,
        objects=inventory.num_rows,
        moves=_count_moves(decisions),
        from_rules=int(forecasts.from_rules.sum()),
        left_out=listed - inventory.num_rows,
        withheld=_count_withheld(decisions),
        placed=0 if forecasts.usage_state is None else int((forecasts.usage_state >= 0).sum()),
        refuted=int(surprises.refuted().sum()),
        feature_counts=forecasts.feature_counts,
    )


def audit_and_publish(*, batch: str, day: date, lake: ScoringLake, audit: Audit) -> DecisionTotals:
    """Audit a batch's decisions, publish them with their forecasts, and add them up.

    Raises ``AuditFailed`` when they fail; then nothing is published. When an earlier attempt has published them
    already, they are only added up again. Raises ``TerminalError`` when there is nothing at all.
    """
    if lake.staged("decisions", batch).count_rows():
        audit("decisions", lake.staged("decisions", batch), batch).raise_if_failed()
    # forecasts first: whoever sees a decision finds its forecast
    lake.publish("forecasts", batch)
    lake.publish("surprises", batch)
    lake.publish("bucket_autopilots", batch)
    lake.publish("decisions", batch)
    totals = decision_totals(lake, day)
    if totals.objects == 0:
        raise TerminalError(
            f"no object was scored for {day}: is the inventory empty, or its buckets not in the estate?"
        )
    return totals


def decision_totals(lake: ScoringLake, day: date) -> DecisionTotals:
    """Add up a day's published decisions, one record batch in memory at a time."""
    sums = dict.fromkeys(_USD_COLUMNS, 0.0)
    objects = moves = withheld = 0
    for batch in lake.dataset("decisions", days=[day]).to_batches(columns=["action", "reason", *_USD_COLUMNS]):
        objects += batch.num_rows
        moves += _count_moves(batch)
        withheld += _count_withheld(batch)
        for name in _USD_COLUMNS:
            sums[name] += pc.sum(batch.column(name)).as_py() or 0.0
    return DecisionTotals(
        day=day,
        objects=objects,
        moves=moves,
        before_usd_month=usd(sums["current_monthly_usd"], 10),
        after_usd_month=usd(sums["chosen_monthly_usd"], 10),
        saving_usd=usd(sums["saving_usd"], 10),
        one_time_usd=usd(sums["one_time_usd"], 10),
        withheld=withheld,
    )


def _decide_bucket(
    inventory: pa.Table,
    forecasts: AccessForecasts,
    bucket: BucketSettings,
    book: PriceBook,
    *,
    policy: PolicySettings,
    day: date,
    withheld: str | None,
    placements: Placements,
    refutations: Refutations,
    autopilots: AutopilotBids,
) -> pa.Table:
    rules = classify(forecasts.reads_30_days, forecasts.last_read_days).storage_classes(bucket.provider)
    tables = []
    expected = chain_reads(forecasts)
    groups = owner_groups(
        inventory, forecasts, bucket, book, policy=policy, day=day, placements=placements, refutations=refutations
    )
    for group in groups:
        decisions = decide(group.objects, book, group.limits, policy, group.usage)
        autopilots.add(
            bucket,
            book,
            objects=group.objects,
            limits=group.limits,
            decisions=decisions,
            chain=forecasts.usage_chain,
            read_share=group.read_share,
            withheld=withheld,
        )
        decisions = refutations.take(group.rows).told(decisions, group.objects)
        if withheld is not None:
            decisions = kept(decisions, withheld)
        tables.append(
            decision_table(_rows_of(inventory, group.rows), decisions, rules[group.rows], day, expected[group.rows])
        )
    return pa.concat_tables(tables)


@dataclass(frozen=True, slots=True)
class OwnerGroup:
    """Objects of one bucket for which the same limits hold, as the policy takes them."""

    rows: NDArray[np.int64]
    """Their places among the bucket's objects, shape (n,)."""
    objects: ObjectColumns
    limits: OwnerLimits
    usage: LearntUsage | None
    read_share: float
    """How much of an object one read reads, as the tables have it."""


def owner_groups(
    inventory: pa.Table,
    forecasts: AccessForecasts,
    bucket: BucketSettings,
    book: PriceBook,
    *,
    policy: PolicySettings,
    day: date,
    placements: Placements,
    refutations: Refutations | None = None,
) -> Iterable[OwnerGroup]:
    """Give the objects of one bucket in one shard by their owner's limits, with the tables that place them.

    refutations : for which of them break-even decides.
    """
    objects, latencies = _object_columns(inventory, forecasts, bucket, day)
    if bucket.autopilot or bucket.leave_autopilot:
        objects = under_autopilot(objects, bucket, book, _days_since(inventory["last_modified_at"], day))
    if refutations is not None and (bucket.leave_autopilot or not bucket.autopilot):
        objects = refutations.ruled(objects, inventory, forecasts, book)
    share = read_share_of(forecasts, np.asarray(objects.size_bytes))
    for latency in Latency:
        rows = np.flatnonzero(latencies == latency)
        if not len(rows):
            continue
        present = set(objects.current_class[rows])
        limits = OwnerLimits(latency, bucket.allowed_classes)
        if bucket.leave_autopilot and (bucket.autopilot or not present.isdisjoint(_settings(book))):
            limits = replace(limits, leave_autopilot=True)
        usage = None
        if forecasts.usage_chain is not None:
            usage = placements.usage(forecasts.usage_chain, book, limits, policy, present=present, read_share=share)
        yield OwnerGroup(rows, objects if len(rows) == len(objects) else objects.take(rows), limits, usage, share)


def under_autopilot(
    objects: ObjectColumns, bucket: BucketSettings, book: PriceBook, days: NDArray[np.float64]
) -> ObjectColumns:
    """Give the objects of a bucket whose autopilot is on: in its class, whatever class the inventory shows.

    But where objects may leave it, the inventory has to tell which are in it: those that it shows in another class have
    that one for good.

    days : since each object came, shape (N,); its provider moves it on without our knowing.
    Raises ``SettingsError`` when the price book has no such autopilot.
    """
    names = _settings(book)
    if not names:
        raise SettingsError(
            f"{bucket.bucket}: the estate says that an autopilot of the whole bucket is on or may be left, and price "
            f"book {book.name} has none: leave `autopilot` and `leave_autopilot` out"
        )
    if bucket.leave_autopilot:
        return replace(objects, days_in_class=np.where(objects.current_class == names[0], days, objects.days_in_class))
    return replace(
        objects, current_class=np.full(len(objects), names[0], dtype=object), days_in_class=days, pinned_class=None
    )


def _settings(book: PriceBook) -> list[str]:
    """Name the autopilots that are settings of a bucket or account."""
    return [prices.storage_class for prices in book.classes if prices.is_setting_of_whole]


def _object_columns(
    inventory: pa.Table, forecasts: AccessForecasts, bucket: BucketSettings, day: date
) -> tuple[ObjectColumns, NDArray[np.object_]]:
    """Give one bucket's objects as the policy takes them, and the latency that each one's owner accepts."""
    keys, count = inventory["key"], inventory.num_rows
    excluded = np.zeros(count, dtype=np.bool_)
    for prefix in bucket.excluded_prefixes:
        excluded |= pc.starts_with(keys, prefix).to_numpy()
    latencies = np.full(count, Latency(bucket.latency), dtype=object)
    pinned = np.full(count, None, dtype=object)
    retention = np.full(count, bucket.min_retention_days, dtype=np.float64)
    for below in sorted(bucket.prefixes, key=lambda below: len(below.prefix)):  # the longest is the last to speak
        rows = pc.starts_with(keys, below.prefix).to_numpy()
        if below.latency is not None:
            latencies[rows] = Latency(below.latency)
        if below.pinned_class is not None:
            pinned[rows] = below.pinned_class
        if below.min_retention_days is not None:
            retention[rows] = below.min_retention_days
    objects = ObjectColumns(
        size_bytes=inventory["size_bytes"].to_numpy(),
        current_class=_texts(inventory["storage_class"]),
        days_in_class=_days_since(inventory["class_since_at"], day),
        idle_days=forecasts.idle_days,
        expected_reads=forecasts.expected_reads,
        expected_read_bytes=forecasts.expected_read_bytes,
        probability_any=forecasts.probability_any,
        confidence=forecasts.confidence,
        from_rules=forecasts.from_rules,
        excluded=excluded,
        lock_reason=_texts(inventory["lock_reason"]),
        usage_state=forecasts.usage_state,
        pinned_class=pinned,
        retained=_days_since(inventory["last_modified_at"], day) < retention,
    )
    return objects, latencies


def history_from(logged_from: date | None, day: date, history_days: int) -> date:
    """Tell the first day of the history that is looked at."""
    first = day - timedelta(days=history_days)
    return first if logged_from is None else max(logged_from, first)


def chain_reads(forecasts: AccessForecasts) -> NDArray[np.float64]:
    """Give the reads that the usage chain expects on the day itself, NaN where it does not speak; shape (N,)."""
    if forecasts.usage_chain is None or forecasts.usage_state is None:
        return np.full(len(forecasts), np.nan)
    return np.where(forecasts.usage_state >= 0, forecasts.usage_chain.reads[forecasts.usage_state], np.nan)


def kept(decisions: Decisions, reason: str) -> Decisions:
    """Keep every object where it is, with what was weighed and one reason."""
    nothing = np.zeros(len(decisions))
    return replace(
        decisions,
        chosen_class=decisions.current_class,
        moves=np.zeros(len(decisions), dtype=np.bool_),
        reasons=Phrases.same(reason, len(decisions)),
        chosen_usd=decisions.stay_usd,
        one_time_usd=nothing,
        saving_usd=nothing,
        payback_days=np.full(len(decisions), np.nan),
        chosen_monthly_usd=decisions.current_monthly_usd,
    )


def _of_buckets(inventory: pa.Table, named: Mapping[tuple[str, str], BucketSettings]) -> pa.Table:
    """Keep the rows whose bucket the estate names."""
    kept = np.zeros(inventory.num_rows, dtype=np.bool_)
    for bucket, rows in _rows_by_bucket(inventory):
        kept[rows] = bucket in named
    return inventory if bool(kept.all()) else inventory.filter(pa.array(kept))


def _rows_by_bucket(inventory: pa.Table) -> Iterable[tuple[tuple[str, str], NDArray[np.int64]]]:
    """Give each bucket's (provider, bucket) and the places of its rows, by name."""
    pairs = inventory.select(["provider", "bucket"]).group_by(["provider", "bucket"]).aggregate([])
    names = sorted(zip(pairs["provider"].to_pylist(), pairs["bucket"].to_pylist(), strict=True))
    for provider, bucket in names:
        mine = pc.and_(pc.equal(inventory["provider"], provider), pc.equal(inventory["bucket"], bucket))
        yield (provider, bucket), np.flatnonzero(mine.to_numpy())


def forecast_rows(forecasts: AccessForecasts, rows: NDArray[np.int64]) -> AccessForecasts:
    """Give the forecasts of some objects, named in order and each once; those of all are not copied."""
    if len(rows) == len(forecasts):
        return forecasts
    return AccessForecasts(
        horizon_days=forecasts.horizon_days,
        expected_reads=forecasts.expected_reads[rows],
        expected_read_bytes=forecasts.expected_read_bytes[rows],
        bytes_per_read=forecasts.bytes_per_read[rows],
        probability_any=forecasts.probability_any[rows],
        horizon_expected_reads=forecasts.horizon_expected_reads[rows],
        horizon_probability_any=forecasts.horizon_probability_any[rows],
        band=forecasts.band[rows],
        tier=forecasts.tier[rows],
        confidence=forecasts.confidence[rows],
        source=forecasts.source[rows],
        from_rules=forecasts.from_rules[rows],
        reads_30_days=forecasts.reads_30_days[rows],
        last_read_days=forecasts.last_read_days[rows],
        idle_days=forecasts.idle_days[rows],
        usage_state=None if forecasts.usage_state is None else forecasts.usage_state[rows],
        usage_chain=forecasts.usage_chain,
    )


def _days_since(moments: pa.ChunkedArray, day: date) -> NDArray[np.float64]:
    """Give the days from each moment to the start of ``day``, at least 0."""
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1_000_000)
    days: NDArray[np.float64] = (start - moments.cast(pa.int64()).to_numpy()) / 86_400_000_000
    return np.maximum(days, 0.0)


def _texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Give a column of few distinct texts as Python's strings, None for null: each distinct text is one string."""
    encoded = column.dictionary_encode().unify_dictionaries()
    distinct = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    codes = [chunk.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    texts: NDArray[np.object_] = np.array([*distinct, None], dtype=object)[
        np.concatenate([np.empty(0, dtype=np.int32), *codes])
    ]
    return texts


def _rows_of(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Give some rows, named in order and each once; all of them are not copied."""
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))


def _count_moves(decisions: Any) -> int:
    return int(pc.sum(pc.equal(decisions.column("action"), "move")).as_py() or 0)


def _count_withheld(decisions: Any) -> int:
    return int(pc.sum(pc.starts_with(decisions.column("reason"), WITHHELD)).as_py() or 0)
