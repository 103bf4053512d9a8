"""Read AWS's public price list: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-changes.html

S3's prices are spread over two services, and most products have no family: a product is known by its exact usage type,
without the region's prefix, and where that is not enough by its operation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from cloudflux.domain.errors import TerminalError
from cloudflux.local.prices.downloads import Downloads
from cloudflux.local.prices.listed import Counted, Listed, Missing, PriceList, amount_of

S3: Final = "AmazonS3"
DEEP_ARCHIVE: Final = "AmazonS3GlacierDeepArchive"
SERVICES: Final = (S3, DEEP_ARCHIVE)

_PREFIX: Final = re.compile(r"^[A-Z]{2,4}[0-9]{0,2}-")
"""E.g. EU-, USW2-, APS10-; us-east-1 has none. ``Tables-TimedStorage-ByteHrs`` is another product, not a prefix."""
_COUNTED: Final[Mapping[str, Counted]] = {
    "GB-Mo": "GiB-month",
    "GB": "GiB",
    "Requests": "request",
    "Objects": "object-month",
}


@dataclass(frozen=True, slots=True)
class Meter:
    """How a product is known."""

    usagetype: str
    operation: str | None = None
    services: tuple[str, ...] = (S3,)


def _meters() -> dict[str, Meter]:
    """Give the meter of every figure. Source: maxopsdev/maxops, staging_pricing/s3_price_key_filters.json @b7daaba."""
    meters = {"list": Meter("Requests-Tier1")}
    for name, storage, requests in (
        ("STANDARD", "TimedStorage-ByteHrs", "Requests"),
        ("INTELLIGENT_TIERING", "TimedStorage-INT-FA-ByteHrs", "Requests-INT"),
        ("STANDARD_IA", "TimedStorage-SIA-ByteHrs", "Requests-SIA"),
        ("ONEZONE_IA", "TimedStorage-ZIA-ByteHrs", "Requests-ZIA"),
        ("GLACIER_IR", "TimedStorage-GIR-ByteHrs", "Requests-GIR"),
        ("GLACIER", "TimedStorage-GlacierByteHrs", "Requests-GLACIER"),
    ):
        meters[f"{name}.storage"] = Meter(storage)
        # one usage type for several operations: a multipart upload begins at the rate of STANDARD
        meters[f"{name}.write"] = Meter(f"{requests}-Tier1", "PutObject" if name == "GLACIER" else None)
        meters[f"{name}.read"] = Meter(f"{requests}-Tier2")
    meters["DEEP_ARCHIVE.storage"] = Meter("TimedStorage-GDA-ByteHrs", None, (DEEP_ARCHIVE,))
    meters["DEEP_ARCHIVE.write"] = Meter("Requests-GDA-Tier1", "PutObject", (DEEP_ARCHIVE,))
    meters["DEEP_ARCHIVE.read"] = Meter("Requests-GDA-Tier2")
    for name, tier, operation in (
        ("INTELLIGENT_TIERING", "Tier4", "S3-INTTransition"),
        ("STANDARD_IA", "Tier4", "S3-SIATransition"),
        ("ONEZONE_IA", "Tier4", "S3-ZIATransition"),
        ("GLACIER_IR", "Tier4", "S3-GIRTransition"),
        ("GLACIER", "Tier3", "S3-GlacierTransition"),
        ("DEEP_ARCHIVE", "Tier3", "S3-GDATransition"),
    ):
        meters[f"{name}.transition_in"] = Meter(f"Requests-{tier}", operation, SERVICES)
    for name, code in (("STANDARD_IA", "SIA"), ("ONEZONE_IA", "ZIA"), ("GLACIER_IR", "GIR")):
        meters[f"{name}.retrieval"] = Meter(f"Retrieval-{code}")
    for name, speed, request, retrieval in (
        ("GLACIER", "expedited", Meter("Requests-Tier6"), Meter("Expedited-Retrieval-Bytes")),
        (
            "GLACIER",
            "standard",
            Meter("Requests-Tier3", "RestoreObject"),
            Meter("Standard-Retrieval-Bytes", "RestoreObject"),
        ),
        ("GLACIER", "bulk", Meter("Requests-Tier5"), Meter("Bulk-Retrieval-Bytes", "RestoreObject")),
        (
            "DEEP_ARCHIVE",
            "standard",
            Meter("Requests-GDA-Tier3", None, (DEEP_ARCHIVE,)),
            Meter("Standard-Retrieval-Bytes", "DeepArchiveRestoreObject", SERVICES),
        ),
        (
            "DEEP_ARCHIVE",
            "bulk",
            Meter("Requests-GDA-Tier5", None, (DEEP_ARCHIVE,)),
            Meter("Bulk-Retrieval-Bytes", "DeepArchiveRestoreObject", SERVICES),
        ),
    ):
        meters[f"{name}.restores.{speed}.request"] = request
        meters[f"{name}.restores.{speed}.retrieval"] = retrieval
        if speed == "standard":  # for books that do not list the speeds
            meters[f"{name}.restore_request"], meters[f"{name}.retrieval"] = request, retrieval
    autopilot = "INTELLIGENT_TIERING.autopilot"
    meters[f"{autopilot}.monitoring"] = Meter("Monitoring-Automation-INT")
    meters[f"{autopilot}.steps.0.storage"] = Meter("TimedStorage-INT-IA-ByteHrs")
    meters[f"{autopilot}.steps.1.storage"] = Meter("TimedStorage-INT-AIA-ByteHrs")
    meters[f"{autopilot}.archive_steps.Archive Access.storage"] = Meter("TimedStorage-INT-AA-ByteHrs")
    meters[f"{autopilot}.archive_steps.Deep Archive Access.storage"] = Meter("TimedStorage-INT-DAA-ByteHrs")
    return meters


METERS: Final = _meters()


def aws_url(downloads: Downloads, service: str, region: str) -> str:
    """Give the address of a service's list of one region; no key is needed."""
    return f"{downloads.aws_url}/offers/v1.0/aws/{service}/current/{region}/index.json"


def aws_price_list(documents: Mapping[str, Any], region: str) -> PriceList:
    """Make the lists of both services, by where each is from, ready to be asked.

    Raises ``TerminalError`` for a document that is no list of a service that is needed here.
    """
    products: dict[tuple[str, str], list[tuple[str, Listed | Missing]]] = {}
    sources: dict[str, tuple[str, str | None]] = {}
    for origin, document in documents.items():
        service = document.get("offerCode") if isinstance(document, dict) else None
        if service not in SERVICES:
            raise TerminalError(f"{origin} is no price list of {' or '.join(SERVICES)}: its offerCode is {service!r}")
        published = str(document.get("publicationDate") or "")[:10] or None
        source = f"{service}-list"
        sources[source] = (f"AWS Price List of {service} in {region}: {origin}", published)
        for usagetype, operation, listed in _products(document, region, source):
            products.setdefault((service, usagetype), []).append((operation, listed))
    read = {source.removesuffix("-list") for source in sources}
    return PriceList(lambda label: _found(products, read, METERS.get(label)), sources)


def _found(
    products: Mapping[tuple[str, str], list[tuple[str, Listed | Missing]]], read: set[str], meter: Meter | None
) -> Listed | Missing:
    if meter is None:
        return Missing("no meter of its own")
    for service in meter.services:
        candidates = products.get((service, meter.usagetype), [])
        if meter.operation is not None:
            candidates = [candidate for candidate in candidates if candidate[0] == meter.operation]
        priced = [listed for _, listed in candidates if isinstance(listed, Listed)]
        if len({(listed.counted, listed.bands) for listed in priced}) > 1:
            skus = ", ".join(listed.sku for listed in priced)
            return Missing(f"{meter.usagetype} has several prices ({skus})")
        if priced:
            return priced[0]
        for _, listed in candidates:
            return listed
    if not read & set(meter.services):
        return Missing(f"the list of {meter.services[0]} was not read")
    operation = f" {meter.operation}" if meter.operation else ""
    return Missing(f"{meter.usagetype}{operation} is not in the list")


def _products(document: dict[str, Any], region: str, source: str) -> Iterable[tuple[str, str, Listed | Missing]]:
    terms = (document.get("terms") or {}).get("OnDemand") or {}
    for sku, product in (document.get("products") or {}).items():
        attributes = product.get("attributes") or {}
        if attributes.get("regionCode", region) != region:
            continue
        if attributes.get("locationType", "AWS Region") != "AWS Region":  # a local zone has prices of its own
            continue
        usagetype = _PREFIX.sub("", attributes.get("usagetype") or "")
        offers = list((terms.get(sku) or {}).values())
        if usagetype and offers:
            yield usagetype, attributes.get("operation") or "", _listed(sku, offers[0], source)


def _listed(sku: str, offer: dict[str, Any], source: str) -> Listed | Missing:
    dimensions = list((offer.get("priceDimensions") or {}).values())
    units = {dimension.get("unit") for dimension in dimensions}
    if len(units) != 1 or (counted := _COUNTED.get(str(next(iter(units))))) is None:
        return Missing(f"{sku} is priced by {', '.join(sorted(map(str, units))) or 'nothing'}")
    if any("USD" not in (dimension.get("pricePerUnit") or {}) for dimension in dimensions):
        return Missing(f"{sku} is not priced in USD")
    bands = sorted(
        (
            amount_of(dimension.get("beginRange", "0"), sku),
            amount_of(dimension["pricePerUnit"]["USD"], sku),
        )
        for dimension in dimensions
    )
    if bands[0][0] != Decimal(0) or len({begin for begin, _ in bands}) != len(bands):
        return Missing(f"{sku} has volume bands that do not begin at 0 or overlap")
    return Listed(counted, tuple(bands), sku, source)
