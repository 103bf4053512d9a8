"""What a plan states that its jobs of S3 Batch Operations cost, is charged, and is recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from sdk_clients import s3_control_client

from cloudflux.domain.batch_jobs import JOB_MOVES, job_prices, job_terms
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import Guardrails, MoveRole, PlannedMove, PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.lake.schemas import DECISIONS
from cloudflux.price_books import load_book
from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient
from cloudflux.providers.workers import Workers
from cloudflux.workflows.job_fees import with_job_fees
from cloudflux.workflows.migrate import Mover
from cloudflux.workflows.move_costs import move_costs
from cloudflux.workflows.plan import build_plan, describe

pytestmark = pytest.mark.contract

ACCOUNT = "123456789012"
COPY_USD = {"GLACIER_IR": Decimal("0.0000204"), "STANDARD_IA": Decimal("0.0000104")}
"""One PUT into the class and one GET from STANDARD, in us-east-1."""


@dataclass
class Stores:
    """A plan that is approved, and its ledger, in memory."""

    plan: Any
    moves_: Sequence[PlannedMove]
    entries: list[LedgerEntry] = field(default_factory=list)

    def get(self, plan_id: str) -> Any:
        return self.plan

    def moves(self, plan_id: str, first: int, last: int) -> Sequence[PlannedMove]:
        return self.moves_[first : last + 1]

    def set_state(self, *_: Any) -> None:
        raise AssertionError("not asked for here")

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        self.entries += entries
        return len(entries)

    def states(self, plan_id: str, first: int = 0, last: int = 10**9) -> Mapping[int, tuple[MigrationState, str]]:
        return {entry.move_no: (entry.state, entry.detail) for entry in self.entries}

    def seen(self, plan_id: str, first: int = 0, last: int = 10**9) -> Mapping[int, ObjectState]:
        found = {entry.move_no: entry.object_state for entry in self.entries if entry.object_state is not None}
        return {number: state for number, state in found.items() if state is not None}


@dataclass(frozen=True)
class Approved:
    """What of a plan moves ask for."""

    plan_id: str
    guardrails: Guardrails
    expires_at: datetime
    state: PlanState = PlanState.APPROVED
    undoes: None = None


@pytest.fixture
def control(s3: Any) -> Iterator[Any]:
    client = s3_control_client(s3.meta.endpoint_url)
    yield client
    client.close()


def decisions(seen: Mapping[str, Sequence[ObjectState]]) -> pads.Dataset:
    rows = [
        {
            "provider": "aws", "bucket": state.ref.bucket, "key": state.ref.key, "version_id": state.ref.version_id,
            "etag": state.etag, "size_bytes": state.size_bytes, "last_modified_at": state.last_modified_at,
            "class_since_at": state.class_since_at, "day": state.last_modified_at.date(), "current_class": "STANDARD",
            "chosen_class": to_class, "action": "move", "reason": "nobody reads it", "horizon_days": 180,
            "expected_reads": 0.0, "stay_usd": 0.09, "chosen_usd": 0.03, "one_time_usd": float(COPY_USD[to_class]),
            "saving_usd": 0.06, "payback_days": 20.0, "current_monthly_usd": 0.015, "chosen_monthly_usd": 0.004,
            "rule_class": "STANDARD_IA", "candidates": [], "price_book": "aws-us-east-1",
        }
        for to_class, states in seen.items()
        for state in states
    ]  # fmt: skip
    return pads.dataset(pa.Table.from_pylist(rows, schema=DECISIONS))


def planned_moves(table: pa.Table) -> list[PlannedMove]:
    rows = table.to_pylist()
    for row in rows:
        place = Provider(row.pop("provider")), row.pop("bucket"), row.pop("key"), row.pop("version_id")
        row |= {"ref": ObjectRef(*place), "role": MoveRole(row["role"])}
    return [PlannedMove(**row) for row in rows]


def test_the_cost_that_is_stated_is_charged_and_recorded(s3: Any, control: Any, new_bucket: str) -> None:
    plain = AwsTierClient(s3)
    plain.create_bucket(new_bucket)
    plain.create_bucket(f"{new_bucket}-jobs")

    def put(key: str) -> ObjectState:
        return plain.put_object(ObjectRef(Provider.AWS, new_bucket, key), key.encode())

    seen = {  # of the second class there are too few for a job
        "GLACIER_IR": Workers(16).map(put, [f"many/{number:04}" for number in range(1_130)]),
        "STANDARD_IA": Workers(16).map(put, [f"few/{number:04}" for number in range(40)]),
    }
    book = load_book("aws-us-east-1")
    terms = job_terms(book, from_objects=1_100, write_once=True, remove_superseded=False)
    later = datetime.now(UTC) + timedelta(hours=2)
    guardrails = Guardrails(10**6, 2**60, Decimal(1), Decimal(0), canary_share=0.01)
    plan, table = build_plan(
        decisions(seen),
        run_id="r",
        created_at=later,
        day=later.date(),
        guardrails=guardrails,
        dry_run=False,
        terms_of=lambda *_: terms,
    )
    assert plan.totals.canaries == 12 + 1
    stores = Stores(Approved(plan.plan_id, guardrails, plan.expires_at), planned_moves(table))
    client = BatchOperationsTierClient(
        s3,
        control,
        plain,
        account_id=ACCOUNT,
        role_arn=f"arn:aws:iam::{ACCOUNT}:role/jobs",
        manifest_bucket=f"{new_bucket}-jobs",
        manifest_prefix=f"cloudflux/{plan.plan_id}",
        clock=lambda: later,
        write_once=True,
    )
    mover = Mover(
        client,
        stores,
        stores,
        "tests",
        lambda: later,
        step_moves=JOB_MOVES,
        costs_of=with_job_fees(move_costs(book), job_prices(book), client.job_sizes),
    )
    for first, last in ((0, 12), (13, 1_169)):  # as the tasks cut them
        while mover.carry_out(plan.plan_id, first, last).waiting:
            pass
    counts = Counter(state for state, _ in stores.states(plan.plan_id).values())
    assert counts == {MigrationState.DONE: 1_170}

    made = [job for job in control.list_jobs(AccountId=ACCOUNT)["Jobs"] if new_bucket in job["Description"]]
    tasks = [job["ProgressSummary"]["TotalNumberOfTasks"] for job in made]
    assert tasks == [1_130 - 12]  # the canaries are too few
    copies = 1_130 * COPY_USD["GLACIER_IR"] + 40 * COPY_USD["STANDARD_IA"]
    charged = copies + Decimal("0.25") * len(made) + Decimal("0.000001") * sum(tasks)
    recorded = sum(entry.cost_usd or 0 for entry in stores.entries if entry.state is MigrationState.DONE)
    cent_millionth = Decimal("1e-8") * 10  # a share of a job is kept to ten places
    assert plan.totals.one_time_usd == pytest.approx(charged, abs=cent_millionth)
    assert recorded == pytest.approx(charged, abs=cent_millionth)
    assert sum(move.one_time_usd for move in stores.moves_) == pytest.approx(charged, abs=cent_millionth)
    assert "Of the one-time cost, USD 0.251118 is what S3 Batch Operations charges" in describe(plan)
