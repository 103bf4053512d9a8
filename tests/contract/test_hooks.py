"""The clients as the DAGs' tasks make them: from Airflow connections, through the providers' hooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign_warnings import AIRFLOW

from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider

pytestmark = [
    pytest.mark.contract,
    AIRFLOW,
]


@pytest.mark.parametrize(
    ("provider", "service", "connection_id", "to_class"),
    [
        (Provider.AWS, "s3", "aws_default", "STANDARD_IA"),
        (Provider.AZURE, "azure", "wasb_default", "Cool"),
        (Provider.GCP, "gcs", "google_cloud_default", "NEARLINE"),
    ],
)
def test_an_object_moves_when_the_client_comes_from_the_connection(
    *,
    provider: Provider,
    service: str,
    connection_id: str,
    to_class: str,
    stack_with: Callable[..., Any],
    new_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    name = f"AIRFLOW_CONN_{connection_id.upper()}"
    monkeypatch.setenv(name, stack_with(service).environment()[name])
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)  # the connection's endpoint has to do
    from cloudflux.orchestration.clients import tier_client

    client = tier_client(provider, connection_id)
    client.create_bucket(new_bucket)
    seen = client.put_object(ObjectRef(provider, new_bucket, "a.bin"), b"content")
    (result,) = client.change_tiers([TierChange(seen, to_class)])
    assert result.outcome is ChangeOutcome.CHANGED
    assert client.head(seen.ref).storage_class == to_class
    if provider is Provider.GCP:  # the others name us by themselves, whoever makes the SDK's client
        assert "cloudflux/" in client._client._connection.user_agent
