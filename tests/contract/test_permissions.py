"""The clients call nothing outside the documented policies, and no documented permission goes unused.

Every scenario uses one feature of ``cloudflux.providers.permissions`` over a cloud's emulator. The requests that come
out of the clients are recorded where they leave the process, and named; what they need is compared with the policy. The
emulators ask for no permissions themselves: this proves which requests are made, and not what a cloud makes of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.backends import let_restores_take
from contract.requests_made import Requests, UnknownRequest, aws_calls, azure_calls, gcp_calls, recorded
from sdk_clients import s3_admin, s3_control_client

from cloudflux.domain.migrations import ChangeOutcome, RestoreOrder, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.permissions import FEATURES, JOB_ROLE, OPERATIONS, Feature, allowed, policy, render

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = date(2026, 1, 1)
ACCOUNT = "123456789012"


def needed(provider: Provider, found: Requests) -> frozenset[str]:
    """Give all permissions that recorded requests need."""
    table = OPERATIONS[provider]
    names = {name for one in found.made for name in (one.operation, *one.extras)}
    return frozenset(permission for name in names for permission in table[name].permissions)


def check(feature: Feature, found: Requests) -> None:
    """Compare what was sent with what the feature's policy, and those that it builds on, allow."""
    assert not found.problems, found.problems[0]
    assert found.made
    assert {one.provider for one in found.made} == {feature.provider}
    needs = needed(feature.provider, found)
    assert needs <= allowed(feature.provider, feature.name), "requests lie outside the policy"
    assert feature.permissions - feature.unseen.keys() <= needs, "permissions that no request needs"


def ref(provider: Provider, bucket: str, key: str = "a.bin") -> ObjectRef:
    return ObjectRef(provider, bucket, key)


def move(client: Any, seen: ObjectState, to_class: str, **more: Any) -> ChangeOutcome:
    """Move an object as the workflow does: a look, the change, a look."""
    (now,) = client.head_many([seen.ref])
    assert isinstance(now, ObjectState)
    (result,) = client.change_tiers([TierChange(seen, to_class, now, **more)])
    client.head_many([seen.ref])
    outcome: ChangeOutcome = result.outcome
    return outcome


def move_and_back(client: Any, seen: ObjectState, to_class: str) -> None:
    """Move an object, and take that back."""
    assert move(client, seen, to_class) is ChangeOutcome.CHANGED
    (after,) = client.head_many([seen.ref])
    assert isinstance(after, ObjectState)
    assert move(client, after, seen.storage_class) is ChangeOutcome.CHANGED


def collect(client: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    delivered = ref(client.provider, bucket, "logs/2026-01-01-00.gz")
    client.put_object(delivered, b"lines")
    assert [file.key for file in client.list_files(bucket, "logs/", "logs/2026")] == [delivered.key]
    assert client.get_object(delivered) == b"lines"
    assert b"".join(client.read_blocks(delivered, 2)) == b"lines"


def look(client: Any, bucket: str, **settings: Any) -> None:
    count = 40  # enough that they are listed where that is cheaper than to ask for each
    refs = [ref(client.provider, bucket, f"{number:02}.bin") for number in range(count + 1)]
    for one in refs[:count]:
        client.put_object(one, b"content", **settings)
    assert client.head_many(refs)[count] is None
    assert len(client.head_many(refs[:1])) == 1
    assert client.head(refs[0]).size_bytes == 7
    assert sum(len(page) for page in client.list_pages(bucket)) == count
    assert sum(batch.num_rows for batch in client.list_inventory(bucket, DAY)) == count


# -- Amazon S3 --------------------------------------------------------------------------------


@pytest.fixture
def aws(s3: Any) -> Any:
    from cloudflux.providers.aws import AwsTierClient
    from cloudflux.providers.aws_copies import CopyLimits

    client = AwsTierClient(s3, limits=CopyLimits(one_copy_bytes=7 * 2**20, part_bytes=5 * 2**20))
    yield client
    client.close()


def _versioned(s3: Any, client: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def aws_collect(client: Any, s3: Any, bucket: str) -> None:
    collect(client, bucket)


def aws_look(client: Any, s3: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    assert client.head_many([ref(Provider.AWS, bucket, "none")]) == [None]  # or is it the bucket that is not there?
    look(client, bucket, tags={"a": "1"})
    _versioned(s3, client, f"{bucket}-v")
    look(client, f"{bucket}-v", tags={"a": "1"})


def aws_move(client: Any, s3: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    move_and_back(client, client.put_object(ref(Provider.AWS, bucket), b"content", tags={"a": "1"}), "STANDARD_IA")
    large = client.put_object(ref(Provider.AWS, bucket, "large.bin"), bytes(12 * 2**20), tags={"a": "1"})
    move_and_back(client, large, "GLACIER_IR")
    _move_overwritten_meanwhile(client, s3, large.ref)


def _move_overwritten_meanwhile(client: Any, s3: Any, large: ObjectRef) -> None:
    """Let the parts of a copy be given up."""
    seen = client.head(large)
    transport = client._requests._transport
    original = transport.send

    async def send(method: str, url: str, headers: Any, body: bytes) -> Any:
        if method == "POST" and "uploadId=" in url:
            s3.put_object(Bucket=large.bucket, Key=large.key, Body=b"new")
        return await original(method, url, headers, body)

    transport.send = send
    try:
        assert move(client, seen, "STANDARD_IA") is ChangeOutcome.CONFLICT
    finally:
        del transport.send


def aws_versions(client: Any, s3: Any, bucket: str) -> None:
    _versioned(s3, client, bucket)
    assert not client.leaves_versions(bucket)
    move_and_back(client, client.put_object(ref(Provider.AWS, bucket), b"content", tags={"a": "1"}), "STANDARD_IA")
    large = client.put_object(ref(Provider.AWS, bucket, "large.bin"), bytes(12 * 2**20))
    move_and_back(client, large, "GLACIER_IR")


def aws_intelligent_tiering(client: Any, s3: Any, bucket: str) -> None:
    from cloudflux.providers.aws_archive_rules import archive_rules

    client.create_bucket(bucket)
    assert archive_rules(s3, bucket) == []
    move_and_back(client, client.put_object(ref(Provider.AWS, bucket), b"content"), "INTELLIGENT_TIERING")


def aws_uploads(client: Any, s3: Any, bucket: str) -> None:
    from cloudflux.providers.aws_uploads import S3Uploads

    client.create_bucket(bucket)
    s3.create_multipart_upload(Bucket=bucket, Key="a.bin")
    uploads = S3Uploads(s3)
    (left,) = uploads.unfinished(bucket, ["a.bin"])
    uploads.abort(left)
    assert uploads.unfinished(bucket, ["a.bin"]) == []


def aws_restore(client: Any, s3: Any, bucket: str) -> None:
    let_restores_take(s3, 0)
    client.create_bucket(bucket)
    seen = client.put_object(ref(Provider.AWS, bucket), b"content", storage_class="GLACIER")
    order = RestoreOrder("bulk", 2)
    assert move(client, seen, "STANDARD", restore=order) is ChangeOutcome.RESTORING
    outcomes = [move(client, seen, "STANDARD", restore=order) for _ in range(3)]
    assert outcomes[-1] is ChangeOutcome.CHANGED


def aws_acls(client: Any, s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
    s3.put_object(Bucket=bucket, Key="a.bin", Body=b"content", ACL="public-read")
    move_and_back(client, client.head(ref(Provider.AWS, bucket)), "STANDARD_IA")


def aws_kms(client: Any, s3: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    key = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/11111111-1111-4111-8111-111111111111"
    s3.put_object(Bucket=bucket, Key="a.bin", Body=b"content", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    move_and_back(client, client.head(ref(Provider.AWS, bucket)), "STANDARD_IA")


def aws_lifecycle(client: Any, s3: Any, bucket: str) -> None:
    from cloudflux.providers.aws import AwsTierClient
    from cloudflux.providers.aws_lifecycle import LifecycleTierClient

    _versioned(s3, client, bucket)
    keeping = AwsTierClient(s3, remove_superseded=False)
    assert keeping.leaves_versions(bucket)
    rules = LifecycleTierClient(s3, keeping, clock=lambda: datetime.now(UTC))
    names = [ref(Provider.AWS, bucket, f"{number}.bin") for number in range(4)]
    tagged, bare, inherited, alone = (
        client.put_object(name, b"content", tags={"a": "1"} if number % 2 == 0 else None)
        for number, name in enumerate(names)
    )
    for seen in (tagged, bare, inherited, alone):
        assert move(rules, seen, "GLACIER_IR") is ChangeOutcome.PENDING
    for seen in (inherited, alone):  # a copy takes our tag with it
        s3.copy_object(
            Bucket=bucket, Key=seen.ref.key, CopySource={"Bucket": bucket, "Key": seen.ref.key}, StorageClass="STANDARD"
        )
    assert rules.withdraw([inherited.ref, alone.ref]) == 2
    at = (datetime.now(UTC) + timedelta(days=40)).strftime("%Y-%m-%dT%H:%M:%SZ")
    s3_admin(s3, f"lifecycle?bucket={bucket}&at={at}")
    for seen in (tagged, bare):
        assert move(rules, seen, "GLACIER_IR") is ChangeOutcome.CHANGED
    rules.retire(bucket)
    keeping.close()


def aws_batch(client: Any, s3: Any, bucket: str) -> None:
    from cloudflux.providers.aws_batch import BatchOperationsTierClient

    _versioned(s3, client, bucket)
    client.create_bucket(f"{bucket}-jobs")
    control = s3_control_client(s3.meta.endpoint_url)

    def new_client() -> Any:
        return BatchOperationsTierClient(
            s3,
            control,
            client,
            account_id=ACCOUNT,
            role_arn=f"arn:aws:iam::{ACCOUNT}:role/jobs",
            manifest_bucket=f"{bucket}-jobs",
            manifest_prefix="cloudflux/plan",
            clock=lambda: datetime.now(UTC) + timedelta(hours=2),
            remove_superseded=True,
            from_objects=1,
        )

    seen = client.put_object(ref(Provider.AWS, bucket), b"content", tags={"a": "1"})
    s3_admin(s3, "jobs?hold=true")
    try:
        assert move(new_client(), seen, "GLACIER_IR") is ChangeOutcome.PENDING
        # what a process leaves that is killed before it wrote down which job it asked for
        listed = s3.list_objects_v2(Bucket=f"{bucket}-jobs")["Contents"]
        (job,) = [item["Key"] for item in listed if item["Key"].endswith(".job")]
        s3.delete_object(Bucket=f"{bucket}-jobs", Key=job)
        assert move(new_client(), seen, "GLACIER_IR") is ChangeOutcome.PENDING
    finally:
        s3_admin(s3, "jobs?hold=false")
    outcomes = [move(new_client(), seen, "GLACIER_IR")]
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while outcomes[-1] is ChangeOutcome.PENDING and datetime.now(UTC) < deadline:
        outcomes.append(move(new_client(), seen, "GLACIER_IR"))
    assert outcomes[-1] is ChangeOutcome.CHANGED
    control.close()


AWS_SCENARIOS: dict[str, Callable[[Any, Any, str], None]] = {
    "collect": aws_collect,
    "look": aws_look,
    "move": aws_move,
    "versions": aws_versions,
    "intelligent-tiering": aws_intelligent_tiering,
    "uploads": aws_uploads,
    "restore": aws_restore,
    "acls": aws_acls,
    "kms": aws_kms,
    "lifecycle": aws_lifecycle,
    "batch": aws_batch,
}


@pytest.mark.parametrize("name", FEATURES[Provider.AWS])
def test_s3_requests_lie_within_the_policy_and_use_all_of_it(aws: Any, s3: Any, new_bucket: str, name: str) -> None:
    with recorded() as found:
        AWS_SCENARIOS[name](aws, s3, new_bucket)
    check(FEATURES[Provider.AWS][name], found)


def test_the_role_of_a_job_can_copy_what_our_own_copies_can() -> None:
    copying = {permission for name in ("CopyObject",) for permission in OPERATIONS[Provider.AWS][name].permissions}
    assert copying | {"s3:GetObjectVersion"} == JOB_ROLE.permissions
    assert JOB_ROLE.unseen.keys() == JOB_ROLE.permissions  # S3 makes these requests, and none of ours shows them


# -- Azure Blob Storage -----------------------------------------------------------------------


def azure_move(client: Any, service: Any, bucket: str) -> None:
    from cloudflux.providers.azure import AzureTierClient

    client.create_bucket(bucket)
    move_and_back(client, client.put_object(ref(Provider.AZURE, bucket), b"content", tags={"a": "1"}), "Cool")
    archived = client.put_object(ref(Provider.AZURE, bucket, "old.bin"), b"content", storage_class="Archive")
    outcome = move(client, archived, "Hot", restore=RestoreOrder("high", 1))
    assert outcome in (ChangeOutcome.CHANGED, ChangeOutcome.RESTORING)
    leasing = AzureTierClient(service, lease_moves=True)
    move_and_back(leasing, client.put_object(ref(Provider.AZURE, bucket, "b.bin"), b"content"), "Cold")


def azure_look(client: Any, service: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    look(client, bucket, tags={"a": "1"})


AZURE_SCENARIOS: dict[str, Callable[[Any, Any, str], None]] = {
    "collect": lambda client, service, bucket: collect(client, bucket),
    "look": azure_look,
    "move": azure_move,
}


@pytest.mark.parametrize("name", FEATURES[Provider.AZURE])
def test_azure_requests_lie_within_the_role_and_use_all_of_it(azure: Any, new_bucket: str, name: str) -> None:
    from cloudflux.providers.azure import AzureTierClient

    with recorded() as found:
        AZURE_SCENARIOS[name](AzureTierClient(azure), azure, new_bucket)
    check(FEATURES[Provider.AZURE][name], found)


# -- Google Cloud Storage ---------------------------------------------------------------------


def gcp_look(client: Any, gcs: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    look(client, bucket)


def gcp_move(client: Any, gcs: Any, bucket: str) -> None:
    client.create_bucket(bucket)
    move_and_back(client, client.put_object(ref(Provider.GCP, bucket), b"content"), "NEARLINE")
    versioned = gcs.bucket(f"{bucket}-v")
    versioned.versioning_enabled = True
    versioned.iam_configuration.uniform_bucket_level_access_enabled = True
    gcs.create_bucket(versioned)
    move_and_back(client, client.put_object(ref(Provider.GCP, f"{bucket}-v"), b"content"), "ARCHIVE")


def gcp_acls(client: Any, gcs: Any, bucket: str) -> None:
    """The emulator keeps no ACLs: the client is told of one, and sends it along."""
    gcs.create_bucket(bucket)  # with ACLs, as buckets had them
    seen = client.put_object(ref(Provider.GCP, bucket), b"content")
    original = client._looks.asked

    def asked(bucket: str, calls: Any) -> Any:
        answers = original(bucket, calls)
        for call, answer in zip(calls.values(), answers, strict=True):
            if "projection=full" in call.target:
                answer.content["acl"] = [{"entity": "allUsers", "role": "READER"}]
        return answers

    client._looks.asked = asked
    move_and_back(client, seen, "NEARLINE")


def gcp_contexts(client: Any, gcs: Any, bucket: str) -> None:
    """The emulator keeps no contexts: the client is told of one, and sends it along."""
    client.create_bucket(bucket)
    seen = client.put_object(ref(Provider.GCP, bucket), b"content")
    original = client._looks.seen
    contexts = {"contexts": {"custom": {"team": {"value": "red"}}}}
    client._looks.seen = lambda bucket, items: original(bucket, [{**item, **contexts} for item in items])
    move_and_back(client, seen, "NEARLINE")


GCP_SCENARIOS: dict[str, Callable[[Any, Any, str], None]] = {
    "collect": lambda client, gcs, bucket: collect(client, bucket),
    "look": gcp_look,
    "move": gcp_move,
    "acls": gcp_acls,
    "contexts": gcp_contexts,
}


@pytest.mark.parametrize("name", FEATURES[Provider.GCP])
def test_google_requests_lie_within_the_role_and_use_all_of_it(gcs: Any, new_bucket: str, name: str) -> None:
    from cloudflux.providers.gcp import GcpTierClient

    with recorded() as found:
        GCP_SCENARIOS[name](GcpTierClient(gcs), gcs, new_bucket)
    check(FEATURES[Provider.GCP][name], found)


# -- the table and the page -------------------------------------------------------------------


def test_each_operation_of_the_table_is_called_by_some_scenario(
    aws: Any, s3: Any, azure: Any, gcs: Any, new_bucket: str
) -> None:
    from cloudflux.providers.azure import AzureTierClient
    from cloudflux.providers.gcp import GcpTierClient

    with recorded() as found:
        for number, scenario in enumerate(AWS_SCENARIOS.values()):
            scenario(aws, s3, f"{new_bucket}-{number}")
        for number, scenario in enumerate(AZURE_SCENARIOS.values()):
            scenario(AzureTierClient(azure), azure, f"{new_bucket}-{number}")
        for number, scenario in enumerate(GCP_SCENARIOS.values()):
            scenario(GcpTierClient(gcs), gcs, f"{new_bucket}-g{number}")
    called = found.operations() | {extra for one in found.made for extra in one.extras}
    assert called == {name for table in OPERATIONS.values() for name in table}


@pytest.mark.parametrize(
    ("sort", "method", "url"),
    [
        (aws_calls, "DELETE", "http://s3/bucket/key"),
        (aws_calls, "PUT", "http://s3/bucket/key?acl"),
        (aws_calls, "PUT", "http://s3/bucket?policy"),
        (aws_calls, "POST", "http://s3/bucket?delete"),
        (aws_calls, "GET", "http://s3/"),
        (aws_calls, "POST", "http://s3/v20180820/jobs/1/status"),
        (azure_calls, "DELETE", "http://azure/account/container/blob"),
        (azure_calls, "PUT", "http://azure/account/container/blob?comp=tags"),
        (azure_calls, "GET", "http://azure/account/container?restype=container&comp=list&include=deleted"),
        (azure_calls, "PUT", "http://azure/account/container/blob?comp=tier&versionid=1"),
        (gcp_calls, "DELETE", "http://gcs/storage/v1/b/bucket/o/key"),
        (gcp_calls, "PATCH", "http://gcs/storage/v1/b/bucket/o/key"),
        (gcp_calls, "PATCH", "http://gcs/storage/v1/b/bucket"),
    ],
)
def test_a_request_of_which_nobody_told_the_permissions_is_unknown(sort: Any, method: str, url: str) -> None:
    arguments = ({}, b"") if sort is aws_calls else (b"",)
    with pytest.raises(UnknownRequest, match=re.escape(url)):
        sort(method, url, *arguments)


def test_an_unknown_request_of_a_client_fails_the_check(
    aws: Any, s3: Any, new_bucket: str, only_known_requests: Requests
) -> None:
    aws.create_bucket(new_bucket)
    with recorded() as found:
        aws._call("delete_object", ref(Provider.AWS, new_bucket))
        s3.delete_object(Bucket=new_bucket, Key="of the test itself")
    assert len(found.problems) == 1
    assert found.problems[0].args == only_known_requests.problems.pop().args  # of every contract test


def test_the_page_is_what_the_policies_say() -> None:
    page = (REPOSITORY / "docs" / "permissions.md").read_text(encoding="utf-8")
    assert page == render(), "run: python -m cloudflux.providers.permissions > docs/permissions.md"
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    for features in FEATURES.values():
        for feature in features.values():
            assert policy(feature) in blocks


def test_no_policy_has_a_wildcard_where_a_name_does() -> None:
    for features in FEATURES.values():
        for feature in features.values():
            assert not [permission for permission in feature.permissions if "*" in permission]
            open_ended = [grant for grant in feature.grants if "*" in grant.resources]
            assert {grant.name for grant in open_ended} <= {"Jobs"}  # CreateJob and ListJobs know no resources
