"""What every part of a price book's file is made of: sourced figures with their units, and how a restore is stated."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cloudflux.domain.prices import Latency, RestoreOption

Units = Literal["GiB-month", "GiB", "1000 requests", "10000 requests", "1000 objects-month", "10000 objects-month"]
COUNT_OF: Final[dict[str, int]] = {
    "GiB-month": 1,
    "GiB": 1,
    "1000 requests": 1000,
    "10000 requests": 10_000,
    "1000 objects-month": 1000,
    "10000 objects-month": 10_000,
}
"""How many of what is counted a price is for."""
REQUESTS: Final = ("1000 requests", "10000 requests")
"""The units of a price for requests."""


class KeyedError(ValueError):
    """A rule between keys is broken; ``key`` says where, below the part that was checked."""

    def __init__(self, key: tuple[str | int, ...], text: str) -> None:
        super().__init__(text)
        self.key = key


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _iso(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()  # YAML reads a bare date as one, and a bare year as a number
    return str(value) if isinstance(value, int) else value


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


def _real(value: str) -> str:
    try:
        date.fromisoformat(value + "-01-01"[len(value) - len("2026") :])
    except ValueError:
        raise ValueError(f"{value} is no date of the calendar: write a year, year-month or year-month-day") from None
    return value


PartialDate = Annotated[str, BeforeValidator(_iso), Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$"), AfterValidator(_real)]
# The bounds are far above anything that a provider publishes: what is beyond them is a slip of the pen.
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_flag)]
Days = Annotated[Count, Field(ge=0, le=36_500)]
Minutes = Annotated[Count, Field(ge=0, le=365 * 24 * 60)]
Gib = Annotated[Count, Field(gt=0, le=10**12)]
Sources = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class Strict(BaseModel):
    """Forbid unknown keys, so that a misspelt one is named and never left out in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFact(Strict):
    """Where figures come from."""

    title: str = Field(min_length=1)
    as_of: PartialDate | None
    """For when the source itself states its figures, as exactly as it does; null when it does not."""
    seen_on: date


class Price(Strict):
    """A price as it is published."""

    usd: Usd
    per: Units
    src: Sources

    @property
    def each_usd(self) -> float:
        """The price of one of what is counted."""
        return float(self.usd / COUNT_OF[self.per])


class WriteMeter(Price):
    """A price that is one write of some class, on whose meter the provider bills it."""

    as_class: str | None = None


class DaysFact(Strict):
    """A number of days."""

    value: Days
    src: Sources


class BytesFact(Strict):
    """A number of bytes of one object, below what the largest object has."""

    value: Count = Field(ge=0, le=2**40)
    src: Sources


class Flag(Strict):
    """A rule that holds or does not."""

    value: bool
    src: Sources


class Names(Strict):
    """A list of the provider's own names."""

    value: tuple[str, ...]
    src: Sources


class LatencyFact(Strict):
    """How long the first byte takes."""

    value: Latency
    src: Sources


class RestoreTime(Strict):
    """How long a restore takes, in the provider's words and in minutes."""

    text: str = Field(min_length=1)
    soonest_minutes: Minutes
    within_minutes: Minutes = Field(gt=0)
    src: Sources

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if self.soonest_minutes > self.within_minutes:
            raise KeyedError(("within_minutes",), "it is before soonest_minutes")
        return self


class RestoreFact(Strict):
    """One speed of restoring; a price that nobody knows is null."""

    name: str = Field(min_length=1)
    default: bool = False
    request: Price | None
    retrieval: Price | None
    time: RestoreTime
    read: Price | None = None

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        check_units({"request": REQUESTS, "retrieval": ("GiB",), "read": REQUESTS}, self)
        return self

    def option(self) -> RestoreOption:
        """Give the domain's value."""
        return RestoreOption(
            name=self.name,
            request_usd=None if self.request is None else self.request.each_usd,
            retrieval_usd_gib=None if self.retrieval is None else self.retrieval.each_usd,
            soonest_minutes=self.time.soonest_minutes,
            within_minutes=self.time.within_minutes,
            time=self.time.text,
            is_default=self.default,
            read_usd=None if self.read is None else self.read.each_usd,
        )


def check_units(wanted: dict[str, tuple[str, ...]], facts: BaseModel, below: tuple[str | int, ...] = ()) -> None:
    """Raise ``KeyedError`` for a price that is stated in a unit that makes no sense for it."""
    for name, units in wanted.items():
        price = getattr(facts, name)
        if price is not None and price.per not in units:
            raise KeyedError(
                (*below, name.rstrip("_"), "per"),
                f"{price.per!r} is no unit of this price, it takes {' or '.join(units)}",
            )


def check_restores(restores: tuple[RestoreFact, ...]) -> int:
    """Give the position of the default speed. Raises ``KeyedError`` unless there is one, and names differ."""
    names = [fact.name for fact in restores]
    if len(set(names)) != len(names):
        raise KeyedError(("restores",), "two speeds have the same name")
    defaults = [position for position, fact in enumerate(restores) if fact.default]
    if len(defaults) != 1:
        raise KeyedError(("restores",), "one speed, and one only, must be the default")
    times = [fact.time.within_minutes for fact in restores]
    if times != sorted(times):
        raise KeyedError(("restores",), "they must be in order, the fastest first")
    return defaults[0]


def whole_of(whole: DaysFact | BytesFact | None) -> int:
    """Give the number of days or bytes that is stated, 0 where none is."""
    return 0 if whole is None else whole.value
