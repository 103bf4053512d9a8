"""What CloudFlux may do in each cloud: the operations that it calls, the permissions that these need, and the policies.

``docs/permissions.md`` is made of this (``python -m cloudflux.providers.permissions``), and a contract test compares it
with the requests that the clients send: one that is not in ``OPERATIONS`` fails it, and so does one that a feature's
policy does not allow, and a permission that no request needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cloudflux.domain.tiers import Provider

_S3_PAGE: Final = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html"
_S3_API: Final = "https://docs.aws.amazon.com/AmazonS3/latest/API/API_"
_JOBS_PAGE: Final = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-iam-role-policies.html"
_ENTRA_PAGE: Final = "https://learn.microsoft.com/rest/api/storageservices/authorize-with-azure-active-directory"
_ABAC_PAGE: Final = "https://learn.microsoft.com/azure/storage/blobs/storage-auth-abac-attributes"
_GCS_PAGE: Final = "https://cloud.google.com/storage/docs/access-control/iam-json"
_CONTEXTS_PAGE: Final = "https://docs.cloud.google.com/storage/docs/use-object-contexts"


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of request, as the contract test tells them apart, and what it needs."""

    name: str
    """The API's own name; what changes the permissions stands behind it in brackets."""
    permissions: tuple[str, ...]
    source: str
    why: str = ""


def _s3(name: str, *actions: str, source: str = _S3_PAGE, why: str = "") -> Operation:
    return Operation(name, tuple(f"s3:{action}" for action in actions), source, why)


_LOCKS: Final = ("GetObjectRetention", "GetObjectLegalHold")
_LOCKS_WHY: Final = "the headers that tell of locks come only to who has the last two: without them locked looks free"

_AWS_OPERATIONS: Final = (
    _s3("ListObjectsV2", "ListBucket"),
    _s3("GetObject", "GetObject"),
    _s3("HeadObject", "GetObject", *_LOCKS, source=f"{_S3_API}HeadObject.html", why=_LOCKS_WHY),
    _s3("HeadObject (version)", "GetObjectVersion", *_LOCKS, why=_LOCKS_WHY),
    _s3("GetObjectTagging", "GetObjectTagging"),
    _s3("GetObjectTagging (version)", "GetObjectVersionTagging"),
    _s3("GetObjectAcl", "GetObjectAcl"),
    _s3("GetBucketVersioning", "GetBucketVersioning"),
    _s3("GetBucketOwnershipControls", "GetBucketOwnershipControls"),
    _s3("GetObjectLockConfiguration", "GetBucketObjectLockConfiguration"),
    _s3("GetBucketEncryption", "GetEncryptionConfiguration"),
    _s3(
        "ListBucketIntelligentTieringConfigurations", "GetIntelligentTieringConfiguration",
        source=f"{_S3_API}ListBucketIntelligentTieringConfigurations.html", why="one action reads one and lists all",
    ),
    _s3("CopyObject", "GetObject", "GetObjectTagging", "PutObject", "PutObjectTagging"),
    _s3(
        "CopyObject (version)", "GetObjectVersion", "GetObjectVersionTagging", "PutObject", "PutObjectTagging",
        why="tags are copied, so they are read and written",
    ),
    _s3("CreateMultipartUpload", "PutObject"),
    _s3("CreateMultipartUpload (tags)", "PutObject", "PutObjectTagging"),
    _s3("UploadPartCopy", "GetObject", "PutObject"),
    _s3("UploadPartCopy (version)", "GetObjectVersion", "PutObject"),
    _s3("CompleteMultipartUpload", "PutObject"),
    _s3("AbortMultipartUpload", "AbortMultipartUpload"),
    _s3("ListMultipartUploads", "ListBucketMultipartUploads"),
    _s3("DeleteObject (version)", "DeleteObjectVersion"),
    _s3("RestoreObject", "RestoreObject"),
    _s3("ListObjectVersions", "ListBucketVersions"),
    _s3("GetBucketLifecycleConfiguration", "GetLifecycleConfiguration"),
    _s3("PutBucketLifecycleConfiguration", "PutLifecycleConfiguration"),
    _s3(
        "DeleteBucketLifecycle", "PutLifecycleConfiguration",
        source=f"{_S3_API}DeleteBucketLifecycle.html", why="there is no action of its own",
    ),
    _s3("PutObject", "PutObject"),
    _s3("PutObjectTagging", "PutObjectTagging"),
    _s3("PutObjectTagging (version)", "PutObjectVersionTagging"),
    _s3("DeleteObjectTagging", "DeleteObjectTagging"),
    _s3("DeleteObjectTagging (version)", "DeleteObjectVersionTagging"),
    Operation(
        "CreateJob", ("s3:CreateJob", "s3:PutJobTagging", "iam:PassRole"), _JOBS_PAGE,
        "the job gets a tag, and the role that it runs under is handed to S3",
    ),
    _s3("DescribeJob", "DescribeJob"),
    _s3("ListJobs", "ListJobs"),
)  # fmt: skip

AWS_EXTRAS: Final = MappingProxyType(
    {
        "grants": Operation("grants", ("s3:PutObjectAcl",), _S3_PAGE, "a write that sets an ACL"),
        "kms": Operation(
            "kms",
            ("kms:Decrypt", "kms:GenerateDataKey"),
            f"{_S3_API}CopyObject.html",
            "a copy of what is encrypted with a key of KMS: S3 asks KMS in the caller's name",
        ),
    }
)
"""What an S3 request needs on top when it sets an ACL, or names a key of KMS."""

_BLOBS: Final = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"

_AZURE_OPERATIONS: Final = (
    Operation("List Blobs", (f"{_BLOBS}/read",), _ABAC_PAGE),
    Operation("List Blobs (tags)", (f"{_BLOBS}/read", f"{_BLOBS}/tags/read"), _ENTRA_PAGE),
    Operation("Get Blob", (f"{_BLOBS}/read",), _ABAC_PAGE),
    Operation("Get Blob Properties", (f"{_BLOBS}/read",), _ABAC_PAGE),
    Operation("Get Blob Tags", (f"{_BLOBS}/tags/read",), _ABAC_PAGE),
    Operation("Set Blob Tier", (f"{_BLOBS}/write",), _ABAC_PAGE, "the suboperation is Blob.Write.Tier"),
    Operation("Lease Blob", (f"{_BLOBS}/write",), _ENTRA_PAGE),
    Operation(
        "Blob Batch", (f"{_BLOBS}/write",), "https://learn.microsoft.com/rest/api/storageservices/blob-batch",
        "its calls are authorised one by one; no document was found that says what the batch itself needs beside",
    ),
)  # fmt: skip


def _gcs(name: str, *permissions: str, source: str = _GCS_PAGE, why: str = "") -> Operation:
    return Operation(name, tuple(f"storage.{permission}" for permission in permissions), source, why)


_GCP_OPERATIONS: Final = (
    _gcs("objects.list", "objects.list"),
    _gcs("objects.get", "objects.get"),
    _gcs("objects.get (ACL)", "objects.get", "objects.getIamPolicy", why="projection=full asks for the ACL"),
    _gcs("buckets.get", "buckets.get"),
    _gcs(
        "objects.rewrite", "objects.get", "objects.create", "objects.delete",
        why="the object is overwritten, and that needs the permission to delete it",
    ),
    _gcs(
        "objects.rewrite (ACL)", "objects.get", "objects.create", "objects.delete", "objects.setIamPolicy",
        why="the ACL is carried over",
    ),
    _gcs(
        "objects.rewrite (contexts)", "objects.get", "objects.create", "objects.delete", "objects.createContext",
        source=_CONTEXTS_PAGE, why="the contexts are carried over",
    ),
    _gcs("objects.delete (generation)", "objects.delete"),
)  # fmt: skip

OPERATIONS: Final[Mapping[Provider, Mapping[str, Operation]]] = MappingProxyType(
    {
        provider: MappingProxyType({operation.name: operation for operation in operations})
        for provider, operations in (
            (Provider.AWS, (*_AWS_OPERATIONS, *AWS_EXTRAS.values())),
            (Provider.AZURE, _AZURE_OPERATIONS),
            (Provider.GCP, _GCP_OPERATIONS),
        )
    }
)
"""Every operation that the clients call in collecting, looking and moving, by provider and name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Permissions on one kind of resource."""

    name: str
    resources: tuple[str, ...]
    permissions: tuple[str, ...]
    condition: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """What one use of CloudFlux needs, beside what the features that it builds on need."""

    provider: Provider
    name: str
    title: str
    told: str
    grants: tuple[Grant, ...]
    builds_on: tuple[str, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Permissions that no request of ours can show, and why they are needed all the same."""

    @property
    def permissions(self) -> frozenset[str]:
        """All that the feature grants by itself."""
        return frozenset(permission for grant in self.grants for permission in grant.permissions)


_LOG_BUCKETS: Final = ("arn:aws:s3:::LOG-BUCKET",)
_BUCKET: Final = ("arn:aws:s3:::BUCKET",)
_OBJECTS: Final = ("arn:aws:s3:::BUCKET/*",)
_MANIFESTS: Final = ("arn:aws:s3:::MANIFEST-BUCKET/cloudflux/*",)


def _actions(*names: str) -> tuple[str, ...]:
    return tuple(f"s3:{name}" for name in names)


_AWS_FEATURES: Final = (
    Feature(
        Provider.AWS,
        "collect",
        "Collect access logs and inventories",
        "On the buckets that access logs and inventory reports are delivered to; no other object can be read with it.",
        (
            Grant("ListDeliveries", _LOG_BUCKETS, _actions("ListBucket")),
            Grant("ReadDeliveries", ("arn:aws:s3:::LOG-BUCKET/*",), _actions("GetObject")),
        ),
    ),
    Feature(
        Provider.AWS,
        "look",
        "Look at objects: dry runs, and buckets without inventory reports",
        "Nothing can be changed with it. S3 has no permission for an object's headers without its content.",
        (
            Grant("ListObjects", _BUCKET, _actions("ListBucket", "GetBucketVersioning")),
            Grant(
                "LookAtObjects", _OBJECTS,
                _actions(
                    "GetObject", "GetObjectTagging", "GetObjectVersionTagging", "GetObjectRetention",
                    "GetObjectLegalHold",
                ),
            ),
        ),
    ),
    Feature(
        Provider.AWS,
        "move",
        "Move objects by copying them onto themselves",
        "In buckets without versions. Objects above 5 GiB are copied in parts. Taking moves back needs nothing else.",
        (
            Grant("KnowTheBucket", _BUCKET, _actions("GetBucketOwnershipControls")),
            Grant("CopyObjects", _OBJECTS, _actions("PutObject", "PutObjectTagging", "AbortMultipartUpload")),
        ),
        ("look",),
    ),
    Feature(
        Provider.AWS,
        "versions",
        "Move objects in buckets with versions, and remove the superseded version",
        "Where the estate file says `remove_superseded_versions: true`. Versions are deleted one by one, each by its "
        "id, after the copy is seen. Deny `s3:DeleteObjectVersion` on what must keep its history.",
        (
            Grant("KnowTheLock", _BUCKET, _actions("GetBucketObjectLockConfiguration")),
            Grant(
                "CopyVersions", _OBJECTS,
                _actions("GetObjectVersion", "DeleteObjectVersion"),
            ),
        ),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "intelligent-tiering",
        "Move objects to Intelligent-Tiering",
        "It may be told to archive what nobody reads. Without this, objects that must be readable at once are skipped "
        "with that reason.",
        (Grant("KnowTheArchiveTiers", _BUCKET, _actions("GetIntelligentTieringConfiguration")),),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "uploads",
        "Find and abort copies in parts that killed workers left",
        "For `./cloudflux reconcile`, where objects above 5 GiB move. Without it the moves are compared all the "
        "same, and it says that it could not look.",
        (Grant("ListUploads", _BUCKET, _actions("ListBucketMultipartUploads")),),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "restore",
        "Restore objects from GLACIER and DEEP_ARCHIVE",
        "A restored copy costs money: without this, archived objects are reported and left where they are.",
        (Grant("RestoreObjects", _OBJECTS, _actions("RestoreObject")),),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "acls",
        "Carry ACLs over",
        "Only in buckets whose Object Ownership is not *Bucket owner enforced*.",
        (Grant("CarryAcls", _OBJECTS, _actions("GetObjectAcl", "PutObjectAcl")),),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "kms",
        "Objects encrypted with keys of KMS",
        "On each key that encrypts objects that are to move, in the key's policy or here.",
        (
            Grant(
                "UseTheKey",
                ("arn:aws:kms:REGION:ACCOUNT:key/KEY-ID",),
                ("kms:Decrypt", "kms:GenerateDataKey"),
                MappingProxyType({"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}}),
            ),
        ),
        ("move",),
    ),
    Feature(
        Provider.AWS,
        "lifecycle",
        "Let lifecycle rules move objects, by tag",
        "In buckets with versions of which none may be deleted, and with object lock. Others' rules are written back "
        "as they were read: S3 has one configuration for a bucket, and no finer permission.",
        (
            Grant(
                "KeepRules", _BUCKET,
                _actions(
                    "GetLifecycleConfiguration", "PutLifecycleConfiguration", "GetBucketOwnershipControls",
                    "GetBucketObjectLockConfiguration",
                ),
            ),
            Grant(
                "TagVersions", _OBJECTS,
                _actions(
                    "PutObjectTagging", "PutObjectVersionTagging", "DeleteObjectTagging", "DeleteObjectVersionTagging",
                ),
            ),
        ),
        ("look",),
    ),
    Feature(
        Provider.AWS,
        "batch",
        "Let S3 Batch Operations move objects",
        "For the caller; the job itself runs under the role below.",
        (
            Grant(
                "KnowTheBucketForJobs", _BUCKET,
                _actions("GetEncryptionConfiguration", "GetBucketObjectLockConfiguration", "ListBucketVersions"),
            ),
            Grant("ListManifests", ("arn:aws:s3:::MANIFEST-BUCKET",), _actions("ListBucket")),
            Grant("WriteManifests", _MANIFESTS, _actions("GetObject", "PutObject")),
            Grant("Jobs", ("*",), _actions("CreateJob", "ListJobs")),
            Grant("OneJob", ("arn:aws:s3:*:ACCOUNT:job/*",), _actions("DescribeJob", "PutJobTagging")),
            Grant(
                "HandOverTheRole",
                ("arn:aws:iam::ACCOUNT:role/JOB-ROLE",),
                ("iam:PassRole",),
                MappingProxyType({"StringEquals": {"iam:PassedToService": "batchoperations.s3.amazonaws.com"}}),
            ),
        ),
        ("versions",),
    ),
)  # fmt: skip

_BY_S3: Final = "S3 does it under the job's role: no request of ours"

JOB_ROLE: Final = Feature(
    Provider.AWS,
    "job-role",
    "The role that a Batch Operations job runs under",
    "Its trust policy lets `batchoperations.s3.amazonaws.com` take it on.",
    (
        Grant("ReadTheManifest", _MANIFESTS, _actions("GetObject", "GetObjectVersion")),
        Grant("WriteTheReport", _MANIFESTS, _actions("PutObject")),
        Grant(
            "CopyObjects", _OBJECTS,
            _actions("GetObject", "GetObjectTagging", "PutObject", "PutObjectTagging"),
        ),
    ),
    unseen=MappingProxyType(
        dict.fromkeys(
            _actions("GetObject", "GetObjectVersion", "PutObject", "GetObjectTagging", "PutObjectTagging"), _BY_S3
        )
    ),
)  # fmt: skip
TRUST_POLICY: Final = MappingProxyType(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "batchoperations.s3.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"aws:SourceAccount": "ACCOUNT"}},
            }
        ],
    }
)

_ACCOUNT: Final = (
    "/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Storage/storageAccounts/ACCOUNT"
    "/blobServices/default/containers/CONTAINER"
)

_AZURE_FEATURES: Final = (
    Feature(
        Provider.AZURE,
        "collect",
        "Collect access logs and inventories",
        "The built-in role *Storage Blob Data Reader* has a little more than this. SAS: `rl` on the container.",
        (Grant("ReadDeliveries", (_ACCOUNT,), (f"{_BLOBS}/read",)),),
    ),
    Feature(
        Provider.AZURE,
        "look",
        "Look at blobs: dry runs, and containers without inventory reports",
        "Of the built-in roles only *Storage Blob Data Owner* may read index tags, so a custom role is needed. SAS: "
        "`rlt`.",
        (Grant("LookAtBlobs", (_ACCOUNT,), (f"{_BLOBS}/read", f"{_BLOBS}/tags/read")),),
    ),
    Feature(
        Provider.AZURE,
        "move",
        "Set the tier of blobs, rehydrate them, and take that back",
        "Leases (`lease_moves`) need nothing else. There is no permission for the tier alone: the condition below, on "
        "the role's assignment, narrows it to that. Nothing is deleted, and no snapshot, version or tag is touched. "
        "SAS: `rltw`.",
        (Grant("SetTiers", (_ACCOUNT,), (f"{_BLOBS}/write",)),),
        ("look",),
    ),
)

_PROJECT: Final = ("projects/PROJECT",)
_GCP_FEATURES: Final = (
    Feature(
        Provider.GCP,
        "collect",
        "Collect access logs and inventories",
        "The predefined role *Storage Object Viewer*, on the log and report buckets, has little more than this.",
        (Grant("cloudfluxCollector", _PROJECT, ("storage.objects.get", "storage.objects.list")),),
    ),
    Feature(
        Provider.GCP,
        "look",
        "Look at objects: dry runs, and buckets without inventory reports",
        "Nothing can be changed with it.",
        (Grant("cloudfluxViewer", _PROJECT, ("storage.objects.get", "storage.objects.list")),),
    ),
    Feature(
        Provider.GCP,
        "move",
        "Rewrite objects in another class, and take that back",
        "Overwriting an object needs `storage.objects.delete`: Google has no permission for the class alone. In "
        "buckets with versions the superseded generation is deleted with the same permission, where the estate file "
        "allows it. For objects under a key of Cloud KMS it is the storage service agent that needs the key.",
        (
            Grant(
                "cloudfluxMover",
                _PROJECT,
                ("storage.buckets.get", "storage.objects.create", "storage.objects.delete"),
            ),
        ),
        ("look",),
    ),
    Feature(
        Provider.GCP,
        "acls",
        "Carry ACLs over",
        "Only in buckets without uniform bucket-level access.",
        (Grant("cloudfluxAcls", _PROJECT, ("storage.objects.getIamPolicy", "storage.objects.setIamPolicy")),),
        ("move",),
    ),
    Feature(
        Provider.GCP,
        "contexts",
        "Carry object contexts over",
        "Only where objects have contexts.",
        (Grant("cloudfluxContexts", _PROJECT, ("storage.objects.createContext",)),),
        ("move",),
    ),
)

FEATURES: Final[Mapping[Provider, Mapping[str, Feature]]] = MappingProxyType(
    {
        provider: MappingProxyType({feature.name: feature for feature in features})
        for provider, features in (
            (Provider.AWS, _AWS_FEATURES),
            (Provider.AZURE, _AZURE_FEATURES),
            (Provider.GCP, _GCP_FEATURES),
        )
    }
)


def allowed(provider: Provider, name: str) -> frozenset[str]:
    """Give all permissions of a feature and of those that it builds on."""
    feature = FEATURES[provider][name]
    return feature.permissions.union(*(allowed(provider, below) for below in feature.builds_on))


def policy(feature: Feature) -> dict[str, Any]:
    """Write a feature's policy as its cloud takes it: an IAM policy, an Azure custom role, a role of Google's."""
    match feature.provider:
        case Provider.AWS:
            return {"Version": "2012-10-17", "Statement": [_statement(grant) for grant in feature.grants]}
        case Provider.AZURE:
            return {
                "Name": f"CloudFlux {feature.name}",
                "IsCustom": True,
                "Description": feature.title,
                "Actions": [],
                "DataActions": sorted(allowed(feature.provider, feature.name)),
                "AssignableScopes": ["/subscriptions/SUBSCRIPTION"],
            }
        case Provider.GCP:
            return {
                "title": f"CloudFlux {feature.name}",
                "description": feature.title,
                "stage": "GA",
                "includedPermissions": sorted(allowed(feature.provider, feature.name)),
            }


def _statement(grant: Grant) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": grant.name,
        "Effect": "Allow",
        "Action": sorted(grant.permissions),
        "Resource": list(grant.resources),
    }
    if grant.condition is not None:
        statement["Condition"] = dict(grant.condition)
    return statement


_HEAD: Final = """# Permissions

What CloudFlux needs in each cloud, and nothing else: paste what you use. This page is made by
`python -m cloudflux.providers.permissions`. A contract test sends every kind of request through the clients, maps each
to the permissions that its cloud's documents name, and fails when one lies outside these policies, or when a permission
here is needed by none of them (`tests/contract/test_permissions.py`).

Start with *collect* and *look*: dry runs need no more. What each bucket's credentials are is an Airflow connection
([configuration.md](configuration.md)), so that each may have its own.
"""

_AZURE_CONDITION: Final = f"""(
 (!(ActionMatches{{'{_BLOBS}/write'}} AND NOT SubOperationMatches{{'Blob.Write.Tier'}}))
)"""

_TITLES: Final = {Provider.AWS: "Amazon S3", Provider.AZURE: "Azure Blob Storage", Provider.GCP: "Google Cloud Storage"}
_INTRODUCTIONS: Final = {
    Provider.AWS: "Each policy adds to those that it builds on. Replace `BUCKET`, `LOG-BUCKET`, `MANIFEST-BUCKET`, "
    "`ACCOUNT`, `REGION`, `KEY-ID` and `JOB-ROLE`; list several buckets in one policy.",
    Provider.AZURE: "Custom roles for `az role definition create`, each with all that it needs; assign one at the "
    "container. Shared access signatures and account keys work too: the signature's letters are given.",
    Provider.GCP: "Custom roles for `gcloud iam roles create NAME --project=PROJECT --file=FILE` (JSON is YAML), each "
    "with all that it needs; bind one at the bucket.",
}


def render() -> str:
    """Write the page."""
    return "\n".join(_HEAD.splitlines() + [line for provider in Provider for line in _chapter(provider)]) + "\n"


def _chapter(provider: Provider) -> Iterator[str]:
    yield from ("", f"## {_TITLES[provider]}", "", _INTRODUCTIONS[provider])
    for feature in FEATURES[provider].values():
        yield from _section(feature)
    if provider is Provider.AWS:
        yield from _section(JOB_ROLE)
        yield from ("", "Its trust policy:", "", *_block(dict(TRUST_POLICY)))
        yield from ("", "For objects under keys of KMS add the policy of *kms* to the role; for ACLs that of *acls*.")
    if provider is Provider.AZURE:
        yield from (
            "",
            "A condition under which `blobs/write` sets tiers and nothing else (version 2.0; leases are other writes: "
            "leave it out with `lease_moves`). It was not tried against Azure itself.",
            "",
            "```",
            *_AZURE_CONDITION.splitlines(),
            "```",
        )
    yield from ("", "### What the requests need", "", "| request | permissions | source |", "|---|---|---|")
    for operation in OPERATIONS[provider].values():
        needed = ", ".join(f"`{permission}`" for permission in operation.permissions)
        name = {"grants": "any that sets an ACL, also", "kms": "any that names a key of KMS, also"}.get(
            operation.name, operation.name
        )
        why = f" ({operation.why})" if operation.why else ""
        yield f"| {name} | {needed}{why} | [document]({operation.source}) |"


def _section(feature: Feature) -> Iterator[str]:
    yield from ("", f"### {feature.title}", "", f"*{feature.name}*. {feature.told}")
    if feature.builds_on and feature.provider is Provider.AWS:
        yield from ("", f"Builds on {', '.join(f'*{name}*' for name in feature.builds_on)}.")
    yield from ("", *_block(policy(feature)))


def _block(content: Mapping[str, Any]) -> Iterator[str]:
    yield from ("```json", *json.dumps(content, indent=2).splitlines(), "```")


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201  # the page
