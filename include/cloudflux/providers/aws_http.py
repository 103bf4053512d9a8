"""One HTTP request to S3 and what came back; and the way through botocore's own connections, where there is a proxy."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore.awsrequest import AWSRequest
from botocore.exceptions import EndpointConnectionError, HTTPClientError, ProxyConnectionError

_CODE: Final = re.compile(rb"<Code>\s*([^<]*?)\s*</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")
_THREADS: Final = 64


class AnswerLost(Exception):
    """Nobody knows whether S3 acted: the connection broke after the request was sent, or the answer says as much."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


class NeverSent(Exception):
    """There was no connection to send a request over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names in lower case, values as Latin-1 text, as botocore has them."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """S3's code of an error; the status where there is no body (HEAD), nothing when all is well."""
        found = _CODE.search(self.body) if b"<Error" in self.body else None
        if found is not None:
            return html.unescape(found[1].decode("utf-8", "replace"))
        return "" if self.status < 300 else str(self.status)

    @property
    def message(self) -> str:
        """What S3 says about an error."""
        found = _MESSAGE.search(self.body)
        return html.unescape(found[1].decode("utf-8", "replace")) if found else ""

    @property
    def request_id(self) -> str | None:
        """The id under which S3 knows the request."""
        return self.headers.get("x-amz-request-id") or self.headers.get("x-amzn-requestid")

    @property
    def retry_after(self) -> float | None:
        """How many seconds S3 asks us to wait."""
        text = self.headers.get("retry-after", "")
        if text.isdigit():
            return float(text)
        try:
            until = parsedate_to_datetime(text).timestamp()
        except ValueError:
            return None
        return max(0.0, until - self.answered_at.timestamp())

    @property
    def answered_at(self) -> datetime:
        """S3's own clock; the beginning of time when it did not say, so that a retention counts as running."""
        text = self.headers.get("date")
        return parsedate_to_datetime(text) if text else datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request is tried, and how long one try may take."""

    attempts: int = 8
    seconds: float = 60.0
    """From a request's first failure on, the waits between its attempts included."""
    connect_seconds: float = 10.0
    silent_seconds: float = 60.0
    """Without a single byte. S3 sends blanks while a large copy is being made."""
    answer_seconds: float = 900.0


class BotocoreTransport:
    """Sends through botocore's own connections, in threads: for what only they know, such as proxies."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudflux-s3")

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request once. Raises ``NeverSent`` and ``AnswerLost``."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._send, method, url, headers, body)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
        try:
            response = self._session.send(request.prepare())
            content = response.content
        except (EndpointConnectionError, ProxyConnectionError) as exc:
            raise NeverSent(str(exc)) from exc
        except HTTPClientError as exc:
            raise AnswerLost(f"the connection broke: {exc}") from exc
        named = {str(name).lower(): str(value) for name, value in response.headers.items()}
        return Answer(response.status_code, named, content)

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudflux-s3")

    async def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False)
