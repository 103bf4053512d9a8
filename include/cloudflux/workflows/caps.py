"""Which moves fit within the caps of one plan, in the order in which they are wanted."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloudflux.domain.costs import usd
from cloudflux.domain.plans import AboveCap, Guardrails

Flags = npt.NDArray[np.bool_]

_MOST_PASSES: Final = 100
"""Each takes all moves up to the next one that does not fit. Few are needed: what is larger than the room that is left
is passed over at once. What is still open after these waits for the next plan."""

_USD_PLACES: Final = 10


def fitting(size_bytes: npt.NDArray[np.int64], one_time_usd: npt.NDArray[np.float64], guardrails: Guardrails) -> Flags:
    """Take the moves in order, pass over each that does not fit any more, and go on behind it; all of shape (N,)."""
    fits = np.zeros(len(size_bytes), dtype=np.bool_)
    objects, room_bytes, room_usd = guardrails.max_objects, guardrails.max_bytes, float(guardrails.max_one_time_usd)
    waiting = np.arange(len(size_bytes))
    for _ in range(_MOST_PASSES):
        waiting = waiting[(size_bytes[waiting] <= room_bytes) & (one_time_usd[waiting] <= room_usd)]
        some = waiting[:objects]
        if not len(some):
            break
        taken = some[(np.cumsum(size_bytes[some]) <= room_bytes) & (np.cumsum(one_time_usd[some]) <= room_usd)]
        fits[taken] = True
        objects -= len(taken)
        room_bytes -= int(size_bytes[taken].sum())
        room_usd = max(room_usd - float(one_time_usd[taken].sum()), 0.0)
        waiting = waiting[len(taken) :]
    return fits


def in_turns(moves: pa.Table, pinned: Flags, guardrails: Guardrails) -> npt.NDArray[np.intp]:
    """Order moves so that the pinned and the others use the caps up equally while there are both; shape (rows,).

    Next is always the kind whose moves up to there use less of the caps, each by the cap of which it needs the largest
    share: thousands that are pinned cannot keep the others waiting, nor the others them.
    """
    shares = np.full(len(pinned), 1 / guardrails.max_objects if guardrails.max_objects else 0.0)
    for name, most in (("size_bytes", guardrails.max_bytes), ("one_time_usd", float(guardrails.max_one_time_usd))):
        if most:
            shares = np.maximum(shares, moves[name].to_numpy() / most)
    shares[shares > 1] = 0.0  # goes into no plan
    used = np.zeros(len(pinned))
    for kind in (pinned, ~pinned):
        used[kind] = np.concatenate([[0.0], np.cumsum(shares[kind])])[:-1]
    return np.lexsort((~pinned, used))


def would_fit(moves: pa.Table, taken: Flags, guardrails: Guardrails) -> Flags:
    """Tell of the moves that were not taken which would have fitted in their turn, behind those taken before them."""
    within: Flags = np.cumsum(taken) < guardrails.max_objects
    for name, most in (("size_bytes", guardrails.max_bytes), ("one_time_usd", float(guardrails.max_one_time_usd))):
        amounts = moves[name].to_numpy()
        within &= np.cumsum(np.where(taken, amounts, 0)) + amounts <= most
    return within & ~taken


def above_caps(moves: pa.Table, guardrails: Guardrails) -> tuple[AboveCap, ...]:
    """Tell of each cap that single moves exceed, how many do, and the largest of them."""
    caps = (
        ("max_bytes", moves["size_bytes"].to_numpy(), guardrails.max_bytes),
        ("max_one_time_usd", moves["one_time_usd"].to_numpy(), float(guardrails.max_one_time_usd)),
    )
    found = []
    for cap, amounts, most in caps:
        above = int((amounts > most).sum())
        if above:
            largest = moves.slice(int(np.argmax(amounts)), 1).to_pylist()[0]
            amount = largest["size_bytes"] if cap == "max_bytes" else usd(largest["one_time_usd"], _USD_PLACES)
            found.append(
                AboveCap(
                    cap=cap,
                    moves=above,
                    provider=largest["provider"],
                    bucket=largest["bucket"],
                    from_class=largest["current_class"],
                    to_class=largest["chosen_class"],
                    amount=Decimal(amount),
                    saving_usd=usd(largest["saving_usd"], _USD_PLACES),
                )
            )
    return tuple(found)
