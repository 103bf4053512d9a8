"""What a price book's file may say: every key, its unit, its source, and what it must agree with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from cloudflux.domain.prices import ClassPrices, Fee, Latency, MoveCharge, PriceBook, StorageBand
from cloudflux.domain.tiers import STANDARD_CLASS, TIER_OF, Provider
from cloudflux.price_books.autopilot_facts import AutopilotFact
from cloudflux.price_books.facts import (
    REQUESTS,
    BytesFact,
    DaysFact,
    Flag,
    Gib,
    KeyedError,
    LatencyFact,
    Price,
    RestoreFact,
    SourceFact,
    Sources,
    Strict,
    Usd,
    WriteMeter,
    check_restores,
    check_units,
    whole_of,
)

SCHEMA_ID: Final = "cloudflux-price-book/1"


class BandFact(Price):
    """A volume band's price, and where it ends."""

    up_to_gib: Gib | None


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
                "write": REQUESTS,
                "read": REQUESTS,
                "retrieval": ("GiB",),
                "transition_in": REQUESTS,
                "restore_request": REQUESTS,
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
            if self.restores and self.autopilot.switched_on:
                raise KeyedError(
                    ("restores",), "an autopilot with archive tiers is restored as these say: leave it out here"
                )
        return self

    def prices(self, standard_usd_gib_month: float) -> ClassPrices:
        """Give the domain's value. ``standard_usd_gib_month``: storage in the standard class."""
        switched_on = () if self.autopilot is None else self.autopilot.switched_on
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
            min_billable_bytes=whole_of(self.min_billable_bytes),
            overhead_class_bytes=whole_of(self.overhead_class_bytes),
            overhead_standard_bytes=whole_of(self.overhead_standard_bytes),
            latency=Latency.HOURS if switched_on else self.latency.value,
            single_az=self.single_az is not None and self.single_az.value,
            restore_request_usd=0.0 if self.restore_request is None else self.restore_request.each_usd,
            restored_copy_days=whole_of(self.restored_copy_days),
            autopilot=None if self.autopilot is None else self.autopilot.autopilot(standard_usd_gib_month),
            restores=tuple(fact.option() for fact in restores),
            storage_bands=tuple(StorageBand(band.up_to_gib, band.each_usd) for band in self.storage_bands),
            lifecycle_in_min_age_days=whole_of(self.lifecycle_in_min_age_days),
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
        check_units({"list_": REQUESTS}, self)
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
            lifecycle_min_bytes=whole_of(self.moves.lifecycle_min_bytes),
            soft_delete_days=whole_of(self.moves.soft_delete_days),
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
