"""Hours of the day in which nothing is moved: while a company's own work needs the storage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_FORM: Final = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: (\S+))?")
_MINUTES_OF_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From one time of day up to another, every day; over midnight when the end is not after the start."""

    start: time
    end: time
    zone: str = "UTC"

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Read ``08:00-18:00`` or ``22:00-06:00 Europe/Berlin``. Raises ``ValueError`` saying what is wrong."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"quiet hours are written 22:00-06:00 or 22:00-06:00 Europe/Berlin, not {text!r}")
        try:
            start, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
        except ValueError as exc:
            raise ValueError(f"quiet hours {text!r}: there is no such time of day") from exc
        zone = found[5] or "UTC"
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as exc:
            raise ValueError(f"quiet hours {text!r}: there is no time zone {zone!r}") from exc
        if start == end:
            raise ValueError(f"quiet hours {text!r} would last the whole day: nothing could ever move")
        return cls(start, end, zone)

    def __str__(self) -> str:
        """Write it as ``parse`` reads it."""
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone}"

    def ends_at(self, at: datetime) -> datetime | None:
        """Tell when the quiet hours end in which a moment falls; None when it falls in none.

        Where the clocks are put on, an end that does not exist that day is taken as the same minutes later.
        """
        zone = ZoneInfo(self.zone)
        local = at.astimezone(zone)
        minute = local.hour * 60 + local.minute
        start, end = (each.hour * 60 + each.minute for each in (self.start, self.end))
        if (minute - start) % _MINUTES_OF_DAY >= (end - start) % _MINUTES_OF_DAY:
            return None
        day = local.date() if minute < end else local.date() + timedelta(days=1)
        return datetime.combine(day, self.end, zone).astimezone(at.tzinfo)
