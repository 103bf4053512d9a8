"""What the jobs of S3 Batch Operations cost that a plan's moves get into: expected of a plan, and of moves made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.batch_jobs import MOST_JOB_BYTES, JobPrices, JobTerms, job_sizes
from cloudflux.domain.migrations import TierChange
from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import PlannedMove
from cloudflux.workflows.move_costs import CostsOf

Floats = npt.NDArray[np.float64]

TermsOf = Callable[[str, str], JobTerms | None]
"""By provider and bucket; None where no jobs are wanted."""
Canaries = Callable[[pa.Table], npt.NDArray[np.bool_]]
"""Tells which of some moves go first: they are cut into ranges of their own."""

_PLACES: Final = Decimal("1e-10")


def no_jobs(_provider: str, _bucket: str) -> None:
    """Tell that all objects are copied by our own requests."""
    return


def expected_fees(moves: pa.Table, canaries: Canaries, terms_of: TermsOf) -> Floats:
    """Give the share of its job's price that each move is expected to bear, in USD; shape (rows,).

    ``moves`` has ``provider``, ``bucket``, ``key``, ``version_id``, ``size_bytes``, ``current_class`` and
    ``chosen_class``, one plan's moves in any order. What shows only when objects are looked at (locks, ACLs,
    encryption) keeps some of them out of the jobs: then less is paid.
    """
    fees = np.zeros(moves.num_rows)
    counts = moves.group_by(["provider", "bucket"]).aggregate([([], "count_all")])
    for provider, bucket, count in zip(*(counts[name].to_pylist() for name in counts.column_names), strict=True):
        terms = terms_of(provider, bucket)
        if terms is None or count < terms.from_objects:
            continue
        within = pc.and_(pc.equal(moves["provider"], provider), pc.equal(moves["bucket"], bucket))
        rows = np.flatnonzero(within.to_numpy())
        first = canaries(moves)[rows]
        for chosen in (rows[first], rows[~first]):
            fees[chosen] = _shares(moves.take(pa.array(chosen)), terms)
    return fees


def _shares(moves: pa.Table, terms: JobTerms) -> Floats:
    """Give the shares of moves of one bucket that are cut into ranges together."""
    if not moves.num_rows:
        return np.zeros(0)
    places = np.empty(moves.num_rows, dtype=np.intp)
    places[pc.sort_indices(moves["key"]).to_numpy()] = np.arange(moves.num_rows)
    targets = pc.dictionary_encode(moves["chosen_class"].combine_chunks()).indices.to_numpy()
    versioned = pc.is_valid(moves["version_id"]).to_numpy()
    restored = pc.is_in(moves["current_class"], pa.array(sorted(terms.restored_classes), pa.string())).to_numpy()
    carried = (
        np.where(versioned, terms.remove_superseded, terms.write_once)
        & ~restored
        & (moves["size_bytes"].to_numpy() <= MOST_JOB_BYTES)
    )
    sizes = job_sizes(places, targets.astype(np.intp), carried)
    share = terms.prices.usd_per_object + terms.prices.usd_per_job / np.maximum(sizes, 1)
    return np.where(sizes > 0, share, 0.0)


def add_fees(moves: pa.Table, fees: Floats) -> pa.Table:
    """Give moves whose cost and saving hold their share of jobs; the share itself becomes ``job_fee_usd``."""
    for name, sign in (("one_time_usd", 1.0), ("saving_usd", -1.0)):
        place = moves.schema.get_field_index(name)
        changed = pa.array(moves[name].to_numpy() + sign * fees)
        moves = moves.set_column(place, moves.schema.field(place), changed)
    return moves.append_column("job_fee_usd", pa.array(fees))


def with_job_fees(
    costs_of: CostsOf, prices: JobPrices, sizes_of: Callable[[Sequence[TierChange]], Sequence[int]]
) -> CostsOf:
    """Let a cost function add what each move's job did cost; ``sizes_of`` tells how many objects that job named."""

    def with_fees(moves: Sequence[PlannedMove], before: Sequence[ObjectState], at: datetime) -> list[Decimal | None]:
        sizes = sizes_of([TierChange(state, move.to_class) for move, state in zip(moves, before, strict=True)])
        costs = costs_of(moves, before, at)
        return [
            None if cost is None else cost + prices.share_usd(size).quantize(_PLACES)
            for cost, size in zip(costs, sizes, strict=True)
        ]

    return with_fees
