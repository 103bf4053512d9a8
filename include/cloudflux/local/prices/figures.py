"""Every price of a book by one label, such as ``GLACIER.restores.bulk.retrieval``, and what a list says otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from cloudflux.local.prices.listed import COUNTED_BY, Listed, PriceList
from cloudflux.price_books.facts import COUNT_OF, Price
from cloudflux.price_books.schema import BookFile, shared_meters

_OWN: Final = ("storage", "write", "read", "retrieval", "transition_in", "restore_request")


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that a list states otherwise than the book."""

    label: str
    old_usd: Decimal | None
    """None: the book does not have it."""
    new_usd: Decimal | None
    """None: the list does not have it any more (a volume band)."""
    per: str
    sku: str

    @property
    def change(self) -> float | None:
        """The change as a share of the old price; None where there is none to compare with."""
        if self.new_usd is None or not self.old_usd:
            return None
        return float(self.new_usd / self.old_usd - 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A book beside a price list: the book as it would be, and how it differs."""

    content: dict[str, Any]
    differences: tuple[Difference, ...]
    confirmed: tuple[str, ...]
    """Figures that are in the list just as they are in the book."""
    kept: tuple[tuple[str, str], ...]
    """Figures that the list does not have, each with the reason: they stay as they are."""


def labelled_prices(content: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give every price of a book's content by its label; bands belong to their storage price and are left out."""
    if content["list"] is not None:
        yield "list", content["list"]
    for prices in content["classes"]:
        name = prices["storage_class"]
        for key in _OWN:
            if prices[key] is not None:
                yield f"{name}.{key}", prices[key]
        yield from _restores(f"{name}.restores", prices["restores"])
        autopilot = prices["autopilot"]
        if autopilot is None:
            continue
        below = f"{name}.autopilot"
        yield f"{below}.monitoring", autopilot["monitoring"]
        for position, step in enumerate(autopilot["steps"]):
            yield f"{below}.steps.{position}.storage", step["storage"]
        for step in autopilot["archive_steps"]:
            yield f"{below}.archive_steps.{step['name']}.storage", step["storage"]
            yield from _restores(f"{below}.archive_steps.{step['name']}.restores", step["restores"])
        for key in ("promotion", "enable"):
            if autopilot[key] is not None:
                yield f"{below}.{key}.request", autopilot[key]["request"]
        if autopilot["leave"] is not None:
            yield f"{below}.leave", autopilot["leave"]


def compared(book: BookFile, listed: PriceList, today: date) -> Comparison:
    """Put a book beside a price list: what is found there replaces the book's figure and is cited as its source."""
    content = _content(book)
    prices = dict(labelled_prices(content))
    was = {label: Decimal(price["usd"]) for label, price in prices.items()}
    by_name = {facts["storage_class"]: facts for facts in content["classes"]}
    shared = _shared(book)
    speeds = _default_speeds(content)
    # a later list is another source: what it does not have must not seem to be from it
    cited_as = {source: f"{source}-{today.isoformat()}" for source in listed.sources}
    differences: list[Difference] = []
    taken: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    for label, price in prices.items():
        if label in shared:
            continue
        # the default speed of restoring is what the class's own prices are, and is asked for once
        found = listed.find(speeds.get(label, label))
        if isinstance(found, Listed) and found.counted != COUNTED_BY[price["per"]]:
            kept.append((label, f"{found.sku} is priced by {found.counted}, the book by {price['per']}"))
        elif isinstance(found, Listed):
            source = cited_as[found.source]
            _take(price, found, source)
            if label.count(".") == 1 and label.endswith(".storage"):
                differences += _put_bands(by_name[label.partition(".")[0]], _bands(found, source), found.sku)
            taken.append((label, found.sku))
        else:
            kept.append((label, found.reason))
    for label, (as_class, key) in shared.items():
        price, of_class = prices[label], by_name[as_class][key]
        if f"{as_class}.{key}" not in dict(taken):
            kept.append((label, f"billed as {as_class}.{key}, which the list does not have"))
            continue
        price["usd"], price["per"], price["src"] = of_class["usd"], of_class["per"], list(of_class["src"])
        taken.append((label, f"as {as_class}.{key}"))
        name = label.partition(".")[0]
        if label == f"{name}.storage" and by_name[name]["storage_bands"]:
            differences += _put_bands(by_name[name], by_name[as_class]["storage_bands"], f"as {as_class}.{key}")
    changed = [(label, _difference(label, was[label], prices[label], sku)) for label, sku in taken]
    differences += [difference for _, difference in changed if difference is not None]
    confirmed = [label for label, difference in changed if difference is None]
    for source, (title, as_of) in listed.sources.items():
        content["sources"][cited_as[source]] = {"title": title, "as_of": as_of, "seen_on": today.isoformat()}
    content["seen_on"] = today.isoformat()
    return Comparison(content, tuple(differences), tuple(confirmed), tuple(kept))


def _content(book: BookFile) -> dict[str, Any]:
    return book.model_dump(mode="json", by_alias=True)


def _restores(below: str, restores: list[dict[str, Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    for fact in restores:
        for key in ("request", "retrieval", "read"):
            if fact[key] is not None:
                yield f"{below}.{fact['name']}.{key}", fact[key]


def _shared(book: BookFile) -> dict[str, tuple[str, str]]:
    """Give the class and key whose price each of an autopilot's is, if the book does not state another on purpose."""
    by_name = {facts.storage_class: facts for facts in book.classes}
    shared = {}
    for facts in book.classes:
        for key, as_class, price, its_key in shared_meters(facts):
            if price.each_usd == _price(by_name[as_class], its_key).each_usd:
                shared[".".join(map(str, (facts.storage_class, *key)))] = (as_class, its_key)
    return shared


def _default_speeds(content: dict[str, Any]) -> dict[str, str]:
    speeds = {}
    for prices in content["classes"]:
        for fact in prices["restores"]:
            if fact["default"]:
                below = f"{prices['storage_class']}.restores.{fact['name']}"
                speeds[f"{prices['storage_class']}.restore_request"] = f"{below}.request"
                speeds[f"{prices['storage_class']}.retrieval"] = f"{below}.retrieval"
    return speeds


def _price(facts: Any, key: str) -> Price:
    price: Price = getattr(facts, key)
    return price


def _take(price: dict[str, Any], found: Listed, source: str) -> None:
    price["usd"] = _plain(found.bands[0][1] * COUNT_OF[price["per"]])
    price["src"] = [source]


def _bands(found: Listed, source: str) -> list[dict[str, Any]]:
    """Give a list's volume bands as a book has them: none where there is one price."""
    ends = [*(int(begin) for begin, _ in found.bands[1:]), None]
    bands: list[dict[str, Any]] = [
        {"usd": _plain(each), "per": "GiB-month", "src": [source], "up_to_gib": end}
        for (_, each), end in zip(found.bands, ends, strict=True)
    ]
    return bands if len(bands) > 1 else []


def _put_bands(prices: dict[str, Any], bands: list[dict[str, Any]], sku: str) -> Iterable[Difference]:
    """Write volume bands into a class, and give those that differ; the first is the storage price itself."""
    old, prices["storage_bands"] = prices["storage_bands"], bands
    for position in range(1, max(len(old), len(bands))):
        was, now = (held[position] if position < len(held) else None for held in (old, bands))
        begins = [held[position - 1]["up_to_gib"] for held, band in ((old, was), (bands, now)) if band is not None]
        old_usd, new_usd = (None if band is None else Decimal(band["usd"]) for band in (was, now))
        if old_usd != new_usd or len(set(begins)) > 1:
            label = f"{prices['storage_class']}.storage above {begins[-1]} GiB"
            yield Difference(label, old_usd, new_usd, "GiB-month", sku)


def _difference(label: str, old_usd: Decimal, price: dict[str, Any], sku: str) -> Difference | None:
    new_usd = Decimal(price["usd"])
    return None if new_usd == old_usd else Difference(label, old_usd, new_usd, price["per"], sku)


def _plain(usd: Decimal) -> str:
    """Write an amount without exponent and without the zeros that price lists end with."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
