"""What a move costs on its day, and which way of restoring is chosen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from unit.workflows.migrate.world import planned

from cloudflux.domain.migrations import RestoreOrder
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import PlannedMove
from cloudflux.domain.tiers import Provider
from cloudflux.price_books import load_book
from cloudflux.workflows.move_costs import move_costs, restore_orders

AT = datetime(2026, 3, 1, tzinfo=UTC)
GIB = 2**30


def a_move(
    from_class: str, to_class: str, *, size_bytes: int = GIB, days: float = 1000, provider: Provider = Provider.AWS
) -> tuple[PlannedMove, ObjectState]:
    since = AT - timedelta(days=days)
    state = ObjectState(ObjectRef(provider, "b", "k"), size_bytes, from_class, "e", since, since)
    return replace(planned(0, state), to_class=to_class), state


def cost(
    book: str, from_class: str, to_class: str, *, by_lifecycle: bool = False, days: float = 1000
) -> Decimal | None:
    move, state = a_move(from_class, to_class, days=days)
    (found,) = move_costs(load_book(book), by_lifecycle=by_lifecycle)([move], [state], AT)
    return found


def test_a_copy_costs_the_request_at_its_destination() -> None:
    assert cost("aws-us-east-1", "STANDARD", "GLACIER_IR") == Decimal(
        "0.0000204"
    )  # USD 0.02 per 1,000 PUT, 0.0004 per 1,000 reads


def test_what_is_still_owed_comes_on_top_when_an_object_leaves_early() -> None:
    # 60 of 90 days of a GiB in Glacier Instant Retrieval, and its retrieval and copy to Standard
    early = cost("aws-us-east-1", "GLACIER_IR", "STANDARD", days=30)
    late = cost("aws-us-east-1", "GLACIER_IR", "STANDARD", days=90)
    assert early is not None
    assert late is not None
    assert early - late == Decimal("0.008")  # 2 months at USD 0.004


def test_a_lifecycle_rule_costs_its_transition() -> None:
    assert cost("aws-us-east-1", "STANDARD", "GLACIER_IR", by_lifecycle=True) == Decimal("0.00002")
    assert cost("aws-us-east-1", "GLACIER_IR", "STANDARD", by_lifecycle=True) is None  # no rule can do that


def test_a_restore_costs_what_was_asked_for() -> None:
    book = load_book("aws-us-east-1")
    pairs = [a_move("GLACIER", "STANDARD", size_bytes=100 * GIB), a_move("STANDARD", "GLACIER_IR")]
    moves, states = [move for move, _ in pairs], [state for _, state in pairs]

    def costs(hours: int) -> list[Decimal | None]:
        order_of = restore_orders(book, within_hours=hours, keep_days=1)
        return list(move_costs(book, restore_of=order_of)(moves, states, AT))

    bulk, expedited = costs(48), costs(1)
    assert bulk[1] == expedited[1] == Decimal("0.0000204")
    assert bulk[0] is not None
    assert expedited[0] is not None
    # bulk restores are free; expedited ones cost USD 0.03 a GiB and 10 for 1,000 requests
    assert expedited[0] - bulk[0] == Decimal("3.01")


def test_there_is_no_cost_when_the_book_does_not_know_the_class() -> None:
    assert cost("aws-us-east-1", "EXPRESS_ONEZONE", "STANDARD") is None
    assert move_costs(load_book("aws-us-east-1"))([], [], AT) == []


@pytest.mark.parametrize(
    ("from_class", "hours", "priority"),
    [
        ("GLACIER", 48, "bulk"),
        ("GLACIER", 5, "standard"),
        ("GLACIER", 1, "expedited"),
        ("DEEP_ARCHIVE", 48, "bulk"),
        ("DEEP_ARCHIVE", 12, "standard"),
        ("DEEP_ARCHIVE", 1, "standard"),  # nothing is as fast as that: the fastest there is
    ],
)
def test_the_cheapest_restore_is_chosen_that_is_fast_enough(from_class: str, hours: int, priority: str) -> None:
    move, _ = a_move(from_class, "STANDARD")
    order_of = restore_orders(load_book("aws-us-east-1"), within_hours=hours, keep_days=3)
    assert order_of(move) == RestoreOrder(priority, 3)


@pytest.mark.parametrize("name", ["aws-us-east-1", "aws-us-east-1-archive"])
def test_who_may_lie_in_an_archive_tier_of_intelligent_tiering_is_restored_for_nothing(name: str) -> None:
    move, before = a_move("INTELLIGENT_TIERING", "STANDARD")
    book = load_book(name)
    order_of = restore_orders(book, within_hours=48, keep_days=2)
    assert order_of(move) == RestoreOrder("standard", 2)
    costs = [move_costs(book, restore_of=ways)([move], [before], AT) for ways in (order_of, lambda _: None)]
    assert costs[0] == costs[1] != [None]


def test_azure_rehydrates_at_high_priority_only_when_there_is_no_time() -> None:
    move, _ = a_move("Archive", "Hot", provider=Provider.AZURE)
    book = load_book("azure-eastus-lrs")
    assert restore_orders(book, within_hours=24, keep_days=1)(move) == RestoreOrder("standard", 1)
    assert restore_orders(book, within_hours=1, keep_days=1)(move) == RestoreOrder("high", 1)


def test_nothing_is_restored_that_can_be_read() -> None:
    for from_class in ("STANDARD", "GLACIER_IR", "NO_SUCH_CLASS"):
        move, _ = a_move(from_class, "STANDARD_IA")
        assert restore_orders(load_book("aws-us-east-1"), within_hours=48, keep_days=1)(move) is None
