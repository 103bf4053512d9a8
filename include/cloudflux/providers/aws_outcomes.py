"""What S3's refusal of a request for one object comes to: a result of its move, or an error."""

from __future__ import annotations

from typing import Final

from cloudflux.domain.errors import CloudFluxError, ObjectLocked, ObjectNotFound, TerminalError
from cloudflux.domain.migrations import ChangeOutcome
from cloudflux.domain.objects import ObjectRef
from cloudflux.providers.aws_http import Answer
from cloudflux.providers.aws_requests import NOT_ACTED_ON, PERHAPS_ACTED_ON, NotServed, S3Requests

NOT_FOUND: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion", "MethodNotAllowed", "405"})
CHANGED_SINCE: Final = frozenset({"412", "PreconditionFailed"})
_WITHOUT_A_WORD: Final = {
    # HEAD is refused without a body
    "400": ": perhaps it is encrypted with a key of its owner's own (SSE-C)",
    "403": ": access to it is denied, or it is gone and the bucket may not be listed",
}


class Unusable(Exception):
    """A result that was found on the way."""

    def __init__(self, outcome: ChangeOutcome, detail: str, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.request_id = request_id


async def ask_of(requests: S3Requests, ref: ObjectRef, query: dict[str, str]) -> Answer:
    """Get what a query asks of one object. Raises what its refusal comes to."""
    answer = await requests.send("GET", ref.bucket, ref.key, query=query, repeatable=True)
    if answer.code:
        raise refusal_of(answer, ref.uri)
    return answer


def refusal_of(answer: Answer, what: str) -> CloudFluxError | Unusable:
    """Say why S3 did not do what it was asked for one object."""
    code, message = answer.code, answer.message
    refusal: CloudFluxError | Unusable
    if code in CHANGED_SINCE:
        refusal = Unusable(ChangeOutcome.CONFLICT, "it was overwritten meanwhile", answer.request_id)
    elif code in NOT_FOUND:
        refusal = ObjectNotFound(f"there is no object {what}")
    elif code in NOT_ACTED_ON or code in PERHAPS_ACTED_ON:
        refusal = NotServed(f"S3 could not serve {what} ({code}: {message})")
    elif code == "AccessDenied" and "lock" in message.lower():
        refusal = ObjectLocked(f"{what} is under object lock: {message}")
    elif message:
        refusal = TerminalError(f"S3 refused {what} with {code}: {message}")
    else:
        hint = _WITHOUT_A_WORD.get(code, "")
        refusal = TerminalError(f"S3 refused {what} with {code}{hint}")
    return refusal
