"""Thousands of requests a second to S3 from one thread: connections and signing of our own.

boto3 spends about a millisecond of processor time on each request, most of it on turning Python values into HTTP and
back. A move needs no more than a few headers, so these requests are made by hand. Who we are, where a bucket is and how
it is addressed (region, virtual host or path, dual stack, a custom endpoint) is still botocore's to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from cloudflux.domain.errors import AccountRefused, BucketNotFound, CredentialsRefused, TransientError
from cloudflux.providers.aws_connections import DirectTransport
from cloudflux.providers.aws_endpoints import Endpoint, EndpointResolver
from cloudflux.providers.aws_http import Answer, AnswerLost, BotocoreTransport, NeverSent, Patience
from cloudflux.providers.aws_signing import Credentials, Request, RequestSigner, quoted_key, quoted_query
from cloudflux.providers.pace import LeftAlone, Pace
from cloudflux.providers.protocol import AGENT

NOT_ACTED_ON: Final = frozenset(
    {
        "429",
        "503",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",  # another conditional write of the same key was under way
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",  # S3 did not get the whole request in time
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
"""Codes and statuses by which S3 says that it did nothing, and that asking later may help."""
_NO_MATTER_OF_RATE: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
PERHAPS_ACTED_ON: Final = frozenset({"500", "502", "504", "InternalError"})
"""Codes and statuses after which nobody knows."""
REFUSED_CREDENTIALS: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
REFUSED_ACCOUNT: Final = frozenset(
    {
        "507",
        "AccountProblem",
        "AllAccessDisabled",
        "InsufficientStorage",
        "NotSignedUp",
        "QuotaExceeded",
        "XMinioStorageFull",
    }
)
_CREDENTIALS_SECONDS: Final = 5.0
_CONFIRMED_SECONDS: Final = 60.0
_CORRECTIONS: Final = 2
"""How often one request is mended: the clock, the region and the credentials may each be wrong."""


class NotServed(TransientError):
    """The client's patience ran out: throttled, or no connection. Nothing is known to have been done."""


class S3Requests:
    """Sends requests to S3 within each bucket's pace, and tells what kind of failure a failure is.

    Everything but the constructor runs in one event loop. What passes is tried again: throttling always, a lost answer
    only where the request may be repeated without harm. Proxies are left to botocore's own connections, in threads.
    """

    def __init__(self, s3: Any, pace_of: Callable[[str], Pace], patience: Patience) -> None:
        self._s3 = s3
        self._pace_of = pace_of
        self.patience = patience
        self._resolver = EndpointResolver(s3)
        self._signer = RequestSigner()
        self._agent = f"{s3.meta.config.user_agent} {AGENT}"
        self._endpoints: dict[str, Endpoint] = {}
        self._paces: dict[str, tuple[Pace, asyncio.Semaphore]] = {}
        self._credentials: Credentials | None = None
        self._credentials_until = 0.0
        self._credentials_lock = asyncio.Lock()
        self._clock_ahead = 0.0
        self._second: tuple[int, str] = (0, "")
        self._confirmed: dict[str, float] = {}
        self._confirming: dict[str, asyncio.Lock] = {}
        session = s3._endpoint.http_session
        self._transport: DirectTransport | BotocoreTransport
        if session._proxy_config.proxy_url_for(s3.meta.endpoint_url):
            self._transport = BotocoreTransport(session)
        else:
            self._transport = DirectTransport(patience, session._verify, (session._cert_file, session._key_file))

    def start_over(self) -> None:
        """Forget what belongs to an event loop that has ended."""
        self._transport.start_over()
        self._paces.clear()
        self._confirming.clear()
        self._credentials_lock = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def pace(self, bucket: str) -> Pace:
        """Give the pace of a bucket."""
        return self._lane(bucket)[0]

    async def send(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        repeatable: bool,
    ) -> Answer:
        """Send a request until it is answered; one that is ``repeatable`` also when an answer was lost.

        Gives S3's answer, also a refusal that concerns this request only. Raises ``NotServed`` when patience runs out,
        ``AnswerLost`` when the request is not repeatable and may have been acted on, and ``CredentialsRefused``,
        ``BucketNotFound`` or ``AccountRefused``.
        """
        request = Request(method, bucket, key, quoted_query(query) if query else "", headers or {}, body)
        pace, places = self._lane(bucket)
        failed_at: float | None = None
        attempt, corrections = 0, 0
        while True:
            attempt += 1
            retry_after: float | None = None
            credentials = await self._current_credentials()
            try:
                async with places:
                    await pace.admit_async()
                    answer = await self._send_once(request, credentials)
            except LeftAlone as exc:
                raise NotServed(str(exc)) from exc
            except NeverSent as exc:
                reason = str(exc)
            except AnswerLost as exc:
                if not repeatable:
                    raise
                reason = str(exc)
            else:
                if not self._is_passing(answer, pace, bucket, repeatable):
                    if corrections < _CORRECTIONS and await self._corrected(answer, credentials, request):
                        corrections += 1
                        continue
                    _raise_for_all(answer, bucket)
                    return answer
                retry_after = answer.retry_after
                reason = f"S3 could not serve it ({answer.code}: {answer.message})"
            failed_at = time.monotonic() if failed_at is None else failed_at
            try:
                wait = pace.backoff(attempt, retry_after)
            except LeftAlone as exc:
                raise NotServed(f"{reason}; {exc}") from exc
            if attempt >= self.patience.attempts or time.monotonic() + wait - failed_at > self.patience.seconds:
                raise NotServed(f"{reason}; gave up after {attempt} attempts")
            await asyncio.sleep(wait)

    def _is_passing(self, answer: Answer, pace: Pace, bucket: str, repeatable: bool) -> bool:
        """Tell the pace what came; True when the same request may be answered otherwise later.

        Raises ``AnswerLost`` when nobody knows whether it was acted on and it must not be sent again unseen.
        """
        code, status = answer.code, str(answer.status)
        if not code:
            pace.served()
            self._confirmed[bucket] = time.monotonic()
            return False
        if code in NOT_ACTED_ON or status in NOT_ACTED_ON:
            if code not in _NO_MATTER_OF_RATE:
                pace.throttled(answer.retry_after)
            return True
        if answer.status < 300 or code in PERHAPS_ACTED_ON or status in PERHAPS_ACTED_ON:
            pace.throttled(answer.retry_after)
            if not repeatable:
                raise AnswerLost(f"S3 answered {status} ({code}: {answer.message})", answer)
            return True
        pace.served()
        return False

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> Answer:
        """Look at an object. HEAD's refusals have no body, so the bucket is asked what is behind one."""
        query = {} if version_id is None else {"versionId": version_id}
        while True:
            asked_at, identity = time.monotonic(), (await self._current_credentials(), self._clock_ahead)
            answer = await self.send(
                "HEAD", bucket, key, query=query, headers={"x-amz-checksum-mode": "ENABLED"}, repeatable=True
            )
            if answer.status not in (400, 403, 404):
                return answer
            enough = asked_at if answer.status != 404 else asked_at - _CONFIRMED_SECONDS
            await self._confirm(bucket, enough)
            if answer.status == 404 or identity == (self._credentials, self._clock_ahead):
                return answer

    async def _confirm(self, bucket: str, since: float) -> None:
        """Make sure that the bucket exists and knows us: raise if not. One question serves all who ask meanwhile."""
        async with self._confirming.setdefault(bucket, asyncio.Lock()):
            if self._confirmed.get(bucket, -1.0) >= since:
                return
            asked_at = time.monotonic()
            await self.send("GET", bucket, query={"versioning": ""}, repeatable=True)
            self._confirmed[bucket] = asked_at

    def _lane(self, bucket: str) -> tuple[Pace, asyncio.Semaphore]:
        found = self._paces.get(bucket)
        if found is None:
            pace = self._pace_of(bucket)
            found = self._paces[bucket] = (pace, asyncio.Semaphore(pace.max_in_flight))
        return found

    async def _send_once(self, request: Request, credentials: Credentials | None) -> Answer:
        endpoint = self._endpoints.get(request.bucket)
        if endpoint is None:
            endpoint = await asyncio.to_thread(self._resolver.resolve, request.bucket)
            self._endpoints[request.bucket] = endpoint
        path = endpoint.path + quoted_key(request.key)
        if endpoint.signed and credentials is not None:
            headers = self._signer.headers(request, credentials, endpoint, self._now(), path)
        else:
            headers = dict(request.headers)
        headers["user-agent"] = self._agent
        url = f"{endpoint.origin}{path}"
        if request.query:
            url = f"{url}?{request.query}"
        return await self._transport.send(request.method, url, headers, request.body)

    def _now(self) -> str:
        """Tell the time for a signature, by S3's clock as far as it is known."""
        second = int(time.time() + self._clock_ahead)
        if self._second[0] != second:
            self._second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ"))
        return self._second[1]

    async def _current_credentials(self) -> Credentials | None:
        """Give the credentials, which botocore renews where they are of the kind that can be."""
        if time.monotonic() < self._credentials_until:
            return self._credentials
        async with self._credentials_lock:
            if time.monotonic() >= self._credentials_until:
                self._credentials = await asyncio.to_thread(self._frozen_credentials)
                self._credentials_until = time.monotonic() + _CREDENTIALS_SECONDS
        return self._credentials

    def _frozen_credentials(self) -> Credentials | None:
        found = self._s3._request_signer._credentials
        if found is None:
            return None
        try:
            frozen = found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as exc:
            raise CredentialsRefused(f"the credentials of the connection to S3 cannot be renewed: {exc}") from exc
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    async def _corrected(self, answer: Answer, credentials: Credentials | None, request: Request) -> bool:
        """Mend what of a refusal is ours to mend: a wrong clock, a bucket elsewhere, credentials just renewed."""
        code, bucket = answer.code, request.bucket
        if not code:
            return False
        if code == "RequestTimeTooSkewed" and "date" in answer.headers:
            self._clock_ahead = answer.answered_at.timestamp() - time.time()
            return True
        region, endpoint = answer.headers.get("x-amz-bucket-region"), self._endpoints[bucket]
        if region and region != endpoint.region and answer.status in (301, 307, 400):
            found = await asyncio.to_thread(self._resolver.redirect, bucket, request.key or "k")
            self._endpoints[bucket] = found if found.region == region else replace(endpoint, region=region)
            return True
        if code in REFUSED_CREDENTIALS:
            self._credentials_until = 0.0
            return await self._current_credentials() != credentials
        return False


def _raise_for_all(answer: Answer, bucket: str) -> None:
    """Raise for a refusal that concerns every request to come."""
    code = answer.code
    if not code:
        return
    said = f"{code}: {answer.message}"
    if code in REFUSED_CREDENTIALS:
        raise CredentialsRefused(
            f"S3 does not accept the credentials for bucket {bucket!r} ({said}): renew those of the Airflow connection"
        )
    if code == "RequestTimeTooSkewed":
        raise CredentialsRefused(f"S3 finds this machine's clock wrong, also when set by its own ({said})")
    if code == "NoSuchBucket":
        raise BucketNotFound(f"there is no bucket {bucket!r} ({answer.message})")
    if code in REFUSED_ACCOUNT or str(answer.status) in REFUSED_ACCOUNT:
        raise AccountRefused(f"S3 no longer serves the account of bucket {bucket!r} ({said})")
