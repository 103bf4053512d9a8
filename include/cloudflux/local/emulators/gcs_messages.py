"""What the GCS emulator is asked and answers, and how bodies in parts are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_plus

import orjson

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with its path still quoted: an object's name may contain slashes."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Resource:
        """Give the body as a resource. Raises ``ApiError`` when it is not one."""
        if not self.body.strip():
            return {}
        try:
            content = orjson.loads(self.body)
        except ValueError as exc:
            raise ApiError(400, "parseError", f"the body is not JSON: {exc}") from exc
        if not isinstance(content, dict):
            raise ApiError(400, "parseError", "the body is not a JSON object")
        return content

    @property
    def base_url(self) -> str:
        """The server's address as the client called it."""
        return f"http://{self.headers.get('host', 'localhost')}"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, resource: Resource, status: int = 200) -> Response:
        """Answer with a JSON resource."""
        return cls(status, orjson.dumps(resource), {"content-type": "application/json; charset=UTF-8"})


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def response(self) -> Response:
        """Give the error in the shape of Google's JSON APIs."""
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        return Response.of({"error": {"code": self.status, "message": self.message, "errors": [detail]}}, self.status)


def request_of(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
    """Read a request's target; of a parameter that comes several times, the last."""
    path, _, query = target.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return Request(method, path, {_unquoted(name): _unquoted(value) for name, _, value in pairs}, headers, body)


@lru_cache(maxsize=1024)
def _unquoted(text: str) -> str:
    """Read a name or a value: those of ``fields``, which are long, come again and again."""
    return unquote_plus(text)


def check(request: Request, resource: Resource | None, *, prefix: str = "if", unchanged_status: int = 412) -> None:
    """Check the request's preconditions; generation 0 stands for an object that is not there."""
    for field_name in ("generation", "metageneration"):
        actual = int(resource[field_name]) if resource else 0
        name = f"{prefix}{field_name.capitalize()}"
        wanted, unwanted = request.query.get(f"{name}Match"), request.query.get(f"{name}NotMatch")
        if wanted is not None and integer(wanted) != actual:
            raise ApiError(412, "conditionNotMet", f"{_UNMET} ({name}Match={wanted}, it is {actual})")
        if unwanted is not None and integer(unwanted) == actual:
            raise ApiError(unchanged_status, "conditionNotMet", f"{_UNMET} ({name}NotMatch={unwanted})")


_UNMET: Final = "At least one of the pre-conditions you specified did not hold."


def integer(text: str) -> int:
    """Read a number. Raises ``ApiError`` 400."""
    try:
        return int(text)
    except ValueError:
        raise ApiError(400, "invalid", f"not a number: {text!r}") from None


def headers_of(lines: list[str]) -> dict[str, str]:
    """Read lines of headers; names in lower case."""
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def boundary_of(request: Request) -> bytes:
    """Give what stands between the parts of a body. Raises ``ApiError`` 400."""
    match = re.search(r"boundary=[\"']?([^\"';]+)", request.headers.get("content-type", ""))
    if match is None:
        raise ApiError(400, "invalid", "a multipart request without a boundary")
    return match.group(1).encode()


def parts_of(body: bytes, boundary: bytes) -> list[bytes]:
    """Split a body into its parts."""
    return body.split(b"--" + boundary + b"--")[0].split(b"--" + boundary)[1:]


def related(request: Request) -> tuple[Resource, str | None, bytes]:
    """Split a multipart upload into the resource, the content's type and the content."""
    delimiter = b"--" + boundary_of(request)
    first = request.body.find(delimiter)
    second = request.body.find(delimiter, first + len(delimiter))
    last = request.body.rfind(delimiter + b"--")
    if first < 0 or second < 0 or last <= second:
        raise ApiError(400, "invalid", "a multipart upload has two parts: the resource and the content")
    metadata = request.body[first + len(delimiter) : second].lstrip(b"\r\n").partition(b"\r\n\r\n")[2]
    head, _, content = request.body[second + len(delimiter) : last].removeprefix(b"\r\n").partition(b"\r\n\r\n")
    fields = headers_of(head.decode().split("\r\n"))
    resource = Request("POST", "", {}, {}, metadata).json()
    return resource, fields.get("content-type"), content.removesuffix(b"\r\n")
