"""Log lines in the providers' formats, with overrides."""

import json
from datetime import UTC, datetime
from typing import Any

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
