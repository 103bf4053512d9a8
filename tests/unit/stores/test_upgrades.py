"""Databases of earlier releases: what they hold is there after the upgrade."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from alembic import command
from foreign_warnings import UNNEST
from sqlalchemy import text

from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MoveRole, PlanKind, PlanState
from cloudflux.stores import make_engine, upgrade
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.stores.savings import Savings
from cloudflux.stores.schema import alembic_config

pytestmark = UNNEST

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
_SEEN = (
    '{"size_bytes": 7, "storage_class": "STANDARD", "etag": "e", "last_modified_at": "2026-01-01T00:00:00+00:00", '
    '"class_since_at": "2026-01-01T00:00:00+00:00", "content_type": null, "checksum": null, "metadata": {}, '
    '"tags": {}, "headers": null}'
)


def test_a_plan_that_is_under_way_goes_on_when_the_database_is_upgraded(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA cloudflux"))
        command.upgrade(alembic_config(connection), "0003")
        connection.execute(
            text(
                "INSERT INTO cloudflux.plans VALUES ('p', 'run', :at, '2026-10-31', 180, false, 'approved', 10, 20, "
                "'Infinity', 0.01, 1, 7, 1, 2, 3, 4, 5, 6)"
            ),
            {"at": AT},
        )
        connection.execute(
            text(
                "INSERT INTO cloudflux.planned_moves VALUES ('p', 0, 'aws', 'b', 'k', 'v1', 'e', 7, :at, :at, "
                "'STANDARD', 'GLACIER_IR', 1, 2, 3, 4.5, 'why')"
            ),
            {"at": AT},
        )
        connection.execute(
            text(
                "INSERT INTO cloudflux.ledger (plan_id, move_no, step, provider, bucket, key, version_id, state, at, "
                "from_class, to_class, etag, size_bytes, detail, one_time_usd, expected_saving_usd, actor) VALUES "
                "('p', 0, 1, 'aws', 'b', 'k', 'v1', 'submitted', :at, 'STANDARD', 'GLACIER_IR', 'e', 7, :seen, 2, 1, "
                "'me')"
            ),
            {"at": AT, "seen": _SEEN},
        )
    upgrade(empty_database_url)
    plan = Plans(engine).get("p")
    assert (plan.state, plan.kind, plan.undoes) == (PlanState.APPROVED, PlanKind.PLACEMENT, None)
    assert plan.expires_at == AT + timedelta(days=14)
    assert (plan.guardrails.max_objects, plan.guardrails.max_bytes) == (10, 20)
    assert plan.guardrails.max_one_time_usd == Decimal("Infinity")
    assert plan.guardrails.min_saving_usd == Decimal("0.01")
    assert plan.above_caps == ()
    Plans(engine).check_moves("p")
    (move,) = Plans(engine).moves("p", 0, 9)
    assert (move.role, move.undoes_move_no, move.payback_days) == (MoveRole.MOVE, None, 4.5)
    (state,) = Ledger(engine).seen("p").values()
    assert (state.ref, state.size_bytes, state.etag) == (move.ref, 7, "e")
    assert Ledger(engine).counts("p") == {MigrationState.SUBMITTED: 1}
    engine.dispose()


def test_a_report_keeps_its_plan_and_what_was_expected_when_the_database_is_upgraded(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA cloudflux"))
        command.upgrade(alembic_config(connection), "0004")
        connection.execute(
            text(
                "INSERT INTO cloudflux.savings VALUES ('r', :at, '2026-10-31', 9, 8, 1, 7, 6, 5, 1.5, 0.25, "
                """'{"plan_id": "p"}')"""
            ),
            {"at": AT},
        )
    upgrade(empty_database_url)
    report = Savings(engine).latest("p")
    assert report is not None
    assert (report.realised_usd_month, report.projected_usd_month, report.plan_id) == (None, 5, "p")
    assert report.details["carried_out_usd_month"] == "1.5000000000"  # expected, and not measured
    engine.dispose()
