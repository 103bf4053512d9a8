"""Fixtures of S3's tests: the plain client, and what goes over its wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract.aws.wire import Wire, new_client, tap
from contract.backends import let_restores_take

from cloudflux.providers.aws import AwsTierClient


@pytest.fixture
def client(s3: Any) -> Iterator[AwsTierClient]:
    let_restores_take(s3, 0)
    client = new_client(s3)
    yield client
    client.close()


@pytest.fixture
def wire(client: AwsTierClient, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return tap(client, monkeypatch)
