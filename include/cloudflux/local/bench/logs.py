"""Log files to measure with: made of a seed, in the providers' formats, a day of requests on objects of which a few are
read most of the time."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

DAY: Final = "2026-03-10"
BUCKET: Final = "media-archive"
_OBJECTS: Final = 1_000_000
_AGENTS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "aws-sdk-java/2.20.1 Linux/5.10 OpenJDK_64-Bit_Server_VM/17.0.7",
    "Boto3/1.34.1 md/Botocore#1.34.1 ua/2.0 os/linux",
    "cloudflux/0.1",
    "-",
)
_SHARES: Final = (0.5, 0.2, 0.2, 0.05, 0.05)
_AZURE_OPERATIONS: Final = ("GetBlob", "GetBlobProperties", "PutBlob", "ListBlobs", "GetBlob")
_OWNER: Final = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"


def write_logs(provider_format: str, folder: Path, *, lines: int, lines_a_file: int = 100_000, seed: int = 7) -> int:
    """Write log files of one format; gives their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for number, first in enumerate(range(0, lines, lines_a_file)):
        count = min(lines_a_file, lines - first)
        rng = np.random.default_rng([seed, number])
        text = _WRITERS[provider_format](_requests(rng, count, first / lines, (first + count) / lines)).to_list()
        path = folder / f"{DAY}-{number:05d}.log"
        if provider_format == "cloudtrail":
            path = path.with_suffix(".json.gz")
            path.write_bytes(gzip.compress(('{"Records":[' + ",".join(text) + "]}").encode(), 6, mtime=0))
        else:
            path.write_bytes((_HEADERS.get(provider_format, "") + "\n".join(text) + "\n").encode())
        size += path.stat().st_size
    return size


def _requests(rng: np.random.Generator, count: int, start: float, end: float) -> pl.DataFrame:
    """Make requests of a part of the day, in order."""
    second = np.sort(rng.uniform(start * 86_400, end * 86_400, count))
    verb = rng.choice(5, count, p=(0.8, 0.08, 0.06, 0.04, 0.02))
    rank = (rng.pareto(0.35, count) % _OBJECTS).astype(np.int64)
    number = rng.integers(0, 2**62, (count, 2))
    return pl.DataFrame(
        {
            "micros": (second * 1e6).astype(np.int64),
            "verb": verb,
            "object": rank,
            "size": rng.lognormal(10, 2, count).astype(np.int64),
            "id": number[:, 0],
            "other": number[:, 1],
            "agent": np.asarray(_AGENTS)[rng.choice(len(_AGENTS), count, p=_SHARES)],
        }
    ).with_columns(
        (pl.lit(DAY).str.to_datetime() + pl.duration(microseconds="micros")).alias("at"),
        # half of the names have a character that is encoded in a log: year=2026
        pl.when(pl.col("object") % 2 == 0)
        .then(pl.format("data/year=2026/part-{}/object-{}.parquet", pl.col("object") % 97, "object"))
        .otherwise(pl.format("images/{}/{}-original.jpg", pl.col("object") % 997, "object"))
        .alias("key"),
    )


def _named(column: str, values: tuple[str, ...]) -> pl.Expr:
    return pl.col(column).replace_strict(list(range(len(values))), list(values), return_dtype=pl.String)


def _s3(requests: pl.DataFrame) -> pl.Series:
    once = pl.col("key").str.replace_all("=", "%3D", literal=True)
    return requests.select(
        pl.format(
            _OWNER + " " + BUCKET + " [{} +0000] 192.0.2.{} arn:aws:sts::123456789012:assumed-role/reader/session-{} {}"
            ' {} {} "{} /{} HTTP/1.1" 200 - {} {} 41 12 "-" "{}" - {}{}= SigV4 ECDHE-RSA-AES128-GCM-SHA256 AuthHeader '
            + BUCKET
            + ".s3.us-east-1.amazonaws.com TLSv1.2 - - us-east-1",
            pl.col("at").dt.strftime("%d/%b/%Y:%H:%M:%S"),
            pl.col("object") % 250,
            pl.col("object") % 50,
            pl.col("id").cast(pl.String).str.zfill(19).str.slice(3),
            _named(
                "verb",
                ("REST.GET.OBJECT", "REST.HEAD.OBJECT", "REST.PUT.OBJECT", "REST.GET.BUCKET", "REST.COPY.OBJECT_GET"),
            ),
            once.str.replace_all("%", "%25", literal=True),
            _named("verb", ("GET", "HEAD", "PUT", "GET", "PUT")),
            once,
            "size",
            "size",
            "agent",
            "other",
            "id",
        )
    ).to_series()


def _json(template: str, *values: Any) -> pl.Expr:
    """Fill the places ``<>`` of a JSON text: its own braces are none of a format's."""
    text = template.replace("{", "\x01").replace("}", "\x02").replace("<>", "{}")
    return (
        pl.format(text, *values).str.replace_all("\x01", "{", literal=True).str.replace_all("\x02", "}", literal=True)
    )


def _azure(requests: pl.DataFrame) -> pl.Series:
    account = "/subscriptions/69349acf-2a6c-409d-a925-96ba0c5f099f/resourceGroups/data/providers/Microsoft.Storage"
    uri = pl.format("https://examplestore01.blob.core.windows.net:443/{}/{}", pl.lit(BUCKET), "key")
    return requests.select(
        _json(
            '{"time":"<>Z","resourceId":"' + account + '/storageAccounts/examplestore01/blobServices/default",'
            '"category":"StorageRead","operationName":"<>","operationVersion":"2023-11-03","schemaVersion":"1.0",'
            '"statusCode":200,"statusText":"Success","durationMs":41,"callerIpAddress":"203.0.113.25:50412",'
            '"correlationId":"<>-<>","identity":{"type":"OAuth","tokenHash":"sha(67F8F5A218837386F94E75FC7AAC530CD999573)",'
            '"authorization":[{"action":"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",'
            '"denyAssignmentId":"","principals":[{"id":"8a1c7f8f-0000-4111-8222-93334444","type":"ServicePrincipal"}],'
            '"reason":"Policy","result":"Granted","roleAssignmentId":"9f55","roleDefinitionId":"2a2b","type":"RBAC"}],'
            '"requester":{"appId":"691458b9-1327-4635-9f55-ed83a7f1b41c","objectId":"8a1c7f8f-0000-4111-8222-93334444"}},'
            '"location":"eastus","properties":{"accountName":"examplestore01","userAgentHeader":"<>","serviceType":"blob",'
            '"operationCount":0,"requestHeaderSize":512,"responseHeaderSize":330,"responseBodySize":<>,"serverLatencyMs":12,'
            '"etag":"\\"0x8DC0000000000AA\\"","conditionsUsed":"","contentLengthHeader":0,"tlsVersion":"TLS 1.2",'
            '"lastModifiedTime":"2026/03/01 09:12:40.0000000","objectKey":"/examplestore01/'
            + BUCKET
            + '/<>"},"uri":"<>","protocol":"HTTPS"}',
            pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S.%6f0"),
            _named("verb", _AZURE_OPERATIONS),
            "id",
            "other",
            "agent",
            "size",
            "key",
            uri,
        )
    ).to_series()


def _azure_classic(requests: pl.DataFrame) -> pl.Series:
    return requests.select(
        pl.format(
            '1.0;{}0Z;{};Success;200;41;12;authenticated;examplestore01;examplestore01;blob;"https://examplestore01.blob.'
            "core.windows.net:443/" + BUCKET + '/{}";"/examplestore01/' + BUCKET + '/{}";{}-{};0;203.0.113.25:50412;'
            '2023-11-03;512;0;330;{};0;;;"&quot;0x8DC0000000000AA&quot;";Sunday, 01-Mar-26 09:12:40 GMT;;"{}";;"{}"',
            pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S.%6f"),
            _named("verb", _AZURE_OPERATIONS),
            "key",
            "key",
            "id",
            "other",
            "size",
            "agent",
            "other",
        )
    ).to_series()


def _gcs(requests: pl.DataFrame) -> pl.Series:
    start = requests["at"].dt.timestamp("us")
    fields: tuple[Any, ...] = (
        start.alias("micros_at"),
        _named("verb", ("GET", "HEAD", "PUT", "GET", "GET")),
        pl.format("/{}/{}", pl.lit(BUCKET), "key"),
        "size",
        "agent",
        "id",
        "other",
        _named("verb", ("GET_Object", "HEAD_Object", "PUT_Object", "GET_Bucket", "GET_Object")),
        "key",
    )
    return requests.select(
        pl.format(
            '"{}","198.51.100.10","1","","{}","{}","200","0","{}","488000","storage.googleapis.com","","{}",'
            '"ADPycduv{}{}","{}","' + BUCKET + '","{}"',
            *fields,
        )
    ).to_series()


def _gcs_audit(requests: pl.DataFrame) -> pl.Series:
    at = pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
    method = _named(
        "verb",
        (
            "storage.objects.get",
            "storage.objects.get",
            "storage.objects.create",
            "storage.objects.list",
            "storage.objects.get",
        ),
    )
    resource = pl.format("projects/_/buckets/{}/objects/{}", pl.lit(BUCKET), "key")
    return requests.select(
        _json(
            '{"protoPayload":{"@type":"type.googleapis.com/google.cloud.audit.AuditLog","status":{},'
            '"authenticationInfo":{"principalEmail":"reader@example-project.iam.gserviceaccount.com"},"requestMetadata":{'
            '"callerIp":"198.51.100.10","callerSuppliedUserAgent":"<>","requestAttributes":{"time":"<>","auth":{}},'
            '"destinationAttributes":{}},"serviceName":"storage.googleapis.com","methodName":"<>","authorizationInfo":['
            '{"resource":"<>","permission":"<>","granted":true,"resourceAttributes":{}}],"resourceName":"<>",'
            '"resourceLocation":{"currentLocations":["us-central1"]}},"insertId":"<>","resource":{"type":"gcs_bucket",'
            '"labels":{"location":"us-central1","project_id":"example-project","bucket_name":"' + BUCKET + '"}},'
            '"timestamp":"<>","severity":"INFO","logName":"projects/example-project/logs/cloudaudit.googleapis.com%2F'
            'data_access","receiveTimestamp":"<>"}',
            "agent",
            at,
            method,
            resource,
            method,
            resource,
            "id",
            at,
            at,
        )
    ).to_series()


def _cloudtrail(requests: pl.DataFrame) -> pl.Series:
    return requests.select(
        _json(
            '{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROAEXAMPLE:session-<>","arn":'
            '"arn:aws:sts::123456789012:assumed-role/reader/session-<>","accountId":"123456789012"},"eventTime":"<>Z",'
            '"eventSource":"s3.amazonaws.com","eventName":"<>","awsRegion":"us-east-1","sourceIPAddress":"192.0.2.3",'
            '"userAgent":"[<>]","requestParameters":{"bucketName":"' + BUCKET + '","Host":"' + BUCKET + ".s3.us-east-1."
            'amazonaws.com","key":"<>"},"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4",'
            '"CipherSuite":"TLS_AES_128_GCM_SHA256","bytesTransferredIn":0,"AuthenticationMethod":"AuthHeader",'
            '"x-amz-id-2":"<>","bytesTransferredOut":<>},"requestID":"<>","eventID":"<>-<>","readOnly":true,"resources":['
            '{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::' + BUCKET + '/<>"},{"accountId":"123456789012","type":'
            '"AWS::S3::Bucket","ARN":"arn:aws:s3:::' + BUCKET + '"}],"eventType":"AwsApiCall","managementEvent":false,'
            '"recipientAccountId":"123456789012","eventCategory":"Data","tlsDetails":{"tlsVersion":"TLSv1.3"}}',
            pl.col("object") % 50,
            pl.col("object") % 50,
            pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S"),
            _named("verb", ("GetObject", "HeadObject", "PutObject", "ListObjects", "GetObject")),
            "agent",
            "key",
            "other",
            "size",
            "id",
            "id",
            "other",
            "key",
        )
    ).to_series()


_WRITERS: Final = {
    "s3_server_access": _s3,
    "cloudtrail": _cloudtrail,
    "azure_resource": _azure,
    "azure_classic": _azure_classic,
    "gcs_usage": _gcs,
    "gcs_audit": _gcs_audit,
}
_HEADERS: Final = {
    "gcs_usage": '"time_micros","c_ip","c_ip_type","c_ip_region","cs_method","cs_uri","sc_status","cs_bytes",'
    '"sc_bytes","time_taken_micros","cs_host","cs_referer","cs_user_agent","s_request_id","cs_operation","cs_bucket","cs_object"\n'
}
