"""What is held in memory of moves that could be taken back: numbers alone, to choose by and to add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.costs import usd
from cloudflux.domain.plans import PlanGroup
from cloudflux.workflows.job_fees import Group, TermsOf, fees_by_object, group_codes
from cloudflux.workflows.plan import CANARY_KEY, are_canaries, object_numbers

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_USD_PLACES: Final = 10


@dataclass(frozen=True, slots=True)
class UndoRows:
    """Moves in the order of their objects, as columns of shape (N,): some 60 bytes for each."""

    undoes_move_no: Ints
    codes: npt.NDArray[np.intp]
    """Which of the groups each belongs to."""
    size_bytes: Ints
    versioned: Flags
    copy_usd: Floats
    """The one-time cost without that of S3's jobs."""
    running_usd: Floats
    """What it brings over the horizon, before the one-time cost: less than nothing, as a rule."""
    monthly_saving_usd: Floats
    numbers: Floats
    """By which canaries are chosen."""
    first: Flags
    job_fee_usd: Floats
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, parts: Iterable[pa.Table]) -> Self:
        """Read the columns of parts that come in the order of their objects."""
        groups: dict[Group, int] = {}
        columns: list[dict[str, npt.NDArray[np.generic]]] = [dict(_NONE)]
        for part in parts:
            codes, found = group_codes(part)
            known = np.array([groups.setdefault(group, len(groups)) for group in found], dtype=np.intp)
            once = part["one_time_usd"].to_numpy()
            columns.append(
                {
                    "undoes_move_no": part["undoes_move_no"].to_numpy(),
                    "codes": known[codes],
                    "size_bytes": part["size_bytes"].to_numpy(),
                    "versioned": pc.is_valid(part["version_id"]).to_numpy(),
                    "copy_usd": once,
                    "running_usd": part["saving_usd"].to_numpy() + once,
                    "monthly_saving_usd": part["monthly_saving_usd"].to_numpy(),
                    "numbers": object_numbers(part, CANARY_KEY),
                }
            )
        # popped: of no more than one column both the parts and the whole are held
        together = {name: np.concatenate([column.pop(name) for column in columns]) for name in _NONE}
        count = len(together["codes"])
        return cls(
            **together,
            first=np.zeros(count, dtype=np.bool_),
            job_fee_usd=np.zeros(count),
            groups=tuple(groups),
        )

    @property
    def one_time_usd(self) -> Floats:
        """What each costs once, its share of a job included."""
        return self.copy_usd + self.job_fee_usd

    @property
    def saving_usd(self) -> Floats:
        """What each brings over the horizon, net."""
        return self.running_usd - self.one_time_usd

    def only(self, chosen: Flags) -> UndoRows:
        """Give some of the rows."""
        names = [field.name for field in fields(self) if field.name != "groups"]
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def with_canaries(self, share: float) -> UndoRows:
        """Choose the moves that go first."""
        return replace(self, first=are_canaries(self.codes, self.numbers, share))

    def with_fees(self, terms_of: TermsOf) -> UndoRows:
        """Let each bear its share of what S3's jobs cost, if its bucket's moves become some."""
        fees = fees_by_object(
            self.codes,
            self.groups,
            size_bytes=self.size_bytes,
            versioned=self.versioned,
            first=self.first,
            terms_of=terms_of,
        )
        return replace(self, job_fee_usd=fees)

    def plan_groups(self) -> tuple[PlanGroup, ...]:
        """Add up the moves by provider, bucket and pair of classes."""
        counts = np.bincount(self.codes, minlength=len(self.groups))
        sums = {
            name: np.bincount(self.codes, weights=getattr(self, name), minlength=len(self.groups))
            for name in ("size_bytes", "saving_usd", "one_time_usd", "job_fee_usd")
        }
        return tuple(
            PlanGroup(
                provider=group.provider,
                bucket=group.bucket,
                from_class=group.current_class,
                to_class=group.chosen_class,
                objects=int(counts[code]),
                bytes=int(sums["size_bytes"][code]),
                saving_usd=usd(float(sums["saving_usd"][code]), _USD_PLACES),
                one_time_usd=usd(float(sums["one_time_usd"][code]), _USD_PLACES),
                longest_payback_days=None,
                job_fees_usd=usd(float(sums["job_fee_usd"][code]), _USD_PLACES),
            )
            for group, code in sorted((group, code) for code, group in enumerate(self.groups))
            if counts[code]
        )


_NONE: Final[dict[str, npt.NDArray[np.generic]]] = {
    "undoes_move_no": np.zeros(0, np.int64),
    "codes": np.zeros(0, np.intp),
    "size_bytes": np.zeros(0, np.int64),
    "versioned": np.zeros(0, np.bool_),
    "copy_usd": np.zeros(0),
    "running_usd": np.zeros(0),
    "monthly_saving_usd": np.zeros(0),
    "numbers": np.zeros(0),
}
