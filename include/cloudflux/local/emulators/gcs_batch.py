"""The GCS emulator's batches: up to 100 calls in one request, each answered as if it came alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Final

from cloudflux.local.emulators.gcs_messages import (
    ApiError,
    Request,
    Response,
    boundary_of,
    headers_of,
    parts_of,
    request_of,
)

_MAX_BATCH: Final = 100  # cloud.google.com/storage/docs/batch: "no more than 100 calls in a single batch request"


def answer_batch(
    request: Request, respond: Callable[[Request], Response], at_once: AbstractContextManager[None]
) -> Response:
    """Answer a batch's calls one after the other, in one transaction. Raises ``ApiError``."""
    calls = [part for part in parts_of(request.body, boundary_of(request)) if part.strip()]
    if len(calls) > _MAX_BATCH:
        raise ApiError(400, "batchTooLarge", f"a batch of {len(calls)} calls: {_MAX_BATCH} is the limit")
    with at_once:
        answers = [_answered(call, request.headers.get("host", ""), respond) for call in calls]
    body = ("".join(answers) + "--batch_answer--\r\n").encode()
    return Response(200, body, {"content-type": "multipart/mixed; boundary=batch_answer"})


def _answered(call: bytes, host: str, respond: Callable[[Request], Response]) -> str:
    """Answer one call of a batch."""
    outer, _, inner = _normalised(call).partition(b"\r\n\r\n")
    head, _, body = inner.partition(b"\r\n\r\n")
    request_line, *header_lines = head.decode().lstrip("\r\n").split("\r\n")
    method, target, _ = request_line.split(" ", 2)
    headers = {**headers_of(header_lines), "host": host}
    answer = respond(request_of(method, re.sub(r"^https?://[^/]+", "", target), headers, body.strip()))
    content_id = headers_of(outer.decode().split("\r\n")).get("content-id", "").strip("<>")
    lines = "".join(f"{key}: {value}\r\n" for key, value in answer.headers.items())
    return (
        f"--batch_answer\r\nContent-Type: application/http\r\nContent-ID: <response-{content_id}>\r\n\r\n"
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"{lines}Content-Length: {len(answer.body)}\r\n\r\n{answer.body.decode()}\r\n"
    )


def _normalised(part: bytes) -> bytes:
    """Give the lines of a batch's call one kind of end: Python's generator mixes them."""
    return re.sub(rb"\r?\n", b"\r\n", part.lstrip(b"\r\n"))
