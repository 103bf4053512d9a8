"""The providers' clients, made from Airflow connections through the providers' own hooks.

Imported by tasks only, and even then the hooks and the SDKs below them are loaded when a client is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from cloudflux.domain.tiers import Provider

if TYPE_CHECKING:
    from cloudflux.config import BucketSettings
    from cloudflux.domain.archive_rules import ArchiveRule
    from cloudflux.providers.aws_uploads import S3Uploads
    from cloudflux.providers.pace import Pace
    from cloudflux.providers.protocol import ObjectStore, TierClient

    class ProviderClient(TierClient, ObjectStore, Protocol):
        """A client that changes tiers and reads and writes files."""


_MOST_THREADS: Final = 128
"""Azure's and Google's requests are batches of a hundred moves and more, each in a thread of its own."""


def moving_client(named: BucketSettings, pace: Pace, *, plan_id: str, as_job: bool) -> tuple[Any, bool]:
    """Make what moves a bucket's objects, as its owner wants it; ``as_job``: by jobs of S3 Batch Operations.

    Tells also whether the provider's lifecycle rules do it, which charge otherwise than a copy.
    """
    match named.provider:
        case Provider.AWS:
            return _moving_aws_client(named, pace, plan_id=plan_id, as_job=as_job)
        case Provider.AZURE:
            return _azure_client(named.connection_id, pace=pace, lease_moves=named.lease_moves), False
        case Provider.GCP:
            may_remove = named.remove_superseded_versions
            return _gcp_client(named.connection_id, pace=pace, remove_superseded=may_remove), False


def _moving_aws_client(named: BucketSettings, pace: Pace, *, plan_id: str, as_job: bool) -> tuple[Any, bool]:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from cloudflux.orchestration.edge import now
    from cloudflux.providers.aws import AwsTierClient
    from cloudflux.providers.aws_batch import BatchOperationsTierClient
    from cloudflux.providers.aws_batch_calls import use_endpoint_as_is
    from cloudflux.providers.aws_lifecycle import LifecycleTierClient

    may_remove = named.remove_superseded_versions
    s3 = S3Hook(aws_conn_id=named.connection_id).get_conn()
    copying = AwsTierClient(
        s3, in_flight=pace.max_in_flight, pace_of=lambda _bucket: pace, remove_superseded=may_remove
    )
    if copying.leaves_versions(named.bucket):
        return LifecycleTierClient(s3, copying, clock=now, pace_of=lambda _bucket: pace), True
    settings = named.batch_operations
    if not as_job or settings is None:
        return copying, False
    control = AwsBaseHook(aws_conn_id=named.connection_id, client_type="s3control").get_conn()
    if not control.meta.endpoint_url.endswith(("amazonaws.com", "amazonaws.com.cn")):
        use_endpoint_as_is(control)
    jobs = BatchOperationsTierClient(
        s3,
        control,
        copying,
        account_id=settings.account_id,
        role_arn=settings.role_arn,
        manifest_bucket=settings.manifest_bucket,
        manifest_prefix=f"{settings.manifest_prefix.rstrip('/')}/{plan_id}",
        clock=now,
        remove_superseded=may_remove,
        write_once=settings.write_once,
        pace_of=lambda _bucket: pace,
    )
    return jobs, False


def archive_rules_of(named: BucketSettings) -> list[ArchiveRule]:
    """Read by which rules S3 Intelligent-Tiering archives a bucket's objects. Raises as ``archive_rules`` does."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from cloudflux.providers.aws_archive_rules import archive_rules

    return archive_rules(S3Hook(aws_conn_id=named.connection_id).get_conn(), named.bucket)


def unfinished_uploads(connection_id: str) -> S3Uploads:
    """Make what lists and aborts uploads in parts that were left in buckets of S3."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from cloudflux.providers.aws_uploads import S3Uploads

    return S3Uploads(S3Hook(aws_conn_id=connection_id).get_conn())


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
    return AwsTierClient(S3Hook(aws_conn_id=connection_id).get_conn(), remove_superseded=False)


def _azure_client(connection_id: str, *, pace: Pace | None = None, lease_moves: bool = False) -> ProviderClient:
    from airflow.providers.microsoft.azure.hooks.wasb import WasbHook

    from cloudflux.providers.azure import AzureTierClient

    service = WasbHook(wasb_conn_id=connection_id).get_conn()
    if pace is None:
        return AzureTierClient(service, lease_moves=lease_moves)
    in_flight = min(pace.max_in_flight, _MOST_THREADS)
    return AzureTierClient(service, in_flight=in_flight, pace_of=lambda _container: pace, lease_moves=lease_moves)


def _gcp_client(connection_id: str, *, pace: Pace | None = None, remove_superseded: bool = False) -> ProviderClient:
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

    client = EndpointHook(gcp_conn_id=connection_id).get_conn()
    if pace is None:
        return GcpTierClient(client, clock=now, remove_superseded=remove_superseded)
    return GcpTierClient(
        client,
        in_flight=min(pace.max_in_flight, _MOST_THREADS),
        pace_of=lambda _bucket: pace,
        remove_superseded=remove_superseded,
        clock=now,
    )
