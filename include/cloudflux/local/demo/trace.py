"""A real trace as a world: validated, shifted so that its last day is yesterday, cut at a size that a laptop holds.

What is real stays real: which objects there are, when each was created, how large it is and on which day it was read
how often. Three things a daily trace does not say are chosen, and only these: the object's bytes; its cloud (a stable
hash of its id, see ``place``); and the time of day of each read, which is spread over the day.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from pathlib import Path
from typing import Final, cast

import duckdb
import polars as pl

from cloudflux.domain.errors import CloudFluxError
from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.local.demo.world import DAILY_SCHEMA, DEFAULT_MAX_OBJECT_BYTES, OBJECT_COLUMNS, World

MAX_ID_BYTES: Final = 900
"""Below every cloud's limit for a key, which is 1,024 bytes (characters on Azure)."""

_CONTENT_TYPE: Final = "application/octet-stream"
_CLOUDS: Final = {0: Provider.AWS, 1: Provider.AZURE, 2: Provider.GCP}


class TraceError(CloudFluxError, ValueError):
    """The trace file is not what ``--trace`` reads; the text names the file, the column and the row."""


def replay(path: Path, *, last_day: date, seed: int, max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES) -> World:
    """Read a trace and give it as a world whose last day is ``last_day``.

    Objects larger than ``max_object_bytes`` are left out and counted. Raises ``TraceError``.
    """
    trace = load_trace(path)
    shift = last_day - cast(date, trace["day"].max())
    small = trace.filter(pl.col("size_bytes") <= max_object_bytes)
    if small.is_empty():
        raise TraceError(f"{path}: every object is larger than {max_object_bytes:,} bytes: raise --max-object-bytes")
    left_out = trace.filter(pl.col("size_bytes") > max_object_bytes)
    shifted = small.with_columns(pl.col("day") + shift, pl.col("created_day") + shift)
    name = _world_name(path, max_object_bytes)
    return World(
        name=name,
        seed=seed,
        first_day=cast(date, trace["day"].min()) + shift,
        last_day=last_day,
        objects=place(shifted.select("object_id", "size_bytes", "created_day").unique(), name),
        daily=shifted.filter(pl.col("reads") > 0).sort("day", "object_id").select(DAILY_SCHEMA.names()),
        crawls=pl.DataFrame(schema={"object_id": pl.String, "day": pl.Date}),
        invented_noise=False,
        left_out_objects=left_out["object_id"].n_unique(),
        left_out_reads=int(left_out["reads"].sum()),
        max_object_bytes=max_object_bytes,
    )


def load_trace(path: Path) -> pl.DataFrame:
    """Read and validate a trace: columns ``DAILY_SCHEMA``, one row per object and day. Raises ``TraceError``."""
    try:
        raw = pl.read_parquet(path)
    except FileNotFoundError as exc:
        raise TraceError(f"there is no trace file {path}") from exc
    except (pl.exceptions.ComputeError, OSError) as exc:
        raise TraceError(f"{path} is not a Parquet file: {exc}") from exc
    missing = [name for name in DAILY_SCHEMA.names() if name not in raw.columns]
    if missing:
        raise TraceError(
            f"{path} lacks the column {missing[0]!r}: a trace has {', '.join(DAILY_SCHEMA.names())}; "
            f"this file has {', '.join(raw.columns)}"
        )
    typed = pl.DataFrame({name: _typed(path, raw[name], wanted) for name, wanted in DAILY_SCHEMA.items()})
    if typed.is_empty():
        raise TraceError(f"{path} has no rows")
    _refuse(path, typed)
    return typed


def _typed(path: Path, column: pl.Series, wanted: pl.DataType | type[pl.DataType]) -> pl.Series:
    kinds = {
        pl.String: (pl.String, pl.Categorical, pl.Enum),
        pl.Date: (pl.Date,),
        pl.Int64: (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    }[wanted if isinstance(wanted, type) else type(wanted)]
    midnight = column.dtype == pl.Datetime and bool((column.dt.truncate("1d") == column).all())
    if not isinstance(column.dtype, kinds) and not (wanted == pl.Date and midnight):
        raise TraceError(f"{path}: column {column.name!r} is {column.dtype}, not {wanted}")
    nulls = column.is_null().arg_true()
    if len(nulls):
        raise TraceError(f"{path}: column {column.name!r} is empty in row {nulls[0] + 1}")
    try:
        return column.cast(wanted)
    except pl.exceptions.InvalidOperationError as exc:
        raise TraceError(f"{path}: column {column.name!r} does not fit {wanted}: {exc}") from exc


def _refuse(path: Path, trace: pl.DataFrame) -> None:
    """Raise ``TraceError`` for the first row that breaks a rule, with its number counted from 1."""
    per_object = pl.col("size_bytes").first().over("object_id"), pl.col("created_day").first().over("object_id")
    rules: list[tuple[str, str, pl.Expr]] = [
        ("object_id", "is an empty text", pl.col("object_id") == ""),
        ("object_id", f"is longer than {MAX_ID_BYTES} bytes", pl.col("object_id").str.len_bytes() > MAX_ID_BYTES),
        ("object_id", "holds a control character", pl.col("object_id").str.contains(r"[\x00-\x1f\x7f]")),
        ("object_id", "starts with, ends in or doubles a slash", pl.col("object_id").str.contains(r"^/|/$|//")),
        (
            "object_id",
            "ends in a dot, or has a part that is . or ..",
            pl.col("object_id").str.contains(r"\.$|(^|/)\.\.?/"),
        ),
        ("reads", "is negative", pl.col("reads") < 0),
        ("size_bytes", "is negative", pl.col("size_bytes") < 0),
        ("created_day", "lies after the row's day", pl.col("created_day") > pl.col("day")),
        ("size_bytes", "differs from the object's first row", pl.col("size_bytes") != per_object[0]),
        ("created_day", "differs from the object's first row", pl.col("created_day") != per_object[1]),
        ("day", "is there twice for the same object", ~pl.struct("object_id", "day").is_first_distinct()),
    ]
    broken = trace.select(
        expression.arg_true().first().alias(str(number)) for number, (_, _, expression) in enumerate(rules)
    ).row(0)
    for row, (column, problem, _) in zip(broken, rules, strict=True):
        if row is not None:
            values = trace.row(row, named=True)
            raise TraceError(f"{path}: column {column!r} {problem} in row {row + 1}: {values}")


def place(objects: pl.DataFrame, name: str) -> pl.DataFrame:
    """Give each object its cloud, bucket and key. Takes object_id, size_bytes, created_day; gives ``OBJECT_COLUMNS``.

    The cloud is ``md5(object_id) mod 3``, the lower 64 bits: the same for ever and on every machine. The key is the id.
    """
    con = duckdb.connect()
    con.register("objects", objects.to_arrow())
    placed = pl.from_arrow(
        con.sql(
            "select object_id, size_bytes, created_day, (md5_number_lower(object_id) % 3)::int as cloud "
            "from objects order by object_id"
        ).to_arrow_table()
    )
    assert isinstance(placed, pl.DataFrame)  # noqa: S101  # from_arrow of a table gives a frame
    return (
        placed.with_row_index("object_no")
        .with_columns(
            pl.col("object_no").cast(pl.Int64),
            provider=pl.col("cloud").replace_strict({number: cloud.value for number, cloud in _CLOUDS.items()}),
            storage_class=pl.col("cloud").replace_strict(
                {number: STANDARD_CLASS[cloud] for number, cloud in _CLOUDS.items()}
            ),
            key=pl.col("object_id"),
            content_type=pl.lit(_CONTENT_TYPE),
            kind=pl.lit(None, dtype=pl.String),
        )
        .with_columns(bucket=pl.concat_str(pl.lit(f"cloudflux-{name}-"), "provider"))
        .select(OBJECT_COLUMNS)
    )


def _world_name(path: Path, max_object_bytes: int) -> str:
    # A part of the digest: another file of the same name gets buckets of its own on a standing stack.
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:20].strip("-") or "trace"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:6]
    cap = "" if max_object_bytes == DEFAULT_MAX_OBJECT_BYTES else f"-m{max_object_bytes}"
    return f"{stem}-{digest}{cap}"
