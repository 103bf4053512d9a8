"""The cost rows of an explanation: what each choice is made of, and why the others were none.

The parts come from what decides: ``expected_life`` for objects with a state of use, ``explain_cost`` for the others.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np

from cloudflux.domain.accounting import EARLY_DELETION
from cloudflux.domain.costs import early_deletion_usd
from cloudflux.domain.expected_life import expected_life
from cloudflux.domain.explain import Outlook, explain_cost
from cloudflux.domain.policy import Decisions, LearntUsage, PolicySettings, barred_by, may_leave
from cloudflux.domain.prices import PriceBook
from cloudflux.workflows.explanation import CandidateCost, RuledOut
from cloudflux.workflows.score import OwnerGroup

_SAME: Final = 1e-3  # the tables hold 32-bit figures: less than this is no difference


def candidates_of(
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


def ruled_out(mine: OwnerGroup, decisions: Decisions, book: PriceBook) -> tuple[RuledOut, ...]:
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
    prices = book.prices_of(name) if name in book.class_names else None
    settled = prices is not None and prices.is_setting_of_whole and not may_leave(prices, mine.limits)
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
