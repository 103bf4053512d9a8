"""Log lines in the providers' formats, with overrides."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider

DELIVERED = datetime(2026, 11, 20, tzinfo=UTC)


def source(key: str = "log-1", provider: Provider = Provider.AWS, fmt: str = "s3_server_access") -> SourceFile:
    return SourceFile(provider, "logs", key, "etag", 1, fmt, DELIVERED)


def s3_line(**overrides: str) -> str:
    fields = {
        "owner": "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be",
        "bucket": "media",
        "time": "[06/Nov/2026:00:00:38 +0000]",
        "ip": "192.0.2.3",
        "requester": "arn:aws:iam::123456789012:user/reader",
        "request_id": "3E57427F3EXAMPLE",
        "operation": "REST.GET.OBJECT",
        "key": "a/b.bin",
        "uri": '"GET /a/b.bin HTTP/1.1"',
        "status": "200",
        "error": "-",
        "bytes_sent": "2048",
        "size": "2048",
        "total_ms": "12",
        "turn_ms": "11",
        "referer": '"-"',
        "agent": '"aws-sdk-java/2.0"',
        "version": "-",
        "rest": "hostid= SigV4 ECDHE-RSA-AES128-GCM-SHA256 AuthHeader media.s3.amazonaws.com TLSV1.2 - - us-east-1",
    }
    unknown = set(overrides) - set(fields)
    assert not unknown, unknown
    return " ".join(value for value in (fields | overrides).values() if value)


def azure_record(*, status: Any = 200, properties: dict[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-06T02:17:45.1234567Z",
        "resourceId": "/subscriptions/s/providers/Microsoft.Storage/storageAccounts/acct/blobServices/default",
        "category": "StorageRead",
        "operationName": "GetBlob",
        "statusCode": status,
        "statusText": "Success",
        "correlationId": "5c6d7e8f-0000-4111-8222-933344445555",
        "uri": "https://acct.blob.core.windows.net/reports/q1%20final.xlsx?sv=1",
        "properties": {
            "accountName": "acct",
            "userAgentHeader": "azsdk-python-storage-blob/12.19.0",
            "operationCount": 0,
            "responseBodySize": 18432,
            "objectKey": "/acct/reports/q1 final.xlsx",
        }
        | (properties or {}),
    } | overrides


def azure_line(**overrides: Any) -> str:
    return json.dumps(azure_record(**overrides))


GCS_HEADER = (
    '"time_micros","c_ip","c_ip_type","c_ip_region","cs_method","cs_uri","sc_status","cs_bytes","sc_bytes",'
    '"time_taken_micros","cs_host","cs_referer","cs_user_agent","s_request_id","cs_operation","cs_bucket","cs_object"'
)


def gcs_line(**overrides: str) -> str:
    fields = {
        "time_micros": "1794000000000000",  # 2026-11-06
        "c_ip": "198.51.100.10",
        "c_ip_type": "1",
        "c_ip_region": "",
        "cs_method": "GET",
        "cs_uri": "/v1/kanji/%E9%9B%86",
        "sc_status": "200",
        "cs_bytes": "0",
        "sc_bytes": "277",
        "time_taken_micros": "488000",
        "cs_host": "storage.googleapis.com",
        "cs_referer": "",
        "cs_user_agent": "Mozilla/5.0",
        "s_request_id": "ADPycduv",
        "cs_operation": "GET_Object",
        "cs_bucket": "kanjiapi.dev",
        "cs_object": "v1/kanji/集",
    }
    assert not set(overrides) - set(fields)
    return ",".join('"' + value.replace('"', '""') + '"' for value in (fields | overrides).values())


def cloudtrail_record(
    *, parameters: dict[str, Any] | None = None, additional: dict[str, Any] | None = None, **overrides: Any
) -> dict[str, Any]:
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "arn": "arn:aws:iam::111122223333:user/reader",
            "accountId": "111122223333",
        },
        "eventTime": "2026-11-06T03:00:00Z",
        "eventSource": "s3.amazonaws.com",
        "eventName": "GetObject",
        "awsRegion": "us-east-1",
        "userAgent": "[aws-cli/2.18.5]",
        "requestParameters": {"bucketName": "media", "Host": "media.s3.us-east-1.amazonaws.com", "key": "a/b.bin"}
        | (parameters or {}),
        "responseElements": None,
        "additionalEventData": {"bytesTransferredIn": 0, "bytesTransferredOut": 7759.0} | (additional or {}),
        "requestID": "HQJGBHZK9QH33KG7",
        "eventID": "8d96391c-83f4-3491-bb84-4b389122ffb9",
        "readOnly": True,
        "resources": [
            {"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::media/a/b.bin"},
            {"accountId": "111122223333", "type": "AWS::S3::Bucket", "ARN": "arn:aws:s3:::media"},
        ],
        "eventType": "AwsApiCall",
        "managementEvent": False,
        "recipientAccountId": "111122223333",
        "eventCategory": "Data",
    } | overrides


def cloudtrail_file(records: Iterable[dict[str, Any]]) -> str:
    return json.dumps({"Records": list(records)}, separators=(",", ":"))


def gcs_audit_entry(*, payload: dict[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    return {
        "insertId": "10qvp9hd3m5k",
        "logName": "projects/p/logs/cloudaudit.googleapis.com%2Fdata_access",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "authenticationInfo": {"principalEmail": "reader@p.iam.gserviceaccount.com"},
            "authorizationInfo": [
                # an overwrite needs two permissions, and other requests more
                {"resource": "projects/_/buckets/media", "permission": permission, "granted": True}
                for permission in ("storage.objects.delete", "storage.objects.get")
            ],
            "methodName": "storage.objects.get",
            "requestMetadata": {"callerIp": "198.51.100.10", "callerSuppliedUserAgent": "gcloud-python/2.1,gzip(gfe)"},
            "resourceName": "projects/_/buckets/media/objects/a/b.bin",
            "serviceName": "storage.googleapis.com",
            "status": {},
        }
        | (payload or {}),
        "receiveTimestamp": "2026-11-06T03:00:01.481672816Z",
        "resource": {"labels": {"bucket_name": "media", "project_id": "p"}, "type": "gcs_bucket"},
        "severity": "INFO",
        "timestamp": "2026-11-06T03:00:00.480672816Z",
    } | overrides


CLASSIC_FIELDS = (
    "version", "start", "operation", "status", "code", "e2e", "server", "auth", "requester", "owner", "service",
    "url", "key", "request_id", "count", "ip", "request_version", "request_header", "request_packet",
    "response_header", "sent", "content_length", "request_md5", "server_md5", "etag", "modified", "conditions",
    "agent", "referrer", "client_id", "object_id", "tenant_id", "app_id", "audience", "issuer", "upn", "reserved",
    "detail",
)  # fmt: skip
_CLASSIC_QUOTED = {"url", "key", "request_md5", "server_md5", "etag", "conditions", "agent", "referrer", "client_id"}


def html_encoded(text: str) -> str:
    """Encode as .NET does: the four characters of markup, the apostrophe, and what a line could not hold."""
    named = {"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;", "'": "&#39;", "\n": "&#10;", "\r": "&#13;"}
    return "".join(named.get(c, f"&#{ord(c)};" if 160 <= ord(c) < 256 or ord(c) > 0xFFFF else c) for c in text)


def classic_line(version: str = "1.0", **overrides: str) -> str:
    """Write an entry of a version; the texts of quoted fields are given as they are, and encoded here."""
    fields = dict.fromkeys(CLASSIC_FIELDS, "") | {
        "version": version,
        "start": "2026-11-06T02:18:03.5550123Z",
        "operation": "GetBlob",
        "status": "Success",
        "code": "200",
        "e2e": "41",
        "server": "12",
        "auth": "authenticated",
        "owner": "acct",
        "service": "blob",
        "url": "https://acct.blob.core.windows.net/reports/q1%20final.xlsx?timeout=90",
        "key": "/acct/reports/q1 final.xlsx",
        "request_id": "0b1c2d3e-0000-4a5b-8c9d-0e1f2a3b4c5d",
        "count": "0",
        "ip": "198.51.100.23:50433",
        "request_version": "2023-11-03",
        "response_header": "330",
        "sent": "18432",
        "etag": '"0x8DC0000000000AA"',
        "modified": "Friday, 06-Nov-26 01:12:40 GMT",
        "agent": "WA-Storage/4.0.1 (.NET CLR 4.0; Win32NT 6.3)",
        "client_id": "dc00da87-5483-4524-b0dc-d1df025a6a9a",
    }
    assert not set(overrides) - set(fields)
    width = 38 if version == "2.0" else 30
    return ";".join(
        f'"{html_encoded(value)}"' if name in _CLASSIC_QUOTED and value else value
        for name, value in list((fields | overrides).items())[:width]
    )


PROVIDERS = {
    "s3_server_access": Provider.AWS,
    "cloudtrail": Provider.AWS,
    "azure_resource": Provider.AZURE,
    "azure_classic": Provider.AZURE,
    "gcs_usage": Provider.GCP,
    "gcs_audit": Provider.GCP,
}


@dataclass(frozen=True)
class Request:
    key: str
    agent: str
    referrer: str
    sent: int
    is_write: bool


def written(name: str, requests: Sequence[Request], layout: str, ascii_only: bool) -> str:
    """Write requests as a file of a format; the number of a request is its id."""
    numbered = list(enumerate(requests))
    match name:
        case "s3_server_access":
            return "".join(s3_request(number, request) for number, request in numbered)
        case "azure_classic":
            return "".join(classic_request(number, request) for number, request in numbered)
        case "gcs_usage":
            return GCS_HEADER + "\n" + "".join(gcs_request(number, request) for number, request in numbered)
    records = [JSON_RECORDS[name](number, request) for number, request in numbered]
    envelope = "records" if name == "azure_resource" else "Records"
    if layout in ("lines", "together"):
        joint = "\n" if layout == "lines" else ""
        return joint.join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    document = {envelope: records} if layout in ("envelope", "compact") else records
    return json.dumps(
        document,
        ensure_ascii=ascii_only,
        separators=(",", ":") if layout == "compact" else None,
        indent=2 if layout == "printed" else None,
    )


def s3_request(number: int, request: Request) -> str:
    once = quote(request.key, safe="/")
    line = s3_line(
        request_id=f"R{number}",
        operation="REST.PUT.OBJECT" if request.is_write else "REST.GET.OBJECT",
        key=quote(once, safe="/"),
        uri=f'"GET /media/{once} HTTP/1.1"',
        bytes_sent=str(request.sent),
        referer=f'"{request.referrer}"',
        agent=f'"{request.agent}"',
    )
    return line + "\n"


def classic_request(number: int, request: Request) -> str:
    line = classic_line(
        "2.0" if number % 2 else "1.0",
        request_id=f"R{number}",
        operation="PutBlob" if request.is_write else "GetBlob",
        key=f"/acct/reports/{request.key}",
        url=f"https://acct.blob.core.windows.net/reports/{quote(request.key)}",
        sent=str(request.sent),
        agent=request.agent,
        referrer=request.referrer,
    )
    return line + "\n"


def gcs_request(number: int, request: Request) -> str:
    line = gcs_line(
        s_request_id=f"R{number}",
        cs_operation="PUT_Object" if request.is_write else "GET_Object",
        cs_object=request.key,
        cs_uri=quote(request.key),
        sc_bytes=str(request.sent),
        cs_user_agent=request.agent,
        cs_referer=request.referrer,
    )
    return line + "\n"


def azure_request(number: int, request: Request) -> dict[str, Any]:
    return azure_record(
        correlationId=f"R{number}",
        operationName="PutBlob" if request.is_write else "GetBlob",
        properties={
            "objectKey": f"/acct/reports/{request.key}",
            "userAgentHeader": request.agent,
            "referrerHeader": request.referrer,
            "responseBodySize": request.sent,
        },
    )


def cloudtrail_request(number: int, request: Request) -> dict[str, Any]:
    return cloudtrail_record(
        eventID=f"R{number}",
        eventName="PutObject" if request.is_write else "GetObject",
        parameters={"key": request.key, "referer": request.referrer},
        additional={"bytesTransferredOut": float(request.sent)},
        userAgent=request.agent,
    )


def gcs_audit_request(number: int, request: Request) -> dict[str, Any]:
    return gcs_audit_entry(
        insertId=f"R{number}",
        payload={
            "methodName": "storage.objects.create" if request.is_write else "storage.objects.get",
            "resourceName": f"projects/_/buckets/media/objects/{request.key}",
            "requestMetadata": {"callerSuppliedUserAgent": request.agent, "referer": request.referrer},
        },
    )


JSON_RECORDS: dict[str, Callable[[int, Request], dict[str, Any]]] = {
    "azure_resource": azure_request,
    "cloudtrail": cloudtrail_request,
    "gcs_audit": gcs_audit_request,
}
