"""S3 on this machine: moto's server, with the conditional copies that it lacks.

Run it as ``python -m cloudflux.local.emulators.s3 --host 127.0.0.1 --port 9000 --data DIR``; SIGTERM stops it.

What this module adds to moto:

- ``x-amz-copy-source-if-match``, ``-if-none-match``, ``-if-modified-since`` and ``-if-unmodified-since`` on CopyObject
  and UploadPartCopy, and ``If-Match`` and ``If-None-Match: *`` for the destination of CopyObject. A condition that does
  not hold is answered with 412 ``PreconditionFailed``, a destination that is gone with 404 ``NoSuchKey``, as S3 does.
- One request at a time looks at or changes objects, so a check and the change that follows it are atomic, also between
  threads. (The interpreter's lock lets only one run at a time anyway; bodies are received outside of the lock.)
- The tags and the ACL of an object in GLACIER or DEEP_ARCHIVE can be read, as on S3.
- Contents over 4 KiB lie in files below the data folder, opened when they are read: neither memory nor the number of
  open files grows with the objects.

Gaps, by name:

- ``no-persistence``: moto keeps names and metadata in memory, so a restart of the server begins empty.
- ``any-credentials``: every signature is accepted. The server is meant for loopback only.
- ``instant-restore``: a restore from GLACIER or DEEP_ARCHIVE is complete as soon as it is asked for.
- ``no-reports``: there are no inventory reports.
- The gaps of jobs and lifecycle rules stand in ``s3_control``.
- ``conditional-delete``: ``If-Match`` on DELETE is ignored.
- ``no-minimum-duration``: nothing is charged, so no early deletion is either.
"""

from __future__ import annotations

import argparse
import functools
import io
import shutil
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import parse_qs, unquote
from uuid import uuid4
from xml.sax.saxutils import escape

import moto.s3.models as moto_s3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.responses import S3Response
from werkzeug.serving import BaseWSGIServer, make_server

from cloudflux.local.emulators.s3_control import S3Control

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

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


def create_app(data: Path) -> WSGIApplication:
    """Make the S3 application; contents lie in ``data``/content, which is emptied first.

    moto's state belongs to the Python process: two applications in one process share their buckets.
    """
    folder = data / "content"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # moto makes its buffers by this name; its own spill file stays open for as long as the object lives.
    moto_s3.tempfile = types.SimpleNamespace(SpooledTemporaryFile=lambda *_args, **_kwargs: ContentFile(folder))
    for name in ("get_object_tagging", "get_object_acl"):
        setattr(S3Response, name, _also_of_archived(name))
    s3 = _ConditionalS3(create_backend_app("s3"))
    return S3Control(s3, s3.lock)


def create_server(host: str, port: int, data: Path) -> BaseWSGIServer:
    """Bind the server, with one thread a connection; port 0 takes a free one (``server.port`` tells which)."""
    # Bound before `create_app` empties the data folder: a second server on the same port leaves the first one's alone.
    server = make_server(host, port, _not_ready, threaded=True, request_handler=_Handler)
    server.app = create_app(data)
    return server


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m cloudflux.local.emulators.s3", description="S3 on this machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--data", type=Path, help="folder for the contents; a temporary one unless told")
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="cloudflux-s3-") as scratch:
        server = create_server(options.host, options.port, options.data or Path(scratch))
        print(f"S3 listens on http://{options.host}:{server.port}", flush=True)
        server.serve_forever()


def _also_of_archived(name: str) -> Callable[[Any], Any]:
    """Give one of moto's answers without the check of the class that belongs to reading a content."""
    original = _MOTO_ANSWERS.setdefault(name, getattr(S3Response, name))

    def answer(response: Any) -> Any:
        response._get_key = functools.partial(S3Response._get_key, response, validate_storage_class=False)
        return original(response)

    return answer


_MOTO_ANSWERS: Final[dict[str, Callable[[Any], Any]]] = {}


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto has no types
    """Answer without delay, and without a log line for every request."""

    # A response is written as headers and then a body: with Nagle's algorithm the second waits for the client's ACK.
    disable_nagle_algorithm = True

    def log_request(self, *_args: object, **_kwargs: object) -> None:
        """Say nothing: a demo makes tens of thousands of requests."""


class _ConditionalS3:
    """moto's S3 behind the conditions that moto ignores, one request at a time."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self.lock = threading.RLock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        _receive(environ)
        with self.lock:
            refusal = self._refusal(environ) if "HTTP_X_AMZ_COPY_SOURCE" in environ else None
            if refusal is None:
                return self._app(environ, start_response)
        status, body = refusal
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]

    @staticmethod
    def _refusal(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        """Check the conditions of a copy; None when they hold, or when moto itself finds the fault."""
        source_path, _, source_query = environ["HTTP_X_AMZ_COPY_SOURCE"].partition("?")
        source_bucket, _, source_key = unquote(source_path).lstrip("/").partition("/")
        version_id = parse_qs(source_query).get("versionId", [None])[0]
        source = _find(source_bucket, source_key, version_id)
        failed = None if source is None else _failed_source_condition(environ, source)
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if failed is None and "uploadId" not in query:  # a part has no destination object to compare with
            bucket, key = _path_of(environ)
            there = _find(bucket, key, None)
            if there is None and "HTTP_IF_MATCH" in environ:
                return _error("404 Not Found", "NoSuchKey", "The specified key does not exist.", Key=key)
            failed = _failed_destination_condition(environ, there)
        return (
            None
            if failed is None
            else _error("412 Precondition Failed", "PreconditionFailed", _UNMET, Condition=failed)
        )


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
    extra = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in details.items())
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"{extra}<RequestId>{uuid4().hex[:16].upper()}</RequestId></Error>"
    )
    return status, body.encode()


def _not_ready(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("503 Service Unavailable", [("Content-Length", "0")])
    return [b""]


if __name__ == "__main__":
    main()
