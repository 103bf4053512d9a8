"""The world's history as access logs, in the three providers' own formats and below the names they deliver them under.

Besides each object's reads and its upload the logs hold what real logs hold: HEAD and LIST requests, reads of objects
that do not exist, a few lines twice (delivery is best effort), and requests of our own agent. Only how often files come
is simplified: one S3 and one GCS file per bucket and day, Azure's hourly files for one to three busy hours of the day
(every request falls into one of them), because thousands of tiny files would say no more.

The formats: https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html (27 fields),
https://learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference (one JSON object per line),
https://docs.cloud.google.com/storage/docs/access-logs (17 columns, header, all quoted).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cloudflux.config import LogSource
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.world import World

CRAWLER_AGENT: Final = "Mozilla/5.0 (compatible; ExampleCrawler/1.0; +https://crawler.example/about)"
OWN_AGENT: Final = "cloudflux/0.1.0"
"""Requests of this agent are no use of an object: the estate excludes `cloudflux/`."""

AZURE_READ_CONTAINER: Final = "insights-logs-storageread"
AZURE_WRITE_CONTAINER: Final = "insights-logs-storagewrite"

_READER_AGENTS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Boto3/1.40.0 md/Botocore#1.40.0 ua/2.1 os/linux#6.8.0 lang/python#3.12.4",
    "example-app/4.1 (iPhone; iOS 19.0)",
    "okhttp/4.12.0",
)
_WRITER_AGENT: Final = "example-ingest/3.2"
_READ, _WRITE, _HEAD, _LIST, _MISSING = range(5)
_OPERATIONS: Final = {
    Provider.AWS: ("REST.GET.OBJECT", "REST.PUT.OBJECT", "REST.HEAD.OBJECT", "REST.GET.BUCKET", "REST.GET.OBJECT"),
    Provider.AZURE: ("GetBlob", "PutBlob", "GetBlobProperties", "ListBlobs", "GetBlob"),
    Provider.GCP: ("GET_Object", "PUT_Object", "HEAD_Object", "GET_Bucket", "GET_Object"),
}
_METHODS: Final = ("GET", "PUT", "HEAD", "GET", "GET")
_STATUS: Final = (200, 200, 200, 200, 404)
_UPLOADS_END: Final = 240
_READS_BEGIN: Final = 300
_DAY: Final = 86_400
"""Seconds of the day: an object's upload comes before its first read."""
_NOISE_SHARE: Final = 0.01
_DOUBLED_SHARE: Final = 0.002
_BUCKET_OWNER: Final = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"
_GCS_HEADER: Final = (
    '"time_micros","c_ip","c_ip_type","c_ip_region","cs_method","cs_uri","sc_status","cs_bytes","sc_bytes",'
    '"time_taken_micros","cs_host","cs_referer","cs_user_agent","s_request_id","cs_operation","cs_bucket","cs_object"'
)


@dataclass(frozen=True, slots=True)
class LogFile:
    """One log file as a provider would deliver it."""

    provider: Provider
    bucket: str
    key: str
    data: bytes


def log_sources(world: World, provider: Provider, bucket: str) -> tuple[LogSource, ...]:
    """Tell where the logs of a bucket of the world are, for the estate file."""
    source = log_source(world, provider, bucket)
    if provider == Provider.AZURE:  # reads and writes are delivered to containers of their own
        return (source, source.model_copy(update={"bucket": AZURE_WRITE_CONTAINER}))
    return (source,)


def log_source(world: World, provider: Provider, bucket: str) -> LogSource:
    """Tell where the reads of a bucket of the world are logged."""
    match provider:
        case Provider.AWS:
            return LogSource(bucket=f"cloudflux-{world.name}-s3-logs", prefix=f"{bucket}/", format="s3_server_access")
        case Provider.AZURE:
            return LogSource(bucket=AZURE_READ_CONTAINER, prefix=_azure_folder(world), format="azure_resource")
        case Provider.GCP:
            return LogSource(bucket=f"cloudflux-{world.name}-gcs-logs", prefix=f"{bucket}_usage_", format="gcs_usage")


def log_buckets(world: World) -> list[tuple[Provider, str]]:
    """Name the buckets that the log files go to, sorted."""
    return sorted(
        {
            (provider, source.bucket)
            for provider, bucket in world.buckets
            for source in log_sources(world, provider, bucket)
        }
    )


def write_logs(world: World) -> Iterator[LogFile]:
    """Give the log files of the whole history, oldest first. The same world gives the same bytes."""
    objects = _addresses(world)
    # Some days at a time: enough rows for whole-column work, few enough to keep memory flat.
    rows_a_day = 1 + int(world.daily["reads"].sum()) // world.days
    days = max(1, min(30, 6000 // rows_a_day))
    for index in range(0, world.days, days):
        first = world.first_day + timedelta(days=index)
        yield from _files_of_days(world, objects, first, min(first + timedelta(days=days - 1), world.last_day))


def write_wrong_logs(world: World) -> list[LogFile]:
    """Give log files that no parser should take as they are, beside the good ones.

    An S3 file cut in half: a second delivery of lines of the last days, torn inside a line. Its whole lines are good,
    the torn one belongs into quarantine. An Azure file whose last record is torn, and bytes that are no log at all in
    the GCS log bucket. None of them takes a line away from the history, nor adds one that counts.
    """
    wrong: dict[Provider, LogFile] = {}
    for file in write_logs(world):
        if file.provider == Provider.AWS:
            key = f"{file.key[:-16]}{'0BAD' * 4}"
        elif file.bucket == AZURE_READ_CONTAINER:
            key = f"{file.key.rpartition('/h=')[0]}/h=23/m=00/PT1H.json"
        elif file.provider == Provider.GCP:
            key = f"{file.key.removesuffix('_v0')}bad_v0"
        else:
            continue
        if len(file.data) > 4096 or file.provider not in wrong:  # the last file that is worth tearing
            noise = np.random.default_rng([world.seed, 9]).bytes(4096)
            data = noise if file.provider == Provider.GCP else _torn(file.data)
            wrong[file.provider] = LogFile(file.provider, file.bucket, key, data)
    return list(wrong.values())


def _torn(data: bytes) -> bytes:
    """Cut a file in the middle of the line that holds its middle byte."""
    middle = len(data) // 2
    begin = data.rfind(b"\n", 0, middle) + 1
    end = data.find(b"\n", middle)
    return data[: begin + max(1, ((end if end > 0 else len(data)) - begin) // 2)]


def _addresses(world: World) -> pl.DataFrame:
    """Give the objects with their names as the logs write them: ``key_url`` quoted, ``key_text`` raw."""
    con = duckdb.connect()
    con.register("objects", world.objects.select("object_no", "key").to_arrow())
    quoted = pl.DataFrame(
        con.sql("select object_no, replace(url_encode(key), '%2F', '/') as key_url from objects").to_arrow_table()
    )
    return world.objects.select(
        "object_no", "object_id", "provider", "bucket", "key", "size_bytes", "created_day"
    ).join(quoted, on="object_no", how="left", maintain_order="left")


def _files_of_days(world: World, objects: pl.DataFrame, first: date, last: date) -> Iterator[LogFile]:
    requests = _requests(world, objects, first, last)
    for (provider_name,), rows in requests.partition_by("provider", as_dict=True).items():
        provider = Provider(provider_name)
        match provider:
            case Provider.AWS:
                yield from _s3_files(world, rows)
            case Provider.AZURE:
                yield from _azure_files(world, rows)
            case Provider.GCP:
                yield from _gcs_files(world, rows)


def _requests(world: World, objects: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """Give the requests of some days in the order of their times: one row each, with all that a line needs."""
    index = (first - world.first_day).days
    rng = np.random.default_rng([world.seed, 2, index])
    frame = pl.concat([_accesses(world, objects, first, last, rng), _noise(world, objects, first, last, rng)])
    rows = frame.height
    upload = frame["what"].to_numpy() == _WRITE
    triangle = rng.triangular(_READS_BEGIN, 0.6 * _DAY, _DAY, rows).astype(np.int64)
    serial = _mixed(np.uint64(world.seed) * np.uint64(1 << 48) + np.uint64(index << 24) + np.arange(rows, dtype="u8"))
    frame = (
        frame.with_columns(
            second=pl.Series(np.where(upload, rng.integers(0, _UPLOADS_END, rows), triangle)),
            micro=pl.Series(rng.integers(0, 1_000_000, rows)),
            ip=pl.when(pl.col("agent") == CRAWLER_AGENT)
            .then(pl.lit("203.0.113.77"))
            .otherwise(pl.concat_str(pl.lit("198.51.100."), pl.Series(rng.integers(1, 255, rows)))),
            millis=pl.Series(rng.integers(8, 90, rows)),
            serial=pl.Series(serial),
            request_hex=_hex(serial),
            more_hex=_hex(_mixed(serial)),
        )
        .join(objects, on="object_no", how="left", maintain_order="left")
        .with_columns(azure_second=_azure_second(world))
    )
    # Lists and reads of nothing belong to a bucket, not to an object.
    listing, absent = pl.col("what") == _LIST, pl.col("what") == _MISSING
    no_key = pl.concat_str(pl.lit("no-such-object/"), "millis")
    frame = frame.with_columns(
        key=pl.when(absent).then(no_key).otherwise("key"),
        key_url=pl.when(absent).then(no_key).otherwise("key_url"),
        sent_bytes=pl.when(pl.col("what") == _READ)
        .then("size_bytes")
        .when(listing | absent)
        .then(pl.lit(243))
        .otherwise(0),
    )
    doubled = frame.filter(pl.Series(rng.random(rows) < _DOUBLED_SHARE))
    return pl.concat([frame, doubled]).sort("day", "second", "micro", "serial")


def _accesses(world: World, objects: pl.DataFrame, first: date, last: date, rng: np.random.Generator) -> pl.DataFrame:
    """Give object_no, day, what and agent of each upload and read of the days."""
    numbers = objects.select("object_id", "object_no")
    span = pl.col("day").is_between(first, last)
    crawled = world.crawls.filter(span).with_columns(crawled=pl.lit(True))
    daily = (
        world.daily.filter(span)
        .join(numbers, on="object_id", maintain_order="left")
        .join(crawled, on=["object_id", "day"], how="left", maintain_order="left")
    )
    reads = daily["reads"].to_numpy()
    read = daily.select("object_no", "day", "crawled")[np.repeat(np.arange(len(reads)), reads)]
    # A crawler's read is one of the object's reads of that day: the first of each run.
    first_of_run = np.zeros(read.height, dtype=bool)
    first_of_run[np.cumsum(reads) - reads] = True
    agent = pl.Series(rng.integers(0, len(_READER_AGENTS), read.height)).replace_strict(
        dict(enumerate(_READER_AGENTS)), return_dtype=pl.String
    )
    read = read.select(
        "object_no",
        "day",
        what=pl.lit(_READ, dtype=pl.Int64),
        agent=pl.when(pl.col("crawled").fill_null(value=False) & pl.Series(first_of_run))
        .then(pl.lit(CRAWLER_AGENT))
        .otherwise(agent),
    )
    written = objects.filter(pl.col("created_day").is_between(first, last)).select(
        "object_no", day="created_day", what=pl.lit(_WRITE, dtype=pl.Int64), agent=pl.lit(_WRITER_AGENT)
    )
    return pl.concat([written, read])


def _noise(world: World, objects: pl.DataFrame, first: date, last: date, rng: np.random.Generator) -> pl.DataFrame:
    """Give requests that are no use of an object: HEAD, LIST, 404, and reads by our own agent. As ``_accesses``."""
    days = (last - first).days + 1
    requests = int(world.daily.filter(pl.col("day").is_between(first, last))["reads"].sum())
    rows = max(3 * days, round(requests * _NOISE_SHARE))
    # A real trace says all there is to know of its objects: their names stay out of invented requests.
    kinds = [_HEAD, _LIST, _MISSING, _READ] if world.invented_noise else [_LIST, _MISSING]
    picked = objects.select("object_no", "created_day")[rng.integers(0, objects.height, rows)]
    return (
        picked.with_columns(
            pl.lit(first).alias("day") + pl.duration(days=pl.lit(pl.Series(rng.integers(0, days, rows)))),
            what=pl.Series(rng.choice(kinds, rows)).cast(pl.Int64),
        )
        .filter(pl.col("created_day") < pl.col("day"))
        .select(
            "object_no",
            "day",
            "what",
            agent=pl.when(pl.col("what") == _READ).then(pl.lit(OWN_AGENT)).otherwise(pl.lit(_READER_AGENTS[1])),
        )
    )


def _azure_hours(world: World) -> tuple[int, ...]:
    if world.days <= 150:
        return (6, 12, 18)
    return (8, 16) if world.days <= 300 else (12,)


def _azure_second(world: World) -> pl.Expr:
    """Map the second of the day into the busy hours, keeping the order."""
    hours = _azure_hours(world)
    scaled = pl.col("second") * len(hours)
    slot = scaled // _DAY
    return slot.replace_strict(dict(enumerate(hours)), return_dtype=pl.Int64) * 3600 + (scaled % _DAY) // 24


def _s3_key(prefix: str, day: date) -> str:
    # Delivered some minutes after the day's last request.
    delivered = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=17, seconds=5)
    return f"{prefix}{delivered:%Y-%m-%d-%H-%M-%S}-{_digest(prefix, day):016X}"


def _digest(name: str, day: date) -> int:
    return int(_mixed(np.array([sum(name.encode()) * 1_000_003 + day.toordinal()], dtype="u8"))[0]) >> 16


def _s3_files(world: World, rows: pl.DataFrame) -> Iterator[LogFile]:
    for (bucket, day), data in _joined(rows, _s3_lines(rows), "bucket", "day"):
        source = log_source(world, Provider.AWS, bucket)
        yield LogFile(Provider.AWS, source.bucket, _s3_key(source.prefix, day), data)


def _gcs_files(world: World, rows: pl.DataFrame) -> Iterator[LogFile]:
    for (bucket, day), data in _joined(rows, _gcs_lines(rows), "bucket", "day"):
        source = log_source(world, Provider.GCP, bucket)
        key = f"{source.prefix}{day:%Y_%m_%d}_00_00_00_{_digest(bucket, day):012x}_v0"
        yield LogFile(Provider.GCP, source.bucket, key, f"{_GCS_HEADER}\n".encode() + data)


def _s3_lines(rows: pl.DataFrame) -> pl.Series:
    operation, method, status = _named(Provider.AWS)
    bodyless = pl.col("what").is_in([_WRITE, _HEAD])
    listing, missing = pl.col("what") == _LIST, pl.col("what") == _MISSING
    return _lines(
        rows.with_columns(
            operation=operation,
            method=method,
            status=status,
            at=_at("second").dt.strftime("%d/%b/%Y:%H:%M:%S"),
            request=pl.col("request_hex").str.to_uppercase(),
            name=pl.when(listing).then(pl.lit("-")).otherwise("key_url"),
            path=pl.when(listing).then(pl.lit("?list-type=2&prefix=&max-keys=1000")).otherwise("key_url"),
            error=pl.when(missing).then(pl.lit("NoSuchKey")).otherwise(pl.lit("-")),
            sent=pl.when(bodyless).then(pl.lit("-")).otherwise(pl.col("sent_bytes").cast(pl.String)),
            size=pl.when(listing | missing).then(pl.lit("-")).otherwise(pl.col("size_bytes").cast(pl.String)),
            host_id=pl.concat_str("more_hex", "request_hex", "more_hex", "request_hex"),
        ),
        f"{_BUCKET_OWNER} {{bucket}} [{{at}} +0000] {{ip}} {_BUCKET_OWNER} {{request}} {{operation}} {{name}} "
        '"{method} /{path} HTTP/1.1" {status} {error} {sent} {size} {millis} 7 "-" "{agent}" - {host_id} SigV4 '
        "ECDHE-RSA-AES128-GCM-SHA256 AuthHeader {bucket}.s3.us-east-1.amazonaws.com TLSv1.3 - - us-east-1",
    )


def _azure_folder(world: World) -> str:
    # Each world logs below an account name of its own, so that two worlds on one emulator do not share a PT1H.json.
    account = _azure_account(world)
    return (
        "resourceId=/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/cloudflux-demo/providers/"
        f"Microsoft.Storage/storageAccounts/{account}/blobServices/default/"
    )


def _azure_account(world: World) -> str:
    # Account names are 3 to 24 lower-case letters and digits.
    name = f"cloudflux{world.name.replace('-', '')}"
    return name if len(name) <= 24 else f"cloudflux{hashlib.sha256(name.encode()).hexdigest()[:15]}"


def _azure_files(world: World, rows: pl.DataFrame) -> Iterator[LogFile]:
    numbered = rows.with_columns(
        hour=pl.col("azure_second") // 3600,
        container=pl.when(pl.col("what") == _WRITE)
        .then(pl.lit(AZURE_WRITE_CONTAINER))
        .otherwise(pl.lit(AZURE_READ_CONTAINER)),
    )
    for (container, day, hour), data in _joined(numbered, _azure_lines(world, numbered), "container", "day", "hour"):
        key = f"{_azure_folder(world)}y={day:%Y}/m={day:%m}/d={day:%d}/h={hour:02d}/m=00/PT1H.json"
        yield LogFile(Provider.AZURE, container, key, data)


def _azure_lines(world: World, rows: pl.DataFrame) -> pl.Series:
    operation, _, status = _named(Provider.AZURE)
    account = _azure_account(world)
    write, listing = pl.col("what") == _WRITE, pl.col("what") == _LIST
    missing, read = pl.col("what") == _MISSING, pl.col("what") == _READ
    text = pl.col("key").str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    return _lines(
        rows.with_columns(
            operation=operation,
            status=status,
            at=_at("azure_second", "micro").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f"),
            category=pl.when(write).then(pl.lit("StorageWrite")).otherwise(pl.lit("StorageRead")),
            text=pl.when(missing).then(pl.lit("BlobNotFound")).otherwise(pl.lit("Success")),
            correlation=_guid(pl.col("request_hex"), pl.col("more_hex")),
            path=pl.when(listing).then(pl.lit("?restype=container&comp=list")).otherwise("/" + pl.col("key_url")),
            name=pl.when(listing).then(pl.lit("")).otherwise("/" + text),
            bodies=pl.when(write)
            .then(pl.concat_str(pl.lit('"requestBodySize":'), "size_bytes", pl.lit(',"responseBodySize":0')))
            .when(read | listing | missing)
            .then(pl.concat_str(pl.lit('"requestBodySize":0,"responseBodySize":'), "sent_bytes"))
            .otherwise(pl.lit('"requestBodySize":0')),  # a HEAD has no body, and Azure then leaves the field out
        ),
        f'{{{{"time":"{{at}}0Z","resourceId":"{_azure_folder(world)[len("resourceId=") : -1]}",'
        '"category":"{category}","operationName":"{operation}","operationVersion":"2025-11-05","schemaVersion":"1.0",'
        '"statusCode":{status},"statusText":"{text}","durationMs":{millis},"callerIpAddress":"{ip}:50412",'
        '"correlationId":"{correlation}","identity":{{"type":"OAuth"}},"location":"eastus",'
        f'"properties":{{{{"accountName":"{account}","userAgentHeader":"{{agent}}","serviceType":"blob",'
        '"operationCount":0,"requestHeaderSize":520,"responseHeaderSize":310,{bodies},"serverLatencyMs":7,'
        f'"objectKey":"/{account}/{{bucket}}{{name}}","tlsVersion":"TLS 1.3"}}}},'
        f'"uri":"https://{account}.blob.core.windows.net:443/{{bucket}}{{path}}","protocol":"HTTPS",'
        '"resourceType":"Microsoft.Storage/storageAccounts/blobServices"}}',
    )


def _gcs_lines(rows: pl.DataFrame) -> pl.Series:
    operation, method, status = _named(Provider.GCP)
    listing = pl.col("what") == _LIST
    return _lines(
        rows.with_columns(
            operation=operation,
            method=method,
            status=status,
            at=_at("second", "micro").dt.timestamp("us"),
            path=pl.when(listing).then(pl.lit("?list-type=2")).otherwise("/" + pl.col("key_url")),
            received=pl.when(pl.col("what") == _WRITE).then("size_bytes").otherwise(0),
            taken=pl.col("millis") * 1000,
            name=pl.when(listing).then(pl.lit("")).otherwise(pl.col("key").str.replace_all('"', '""', literal=True)),
            request=pl.concat_str(pl.lit("ADPycd"), "request_hex", "more_hex"),
        ),
        '"{at}","{ip}","1","","{method}","/{bucket}{path}","{status}","{received}","{sent_bytes}","{taken}",'
        '"storage.googleapis.com","","{agent}","{request}","{operation}","{bucket}","{name}"',
    )


def _named(provider: Provider) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Give the expressions of operation, HTTP method and status from the kind of request."""
    what = pl.col("what")
    return (
        what.replace_strict(dict(enumerate(_OPERATIONS[provider])), return_dtype=pl.String),
        what.replace_strict(dict(enumerate(_METHODS)), return_dtype=pl.String),
        what.replace_strict(dict(enumerate(_STATUS)), return_dtype=pl.Int64),
    )


def _lines(rows: pl.DataFrame, template: str) -> pl.Series:
    """Fill a template with `{column}` places and `{{`, `}}` for braces: one line per row."""
    pieces: list[pl.Expr] = []
    rest = template.replace("{{", "\x00").replace("}}", "\x01")
    while rest:
        text, brace, rest = rest.partition("{")
        if text:
            pieces.append(pl.lit(text.replace("\x00", "{").replace("\x01", "}")))
        if brace:
            column, _, rest = rest.partition("}")
            pieces.append(pl.col(column))
    return rows.select(pl.concat_str(pieces)).to_series()


def _joined(rows: pl.DataFrame, lines: pl.Series, *by: str) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Join the lines of each file: gives the values of ``by`` and the file's bytes."""
    files = rows.with_columns(line=lines).group_by(by, maintain_order=True).agg(pl.col("line").str.join("\n"))
    for *values, text in files.iter_rows():
        yield tuple(values), f"{text}\n".encode()


def _at(second: str, micro: str | None = None) -> pl.Expr:
    moment = pl.col("day").cast(pl.Datetime("us")) + pl.duration(seconds=pl.col(second))
    return moment + pl.duration(microseconds=pl.col(micro)) if micro else moment


def _guid(high: pl.Expr, low: pl.Expr) -> pl.Expr:
    parts = (high.str.slice(0, 8), high.str.slice(8, 4), high.str.slice(12, 4), low.str.slice(0, 4), low.str.slice(4))
    return pl.concat_str(parts, separator="-")


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble without a collision (splitmix64): distinct numbers give distinct ids."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hex(numbers: npt.NDArray[np.uint64]) -> pl.Series:
    """Write each number as 16 hexadecimal digits."""
    raw = pa.Array.from_buffers(pa.binary(8), len(numbers), [None, pa.py_buffer(numbers.astype(">u8").tobytes())])
    return pl.Series(raw).bin.encode("hex")
