"""Explain one object's decision: decide it anew as scoring does, and tell what every candidate's cost is made of.

The forecast of an object looks at its siblings, so all objects of its bucket in its shard are forecast; nothing else
is read. What is told comes from the functions that decide: ``decide`` for the figures that are compared, and
``expected_life`` (objects with a state of use) or ``explain_cost`` (the others) for the parts that they are the sum of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.errors import ObjectNotFound, SettingsError, TerminalError
from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.policy import Decisions, PolicySettings, decide
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.rules import classify
from cloudflux.domain.tiers import Provider
from cloudflux.lake.shards import shard_of
from cloudflux.workflows.bucket_autopilots import autopilot_proposals
from cloudflux.workflows.explained_costs import candidates_of, ruled_out
from cloudflux.workflows.explanation import (
    ExplainedDecision,
    ExplainedForecast,
    ExplainedGuard,
    ExplainedHistory,
    ExplainedObject,
    ExplainedState,
    Explanation,
    HorizonForecast,
    PricesUsed,
    StoredDecision,
    WindowAccess,
)
from cloudflux.workflows.lake_ports import PublishedLake
from cloudflux.workflows.placements import Placements
from cloudflux.workflows.refutations import Refutations
from cloudflux.workflows.score import (
    HISTORY_COLUMNS,
    Forecast,
    OwnerGroup,
    forecast_rows,
    history_from,
    kept,
    latest_inventory_day,
    owner_groups,
)
from cloudflux.workflows.surprises import Surprises, told_so_far

SHOWN_DAYS: Final = 90
"""How many days of daily reads an explanation shows."""


class AddressMalformed(TerminalError, ValueError):
    """What was given is no object's address; the text names it."""


class BucketNotInEstate(SettingsError):
    """The estate file does not name the object's bucket; the text names both."""


class NothingToExplain(TerminalError):
    """There is no inventory yet, so that no object is known."""


def parse_address(text: str) -> ObjectRef:
    """Parse an object's address. Raises ``AddressMalformed`` naming the text when it is none."""
    try:
        ref = ObjectRef.from_uri(text)
        ref.key.encode()  # a shell may hand over bytes that are no text
    except ValueError as exc:
        said = "the address is no UTF-8" if isinstance(exc, UnicodeError) else str(exc)
        raise AddressMalformed(said) from exc
    return ref


def explain_object(
    ref: ObjectRef,
    *,
    day: date,
    lake: PublishedLake,
    shards: int,
    forecast: Forecast,
    estate: Estate,
    books: Mapping[str, PriceBook],
    policy: PolicySettings,
    history_days: int,
    coverage: Mapping[tuple[str, str], RecentCoverage],
    placements: Placements | None = None,
    why_rules: str | None = None,
) -> Explanation:
    """Decide one object anew, as ``score_shard`` would on ``day``, and give all that the decision hangs on.

    why_rules : why no model speaks, where ``forecast`` has none.
    Raises ``BucketNotInEstate``, ``NothingToExplain`` without any inventory, and ``ObjectNotFound`` when the newest one
    does not have the object.
    """
    provider = str(ref.provider)
    bucket = _bucket_of(ref, estate)
    try:
        snapshot = latest_inventory_day(lake, day)
    except TerminalError as exc:
        raise NothingToExplain(f"{ref.uri} cannot be explained: {exc}") from exc
    shard = shard_of(provider, ref.bucket, ref.key, shards)
    inventory = _rows_of_bucket(lake, "inventory", [snapshot], ref, shard=shard)
    row = _place_of(ref, inventory, snapshot)
    logged = [known for known in lake.days("daily_access") if known < day]
    window = (day - timedelta(days=history_days), day - timedelta(days=1))
    access = _rows_of_bucket(
        lake, "daily_access", window, ref, shard=shard, columns=[*HISTORY_COLUMNS, "excluded_reads"]
    )
    forecasts = forecast(
        inventory,
        access.select(HISTORY_COLUMNS),
        day,
        policy.horizon_days,
        history_start=logged[0] if logged else None,
    )
    book = books[bucket.price_book]
    surprises = told_so_far(lake, inventory, day, shard)
    refutations = None
    if surprises is not None:
        refutations = Refutations.of(surprises, access, history_from(logged[0] if logged else None, day, history_days))
    group, place = _group_of(
        row,
        owner_groups(
            inventory,
            forecasts,
            bucket,
            book,
            policy=policy,
            day=day,
            placements=Placements() if placements is None else placements,
            refutations=refutations,
        ),
    )
    mine = OwnerGroup(
        group.rows[[place]], group.objects.take(np.array([place])), group.limits, group.usage, group.read_share
    )
    decisions = decide(mine.objects, book, mine.limits, policy, mine.usage)
    guard = None if surprises is None else _guard(surprises, row)
    if refutations is not None:
        decisions = refutations.take(mine.rows).told(decisions, mine.objects)
    told = coverage.get((provider, ref.bucket), RecentCoverage(0.0, 0, problem="its coverage was never measured"))
    withheld = told.withheld(bucket.min_coverage)
    if withheld is not None:
        decisions = kept(decisions, withheld)
    listed = inventory.slice(row, 1).to_pylist()[0]
    expected = forecast_rows(forecasts, np.array([row]))
    rules = classify(expected.reads_30_days, expected.last_read_days)
    by_usage = _placed_by_usage(mine, book)
    return Explanation(
        uri=ref.uri,
        provider=provider,
        bucket=ref.bucket,
        key=ref.key,
        day=day,
        inventory_day=snapshot,
        object=_explained_object(listed, mine, bucket),
        history=_history(access.filter(pc.equal(access["key"], ref.key)), day, logged, history_days, told.coverage),
        forecast=_explained_forecast(expected, why_rules),
        decision=_explained_decision(
            decisions, day, by_usage=by_usage, refuted=guard is not None and guard.refuted_until is not None
        ),
        candidates=candidates_of(mine, decisions, book, policy, by_usage=by_usage),
        ruled_out=ruled_out(mine, decisions, book),
        rule_class=str(rules.storage_classes(Provider(provider))[0]),
        rule_reason=str(rules.reasons[0]),
        prices=PricesUsed(book.name, book.region, book.redundancy, book.seen_on),
        stored=_stored(lake, ref, shard, decisions),
        guard=guard,
        bucket_autopilot=next(
            (one for one in autopilot_proposals(lake) if one.provider == provider and ref.bucket in one.buckets), None
        ),
    )


def _bucket_of(ref: ObjectRef, estate: Estate) -> BucketSettings:
    try:
        return estate.bucket(str(ref.provider), ref.bucket)
    except SettingsError as exc:
        raise BucketNotInEstate(f"{ref.uri} is not looked after: {exc}") from exc


def _rows_of_bucket(
    lake: PublishedLake,
    dataset: str,
    days: Collection[date] | tuple[date, date],
    ref: ObjectRef,
    *,
    shard: int,
    columns: list[str] | None = None,
) -> pa.Table:
    mine = (pc.field("provider") == str(ref.provider)) & (pc.field("bucket") == ref.bucket)
    return lake.dataset(dataset, days=days, shard=shard).to_table(columns=columns, filter=mine)


def _guard(surprises: Surprises, row: int) -> ExplainedGuard | None:
    """Tell one object's account; None when it is empty."""
    usd, until = float(surprises.accounts.usd[row]), int(surprises.until()[row])
    if surprises.model is None or not (usd or until):
        return None
    return ExplainedGuard(usd, date.fromordinal(until) if until else None, surprises.since, surprises.model)


def _place_of(ref: ObjectRef, inventory: pa.Table, snapshot: date) -> int:
    places = np.flatnonzero(pc.equal(inventory["key"], ref.key).to_numpy())
    if not len(places):
        raise ObjectNotFound(
            f"{ref.uri} is not in the inventory of {snapshot}: see whether the key is spelt so (special characters are "
            "quoted as %20), or whether it came later"
        )
    return int(places[0])


def _group_of(row: int, groups: Iterable[OwnerGroup]) -> tuple[OwnerGroup, int]:
    """Find the group that an object is in, and its place there."""
    for group in groups:
        places = np.flatnonzero(group.rows == row)
        if len(places):
            return group, int(places[0])
    raise AssertionError("every object accepts some latency")


def _placed_by_usage(mine: OwnerGroup, book: PriceBook) -> bool:
    """Tell whether ``decide`` weighs the object by its state of use: the same conditions."""
    objects, usage = mine.objects, mine.usage
    if usage is None or objects.usage_state is None or objects.usage_state[0] < 0:
        return False
    pinned = objects.pinned_class is not None and int(book.codes_of(objects.pinned_class)[0]) >= 0
    return not pinned and str(objects.current_class[0]) in usage.tables.class_names


def _explained_object(listed: Mapping[str, Any], mine: OwnerGroup, bucket: BucketSettings) -> ExplainedObject:
    objects = mine.objects
    return ExplainedObject(
        size_bytes=int(listed["size_bytes"]),
        storage_class=listed["storage_class"],
        tier=listed["tier"],
        class_since_at=listed["class_since_at"],
        days_in_class=float(objects.days_in_class[0]),
        last_modified_at=listed["last_modified_at"],
        content_type=listed["content_type"],
        lock_reason=listed["lock_reason"],
        excluded_prefix=next((one for one in bucket.excluded_prefixes if listed["key"].startswith(one)), None),
        pinned_class=None if objects.pinned_class is None else objects.pinned_class[0],
        retained=objects.retained is not None and bool(objects.retained[0]),
        latency=str(mine.limits.latency),
    )


def _history(access: pa.Table, day: date, logged: list[date], history_days: int, coverage: float) -> ExplainedHistory:
    """Count what the logs hold of one object; ``access`` has its rows only."""
    rows = access.select(["day", "reads", "writes", "excluded_reads"]).to_pylist()
    first = day - timedelta(days=SHOWN_DAYS)
    reads = [0] * SHOWN_DAYS
    for one in rows:
        if one["day"] >= first:
            reads[(one["day"] - first).days] += one["reads"]
    windows = []
    for days in FORECAST_HORIZONS:
        inside = [one for one in rows if one["day"] >= day - timedelta(days=days)]
        figures = (sum(one[name] for one in inside) for name in ("reads", "writes", "excluded_reads"))
        windows.append(WindowAccess(days, *figures))
    return ExplainedHistory(
        known_since=max(logged[0], day - timedelta(days=history_days)) if logged else None,
        first_day=first,
        daily_reads=tuple(reads),
        windows=tuple(windows),
        last_read_on=max((one["day"] for one in rows if one["reads"]), default=None),
        last_written_on=max((one["day"] for one in rows if one["writes"]), default=None),
        coverage=coverage,
    )


def _explained_forecast(expected: AccessForecasts, why_rules: str | None) -> ExplainedForecast:
    """Tell one object's forecast."""
    chain, state = expected.usage_chain, None
    by_state: list[tuple[float | None, float | None]] = [(None, None)] * len(FORECAST_HORIZONS)
    if chain is not None and expected.usage_state is not None and expected.usage_state[0] >= 0:
        number = int(expected.usage_state[0])
        reads = chain.daily_reads(max(FORECAST_HORIZONS))[number].cumsum()
        by_state = [(float(chain.chance_of_reads(days)[number]), float(reads[days - 1])) for days in FORECAST_HORIZONS]
        state = ExplainedState(
            state=number,
            states=len(chain),
            chance_of_read_a_day=float(chain.read[number].sum()),
            expected_reads_a_day=float(chain.reads[number]),
            learnt_from_days=float(chain.seen[number]),
        )
    ruled = bool(expected.from_rules[0])
    return ExplainedForecast(
        source=str(expected.source[0]),
        note=(why_rules or "the access logs do not tell enough of this object for the model") if ruled else None,
        tier=str(expected.tier[0]),
        confidence=float(expected.confidence[0]),
        horizons=tuple(
            HorizonForecast(
                days,
                float(expected.horizon_probability_any[0, place]),
                float(expected.horizon_expected_reads[0, place]),
                *by_state[place],
            )
            for place, days in enumerate(FORECAST_HORIZONS)
        ),
        state=state,
    )


def _explained_decision(decisions: Decisions, day: date, *, by_usage: bool, refuted: bool) -> ExplainedDecision:
    payback = float(decisions.payback_days[0])
    moves = bool(decisions.moves[0])
    known = moves and math.isfinite(payback)
    return ExplainedDecision(
        action="move" if moves else "keep",
        chosen_class=str(decisions.chosen_class[0]),
        reason=str(decisions.reason[0]),
        horizon_days=decisions.horizon_days,
        expected_reads=float(decisions.expected_reads[0]),
        placed_by="break-even" if refuted else "state of use" if by_usage else "expected reads",
        stay_usd=float(decisions.stay_usd[0]),
        chosen_usd=float(decisions.chosen_usd[0]),
        one_time_usd=float(decisions.one_time_usd[0]),
        saving_usd=float(decisions.saving_usd[0]),
        payback_days=payback if known else None,
        payback_on=day + timedelta(days=math.ceil(payback)) if known else None,
        current_monthly_usd=float(decisions.current_monthly_usd[0]),
        chosen_monthly_usd=float(decisions.chosen_monthly_usd[0]),
    )


def _stored(lake: PublishedLake, ref: ObjectRef, shard: int, decisions: Decisions) -> StoredDecision | None:
    """Give what the newest published decisions say of the object, or None."""
    days = lake.days("decisions")
    if not days:
        return None
    rows = _of_object(
        _rows_of_bucket(
            lake,
            "decisions",
            days[-1:],
            ref,
            shard=shard,
            columns=["key", "day", "action", "chosen_class", "reason", "saving_usd"],
        ),
        ref,
    )
    if not rows:
        return None
    forecasts = _of_object(
        _rows_of_bucket(lake, "forecasts", days[-1:], ref, shard=shard, columns=["key", "source"]), ref
    )
    found = rows[0]
    action = "move" if decisions.moves[0] else "keep"
    return StoredDecision(
        day=found["day"],
        action=found["action"],
        chosen_class=found["chosen_class"],
        reason=found["reason"],
        saving_usd=found["saving_usd"],
        source=forecasts[0]["source"] if forecasts else None,
        agrees=(found["action"], found["chosen_class"]) == (action, str(decisions.chosen_class[0])),
    )


def _of_object(rows: pa.Table, ref: ObjectRef) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.filter(pc.equal(rows["key"], ref.key)).to_pylist()
    return found
