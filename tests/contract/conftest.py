"""Fixtures of the contract suite: every client, over the session's stack."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from contract.backends import Backend, azure_backend, gcs_backend, memory_backend, s3_backend
from contract.requests_made import Requests, recorded
from sdk_clients import azure_client, gcs_client, s3_client

from cloudflux.domain.tiers import Provider


@pytest.fixture(autouse=True)
def only_known_requests() -> Iterator[Requests]:
    """Let every test fail whose clients send a request that no documented permission is known for."""
    with recorded() as found:
        yield found
    if found.problems:
        raise found.problems[0]


@pytest.fixture(scope="session")
def connection(stack_with: Callable[..., Any]) -> Callable[[str, str], Mapping[str, Any]]:
    """Start one emulator of the stack and give the Airflow connection to it, by its name."""

    def start(service: str, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(stack_with(service).environment()[f"AIRFLOW_CONN_{name}_DEFAULT"])
        return found

    return start


@pytest.fixture(scope="session")
def s3(connection: Callable[[str, str], Mapping[str, Any]]) -> Iterator[Any]:
    found = connection("s3", "AWS")
    client = s3_client(found["extra"]["endpoint_url"], found["login"], found["password"])
    yield client
    client.close()


@pytest.fixture(scope="session")
def azure(connection: Callable[[str, str], Mapping[str, Any]]) -> Iterator[Any]:
    with azure_client(connection("azure", "WASB")["extra"]["connection_string"]) as service:
        yield service


@pytest.fixture(scope="session")
def gcs(connection: Callable[[str, str], Mapping[str, Any]]) -> Iterator[Any]:
    client = gcs_client(connection("gcs", "GOOGLE_CLOUD")["extra"]["endpoint"])
    yield client
    client.close()


@pytest.fixture(params=["memory-aws", "memory-azure", "memory-gcp", "s3", "azure", "gcs"])
def backend(request: pytest.FixtureRequest) -> Backend:
    match request.param:
        case "s3":
            return s3_backend(request.getfixturevalue("s3"))
        case "azure":
            return azure_backend(request.getfixturevalue("azure"))
        case "gcs":
            return gcs_backend(request.getfixturevalue("gcs"))
        case name:
            return memory_backend(Provider(name.removeprefix("memory-")))


@pytest.fixture
def new_bucket() -> str:
    """A name that no test has used."""
    return f"contract-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def bucket(backend: Backend, new_bucket: str) -> str:
    backend.client.create_bucket(new_bucket)
    return new_bucket
