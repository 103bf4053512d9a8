"""Small price lists in the providers' own form, with the traps of the real ones; and a server that gives them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

# usage type, operation, unit, price of one: as in us-east-1 on 2026-09-22, but for what a test changes
S3_ROWS: list[tuple[str, str, str, str]] = [
    ("TimedStorage-INT-IA-ByteHrs", "", "GB-Mo", "0.0125000000"),
    ("TimedStorage-INT-AIA-ByteHrs", "", "GB-Mo", "0.0040000000"),
    ("TimedStorage-INT-AA-ByteHrs", "", "GB-Mo", "0.0036000000"),
    ("TimedStorage-INT-DAA-ByteHrs", "", "GB-Mo", "0.0009900000"),
    ("TimedStorage-SIA-ByteHrs", "", "GB-Mo", "0.0125000000"),
    ("TimedStorage-ZIA-ByteHrs", "", "GB-Mo", "0.0100000000"),
    ("TimedStorage-GIR-ByteHrs", "", "GB-Mo", "0.0040000000"),
    ("TimedStorage-GlacierByteHrs", "", "GB-Mo", "0.0036000000"),
    ("TimedStorage-GlacierStaging", "", "GB-Mo", "0.0210000000"),
    ("Tables-TimedStorage-ByteHrs", "", "GB-Mo", "0.0265000000"),
    ("Requests-Tier1", "", "Requests", "0.0000050000"),
    ("Requests-Tier2", "", "Requests", "0.0000004000"),
    ("Requests-INT-Tier1", "", "Requests", "0.0000050000"),
    ("Requests-INT-Tier2", "", "Requests", "0.0000004000"),
    ("Requests-SIA-Tier1", "", "Requests", "0.0000100000"),
    ("Requests-SIA-Tier2", "", "Requests", "0.0000010000"),
    ("Requests-ZIA-Tier1", "", "Requests", "0.0000100000"),
    ("Requests-ZIA-Tier2", "", "Requests", "0.0000010000"),
    ("Requests-GIR-Tier1", "", "Requests", "0.0000200000"),
    ("Requests-GIR-Tier2", "", "Requests", "0.0000100000"),
    ("Requests-GLACIER-Tier1", "PutObject", "Requests", "0.0000300000"),
    ("Requests-GLACIER-Tier1", "InitiateMultipartUpload", "Requests", "0.0000050000"),
    ("Requests-GLACIER-Tier2", "", "Requests", "0.0000004000"),
    ("Requests-GDA-Tier2", "", "Requests", "0.0000004000"),
    ("Requests-Tier3", "S3-GlacierTransition", "Requests", "0.0000300000"),
    ("Requests-Tier3", "S3-GDATransition", "Requests", "0.0000500000"),
    ("Requests-Tier3", "RestoreObject", "Requests", "0.0000500000"),
    ("Requests-Tier4", "S3-INTTransition", "Requests", "0.0000100000"),
    ("Requests-Tier4", "S3-SIATransition", "Requests", "0.0000100000"),
    ("Requests-Tier4", "S3-ZIATransition", "Requests", "0.0000100000"),
    ("Requests-Tier4", "S3-GIRTransition", "Requests", "0.0000200000"),
    ("Requests-Tier5", "", "Requests", "0.0000000000"),
    ("Requests-Tier6", "", "Requests", "0.0100000000"),
    ("Retrieval-SIA", "", "GB", "0.0100000000"),
    ("Retrieval-ZIA", "", "GB", "0.0100000000"),
    ("Retrieval-GIR", "", "GB", "0.0300000000"),
    ("Standard-Retrieval-Bytes", "RestoreObject", "GB", "0.0100000000"),
    ("Standard-Retrieval-Bytes", "DeepArchiveRestoreObject", "GB", "0.0200000000"),
    ("Bulk-Retrieval-Bytes", "RestoreObject", "GB", "0.0000000000"),
    ("Bulk-Retrieval-Bytes", "DeepArchiveRestoreObject", "GB", "0.0025000000"),
    ("Expedited-Retrieval-Bytes", "", "GB", "0.0300000000"),
    ("Monitoring-Automation-INT", "", "Objects", "0.0000025000"),
]
DEEP_ARCHIVE_ROWS: list[tuple[str, str, str, str]] = [
    ("TimedStorage-GDA-ByteHrs", "", "GB-Mo", "0.0009900000"),
    ("TimedStorage-GDA-Staging", "", "GB-Mo", "0.0210000000"),
    ("Requests-GDA-Tier1", "InitiateMultipartUpload", "Requests", "0.0000050000"),
    ("Requests-GDA-Tier1", "PutObject", "Requests", "0.0000500000"),
    ("Requests-GDA-Tier3", "DeepArchiveRestoreObject", "Requests", "0.0001000000"),
    ("Requests-GDA-Tier5", "DeepArchiveRestoreObject", "Requests", "0.0000250000"),
    ("Requests-Tier3", "S3-GDATransition", "Requests", "0.0000500000"),
    ("Standard-Retrieval-Bytes", "DeepArchiveRestoreObject", "GB", "0.0200000000"),
]
BANDS = [("0", "51200", "0.0230000000"), ("51200", "512000", "0.0220000000"), ("512000", "Inf", "0.0210000000")]


def aws_document(service: str, rows: Any, region: str = "us-east-1", prefix: str = "", bands: Any = ()) -> Any:
    """Make a list of one service: some products without a family, as the most of the real ones."""
    document: dict[str, Any] = {
        "formatVersion": "v1.0",
        "offerCode": service,
        "version": "20261101000000",
        "publicationDate": "2026-11-01T00:00:00Z",
        "products": {},
        "terms": {"OnDemand": {}},
    }

    def add(usagetype: str, operation: str, unit: str, dimensions: Any, **attributes: str) -> None:
        sku = f"SKU{len(document['products']):04}"
        product = {
            "sku": sku,
            "attributes": {
                "servicecode": service,
                "locationType": "AWS Region",
                "usagetype": usagetype,
                "operation": operation,
                "regionCode": region,
                **attributes,
            },
        }
        if usagetype.endswith("SIA-ByteHrs"):
            product["productFamily"] = "Storage"
        document["products"][sku] = product
        document["terms"]["OnDemand"][sku] = {
            f"{sku}.JRTCKXETXF": {
                "sku": sku,
                "effectiveDate": "2026-11-01T00:00:00Z",
                "priceDimensions": {
                    f"{sku}.JRTCKXETXF.{position}": {
                        "unit": unit,
                        "beginRange": begin,
                        "endRange": end,
                        "pricePerUnit": {"USD": usd},
                    }
                    # the real list gives them in no order
                    for position, (begin, end, usd) in enumerate(reversed(dimensions))
                },
            }
        }

    for usagetype, operation, unit, usd in rows:
        add(prefix + usagetype, operation, unit, [("0", "Inf", usd)])
    if bands:
        add(f"{prefix}TimedStorage-ByteHrs", "", "GB-Mo", bands)
        add(f"{prefix}TimedStorage-INT-FA-ByteHrs", "", "GB-Mo", bands)
        # another region's, a local zone's, and one without a price
        add("USW1-TimedStorage-ByteHrs", "", "GB-Mo", [("0", "Inf", "0.026")], regionCode="us-west-1")
        add("LAX1-TimedStorage-ByteHrs", "", "GB-Mo", [("0", "Inf", "0.08")], locationType="AWS Local Zone")
        document["products"]["UNPRICED"] = {"sku": "UNPRICED", "attributes": {"usagetype": "TimedStorage-ByteHrs"}}
    return document


def s3_document(changed: dict[tuple[str, str], str] | None = None, without: Any = (), **keys: Any) -> Any:
    rows = [
        (usagetype, operation, unit, (changed or {}).get((usagetype, operation), usd))
        for usagetype, operation, unit, usd in S3_ROWS
        if usagetype not in without
    ]
    return aws_document("AmazonS3", rows, **{"bands": BANDS, **keys})


def deep_archive_document(**keys: Any) -> Any:
    return aws_document("AmazonS3GlacierDeepArchive", DEEP_ARCHIVE_ROWS, **keys)


# SKU, meter, unit, lowest units, price
AZURE_ROWS: list[tuple[str, str, str, float, float]] = [
    ("Hot LRS", "Hot LRS Data Stored", "1 GB/Month", 51200.0, 0.019968),
    ("Hot LRS", "Hot LRS Data Stored", "1 GB/Month", 0.0, 0.0208),
    ("Hot LRS", "Hot LRS Data Stored", "1 GB/Month", 512000.0, 0.019136),
    ("Hot LRS", "Hot LRS Write Operations", "10K", 0.0, 0.05),
    ("Hot LRS", "Hot Read Operations", "10K", 0.0, 0.004),
    ("Cool LRS", "Cool LRS Data Stored", "1 GB/Month", 0.0, 0.0152),
    ("Cool LRS", "Cool LRS Write Operations", "10K", 0.0, 0.1),
    ("Cool LRS", "Cool Read Operations", "10K", 0.0, 0.01),
    ("Cool LRS", "Cool Data Retrieval", "1 GB", 0.0, 0.01),
    ("Cold LRS", "Cold LRS Data Stored", "1 GB/Month", 0.0, 0.0036),
    ("Cold LRS", "Cold LRS Write Operations", "10K", 0.0, 0.18),
    ("Cold LRS", "Cold LRS Read Operations", "10K", 0.0, 0.1),
    ("Cold LRS", "Cold LRS Data Retrieval", "1 GB", 0.0, 0.03),
    ("Archive LRS", "Archive Priority Data Retrieval", "1 GB", 0.0, 0.1),
    ("Archive LRS", "Archive Priority Read Operations", "10K", 0.0, 50.0),
    ("Archive LRS", "Archive LRS Data Stored", "1 GB/Month", 0.0, 0.00099),
    ("Archive LRS", "Archive LRS Write Operations", "10K", 0.0, 0.1),
    ("Archive LRS", "Archive Read Operations", "10K", 0.0, 5.0),
    ("Archive LRS", "Archive Data Retrieval", "1 GB", 0.0, 0.02),
]


def azure_items(changed: dict[str, float] | None = None, without: Any = ()) -> list[dict[str, Any]]:
    """Make the items of a list, and others that only look like them."""

    def item(sku: str, meter: str, unit: str, lowest: float, usd: float, **keys: Any) -> dict[str, Any]:
        return {
            "currencyCode": "USD",
            "tierMinimumUnits": lowest,
            "retailPrice": usd,
            "armRegionName": "eastus",
            "skuName": sku,
            "skuId": f"DZH318Z0/{sku}",
            "meterName": meter,
            "productName": "General Block Blob v2",
            "serviceName": "Storage",
            "unitOfMeasure": unit,
            "type": "Consumption",
            "isPrimaryMeterRegion": True,
        } | keys

    stored = ("Hot LRS", "Hot LRS Data Stored", "1 GB/Month", 0.0)
    return [
        item(*stored, 0.0287, productName="Files v2"),
        item(*stored, 0.0184, armRegionName="westus2"),
        item(*stored, 0.0170, type="Reservation"),
        item(*stored, 0.0999, isPrimaryMeterRegion=False),
        item("Hot GRS", "Hot GRS Data Stored", "1 GB/Month", 0.0, 0.0458),
        *(
            item(sku, meter, unit, lowest, (changed or {}).get(meter, usd))
            for sku, meter, unit, lowest, usd in AZURE_ROWS
            if meter not in without
        ),
    ]


@contextmanager
def serving(pages: dict[str, Any], seen: list[str] | None = None) -> Iterator[str]:
    """Serve documents by path and query on loopback; a page may be bytes, a status, or a function of the address."""
    asked = seen if seen is not None else []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(unquote(self.path))
            page = pages.get(self.path, pages.get(self.path.partition("?")[0], 404))
            if callable(page):
                page = page(f"http://127.0.0.1:{self.server.server_address[1]}", unquote(self.path))
            status = page if isinstance(page, int) else 200
            body = page if isinstance(page, bytes) else json.dumps(page).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
