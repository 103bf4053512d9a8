"""Derive a price book from another: negotiated discounts, and figures that replace the base's.

A derivation is a file of its own that names its base under ``extends``. What it says is written into a copy of the
base's content, which is then checked like any other book; errors name the keys of the derivation, not of the copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from cloudflux.price_books.facts import KeyedError, SourceFact, Strict
from cloudflux.price_books.schema import BookFile, ClassFact, MovesFact, NoteFact, shared_meters

PRICE_KEYS: Final = (
    "storage",
    "write",
    "read",
    "retrieval",
    "transition_in",
    "restore_request",
    "monitoring",
    "promotion",
    "enable",
    "leave",
)
"""What a discount can be on. ``storage`` is the bands and the autopilot's steps as well, ``restore_request``,
``read`` and ``retrieval`` are every restore speed's as well.
"""
DISCOUNTS_SOURCE: Final = "discounts"
"""The source that a discounted figure cites besides its own; a derivation may say itself what it is."""

_TIER_KEYS: Final = len(("autopilot", "archive_steps", 0, "from_idle_days"))

_Share = Annotated[Decimal, Field(ge=0, lt=1, allow_inf_nan=False)]
_Key = tuple[str | int, ...]


class DerivationFile(Strict):
    """A derived price book as its file says it."""

    schema_: Literal["cloudflux-price-book/1"] = Field(alias="schema")
    extends: str = Field(min_length=1)
    """One of ours by its name, or a path relative to this file."""
    name: str = Field(min_length=1)
    region: str | None = Field(default=None, min_length=1)
    redundancy: str | None = None
    seen_on: date | None = None
    sources: dict[str, SourceFact] = Field(default_factory=dict)
    discounts: dict[str, _Share] = Field(default_factory=dict)
    """Shares off, by ``*``, ``CLASS``, ``*.price`` or ``CLASS.price``: the closest one holds, they do not add up."""
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By class and key, in the form of a complete book; not discounted."""
    moves: dict[str, Any] = Field(default_factory=dict)
    archive_tiers: dict[str, dict[str, int]] = Field(default_factory=dict)
    """From how many idle days on the archive tiers hold that an autopilot's owner has switched on, by class and tier;
    those that are not named are as in the base."""
    notes: tuple[NoteFact, ...] = ()


def derived_content(derivation: DerivationFile, base: BookFile) -> dict[str, Any]:
    """Give the complete book that a derivation makes of its base, still to be checked.

    Raises ``KeyedError`` for a discount or an override of something that the base does not have.
    """
    if derivation.name == base.name:
        raise KeyedError(("name",), f"{base.name!r} is the base's name, a derived book needs one of its own")
    content: dict[str, Any] = base.model_dump(mode="json", by_alias=True)
    by_name = {prices["storage_class"]: prices for prices in content["classes"]}
    content["name"] = derivation.name
    for key in ("region", "redundancy"):
        if getattr(derivation, key) is not None:
            content[key] = getattr(derivation, key)
    if derivation.seen_on is not None:
        content["seen_on"] = derivation.seen_on.isoformat()
    _add_sources(content, derivation, base)
    _discount(content, by_name, derivation.discounts)
    _override(content, by_name, derivation)
    _follow(by_name, base, derivation)
    _switch_on(by_name, derivation.archive_tiers)
    content["notes"] += [note.model_dump(mode="json") for note in derivation.notes]
    return content


def key_in_derivation(key: _Key, derivation: DerivationFile, base: BookFile) -> _Key:
    """Translate the key of a derived book into that of the derivation that made it so, where there is one."""
    if len(key) > 1 and key[0] == "classes" and isinstance(key[1], int) and key[1] < len(base.classes):
        name = base.classes[key[1]].storage_class
        rest = key[2:]
        if rest and rest[0] in derivation.overrides.get(name, {}):
            return ("overrides", name, *rest)
        if rest[:2] == ("autopilot", "archive_steps") and rest[-1] == "from_idle_days" and len(rest) == _TIER_KEYS:
            autopilot = base.classes[key[1]].autopilot
            tiers = () if autopilot is None else autopilot.archive_steps
            return ("archive_tiers", name, tiers[int(rest[2])].name)
        return (name, *rest)
    return key


def _add_sources(content: dict[str, Any], derivation: DerivationFile, base: BookFile) -> None:
    own = {name: source.model_dump(mode="json") for name, source in derivation.sources.items()}
    for name, source in own.items():
        if name in content["sources"] and content["sources"][name] != source:
            raise KeyedError(("sources", name), f"{base.name} has another source of this name, call it differently")
    content["sources"] |= own
    if derivation.discounts and DISCOUNTS_SOURCE not in own:
        content["sources"][DISCOUNTS_SOURCE] = {
            "title": f"discounts of {derivation.name} on {base.name}",
            "as_of": None,
            "seen_on": content["seen_on"],
        }


def _discount(content: dict[str, Any], by_name: dict[str, Any], discounts: Mapping[str, Decimal]) -> None:
    there = {(name, key) for name, prices in by_name.items() for key, _ in _prices(prices)}
    for stated in discounts:
        name, _, key = stated.partition(".")
        if name != "*" and name not in by_name:
            raise KeyedError(("discounts", stated), f"there is no class {name!r}, there are {', '.join(by_name)}")
        if "." in stated and key not in PRICE_KEYS:
            raise KeyedError(("discounts", stated), f"there is no price {key!r}, there are {', '.join(PRICE_KEYS)}")
        if key and not any(key == of_key and name in ("*", of_name) for of_name, of_key in there):
            raise KeyedError(("discounts", stated), f"{name} has no such price")
    for name, prices in by_name.items():
        for key, price in _prices(prices):
            for stated in (f"{name}.{key}", name, f"*.{key}", "*"):
                if stated in discounts:
                    _take_off(price, discounts[stated])
                    break
    if "*" in discounts and content["list"] is not None:
        _take_off(content["list"], discounts["*"])


def _take_off(price: dict[str, Any], share: Decimal) -> None:
    price["usd"] = str(Decimal(price["usd"]) * (1 - share))
    price["src"] = [*price["src"], DISCOUNTS_SOURCE]


def _prices(prices: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give every price of a class with the key that discounts call it by; prices that nobody knows are left out."""
    autopilot = prices["autopilot"] or {}
    steps = [*autopilot.get("steps", ()), *autopilot.get("archive_steps", ())]
    restores = [*prices["restores"], *(fact for step in steps for fact in step.get("restores", ()))]
    found = [(key, prices[key]) for key in ("storage", "write", "read", "retrieval", "transition_in")]
    found += [("storage", band) for band in prices["storage_bands"]]
    found += [("storage", step["storage"]) for step in steps]
    found += [("restore_request", prices["restore_request"])]
    for fact in restores:
        found += [("restore_request", fact["request"]), ("retrieval", fact["retrieval"]), ("read", fact["read"])]
    found += [("monitoring", autopilot.get("monitoring")), ("leave", autopilot.get("leave"))]
    found += [(key, (autopilot.get(key) or {}).get("request")) for key in ("promotion", "enable")]
    return ((key, price) for key, price in found if price is not None)


def _override(content: dict[str, Any], by_name: dict[str, Any], derivation: DerivationFile) -> None:
    for name, replaced in derivation.overrides.items():
        if name not in by_name:
            raise KeyedError(("overrides", name), f"there is no such class, there are {', '.join(by_name)}")
        _known(replaced, ClassFact, ("overrides", name), besides="storage_class")
        prices = by_name[name]
        for key, value in replaced.items():
            if key == "autopilot" and isinstance(value, dict) and prices["autopilot"] is not None:
                prices["autopilot"] |= value
            else:
                prices[key] = value
        # a price that is negotiated as one figure has no bands, and is what the default speed of restoring costs
        if "storage" in replaced and "storage_bands" not in replaced:
            prices["storage_bands"] = []
        if "restores" not in replaced:
            for fact in prices["restores"]:
                for key, of_fact in (("restore_request", "request"), ("retrieval", "retrieval")):
                    if fact["default"] and key in replaced:
                        fact[of_fact] = replaced[key]
    _known(derivation.moves, MovesFact, ("moves",))
    content["moves"] |= derivation.moves


def _switch_on(by_name: dict[str, Any], archive_tiers: Mapping[str, Mapping[str, int]]) -> None:
    for name, tiers in archive_tiers.items():
        autopilot = by_name.get(name, {}).get("autopilot") or {}
        steps = {step["name"]: step for step in autopilot.get("archive_steps", ())}
        if not steps:
            having = [key for key, prices in by_name.items() if (prices["autopilot"] or {}).get("archive_steps")]
            raise KeyedError(
                ("archive_tiers", name),
                f"there is no class of this name with archive tiers, there is {', '.join(having) or 'none'}",
            )
        for tier, days in tiers.items():
            if tier not in steps:
                raise KeyedError(("archive_tiers", name, tier), f"there is no such tier, there are {', '.join(steps)}")
            steps[tier]["from_idle_days"] = days


def _known(stated: Mapping[str, Any], facts: type[BaseModel], where: _Key, besides: str = "") -> None:
    for key in stated:
        if key not in facts.model_fields or key == besides:
            keys = [name for name in facts.model_fields if name != besides]
            raise KeyedError((*where, key), f"there is no such key, there are {', '.join(keys)}")


def _follow(by_name: dict[str, Any], base: BookFile, derivation: DerivationFile) -> None:
    """Let an autopilot's prices follow the class on whose meter they are billed, unless they are stated themselves."""
    base_prices = {facts.storage_class: facts for facts in base.classes}
    for facts in base.classes:
        name = facts.storage_class
        stated = {*derivation.overrides.get(name, {})}
        stated |= {key.partition(".")[2] for key in derivation.discounts if key.partition(".")[0] == name}
        prices = by_name[name]
        for where, as_class, price, its_key in shared_meters(facts):
            if price.each_usd != getattr(base_prices[as_class], its_key).each_usd:
                continue  # the base states another price on purpose
            discounted_as = "storage" if "steps" in where else str(where[1] if len(where) > 1 else where[0])
            if where[0] in stated or discounted_as in stated or "" in stated:  # "" is a discount on the whole class
                continue
            at: Any = prices
            for key in where:
                at = at[key]
            at["usd"], at["per"] = (by_name[as_class][its_key][key] for key in ("usd", "per"))
            # its own sources say that it is billed so, the class's say what that costs
            at["src"] = list(dict.fromkeys([*at["src"], *by_name[as_class][its_key]["src"]]))
            if where == ("storage",) and facts.storage_bands:
                prices["storage_bands"] = by_name[as_class]["storage_bands"]
