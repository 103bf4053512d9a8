"""The reason of each decision in words, as few distinct words and each object's codes of them.

Millions of objects share a few hundred ways to say it: every distinct word is formed once, and a text is put together
only where it is written down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.prices import PriceBook

Texts = NDArray[np.object_]
Flags = NDArray[np.bool_]

_LEAST_FIGURE: Final = 1e-300  # what is less is 0: its magnitude would be no 64-bit figure
_MANTISSAS: Final = 91  # two significant digits: 10 to 99, and 100 where 99.6 is rounded


@dataclass(frozen=True, slots=True)
class Phrases:
    """N texts, each made of the words that its codes name, one after another."""

    words: tuple[tuple[str, ...], ...]
    """For each part of the text, its distinct words."""
    codes: tuple[NDArray[np.int32], ...]
    """For each part, which of its words each object has, shape (N,)."""

    @classmethod
    def same(cls, text: str, count: int) -> Self:
        """Give ``count`` times the same text."""
        return cls(((text,),), (np.zeros(count, dtype=np.int32),))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put several columns of texts one after another. Raises ``ValueError`` where they have other parts."""
        words: list[tuple[str, ...]] = []
        codes: list[NDArray[np.int32]] = []
        for those_words, those_codes in zip(
            zip(*(part.words for part in parts), strict=True),
            zip(*(part.codes for part in parts), strict=True),
            strict=True,
        ):
            first = np.cumsum([0, *(len(some) for some in those_words)])
            words.append(tuple(word for some in those_words for word in some))
            codes.append(
                np.concatenate([some + np.int32(start) for some, start in zip(those_codes, first, strict=False)])
            )
        return cls(tuple(words), tuple(codes))

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.codes[0])

    def texts(self) -> Texts:
        """Give the whole texts, shape (N,)."""
        text = np.full(len(self), "", dtype=object)
        for words, codes in zip(self.words, self.codes, strict=True):
            text = text + np.array(words, dtype=object)[codes]
        return text


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the reasons of N decisions are told from. Arrays have shape (N,); classes are positions in the book."""

    current: Codes
    chosen: Codes
    moves: Flags
    expected_reads: Floats
    """Over the horizon."""
    saving_usd: Floats
    payback_days: Floats
    excluded: Flags
    lock_reason: Texts
    """None where nothing locks the object."""
    unknown: Flags
    """Whether the book does not know the present class; then ``current_class`` names it."""
    current_class: Texts
    settled: Flags
    """Whether the present class is an autopilot that is no object's own setting, and may not be left."""
    leaving: Flags
    """Whether a move would take the object out of such an autopilot for good."""
    retained: Flags
    pinned: Flags
    unguarded: Codes
    """What would be cheapest if every forecast were trusted."""
    runs_cheapest: Codes
    """What would cost least to hold and read."""


def reasons_of(grounds: Grounds, book: PriceBook, horizon_days: int) -> Phrases:
    """Put each decision's reason into words. Figures are rounded to two digits, or to whole ones from 100 on."""
    count, names = len(grounds.current), book.class_names
    opening = _Openings(count)
    here, moves = grounds.current, grounds.moves
    locked = np.not_equal(grounds.lock_reason, np.array(None, dtype=object)).astype(np.bool_)
    opening.say(grounds.excluded, [f"keep {name}: excluded by its owner" for name in names], here)
    opening.say_named(locked, lambda why, name: f"keep {name}: locked ({why})", grounds.lock_reason, names, here)
    opening.say_named(
        grounds.unknown,
        lambda name, _: f"keep {name}: price book {book.name} does not know this class",
        grounds.current_class,
    )
    opening.say(
        grounds.settled,
        [f"keep {name}: the autopilot is a setting of the account or bucket, not of one object" for name in names],
        here,
    )
    opening.say(grounds.retained, [f"keep {name}: younger than its owner's minimum retention" for name in names], here)
    chosen = here * len(names) + grounds.chosen
    out = "move {} -> {}, leaves smart tier for good: "
    opening.say(grounds.pinned & moves & grounds.leaving, _pairs(names, f"{out}pinned there by its owner"), chosen)
    opening.say(grounds.pinned & moves, _pairs(names, "move {} -> {}: pinned there by its owner"), chosen)
    opening.say(grounds.pinned, [f"keep {name}: pinned there by its owner" for name in names], here)
    opened = opening.open.copy()
    opening.say(moves & grounds.leaving, _pairs(names, out), chosen)
    opening.say(moves, _pairs(names, "move {} -> {}: "), chosen)
    moved = opened & moves
    opening.say(
        grounds.unguarded != here,
        _pairs(names, "keep {}: {} is expected to be cheaper, but the forecast is too weak for it ("),
        here * len(names) + grounds.unguarded,
    )
    opening.say(
        grounds.runs_cheapest != here,
        _pairs(
            names,
            f"keep {{}}: {{}} would run cheaper, but within {horizon_days} days it does not earn its move and risk (",
        ),
        here * len(names) + grounds.runs_cheapest,
    )
    opening.say(opening.open, [f"keep {name}: no allowed class is cheaper (" for name in names], here)
    parts = (
        opening.part(),
        _reads_part(grounds.expected_reads, opened, moved, horizon_days),
        _figures_part(grounds.saving_usd, moved, lambda usd: f"{_usd_text(usd)}, pays back in "),
        _figures_part(np.ceil(grounds.payback_days), moved, _days_text),
    )
    return Phrases(tuple(words for words, _ in parts), tuple(codes for _, codes in parts))


class _Openings:
    """The first words of N texts; what was said first of an object stands."""

    def __init__(self, count: int) -> None:
        self.open: Flags = np.ones(count, dtype=np.bool_)
        """Of which objects nothing was said yet."""
        self._codes = np.zeros(count, dtype=np.int32)
        self._words: list[str] = []

    def part(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Give the words and each object's code."""
        return tuple(self._words), self._codes

    def say(self, where: Flags, words: Sequence[str], codes: Codes) -> None:
        """Say ``words[codes]`` of the objects that are meant and still open."""
        rows = np.flatnonzero(self.open & where)
        if not len(rows):
            return
        self.open[rows] = False
        self._codes[rows] = codes[rows] + len(self._words)
        self._words += words

    def say_named(
        self,
        where: Flags,
        words: Callable[[str, str], str],
        texts: Texts,
        names: Sequence[str] = ("",),
        codes: Codes | None = None,
    ) -> None:
        """Say something with any text of the object's own in it, and with the name of its code."""
        rows = np.flatnonzero(self.open & where)
        if not len(rows):
            return
        distinct, which = np.unique(texts[rows].astype(str), return_inverse=True)
        own = np.zeros(len(texts), dtype=np.intp)
        own[rows] = which * len(names) + (0 if codes is None else codes[rows])
        self.say(where, [words(str(text), name) for text in distinct for name in names], own)


def _pairs(names: Sequence[str], template: str) -> list[str]:
    """Give a text for each pair of classes, the second running faster."""
    return [template.format(first, second) for first in names for second in names]


def _reads_part(
    reads: Floats, told: Flags, moved: Flags, horizon_days: int
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Give what is expected, in the words of a move and of one that stays; nothing where it is not told."""
    codes, figures = _rounded(reads)
    said = [f"{_reads_text(figure)} expected in {horizon_days} days" for figure in figures]
    words = ("", *(f"{text}; saves " for text in said), *(f"{text})" for text in said))
    return words, np.where(told, 1 + codes + np.where(moved, 0, len(said)), 0).astype(np.int32)


def _figures_part(
    figures: Floats, where: Flags, words: Callable[[float], str]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Give figures in words where they are told, and nothing elsewhere."""
    rows = np.flatnonzero(where)
    codes = np.zeros(len(figures), dtype=np.int32)
    codes[rows], distinct = _rounded(figures[rows])
    codes[rows] += 1
    return ("", *(words(figure) for figure in distinct)), codes


def _rounded(figures: Floats) -> tuple[NDArray[np.int32], list[float]]:
    """Round figures of at least 0 to two significant digits, from 100 on to whole ones: codes, shape (N,), and what
    they stand for.
    """
    finite = np.where(np.isfinite(figures) & (figures >= _LEAST_FIGURE), figures, 0.0)
    exponents = np.floor(np.log10(np.where(finite > 0, finite, 1.0))).astype(np.int64)
    magnitudes = np.power(10.0, exponents - 1)
    mantissas = np.round(finite / magnitudes)
    # a key for each (exponent, mantissa), so that distinct figures are found by counting instead of sorting
    least = int(exponents.min(initial=0))
    keys = (exponents - least) * _MANTISSAS + mantissas.astype(np.int64) - 9
    large = finite >= 100
    keys[large | (finite == 0)] = 0
    found = np.zeros((int(exponents[~large].max(initial=0)) - least + 1) * _MANTISSAS + 1, dtype=np.bool_)
    found[keys] = True
    found[0] = True
    distinct = np.flatnonzero(found)
    codes = (np.cumsum(found) - 1)[keys].astype(np.int32)
    values = [0.0] * len(distinct)
    places = np.zeros(len(found), dtype=np.int64)
    places[keys] = np.arange(len(keys))
    for code, key in enumerate(distinct.tolist()):
        if key:
            values[code] = float(mantissas[places[key]] * magnitudes[places[key]])
    whole, which = np.unique(np.round(finite[large]), return_inverse=True)
    codes[large] = (len(values) + which).astype(np.int32)
    return codes, [*values, *whole.tolist()]


def _reads_text(reads: float) -> str:
    number = f"{reads:.0f}" if reads >= 10 or math.isclose(reads, round(reads)) else f"{reads:.2g}"
    return f"{number} read" if number == "1" else f"{number} reads"


def _usd_text(amount: float) -> str:
    if amount >= 0.01:
        return f"${amount:,.2f}"
    return f"${amount:.{1 - math.floor(math.log10(amount))}f}" if amount > 0 else "$0"


def _days_text(days: float) -> str:
    return f"{days:.0f} day" if days == 1 else f"{days:.0f} days"
