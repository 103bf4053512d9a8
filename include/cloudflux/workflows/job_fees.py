"""What the jobs of S3 Batch Operations cost that a plan's moves get into: expected of a plan, and of moves made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.batch_jobs import MOST_JOB_BYTES, JobPrices, JobTerms, job_sizes
from cloudflux.domain.migrations import TierChange
from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import PlannedMove
from cloudflux.workflows.move_costs import CostsOf

Floats = npt.NDArray[np.float64]

GROUP: Final = ["provider", "bucket", "current_class", "chosen_class"]
"""The columns by which a plan's moves are grouped."""


class Group(NamedTuple):
    """What the moves of a group have in common."""

    provider: str
    bucket: str
    current_class: str
    chosen_class: str


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

    ``moves`` has ``GROUP``, ``key``, ``version_id`` and ``size_bytes``, one plan's moves in any order.
    """
    codes, groups = group_codes(moves)
    fees = np.zeros(moves.num_rows)
    if any(terms_of(group.provider, group.bucket) is not None for group in groups):
        order = pc.sort_indices(moves, [(name, "ascending") for name in ("provider", "bucket", "key")]).to_numpy()
        fees[order] = fees_by_object(
            codes[order],
            groups,
            size_bytes=moves["size_bytes"].to_numpy()[order],
            versioned=pc.is_valid(moves["version_id"]).to_numpy()[order],
            first=canaries(moves)[order],
            terms_of=terms_of,
        )
    return fees


def group_codes(moves: pa.Table) -> tuple[npt.NDArray[np.intp], list[Group]]:
    """Number the groups of moves, in the order in which they come; gives each move's, shape (rows,), and the groups."""
    frame = moves.select(GROUP).to_pandas()
    codes, groups = pd.factorize(pd.MultiIndex.from_frame(frame))
    return codes, [Group(*group) for group in groups]


def fees_by_object(
    codes: npt.NDArray[np.intp],
    groups: Sequence[Group],
    *,
    size_bytes: npt.NDArray[np.int64],
    versioned: npt.NDArray[np.bool_],
    first: npt.NDArray[np.bool_],
    terms_of: TermsOf,
) -> Floats:
    """Give the same for moves in the order of their objects, of which ``first`` tells the canaries; shape (N,).

    What shows only when objects are looked at (locks, ACLs, encryption) keeps some of them out of the jobs: then less
    is paid.
    """
    fees = np.zeros(len(codes))
    buckets = sorted({(group.provider, group.bucket) for group in groups})
    bucket_of = np.array([buckets.index((group.provider, group.bucket)) for group in groups], dtype=np.intp)
    targets = sorted({group.chosen_class for group in groups})
    target_of = np.array([targets.index(group.chosen_class) for group in groups], dtype=np.intp)
    for number, bucket in enumerate(buckets):
        terms = terms_of(*bucket)
        if terms is None:
            continue
        rows = np.flatnonzero(bucket_of[codes] == number)
        if len(rows) < terms.from_objects:
            continue
        restored = np.array([group.current_class in terms.restored_classes for group in groups])
        carried = np.where(versioned, terms.remove_superseded, terms.write_once) & (size_bytes <= MOST_JOB_BYTES)
        carried &= ~restored[codes]
        for some in (rows[first[rows]], rows[~first[rows]]):
            sizes = job_sizes(np.arange(len(some)), target_of[codes[some]], carried[some])
            share = terms.prices.usd_per_object + terms.prices.usd_per_job / np.maximum(sizes, 1)
            fees[some] = np.where(sizes > 0, share, 0.0)
    return fees


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
