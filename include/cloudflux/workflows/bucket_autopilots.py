"""Weigh the autopilots of whole buckets while scoring, and tell what switching them on is expected to bring.

A task that scores a shard adds up its objects' costs by bucket: one row for each bucket in the dataset
``bucket_autopilots``. Adding up the shards' rows gives the proposals. CloudFlux proposes: it never switches such an
autopilot on or off, that is left to whoever owns the bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cloudflux.config import BucketSettings
from cloudflux.domain.accounting import Tariff, tariff_of
from cloudflux.domain.bucket_autopilots import (
    MIN_HISTORY_DAYS,
    AutopilotLife,
    AutopilotProposal,
    autopilot_life,
    settable_autopilot,
)
from cloudflux.domain.costs import Codes, Floats, demand_of, running_usd, usd
from cloudflux.domain.policy import Decisions, LearntUsage, ObjectColumns, OwnerLimits, PolicySettings, may_leave
from cloudflux.domain.prices import GIB_BYTES, MONTH_DAYS, AutopilotScope, PriceBook
from cloudflux.domain.usage import UsageChain
from cloudflux.lake.schemas import BUCKET_AUTOPILOTS
from cloudflux.workflows.lake_ports import PublishedLake
from cloudflux.workflows.placements import Placements

_SUMS: Final = (
    "objects", "bytes", "present_usd", "own_usd", "own_once_usd", "switched_usd", "entry_usd", "monitoring_usd",
    "outside", "by_rules", "kept_by_owner",
)  # fmt: skip
_PLACES: Final = 10
_CHUNK_ROWS: Final = 131_072  # of matrices with a column for each class


@dataclass(slots=True)
class AutopilotBids:
    """What one shard's objects are expected to cost under the autopilots of their buckets, added up by bucket."""

    day: date
    known_days: int
    """Of history."""
    policy: PolicySettings
    placements: Placements
    _rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _lives: dict[tuple[str, str], AutopilotLife] = field(default_factory=dict)

    def add(
        self,
        bucket: BucketSettings,
        book: PriceBook,
        *,
        objects: ObjectColumns,
        limits: OwnerLimits,
        decisions: Decisions,
        chain: UsageChain | None,
        read_share: float,
        withheld: str | None,
    ) -> None:
        """Add objects of one bucket, as they were decided, before anything was withheld.

        Where its owner lets single objects leave the autopilot, that counts as what is best for them inside.
        """
        code = settable_autopilot(book)
        if code is None or bucket.autopilot:
            return
        row = self._row(bucket, book, code)
        if problem := self._problem(book, code, limits, chain, withheld):
            row["problem"] = problem
        if chain is None or not len(objects):
            return
        known = book.codes_of(objects.current_class)
        own = _own_usd(decisions, np.where(known >= 0, known, book.standard_code))
        row["present_usd"] += float(decisions.stay_usd.sum())
        row["own_usd"] += float(own.sum())
        row["own_once_usd"] += float(decisions.one_time_usd[decisions.moves].sum())
        leaving = None
        if bucket.leave_autopilot and may_leave(
            book.classes[code], open_limits := replace(limits, leave_autopilot=True)
        ):
            inside = {book.classes[code].storage_class}
            leaving = self.placements.usage(
                chain, book, open_limits, self.policy, present=inside, read_share=read_share
            )
        for start in range(0, len(objects), _CHUNK_ROWS):
            some = slice(start, start + _CHUNK_ROWS)
            for name, value in self._sums(
                book, code, objects.take(some), own=own[some], chain=chain, leaving=leaving
            ).items():
                row[name] += value

    def table(self) -> pa.Table:
        """Give the rows of the dataset ``bucket_autopilots``."""
        return pa.Table.from_pylist([row for _, row in sorted(self._rows.items())], BUCKET_AUTOPILOTS)

    def _row(self, bucket: BucketSettings, book: PriceBook, code: int) -> dict[str, Any]:
        key = (str(bucket.provider), bucket.bucket)
        if key not in self._rows:
            prices = book.classes[code]
            account = prices.autopilot is not None and prices.autopilot.scope == AutopilotScope.ACCOUNT
            self._rows[key] = {
                "provider": key[0],
                "bucket": key[1],
                "day": self.day,
                "scope": str(AutopilotScope.ACCOUNT if account else AutopilotScope.BUCKET),
                "setting_of": bucket.connection_id if account else bucket.bucket,
                "storage_class": prices.storage_class,
                "price_book": book.name,
                "horizon_days": self.policy.horizon_days,
                "problem": None,
                **dict.fromkeys(_SUMS, 0),
            }
        return self._rows[key]

    def _problem(
        self, book: PriceBook, code: int, limits: OwnerLimits, chain: UsageChain | None, withheld: str | None
    ) -> str | None:
        """Say why nothing can be proposed for a bucket, or None."""
        name = book.classes[code].storage_class
        if limits.allowed_classes is not None and name not in limits.allowed_classes:
            return f"{name} is not among the classes that its owner allows"
        if withheld is not None:
            return withheld
        if chain is None:
            return "no model speaks: how objects are used is not known"
        if self.known_days < MIN_HISTORY_DAYS:
            return f"the access logs tell of {self.known_days} days, and {MIN_HISTORY_DAYS} are needed"
        return None

    def _sums(
        self,
        book: PriceBook,
        code: int,
        objects: ObjectColumns,
        *,
        own: Floats,
        chain: UsageChain,
        leaving: LearntUsage | None,
    ) -> dict[str, float]:
        """Add up what hangs on the autopilot; ``own`` is what each object is expected to cost without it.

        leaving : the tables by which objects may leave it; then its monitoring is counted as if none did.
        """
        sizes = np.asarray(objects.size_bytes, dtype=np.float64)
        known = book.codes_of(objects.current_class)
        tariff = tariff_of(book, sizes, by_client=True)
        rows = np.arange(len(sizes))
        current = np.where(known >= 0, known, book.standard_code)
        moves, owed = tariff.moving_usd(rows, current, np.full(len(rows), code), _whole_days(objects.days_in_class))
        entry = moves + owed
        enters = np.isfinite(entry) & (known >= 0) & (known != code)
        inside, monitoring = self._inside_usd(book, tariff, code, objects, chain)
        kept = objects.excluded | _given(objects.lock_reason) | _given(objects.pinned_class, len(sizes))
        if objects.retained is not None:
            kept = kept | objects.retained
        placed = np.zeros(len(sizes), np.bool_) if objects.usage_state is None else objects.usage_state >= 0
        if leaving is not None and objects.usage_state is not None:
            free = np.flatnonzero(placed & ~kept)
            new = np.zeros(len(free))
            left = leaving.costs(objects.usage_state[free], sizes[free], np.full(len(free), code), new, new)
            inside[free] = np.minimum(inside[free], left.expected_usd[:, code])
        return {
            "objects": len(sizes),
            "bytes": int(sizes.sum()),
            "switched_usd": float(np.where(enters, inside + np.where(enters, entry, 0.0), own).sum()),
            "entry_usd": float(entry[enters].sum()),
            "monitoring_usd": float(monitoring[enters].sum()),
            "outside": int((~enters).sum()),
            "by_rules": int((~placed).sum()),
            "kept_by_owner": int(kept.sum()),
        }

    def _inside_usd(
        self, book: PriceBook, tariff: Tariff, code: int, objects: ObjectColumns, chain: UsageChain
    ) -> tuple[Floats, Floats]:
        """Give what being inside from today on costs over the horizon, and the monitoring in it; shape (N,)."""
        sizes = np.asarray(objects.size_bytes, dtype=np.float64)
        autopilot = tariff.autopilots[code]
        if autopilot is None:
            raise AssertionError("an autopilot has the terms of one")
        horizon = self.policy.horizon_days
        demand = demand_of(
            sizes,
            objects.expected_reads,
            horizon,
            read_bytes=objects.expected_read_bytes,
            probability_any=objects.probability_any,
        )
        by_reads: Floats = running_usd(book, demand)[:, code]
        monitoring = autopilot.monitoring_usd_day * horizon
        if objects.usage_state is None:
            return by_reads, monitoring
        key = (chain.fingerprint, book.name)
        if key not in self._lives:
            self._lives[key] = autopilot_life(
                chain, autopilot, horizon, deleted_share_year=self.policy.deleted_share_year
            )
        life, states = self._lives[key], np.maximum(objects.usage_state, 0)
        warm = tariff.storage_usd_day[:, code] * life.days
        storage = np.where(
            autopilot.watched,
            sizes / GIB_BYTES * life.storage_usd_gib[states]
            + autopilot.monitoring_usd_day * life.days
            + autopilot.promotion_usd * life.promotions[states],
            warm,
        )
        reading = life.reads[states] * (
            tariff.request_usd[code] + _read_gib(objects, sizes) * tariff.retrieval_usd_gib[code]
        )
        placed = objects.usage_state >= 0
        return np.where(placed, storage + reading, by_reads), np.where(
            placed, autopilot.monitoring_usd_day * life.days, monitoring
        )


def autopilot_proposals(lake: PublishedLake, day: date | None = None) -> list[AutopilotProposal]:
    """Give what was weighed with the decisions of a day, or of the newest one, by provider and name.

    Those that are to be switched on say so (``is_proposed``). Nothing is there where no bucket could have an autopilot.
    """
    known = [one for one in lake.days("bucket_autopilots") if day is None or one == day]
    if not known:
        return []
    rows = lake.dataset("bucket_autopilots", days=[known[-1]]).to_table().to_pylist()
    settings: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault((row["provider"], row["setting_of"], row["price_book"]), []).append(row)
    return [_proposal(rows) for _, rows in sorted(settings.items())]


def as_json(found: Sequence[AutopilotProposal]) -> list[dict[str, Any]]:
    """Give proposals as JSON values, money as text, with whether each is to be switched on and the sentence for it."""
    plain: list[dict[str, Any]] = _adapter().dump_python(list(found), mode="json")
    return [
        row | {"is_proposed": one.is_proposed, "saving_usd": str(one.saving_usd), "described": one.described()}
        for one, row in zip(found, plain, strict=True)
    ]


@cache
def _adapter() -> TypeAdapter[list[AutopilotProposal]]:
    return TypeAdapter(list[AutopilotProposal])


def _proposal(rows: list[dict[str, Any]]) -> AutopilotProposal:
    first = rows[0]
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    month = MONTH_DAYS / first["horizon_days"]
    return AutopilotProposal(
        provider=first["provider"],
        scope=first["scope"],
        setting_of=first["setting_of"],
        buckets=tuple(sorted({row["bucket"] for row in rows})),
        storage_class=first["storage_class"],
        price_book=first["price_book"],
        day=first["day"],
        horizon_days=first["horizon_days"],
        objects=sums["objects"],
        bytes=sums["bytes"],
        present_usd=usd(sums["present_usd"], _PLACES),
        own_usd=usd(sums["own_usd"], _PLACES),
        own_usd_month=usd((sums["own_usd"] - sums["own_once_usd"]) * month, _PLACES),
        switched_usd=usd(sums["switched_usd"], _PLACES),
        switched_usd_month=usd((sums["switched_usd"] - sums["entry_usd"]) * month, _PLACES),
        entry_usd=usd(sums["entry_usd"], _PLACES),
        monitoring_usd_month=usd(sums["monitoring_usd"] * month, _PLACES),
        outside=sums["outside"],
        by_rules=sums["by_rules"],
        kept_by_owner=sums["kept_by_owner"],
        problems=tuple(sorted({f"{row['bucket']}: {row['problem']}" for row in rows if row["problem"]})),
    )


def _own_usd(decisions: Decisions, current: Codes) -> Floats:
    """Give what each object is expected to cost in classes of its own, shape (N,).

    One that stays for now may still move later, where it may move at all; ``stay_usd`` is staying for good.
    """
    wait = decisions.candidate_usd[np.arange(len(current)), current]
    free = decisions.weighed.sum(axis=1) > 1
    stays = np.where(free & np.isfinite(wait), np.minimum(wait, decisions.stay_usd), decisions.stay_usd)
    return np.where(decisions.moves, decisions.chosen_usd, stays)


def _read_gib(objects: ObjectColumns, sizes: Floats) -> Floats:
    """Give how much a read is expected to read, shape (N,)."""
    reads = np.asarray(objects.expected_reads, dtype=np.float64)
    per_read: Floats = np.divide(objects.expected_read_bytes, reads, out=sizes.copy(), where=reads > 0)
    return per_read / GIB_BYTES


def _whole_days(days: Floats) -> NDArray[np.int64]:
    return np.floor(np.minimum(days, 1e6)).astype(np.int64)


def _given(column: NDArray[np.object_] | None, count: int = 0) -> NDArray[np.bool_]:
    """Tell where a column holds something."""
    if column is None:
        return np.zeros(count, dtype=np.bool_)
    given: NDArray[np.bool_] = np.not_equal(column, np.array(None, dtype=object)).astype(np.bool_)
    return given
