"""The API below ``/cloudflux/api/v1``: why an object stays or moves."""

# Without `from __future__ import annotations`, as in `cloudflux_ui.app`.

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel

from cloudflux.domain.errors import CloudFluxError, ObjectNotFound
from cloudflux.workflows.explain import AddressMalformed, BucketNotInEstate, NothingToExplain
from cloudflux.workflows.explanation import Explanation

_LONGEST_URI = 8192
"""A key has at most 1,024 bytes, and quoting makes three of each."""


class Problem(BaseModel):
    """What went wrong, in one sentence."""

    detail: str


class Refused(BaseModel):
    """What is wrong with the question: one sentence, or one entry for each parameter."""

    detail: str | list[dict[str, Any]]


def router() -> APIRouter:
    """Give the routes. Who may ask is the application's to say: it asks for the right to see plugins everywhere."""
    routes = APIRouter(prefix="/api/v1", tags=["explanations"])

    @routes.get(
        "/explanations",
        summary="Explain one object's decision",
        responses={
            404: {"model": Problem, "description": "There is no such object, or no inventory yet."},
            422: {"model": Refused, "description": "The address is malformed or missing."},
            503: {"model": Problem, "description": "Something that is needed is away, or not set."},
        },
    )
    def explanation(
        uri: Annotated[
            str,
            Query(
                max_length=_LONGEST_URI,
                description="The object's address, its key URL-quoted (and the whole quoted again as a parameter): "
                "`s3://bucket/key`, `az://container/key` or `gs://bucket/key`.",
            ),
        ],
        response: Response,
    ) -> Explanation:
        """Decide the object anew; give its history, its forecast, each candidate's cost part by part, and the reason.

        Without a champion, or when MLflow is away, the rules forecast, and `forecast.note` says so.
        """
        from cloudflux.orchestration.explanations import explain

        # keys were written by strangers: a browser must not guess that this is a page
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "private, no-store"
        try:
            return explain(uri)
        except AddressMalformed as exc:
            raise HTTPException(422, str(exc)) from exc
        except (ObjectNotFound, BucketNotInEstate, NothingToExplain) as exc:
            raise HTTPException(404, str(exc)) from exc
        except CloudFluxError as exc:
            raise HTTPException(503, str(exc)) from exc

    return routes
