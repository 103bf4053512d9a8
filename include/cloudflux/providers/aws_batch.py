"""S3 Batch Operations."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit


def use_endpoint_as_is(s3control: Any) -> None:
    """Let a boto3 ``s3control`` client send to its endpoint itself, and not to the account's host below it.

    boto3 puts ``123456789012.`` before the host's name, also before one that was given (``inject_host_prefix`` does not
    stop that: it comes from the endpoint rules). Of an address like 127.0.0.1 that makes no name that exists.
    """
    endpoint = urlsplit(s3control.meta.endpoint_url)

    def send_there(request: Any, **_: Any) -> None:
        request.url = urlunsplit(urlsplit(request.url)._replace(scheme=endpoint.scheme, netloc=endpoint.netloc))

    # before the request is signed, which comes with the same event
    s3control.meta.events.register_first("request-created.s3-control", send_there, unique_id="cloudflux-endpoint")
