"""Names of log files that tell the day: what of a listing may be passed over."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

_YEAR: Final = "%Y"


PassedOver = Callable[[str, date], str]


def passed_over(
    name: str, days: str, *, days_early: int = 0, by_year: bool = False, otherwise: PassedOver | None = None
) -> PassedOver:
    """Give what tells where a listing by key goes on, behind files of before a day.

    ``name`` is the regular expression of a file's name, whose groups are what stands before its day, and the day's
    year, month and day; ``days`` writes a day as these names do (``strftime``). ``days_early`` is for files that
    are named by the requests they tell of, and delivered later. ``by_year``: names of other kinds may lie between two
    years of these. ``otherwise`` judges names that are none of these.

    The result takes a key that was found and a day. It gives the key itself where that is to be taken: its name tells
    no day, or none so early; otherwise a later one, with no other files than early ones of the same kind between.
    """
    pattern = re.compile(name)

    def goes_on(key: str, day: date) -> str:
        found = pattern.match(key)
        if found is None:
            return otherwise(key, day) if otherwise else key
        first = day - timedelta(days=days_early)
        before, year, month, of_month = found.groups()
        if (int(year), int(month), int(of_month)) >= (first.year, first.month, first.day):
            return key
        if by_year and int(year) < first.year:
            # Behind this year's files others may begin: the folder of an account whose number begins like a year.
            return f"{before}{year}{chr(ord(days[len(_YEAR)]) + 1)}"
        return before + first.strftime(days)

    return goes_on
