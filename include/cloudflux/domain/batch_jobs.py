"""Which moves of a plan become jobs of S3 Batch Operations, and what the jobs cost beside the copies that they make."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import Fee, PriceBook

JOB_MOVES: Final = 50_000
"""Moves of one job at most, so that their states fit into memory: the service itself takes billions."""
LEAST_JOB_OBJECTS: Final = 1_000
"""Fewer objects are copied by our own requests: a job costs its fee whatever its size."""
MOST_JOB_BYTES: Final = 5 * 10**9
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-copy-object.html, "objects up to 5 GB"."""

_JOB_FEE: Final = "S3 Batch Operations, a job"
_OBJECT_FEE: Final = "S3 Batch Operations, its objects"


@dataclass(frozen=True, slots=True)
class JobPrices:
    """What jobs cost, on top of the requests that they make (https://aws.amazon.com/s3/pricing/)."""

    usd_per_job: float
    usd_per_object: float

    def usd(self, objects: int, jobs: int = 1) -> Decimal:
        """Give what so many jobs cost that name so many objects in all."""
        return Decimal(repr(self.usd_per_job)) * jobs + Decimal(repr(self.usd_per_object)) * objects

    def share_usd(self, objects: int) -> Decimal:
        """Give what one of the objects of a job of this size bears; 0 for a job of none."""
        return self.usd(objects) / objects if objects else Decimal(0)


@dataclass(frozen=True, slots=True)
class JobTerms:
    """When one bucket's moves become jobs, and at which prices."""

    from_objects: int
    """Moves of one plan in the bucket from which on jobs are made."""
    prices: JobPrices
    restored_classes: frozenset[str]
    """Classes whose objects must be restored before they can be copied: no job takes them."""
    write_once: bool = False
    """Whether nobody overwrites objects: only then is a job made in a bucket without versions."""
    remove_superseded: bool = False
    """Whether superseded versions may be deleted: only then is a job made in a bucket with versions."""


def job_prices(book: PriceBook) -> JobPrices:
    """Read the prices of jobs from a book. Raises ``SettingsError`` naming the fee that it does not have."""
    return JobPrices(_each_usd(book, _JOB_FEE), _each_usd(book, _OBJECT_FEE))


def job_terms(book: PriceBook, *, from_objects: int, write_once: bool, remove_superseded: bool) -> JobTerms:
    """Give one bucket's terms by its price book. Raises ``SettingsError`` naming the fee that it does not have."""
    return JobTerms(
        from_objects,
        job_prices(book),
        frozenset(prices.storage_class for prices in book.classes if prices.restores),
        write_once,
        remove_superseded,
    )


def job_sizes(places: NDArray[np.intp], targets: NDArray[np.intp], carried: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Tell how many objects are in the job that each move gets into; 0 for one that gets into none. Shape (N,).

    ``places``: each move's place among the moves that are cut into ranges together (one bucket's, in order), from 0
    on; ``targets``: its class by number; ``carried``: whether a job can take it. A range makes one job for each class.
    """
    ranges = places // JOB_MOVES
    _, jobs = np.unique(np.stack([ranges, targets]), axis=1, return_inverse=True)
    jobs = jobs.reshape(-1)
    sizes = np.bincount(jobs, weights=carried, minlength=1).astype(np.int64)[jobs]
    found: NDArray[np.int64] = np.where(carried & (sizes >= LEAST_JOB_OBJECTS), sizes, 0)
    return found


def _each_usd(book: PriceBook, name: str) -> float:
    fee: Fee | None = next((fee for fee in book.fees if fee.name == name), None)
    if fee is None:
        raise SettingsError(f"price book {book.name} has no fee {name!r}, and batch_operations needs it")
    count, _, _ = fee.per.rpartition(" ")  # "job" or "1000000 objects"
    return fee.usd / int(count or 1)
