"""The clouds' own clients for emulators, made like those that Airflow's hooks give."""

from __future__ import annotations

from typing import Any


def s3_client(url: str, access_key: str = "test", secret_key: str = "test", **settings: Any) -> Any:  # noqa: S107  # the emulator takes any
    """Make a boto3 client of the S3 emulator at an address."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(**{"max_pool_connections": 32, "s3": {"addressing_style": "path"}, **settings}),
    )


def s3_control_client(url: str) -> Any:
    """Make a boto3 client of the jobs of the S3 emulator at an address."""
    import boto3

    from cloudflux.providers.aws_batch_calls import use_endpoint_as_is

    client = boto3.client(
        "s3control",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    use_endpoint_as_is(client)
    return client


def s3_admin(s3: Any, path: str) -> dict[str, Any]:
    """Ask the S3 emulator for what S3 does by itself: ``lifecycle``, ``jobs``."""
    import requests

    answer = requests.post(f"{s3.meta.endpoint_url}/_cloudflux/{path}", timeout=30)
    answer.raise_for_status()
    return dict(answer.json()) if answer.content else {}


def azure_client(connection_string: str) -> Any:
    """Make a client of Azurite."""
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient.from_connection_string(connection_string)


def gcs_client(url: str) -> Any:
    """Make a client of the GCS emulator at an address."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    client._bucket_metadata_cache = None  # which asks for buckets in threads of its own, see GcpTierClient
    return client
