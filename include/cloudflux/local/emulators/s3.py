"""S3 on this machine: moto's server, with the conditional copies that it lacks.

Run it as ``python -m cloudflux.local.emulators.s3 --host 127.0.0.1 --port 9000 --data DIR``; SIGTERM stops it.

What this module adds to moto:

- ``x-amz-copy-source-if-match``, ``-if-none-match``, ``-if-modified-since`` and ``-if-unmodified-since`` on CopyObject
  and UploadPartCopy, and ``If-Match`` and ``If-None-Match: *`` for the destination of CopyObject. A condition that does
  not hold is answered with 412 ``PreconditionFailed``, a destination that is gone with 404 ``NoSuchKey``, as S3 does.
- ``If-Match`` and ``If-None-Match: *`` for the destination of CompleteMultipartUpload.
- One request at a time looks at or changes objects, so a check and the change that follows it are atomic. (The
  interpreter's lock lets only one run at a time anyway; bodies are received before that.) Connections are kept.
- HEAD of an object goes past moto's routing, with the answer that moto gives, at a tenth of its time.
- ``POST /_cloudflux/restores?seconds=N``, or ``--restore-seconds N`` from the start: restores take so long, counted
  from when they were asked for; 0 lets those under way be complete. A second request meanwhile is refused with 409
  ``RestoreAlreadyInProgress``.
- ``GET /_cloudflux/requests?bucket=NAME``: how many requests of each operation were answered with success and with
  refusals, and which objects were changed by how many of which; ``DELETE`` forgets them.
- A bucket's Intelligent-Tiering configurations are kept and told (``s3_intelligent_tiering``).
- Unfinished uploads are listed with their class and when they began, page by page and with URL-quoted keys.
- The tags and the ACL of an object in GLACIER or DEEP_ARCHIVE can be read, as on S3.
- Contents over 4 KiB lie in files below the data folder, opened when they are read: neither memory nor the number of
  open files grows with the objects.

Gaps, by name:

- ``no-persistence``: moto keeps names and metadata in memory, so a restart of the server begins empty.
- ``any-credentials``: every signature is accepted. The server is meant for loopback only.
- ``instant-restore``: unless told otherwise, a restore from GLACIER or DEEP_ARCHIVE is complete as soon as it is asked
  for. Intelligent-Tiering has no archive tiers.
- ``no-odd-uploads``: an upload in parts to a key with control characters is answered with 500, as moto writes the key.
- ``no-reports``: there are no inventory reports.
- The gaps of jobs and lifecycle rules stand in ``s3_control``.
- ``conditional-delete``: ``If-Match`` on DELETE is ignored.
- ``no-minimum-duration``: nothing is charged, so no early deletion is either.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import re
import shutil
import signal
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import parse_qs, quote_plus, unquote
from uuid import uuid4

import moto.s3.models as moto_s3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.responses import S3Response

from cloudflux.local.emulators.http_server import EmulatorServer, WSGIApplication
from cloudflux.local.emulators.s3_control import S3Control
from cloudflux.local.emulators.s3_errors import error_body
from cloudflux.local.emulators.s3_intelligent_tiering import IntelligentTiering

_SIMPLE_TARGET: Final = re.compile(rb"/(?:[A-Za-z0-9._~/-]|%[0-9A-Fa-f]{2})+")
_SIMPLE_HEADERS: Final = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"amz-sdk-invocation-id",
        b"amz-sdk-request",
        b"authorization",
        b"connection",
        b"content-length",
        b"host",
        b"user-agent",
        b"x-amz-checksum-mode",
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amz-security-token",
    }
)
"""With any other header a HEAD is left to moto: it may be a condition."""
_LOCAL_HOST: Final = re.compile(rb"(?:127\.0\.0\.1|localhost)(?::\d+)?\Z")
_INLINE_BYTES: Final = 4096
"""Contents up to this size stay in memory: a file would take more than they do."""


class ContentFile:
    """One object's content, with the part of ``SpooledTemporaryFile`` that moto uses.

    The file is open only while it is read or written. Not safe between threads: the server's lock covers every use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inline: bytes | None = b""
        self._path: Path | None = None
        self._position = 0

    def seek(self, position: int) -> int:
        """Set where the next read begins."""
        self._position = position
        return position

    def truncate(self) -> int:
        """Forget the content from the current position on; moto only ever asks for all of it."""
        if self._position:
            raise io.UnsupportedOperation("content can only be replaced as a whole")
        self.close()
        self._inline = b""
        return 0

    def write(self, content: bytes) -> int:
        """Set the content, which must be empty so far."""
        if self._position or self._inline != b"":
            raise io.UnsupportedOperation("content can only be written at once")
        if len(content) <= _INLINE_BYTES:
            self._inline = bytes(content)
        else:
            name = uuid4().hex
            path = self._folder / name[:2] / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            self._path, self._inline = path, None
        self._position = len(content)
        return len(content)

    def read(self, size: int = -1) -> bytes:
        """Give up to ``size`` bytes from the current position on, all of them when negative."""
        if self._path is None:
            content = (self._inline or b"")[self._position :]
            content = content if size < 0 else content[:size]
        else:
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read(size)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Remove the content."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        self._inline = None


def create_app(data: Path) -> _Admin:
    """Make the S3 application; contents lie in ``data``/content, which is emptied first.

    moto's state belongs to the Python process: two applications in one process share their buckets.
    """
    folder = data / "content"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # moto makes its buffers by this name; its own spill file stays open for as long as the object lives.
    moto_s3.tempfile = types.SimpleNamespace(SpooledTemporaryFile=lambda *_args, **_kwargs: ContentFile(folder))
    _hold_restores()
    for name in ("get_object_tagging", "get_object_acl"):
        setattr(S3Response, name, _also_of_archived(name))
    _date_uploads()
    S3Response.list_multipart_uploads = _uploads_page
    s3 = _ConditionalS3(create_backend_app("s3"))
    return _Admin(S3Control(s3, s3.lock), s3)


def create_server(host: str, port: int, data: Path) -> EmulatorServer:
    """Bind the server; port 0 takes a free one (``server.port`` tells which)."""
    # Bound before `create_app` empties the data folder: a second server on the same port leaves the first one's alone.
    server = EmulatorServer(host, port)
    app = create_app(data)
    server.app, server.quick = app, app.s3.head
    return server


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m cloudflux.local.emulators.s3", description="S3 on this machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--data", type=Path, help="folder for the contents; a temporary one unless told")
    parser.add_argument("--restore-seconds", type=float, default=0.0, help="how long a restore takes")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cloudflux-s3-") as scratch:
        server = create_server(options.host, options.port, options.data or Path(scratch))
        _RESTORES.seconds = options.restore_seconds
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.shutdown())
        print(f"S3 listens on http://{options.host}:{server.port}", flush=True)
        server.serve_forever()
        server.server_close()


def _also_of_archived(name: str) -> Callable[[Any], Any]:
    """Give one of moto's answers without the check of the class that belongs to reading a content."""
    original = _MOTO_ANSWERS.setdefault(name, getattr(S3Response, name))

    def answer(response: Any) -> Any:
        response._get_key = functools.partial(S3Response._get_key, response, validate_storage_class=False)
        return original(response)

    return answer


_MOTO_ANSWERS: Final[dict[str, Callable[[Any], Any]]] = {}


def _date_uploads() -> None:
    """Let moto's uploads know when they began."""

    def begin(upload: Any, *args: Any, **kwargs: Any) -> None:
        _MOTO_BEGIN_UPLOAD(upload, *args, **kwargs)
        upload.began_at = datetime.now(UTC)

    moto_s3.FakeMultipart.__init__ = begin


_MOTO_BEGIN_UPLOAD: Final = moto_s3.FakeMultipart.__init__


def _uploads_page(response: Any) -> Any:
    """Answer ListMultipartUploads: by key and age, a page at a time, where moto has one page with dates of its own."""
    query = {name: values[-1] for name, values in response.querystring.items()}
    bucket, most = response.bucket_name, min(int(query.get("max-uploads", 1000)), 1000)
    after = query.get("key-marker", ""), query.get("upload-id-marker")
    found = sorted(
        (
            upload
            for upload in response.backend.list_multipart_uploads(bucket).values()
            if upload.key_name.startswith(query.get("prefix", ""))
        ),
        key=lambda upload: (upload.key_name, upload.began_at),
    )
    ids = [upload.id for upload in found]
    start = ids.index(after[1]) + 1 if after[1] in ids else sum(upload.key_name <= after[0] for upload in found)
    page = found[start if after[0] else 0 :][:most]
    is_truncated = bool(page) and page[-1] is not found[-1]
    encoding = query.get("encoding-type")

    def written(key: str) -> str:
        return quote_plus(key, safe="/") if encoding == "url" else key

    result = {
        "Bucket": bucket,
        "KeyMarker": written(after[0]),
        "MaxUploads": most,
        "IsTruncated": is_truncated,
        "Uploads": [
            {
                "Key": written(upload.key_name),
                "UploadId": upload.id,
                "StorageClass": upload.storage or "STANDARD",
                "Initiated": upload.began_at.replace(microsecond=0),
                "ChecksumAlgorithm": upload.metadata.get("x-amz-checksum-algorithm"),
                "ChecksumType": upload.metadata.get("x-amz-checksum-type"),
            }
            for upload in page
        ],
    }
    if encoding:
        result["EncodingType"] = encoding
    if is_truncated:
        result |= {"NextKeyMarker": written(page[-1].key_name), "NextUploadIdMarker": page[-1].id}
    response.data["Action"] = "ListMultipartUploads"
    return response.serialized(ActionResult(result))


class _Restores:
    """How long restores take, counted from when each was asked for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def is_held(self, key: Any) -> bool:
        """Tell whether an object's restore is made to last still."""
        asked_at = getattr(key, "restore_asked_at", None)
        return asked_at is not None and time.monotonic() < asked_at + self.seconds


_RESTORES: Final = _Restores()


def _hold_restores() -> None:
    """Let moto's objects heed ``_RESTORES``."""
    restore, status = _MOTO_RESTORE, _MOTO_STATUS

    def ask(key: Any, days: int) -> None:
        if not _RESTORES.is_held(key):
            key.restore_asked_at, key.restore_is_timed = time.monotonic(), _RESTORES.seconds > 0
        restore(key, days)

    def tell(key: Any) -> Any:
        if _RESTORES.is_held(key):
            return "IN_PROGRESS"
        # moto's own restore is under way when it is first looked at, and complete from then on
        return "RESTORED" if getattr(key, "restore_is_timed", False) else status.fget(key)

    moto_s3.FakeKey.restore = ask
    moto_s3.FakeKey.status = property(tell, status.fset)


_MOTO_RESTORE: Final = moto_s3.FakeKey.restore
_MOTO_STATUS: Final = moto_s3.FakeKey.status


class _Admin:
    """What is asked of the emulator itself, in front of all else."""

    def __init__(self, app: WSGIApplication, s3: _ConditionalS3) -> None:
        self.s3 = s3
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request about requests or restores, or hand it on."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        answer: dict[str, Any]
        match method, path:
            case "GET", "/_cloudflux/requests":
                answer = self.s3.counts.told(query.get("bucket"))
            case "DELETE", "/_cloudflux/requests":
                self.s3.counts.clear()
                answer = {}
            case "POST", "/_cloudflux/restores":
                _RESTORES.seconds = float(query["seconds"])
                answer = {"seconds": _RESTORES.seconds}
            case _:
                return self._app(environ, start_response)
        body = json.dumps(answer).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


class _Counts:
    """How often what was asked for. Changes of objects are counted by object when they succeed."""

    def __init__(self) -> None:
        self._operations: Counter[tuple[str, bool]] = Counter()
        self._changes: dict[tuple[str, str], Counter[str]] = {}

    def add(self, operation: str, bucket: str, key: str, *, is_success: bool) -> None:
        """Count one answered request."""
        self._operations[operation, is_success] += 1
        if is_success and operation in _CHANGES:
            self._changes.setdefault((bucket, key), Counter())[operation] += 1

    def told(self, bucket: str | None) -> dict[str, Any]:
        """Give all counts; those of objects of one bucket, or of all."""
        operations: dict[str, dict[str, int]] = {}
        for (operation, is_success), count in self._operations.items():
            operations.setdefault(operation, {"succeeded": 0, "refused": 0})[
                "succeeded" if is_success else "refused"
            ] = count
        objects: dict[str, dict[str, dict[str, int]]] = {}
        for (name, key), counts in self._changes.items():
            if bucket in (None, name):
                objects.setdefault(name, {})[key] = dict(counts)
        return {"operations": operations, "objects": objects}

    def clear(self) -> None:
        """Begin anew."""
        self._operations.clear()
        self._changes.clear()


_CHANGES: Final = frozenset({"CopyObject", "CompleteMultipartUpload", "DeleteObject", "RestoreObject"})
_SUBRESOURCES: Final = {
    # method -> sub-resource in the query -> operation on an object
    "GET": {"tagging": "GetObjectTagging", "acl": "GetObjectAcl", "uploadId": "ListParts"},
    "PUT": {"tagging": "PutObjectTagging", "acl": "PutObjectAcl", "uploadId": "UploadPart"},
    "POST": {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload", "restore": "RestoreObject"},
    "DELETE": {"tagging": "DeleteObjectTagging", "uploadId": "AbortMultipartUpload"},
    "HEAD": {},
}
_PLAIN: Final = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject", "HEAD": "HeadObject"}


def _operation(environ: dict[str, Any], key: str, query: dict[str, list[str]]) -> str:
    """Name the operation; one on a bucket by its method and its sub-resource."""
    method = environ["REQUEST_METHOD"]
    if not key:
        return f"{method} bucket {next(iter(query), '')}".rstrip()
    found = next((name for part, name in _SUBRESOURCES.get(method, {}).items() if part in query), None)
    if "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "UploadPartCopy" if found == "UploadPart" else "CopyObject"
    return found or _PLAIN.get(method, method)


class _ConditionalS3:
    """moto's S3 behind the conditions that moto ignores, one request at a time."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self.lock = threading.RLock()
        self.counts = _Counts()
        self._tiering = IntelligentTiering(lambda name: name in moto_s3.s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        _receive(environ)
        bucket, key = _path_of(environ)
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        operation = _operation(environ, key, query)

        def counted(status: str, headers: Any, *rest: Any) -> Any:
            # A copy that fails at its end is refused in the body of a 200, which moto never does.
            self.counts.add(operation, bucket, key, is_success=status.startswith("2"))
            return start_response(status, headers, *rest)

        with self.lock:
            answer = self._refusal(environ, operation, query)
            if answer is None and not key and "intelligent-tiering" in query:
                answer = self._tiering.answer(environ, bucket, query)
            if answer is None:
                return self._app(environ, counted)
        status, body = answer
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        counted(status, headers)
        return [body]

    def head(
        self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]
    ) -> tuple[int, list[tuple[str, str]]] | None:
        """Answer a plain HEAD of an object that is there as moto does, without its routing; None leaves it to moto."""
        if method != b"HEAD" or not _SIMPLE_TARGET.fullmatch(target) or not headers.keys() <= _SIMPLE_HEADERS:
            return None
        if b"authorization" not in headers or not _LOCAL_HOST.match(headers.get(b"host", b"")):
            return None
        name, _, key_name = unquote(target.decode("ascii")).removeprefix("/").partition("/")
        backend = moto_s3.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        with self.lock:
            bucket = backend.buckets.get(name)
            if bucket is None or not key_name or bucket.policy is not None or bucket.logging:
                return None
            key = backend.get_object(name, key_name)
            if key is None:
                return None
            told = {**key.metadata, **key.response_dict, "Accept-Ranges": "bytes"}
            if headers.get(b"x-amz-checksum-mode") == b"ENABLED" and key.checksum_algorithm:
                told[f"x-amz-checksum-{key.checksum_algorithm.lower()}"] = key.checksum_value
            self.counts.add("HeadObject", name, key_name, is_success=True)
        told["x-amzn-requestid"] = uuid4().hex
        told["Access-Control-Allow-Origin"] = "*"
        return 200, [(name, str(value)) for name, value in told.items()]

    @staticmethod
    def _refusal(environ: dict[str, Any], operation: str, query: dict[str, list[str]]) -> tuple[str, bytes] | None:
        """Check what moto does not; None when all holds, or when moto itself finds the fault."""
        if operation in ("CopyObject", "UploadPartCopy"):
            return _refused_copy(environ, operation)
        bucket, key = _path_of(environ)
        if operation == "CompleteMultipartUpload":
            return _refused_destination(environ, bucket, key)
        if operation == "RestoreObject":
            found = _find(bucket, key, query.get("versionId", [None])[0])
            if found is not None and _RESTORES.is_held(found):
                return _error("409 Conflict", "RestoreAlreadyInProgress", "Object restore is already in progress")
        return None


def _refused_copy(environ: dict[str, Any], operation: str) -> tuple[str, bytes] | None:
    """Check the conditions of a copy."""
    source_path, _, source_query = environ["HTTP_X_AMZ_COPY_SOURCE"].partition("?")
    source_bucket, _, source_key = unquote(source_path).lstrip("/").partition("/")
    version_id = parse_qs(source_query).get("versionId", [None])[0]
    source = _find(source_bucket, source_key, version_id)
    failed = None if source is None else _failed_source_condition(environ, source)
    if failed is not None:
        return _error("412 Precondition Failed", "PreconditionFailed", _UNMET, Condition=failed)
    # a part has no destination object to compare with
    return None if operation == "UploadPartCopy" else _refused_destination(environ, *_path_of(environ))


def _refused_destination(environ: dict[str, Any], bucket: str, key: str) -> tuple[str, bytes] | None:
    """Check the conditions on the object that is there before a write."""
    there = _find(bucket, key, None)
    if there is None and "HTTP_IF_MATCH" in environ:
        return _error("404 Not Found", "NoSuchKey", "The specified key does not exist.", Key=key)
    failed = _failed_destination_condition(environ, there)
    if failed is None:
        return None
    return _error("412 Precondition Failed", "PreconditionFailed", _UNMET, Condition=failed)


def _failed_destination_condition(environ: dict[str, Any], there: Any) -> str | None:
    """Name the destination's condition that does not hold."""
    wanted, unwanted = environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH")
    if there is None:
        return None
    if wanted is not None and not _same_etag(wanted, there.etag):
        return "If-Match"
    if unwanted is not None and (unwanted == "*" or _same_etag(unwanted, there.etag)):
        return "If-None-Match"
    return None


_UNMET: Final = "At least one of the pre-conditions you specified did not hold"


def _failed_source_condition(environ: dict[str, Any], source: Any) -> str | None:
    """Name the source condition that does not hold.

    A matching ETag outweighs ``if-unmodified-since``, a differing one ``if-modified-since``: API reference, CopyObject.
    """
    match = environ.get("HTTP_X_AMZ_COPY_SOURCE_IF_MATCH")
    none_match = environ.get("HTTP_X_AMZ_COPY_SOURCE_IF_NONE_MATCH")
    modified = source.last_modified.replace(tzinfo=UTC, microsecond=0)
    if match is not None:
        if not _same_etag(match, source.etag):
            return "x-amz-copy-source-If-Match"
    elif (since := _date(environ, "UNMODIFIED")) is not None and modified > since:
        return "x-amz-copy-source-If-Unmodified-Since"
    if none_match is not None:
        if none_match == "*" or _same_etag(none_match, source.etag):
            return "x-amz-copy-source-If-None-Match"
    elif (since := _date(environ, "MODIFIED")) is not None and modified <= since:
        return "x-amz-copy-source-If-Modified-Since"
    return None


def _date(environ: dict[str, Any], kind: str) -> datetime | None:
    text = environ.get(f"HTTP_X_AMZ_COPY_SOURCE_IF_{kind}_SINCE")
    if text is None:
        return None
    at = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)
    return at.astimezone(UTC)


def _same_etag(one: str, other: str) -> bool:
    """Compare as S3 does, which does not care for quotes."""
    return one.replace('"', "") == other.replace('"', "")


def _find(bucket: str, key: str, version_id: str | None) -> Any:
    """Give moto's object, or None when there is none (or no such bucket, or only a delete marker)."""
    backend = moto_s3.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    if bucket not in backend.buckets:
        return None
    found = backend.get_object(bucket, key, version_id=version_id)
    return None if isinstance(found, moto_s3.FakeDeleteMarker) else found


def _path_of(environ: dict[str, Any]) -> tuple[str, str]:
    """Tell the bucket and key of a path-style request."""
    path = environ.get("RAW_URI", "").partition("?")[0] or environ["PATH_INFO"].encode("latin-1").decode("utf-8")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    return bucket, key


def _receive(environ: dict[str, Any]) -> None:
    """Read the body before anything is locked: a slow client must hold up nobody else."""
    stream: IO[bytes] = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    if length:
        environ["wsgi.input"] = io.BytesIO(stream.read(int(length)))
    elif environ.get("wsgi.input_terminated"):  # chunked
        environ["wsgi.input"] = io.BytesIO(stream.read())


def _error(status: str, code: str, message: str, **details: str) -> tuple[str, bytes]:
    return status, error_body(code, message, **details)


if __name__ == "__main__":
    main()
