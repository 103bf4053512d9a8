"""Explain one object's decision: decide it anew as scoring does, and tell what every candidate's cost is made of.

The forecast of an object looks at its siblings, so all objects of its bucket in its shard are forecast; nothing else
is read. What is told comes from the functions that decide: ``decide`` for the figures that are compared, and
``expected_life`` (objects with a state of use) or ``explain_cost`` (the others) for the parts that they are the sum of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.accounting import EARLY_DELETION
from cloudflux.domain.bucket_autopilots import AutopilotProposal
from cloudflux.domain.costs import early_deletion_usd
from cloudflux.domain.coverage import RecentCoverage
from cloudflux.domain.errors import ObjectNotFound, SettingsError, TerminalError
from cloudflux.domain.expected_life import expected_life
from cloudflux.domain.explain import Outlook, explain_cost
from cloudflux.domain.forecasts import FORECAST_HORIZONS, AccessForecasts
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.policy import Decisions, LearntUsage, PolicySettings, barred_by, decide
from cloudflux.domain.prices import AutopilotScope, PriceBook
from cloudflux.domain.rules import classify
from cloudflux.domain.tiers import Provider
from cloudflux.lake.shards import shard_of
from cloudflux.workflows.bucket_autopilots import autopilot_proposals
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
_SAME: Final = 1e-3  # the tables hold 32-bit figures: less than this is no difference


class AddressMalformed(TerminalError, ValueError):
    """What was given is no object's address; the text names it."""


class BucketNotInEstate(SettingsError):
    """The estate file does not name the object's bucket; the text names both."""


class NothingToExplain(TerminalError):
    """There is no inventory yet, so that no object is known."""


class ExplainedLake(Protocol):
    """What explaining needs of the lake."""

    def days(self, dataset: str) -> list[date]:
        """List the published days, oldest first."""

    def dataset(
        self,
        dataset: str,
        *,
        days: Collection[date] | tuple[date, date] | None = None,
        shard: int | None = None,
    ) -> Any:
        """Give published rows as a lazy ``pyarrow.dataset.Dataset``; a tuple of two days is an inclusive range."""


@dataclass(frozen=True, slots=True)
class ExplainedObject:
    """The object as the newest inventory has it, and what its owner wants of it."""

    size_bytes: int
    storage_class: str
    tier: str
    class_since_at: datetime
    days_in_class: float
    last_modified_at: datetime
    content_type: str | None
    lock_reason: str | None
    excluded_prefix: str | None
    """The prefix that its owner excluded it with, or None."""
    pinned_class: str | None
    retained: bool
    """Whether it is younger than its owner's minimum retention."""
    latency: str
    """The slowest first byte that its owner accepts: ``ms`` or ``hours``."""


@dataclass(frozen=True, slots=True)
class WindowAccess:
    """What the logs hold of the last days."""

    days: int
    reads: int
    writes: int
    excluded_reads: int
    """Reads by agents that the estate excludes; they do not count."""


@dataclass(frozen=True, slots=True)
class ExplainedHistory:
    """What the access logs tell of the object before the day of the decision."""

    known_since: date | None
    """The first day that is looked at; None when nothing was logged. Windows that begin before it hold less."""
    first_day: date
    """The day of the first figure of ``daily_reads``."""
    daily_reads: tuple[int, ...]
    """Of the last 90 days, the oldest first."""
    windows: tuple[WindowAccess, ...]
    """Over the last 7, 30, 90 and 180 days."""
    last_read_on: date | None
    last_written_on: date | None
    coverage: float
    """How much of the last month the bucket's access logs tell, 0 to 1."""


@dataclass(frozen=True, slots=True)
class HorizonForecast:
    """What is expected of the next days."""

    days: int
    probability_any: float
    """Of at least one read, by the forecaster."""
    expected_reads: float
    state_probability_any: float | None
    """The same by the object's state of use, which is what the costs are made with; None without one."""
    state_expected_reads: float | None


@dataclass(frozen=True, slots=True)
class ExplainedState:
    """The object's state of use in the chain that the forecaster learnt."""

    state: int
    states: int
    """How many there are."""
    chance_of_read_a_day: float
    expected_reads_a_day: float
    learnt_from_days: float
    """Days of objects that the state was learnt from."""


@dataclass(frozen=True, slots=True)
class ExplainedGuard:
    """What the object's reads have cost beyond what the usage chain had led to expect, see ``domain.surprise``."""

    surprise_usd: float
    """What is in the account."""
    refuted_until: date | None
    """Until that day break-even decides; None: the chain does."""
    since: date
    """When the accounts began."""
    model: str
    """Whose chain they began with."""


@dataclass(frozen=True, slots=True)
class ExplainedForecast:
    """What is expected of the object, and who says so."""

    source: str
    """``model:<version>`` or ``rules``."""
    note: str | None
    """Why the rules speak, where they do."""
    tier: str
    confidence: float
    """The probability of the tier, 0 to 1."""
    horizons: tuple[HorizonForecast, ...]
    """Over 7, 30, 90 and 180 days."""
    state: ExplainedState | None


@dataclass(frozen=True, slots=True)
class CandidateCost:
    """What one choice is expected to cost over the horizon, part by part, in USD."""

    option: Literal["move", "keep", "wait"]
    """``keep``: stay there for good, what a move is weighed with; ``wait``: stay for now, and move later where the best
    is to move later; ``move``: move there today, and do the best afterwards."""
    storage_class: str
    chosen: bool
    storage_usd: float
    monitoring_usd: float
    requests_usd: float
    retrieval_usd: float
    moves_usd: float
    """Today's move and later ones, without early deletion."""
    early_deletion_usd: float
    """Owed today, at later moves, and where its owner deletes too early."""
    coming_back_usd: float
    """The chance of having to come back, for objects without a state of use; else it is among the other parts."""
    total_usd: float
    """The sum of the parts."""
    decided_usd: float
    """The figure that the decision compares: ``total_usd``, but for the rounding of the tables."""


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A class that was no candidate."""

    storage_class: str
    why: str


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """The decision of this moment."""

    action: Literal["move", "keep"]
    chosen_class: str
    reason: str
    horizon_days: int
    expected_reads: float
    """Over the horizon, as the costs are made with."""
    placed_by: Literal["state of use", "expected reads", "break-even"]
    """``break-even``: the object's own reads have refuted its state of use, see ``ExplainedGuard``."""
    stay_usd: float
    chosen_usd: float
    one_time_usd: float
    saving_usd: float
    payback_days: float | None
    payback_on: date | None
    """The day on which the one-time cost is earned back; None when nothing moves."""
    current_monthly_usd: float
    chosen_monthly_usd: float


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """What the newest published decisions say of the object."""

    day: date
    action: str
    chosen_class: str
    reason: str
    saving_usd: float
    source: str | None
    """Whose forecast it was made with; None when the forecast is not kept any more."""
    agrees: bool
    """Whether it is the same move, or no move either."""


@dataclass(frozen=True, slots=True)
class PricesUsed:
    """The price book."""

    name: str
    region: str
    redundancy: str
    seen_on: date
    """When the prices were looked up."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that one object's decision hangs on."""

    uri: str
    provider: str
    bucket: str
    key: str
    day: date
    """The first day of the horizon."""
    inventory_day: date
    object: ExplainedObject
    history: ExplainedHistory
    forecast: ExplainedForecast
    decision: ExplainedDecision
    candidates: tuple[CandidateCost, ...]
    """What was weighed, in the price book's order; the present class first."""
    ruled_out: tuple[RuledOut, ...]
    rule_class: str
    """What the rule-based classifier would choose, for comparison."""
    rule_reason: str
    prices: PricesUsed
    stored: StoredDecision | None
    guard: ExplainedGuard | None = None
    """None: the object has given no surprise."""
    bucket_autopilot: AutopilotProposal | None = None
    """What the newest scoring says of an autopilot for the whole bucket or account; None where there is none."""


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
    lake: ExplainedLake,
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
    mine = OwnerGroup(group.rows[[place]], group.objects.take(np.array([place])), group.limits, group.usage)
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
        candidates=_candidates(mine, decisions, book, policy, by_usage=by_usage),
        ruled_out=_ruled_out(mine, decisions, book),
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
    lake: ExplainedLake,
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


def _candidates(
    mine: OwnerGroup, decisions: Decisions, book: PriceBook, policy: PolicySettings, *, by_usage: bool
) -> tuple[CandidateCost, ...]:
    """Give a row for each choice that was weighed, the present class first."""
    name = str(mine.objects.current_class[0])
    known = name in book.class_names
    # an object in a class that the book does not know is priced as if in the standard class
    here = book.code_of(name) if known else book.standard_code
    weighed = [code for code in np.flatnonzero(decisions.weighed[0]).tolist() if code != here]
    chosen = str(decisions.chosen_class[0])
    stay, wait = float(decisions.stay_usd[0]), float(decisions.candidate_usd[0, here])
    choices: list[tuple[Literal["move", "keep", "wait"], int, float]] = [("keep", here, stay)]
    if by_usage and weighed and not math.isclose(stay, wait, rel_tol=_SAME):
        choices.append(("wait", here, wait))
    choices += [("move", code, float(decisions.candidate_usd[0, code])) for code in weighed]
    rows = []
    for option, code, decided in choices:
        if by_usage:
            figures = _usage_parts(mine, book, here=here, code=code, stay=option == "keep")
        else:
            figures = _outlook_parts(mine, book, policy, here=here, code=code)
        rows.append(
            CandidateCost(
                option=option,
                storage_class=name if code == here else book.class_names[code],
                chosen=option == "keep" if chosen == name else option == "move" and book.class_names[code] == chosen,
                **figures,
                total_usd=sum(figures.values()),
                decided_usd=decided,
            )
        )
    return tuple(rows)


def _usage_parts(mine: OwnerGroup, book: PriceBook, *, here: int, code: int, stay: bool) -> dict[str, float]:
    """Give the parts of a choice by following the object's states of use through the tables."""
    usage, objects = mine.usage, mine.objects
    if usage is None or objects.usage_state is None:
        raise AssertionError("only objects with a state of use are placed by tables")
    size, held = float(objects.size_bytes[0]), float(objects.days_in_class[0])
    life = expected_life(
        usage.chain,
        usage.tables,
        size_bytes=size,
        state=int(objects.usage_state[0]),
        class_code=_table_code(usage, book, here),
        days_in_class=int(held),
        # an autopilot's clock began when the object came there, or at its last read
        idle_days=int(min(held, float(objects.idle_days[0]))),
        target=_table_code(usage, book, code),
        stay=stay,
    )
    parts = life.parts_usd.copy()
    charge = book.client_move_down if code > here else book.client_move_up
    if code != here and charge.early_deletion:
        # the tables count whole days held; today's move owes to the hour, as the decision has it
        exact, whole = early_deletion_usd(book, [size, size], np.array([here, here]), [held, math.floor(held)])
        parts[EARLY_DELETION] += exact - whole
    storage, monitoring, requests, retrieval, moves, early = parts.tolist()
    return {
        "storage_usd": storage,
        "monitoring_usd": monitoring,
        "requests_usd": requests,
        "retrieval_usd": retrieval,
        "moves_usd": moves,
        "early_deletion_usd": early,
        "coming_back_usd": 0.0,
    }


def _table_code(usage: LearntUsage, book: PriceBook, code: int) -> int:
    return usage.tables.class_names.index(book.class_names[code])


def _outlook_parts(
    mine: OwnerGroup, book: PriceBook, policy: PolicySettings, *, here: int, code: int
) -> dict[str, float]:
    """Give the parts of a choice from the reads that are expected over the horizon."""
    objects = mine.objects
    outlook = Outlook(
        size_bytes=int(objects.size_bytes[0]),
        current_class=book.class_names[here],
        days_in_class=float(objects.days_in_class[0]),
        idle_days=float(objects.idle_days[0]),
        reads=float(objects.expected_reads[0]),
        read_bytes=float(objects.expected_read_bytes[0]),
        probability_any=float(objects.probability_any[0]),
        horizon_days=policy.horizon_days,
        deleted_share_year=policy.deleted_share_year,
    )
    cost = explain_cost(book, outlook, book.class_names[code])
    return {
        "storage_usd": cost.storage_usd,
        "monitoring_usd": cost.monitoring_usd,
        "requests_usd": cost.requests_usd,
        "retrieval_usd": cost.retrieval_usd,
        "moves_usd": cost.move_usd,
        "early_deletion_usd": cost.early_deletion_usd + cost.deleted_too_early_usd,
        "coming_back_usd": cost.coming_back_usd,
    }


def _ruled_out(mine: OwnerGroup, decisions: Decisions, book: PriceBook) -> tuple[RuledOut, ...]:
    """Say of every class that was not weighed why."""
    name = str(mine.objects.current_class[0])
    stays = _why_it_stays(mine, book)
    return tuple(
        RuledOut(
            prices.storage_class,
            barred_by(prices, mine.limits) or stays or "objects that left it cannot go back",
        )
        for code, prices in enumerate(book.classes)
        if not decisions.weighed[0, code] and prices.storage_class != name
    )


def _why_it_stays(mine: OwnerGroup, book: PriceBook) -> str | None:
    """Say why no class is a candidate, or one only, whatever it costs; in the order in which ``decide`` says it."""
    objects = mine.objects
    name, pinned = str(objects.current_class[0]), None if objects.pinned_class is None else objects.pinned_class[0]
    barred = barred_by(book.prices_of(name), mine.limits) if name in book.class_names else None
    autopilot = book.prices_of(name).autopilot if name in book.class_names else None
    settled = autopilot is not None and autopilot.scope != AutopilotScope.OBJECT
    reasons = (
        (bool(objects.excluded[0]), "the object is excluded by its owner"),
        (objects.lock_reason[0] is not None, f"the object is locked ({objects.lock_reason[0]})"),
        (name not in book.class_names, f"the price book does not know the class that the object is in, {name}"),
        (settled, f"the object is under {name}, {barred}"),
        (
            objects.retained is not None and bool(objects.retained[0]),
            "the object is younger than its owner's minimum retention",
        ),
        (pinned is not None, f"its owner wants the object in {pinned}"),
    )
    return next((said for holds, said in reasons if holds), None)


def _stored(lake: ExplainedLake, ref: ObjectRef, shard: int, decisions: Decisions) -> StoredDecision | None:
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
