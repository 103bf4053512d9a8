"""Settings: from `CLOUDFLUX_*` environment variables, and the estate file that names the buckets.

An unknown key or a wrong value fails at start with the key's name. Nothing here is read at import time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from cloudflux.domain.errors import SettingsError
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.objects import ObjectPrefix
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import TIER_OF, Provider

DEFAULT_EXCLUDED_AGENTS: Final = (
    "cloudflux/",  # ours: listing, verifying, moving
    # Veeam Backup & Replication. MinIO's server knows it by this text:
    # https://github.com/minio/minio/blob/master/cmd/veeam-sos-api.go (veeamAgentSubstr)
    "APN/1.0 Veeam/1.0",
)
"""Substrings of user agents whose requests are no use of an object, unless the estate names others.

Only what is found in a document or in code. Most services and scanners have no agent of their own, they use an SDK's:
they are told by who they are, see ``DEFAULT_EXCLUDED_REQUESTERS``, and by roles that only their owner knows (the roles
of GuardDuty Malware Protection, of bucketAV, ClamAV functions and Trend Micro's scanners, the application of Defender
for Storage). Left out on purpose: rclone, s5cmd, the AWS CLI and their like, with which people use objects, too.
"""

DEFAULT_EXCLUDED_REQUESTERS: Final = (
    # Amazon Macie's service-linked role, as its sessions appear in CloudTrail:
    # assumed-role/AWSServiceRoleForAmazonMacie/AmazonMacieSession
    # https://docs.aws.amazon.com/macie/latest/user/service-linked-roles.html
    "AWSServiceRoleForAmazonMacie",
    # AWS Backup: its service-linked role, and the default role that its console makes
    # https://docs.aws.amazon.com/aws-backup/latest/devguide/using-service-linked-roles-AWSServiceRoleForBackup.html
    "AWSServiceRoleForBackup",
    "AWSBackupDefaultServiceRole",
    # S3 replication: the role that the console makes (service-role/s3crr_role_for_<bucket>), and the session under
    # which any role replicates: key policies in public Terraform code name
    # arn:aws:sts::<account>:assumed-role/<role>/s3-replication. No document of AWS's was found that says so.
    "s3crr_role_for_",
    "/s3-replication",
    # S3 itself, as the access log records of its own log deliveries name it; it writes inventories likewise.
    "svc:s3.amazonaws.com",
    # Google's service agents of Storage Transfer Service and of Storage Insights, in any universe
    # https://docs.cloud.google.com/iam/docs/service-agents
    "@storage-transfer-service.iam.gserviceaccount.com",
    "@gcp-sa-storageinsights.",
)
"""Substrings of requesters whose requests are no use of an object, unless the estate names others."""


_ADDRESSES: Final = ("s3", "s3a", "s3n", "az", "abfs", "abfss", "wasb", "wasbs", "gs", "gcs")
"""What addresses begin with; those that are none of ours are told from keys, too: ``https:`` may begin a key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_tuple(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else (value,)


class LogSource(_Strict):
    """Where a bucket's access logs are delivered."""

    bucket: str
    prefix: str = ""
    lookback_days: int | None = Field(default=None, ge=1)
    """How many days back new files are looked for, where their names begin with the day; None lists them all."""
    format: Literal["s3_server_access", "cloudtrail", "azure_resource", "azure_classic", "gcs_usage", "gcs_audit"]

    def has(self, file: SourceFile) -> bool:
        """Tell whether a file lies here."""
        return file.bucket == self.bucket and file.key.startswith(self.prefix)


class InventorySource(_Strict):
    """Where a bucket's inventory reports are delivered."""

    bucket: str
    prefix: str = ""
    """Below which its manifests lie, e.g. `inventory/media-archive/daily/`."""
    configuration: str | None = Field(default=None, min_length=1)
    """Which of several configurations below the prefix: S3's id, the name of Azure's rule, the UUID of Google's report
    configuration. None: there is one, or all list the same objects."""
    format: Literal["s3_inventory", "azure_inventory", "gcs_insights"]


PROVIDER_OF_FORMAT: Final = {
    "s3_server_access": Provider.AWS,
    "cloudtrail": Provider.AWS,
    "s3_inventory": Provider.AWS,
    "azure_resource": Provider.AZURE,
    "azure_classic": Provider.AZURE,
    "azure_inventory": Provider.AZURE,
    "gcs_usage": Provider.GCP,
    "gcs_audit": Provider.GCP,
    "gcs_insights": Provider.GCP,
}


class PrefixSettings(_Strict):
    """What holds for the objects below one prefix of a bucket instead of what the bucket says."""

    prefix: str = Field(min_length=1)
    """What their keys begin with; an address in the bucket is taken as well, URL-quoted."""
    latency: Literal["ms", "hours"] | None = None
    pinned_class: str | None = None
    """The storage class that these objects are to be in, whatever it costs."""
    min_retention_days: int | None = Field(default=None, ge=0)


class BatchOperations(_Strict):
    """How S3 Batch Operations carry out large plans."""

    from_objects: int = Field(ge=1)
    """A plan with at least so many moves in the bucket goes to a job of S3's own."""
    account_id: str = Field(pattern=r"\d{12}")
    role_arn: str
    """The role that S3 takes on to copy the objects and to write the report."""
    manifest_bucket: str
    """Where the list of the objects and S3's report lie."""
    manifest_prefix: str = "cloudflux/"
    write_once: bool = False
    """Whether nobody overwrites objects of the bucket. S3's jobs look when an object was last written, to the second,
    and not again at the destination: without this promise, or versions, objects are copied by our own requests."""


def _key_prefix(prefix: str, bucket: Mapping[str, Any]) -> str:
    """Give the prefix of keys that an owner means: the keys' own text, or an address in this bucket, URL-quoted.

    Raises ``ValueError`` saying what to write for what would match no key, and so protect nothing.
    """
    provider, name = bucket.get("provider"), bucket.get("bucket")
    if provider is None or name is None:
        return prefix  # they are wrong themselves, and named
    scheme, separator, rest = prefix.partition("://")
    whole = ObjectPrefix(provider, name, "").uri
    if separator and scheme in _ADDRESSES:
        if not f"{prefix}/".startswith(whole):
            raise ValueError(
                f"{prefix!r} is an address outside of {whole}: write the beginning of the keys, as "
                f"{unquote(rest.partition('/')[2])!r}, or an address in this bucket"
            )
        return ObjectPrefix.from_uri(prefix).prefix
    if prefix.startswith("/"):
        without = prefix.lstrip("/") or whole
        raise ValueError(
            f"{prefix!r} begins with a slash, which keys seldom do: write {without!r}, or the address "
            f"{ObjectPrefix(provider, name, prefix).uri!r} if the keys do begin so"
        )
    return prefix


class BucketSettings(_Strict):
    """One bucket (or container) that CloudFlux looks after."""

    provider: Provider
    bucket: str
    logs: Annotated[tuple[LogSource, ...], BeforeValidator(_as_tuple)] = ()
    """Azure delivers reads and writes into two containers: name both."""
    inventory: InventorySource | None = None
    """None: the bucket is listed live."""
    min_coverage: float = Field(default=0.8, ge=0, le=1)
    """How much of the last 30 days its access logs must tell before a decision is made; 0 decides without any log."""
    price_book: str
    connection_id: str
    latency: Literal["ms", "hours"] = "ms"
    """The slowest first byte that the owner accepts: `hours` lets archive classes in."""
    allowed_classes: tuple[str, ...] | None = None
    """None: every class of the price book that the latency allows and that keeps the redundancy."""
    autopilot: bool = False
    """Whether GCS Autoclass is switched on for the bucket, or smart tier for the account of the container: then its
    provider chooses the classes, and every object is kept."""
    leave_autopilot: bool = False
    """Azure: whether single blobs may be taken out of smart tier, which nobody can take back. The inventory has to
    report `Smart` for the blobs that are in it: every other tier counts as the blob's own."""
    excluded_prefixes: tuple[str, ...] = ()
    """What the keys of objects that never move begin with; an address in this bucket is taken as well, URL-quoted."""
    min_retention_days: int = Field(default=0, ge=0)
    """An object that is younger is never moved."""
    prefixes: tuple[PrefixSettings, ...] = ()
    """Of several that fit an object, the longest holds."""
    max_tasks: int = Field(default=2, ge=1, le=256)
    """How many tasks may move objects of the bucket at one time; they share what follows."""
    max_in_flight: int = Field(default=256, ge=1, le=4096)
    """How many requests may be under way at one time."""
    max_requests_per_second: float | None = Field(default=None, gt=0)
    """None: as many as the provider takes; that is found out."""
    remove_superseded_versions: bool = False
    """In a bucket with versions a move by copy leaves the old version behind, billed for ever. True: it is deleted once
    the copy is verified. False: S3's objects are moved by lifecycle rules instead, Google's stay."""
    lease_moves: bool = False
    """Azure: hold a lease on each blob while its tier changes, so that nobody can overwrite it meanwhile."""
    restore_within_hours: int = Field(default=48, ge=1, le=240)
    """How long a restore from an archive class may take: the cheapest way that is fast enough is asked for."""
    restore_keep_days: int = Field(default=2, ge=1, le=30)
    """For how many days S3 keeps the readable copy of a restored object."""
    batch_operations: BatchOperations | None = None
    """None: all S3 objects are copied by our own requests."""

    def latency_of(self, key: str) -> Literal["ms", "hours"]:
        """Tell the slowest first byte that the owner accepts of one object."""
        fitting = [below for below in self.prefixes if below.latency is not None and key.startswith(below.prefix)]
        longest = max(fitting, key=lambda below: len(below.prefix), default=None)
        return self.latency if longest is None or longest.latency is None else longest.latency

    @field_validator("excluded_prefixes")
    @classmethod
    def _excluded_prefixes_are_of_keys(cls, prefixes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(_key_prefix(prefix, info.data) for prefix in prefixes)

    @field_validator("prefixes")
    @classmethod
    def _prefixes_are_of_keys(
        cls, prefixes: tuple[PrefixSettings, ...], info: ValidationInfo
    ) -> tuple[PrefixSettings, ...]:
        of_keys = tuple(below.model_copy(update={"prefix": _key_prefix(below.prefix, info.data)}) for below in prefixes)
        for prefix, number in Counter(below.prefix for below in of_keys).items():
            if number > 1:
                raise ValueError(f"{prefix!r} is there {number} times: put all that holds below it into one entry")
        return of_keys

    @field_validator("allowed_classes")
    @classmethod
    def _allowed_classes_are_known(
        cls, classes: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if classes is not None and not classes:
            raise ValueError(
                "an empty list allows no class at all: leave the key out for all that the latency allows, or name "
                "the bucket's present class if nothing is to move"
            )
        provider = info.data.get("provider")
        for name in classes or ():
            if provider is not None and name not in TIER_OF[provider]:
                raise ValueError(f"{name!r} is no storage class of {provider}: it has {', '.join(TIER_OF[provider])}")
        return classes

    @model_validator(mode="after")
    def _pins_are_known(self) -> Self:
        for below in self.prefixes:
            if below.pinned_class is not None and below.pinned_class not in TIER_OF[self.provider]:
                raise ValueError(
                    f"prefixes: pinned_class {below.pinned_class!r} of {below.prefix!r} is no storage class of "
                    f"{self.provider}: it has {', '.join(TIER_OF[self.provider])}"
                )
        return self

    @model_validator(mode="after")
    def _autopilot_can_be_left(self) -> Self:
        if self.leave_autopilot and self.provider is not Provider.AZURE:
            raise ValueError(
                f"leave_autopilot: single objects can leave Azure's smart tier only, not {self.provider}'s"
            )
        return self

    @model_validator(mode="after")
    def _formats_fit(self) -> Self:
        formats = {source.format for source in self.logs}
        if len(formats) > 1:
            raise ValueError(
                f"logs: {' and '.join(sorted(formats))} tell of the same requests, which would count twice: keep one"
            )
        for source in (*self.logs, *((self.inventory,) if self.inventory else ())):
            if PROVIDER_OF_FORMAT[source.format] is not self.provider:
                raise ValueError(f"{source.format} is no format of {self.provider}")
        return self


class Estate(_Strict):
    """All buckets that CloudFlux looks after, and what holds for all of them."""

    buckets: tuple[BucketSettings, ...] = ()
    excluded_agents: tuple[str, ...] = DEFAULT_EXCLUDED_AGENTS
    """Substrings of user agents, letter case ignored. Those that the file names replace the defaults."""
    excluded_requesters: tuple[str, ...] = DEFAULT_EXCLUDED_REQUESTERS
    """Substrings of the requester: an IAM role's ARN, a service account's mail, an Azure app or object id; as above."""

    @model_validator(mode="after")
    def _buckets_are_told_apart(self) -> Self:
        for (provider, name), number in Counter((bucket.provider, bucket.bucket) for bucket in self.buckets).items():
            if number > 1:
                hint = ": containers of one name in two accounts need an estate each" if provider == "azure" else ""
                raise ValueError(f"buckets: {name!r} of {provider} is named {number} times{hint}")
        return self

    @model_validator(mode="after")
    def _classic_logs_are_of_one_account(self) -> Self:
        connections: dict[str, str] = {}
        for bucket in self.buckets:
            for logs in bucket.logs:
                if logs.format != "azure_classic":
                    continue
                other = connections.setdefault(logs.bucket, bucket.connection_id)
                if other != bucket.connection_id:
                    raise ValueError(
                        f"buckets: the classic logs in {logs.bucket!r} are read through {other!r} and "
                        f"{bucket.connection_id!r}: those of each account have the same names, so give all buckets of "
                        "an account one connection, and other accounts an estate each"
                    )
        return self

    @property
    def exclusions(self) -> Exclusions:
        """Whose requests are no use of an object, as the parsers take it."""
        return Exclusions(agents=self.excluded_agents, requesters=self.excluded_requesters)

    def bucket(self, provider: str, bucket: str) -> BucketSettings:
        """Give one bucket's settings. Raises ``SettingsError`` when the estate does not name it."""
        for settings in self.buckets:
            if settings.provider == provider and settings.bucket == bucket:
                return settings
        raise SettingsError(f"the estate names no bucket {bucket!r} of {provider}: add it to the estate file")


class Settings(BaseSettings):
    """What a process needs to know, from `CLOUDFLUX_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="CLOUDFLUX_", frozen=True)

    database_url: str
    """SQLAlchemy URL of our own database, e.g. `postgresql+psycopg://user:secret@host/cloudflux`."""
    lake_url: str
    """Folder or fsspec URL of the Parquet lake."""
    estate: Path
    """The YAML file that names the buckets."""
    shards: int = Field(default=4, ge=1, le=4096)
    horizon_days: int = Field(default=180, ge=1, le=730)
    """Over how many days costs are weighed."""
    history_days: int = Field(default=400, ge=28)
    """How many days of daily access a forecast looks back on."""
    kafka_topic: str = "data-ingestion"
    registered_model: str = "access-forecaster"
    moves_poll_seconds: float = Field(default=300, gt=0)
    """How often moves are looked at that the provider is at work on: restores, lifecycle rules, jobs."""
    drift_max_psi: float = Field(default=0.25, gt=0)
    """Training is asked for when a feature's population stability index against the training is above this;"""
    drift_max_ratio: float = Field(default=1.5, gt=1)
    """or when realised reads are so many times the forecast ones, or the forecast ones the realised;"""
    drift_max_calibration_error: float = Field(default=0.1, gt=0, le=1)
    """or when probabilities of any read were further than this from the share of objects read;"""
    drift_max_refuted_share: float = Field(default=0.05, gt=0, le=1)
    """or when more objects than this share refute the usage chain by their own reads."""

    def load_estate(self) -> Estate:
        """Read the estate file. Raises ``SettingsError`` naming the file and the key."""
        return load_estate(self.estate)


def load_settings() -> Settings:
    """Read the environment. Raises ``SettingsError`` naming each variable that is missing or wrong."""
    try:
        return Settings()  # type: ignore[call-arg]  # pydantic fills the fields from the environment
    except ValidationError as exc:
        raise SettingsError(_explain("environment", exc, prefix="CLOUDFLUX_")) from exc


def load_estate(path: Path) -> Estate:
    """Read and validate an estate file. Raises ``SettingsError`` naming the file and the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise SettingsError(f"there is no estate file {path}: write one, see docs/configuration.md") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not YAML: {exc}") from exc
    try:
        return Estate.model_validate(content or {})
    except ValidationError as exc:
        raise SettingsError(_explain(str(path), exc)) from exc


def _explain(where: str, exc: ValidationError, prefix: str = "") -> str:
    problems = []
    for error in exc.errors():
        key = ".".join(str(part) for part in error["loc"])
        problems.append(f"{prefix}{key.upper() if prefix else key}: {error['msg']}")
    return f"{where}: {'; '.join(problems)}"
