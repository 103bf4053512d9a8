"""Fixtures of the tests of jobs of S3 Batch Operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from contract.aws.batch.jobs import (
    ACCOUNT,
    Counted,
)
from sdk_clients import s3_admin, s3_control_client

from cloudflux.providers.aws import AwsTierClient
from cloudflux.providers.aws_batch import BatchOperationsTierClient


@pytest.fixture
def looker(s3: Any) -> AwsTierClient:
    return AwsTierClient(s3)


@pytest.fixture
def control(s3: Any) -> Iterator[Counted]:
    client = s3_control_client(s3.meta.endpoint_url)
    yield Counted(client)
    client.close()


@pytest.fixture
def bucket(looker: AwsTierClient, new_bucket: str) -> str:
    looker.create_bucket(new_bucket)
    looker.create_bucket(f"{new_bucket}-jobs")
    return new_bucket


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def held(s3: Any) -> Iterator[Callable[[], object]]:
    """Keep jobs from running until it is called."""
    s3_admin(s3, "jobs?hold=true")
    try:
        yield partial(s3_admin, s3, "jobs?hold=false")
    finally:
        s3_admin(s3, "jobs?hold=false")


@pytest.fixture
def new_client(
    s3: Any, control: Counted, looker: AwsTierClient, bucket: str
) -> Callable[..., BatchOperationsTierClient]:
    """Make a client as a new process would have it, two hours after the objects were written."""

    def make(**settings: Any) -> BatchOperationsTierClient:
        return BatchOperationsTierClient(
            s3,
            control,
            settings.pop("looker", looker),
            account_id=ACCOUNT,
            role_arn=f"arn:aws:iam::{ACCOUNT}:role/jobs",
            manifest_bucket=f"{bucket}-jobs",
            manifest_prefix="plans/one",
            clock=lambda: datetime.now(UTC) + timedelta(hours=2),
            **{"write_once": True, "remove_superseded": True, "from_objects": 1, **settings},
        )

    return make
