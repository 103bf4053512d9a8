"""Google Cloud Storage on this machine: the part of the JSON API that ``google-cloud-storage`` and ``gcsfs`` use.

Run it as ``python -m cloudflux.local.emulators.gcs --host 127.0.0.1 --port 9023 --data DIR``; SIGTERM stops it. It is a
server of our own because the published emulators answer a rewrite with 200 and leave the class as it was.

Faithful where moves depend on it: a rewrite makes a new generation in the wanted class; ``ifGenerationMatch``,
``ifMetagenerationMatch``, their ``NotMatch`` and ``ifSource...`` forms are honoured with 412; holds and retention
refuse overwriting and deleting with 403; a rewrite whose body is not empty takes its metadata from that body alone;
versioned buckets keep noncurrent generations; long rewrites take several calls (``--rewrite-bytes-per-call``). For
benchmarks, a rewrite may be told to take more processor time than it needs (``--rewrite-microseconds``).

Beside the API, ``GET /_cloudflux/requests`` tells how often each object was looked at, written, rewritten or deleted
(``operation`` and ``bucket`` narrow it, ``DELETE`` forgets it), and ``PUT /_cloudflux/refused`` with
``{"denied": ["bucket/name"], "throttled": []}`` has every request for such an object refused with 403, or every rewrite
of it with 503.

Requests are answered one after another in one event loop, so each is atomic. Names and metadata lie in SQLite and
contents in files, both below the data folder: a restart finds them again. Every operation is O(log objects), and a
rewrite shares its source's content file.

Gaps, by name:

- ``any-credentials``: every token is accepted, and none at all. The server is meant for loopback only.
- ``no-acl``: access control lists and IAM policies are neither kept nor returned.
- ``no-xml-api``: there is no XML API; downloads go through ``/download`` and ``alt=media``.
- ``no-compose``: there is no compose, no notifications, no HMAC keys, no folders, no Pub/Sub.
- ``no-soft-delete``: what is deleted or overwritten in an unversioned bucket is gone at once.
- ``no-autoclass``: an Autoclass setting of a bucket is kept, but moves nothing.
- ``no-transcoding``: gzip-encoded objects are always served as they are stored.
- ``no-partial-response``: with a ``fields`` parameter the resources' links are left out, and nothing else.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote
from uuid import uuid4

import google_crc32c
import orjson
import uvicorn

from cloudflux.local.emulators.gcs_batch import answer_batch
from cloudflux.local.emulators.gcs_messages import (
    ApiError,
    Request,
    Resource,
    Response,
    check,
    integer,
    related,
    request_of,
)
from cloudflux.local.emulators.gcs_objects import EDITABLE, Objects, storage_class_of


class StorageApi:
    """The JSON API over ``Objects``: one method a resource, one answer a request."""

    def __init__(
        self, objects: Objects, rewrite_bytes_per_call: int | None = None, rewrite_seconds: float = 0.0
    ) -> None:
        self._objects = objects
        self._rewrite_seconds = rewrite_seconds
        self._rewrite_bytes_per_call = rewrite_bytes_per_call
        self._rewrites: dict[str, tuple[str, int]] = {}  # token -> what it continues, bytes rewritten so far
        self._uploads: dict[str, tuple[str, Request, bytearray]] = {}  # resumable ones, by id
        self._refused: dict[str, frozenset[tuple[str, ...]]] = {"denied": frozenset(), "throttled": frozenset()}
        self._served: Counter[tuple[str, str, str]] = Counter()  # by operation, bucket and object

    def respond(self, request: Request) -> Response:
        """Answer one request."""
        try:
            for pattern, answer in self._ROUTES:
                if match := pattern.fullmatch(request.path):
                    named = [unquote(part) for part in match.groups()]
                    self._refuse(request, tuple(named[:2]))
                    response = answer(self, request, *named)
                    self._count(request, answer.__name__, named)
                    return response
            raise ApiError(404, "notFound", f"this emulator has no {request.method} {request.path}")
        except ApiError as error:
            return error.response()

    def _root(self, request: Request) -> Response:
        return Response.of({"kind": "cloudflux#gcs"})

    def _buckets(self, request: Request) -> Response:
        if request.method == "GET":
            items = [self._bucket_view(request, each) for each in self._objects.buckets()]
            prefix = request.query.get("prefix", "")
            items = [each for each in items if each["name"].startswith(prefix)]
            return Response.of({"kind": "storage#buckets", "items": items})
        if request.method != "POST":
            raise _not_allowed(request)
        wanted = request.json()
        name = wanted.get("name", "")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name):
            raise ApiError(400, "invalid", f"Invalid bucket name: '{name}'")
        if any(each["name"] == name for each in self._objects.buckets()):
            raise ApiError(409, "conflict", "Your previous request to create the named bucket succeeded.")
        now = self._objects.now()
        resource = {
            "location": "US-CENTRAL1",
            "locationType": "region",
            **{key: value for key, value in wanted.items() if value is not None},
            "storageClass": storage_class_of(wanted.get("storageClass") or "STANDARD"),
            "timeCreated": now,
            "updated": now,
            "metageneration": "1",
        }
        self._objects.put_bucket(resource)
        return Response.of(self._bucket_view(request, resource))

    def _bucket(self, request: Request, name: str) -> Response:
        resource = self._objects.bucket(name)
        if request.method in ("PATCH", "PUT"):
            changes = request.json()
            resource = {
                **resource,
                **{key: value for key, value in changes.items() if key not in ("name", "timeCreated", "location")},
                "metageneration": str(int(resource["metageneration"]) + 1),
                "updated": self._objects.now(),
            }
            resource = {key: value for key, value in resource.items() if value is not None}
            self._objects.put_bucket(resource)
        elif request.method == "DELETE":
            self._objects.delete_bucket(name)
            return Response(204)
        elif request.method != "GET":
            raise _not_allowed(request)
        return Response.of(self._bucket_view(request, resource))

    def _list(self, request: Request, bucket: str) -> Response:
        if request.method != "GET":
            raise _not_allowed(request)
        self._objects.bucket(bucket)
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(integer(query.get("maxResults", "1000")), 1000) or 1000
        after = base64.urlsafe_b64decode(query["pageToken"]).decode() if "pageToken" in query else ""
        versions = query.get("versions", "").lower() == "true"
        start, end = max(prefix, after, query.get("startOffset", "")), query.get("endOffset", "")
        if "fields" in query and not delimiter and not versions and not end:
            return self._plain_list(bucket, prefix, start, after, limit)
        items: list[Resource] = []
        prefixes: list[str] = []
        last = after
        answer: Resource = {"kind": "storage#objects"}
        for resource in self._objects.scan(bucket, start, versions):
            name = resource["name"]
            if (end and name >= end) or not name.startswith(prefix):
                break
            if after and (name <= after or (delimiter and after.endswith(delimiter) and name.startswith(after))):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            group = name[: cut + len(delimiter)] if cut >= 0 else None
            if group is not None and prefixes and prefixes[-1] == group:
                continue
            # All generations of a name stay on one page: the token names the last name that was given.
            if len(items) + len(prefixes) >= limit and name != last:
                answer["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
                break
            if group is not None:
                prefixes.append(group)
                last = group
            else:
                items.append(self._object_view(request, resource))
                last = name
        if items:
            answer["items"] = items
        if prefixes:
            answer["prefixes"] = prefixes
        return Response.of(answer)

    def _plain_list(self, bucket: str, prefix: str, start: str, after: str, limit: int) -> Response:
        """Answer a listing of a prefix without reading the resources."""
        rows = self._objects.page(bucket, start, after, limit + 1)
        inside = [row for row in rows if row[0].startswith(prefix)]
        answer: Resource = {"kind": "storage#objects"}
        if len(inside) > limit:
            answer["nextPageToken"] = base64.urlsafe_b64encode(inside[limit - 1][0].encode()).decode()
        if inside:
            answer["items"] = [orjson.Fragment(text) for _, text in inside[:limit]]
        return Response.of(answer)

    def _refusals(self, request: Request) -> Response:
        """Refuse from now on what names these objects: every request with 403, or rewrites with 503."""
        if request.method != "PUT":
            raise _not_allowed(request)
        for kind, names in request.json().items():
            self._refused[kind] = frozenset(tuple(str(name).split("/", 1)) for name in names)
        return Response(204)

    def _requests(self, request: Request) -> Response:
        """Tell how often each object was read, written, rewritten, patched and deleted; refusals are not counted."""
        if request.method == "DELETE":
            self._served.clear()
            return Response(204)
        if request.method != "GET":
            raise _not_allowed(request)
        told: Resource = {}
        for (operation, bucket, name), times in self._served.items():
            wanted = {"operation": operation, "bucket": bucket}
            if all(request.query.get(key, value) == value for key, value in wanted.items()):
                told.setdefault(operation, {})[f"{bucket}/{name}"] = times
        return Response.of(told)

    def _count(self, request: Request, route: str, named: list[str]) -> None:
        operation = {
            "_object": {"GET": "get", "DELETE": "delete"}.get(request.method, "patch"),
            "_copy": "copy",
            "_download": "download",
            "_list": "list",
        }.get(route)
        if operation is not None:
            self._served[operation, named[0], named[1] if len(named) > 1 else ""] += 1

    def _refuse(self, request: Request, named: tuple[str, ...]) -> None:
        if named in self._refused["denied"]:
            raise ApiError(403, "forbidden", f"the caller has no access to {'/'.join(named)}")
        if named in self._refused["throttled"] and request.method == "POST":
            raise ApiError(503, "backendError", "try again later")

    def _object(self, request: Request, bucket: str, name: str) -> Response:
        generation = request.query.get("generation")
        resource, content_id = self._objects.get(bucket, name, generation)
        if request.method == "GET":
            check(request, resource, unchanged_status=304)
            if request.query.get("alt") == "media":
                return self._media(request, resource, content_id)
            return Response.of(self._object_view(request, resource))
        check(request, resource)
        if request.method in ("PATCH", "PUT"):
            return Response.of(self._object_view(request, self._objects.patch(resource, request.json())))
        if request.method == "DELETE":
            self._objects.delete(bucket, name, generation)
            return Response(204)
        raise _not_allowed(request)

    def _download(self, request: Request, bucket: str, name: str) -> Response:
        resource, content_id = self._objects.get(bucket, name, request.query.get("generation"))
        check(request, resource, unchanged_status=304)
        return self._media(request, resource, content_id)

    def _media(self, request: Request, resource: Resource, content_id: str) -> Response:
        content = self._objects.content(content_id)
        headers = {
            "content-type": resource["contentType"],
            "x-goog-hash": f"crc32c={resource['crc32c']},md5={resource['md5Hash']}",
            "x-goog-generation": resource["generation"],
            "x-goog-metageneration": resource["metageneration"],
            "x-goog-storage-class": resource["storageClass"],
            "x-goog-stored-content-length": resource["size"],
            "x-goog-stored-content-encoding": resource.get("contentEncoding", "identity"),
            "etag": resource["etag"],
        }
        if "contentEncoding" in resource:
            headers["content-encoding"] = resource["contentEncoding"]
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if wanted is None or wanted.groups() == ("", ""):
            return Response(200, content, headers)
        first, last = wanted.groups()
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) if first and last else len(content) - 1, len(content) - 1)
        if begin >= len(content):
            raise ApiError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
        headers["content-range"] = f"bytes {begin}-{end}/{len(content)}"
        return Response(206, content[begin : end + 1], headers)

    def _rewrite(self, request: Request, bucket: str, name: str, to_bucket: str, to_name: str) -> Response:
        resource, outcome = self._copied(request, (bucket, name), (to_bucket, to_name), in_rounds=True)
        size = int(resource["size"])
        answer: Resource = {"kind": "storage#rewriteResponse", "objectSize": str(size)}
        if isinstance(outcome, int):
            token = uuid4().hex
            self._rewrites[token] = (f"{bucket}/{name}#{resource['generation']}>{to_bucket}/{to_name}", outcome)
            return Response.of({**answer, "done": False, "totalBytesRewritten": str(outcome), "rewriteToken": token})
        self._served["rewrite", to_bucket, to_name] += 1
        _work(self._rewrite_seconds)
        view = self._object_view(request, outcome)
        return Response.of({**answer, "done": True, "totalBytesRewritten": str(size), "resource": view})

    def _copy(self, request: Request, bucket: str, name: str, to_bucket: str, to_name: str) -> Response:
        _, outcome = self._copied(request, (bucket, name), (to_bucket, to_name), in_rounds=False)
        assert isinstance(outcome, dict)  # noqa: S101  # only rounds give a number
        return Response.of(self._object_view(request, outcome))

    def _copied(
        self, request: Request, source: tuple[str, str], to: tuple[str, str], *, in_rounds: bool
    ) -> tuple[Resource, Resource | int]:
        """Give the source and, when the copy is complete, its result, else the bytes rewritten so far."""
        if request.method != "POST":
            raise _not_allowed(request)
        found = self._objects.get(*source, request.query.get("sourceGeneration"))
        check(request, found[0], prefix="ifSource")
        self._check_destination(request, *to)
        editable = request.json()
        storage_class_of(editable.get("storageClass") or "STANDARD")
        size = int(found[0]["size"])
        if in_rounds and (per_call := self._rewrite_bytes_per_call):
            identity = f"{'/'.join(source)}#{found[0]['generation']}>{'/'.join(to)}"
            token = request.query.get("rewriteToken")
            continued, so_far = self._rewrites.pop(token, ("", 0)) if token else (identity, 0)
            if continued != identity:
                raise ApiError(400, "invalid", "the rewrite token belongs to another rewrite")
            if so_far + per_call < size:
                return found[0], so_far + per_call
        if not editable:
            editable = {key: value for key, value in found[0].items() if key in EDITABLE}
        return found[0], self._objects.rewrite(found, *to, editable)

    def _upload(self, request: Request, bucket: str) -> Response:
        kind = request.query.get("uploadType")
        if request.method == "PUT" and "upload_id" in request.query:
            return self._resume(request, request.query["upload_id"])
        if request.method != "POST":
            raise _not_allowed(request)
        if kind == "resumable":
            name = request.query.get("name") or request.json().get("name", "")
            self._check_destination(request, bucket, name)
            upload_id = uuid4().hex
            self._uploads[upload_id] = (bucket, request, bytearray())
            location = f"{request.base_url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
            return Response(200, b"", {"location": location, "x-guploader-uploadid": upload_id})
        if kind == "multipart":
            metadata, content_type, content = related(request)
            metadata.setdefault("contentType", content_type)
        elif kind == "media":
            metadata, content = {"contentType": request.headers.get("content-type")}, request.body
        else:
            raise ApiError(400, "invalid", f"no such uploadType: {kind}")
        return self._insert(request, bucket, metadata, content)

    def _resume(self, request: Request, upload_id: str) -> Response:
        if upload_id not in self._uploads:
            raise ApiError(404, "notFound", "no such upload: it is complete, or the server was restarted")
        bucket, begun, received = self._uploads[upload_id]
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", "bytes 0-0/*"))
        if match is None:
            raise ApiError(400, "invalid", f"wrong content-range: {request.headers['content-range']}")
        first, _, total = match.groups()
        if "content-range" not in request.headers:
            received[:] = request.body
            total = str(len(received))
        elif first is not None and int(first) == len(received):
            received += request.body
        if total == "*" or len(received) < int(total):
            return Response(308, b"", {"range": f"bytes=0-{len(received) - 1}"} if received else {})
        del self._uploads[upload_id]
        metadata = begun.json()
        metadata.setdefault("contentType", begun.headers.get("x-upload-content-type"))
        return self._insert(begun, bucket, metadata, bytes(received))

    def _insert(self, request: Request, bucket: str, metadata: Resource, content: bytes) -> Response:
        name = request.query.get("name") or metadata.get("name", "")
        if not name or name in (".", "..") or len(name.encode()) > 1024:
            raise ApiError(400, "invalid", f"Invalid object name: {name!r}")
        self._check_destination(request, bucket, name)
        storage_class_of(metadata.get("storageClass") or "STANDARD")
        facts = {
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode(),
        }
        for digest in ("md5Hash", "crc32c"):
            if metadata.get(digest, facts[digest]) != facts[digest]:
                raise ApiError(400, "invalid", f"Provided {digest} {metadata[digest]} does not match the content.")
        content_id = self._objects.store(content)
        try:
            resource = self._objects.insert(bucket, name, metadata, facts, content_id)
        except ApiError:
            self._objects.discard(content_id)
            raise
        self._served["write", bucket, name] += 1
        return Response.of(self._object_view(request, resource))

    def _check_destination(self, request: Request, bucket: str, name: str) -> None:
        self._objects.bucket(bucket)
        there = self._objects.find(bucket, name)
        check(request, there[0] if there else None)

    def _batch(self, request: Request) -> Response:
        return answer_batch(request, self.respond, self._objects.at_once())

    @staticmethod
    def _bucket_view(request: Request, resource: Resource) -> Resource:
        name = resource["name"]
        link = f"{request.base_url}/storage/v1/b/{name}"
        etag = base64.b64encode(resource["metageneration"].encode()).decode()
        return {"kind": "storage#bucket", "id": name, "selfLink": link, "etag": etag, **resource}

    @staticmethod
    def _object_view(request: Request, resource: Resource) -> Resource:
        if "fields" in request.query:
            return resource
        bucket, name, generation = resource["bucket"], resource["name"], resource["generation"]
        path = f"storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "selfLink": f"{request.base_url}/{path}",
            "mediaLink": f"{request.base_url}/download/{path}?generation={generation}&alt=media",
            **resource,
        }

    _ROUTES: Final = tuple(
        (re.compile(pattern), answer)
        for pattern, answer in (
            (r"/", _root),
            (r"/_cloudflux/refused", _refusals),
            (r"/_cloudflux/requests", _requests),
            (r"/storage/v1/b", _buckets),
            (r"/storage/v1/b/([^/]+)", _bucket),
            (r"/storage/v1/b/([^/]+)/o", _list),
            (r"/storage/v1/b/([^/]+)/o/([^/]+)", _object),
            (r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", _rewrite),
            (r"/storage/v1/b/([^/]+)/o/([^/]+)/copyTo/b/([^/]+)/o/([^/]+)", _copy),
            (r"/download/storage/v1/b/([^/]+)/o/([^/]+)", _download),
            (r"/upload/storage/v1/b/([^/]+)/o", _upload),
            (r"/batch(?:/storage/v1)?", _batch),
        )
    )


Scope = MutableMapping[str, Any]
AsgiApplication = Callable[[Scope, Callable[[], Awaitable[Scope]], Callable[[Scope], Awaitable[None]]], Awaitable[None]]


def create_app(
    data: Path, *, rewrite_bytes_per_call: int | None = None, rewrite_seconds: float = 0.0
) -> AsgiApplication:
    """Make the ASGI application; everything lies below ``data``."""
    data.mkdir(parents=True, exist_ok=True)
    api = StorageApi(Objects(data, lambda: datetime.now(UTC)), rewrite_bytes_per_call, rewrite_seconds)

    async def app(
        scope: Scope, receive: Callable[[], Awaitable[Scope]], send: Callable[[Scope], Awaitable[None]]
    ) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        # Everything between the last byte of the request and the answer happens in one go: that makes it atomic.
        answer = api.respond(request_of(scope["method"], target, headers, bytes(body)))
        fields = {**answer.headers, "content-length": str(len(answer.body))}
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(key.encode("latin-1"), value.encode("latin-1")) for key, value in fields.items()],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    return app


def create_server(app: AsgiApplication) -> uvicorn.Server:
    """Make the server of an application; give ``run`` a bound socket."""
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False
    )
    return uvicorn.Server(config)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m cloudflux.local.emulators.gcs", description="Google Cloud Storage on this machine."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9023)
    parser.add_argument("--data", type=Path, help="folder for everything that is kept; a temporary one unless told")
    parser.add_argument("--rewrite-bytes-per-call", type=int, help="make longer rewrites take several calls")
    parser.add_argument(
        "--rewrite-microseconds", type=int, default=0, help="let each rewrite take so much more processor time"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cloudflux-gcs-") as scratch:
        listener = socket.create_server((options.host, options.port), backlog=512)
        print(f"GCS listens on http://{options.host}:{listener.getsockname()[1]}", flush=True)
        app = create_app(
            options.data or Path(scratch),
            rewrite_bytes_per_call=options.rewrite_bytes_per_call,
            rewrite_seconds=options.rewrite_microseconds / 1e6,
        )
        create_server(app).run(sockets=[listener])


def _work(seconds: float) -> None:
    """Keep the processor busy for so long, as a service does whose rewrites are more work than ours."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def _not_allowed(request: Request) -> ApiError:
    return ApiError(405, "methodNotAllowed", f"this emulator has no {request.method} {request.path}")


if __name__ == "__main__":
    main()
