"""Coverage: how much of a bucket's UTC day its access logs can be believed to tell, from 0 to 1.

Delivery is best effort, and a lost hour looks like an hour without requests. So the hours of a day are compared with
the bucket's own past, and silence is believed as far as it is usual. ``docs/coverage.md`` has the derivation, what the
figure cannot see, and what to do about a low one.

Arrays have the shapes (B,) buckets, (G,) log sources, (D,) consecutive days, (24,) hours of the UTC day.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

HOURS: Final = 24
WEEKS: Final = 4
"""So many same weekdays, before the day, tell what is usual."""
LOOKBACK_DAYS: Final = 56
"""How many days before the first measured one the figures should reach: four weeks, behind four weeks of silence."""
WINDOW_DAYS: Final = 30
"""Over so many days coverage is averaged before a decision is made."""
NEVER: Final = int(np.iinfo(np.int32).max)
"""The first day of a bucket that has never been logged."""

WITHHELD: Final = "withheld:"
"""How the reason of a decision begins that is not made for want of coverage."""

_LOSS_ODDS: Final = 0.01
"""Odds that a silence is lost logs before anything is known of it: one in a hundred."""
_MOST_SURPRISE: Final = 50.0  # e^50 is certainty, and no overflow
_NO_EXCESS: Final = 1e-9
_FEWEST_WEEKS: Final = 2
"""With fewer same weekdays to compare with, all days of the four weeks are: one burst a week ago is no habit."""
_WORTH_SAYING: Final = 0.995
_SPANS_SHOWN: Final = 2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LoggedHours:
    """What the logs of B buckets from G log sources hold of D consecutive days, and how far that is final."""

    records: Ints
    """Readable log records of any operation, by the hour of the request, (B, D, 24)."""
    first_day: Ints
    """Of the bucket's first record ever, as a place on the axis of days: negative before it, ``NEVER``; (B,)."""
    usual_day: Floats
    """Records of a usual day before the first one here, NaN when there is none; (B,). Asked only when a bucket has been
    silent for all the days here."""
    source: Ints
    """Which log source delivers the bucket's logs, (B,)."""
    settled_until: Floats
    """Up to where each bucket's logs are complete, in hours since the first day's start; (B,)."""
    delivered_until: Floats
    """When each source's newest file was written, in hours since the first day's start; -inf when not known. (G,)"""
    quarantined: Floats
    """Log lines of each source and day that could not be read, (G, D)."""


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """The coverage of B buckets and D days, and what it came from."""

    coverage: Floats
    """0 to 1, (B, D)."""
    hours: Floats
    """The same by hour, before the quarantined lines, (B, D, 24)."""
    usual: Floats
    """Records that are usual at the hour, (B, D, 24); 0 without history."""
    records: Ints
    """(B, D, 24)."""
    readable: Floats
    """Which share of the source's lines could be read, (B, D)."""
    known: Flags
    """Whether the bucket had been logged by then, (B, D)."""
    compared: Flags
    """Whether there was a past to compare with, (B, D)."""
    settled: Flags
    """Whether the hour's logs should have come, (B, D, 24)."""
    alive: Flags
    """Whether the source has delivered anything on the day or since, (B, D)."""
    lost_with_source: Flags
    """Whether the hour is believed less than the bucket's own past would let it, as its whole source fell silent."""


def coverage_of(logged: LoggedHours) -> DayCoverage:
    """Tell how much of each day the logs can be believed to tell.

    More records of a day never lower its figure. Raises ``ValueError`` when an array's shape does not fit.
    """
    buckets, days = _checked(logged)
    sources = len(logged.delivered_until)
    pooled = np.zeros((sources, days, HOURS), dtype=np.int64)
    np.add.at(pooled, logged.source, logged.records)
    first_of_source = np.full(sources, NEVER, dtype=np.int64)
    np.minimum.at(first_of_source, logged.source, logged.first_day)
    usual_of_source = np.full(sources, np.nan)
    known_usual = ~np.isnan(logged.usual_day)
    usual_of_source[logged.source[known_usual]] = 0.0
    np.add.at(usual_of_source, logged.source[known_usual], logged.usual_day[known_usual])

    # A source is looked at as if it were one bucket: where it fell silent as a whole, no bucket's silence is its own.
    believed, usual, compared = _against_the_past(
        np.concatenate([logged.records, pooled]),
        np.concatenate([logged.first_day, first_of_source]),
        np.concatenate([logged.usual_day, usual_of_source]),
    )
    hours, of_source = believed[:buckets], believed[buckets:]
    silent = logged.records == 0
    with_source = np.where(silent, np.minimum(hours, of_source[logged.source]), hours)
    lost_with_source = with_source < hours
    hours = with_source

    alive = _alive(pooled, logged.delivered_until)[logged.source]
    hours = np.where(silent & ~alive[:, :, None], 0.0, hours)
    ends = (np.arange(days)[:, None] * HOURS + np.arange(HOURS) + 1)[None]
    settled = ends <= logged.settled_until[:, None, None]
    known = np.arange(days)[None] >= logged.first_day[:, None]
    hours = np.where(settled & known[:, :, None], hours, 0.0)

    weights = usual[:buckets]
    total = weights.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = (hours * weights).sum(axis=2) / total
    mean = np.where(total > 0, weighted, hours.mean(axis=2))
    readable = _readable(pooled.sum(axis=2), logged.quarantined)[logged.source]
    return DayCoverage(
        coverage=np.clip(mean * readable, 0.0, 1.0),
        hours=hours,
        usual=usual[:buckets],
        records=logged.records,
        readable=readable,
        known=known,
        compared=compared[:buckets],
        settled=settled,
        alive=alive,
        lost_with_source=lost_with_source,
    )


def believed_silence(surprise: Floats | float) -> Floats:
    """Tell how far a silence is believed that has the chance e^-surprise: 1 at 0, 0.5 at 4.6, 0.03 at 8.

    If nothing was lost, the silence has its chance; if the logs were lost it is certain. With odds o of a loss, the
    bucket's own silence has the probability 1 / (1 + o e^surprise). It is 1 / (1 + o (e^surprise - 1)) here, so that
    nothing is missing where nothing is expected.
    """
    against = np.expm1(np.minimum(np.asarray(surprise, dtype=np.float64), _MOST_SURPRISE))
    return np.asarray(1.0 / (1.0 + _LOSS_ODDS * against), dtype=np.float64)


def surprise_at_silence(expected: Floats, excess: Floats) -> Floats:
    """Give minus the logarithm of the chance of no record where ``expected`` are usual.

    ``excess`` is the squared coefficient of variation of the counts beyond that of a Poisson distribution, at least 0.
    Requests in bursts are silent more often than their mean tells: the counts are taken as negative binomial, whose
    chance of 0 is (1 + excess expected)^(-1 / excess), and e^-expected without an excess.
    """
    bursts = np.log1p(excess * expected) / np.where(excess > _NO_EXCESS, excess, 1.0)
    return np.asarray(np.where(excess > _NO_EXCESS, bursts, expected), dtype=np.float64)


def in_words(measured: DayCoverage, bucket: int, day: int, *, first: date | None) -> str:
    """Say what is missing of one bucket's day; empty when next to nothing is. ``first`` is its first logged day."""
    if not measured.known[bucket, day]:
        return f"its logs begin on {first}" if first else "no log record of it has been collected yet"
    if measured.coverage[bucket, day] >= _WORTH_SAYING:
        return ""
    hours, usual = measured.hours[bucket, day], measured.usual[bucket, day]
    records, settled = measured.records[bucket, day], measured.settled[bucket, day]
    parts: list[str] = []
    missing = settled & (hours < _WORTH_SAYING)
    silent = missing & (records == 0)
    if not measured.alive[bucket, day]:
        parts.append("nothing was delivered to its log source on that day or since")
    elif not measured.compared[bucket, day]:
        if silent.any():
            parts.append(f"no records in {int(silent.sum())} hours, and no earlier day to compare with")
    elif silent.all() and not measured.lost_with_source[bucket, day].any():
        parts.append(f"no records all day, where {_count(usual.sum())} are usual")
    else:
        with_source = silent & measured.lost_with_source[bucket, day]
        spans = sorted(_spans(silent), key=lambda span: (hours[slice(*span)] - 1).sum())
        for begin, end in sorted(spans[:_SPANS_SHOWN]):
            whose = " of any bucket of its log source" if with_source[begin:end].any() else ""
            usually = "" if whose else f", where {_count(usual[begin:end].mean())} an hour are usual"
            parts.append(f"no records{whose} from {begin:02d}:00 to {end:02d}:00 UTC{usually}")
        if len(spans) > _SPANS_SHOWN:
            parts.append(f"{len(spans) - _SPANS_SHOWN} more gaps")
    thin = missing & (records > 0)
    if thin.any():
        had, wanted, since = _count(records[thin].sum()), _count(usual[thin].sum()), int(np.argmax(thin))
        parts.append(f"{had} records in {int(thin.sum())} hours (from {since:02d}:00 UTC), where {wanted} are usual")
    if not settled.all():
        parts.append(f"what was requested from {int(np.argmin(settled)):02d}:00 UTC on is still to be delivered")
    if measured.readable[bucket, day] < _WORTH_SAYING:
        parts.append(f"{_percent(1 - measured.readable[bucket, day])} of the lines are quarantined")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class LoggedPast:
    """What is known of a bucket's logs before the days that are looked at."""

    first_day: date
    """Of its first record ever."""
    last_day: date
    usual_records: float
    """The lower median of its days' records, from the first to the last."""


# -- what a decision is made on ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class CoveredDay:
    """One bucket's day, as it was measured."""

    day: date
    coverage: float
    reason: str
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class RecentCoverage:
    """How much of the time before a decision a bucket's access logs tell."""

    coverage: float
    """Mean over the days, 0 to 1."""
    days: int
    worst: tuple[CoveredDay, ...] = ()
    """The days with the lowest figures, lowest first."""
    problem: str = ""
    """Why there is no figure, if there is none."""

    def withheld(self, min_coverage: float) -> str | None:
        """Give the reason why decisions are withheld, or None when the logs tell enough."""
        if min_coverage <= 0 or self.coverage >= min_coverage:
            return None
        if self.problem:
            return (
                f"{WITHHELD} {self.problem}; name the access logs of the bucket in the estate file and let them be "
                "collected, or set its min_coverage to 0 to decide without"
            )
        worst = "; ".join(
            f"{day.day} ({_percent(day.coverage)}{': ' if day.reason else ''}{day.reason})" for day in self.worst
        )
        return (
            f"{WITHHELD} the access logs tell {_percent(self.coverage)} of the last {self.days} days, and "
            f"{_percent(min_coverage)} are asked for; worst {worst}. See to it that the logs are delivered and "
            "collected (late files count), or lower the bucket's min_coverage"
        )


def recent_coverage(
    measured: Iterable[CoveredDay], first: date | None, day: date, settle: timedelta, *, shown: int = 3
) -> RecentCoverage:
    """Average a bucket's coverage over the complete ones of the 30 days before ``day``, from its first logged day on.

    A day that nobody measured counts as not covered. The day before ``day`` is left out when it was measured before its
    logs can have come, ``settle`` after its end.
    """
    if first is None or first >= day:
        return RecentCoverage(0.0, 0, problem="no access log record of the bucket has been collected yet")
    begin = max(first, day - timedelta(days=WINDOW_DAYS))
    known = {one.day: one for one in measured}
    days = [begin + timedelta(days=number) for number in range((day - begin).days)]
    complete_at = datetime(day.year, day.month, day.day, tzinfo=UTC) + settle
    newest = known.get(days[-1])
    if newest is None or newest.measured_at < complete_at:
        days.pop()
    if not days:
        return RecentCoverage(0.0, 0, problem=f"the access logs begin on {first}, and no day of them is complete yet")
    epoch = datetime.min.replace(tzinfo=UTC)
    taken = [known.get(one) or CoveredDay(one, 0.0, "nothing was collected", epoch) for one in days]
    mean = sum(one.coverage for one in taken) / len(taken)
    worst = tuple(sorted((one for one in taken if one.coverage < _WORTH_SAYING), key=_lowest)[:shown])
    return RecentCoverage(mean, len(taken), worst)


def _lowest(one: CoveredDay) -> tuple[float, date]:
    return one.coverage, one.day


# -- inside ------------------------------------------------------------------------------------------------------------


def _checked(logged: LoggedHours) -> tuple[int, int]:
    buckets, days = logged.records.shape[:2]
    sources = len(logged.delivered_until)
    expected = {
        "records": (logged.records, (buckets, days, HOURS)),
        "first_day": (logged.first_day, (buckets,)),
        "usual_day": (logged.usual_day, (buckets,)),
        "source": (logged.source, (buckets,)),
        "settled_until": (logged.settled_until, (buckets,)),
        "quarantined": (logged.quarantined, (sources, days)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
    return buckets, days


def _alive(pooled: Ints, delivered_until: Floats) -> Flags:
    """Tell whether a source delivered a record of the day or a later one, or wrote a file after the day; (G, D)."""
    days = pooled.shape[1]
    spoke = pooled.any(axis=2)
    since = np.flip(np.logical_or.accumulate(np.flip(spoke, axis=1), axis=1), axis=1)
    ends = (np.arange(days) + 1.0) * HOURS
    return np.asarray(since | (delivered_until[:, None] >= ends), dtype=np.bool_)


def _readable(records: Ints, quarantined: Floats) -> Floats:
    lines = records + quarantined
    return np.divide(records, lines, out=np.ones_like(quarantined), where=lines > 0)


def _against_the_past(records: Ints, first_day: Ints, usual_day: Floats) -> tuple[Floats, Floats, Flags]:
    """Compare every day with the bucket's days before it.

    Gives how far each hour is believed (N, D, 24), what is usual at it (N, D, 24), and whether there was a past (N, D).
    """
    rows, days = records.shape[:2]
    believed, usual = np.zeros(records.shape), np.zeros(records.shape)
    compared = np.zeros((rows, days), dtype=np.bool_)
    spoke = np.asarray(records.any(axis=2), dtype=np.bool_)
    last_spoke = np.full(rows, -1, dtype=np.int64)
    waited = np.zeros(rows)  # the surprise at all silent days since the bucket last spoke
    for day in range(days):
        today = records[:, day]
        past = _past_of(records, today == 0, first_day=first_day, usual_day=usual_day, last_spoke=last_spoke, day=day)
        silent_day = ~spoke[:, day]
        surprise = surprise_at_silence(past.in_gap, past.excess[:, None])
        surprise += np.where(silent_day, waited, 0.0)[:, None]
        waited = np.where(silent_day, surprise[:, 0], 0.0)
        share = np.divide(today, 0.5 * past.lowest, out=np.ones(today.shape), where=past.lowest > 0)
        # Never less than if the hour had been silent: one record more must not cost anything.
        by_chance = believed_silence(surprise_at_silence(past.usual, past.excess[:, None]))
        speaking = np.maximum(np.minimum(share, 1.0), by_chance)
        # Without a past nothing is known of silence.
        silence = np.where(past.there[:, None], believed_silence(surprise), 0.0)
        believed[:, day] = np.where(today == 0, silence, speaking)
        usual[:, day], compared[:, day] = past.usual, past.there
        last_spoke = np.where(spoke[:, day], day, last_spoke)
    return believed, usual, compared


@dataclass(frozen=True, slots=True)
class _Past:
    """What comparable days held of a day's hours, (N, 24)."""

    usual: Floats
    lowest: Floats
    in_gap: Floats
    """What is usual from the begin to the end of the gap that the hour lies in."""
    excess: Floats
    """How far the counts vary beyond chance, see ``surprise_at_silence``; (N,)."""
    there: Flags
    """Whether there were comparable days, (N,)."""


def _past_of(records: Ints, silent: Flags, *, first_day: Ints, usual_day: Floats, last_spoke: Ints, day: int) -> _Past:
    """Look up what is usual on a day.

    What is compared ends with the last day on which the bucket spoke: a silence must not become usual by lasting.
    """
    begin, end = _gaps(silent)
    same_weekday = last_spoke - (last_spoke - day) % 7
    weeks = _summary(records, same_weekday[:, None] - 7 * np.arange(WEEKS), first_day, begin, end)
    few = weeks.counted < _FEWEST_WEEKS
    usual, lowest, in_gap, excess = weeks.usual, weeks.lowest, weeks.in_gap, weeks.excess
    there = np.asarray(weeks.counted > 0, dtype=np.bool_)
    young = np.flatnonzero(few)
    if len(young):
        every_day = last_spoke[young, None] - np.arange(7 * WEEKS)
        around = _summary(records[young], every_day, first_day[young], begin[young], end[young])
        one_week = (weeks.counted[young] == 1)[:, None]
        for into, other, own in (
            (usual, around.usual, weeks.usual),
            (lowest, around.lowest, weeks.lowest),
            (in_gap, around.in_gap, weeks.in_gap),
        ):
            into[young] = np.where(one_week, np.minimum(other, own[young]), other)
        excess[young] = around.excess
        there[young] = around.counted > 0
    long_silent = np.flatnonzero(~there & (first_day < 0) & ~np.isnan(usual_day))
    hourly = np.broadcast_to((usual_day[long_silent] / HOURS)[:, None], (len(long_silent), HOURS))
    usual[long_silent], lowest[long_silent] = hourly, hourly
    in_gap[long_silent] = hourly * (end - begin)[long_silent]
    there[long_silent] = True
    return _Past(usual, lowest, in_gap, excess, there)


@dataclass(frozen=True, slots=True)
class _Summary:
    """The lower median, the lowest, the lower median of the gaps' sums and the excess over some days that counted."""

    usual: Floats
    lowest: Floats
    in_gap: Floats
    excess: Floats
    counted: Ints


def _summary(records: Ints, days: Ints, first_day: Ints, begin: Ints, end: Ints) -> _Summary:
    """Sum up the given days (N, K) of each bucket; those before its first one do not count.

    Nor do any if some of them lie before the records: what is left of four weeks is not what was usual.
    """
    counts: Flags = np.asarray(days >= first_day[:, None], dtype=np.bool_)
    cut_off = np.asarray((counts & (days < 0)).any(axis=1), dtype=np.bool_)
    counts &= ~cut_off[:, None]
    counted = counts.sum(axis=1)
    nth = np.maximum(counted - 1, 0)[:, None, None] // 2
    held = np.take_along_axis(records, np.where(counts, days, 0)[:, :, None], axis=1).astype(np.float64)
    by_hour = np.sort(np.where(counts[:, :, None], held, np.inf), axis=1)
    sums = np.zeros((*held.shape[:2], HOURS + 1))
    np.cumsum(held, axis=2, out=sums[:, :, 1:])
    in_gap = np.take_along_axis(sums, end[:, None], axis=2) - np.take_along_axis(sums, begin[:, None], axis=2)
    by_gap = np.sort(np.where(counts[:, :, None], in_gap, np.inf), axis=1)
    none = counted[:, None] == 0
    # Pooled over the hours of the day: 24 times as many samples as an hour has.
    share = (counts / np.maximum(counted, 1)[:, None])[:, :, None]
    mean = (held * share).sum(axis=1)
    variance = ((held - mean[:, None]) ** 2 * share).sum(axis=1) * (counted / np.maximum(counted - 1, 1))[:, None]
    squares = (mean**2).sum(axis=1)
    beyond = np.divide((variance - mean).sum(axis=1), squares, out=np.zeros(len(records)), where=squares > 0)
    return _Summary(
        usual=np.where(none, 0.0, np.take_along_axis(by_hour, nth, axis=1)[:, 0]),
        lowest=np.where(none, 0.0, by_hour[:, 0]),
        in_gap=np.where(none, 0.0, np.take_along_axis(by_gap, nth, axis=1)[:, 0]),
        excess=np.maximum(beyond, 0.0),
        counted=counted,
    )


def _gaps(silent: Flags) -> tuple[Ints, Ints]:
    """Give for each hour the begin and the end of the silence that it lies in, (N, 24); an hour itself if it spoke."""
    hours = np.arange(HOURS)
    begin = np.maximum.accumulate(np.where(silent, 0, hours + 1), axis=1)
    end = np.flip(np.minimum.accumulate(np.flip(np.where(silent, HOURS, hours), axis=1), axis=1), axis=1)
    return np.where(silent, begin, hours), np.where(silent, end, hours + 1)


def _spans(flags: Flags) -> list[tuple[int, int]]:
    """Give the (begin, end) of every run of hours that are set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _count(records: float) -> str:
    return f"{records:,.0f}" if records >= 10 or records == int(records) else f"{records:.1f}"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "less than 1 %"
