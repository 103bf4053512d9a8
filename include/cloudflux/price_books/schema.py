"""What a price book's file may say: every key, its unit, its source, and what it must agree with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cloudflux.domain.prices import (
    ArchiveStep,
    Autopilot,
    AutopilotScope,
    AutopilotStep,
    ClassPrices,
    Fee,
    Latency,
    MoveCharge,
    PriceBook,
    RestoreOption,
    StorageBand,
)
from cloudflux.domain.tiers import STANDARD_CLASS, TIER_OF, Provider

SCHEMA_ID: Final = "cloudflux-price-book/1"

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


class BandFact(Price):
    """A volume band's price, and where it ends."""

    up_to_gib: Gib | None


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
        check_units({"request": _REQUESTS, "retrieval": ("GiB",), "read": _REQUESTS}, self)
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


class StepFact(Strict):
    """A step of an autopilot."""

    idle_days: Days = Field(ge=1)
    name: str = ""
    as_class: str | None = None
    """The class whose storage price it is, on whose meter the provider bills it."""
    storage: Price
    src: Sources


class ArchiveStepFact(Strict):
    """An archive tier that an owner may add to an autopilot."""

    name: str = Field(min_length=1)
    min_idle_days: Days = Field(ge=1)
    max_idle_days: Days
    src: Sources
    storage: Price
    restores: tuple[RestoreFact, ...] = Field(min_length=1)
    overhead_class_bytes: BytesFact | None = None
    overhead_standard_bytes: BytesFact | None = None
    from_idle_days: Days | None = None
    """When objects go there, in the buckets that this book is for; null: their owner has not switched it on."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.max_idle_days < self.min_idle_days:
            raise KeyedError(("max_idle_days",), "it is below min_idle_days")
        if self.from_idle_days is not None and not self.min_idle_days <= self.from_idle_days <= self.max_idle_days:
            raise KeyedError(
                ("from_idle_days",),
                f"it is {self.from_idle_days}, and can be set from {self.min_idle_days} to {self.max_idle_days}",
            )
        check_units({"storage": ("GiB-month",)}, self)
        check_restores(self.restores)
        return self

    def step(self) -> ArchiveStep:
        """Give the domain's value."""
        return ArchiveStep(
            name=self.name,
            min_idle_days=self.min_idle_days,
            max_idle_days=self.max_idle_days,
            storage_usd_gib_month=self.storage.each_usd,
            restores=tuple(fact.option() for fact in self.restores),
            overhead_class_bytes=_value(self.overhead_class_bytes),
            overhead_standard_bytes=_value(self.overhead_standard_bytes),
            from_idle_days=self.from_idle_days,
        )


class PromotionFact(Strict):
    """What an object pays that is read after it was idle for long."""

    request: WriteMeter
    from_idle_days: DaysFact


class EnableFact(Strict):
    """What each object pays once as an autopilot is switched on."""

    request: WriteMeter
    retrieval: Flag
    early_deletion: Flag


class AutopilotFact(Strict):
    """A provider's autopilot, with its own rules and fees."""

    scope: AutopilotScope
    as_class: str | None = None
    """The class at whose prices an object is held and read while it is not idle, where that is another one's meter."""
    monitoring: Price
    monitored_min_bytes: BytesFact
    steps: tuple[StepFact, ...] = Field(min_length=1)
    archive_steps: tuple[ArchiveStepFact, ...] = ()
    promotion: PromotionFact | None = None
    enable: EnableFact | None = None
    leave: WriteMeter | None = None
    reenter: Flag | None = None
    redundancies: Names | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        days = [step.idle_days for step in self.steps]
        if days != sorted(set(days)):
            raise KeyedError(("steps",), "idle_days must rise from step to step")
        if not self.monitoring.per.endswith("objects-month"):
            raise KeyedError(
                ("monitoring", "per"),
                f"{self.monitoring.per!r} is no unit of this price, it takes 1000 objects-month or 10000 objects-month",
            )
        for position, step in enumerate(self.steps):
            check_units({"storage": ("GiB-month",)}, step, ("steps", position))
        if self.promotion is not None:
            check_units({"request": _REQUESTS}, self.promotion, ("promotion",))
            if self.promotion.from_idle_days.value not in days:
                raise KeyedError(
                    ("promotion", "from_idle_days"), f"no step begins there, they begin at {', '.join(map(str, days))}"
                )
        if self.enable is not None:
            check_units({"request": _REQUESTS}, self.enable, ("enable",))
        check_units({"leave": _REQUESTS}, self)
        return self

    @model_validator(mode="after")
    def _archive_tiers_follow_each_other(self) -> Self:
        names = [step.name for step in self.archive_steps]
        if len(set(names)) != len(names):
            raise KeyedError(("archive_steps",), "two archive tiers have the same name")
        switched_on = [step for step in self.archive_steps if step.from_idle_days is not None]
        for warmer, colder in pairwise(switched_on):
            if (warmer.from_idle_days or 0) >= (colder.from_idle_days or 0):
                raise KeyedError(
                    ("archive_steps", names.index(colder.name), "from_idle_days"),
                    f"{colder.name} must begin later than {warmer.name}, which begins at {warmer.from_idle_days}",
                )
        if switched_on and self.scope is not AutopilotScope.OBJECT:
            raise KeyedError(("archive_steps",), "they can be switched on where objects are put in one by one only")
        return self

    def autopilot(self, standard_usd_gib_month: float) -> Autopilot:
        """Give the domain's value. ``standard_usd_gib_month``: storage in the standard class."""
        promotion, enable = self.promotion, self.enable
        archive_steps = tuple(step.step() for step in self.archive_steps)
        steps = {
            step.idle_days: AutopilotStep(step.idle_days, step.storage.each_usd, step.name or step.as_class or "")
            for step in self.steps
        }
        # an archive tier that begins on the day of another step takes the object there at once, and one that is colder
        # than a later step keeps it
        for archive in archive_steps:
            if archive.from_idle_days is not None:
                steps = {days: step for days, step in steps.items() if days < archive.from_idle_days}
                steps[archive.from_idle_days] = archive.step(archive.from_idle_days, standard_usd_gib_month)
        return Autopilot(
            scope=self.scope,
            monitoring_usd_month=self.monitoring.each_usd,
            monitored_min_bytes=self.monitored_min_bytes.value,
            steps=tuple(steps.values()),
            archive_steps=archive_steps,
            promotion_usd=0.0 if promotion is None else promotion.request.each_usd,
            promotion_from_idle_days=0 if promotion is None else promotion.from_idle_days.value,
            enable_usd=0.0 if enable is None else enable.request.each_usd,
            enable_retrieval=enable is not None and enable.retrieval.value,
            enable_early_deletion=enable is not None and enable.early_deletion.value,
            leave_usd=None if self.leave is None else self.leave.each_usd,
            reenter=self.reenter is None or self.reenter.value,
            redundancies=() if self.redundancies is None else self.redundancies.value,
        )


class ClassFact(Strict):
    """One storage class: prices and rules."""

    storage_class: str
    storage: Price
    storage_bands: tuple[BandFact, ...] = ()
    write: Price
    read: Price
    retrieval: Price
    transition_in: Price | None
    lifecycle_to: tuple[str, ...]
    min_days: DaysFact
    latency: LatencyFact
    lifecycle_in_min_age_days: DaysFact | None = None
    min_billable_bytes: BytesFact | None = None
    overhead_class_bytes: BytesFact | None = None
    overhead_standard_bytes: BytesFact | None = None
    restore_request: Price | None = None
    restores: tuple[RestoreFact, ...] = ()
    restored_copy_days: DaysFact | None = None
    single_az: Flag | None = None
    autopilot: AutopilotFact | None = None

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        check_units(
            {
                "storage": ("GiB-month",),
                "write": _REQUESTS,
                "read": _REQUESTS,
                "retrieval": ("GiB",),
                "transition_in": _REQUESTS,
                "restore_request": _REQUESTS,
            },
            self,
        )
        return self

    @model_validator(mode="after")
    def _bands_rise(self) -> Self:
        if not self.storage_bands:
            return self
        for position, band in enumerate(self.storage_bands):
            if band.per != "GiB-month":
                raise KeyedError(("storage_bands", position, "per"), f"{band.per!r} is no unit of this price")
        ends = [band.up_to_gib for band in self.storage_bands]
        bounded = [end for end in ends if end is not None]
        if ends != [*bounded, None]:
            raise KeyedError(("storage_bands",), "the last band, and no other, has up_to_gib null: it has no end")
        if bounded != sorted(set(bounded)):
            raise KeyedError(("storage_bands",), "up_to_gib must rise from band to band")
        if self.storage_bands[0].usd != self.storage.usd:
            raise KeyedError(
                ("storage_bands", 0, "usd"), f"the first band must cost what storage does, {self.storage.usd} USD"
            )
        return self

    @model_validator(mode="after")
    def _restores_fit(self) -> Self:
        if not self.restores:
            return self
        default = check_restores(self.restores)
        for key, price in (("request", self.restore_request), ("retrieval", self.retrieval)):
            of_option = getattr(self.restores[default], key)
            if of_option is None or of_option.each_usd != (0.0 if price is None else price.each_usd):
                name = "restore_request" if key == "request" else "retrieval"
                raise KeyedError(("restores", default, key), f"the default speed must cost what {name} says")
        return self

    @model_validator(mode="after")
    def _autopilot_fits(self) -> Self:
        if self.autopilot is not None:
            prices = [self.storage.usd, *(step.storage.usd for step in self.autopilot.steps)]
            if prices != sorted(prices, reverse=True):
                raise KeyedError(("autopilot", "steps"), "storage prices must fall from step to step")
            if self.restores and any(step.from_idle_days is not None for step in self.autopilot.archive_steps):
                raise KeyedError(
                    ("restores",), "an autopilot with archive tiers is restored as these say: leave it out here"
                )
        return self

    def prices(self, standard_usd_gib_month: float) -> ClassPrices:
        """Give the domain's value. ``standard_usd_gib_month``: storage in the standard class."""
        switched_on = (
            []
            if self.autopilot is None
            else [step for step in self.autopilot.archive_steps if step.from_idle_days is not None]
        )
        # what every archive tier that is on can do, the coldest can: nobody knows in which of them an object is
        restores = switched_on[-1].restores if switched_on else self.restores
        return ClassPrices(
            storage_class=self.storage_class,
            storage_usd_gib_month=self.storage.each_usd,
            write_usd=self.write.each_usd,
            read_usd=self.read.each_usd,
            retrieval_usd_gib=self.retrieval.each_usd,
            transition_in_usd=None if self.transition_in is None else self.transition_in.each_usd,
            lifecycle_to=self.lifecycle_to,
            min_days=self.min_days.value,
            min_billable_bytes=_value(self.min_billable_bytes),
            overhead_class_bytes=_value(self.overhead_class_bytes),
            overhead_standard_bytes=_value(self.overhead_standard_bytes),
            latency=Latency.HOURS if switched_on else self.latency.value,
            single_az=self.single_az is not None and self.single_az.value,
            restore_request_usd=0.0 if self.restore_request is None else self.restore_request.each_usd,
            restored_copy_days=_value(self.restored_copy_days),
            autopilot=None if self.autopilot is None else self.autopilot.autopilot(standard_usd_gib_month),
            restores=tuple(fact.option() for fact in restores),
            storage_bands=tuple(StorageBand(band.up_to_gib, band.each_usd) for band in self.storage_bands),
            lifecycle_in_min_age_days=_value(self.lifecycle_in_min_age_days),
        )


class MoveChargeFact(Strict):
    """What a client's move pays."""

    write_at_destination: bool
    read_at_source: bool
    retrieval_at_source: bool
    early_deletion: bool
    src: Sources

    def charge(self) -> MoveCharge:
        """Give the domain's value."""
        return MoveCharge(self.write_at_destination, self.read_at_source, self.retrieval_at_source, self.early_deletion)


class MovesFact(Strict):
    """What moving costs beyond the classes' own prices."""

    client_down: MoveChargeFact
    client_up: MoveChargeFact
    lifecycle_early_deletion: Flag
    lifecycle_retrieval: Flag | None = None
    lifecycle_min_bytes: BytesFact | None = None
    soft_delete_days: DaysFact | None = None


class FeeFact(Strict):
    """A fee for many objects at once."""

    name: str = Field(min_length=1)
    usd: Usd
    per: str = Field(min_length=1)
    src: Sources


class NoteFact(Strict):
    """A rule in words."""

    text: str
    src: Sources


class BookFile(Strict):
    """A complete price book as its file says it."""

    schema_: Literal["cloudflux-price-book/1"] = Field(alias="schema")
    name: str = Field(min_length=1)
    provider: Provider
    region: str = Field(min_length=1)
    currency: Literal["USD"]
    redundancy: str = ""
    seen_on: date
    sources: dict[str, SourceFact] = Field(min_length=1)
    moves: MovesFact
    list_: Price | None = Field(default=None, alias="list")
    fees: tuple[FeeFact, ...] = ()
    classes: tuple[ClassFact, ...] = Field(min_length=1)
    notes: tuple[NoteFact, ...] = ()

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        names = [prices.storage_class for prices in self.classes]
        known = TIER_OF[self.provider]
        for position, prices in enumerate(self.classes):
            for key, name in (
                ("storage_class", prices.storage_class),
                *(("lifecycle_to", to) for to in prices.lifecycle_to),
            ):
                if name not in known:
                    raise KeyedError(
                        ("classes", position, key),
                        f"{self.provider} has no storage class {name!r}, it has {', '.join(known)}",
                    )
        for position, name in enumerate(names):
            if name in names[:position]:
                raise KeyedError(("classes", position, "storage_class"), f"a storage class is there twice: {name}")
        if STANDARD_CLASS[self.provider] not in names:
            raise KeyedError(("classes",), f"{STANDARD_CLASS[self.provider]}, the class of an upload, is missing")
        for position, prices in enumerate(self.classes):
            for name in prices.lifecycle_to:
                if name not in names:
                    raise KeyedError(
                        ("classes", position, "lifecycle_to"), f"it names {name}, which this book does not have"
                    )
        return self

    @model_validator(mode="after")
    def _shared_meters_are_there(self) -> Self:
        names = {prices.storage_class for prices in self.classes}
        for position, prices in enumerate(self.classes):
            for key, as_class, _, _ in shared_meters(prices):
                if as_class not in names:
                    raise KeyedError(
                        ("classes", position, *key), f"it is billed as {as_class}, which this book does not have"
                    )
        return self

    @model_validator(mode="after")
    def _requests_are_counted(self) -> Self:
        check_units({"list_": _REQUESTS}, self)
        return self

    @model_validator(mode="after")
    def _sources_are_named(self) -> Self:
        for key, src in cited(self.model_dump(by_alias=True)):
            if src not in self.sources:
                raise KeyedError((*key, "src"), f"there is no source {src!r} under sources")
        return self

    def book(self) -> PriceBook:
        """Give the domain's value."""
        standard = next(prices for prices in self.classes if prices.storage_class == STANDARD_CLASS[self.provider])
        return PriceBook(
            name=self.name,
            provider=self.provider,
            region=self.region,
            seen_on=self.seen_on,
            classes=tuple(prices.prices(standard.storage.each_usd) for prices in self.classes),
            client_move_down=self.moves.client_down.charge(),
            client_move_up=self.moves.client_up.charge(),
            lifecycle_early_deletion=self.moves.lifecycle_early_deletion.value,
            lifecycle_retrieval=self.moves.lifecycle_retrieval is not None and self.moves.lifecycle_retrieval.value,
            lifecycle_min_bytes=_value(self.moves.lifecycle_min_bytes),
            soft_delete_days=_value(self.moves.soft_delete_days),
            list_usd=None if self.list_ is None else self.list_.each_usd,
            redundancy=self.redundancy,
            fees=tuple(Fee(fee.name, float(fee.usd), fee.per) for fee in self.fees),
        )


def shared_meters(prices: ClassFact) -> Iterable[tuple[tuple[str | int, ...], str, Price, str]]:
    """Give every price of an autopilot's class that is another class's: its key, that class, the price, its key there.

    GCS bills an Autoclass object, and Azure a smart one, on the meters of the class that it is in. A complete book may
    state another price all the same; a derived one follows the class.
    """
    autopilot = prices.autopilot
    if autopilot is None:
        return
    if autopilot.as_class is not None:
        for key in ("storage", "write", "read"):
            yield (key,), autopilot.as_class, getattr(prices, key), key
    for position, step in enumerate(autopilot.steps):
        if step.as_class is not None:
            yield ("autopilot", "steps", position, "storage"), step.as_class, step.storage, "storage"
    writes: list[tuple[tuple[str, ...], WriteMeter | None]] = [
        (("promotion", "request"), None if autopilot.promotion is None else autopilot.promotion.request),
        (("enable", "request"), None if autopilot.enable is None else autopilot.enable.request),
        (("leave",), autopilot.leave),
    ]
    for where, price in writes:
        if price is not None and price.as_class is not None:
            yield ("autopilot", *where), price.as_class, price, "write"


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


def cited(content: Any, key: tuple[str | int, ...] = ()) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Give every source that is cited anywhere below, with the key of the figure that cites it."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == "src":
                yield from ((key, src) for src in value)
            else:
                yield from cited(value, (*key, name))
    elif isinstance(content, (list, tuple)):
        for position, value in enumerate(content):
            yield from cited(value, (*key, position))


_REQUESTS: Final = ("1000 requests", "10000 requests")


def _value(whole: DaysFact | BytesFact | None) -> int:
    return 0 if whole is None else whole.value
