"""Azure's requests that there are many of: looks, listings and batches, made by hand over the SDK's own pipeline.

The SDK spends 180 microseconds on a change in a batch and 240 on a blob of a listing, most of it on models of Python
objects; these take 12 and 30. Who we are, where the account is and how its connections are kept stays the SDK's
business: every request goes through the pipeline of the ``BlobServiceClient``, without its retries, for they would
send a change again whose answer was lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit
from xml.etree.ElementTree import Element

import requests
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.policies import ContentDecodePolicy
from azure.core.pipeline.transport import HttpRequest

from cloudflux.domain.errors import CredentialsRefused
from cloudflux.providers.batches import Answer, AnswerLost

Properties = Mapping[str, str]
"""What Azure tells of a blob, by the lower-case names of Get Blob Properties' headers without ``x-ms-``."""

_LISTED_AS: Final = {
    # names in a listing that are not those of the headers
    "accesstier": "access-tier",
    "accesstierinferred": "access-tier-inferred",
    "accesstierchangetime": "access-tier-change-time",
    "archivestatus": "archive-status",
    "blobtype": "blob-type",
    "encryptionscope": "encryption-scope",
    "leasestate": "lease-state",
    "leasestatus": "lease-status",
    "tagcount": "tag-count",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob as a listing or a look shows it."""

    name: str
    properties: Properties
    metadata: Mapping[str, str]
    tags: Mapping[str, str]
    """Empty in a look: tags are asked for on their own."""


@dataclass(frozen=True, slots=True)
class TierSetting:
    """One Set Blob Tier of a batch."""

    name: str
    tier: str
    rehydrate_priority: str | None = None
    lease_id: str | None = None


class BlobRequests:
    """Requests to one storage account."""

    def __init__(self, service: Any, timeout_seconds: float) -> None:
        self._service = service
        self._timeout_seconds = timeout_seconds
        self._root = f"{service.scheme}://{service.primary_hostname}"
        self._path = urlsplit(self._root).path
        self._sas = service._query_str.lstrip("?")

    def lease_id(self, bucket: str, name: str) -> str:
        """Give the id under which we lease a blob: always the same, so a lease left by a killed attempt is ours."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cloudflux:{self._root}/{bucket}/{name}"))

    def look(self, bucket: str, name: str) -> Answer:
        """Get Blob Properties; the content of a good answer is a ``Blob``."""
        answer = self._send("HEAD", bucket, name, {})
        if answer.status != 200:
            return answer
        properties, metadata = {}, {}
        for header, value in answer.headers.items():
            key = header.lower()
            if key.startswith("x-ms-meta-"):
                metadata[header[len("x-ms-meta-") :]] = value
            else:
                properties[key.removeprefix("x-ms-")] = value
        return Answer(200, answer.headers, Blob(name, properties, metadata, {}))

    def tags(self, bucket: str, name: str) -> Answer:
        """Get Blob Tags; the content of a good answer is a mapping."""
        answer = self._send("GET", bucket, name, {"comp": "tags"})
        return Answer(200, answer.headers, _tags(answer.content)) if answer.status == 200 else answer

    def list_page(
        self, bucket: str, prefix: str, *, start: str = "", marker: str = "", limit: int, include: str = ""
    ) -> Answer:
        """List Blobs; the content of a good answer is the blobs and the marker of the next page, empty at the end."""
        query = {"restype": "container", "comp": "list", "maxresults": str(limit)}
        wanted = {"prefix": prefix, "startFrom": start, "marker": marker, "include": include}
        query.update((name, value) for name, value in wanted.items() if value)
        answer = self._send("GET", bucket, "", query)
        if answer.status != 200:
            return answer
        blobs = answer.content.find("Blobs")
        page = [] if blobs is None else [_listed(element) for element in blobs if element.tag == "Blob"]
        return Answer(200, answer.headers, (page, answer.content.findtext("NextMarker") or ""))

    def lease(self, bucket: str, name: str, action: str, headers: Mapping[str, str]) -> Answer:
        """Lease Blob."""
        return self._send("PUT", bucket, name, {"comp": "lease"}, headers={"x-ms-lease-action": action, **headers})

    def set_tiers(self, bucket: str, settings: Sequence[TierSetting]) -> Answer | list[Answer]:
        """Set Blob Tier in one batch: an answer for each, or the one that the batch got as a whole."""
        boundary = f"batch_{uuid.uuid4()}"
        body = b"".join((*self._calls(bucket, settings, boundary), f"--{boundary}--\r\n".encode()))
        query = {"restype": "container", "comp": "batch"}
        answer = self._send(
            "POST", bucket, "", query, headers={"Content-Type": f"multipart/mixed; boundary={boundary}"}, body=body
        )
        if answer.status != 202:
            return answer
        parts = dict(_parts(answer))
        if None in parts:  # a batch that is refused as a whole is one part without a number
            return parts[None]
        if not parts.keys() >= set(range(len(settings))):
            raise AnswerLost(f"the answer to a batch of {len(settings)} had {len(parts)} parts")
        return [parts[number] for number in range(len(settings))]

    def _calls(self, bucket: str, settings: Sequence[TierSetting], boundary: str) -> Iterator[bytes]:
        date = formatdate(usegmt=True)
        authorization, sas = self._authorization()
        query = f"?comp=tier{sas}"
        for number, setting in enumerate(settings):
            path = f"{self._path}/{quote(bucket)}/{quote(setting.name, safe='/~')}"
            headers = {"x-ms-access-tier": setting.tier, "x-ms-date": date}
            if setting.lease_id is not None:
                headers["x-ms-lease-id"] = setting.lease_id
            if setting.rehydrate_priority is not None:
                headers["x-ms-rehydrate-priority"] = setting.rehydrate_priority
            signed = authorization or self._shared_key(path, headers)
            if signed:
                headers["Authorization"] = signed
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            yield (
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
                f"Content-ID: {number}\r\n\r\nPUT {path}{query} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n"
            ).encode()

    def _authorization(self) -> tuple[str | None, str]:
        """Give the header and the part of the query that say who we are, where they are the same for every call."""
        sas = f"&{self._sas}" if self._sas else ""
        policy = self._service._credential_policy
        if policy is None or hasattr(policy, "account_key"):
            return None, sas
        probe = HttpRequest("PUT", "https://account/?comp=tier")
        try:
            policy.on_request(PipelineRequest(probe, PipelineContext(None)))
        except ClientAuthenticationError as exc:
            raise CredentialsRefused(f"no token for Azure could be had: {type(exc).__name__}") from exc
        except AzureError as exc:
            raise AnswerLost(f"no token for Azure could be had: {exc}") from exc
        return probe.headers.get("Authorization"), sas + probe.url.partition("?comp=tier")[2]

    def _shared_key(self, path: str, headers: Mapping[str, str]) -> str | None:
        """Sign a call of a batch: learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
        policy = self._service._credential_policy
        if not hasattr(policy, "account_key"):  # the signature in the query says it all
            return None
        named = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        text = "PUT" + 12 * "\n" + named + f"/{policy.account_name}{path}\ncomp:tier"
        digest = hmac.new(base64.b64decode(policy.account_key), text.encode(), hashlib.sha256).digest()
        return f"SharedKey {policy.account_name}:{base64.b64encode(digest).decode()}"

    def _send(
        self,
        method: str,
        bucket: str,
        name: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request once. Raises ``AnswerLost``, and ``CredentialsRefused`` when no token can be had."""
        path = f"/{quote(bucket)}" + (f"/{quote(name, safe='~/')}" if name else "")
        asked = "&".join([f"{key}={quote(value, safe='')}" for key, value in query.items()])
        parameters = "&".join(part for part in (asked, self._sas) if part)
        request = HttpRequest(
            method,
            f"{self._root}{path}" + (f"?{parameters}" if parameters else ""),
            headers={"x-ms-version": self._service.api_version, **(headers or {})},
        )
        if body is not None:
            request.set_bytes_body(body)
        elif method == "PUT":
            request.headers["Content-Length"] = "0"
        try:
            answered = self._service._pipeline.run(
                request,
                stream=method == "POST",  # what is not streamed is decoded from XML, and a batch's answer is none
                retry_total=0,
                connection_timeout=min(20.0, self._timeout_seconds),
                read_timeout=self._timeout_seconds,
            )
            response = answered.http_response
            decoded = answered.context.get(ContentDecodePolicy.CONTEXT_NAME)
            content = decoded if isinstance(decoded, Element) else response.body()
        except ClientAuthenticationError as exc:
            raise CredentialsRefused(f"Azure does not accept our credentials ({type(exc).__name__})") from exc
        except (AzureError, requests.RequestException) as exc:  # the latter when a streamed body breaks off
            raise AnswerLost(f"{type(exc).__name__}: {exc}") from exc
        return Answer(response.status_code, response.headers, content)


def error_of(answer: Answer) -> tuple[str, str]:
    """Give an error's code and message."""
    code = answer.headers.get("x-ms-error-code") or ""
    content, message = answer.content, ""
    if isinstance(content, Element):
        code, message = code or content.findtext("Code") or "", content.findtext("Message") or ""
    elif isinstance(content, bytes) and content:
        text = content.decode(errors="replace")
        found = re.search(r"<Code>([^<]*)</Code>", text)
        code = code or (found[1] if found else "")
        found = re.search(r"<Message>([^<]*)", text)
        message = found[1] if found else ""
    return code, message.partition("\n")[0]


def _listed(element: Element) -> Blob:
    name = element.find("Name")
    text = (name.text or "") if name is not None else ""
    if name is not None and name.get("Encoded") == "true":
        text = unquote(text)
    properties: dict[str, str] = {}
    metadata: dict[str, str] = {}
    tags: Mapping[str, str] = {}
    for child in element:
        if child.tag == "Properties":
            for each in child:
                key = each.tag.lower()
                properties[_LISTED_AS.get(key, key)] = each.text or ""
        elif child.tag == "Metadata":
            metadata = {each.tag: each.text or "" for each in child}
        elif child.tag == "Tags":
            tags = _tags(child)
    return Blob(text, properties, metadata, tags)


def _tags(element: Element) -> dict[str, str]:
    return {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in element.iter("Tag")}


def _parts(answer: Answer) -> Iterator[tuple[int | None, Answer]]:
    """Read the answers of a batch, each with the number of its call; None for an answer to the whole."""
    boundary = (answer.headers.get("content-type") or "").partition("boundary=")[2].strip('"')
    whole, closed, _ = answer.content.partition(f"--{boundary}--".encode())
    if not boundary or not closed:
        raise AnswerLost("the answer to a batch was cut off")
    for part in whole.decode().split(f"--{boundary}\r\n")[1:]:
        outer, _, inner = part.partition("\r\n\r\n")
        head, _, body = inner.partition("\r\n\r\n")
        status_line, *lines = head.split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        number = re.search(r"content-id:\s*(\d+)", outer, re.IGNORECASE)
        status = int(status_line.split(" ", 2)[1])
        yield int(number[1]) if number else None, Answer(status, headers, body.encode())
