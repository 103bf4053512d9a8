"""Record the requests that our clients send, and tell which operation of its cloud's API each of them is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

from cloudflux.domain.tiers import Provider

_CLIENTS = "/cloudflux/providers/"
_TESTS = "/tests/"
_PASSING_ON = frozenset({"send", "request"})
_FOR_TESTS = frozenset({"create_bucket", "put_object", "write_object", "delete_object"})
"""What only tests and the demo ask of a client, to have something to look at: never part of collecting or moving."""


class UnknownRequest(AssertionError):
    """A request that no one has told the permissions of."""


@dataclass(frozen=True)
class Made:
    """One request, or one call of a batch."""

    provider: Provider
    operation: str
    shown: str
    extras: tuple[str, ...] = ()
    """What it needs beside its operation, see ``permissions.AWS_EXTRAS``."""


@dataclass
class Requests:
    """What was sent while it was recorded."""

    made: list[Made] = field(default_factory=list)
    problems: list[UnknownRequest] = field(default_factory=list)

    def note(self, sort: Any, *request: Any) -> None:
        """Sort a request of a client's; an error would look like the service's, so it is kept for the test."""
        if not _by_a_client():
            return
        try:
            self.made.extend(sort(*request))
        except UnknownRequest as exc:
            self.problems.append(exc)

    def operations(self, provider: Provider | None = None) -> set[str]:
        """Name what was called."""
        return {one.operation for one in self.made if provider in (None, one.provider)}


def _by_a_client() -> bool:
    """Tell whether the request comes out of a client, and not out of a test or of a method that is for tests.

    Tests put themselves between a client and its transport (``send``, ``request``), and do things of their own there.
    What a library does in a thread that neither began is the client's: it would do that for our users as well.
    """
    by_a_client, by_a_test = False, False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if _CLIENTS in file:
            if name in _FOR_TESTS:
                return False
            by_a_client = True
        elif not by_a_client and _TESTS in file and file != __file__:
            if name not in _PASSING_ON:
                return False
            by_a_test = True
        frame = frame.f_back
    return by_a_client or not by_a_test


@contextmanager
def recorded() -> Iterator[Requests]:
    """Record what goes over the wires of boto3, of our own S3 requests, and of ``requests`` (Azure, Google)."""
    import requests
    from botocore.httpsession import URLLib3Session

    from cloudflux.providers.aws_connections import DirectTransport

    found = Requests()
    with ExitStack() as stack:
        original_direct = DirectTransport.send

        async def send(self: Any, method: str, url: str, headers: Any, body: bytes) -> Any:
            found.note(aws_calls, method, url, headers, body)
            return await original_direct(self, method, url, headers, body)

        original_boto = URLLib3Session.send

        def send_boto(self: Any, request: Any) -> Any:
            found.note(aws_calls, request.method, request.url, request.headers, request.body)
            return original_boto(self, request)

        original_requests = requests.Session.send

        def send_requests(self: Any, request: Any, **options: Any) -> Any:
            found.note(_azure_or_gcp, request.method, request.url, request.headers, request.body)
            return original_requests(self, request, **options)

        stack.enter_context(patch.object(DirectTransport, "send", send))
        stack.enter_context(patch.object(URLLib3Session, "send", send_boto))
        stack.enter_context(patch.object(requests.Session, "send", send_requests))
        yield found


def _azure_or_gcp(method: str, url: str, headers: Mapping[str, Any], body: Any) -> list[Made]:
    path = urlsplit(url).path
    if re.match(r"/(batch|download|upload|storage)/(storage/)?v1", path):
        return gcp_calls(method, url, body)
    return azure_calls(method, url, body)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _refuse(provider: Provider, method: str, url: str) -> UnknownRequest:
    return UnknownRequest(
        f"{method} {url} of {provider}: no operation of cloudflux.providers.permissions. Find the permissions that it "
        "needs, add it there and to the policies, and tell it apart here"
    )


# -- Amazon S3 --------------------------------------------------------------------------------

_BUCKET_QUESTIONS = {
    "versioning": "GetBucketVersioning",
    "ownershipControls": "GetBucketOwnershipControls",
    "object-lock": "GetObjectLockConfiguration",
    "encryption": "GetBucketEncryption",
    "intelligent-tiering": "ListBucketIntelligentTieringConfigurations",
    "lifecycle": "GetBucketLifecycleConfiguration",
    "versions": "ListObjectVersions",
    "uploads": "ListMultipartUploads",
    "list-type": "ListObjectsV2",
}
_LIFECYCLE = {"PUT": "PutBucketLifecycleConfiguration", "DELETE": "DeleteBucketLifecycle"}
_TAGGING = {"GET": "GetObjectTagging", "PUT": "PutObjectTagging", "DELETE": "DeleteObjectTagging"}


def aws_calls(method: str, url: str, headers: Mapping[str, Any], body: Any) -> list[Made]:
    """Name the operation of an S3 or S3 Control request; buckets are in the path."""
    named = {str(name).lower(): _text(value) for name, value in headers.items()}
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    _, bucket, key = (*parts.path.split("/", 2), "")[:3]
    if bucket == "v20180820":
        operation = _job_operation(method, key)
    elif key:
        operation = _object_operation(method, query, named)
    else:
        operation = _bucket_operation(method, query)
    if operation is None:
        raise _refuse(Provider.AWS, method, url)
    return [Made(Provider.AWS, operation, f"{method} {url}", tuple(_extras(method, query, named)))]


def _job_operation(method: str, path: str) -> str | None:
    if path == "jobs":
        return {"POST": "CreateJob", "GET": "ListJobs"}.get(method)
    return "DescribeJob" if method == "GET" and re.fullmatch(r"jobs/[^/]+", path) else None


def _bucket_operation(method: str, query: Mapping[str, Any]) -> str | None:
    asked = [name for name in _BUCKET_QUESTIONS if name in query]
    if len(asked) != 1:
        return None
    if asked == ["lifecycle"] and method in _LIFECYCLE:
        return _LIFECYCLE[method]
    return _BUCKET_QUESTIONS[asked[0]] if method == "GET" else None


def _object_operation(method: str, query: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    copied = headers.get("x-amz-copy-source")
    version = " (version)" if "versionId" in query else ""
    of_source = " (version)" if copied is not None and "versionId=" in copied else ""
    operation: str | None = None
    if "tagging" in query:
        operation = f"{_TAGGING[method]}{version}" if method in _TAGGING else None
    elif "acl" in query:
        operation = "GetObjectAcl" if (method, version) == ("GET", "") else None
    elif "restore" in query:
        operation = "RestoreObject" if method == "POST" else None
    elif "uploads" in query:
        tags = " (tags)" if "x-amz-tagging" in headers else ""
        operation = f"CreateMultipartUpload{tags}" if method == "POST" else None
    elif "uploadId" in query:
        names = {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        if copied is not None:
            names["PUT"] = f"UploadPartCopy{of_source}"
        operation = names.get(method)
    elif method == "PUT" and copied is not None:
        operation = f"CopyObject{of_source}"
    elif method == "DELETE":
        operation = "DeleteObject (version)" if version else None  # without a version: nothing of ours does that
    elif method in ("GET", "HEAD", "PUT") and not query.keys() - {"versionId", "partNumber", "x-id"}:
        operation = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject"}[method] + version
    return operation


def _extras(method: str, query: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    if method not in ("PUT", "POST"):
        return
    if any(name.startswith("x-amz-grant-") or name == "x-amz-acl" for name in headers):
        yield "grants"
    if headers.get("x-amz-server-side-encryption", "").startswith("aws:kms"):
        yield "kms"


# -- Azure Blob Storage --------------------------------------------------------------------------------


def azure_calls(method: str, url: str, body: Any) -> list[Made]:
    """Name the operations of a Blob request; Azurite has the account's name before the container's."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    comp = query.get("comp", [""])[0]
    is_container = query.get("restype") == ["container"]
    operation: str | None = None
    if is_container and (method, comp) == ("GET", "list"):
        included = query.get("include", [""])[0].split(",")
        operation = "List Blobs (tags)" if "tags" in included else "List Blobs"
        if set(included) - {"", "tags", "metadata"}:
            operation = None  # versions, snapshots, deleted: other permissions
    elif is_container and (method, comp) == ("POST", "batch"):
        return [Made(Provider.AZURE, "Blob Batch", f"{method} {url}"), *_azure_batch(url, body)]
    elif not is_container and "snapshot" not in query and "versionid" not in query:
        operation = {
            ("HEAD", ""): "Get Blob Properties",
            ("GET", ""): "Get Blob",
            ("GET", "tags"): "Get Blob Tags",
            ("PUT", "tier"): "Set Blob Tier",
            ("PUT", "lease"): "Lease Blob",
        }.get((method, comp))
    if operation is None:
        raise _refuse(Provider.AZURE, method, url)
    return [Made(Provider.AZURE, operation, f"{method} {url}")]


def _azure_batch(url: str, body: Any) -> list[Made]:
    lines = re.findall(r"^([A-Z]+) (/\S*) HTTP/1\.1\r?$", _text(body), re.MULTILINE)
    if not lines:
        raise _refuse(Provider.AZURE, "POST", url)
    root = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    return [made for method, path in lines for made in azure_calls(method, f"{root}{path}", None)]


# -- Google Cloud Storage --------------------------------------------------------------------------------


def gcp_calls(method: str, url: str, body: Any) -> list[Made]:
    """Name the methods of a JSON API request, or of the calls of a batch."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    if (method, parts.path) == ("POST", "/batch/storage/v1"):
        return _gcp_batch(url, body)
    names = [unquote(name) for name in parts.path.removeprefix("/download").split("/")]
    operation: str | None = None
    match (method, *names[1:]):
        case ("GET", "storage", "v1", "b", _):
            operation = "buckets.get" if query.get("projection", ["noAcl"]) == ["noAcl"] else None
        case ("GET", "storage", "v1", "b", _, "o"):
            # of versions and soft-deleted objects a list needs the same; of ACLs more
            operation = "objects.list" if query.get("projection", ["noAcl"]) == ["noAcl"] else None
        case ("GET", "storage", "v1", "b", _, "o", _):
            operation = "objects.get (ACL)" if query.get("projection") == ["full"] else "objects.get"
        case ("POST", "storage", "v1", "b", _, "o", _, "rewriteTo", "b", _, "o", _):
            carried = json.loads(_text(body) or "{}")
            special = [said for name, said in (("acl", " (ACL)"), ("contexts", " (contexts)")) if name in carried]
            operations = [f"objects.rewrite{said}" for said in special or [""]]
            if "retention" in carried:
                raise _refuse(Provider.GCP, method, f"{url} with a retention")  # storage.objects.setRetention
            return [Made(Provider.GCP, name, f"{method} {url}") for name in operations]
        case ("DELETE", "storage", "v1", "b", _, "o", _):
            operation = "objects.delete (generation)" if "generation" in query else None
    if operation is None:
        raise _refuse(Provider.GCP, method, url)
    return [Made(Provider.GCP, operation, f"{method} {url}")]


def _gcp_batch(url: str, body: Any) -> list[Made]:
    root = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    calls = re.findall(r"^([A-Z]+) (/\S+) HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)", _text(body), re.MULTILINE)
    if not calls:
        raise _refuse(Provider.GCP, "POST", url)
    return [made for method, path, content in calls for made in gcp_calls(method, f"{root}{path}", content)]
