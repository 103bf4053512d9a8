"""What was new or different in the providers' files: noticed once, and counted from then on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.tiers import Provider
from cloudflux.stores.bulk import storable
from cloudflux.stores.tables import FormatNoticeRow


@dataclass(frozen=True, slots=True)
class SeenNotice:
    """A notice, and when and in how many batches it was seen."""

    notice: FormatNotice
    """Its ``source`` is the first file that showed it, its ``detail`` is of the latest."""
    times: int
    first_seen_at: datetime
    last_seen_at: datetime


class FormatNotices:
    """The notices of all formats."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, notices: Iterable[FormatNotice], at: datetime) -> int:
        """Record what one batch noticed at ``at``; returns how many were never seen before.

        A notice is the same when provider, bucket, format, kind and name are: then it is counted once more, whichever
        file showed it. Several files of one batch that show the same count as one. An older ``at`` changes nothing but
        the count.
        """
        rows: dict[tuple[str, ...], dict[str, object]] = {}
        for notice in notices:
            key = (
                str(notice.provider),
                storable(notice.bucket),
                storable(notice.format),
                str(notice.kind),
                storable(notice.name),
            )
            rows.setdefault(
                key,
                {
                    **dict(zip(("provider", "bucket", "format", "kind", "name"), key, strict=True)),
                    "detail": storable(notice.detail),
                    "source": storable(notice.source),
                    "times": 1,
                    "first_seen_at": at,
                    "last_seen_at": at,
                },
            )
        if not rows:
            return 0
        statement = insert(FormatNoticeRow)
        given = statement.excluded
        upsert: ReturningInsert[Any] = statement.on_conflict_do_update(
            index_elements=["provider", "bucket", "format", "kind", "name"],
            set_={
                "times": FormatNoticeRow.times + 1,
                "detail": given.detail,
                "last_seen_at": func.greatest(FormatNoticeRow.last_seen_at, given.last_seen_at),
            },
        ).returning(literal_column("xmax = 0").label("is_new"))  # a row that was inserted has no deleting transaction
        with self._engine.begin() as connection:
            # in the order of the key: two batches at once wait for one another, and never in a circle
            return sum(bool(connection.execute(upsert.values(rows[key])).scalar_one()) for key in sorted(rows))

    def latest(
        self, *, provider: Provider | None = None, bucket: str | None = None, limit: int = 50
    ) -> list[SeenNotice]:
        """Give what was seen last, newest first: of one provider and log bucket, or of all."""
        wanted = (
            select(FormatNoticeRow)
            .order_by(
                FormatNoticeRow.last_seen_at.desc(),
                FormatNoticeRow.first_seen_at.desc(),
                FormatNoticeRow.provider,
                FormatNoticeRow.bucket,
                FormatNoticeRow.format,
                FormatNoticeRow.kind,
                FormatNoticeRow.name,
            )
            .limit(limit)
        )
        if provider is not None:
            wanted = wanted.where(FormatNoticeRow.provider == str(provider))
        if bucket is not None:
            wanted = wanted.where(FormatNoticeRow.bucket == bucket)
        with self._engine.connect() as connection:
            return [
                SeenNotice(
                    FormatNotice(
                        provider=Provider(row.provider),
                        bucket=row.bucket,
                        format=row.format,
                        kind=NoticeKind(row.kind),
                        name=row.name,
                        detail=row.detail,
                        source=row.source,
                    ),
                    times=row.times,
                    first_seen_at=row.first_seen_at,
                    last_seen_at=row.last_seen_at,
                )
                for row in connection.execute(wanted)
            ]
