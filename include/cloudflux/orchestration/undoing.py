"""Undoing, put together from the estate file: what the moves of a plan or of an object cost to take back."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from cloudflux.orchestration.edge import engine, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudflux.domain.plans import Guardrails
    from cloudflux.workflows.undo import UndoProposal
    from cloudflux.workflows.undo_costs import BucketPrices

_Built = TypeVar("_Built")


def propose_undo(
    target: str, *, run_id: str, created_at: datetime, guardrails: Guardrails, dry_run: bool, what_fits: bool = False
) -> UndoProposal:
    """Store the plan that takes back the moves of a plan, or the newest move of an object."""
    from cloudflux.workflows import undo

    return _with_stores(
        undo.propose_undo,
        target=target,
        run_id=run_id,
        created_at=created_at,
        guardrails=guardrails,
        dry_run=dry_run,
        what_fits=what_fits,
    )


def preview_undo(target: str, *, created_at: datetime, guardrails: Guardrails) -> UndoProposal:
    """Tell what taking the moves back would come to; nothing is stored."""
    from cloudflux.workflows import undo

    return _with_stores(undo.preview_undo, target=target, created_at=created_at, guardrails=guardrails)


def _with_stores(build: Callable[..., _Built], **arguments: Any) -> _Built:
    from cloudflux.stores.done_moves import DoneMoves
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans

    database = engine()
    try:
        return build(Plans(database), Ledger(database), DoneMoves(database), bucket_prices(), **arguments)
    finally:
        database.dispose()


def bucket_prices() -> Callable[[str, str], BucketPrices]:
    """Give the function that tells the prices of a bucket of the estate."""
    from cloudflux.orchestration.estate_books import book_of
    from cloudflux.orchestration.movers import job_terms_of
    from cloudflux.workflows.move_costs import restore_orders
    from cloudflux.workflows.undo_costs import BucketPrices

    estate = settings().load_estate()

    @functools.cache
    def prices_of(provider: str, bucket: str) -> BucketPrices:
        named = estate.bucket(provider, bucket)
        book = book_of(named)
        orders = restore_orders(book, within_hours=named.restore_within_hours, keep_days=named.restore_keep_days)
        return BucketPrices(book, orders, job_terms_of(named, book))

    return prices_of
