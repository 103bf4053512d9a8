"""Read price books: check every key of a file and turn it into domain values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import (
    Autopilot,
    AutopilotScope,
    AutopilotStep,
    ClassPrices,
    Latency,
    MoveCharge,
    PriceBook,
)
from cloudflux.domain.tiers import STANDARD_CLASS, TIER_OF, Provider

_BOOKS: Final = Path(__file__).parent
_SUFFIXES: Final = (".json", ".yaml", ".yml")

_Units = Literal["GiB-month", "GiB", "1000 requests", "10000 requests", "1000 objects-month", "10000 objects-month"]
_COUNT_OF: Final[dict[str, int]] = {
    "GiB-month": 1,
    "GiB": 1,
    "1000 requests": 1000,
    "10000 requests": 10_000,
    "1000 objects-month": 1000,
    "10000 objects-month": 10_000,
}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _iso(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value  # YAML reads a bare date as one


_Date = Annotated[str, BeforeValidator(_iso), Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
_Sources = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Strict):
    title: str = Field(min_length=1)
    as_of: _Date | None
    """For when the source itself states its figures, as exactly as it does; null when it does not."""
    seen_on: date


class _Price(_Strict):
    usd: Decimal = Field(ge=0, allow_inf_nan=False)
    per: _Units
    src: _Sources

    @property
    def each_usd(self) -> float:
        return float(self.usd / _COUNT_OF[self.per])


class _Whole(_Strict):
    value: int = Field(ge=0)
    src: _Sources


class _LatencyFact(_Strict):
    value: Latency
    src: _Sources


class _Flag(_Strict):
    value: bool
    src: _Sources


class _Step(_Strict):
    idle_days: int = Field(ge=1)
    storage: _Price
    src: _Sources


class _Autopilot(_Strict):
    scope: AutopilotScope
    monitoring: _Price
    monitored_min_bytes: _Whole
    steps: tuple[_Step, ...] = Field(min_length=1)

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: tuple[_Step, ...]) -> tuple[_Step, ...]:
        days = [step.idle_days for step in steps]
        if days != sorted(set(days)):
            raise ValueError("idle_days must rise from step to step")
        return steps


class _Class(_Strict):
    storage_class: str
    storage: _Price
    write: _Price
    read: _Price
    retrieval: _Price
    transition_in: _Price | None
    lifecycle_to: tuple[str, ...]
    min_days: _Whole
    latency: _LatencyFact
    min_billable_bytes: _Whole | None = None
    overhead_class_bytes: _Whole | None = None
    overhead_standard_bytes: _Whole | None = None
    restore_request: _Price | None = None
    restored_copy_days: _Whole | None = None
    single_az: _Flag | None = None
    autopilot: _Autopilot | None = None

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        requests = ("1000 requests", "10000 requests")
        wanted = {
            "storage": ("GiB-month",),
            "write": requests,
            "read": requests,
            "retrieval": ("GiB",),
            "transition_in": requests,
            "restore_request": requests,
        }
        for name, units in wanted.items():
            price = getattr(self, name)
            if price is not None and price.per not in units:
                raise ValueError(f"{name}.per: {price.per!r} is no unit of this price, it takes {' or '.join(units)}")
        if self.autopilot is not None:
            if not self.autopilot.monitoring.per.endswith("objects-month"):
                raise ValueError("autopilot.monitoring.per: it takes 1000 objects-month or 10000 objects-month")
            prices = [self.storage.usd, *(step.storage.usd for step in self.autopilot.steps)]
            if any(step.storage.per != "GiB-month" for step in self.autopilot.steps):
                raise ValueError("autopilot.steps.storage.per: it takes GiB-month")
            if prices != sorted(prices, reverse=True):
                raise ValueError("autopilot.steps: storage prices must fall from step to step")
        return self

    def prices(self) -> ClassPrices:
        autopilot = self.autopilot
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
            latency=self.latency.value,
            single_az=self.single_az is not None and self.single_az.value,
            restore_request_usd=0.0 if self.restore_request is None else self.restore_request.each_usd,
            restored_copy_days=_value(self.restored_copy_days),
            autopilot=None
            if autopilot is None
            else Autopilot(
                scope=autopilot.scope,
                monitoring_usd_month=autopilot.monitoring.each_usd,
                monitored_min_bytes=autopilot.monitored_min_bytes.value,
                steps=tuple(AutopilotStep(step.idle_days, step.storage.each_usd) for step in autopilot.steps),
            ),
        )


class _MoveCharge(_Strict):
    write_at_destination: bool
    read_at_source: bool
    retrieval_at_source: bool
    early_deletion: bool
    src: _Sources

    def charge(self) -> MoveCharge:
        return MoveCharge(self.write_at_destination, self.read_at_source, self.retrieval_at_source, self.early_deletion)


class _Moves(_Strict):
    client_down: _MoveCharge
    client_up: _MoveCharge
    lifecycle_early_deletion: _Flag


class _Note(_Strict):
    text: str
    src: _Sources


class _Book(_Strict):
    schema_: Literal["cloudflux-price-book/1"] = Field(alias="schema")
    name: str = Field(min_length=1)
    provider: Provider
    region: str = Field(min_length=1)
    currency: Literal["USD"]
    seen_on: date
    sources: dict[str, _Source] = Field(min_length=1)
    moves: _Moves
    classes: tuple[_Class, ...] = Field(min_length=1)
    notes: tuple[_Note, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [prices.storage_class for prices in self.classes]
        known = TIER_OF[self.provider]
        for position, prices in enumerate(self.classes):
            for key, name in (
                ("storage_class", prices.storage_class),
                *(("lifecycle_to", to) for to in prices.lifecycle_to),
            ):
                if name not in known:
                    raise ValueError(
                        f"classes.{position}.{key}: {self.provider} has no storage class {name!r},"
                        f" it has {', '.join(known)}"
                    )
        if len(set(names)) != len(names):
            raise ValueError("classes: a storage class is there twice")
        if STANDARD_CLASS[self.provider] not in names:
            raise ValueError(f"classes: {STANDARD_CLASS[self.provider]}, the class of an upload, is missing")
        return self

    @model_validator(mode="after")
    def _sources_are_named(self) -> Self:
        for key, src in _cited(self.model_dump(by_alias=True)):
            if src not in self.sources:
                raise ValueError(f"{key}.src: there is no source {src!r} under sources")
        return self

    def book(self) -> PriceBook:
        return PriceBook(
            name=self.name,
            provider=self.provider,
            region=self.region,
            seen_on=self.seen_on,
            classes=tuple(prices.prices() for prices in self.classes),
            client_move_down=self.moves.client_down.charge(),
            client_move_up=self.moves.client_up.charge(),
            lifecycle_early_deletion=self.moves.lifecycle_early_deletion.value,
        )


def available_books() -> tuple[str, ...]:
    """Name the price books that come with CloudFlux, sorted."""
    return tuple(sorted(path.stem for path in _BOOKS.iterdir() if path.suffix in _SUFFIXES))


def load_book(name_or_path: str | Path) -> PriceBook:
    """Read one price book: one of ours by its name, or a file of your own (JSON or YAML) by its path.

    Raises ``SettingsError`` naming the file and each key that is missing, unknown or wrong.
    """
    path = _path_of(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as exc:
        raise SettingsError(
            f"price book {path} cannot be read ({exc.strerror}); ours are {', '.join(available_books())}"
        ) from exc
    except (json.JSONDecodeError, yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(f"price book {path} is not {path.suffix.lstrip('.').upper()}: {exc}") from exc
    try:
        return _Book.model_validate(content).book()
    except ValidationError as exc:
        problems = "; ".join(
            ": ".join(
                part for part in (".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")) if part
            )
            for error in exc.errors()
        )
        raise SettingsError(f"price book {path}: {problems}") from exc


def _path_of(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in _SUFFIXES:
        return path
    if str(name_or_path) not in available_books():
        raise SettingsError(
            f"there is no price book {str(name_or_path)!r}: ours are {', '.join(available_books())};"
            " a book of your own is a path that ends in .json, .yaml or .yml"
        )
    return next(p for p in _BOOKS.iterdir() if p.stem == str(name_or_path) and p.suffix in _SUFFIXES)


def _value(whole: _Whole | None) -> int:
    return 0 if whole is None else whole.value


def _cited(content: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Give every source that is cited anywhere below, with the key of the figure that cites it."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == "src":
                yield from ((key, src) for src in value)
            else:
                yield from _cited(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, (list, tuple)):
        for position, value in enumerate(content):
            yield from _cited(value, f"{key}.{position}")
