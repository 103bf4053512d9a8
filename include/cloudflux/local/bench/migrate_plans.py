"""What `bench migrate` carries out: plans, stored and moved by what the task uses, and its client of S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from cloudflux.domain.tiers import Provider

if TYPE_CHECKING:
    import pyarrow as pa

    from cloudflux.workflows.migrate import Mover

BUCKET: Final = "bench-migrate"
WARM: Final = {Provider.AWS: "STANDARD_IA", Provider.AZURE: "Cool", Provider.GCP: "NEARLINE"}
"""The class that objects are moved to from the standard one."""
_BOOK: Final = {Provider.AWS: "aws-us-east-1", Provider.AZURE: "azure-eastus-lrs", Provider.GCP: "gcs-us-central1"}
_USD: Final = Decimal("0.0000100000")


def real_mover(client: Any, provider: Provider, plans: Any, ledger: Any) -> Mover:
    """Give what the task uses to carry out a plan, with the costs of a price book."""
    from cloudflux.price_books import load_book
    from cloudflux.workflows.migrate import Mover
    from cloudflux.workflows.move_costs import move_costs, restore_orders

    book = load_book(_BOOK[provider])
    return Mover(
        client,
        plans,
        ledger,
        "bench",
        lambda: datetime.now(UTC),
        restore_of=restore_orders(book, within_hours=12, keep_days=7),
        steps_together=True,  # as for every client but those of lifecycle rules and jobs
        costs_of=move_costs(book),
    )


def store_plan(plans: Any, plan_id: str, provider: Provider, listed: pa.Table, to_class: str) -> None:
    """Store an approved plan to move all listed objects; ``listed`` has the columns of the inventory."""
    import pyarrow as pa

    from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlanState, PlanTotals
    from cloudflux.workflows.planned_moves import PLANNED_MOVES

    count = listed.num_rows
    total, from_class = count * _USD, listed["storage_class"][0].as_py()
    size_bytes = sum(listed["size_bytes"].to_pylist())
    same = {
        "provider": provider.value,
        "bucket": BUCKET,
        "to_class": to_class,
        "from_class": from_class,
        "saving_usd": _USD,
        "one_time_usd": _USD,
        "monthly_saving_usd": _USD,
        "payback_days": 30.0,
        "reason": "a benchmark",
        "role": "move",
        "undoes_move_no": None,
    }
    columns = []
    for wanted in PLANNED_MOVES:
        if wanted.name == "move_no":
            column = pa.array(range(count), wanted.type)
        elif wanted.name in same:
            column = pa.repeat(pa.scalar(same[wanted.name], wanted.type), count)
        else:
            column = listed[wanted.name].cast(wanted.type)
        columns.append(column)
    at = datetime.now(UTC)
    plan = MigrationPlan(
        plan_id=plan_id,
        run_id="bench",
        created_at=at,
        expires_at=at + timedelta(days=14),
        decisions_day=at.date(),
        horizon_days=180,
        dry_run=False,
        guardrails=Guardrails(10**9, 10**15, Decimal(10**6), Decimal(0)),
        totals=PlanTotals(count, size_bytes, total, total, total, total, count, 0),
        groups=(PlanGroup(provider.value, BUCKET, from_class, to_class, count, size_bytes, total, total, 30.0),),
    )
    plans.add(plan, pa.Table.from_arrays(columns, schema=PLANNED_MOVES), PlanState.APPROVED)


@contextmanager
def database_of(url: str) -> Iterator[tuple[Any, Any]]:
    """Open the stores of plans and of the ledger."""
    from cloudflux.stores import make_engine
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import STEPS_AT_ONCE

    engine = make_engine(url, pool_size=STEPS_AT_ONCE)
    try:
        yield Plans(engine), Ledger(engine)
    finally:
        engine.dispose()


def boto3_client(url: str, access_key: str, secret_key: str) -> Any:
    """Make the library's client of an S3 that is not Amazon's."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(max_pool_connections=32, s3={"addressing_style": "path"}),
    )


def aws_client(s3: Any, in_flight: int = 256) -> Any:
    """Make our client of it."""
    from cloudflux.providers.aws import AwsTierClient

    return AwsTierClient(s3, in_flight=in_flight)
