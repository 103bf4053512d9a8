"""Download a public price list: over https, with a limit on time and size, through a temporary file."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import requests

from cloudflux.domain.errors import TerminalError, TransientError

MAX_BYTES: Final = 256 * 2**20
"""More than any list that is asked for: AWS's list of one service and region has a few MB."""
_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Downloads:
    """How price lists are fetched; other values are for tests."""

    aws_url: str = "https://pricing.us-east-1.amazonaws.com"
    azure_url: str = "https://prices.azure.com"
    https_only: bool = True
    max_bytes: int = MAX_BYTES
    timeout_seconds: float = 30.0
    """For connecting, and for each pause in what comes."""
    total_seconds: float = 600.0

    def json_of(self, url: str) -> Any:
        """Fetch one JSON document, with prices as ``Decimal``.

        Raises ``TransientError`` when the host cannot be reached or fails, ``TerminalError`` when what it gives is no
        such document or too large.
        """
        with self._fetched(url) as file:
            return parsed(file, url)

    @contextmanager
    def _fetched(self, url: str) -> Iterator[IO[bytes]]:
        parts = urlsplit(url)
        if parts.scheme != "https" and self.https_only:
            raise TerminalError(f"{url} is not read: price lists are read over https only")
        deadline = time.monotonic() + self.total_seconds
        with tempfile.TemporaryFile() as file:
            try:
                # A redirect is not followed: it could lead away from the provider, or to plain http.
                with requests.get(
                    url, stream=True, timeout=self.timeout_seconds, allow_redirects=False, headers=_HEADERS
                ) as response:
                    self._check(response, url)
                    size = 0
                    for chunk in response.iter_content(_CHUNK_BYTES):
                        size += len(chunk)
                        if size > self.max_bytes:
                            raise TerminalError(f"{url} is larger than {self.max_bytes} bytes: that is no price list")
                        if time.monotonic() > deadline:
                            raise TransientError(f"{url} was not there after {self.total_seconds:.0f} s")
                        file.write(chunk)
            except requests.RequestException as exc:
                raise TransientError(
                    f"the price list at {parts.netloc} cannot be read ({type(exc).__name__}): without internet,"
                    f" download {url} elsewhere and name the file with --from"
                ) from exc
            file.seek(0)
            yield file

    def _check(self, response: requests.Response, url: str) -> None:
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientError(f"{url} answers {response.status_code}: try again later")
        if response.status_code != 200:
            raise TerminalError(f"{url} answers {response.status_code}: there is no such price list")


def json_file(path: Path) -> Any:
    """Read a price list that was downloaded before. Raises ``TerminalError`` naming the file."""
    try:
        with path.open("rb") as file:
            return parsed(file, str(path))
    except OSError as exc:
        raise TerminalError(f"the price list {path} cannot be read ({exc.strerror})") from exc


def parsed(file: IO[bytes], name: str) -> Any:
    """Parse a JSON document, with its numbers as ``Decimal``: a price is never a float on its way into a book."""
    try:
        return json.load(file, parse_float=Decimal)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise TerminalError(f"the price list {name} is not JSON: {exc}") from exc


_HEADERS: Final = {"User-Agent": "cloudflux/prices", "Accept": "application/json"}
