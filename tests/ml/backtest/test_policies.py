"""What each policy does and does not do: no look into the future, no bargain below the optimum, the rules as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from backtest_traces import GIB, Recorded, random_trace, small_books, trace_with
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import tariff_of
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import Latency
from cloudflux.domain.rules import classify
from cloudflux.price_books import load_book
from cloudflux_ml.backtest.learned import CloudFlux, Learned, left_one_by_one
from cloudflux_ml.backtest.optimum import optimal_schedule
from cloudflux_ml.backtest.replay import SMALL_BYTES, replay
from cloudflux_ml.backtest.rivals import BreakEven
from cloudflux_ml.backtest.run import FACTORIES, OPTIMUM, PolicySettings, backtest, classes_of

AWS, AZURE, GCS = (load_book(name) for name in ("aws-us-east-1", "azure-eastus-lrs", "gcs-us-central1"))
BOOKS = {book.name: book for book in (AWS, AZURE, GCS)}


def moves_of(name, trace, book=AWS, latency=Latency.MS, switched=False):
    """Replay one policy; give every move as (day, object, class), in the order of days."""
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, latency, switched=switched))
    recorded = Recorded(FACTORIES[name](trace.before(trace.eval_from), tariff, PolicySettings(latency)))
    replay(trace, tariff, name, recorded)
    found = []
    for (day, codes, decided), (_, promoted) in zip(recorded.decided, recorded.promoted, strict=True):
        for moves in (decided, promoted):
            for row, code in moves or []:
                if codes[row] != code:
                    found.append((day, row, tariff.class_names[code]))
                codes[row] = code
    return found


def idle_after(read_day, days=400, eval_from=50, size=GIB, created=-200):
    reads = np.zeros(days, dtype=int)
    reads[read_day] = 1
    return trace_with(reads, [size], [created], eval_from)


@pytest.mark.parametrize("name", [*FACTORIES])
@pytest.mark.parametrize("cut", [101, 170])
def test_no_policy_sees_the_future(name, cut):
    trace = random_trace(3)
    random = np.random.default_rng(cut)
    reads = np.zeros((trace.objects, trace.days), dtype=int)
    for day in range(trace.days):
        rows, counts = trace.on(day)
        reads[rows, day] = counts
    other = reads.copy()
    there = trace.created[:, None] <= np.arange(cut, trace.days)
    other[:, cut:] = random.permutation(reads[:, cut:].ravel()).reshape(other[:, cut:].shape) * there
    assert (other != reads).any()
    logs = []
    for version in (reads, other):
        changed = trace_with(version, trace.size_bytes, trace.created, trace.eval_from)
        tariff = tariff_of(AWS, changed.size_bytes, classes_of(AWS, Latency.MS))
        recorded = Recorded(FACTORIES[name](changed.before(changed.eval_from), tariff, PolicySettings()))
        replay(changed, tariff, name, recorded)
        logs.append(recorded)
    before = cut - trace.eval_from
    for (day, codes, moves), (_, other_codes, other_moves) in zip(
        logs[0].decided[: before + 1], logs[1].decided[: before + 1], strict=True
    ):
        assert codes.tolist() == other_codes.tolist(), day
        assert moves == other_moves, day
    assert logs[0].promoted[:before] == logs[1].promoted[:before]


@pytest.mark.parametrize("name", [*FACTORIES])
def test_a_policy_is_made_without_the_reads_of_the_window(name):
    trace = random_trace(1)
    past = trace.before(trace.eval_from)
    with pytest.raises(ValueError, match="the reads of day 100 are not known: only those of day 0 to 99 are"):
        past.on(trace.eval_from)
    assert len(past.read_rows) == trace.starts[trace.eval_from]
    FACTORIES[name](past, tariff_of(AWS, trace.size_bytes, classes_of(AWS, Latency.MS)), PolicySettings())


@pytest.mark.parametrize("latency", list(Latency))
@pytest.mark.parametrize("name", sorted(BOOKS))
@pytest.mark.parametrize("seed", range(4))
def test_no_policy_is_cheaper_than_the_optimum(name, seed, latency):
    policies = [policy for policy in FACTORIES if policy not in ("naive-forest", "cloudflux") or seed == 0]
    result = backtest(random_trace(seed, objects=25), BOOKS[name], policies, latency=latency)
    optimum = result.policies[OPTIMUM].usd
    for policy, found in result.policies.items():
        assert found.usd >= optimum * (1 - 1e-9), policy
        assert found.usd == pytest.approx(sum(found.parts_usd.values()))
        assert found.cumulated_usd[-1] == pytest.approx(found.usd)
        assert (np.diff(found.cumulated_usd) >= 0).all()
    assert result.regret(OPTIMUM) == 1


def test_archive_tiers_make_the_autopilot_cheaper_and_nothing_cheaper_than_the_optimum():
    archive = load_book("aws-us-east-1-archive")
    trace = random_trace(3, objects=25)
    plain, with_archive = (backtest(trace, book, [*FACTORIES], latency=Latency.HOURS) for book in (AWS, archive))
    optimum = with_archive.policies[OPTIMUM].usd
    assert all(found.usd >= optimum * (1 - 1e-9) for found in with_archive.policies.values())
    assert optimum <= plain.policies[OPTIMUM].usd * (1 + 1e-9)
    dead = trace_with(np.zeros((2, 400), dtype=int), [GIB, GIB], [0, 0], eval_from=20)
    usd = [
        backtest(dead, book, ["autopilot"], latency=Latency.HOURS).policies["autopilot"].usd for book in (AWS, archive)
    ]
    assert usd[1] < usd[0]
    with pytest.raises(SettingsError, match="or has with archive tiers only, which need --latency hours"):
        backtest(dead, archive, ["autopilot"], latency=Latency.MS)


@pytest.mark.parametrize("name", [*FACTORIES])
def test_the_same_trace_gives_the_same_figures(name):
    one, other = (backtest(random_trace(5, objects=15), AWS, [name]) for _ in range(2))
    assert one.policies[name].parts_usd == other.policies[name].parts_usd
    assert one.policies[name].moves == other.policies[name].moves


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "cloudflux"])
def test_rivals_leave_small_objects_where_they_are(name):
    trace = random_trace(2)
    moved = {row for _, row, _ in moves_of(name, trace)}
    assert (trace.size_bytes[sorted(moved)] >= SMALL_BYTES).all()
    assert moved or name == "stay"


@pytest.mark.parametrize("name", [*FACTORIES])
def test_nothing_moves_on_the_day_of_its_creation(name):
    trace = random_trace(4)
    assert all(trace.created[row] < day for day, row, _ in moves_of(name, trace))


@pytest.mark.parametrize(
    ("book", "latency", "classes"),
    [
        (AWS, Latency.MS, ["STANDARD_IA", "GLACIER_IR"]),
        (AWS, Latency.HOURS, ["STANDARD_IA", "GLACIER_IR", "GLACIER"]),
        (AZURE, Latency.MS, ["Cool", "Cold"]),
        (AZURE, Latency.HOURS, ["Cool", "Cold", "Archive"]),
        (GCS, Latency.MS, ["NEARLINE", "COLDLINE", "ARCHIVE"]),
    ],
)
def test_lifecycle_rules_step_down_on_days_30_90_and_180(book, latency, classes):
    read = idle_after(60, created=40)
    steps = [(60 + days, 0, name) for days, name in zip((30, 90, 180), classes, strict=False)]
    assert moves_of("lifecycle-idle", read, book, latency) == steps
    born = trace_with([[0] * 400], [GIB], [60], eval_from=50)
    assert moves_of("lifecycle-age", born, book, latency) == steps
    assert moves_of("lifecycle-idle", born, book, latency) == steps


def test_a_lifecycle_rule_knows_the_history_before_the_window():
    trace = idle_after(2, eval_from=50)
    assert moves_of("lifecycle-age", trace)[0] == (50, 0, "GLACIER_IR")
    assert moves_of("lifecycle-idle", trace) == [(50, 0, "STANDARD_IA"), (92, 0, "GLACIER_IR")]


def test_only_the_promoting_rule_brings_back_what_is_read():
    trace = idle_after(150, days=200)
    assert [move for move in moves_of("lifecycle-idle", trace) if move[0] > 145] == []
    assert [move for move in moves_of("lifecycle-idle-promote", trace) if move[0] > 145] == [
        (150, 0, "STANDARD"),
        (180, 0, "STANDARD_IA"),
    ]


def test_the_autopilot_takes_objects_one_by_one_or_the_whole_bucket():
    trace = trace_with(np.zeros((3, 20), dtype=int), [GIB, SMALL_BYTES - 1, GIB], [-5, -5, 12], eval_from=10)
    assert moves_of("autopilot", trace) == [(10, 0, "INTELLIGENT_TIERING"), (13, 2, "INTELLIGENT_TIERING")]
    everything = [(10, 0), (10, 1), (13, 2)]
    for book, name in ((AZURE, "Smart"), (GCS, "AUTOCLASS")):
        assert moves_of("autopilot", trace, book, switched=True) == [(day, row, name) for day, row in everything]


@pytest.mark.parametrize("book", [AZURE, GCS])
def test_with_a_whole_buckets_autopilot_the_optimum_is_the_cheaper_of_two(book):
    # one object that is idle for good, and many that nobody can place better than the standard class
    reads = np.zeros((4, 120), dtype=int)
    trace = trace_with(reads, [10 * GIB] * 4, eval_from=20)
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, Latency.MS))
    switched = tariff_of(book, trace.size_bytes, classes_of(book, Latency.MS, switched=True))
    single = optimal_schedule(trace, tariff).usd.sum()
    result = backtest(trace, book, ["autopilot"])
    together = result.policies["autopilot"].usd
    if book is AZURE:  # whose objects may leave
        together = optimal_schedule(trace, switched, inside=switched.code_of("Smart")).usd.sum()
        assert together < result.policies["autopilot"].usd
    assert result.policies[OPTIMUM].usd == pytest.approx(min(single, together))
    # where no class but the autopilot's is cheaper, it is the autopilot
    dear = replace(
        book,
        classes=tuple(
            prices
            if prices.autopilot or prices.storage_class == book.class_names[book.standard_code]
            else replace(prices, storage_usd_gib_month=1.0)
            for prices in book.classes
        ),
    )
    result = backtest(trace, dear, ["autopilot", "stay"])
    assert result.policies[OPTIMUM].parts_usd == result.policies["autopilot"].parts_usd
    assert result.policies["autopilot"].usd < result.policies["stay"].usd


def test_no_class_that_needs_a_restore_goes_with_an_accounts_autopilot():
    own = classes_of(AZURE, Latency.HOURS)
    assert "Archive" in own
    assert classes_of(AZURE, Latency.HOURS, switched=True) == ("Hot", "Smart", "Cool", "Cold")
    assert classes_of(AZURE, Latency.MS, switched=True) == ("Hot", "Smart", "Cool", "Cold")
    # GCS has no such class
    assert classes_of(GCS, Latency.HOURS, switched=True) == classes_of(GCS, Latency.MS, switched=True)


def test_objects_leave_an_accounts_autopilot_once_and_are_placed_on_from_there():
    random = np.random.default_rng(4)
    reads = random.poisson(random.choice([0, 0.004, 0.02, 0.2, 2], 60)[:, None], (60, 500))
    reads[:20, 250:] = 0  # falls silent, and some of it comes back for good
    reads[:6, 380:] = 3
    trace = trace_with(reads, [8 * GIB] * 60, np.where(np.arange(60) % 3, -5, 270), eval_from=250)
    tariff, switched = (
        tariff_of(AZURE, trace.size_bytes, classes_of(AZURE, Latency.MS, switched=with_it)) for with_it in (False, True)
    )
    smart = switched.code_of("Smart")
    policy = Learned(trace.before(250), switched, inside=smart)
    recorded = Recorded(policy)
    replay(trace, switched, "cloudflux", recorded)  # refuses whoever goes back in
    ways = [[code for _, _, moves in recorded.decided for moved, code in moves if moved == row] for row in range(60)]
    assert all(way[0] == smart and smart not in way[1:] for way in ways)
    assert any(len(way) > 2 for way in ways), "some are moved again among the classes of their own"
    assert any(len(way) == 1 for way in ways), "some never leave"
    assert left_one_by_one(switched) == smart
    assert left_one_by_one(tariff) is None
    gcs = tariff_of(GCS, trace.size_bytes, classes_of(GCS, Latency.MS, switched=True))
    assert left_one_by_one(gcs) is None


@pytest.mark.parametrize(
    ("book", "latency", "is_switched"),
    [(AZURE, Latency.MS, True), (AZURE, Latency.HOURS, False), (GCS, Latency.MS, False)],
)
def test_an_autopilot_needs_no_margin_where_nothing_is_given_up(monkeypatch, book, latency, is_switched):
    monkeypatch.setattr("cloudflux_ml.backtest.learned.SWITCH_MARGIN", 0.999)  # nothing is as much cheaper
    random = np.random.default_rng(7)
    reads = random.poisson(0.02, (50, 400))
    trace = trace_with(reads, [8 * GIB] * 50, [-5] * 50, eval_from=250)
    tariff = tariff_of(book, trace.size_bytes, classes_of(book, latency))
    switched = tariff_of(book, trace.size_bytes, classes_of(book, latency, switched=True))
    policy = CloudFlux(trace.before(250), tariff, switched=switched)
    assert (policy.tariff is switched) == is_switched


def test_rules_are_the_classifiers_answers_day_by_day():
    trace = random_trace(6, objects=30)
    tariff = tariff_of(AWS, trace.size_bytes, classes_of(AWS, Latency.MS))
    recorded = Recorded(FACTORIES["rules"](trace.before(trace.eval_from), tariff, PolicySettings()))
    replay(trace, tariff, "rules", recorded)
    reads = np.zeros((trace.objects, trace.days))
    for day in range(trace.days):
        rows, counts = trace.on(day)
        reads[rows, day] = counts
    for day, codes, moves in recorded.decided:
        seen = [np.flatnonzero(row[:day]) for row in reads]
        idle = [day - days[-1] if len(days) else np.inf for days in seen]
        wanted = classify(reads[:, max(day - 30, 0) : day].sum(axis=1), idle).storage_classes(AWS.provider)
        for row, code in moves:
            codes[row] = code
        movable = (trace.created < day) & (trace.size_bytes >= SMALL_BYTES)
        assert [tariff.class_names[code] for code in codes[movable]] == wanted[movable].tolist()


class WatchedBreakEven(BreakEven):
    """Break-even that keeps the dearest premium of a day's reads in the colder class."""

    dearest = 0.0

    def promote(self, day, account, rows, reads):
        colder = account.class_codes[rows] != self._standard
        if colder.any():
            self.dearest = max(self.dearest, float((self.credits.premium_usd[rows, 0] * reads)[colder].max()))
        return super().promote(day, account, rows, reads)


def bound_of(tariff, policy) -> tuple[float, float]:
    """Give the factor and the addend of the bound in ``domain.break_even``, for one object."""
    size, (standard, colder) = tariff.size_gib[0], (0, 1)
    trip = sum(
        tariff.move_usd[a, b] + size * tariff.move_usd_gib[a, b] for a, b in ((standard, colder), (colder, standard))
    )
    full = trip + tariff.min_days[colder] * tariff.storage_usd_day[0, colder]
    most = max(float(policy.credits.saving_usd[0, 0]), policy.dearest)
    return (3 * full + most) / trip if trip > 0 else np.inf, 4 * full + 2 * most


@settings(max_examples=150)
@given(
    small_books(classes=("STANDARD", "GLACIER_IR")),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=12),
)
def test_break_even_keeps_its_bound_for_two_classes(book, gaps):
    # reads after gaps of days, each pattern again and again: what a ski rental fears
    pattern = [count for gap, count_of_gap in gaps for count in [0] * gap + [count_of_gap]]
    reads = (pattern * (200 // len(pattern) + 1))[:200]
    trace = trace_with([reads], [GIB], eval_from=1)
    tariff = tariff_of(book, [GIB])
    policy = WatchedBreakEven(trace.before(1), tariff)
    if not (policy.credits.saving_usd[0, 0] > 0 and policy.credits.premium_usd[0, 0] >= 0):
        return  # no colder class to rent, or none that reads could ever make regret
    paid = replay(trace, tariff, "break-even", policy).usd
    factor, addend = bound_of(tariff, policy)
    assert paid <= factor * optimal_schedule(trace, tariff).usd[0] + addend + 1e-9


def test_break_even_moves_when_the_saving_has_paid_the_round_trip():
    tariff = tariff_of(AWS, [GIB], ["STANDARD", "GLACIER_IR"])
    saving = tariff.storage_usd_day[0, 0] - tariff.storage_usd_day[0, 1]
    trip = tariff.move_usd[0, 1] + tariff.move_usd[1, 0] + tariff.move_usd_gib[1, 0]
    trip += 90 * tariff.storage_usd_day[0, 1]
    idle = int(np.ceil(trip / saving))
    trace = trace_with([[0] * 40 + [0] * 200], [GIB], [30], eval_from=40)
    recorded = Recorded(BreakEven(trace.before(40), tariff))
    replay(trace, tariff, "break-even", recorded)
    assert [day for day, _, moves in recorded.decided if moves] == [30 + idle]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("lifecycle-age", "GLACIER_IR"),
        ("lifecycle-idle", "STANDARD_IA"),
        ("rules", "GLACIER_IR"),
        ("naive-forest", "STANDARD_IA"),
    ],
)
def test_a_book_without_a_class_that_a_policy_needs_is_named_with_it(name, missing):
    book = replace(
        AWS, name="short", classes=tuple(prices for prices in AWS.classes if prices.storage_class != missing)
    )
    with pytest.raises(SettingsError, match=f"policy {name} needs the storage class {missing}, which price book short"):
        backtest(idle_after(3), book, [name])


def test_a_book_without_an_autopilot_or_the_standard_class_is_named():
    book = replace(AWS, name="plain", classes=tuple(prices for prices in AWS.classes if prices.autopilot is None))
    with pytest.raises(
        SettingsError, match="policy autopilot needs an autopilot's storage class, which price book plain"
    ):
        backtest(idle_after(3), book, ["autopilot"])
    with pytest.raises(SettingsError, match="price book plain does not have the class that uploads get"):
        backtest(idle_after(3), replace(book, classes=book.classes[1:]), ["stay"])


def test_an_unknown_policy_is_named_with_those_that_there_are():
    with pytest.raises(
        SettingsError, match=r"there is no policy 'clairvoyant': there are stay, lifecycle-age, .*optimum"
    ):
        backtest(idle_after(3), AWS, ["clairvoyant"])


def test_a_policy_that_moves_too_early_or_where_it_cannot_is_refused():
    class Hasty:
        def observe(self, day, rows, reads):
            pass

        def decide(self, day, account, movable):
            return np.array([0]), np.array([1])

    tariff = tariff_of(AWS, [GIB], ["STANDARD", "GLACIER_IR"])
    with pytest.raises(ValueError, match="policy hasty moves object 0 on day 3, before the day after its creation"):
        replay(trace_with([[0] * 9], [GIB], [5], eval_from=3), tariff, "hasty", Hasty())
    assert replay(trace_with([[0] * 9], [GIB], [2], eval_from=3), tariff, "hasty", Hasty()).moves == 1
