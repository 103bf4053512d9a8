"""What moves are measured against: bare clients, which only send requests, and rclone.

A bare client is aiohttp with fixed requests: it reads no states, keeps no record and checks a status only. Of several
ways to send the same requests the fastest is taken.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlsplit

_AZURE_BATCH: Final = 256
_GCS_BATCH: Final = 100
_PAGE: Final = 1000
_MARKER: Final = re.compile(rb"<NextMarker>([^<]+)</NextMarker>")
_PAGE_TOKEN: Final = re.compile(rb'"nextPageToken":\s*"([^"]+)"')
_RCLONE_SECONDS: Final = 1800


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is sent."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: int = 0
    """How many answers of 2xx a batch must have in its answer."""


Ways = dict[str, Callable[[Sequence[str], str], float]]
"""By name: change the class of these keys, or look at them; gives the seconds."""


def send_all(requests: Iterable[Asked], in_flight: int, sign: Callable[[Asked], dict[str, str]] | None = None) -> float:
    """Send requests over kept connections, so many at once; gives the seconds. Any refusal is an error."""
    import aiohttp
    import uvloop
    from yarl import URL

    async def send(session: Any, waiting: Iterable[Asked]) -> None:
        for asked in waiting:
            headers = asked.headers if sign is None else sign(asked)
            async with session.request(
                asked.method, URL(asked.url, encoded=True), headers=headers, data=asked.body
            ) as answer:
                body = await answer.read()
            if answer.status >= 300 or body.count(b"HTTP/1.1 2") < asked.parts:
                raise RuntimeError(f"{asked.method} {asked.url.partition('?')[0]}: {answer.status} {body[:300]!r}")

    async def send_in_lanes() -> float:
        skipped = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, skip_auto_headers=skipped, auto_decompress=False
        ) as session:
            began = time.perf_counter()
            waiting = iter(requests)
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(send(session, waiting))
            return time.perf_counter() - began

    return uvloop.run(send_in_lanes())


def fastest(ways: Ways, keys: Sequence[str], to_classes: Sequence[str]) -> str:
    """Try each way on a few keys, to each class in turn, and name the one that took least."""
    taken = {name: sum(way(keys, to_class) for to_class in to_classes) for name, way in ways.items()}
    return min(taken, key=lambda name: taken[name])


def s3_ways(s3: Any, bucket: str) -> tuple[Ways, Ways]:
    """Give the ways to copy objects of S3 onto themselves, and to look at them."""
    from cloudflux.providers.aws_endpoints import Endpoint
    from cloudflux.providers.aws_signing import Credentials, Request, RequestSigner, quoted_key

    frozen = s3._request_signer._credentials.get_frozen_credentials()
    credentials = Credentials(frozen.access_key, frozen.secret_key, frozen.token)
    parts = urlsplit(s3.meta.endpoint_url)
    endpoint = Endpoint(s3.meta.endpoint_url, parts.netloc, f"/{bucket}/", s3.meta.region_name, "s3", signed=True)
    signer = RequestSigner()

    def sign(asked: Asked) -> dict[str, str]:
        path = urlsplit(asked.url).path
        request = Request(asked.method, bucket, "", "", asked.headers, b"")
        return signer.headers(request, credentials, endpoint, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), path)

    def url(key: str) -> str:
        return f"{endpoint.origin}{endpoint.path}{quoted_key(key)}"

    def copies(keys: Sequence[str], to_class: str) -> Iterable[Asked]:
        for key in keys:
            source = {"x-amz-copy-source": f"{bucket}/{quoted_key(key)}", "x-amz-storage-class": to_class}
            yield Asked("PUT", url(key), source)

    def heads(keys: Sequence[str]) -> Iterable[Asked]:
        # with the checksums, as whoever verifies a copy asks for them
        return (Asked("HEAD", url(key), {"x-amz-checksum-mode": "ENABLED"}) for key in keys)

    return (
        {f"{lanes} at once": _way(lanes, copies, sign) for lanes in (8, 32, 128)},
        {f"{lanes} at once": _look(lanes, heads, sign) for lanes in (8, 32, 128)},
    )


def azure_ways(service: Any, container: str) -> tuple[Ways, Ways]:
    """Give the ways to set tiers in batches of 256, and to look at blobs, one by one or by listing them."""
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    token = generate_account_sas(
        service.account_name,
        service.credential.account_key,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True, tag=True),
        datetime.now(UTC) + timedelta(days=1),
    )
    base = service.url.split("?")[0].rstrip("/")
    path = urlsplit(base).path
    version = {"x-ms-version": service.api_version}

    def batches(keys: Sequence[str], to_class: str) -> Iterable[Asked]:
        for first in range(0, len(keys), _AZURE_BATCH):
            some = keys[first : first + _AZURE_BATCH]
            calls = [
                f"PUT {path}/{container}/{quote(key)}?comp=tier&{token} HTTP/1.1\r\n"
                f"x-ms-access-tier: {to_class}\r\nContent-Length: 0\r\n"
                for key in some
            ]
            yield _batch(f"{base}/?comp=batch&{token}", calls, version)

    def heads(keys: Sequence[str]) -> Iterable[Asked]:
        return (Asked("HEAD", f"{base}/{container}/{quote(key)}?{token}", version) for key in keys)

    def listing(marker: str) -> Asked:
        query = f"restype=container&comp=list&include=metadata,tags&maxresults={_PAGE}&marker={quote(marker)}&{token}"
        return Asked("GET", f"{base}/{container}?{query}", version)

    return (
        {f"{lanes} batches at once": _way(lanes, batches) for lanes in (1, 4)},
        {
            **{f"{lanes} at once": _look(lanes, heads) for lanes in (8, 32)},
            "listing": _listed(listing, _MARKER),
        },
    )


def gcs_ways(client: Any, bucket: str) -> tuple[Ways, Ways]:
    """Give the ways to rewrite objects, singly and in batches of 100, and to look at them, one by one or by listing.

    A rewrite depends on the generation that was seen and asks for the new one's fields, as ours do: without that the
    emulator would do less for it. The requests are all made before the clock starts.
    """
    from cloudflux.providers.gcp_requests import rewrite

    base = client._connection.API_BASE_URL.rstrip("/")
    objects = f"/storage/v1/b/{bucket}/o"
    as_json = {"Content-Type": "application/json"}

    def named(key: str) -> str:
        return quote(key, safe="")

    def targets(keys: Sequence[str], to_class: str) -> Iterable[tuple[str, str]]:
        """Give path and body of each rewrite."""
        seen = {blob.name: blob for blob in client.list_blobs(bucket)}
        for key in keys:
            blob = seen[key]
            conditions = {"generation": str(blob.generation), "metageneration": str(blob.metageneration)}
            body = {"contentType": blob.content_type, "storageClass": to_class}
            yield rewrite(bucket, key, body, **conditions).target, json.dumps(body)

    def rewrites(keys: Sequence[str], to_class: str) -> Iterable[Asked]:
        return [Asked("POST", base + path, as_json, body.encode()) for path, body in targets(keys, to_class)]

    def batches(keys: Sequence[str], to_class: str) -> Iterable[Asked]:
        calls = [
            f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            for path, body in targets(keys, to_class)
        ]
        some = (calls[first : first + _GCS_BATCH] for first in range(0, len(calls), _GCS_BATCH))
        return [_batch(f"{base}/batch/storage/v1", batch, {}) for batch in some]

    def heads(keys: Sequence[str]) -> Iterable[Asked]:
        return (Asked("GET", f"{base}{objects}/{named(key)}") for key in keys)

    def listing(token: str) -> Asked:
        return Asked("GET", f"{base}{objects}?maxResults={_PAGE}&projection=full&pageToken={quote(token)}")

    return (
        {
            **{f"{lanes} at once": _way(lanes, rewrites) for lanes in (8, 32)},
            **{f"{lanes} batches at once": _way(lanes, batches) for lanes in (1, 4)},
        },
        {
            **{f"{lanes} at once": _look(lanes, heads) for lanes in (8, 32)},
            "listing": _listed(listing, _PAGE_TOKEN),
        },
    )


def _way(
    lanes: int,
    requests: Callable[[Sequence[str], str], Iterable[Asked]],
    sign: Callable[[Asked], dict[str, str]] | None = None,
) -> Callable[[Sequence[str], str], float]:
    return lambda keys, to_class: send_all(requests(keys, to_class), lanes, sign)


def _look(
    lanes: int,
    requests: Callable[[Sequence[str]], Iterable[Asked]],
    sign: Callable[[Asked], dict[str, str]] | None = None,
) -> Callable[[Sequence[str], str], float]:
    return lambda keys, _: send_all(requests(keys), lanes, sign)


def _listed(page: Callable[[str], Asked], marker: re.Pattern[bytes]) -> Callable[[Sequence[str], str], float]:
    """Look at as many objects as there are keys by listing from the first on, page by page."""

    def look(keys: Sequence[str], _: str) -> float:
        import requests

        began, following = time.perf_counter(), ""
        with requests.Session() as session:
            for _page in range(0, len(keys), _PAGE):
                asked = page(following)
                answer = session.get(asked.url, headers=asked.headers, timeout=60)
                answer.raise_for_status()
                found = marker.search(answer.content)
                if found is None:
                    break
                following = found[1].decode()
        return time.perf_counter() - began

    return look


def _batch(url: str, calls: Sequence[str], headers: dict[str, str]) -> Asked:
    parts = "".join(
        "--batch_bare\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
        f"Content-ID: {number}\r\n\r\n{call}\r\n"
        for number, call in enumerate(calls)
    )
    kind = {"Content-Type": "multipart/mixed; boundary=batch_bare"}
    return Asked("POST", url, {**headers, **kind}, f"{parts}--batch_bare--\r\n".encode(), len(calls))


def rclone_settier(remote: str, settings: dict[str, str], to_class: str) -> dict[str, Any]:
    """Let rclone move all objects of a bucket; gives ``seconds``, or ``cannot`` with its own words."""
    rclone = shutil.which("rclone")
    if rclone is None:
        return {"cannot": "rclone is not installed"}
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "RCLONE_CONFIG": os.devnull, **settings}
    lanes = ["--checkers", "32", "--transfers", "32", "--retries", "1"]
    began = time.perf_counter()
    done = subprocess.run(
        [rclone, "settier", to_class, remote, *lanes],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_RCLONE_SECONDS,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"cannot": said[-1].split(": ", 1)[-1].strip() if said else f"status {done.returncode}"}
    return {"seconds": seconds}


def s3_remote(s3: Any, bucket: str) -> tuple[str, dict[str, str]]:
    """Name a bucket to rclone, with the settings that it needs."""
    frozen = s3._request_signer._credentials.get_frozen_credentials()
    return f":s3:{bucket}", {
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": s3.meta.endpoint_url,
        "RCLONE_S3_ACCESS_KEY_ID": frozen.access_key,
        "RCLONE_S3_SECRET_ACCESS_KEY": frozen.secret_key,
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
    }


def azure_remote(service: Any, container: str) -> tuple[str, dict[str, str]]:
    """Name a container to rclone; it takes an endpoint with a port and a path only as a signed address."""
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    token = generate_container_sas(
        service.account_name,
        container,
        service.credential.account_key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, add=True, create=True),
        expiry=datetime.now(UTC) + timedelta(days=1),
    )
    return f":azureblob:{container}", {"RCLONE_AZUREBLOB_SAS_URL": f"{service.url.rstrip('/')}/{container}?{token}"}


def gcs_remote(client: Any, bucket: str) -> tuple[str, dict[str, str]]:
    """Name a bucket to rclone."""
    endpoint = f"{client._connection.API_BASE_URL.rstrip('/')}/storage/v1/"
    return f":gcs:{bucket}", {"RCLONE_GCS_ANONYMOUS": "true", "RCLONE_GCS_ENDPOINT": endpoint}
