"""The providers' clients, made from Airflow connections through the providers' own hooks.

Imported by tasks only, and even then the hooks and the SDKs below them are loaded when a client is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cloudflux.domain.tiers import Provider

if TYPE_CHECKING:
    from cloudflux.config import BucketSettings
    from cloudflux.providers.pace import Pace
    from cloudflux.providers.protocol import ObjectStore, TierClient

    class ProviderClient(TierClient, ObjectStore, Protocol):
        """A client that changes tiers and reads and writes files."""


def moving_client(named: BucketSettings, pace: Pace, *, as_job: bool) -> tuple[Any, bool]:
    """Make what moves a bucket's objects; ``as_job``: by a job of S3 Batch Operations.

    Tells also whether the provider's lifecycle rules do it, which charge otherwise than a copy.
    """
    return tier_client(named.provider, named.connection_id), False


def tier_client(provider: Provider | str, connection_id: str) -> ProviderClient:
    """Make the client of a provider from an Airflow connection.

    Raises what the hook raises when the connection is missing or incomplete.
    """
    match Provider(provider):
        case Provider.AWS:
            return _aws_client(connection_id)
        case Provider.AZURE:
            return _azure_client(connection_id)
        case Provider.GCP:
            return _gcp_client(connection_id)


def _aws_client(connection_id: str) -> ProviderClient:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from cloudflux.providers.aws import AwsTierClient

    # Endpoint, pool size and addressing come from the connection's extra (`endpoint_url`, `config_kwargs`).
    return AwsTierClient(S3Hook(aws_conn_id=connection_id).get_conn())


def _azure_client(connection_id: str) -> ProviderClient:
    from airflow.providers.microsoft.azure.hooks.wasb import WasbHook

    from cloudflux.providers.azure import AzureTierClient

    return AzureTierClient(WasbHook(wasb_conn_id=connection_id).get_conn())


def _gcp_client(connection_id: str) -> ProviderClient:
    from airflow.providers.google.cloud.hooks.gcs import GCSHook
    from google.api_core.client_info import ClientInfo
    from google.cloud import storage

    from cloudflux.orchestration.edge import now
    from cloudflux.providers.gcp import GcpTierClient
    from cloudflux.providers.protocol import AGENT

    class EndpointHook(GCSHook):  # type: ignore[misc]  # Airflow's hooks have no types here
        """A ``GCSHook`` that takes an endpoint from its connection (``extra.endpoint``) and names us to the server."""

        def get_client_options(self, api_endpoint_override: str | None = None) -> Any:
            return super().get_client_options(api_endpoint_override or self._get_field("endpoint"))

        def get_conn(self) -> storage.Client:
            return storage.Client(
                project=self.project_id,
                credentials=self.get_credentials(),
                client_info=ClientInfo(user_agent=AGENT),
                client_options=self.get_client_options(),
            )

    return GcpTierClient(EndpointHook(gcp_conn_id=connection_id).get_conn(), clock=now)
