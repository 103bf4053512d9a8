"""Read Azure's public price list: https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices

The same meter names are there for Azure Files and older products at other prices, and a meter of high priority has the
normal one's name within its own: product, SKU and meter must be the very ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cloudflux.domain.errors import TerminalError
from cloudflux.local.prices.downloads import Downloads
from cloudflux.local.prices.listed import Counted, Listed, Missing, PriceList, amount_of

PRODUCT: Final = "General Block Blob v2"
SOURCE: Final = "azure-retail-prices"
MAX_PAGES: Final = 100

_TIERS: Final = ("Hot", "Cool", "Cold", "Archive")
_KINDS: Final = {
    "storage": "Data Stored",
    "write": "Write Operations",
    "transition_in": "Write Operations",  # Set Blob Tier to a colder tier is one write of the destination
    "read": "Read Operations",
    "retrieval": "Data Retrieval",
}
_COUNTED: Final[Mapping[str, Counted]] = {
    "storage": "GiB-month",
    "write": "request",
    "transition_in": "request",
    "read": "request",
    "retrieval": "GiB",
}
_UNIT: Final = re.compile(r"^(?P<count>\d+)(?P<thousand>K?)(?P<what>| GB| GB/Month)$")
_WHAT: Final[Mapping[str, Counted]] = {"": "request", " GB": "GiB", " GB/Month": "GiB-month"}


def azure_url(downloads: Downloads, region: str) -> str:
    """Give the address of the list's first page; no key is needed."""
    wanted = (
        f"serviceName eq 'Storage' and productName eq '{PRODUCT}' and armRegionName eq '{region}'"
        " and priceType eq 'Consumption'"
    )
    return f"{downloads.azure_url}/api/retail/prices?$filter={quote(wanted)}"


def azure_pages(downloads: Downloads, region: str) -> Iterator[tuple[str, Any]]:
    """Download page by page, each with its address.

    Raises ``TerminalError`` when the pages lead to another host or never end.
    """
    url: str | None = azure_url(downloads, region)
    host = _host(str(url))
    seen: set[str] = set()
    while url:
        if _host(url) != host:
            raise TerminalError(f"the next page of the price list is at another host, it is not read: {url}")
        if url in seen or len(seen) == MAX_PAGES:
            raise TerminalError(f"the price list at {host[1]} has no end: more than {len(seen)} pages")
        seen.add(url)
        page = downloads.json_of(url)
        yield url, page
        url = page.get("NextPageLink") if isinstance(page, dict) else None


def azure_price_list(documents: Mapping[str, Any], region: str, redundancy: str) -> PriceList:
    """Make the pages, by where each is from, ready to be asked.

    Raises ``TerminalError`` for a document that is no page of the list.
    """
    items: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for origin, document in documents.items():
        if not isinstance(document, dict) or not isinstance(document.get("Items"), list):
            raise TerminalError(f"{origin} is no page of Azure's retail prices: it has no Items")
        for item in document["Items"]:
            if (
                item.get("productName") == PRODUCT
                and item.get("armRegionName") == region
                and item.get("type", "Consumption") == "Consumption"
                and item.get("currencyCode", "USD") == "USD"
            ):
                items.setdefault((item.get("skuName", ""), item.get("meterName", "")), []).append(item)
    title = f"Azure Retail Prices, {PRODUCT}, {redundancy}, {region}: {next(iter(documents), 'nothing')}"
    return PriceList(lambda label: _found(items, label, redundancy), {SOURCE: (title, None)})


def _found(items: Mapping[tuple[str, str], list[dict[str, Any]]], label: str, redundancy: str) -> Listed | Missing:
    tier, _, figure = label.partition(".")
    priority = ""
    if figure.startswith("restores.high."):
        figure, priority = figure.removeprefix("restores.high."), " Priority"
    elif figure.startswith("restores.standard."):
        figure = figure.removeprefix("restores.standard.")
    if tier not in _TIERS or figure not in _KINDS:
        return Missing("no meter of its own")
    if tier == "Hot" and figure == "retrieval":
        return Missing("no meter of its own")  # reading is free but for the request
    sku, kind = f"{tier} {redundancy}", _KINDS[figure]
    # some meters name the redundancy, some do not: 'Cool LRS Write Operations', 'Cool Read Operations'
    names = (
        f"{tier}{priority} {redundancy} {kind}",
        f"{tier} {redundancy}{priority} {kind}",
        f"{tier}{priority} {kind}",
    )
    for name in dict.fromkeys(names):
        if (sku, name) in items:
            return _listed(items[sku, name], name, _COUNTED[figure])
    return Missing(f"{names[-1]} of {sku} is not in the list")


def _listed(items: Iterable[dict[str, Any]], name: str, wanted: Counted) -> Listed | Missing:
    rows = list(items)
    # where a meter is listed under several, the one of the region itself counts
    rows = [row for row in rows if row.get("isPrimaryMeterRegion", True)] or rows
    bands: dict[Decimal, Decimal] = {}
    for row in rows:
        unit = _UNIT.match(str(row.get("unitOfMeasure", "")))
        if unit is None or _WHAT[unit["what"]] != wanted or int(unit["count"]) == 0:
            return Missing(f"{name} is priced by {row.get('unitOfMeasure')!r}")
        count = int(unit["count"]) * (1000 if unit["thousand"] else 1)
        begin = amount_of(row.get("tierMinimumUnits", 0), name) * count
        each = amount_of(row.get("retailPrice"), name) / count
        if bands.setdefault(begin, each) != each:
            return Missing(f"{name} has several prices")
    if Decimal(0) not in bands:
        return Missing(f"{name} has no price from 0 on")
    return Listed(wanted, tuple(sorted(bands.items())), f"{rows[0].get('skuId') or name}", SOURCE)


def _host(url: str) -> tuple[str, str]:
    """Give scheme and host; the default port, which Azure writes into its links, makes no difference."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return parts.scheme, f"{parts.hostname}{port}"
