"""The log formats by the names that the estate file uses: one module each, found by its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from typing import Final

from cloudflux.access_logs.blocks import Block, Lined, ahead, one_piece, read_blocks
from cloudflux.access_logs.parsed import ParsedFile, joined
from cloudflux.access_logs.unpacked import Content
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.source_files import SourceFile


def _lines_only(head: bytes) -> bool:
    return False


def _as_they_are(head: bytes) -> Lined | None:
    return None


def _none(key: str, day: date) -> str:
    return key


def _unnamed(key: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class LogFormat:
    """How the log files of one format are read."""

    name: str
    parse: Callable[[Block, Exclusions], ParsedFile]
    """Parses one block."""
    is_whole: Callable[[bytes], bool] = _lines_only
    """Tells from a file's first bytes that its records cross lines, so that it has to be read whole."""
    lined: Callable[[bytes], Lined | None] = _as_they_are
    """Gives, from a file's first bytes, what puts each of its records on a line of its own while it streams; none for a
    file that has them so."""
    passed_over: Callable[[str, date], str] = _none
    """Gives, for the key of a listed file, the key from which on the files that were delivered since a day are listed:
    the same one where its name does not tell that it is older. Files are listed by key."""

    account_of: Callable[[str], str | None] = _unnamed
    """Gives the account of whose buckets a file tells, by its key, where other accounts may have buckets of the same
    names."""


_NOBODY: Final = Exclusions()
_PARSED_AT_ONCE: Final = 2

FORMATS: Final = ("s3_server_access", "cloudtrail", "azure_resource", "azure_classic", "gcs_usage", "gcs_audit")


def log_format(name: str) -> LogFormat:
    """Give a format by its name. Raises ``KeyError`` when there is none."""
    if name not in FORMATS:
        raise KeyError(f"there is no log format {name!r}: choose one of {', '.join(FORMATS)}")
    found: LogFormat = import_module(f"cloudflux.access_logs.{name}").FORMAT
    return found


def parse_files(
    form: LogFormat, files: Iterable[tuple[SourceFile, Content]], exclusions: Exclusions = _NOBODY
) -> Iterator[ParsedFile]:
    """Parse files of one format block by block, in their order; a few blocks are read and parsed at once."""
    with (
        closing(ahead(read_blocks(files, whole=form.is_whole, lined=form.lined))) as blocks,
        ThreadPoolExecutor(_PARSED_AT_ONCE) as pool,
    ):
        waiting: deque[Future[ParsedFile]] = deque()
        for block in blocks:
            waiting.append(pool.submit(form.parse, block, exclusions))
            if len(waiting) > _PARSED_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def parse_whole(
    form: LogFormat, files: Iterable[tuple[SourceFile, bytes]], exclusions: Exclusions = _NOBODY
) -> ParsedFile:
    """Parse files that are in memory, and give all that was found at once."""
    return joined(parse_files(form, one_piece(files), exclusions))
