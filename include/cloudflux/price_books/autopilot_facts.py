"""What a price book's file may say of a provider's autopilot: its steps, its fees, and the archive tiers of S3's."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from cloudflux.domain.prices import ArchiveStep, Autopilot, AutopilotScope, AutopilotStep
from cloudflux.price_books.facts import (
    REQUESTS,
    BytesFact,
    Days,
    DaysFact,
    Flag,
    KeyedError,
    Names,
    Price,
    RestoreFact,
    Sources,
    Strict,
    WriteMeter,
    check_restores,
    check_units,
    whole_of,
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
            overhead_class_bytes=whole_of(self.overhead_class_bytes),
            overhead_standard_bytes=whole_of(self.overhead_standard_bytes),
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
            check_units({"request": REQUESTS}, self.promotion, ("promotion",))
            if self.promotion.from_idle_days.value not in days:
                raise KeyedError(
                    ("promotion", "from_idle_days"), f"no step begins there, they begin at {', '.join(map(str, days))}"
                )
        if self.enable is not None:
            check_units({"request": REQUESTS}, self.enable, ("enable",))
        check_units({"leave": REQUESTS}, self)
        return self

    @model_validator(mode="after")
    def _archive_tiers_follow_each_other(self) -> Self:
        names = [step.name for step in self.archive_steps]
        if len(set(names)) != len(names):
            raise KeyedError(("archive_steps",), "two archive tiers have the same name")
        for warmer, colder in pairwise(self.switched_on):
            if (warmer.from_idle_days or 0) >= (colder.from_idle_days or 0):
                raise KeyedError(
                    ("archive_steps", names.index(colder.name), "from_idle_days"),
                    f"{colder.name} must begin later than {warmer.name}, which begins at {warmer.from_idle_days}",
                )
        if self.switched_on and self.scope is not AutopilotScope.OBJECT:
            raise KeyedError(("archive_steps",), "they can be switched on where objects are put in one by one only")
        return self

    @property
    def switched_on(self) -> tuple[ArchiveStepFact, ...]:
        """The archive tiers that objects go to, the warmest first."""
        return tuple(step for step in self.archive_steps if step.from_idle_days is not None)

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
            archived = archive.step(standard_usd_gib_month)
            if archived is not None:
                steps = {days: step for days, step in steps.items() if days < archived.idle_days}
                steps[archived.idle_days] = archived
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
