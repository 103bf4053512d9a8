"""What a parser says about things in a file that its format's document does not name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import Block
from cloudflux.domain.format_notices import FormatNotice, NoticeKind

_NAME_CHARACTERS: Final = 200
MOST_NOTICES: Final = 50
"""Of one kind and block: a hostile file must not fill the table of notices."""


def notice(block: Block, place: int, kind: NoticeKind, name: str, detail: str) -> FormatNotice:
    """Say what was noticed in the block's file at a place; its format is the file's own."""
    source = block.files[place]
    return FormatNotice(
        source.provider, source.bucket, source.format, kind, name[:_NAME_CHARACTERS], detail, source.key
    )


def new_fields(block: Block, found: Iterable[tuple[int, str]], known: frozenset[str]) -> Iterator[FormatNotice]:
    """Name the fields (place of the file, name) that are not known, each once a block."""
    first: dict[str, int] = {}
    for place, name in found:
        if name not in known:
            first.setdefault(name[:_NAME_CHARACTERS], place)
    for name in sorted(first)[:MOST_NOTICES]:
        yield notice(
            block, first[name], NoticeKind.NEW_FIELD, name, "the format's document does not name it: it is passed over"
        )


def unknown_operations(
    block: Block, found: pa.Table, names_object: re.Pattern[str], known: re.Pattern[str]
) -> Iterator[FormatNotice]:
    """Name the operations that look like use of an object and are in none of the format's lists.

    ``found`` has the columns file, operation, reason, and ``unlisted`` where an operation is no access.
    """
    unlisted = found.filter(pc.and_(pc.fill_null(found["unlisted"], False), pc.is_null(found["reason"])))
    if not unlisted.num_rows:
        return
    place = unlisted.column_names.index("operation")
    unlisted = unlisted.set_column(place, "operation", unlisted["operation"].cast(pa.string()))
    firsts = unlisted.group_by("operation").aggregate([("file", "min")]).sort_by("operation").to_pylist()
    named = [
        first
        for first in firsts
        if first["operation"] and names_object.search(first["operation"]) and not known.search(first["operation"])
    ]
    for first in named[:MOST_NOTICES]:
        yield notice(
            block, first["file_min"], NoticeKind.UNKNOWN_OPERATION, first["operation"],
            "it looks like use of an object and is in none of our lists: it counts as no access",
        )  # fmt: skip
