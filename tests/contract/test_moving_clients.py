"""Which client moves a bucket's objects: by what its owner set, and by what the bucket is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from foreign_warnings import AIRFLOW

from cloudflux.config import BatchOperations, BucketSettings
from cloudflux.domain.errors import BucketNotFound
from cloudflux.domain.tiers import Provider
from cloudflux.providers.pace import Pace

pytestmark = [
    pytest.mark.contract,
    AIRFLOW,
]

JOBS = BatchOperations(
    from_objects=10, account_id="123456789012", role_arn="arn:aws:iam::123456789012:role/r", manifest_bucket="m"
)


@pytest.fixture
def chosen(
    stack_with: Callable[..., Any], s3: Any, new_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, bool]]:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", stack_with("s3").environment()["AIRFLOW_CONN_AWS_DEFAULT"])

    def choose(*, versioning: str | None = None, lock: bool = False, as_job: bool = False, **settings: Any) -> Any:
        from cloudflux.orchestration.clients import moving_client

        s3.create_bucket(Bucket=new_bucket, ObjectLockEnabledForBucket=lock)
        if versioning is not None:
            s3.put_bucket_versioning(Bucket=new_bucket, VersioningConfiguration={"Status": versioning})
        if lock:
            retention = {"Mode": "GOVERNANCE", "Days": 1}
            s3.put_object_lock_configuration(
                Bucket=new_bucket,
                ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}},
            )
        named = BucketSettings(
            provider=Provider.AWS,
            bucket=new_bucket,
            price_book="aws-us-east-1",
            connection_id="aws_default",
            **settings,
        )
        client, by_lifecycle = moving_client(named, Pace(max_in_flight=4), plan_id="plan-1", as_job=as_job)
        return type(client).__name__, by_lifecycle

    return choose


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ({}, "AwsTierClient"),
        ({"versioning": "Enabled"}, "LifecycleTierClient"),
        ({"versioning": "Suspended"}, "LifecycleTierClient"),
        ({"versioning": "Enabled", "remove_superseded_versions": True}, "AwsTierClient"),
        ({"lock": True, "remove_superseded_versions": True}, "LifecycleTierClient"),
        ({"as_job": True}, "AwsTierClient"),
        ({"as_job": True, "batch_operations": JOBS}, "BatchOperationsTierClient"),
        ({"as_job": True, "batch_operations": JOBS, "versioning": "Enabled"}, "LifecycleTierClient"),
    ],
)
def test_the_client_leaves_no_version_behind_that_its_owner_wants_kept(
    chosen: Callable[..., tuple[str, bool]], bucket: dict[str, Any], name: str
) -> None:
    assert chosen(**bucket) == (name, name == "LifecycleTierClient")


def test_a_plan_is_settled_when_a_bucket_is_gone(
    stack_with: Callable[..., Any], new_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", stack_with("s3").environment()["AIRFLOW_CONN_AWS_DEFAULT"])
    from cloudflux.orchestration import movers

    named = BucketSettings(
        provider=Provider.AWS, bucket=new_bucket, price_book="aws-us-east-1", connection_id="aws_default"
    )
    monkeypatch.setattr(
        movers, "settings", lambda: SimpleNamespace(load_estate=lambda: SimpleNamespace(bucket=lambda *_: named))
    )
    group = SimpleNamespace(provider="aws", bucket=new_bucket)
    movers.retire_rules(SimpleNamespace(plan_id="plan-1", groups=(group,)))  # type: ignore[arg-type]  # what it reads
    from cloudflux.orchestration.clients import moving_client

    with pytest.raises(BucketNotFound, match=new_bucket):
        moving_client(named, Pace(max_in_flight=1), plan_id="plan-1", as_job=False)
