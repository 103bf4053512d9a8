"""All below ``/cloudflux``: the Data Docs of all audits, and the API with its OpenAPI document.

Airflow protects nothing of a plugin by itself. Here every route, the style sheet too, asks for the right to see
Airflow's plugins, and there is no page of FastAPI's own.

What the pages show of keys and user agents was written by strangers. It is escaped, and the content security policy
lets nothing run, load or send but our own files: the second lock behind the first.
"""

# Without `from __future__ import annotations`: FastAPI reads the annotations of routes, and Airflow's dependencies
# would become query parameters.

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine

from cloudflux_ui import explanations
from cloudflux_ui.pages import index_page, message_page

_ASSETS: Final[Mapping[str, tuple[str, str]]] = {
    "bootstrap.min.css": ("bootstrap-4.3.1/bootstrap.min.css", "text/css"),
    "data_docs.css": ("data_docs.css", "text/css"),
    "data_docs.js": ("data_docs.js", "text/javascript"),
}
_NEWEST: Final = 200
"""Audits on the index page."""
_PAGES_KEPT: Final = 64
"""Rendered pages of about 60 KiB each; a result never changes."""

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "style-src-attr 'unsafe-inline'",  # Great Expectations writes styles into its elements
            "img-src 'self' data:",  # Bootstrap's arrows
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",  # Airflow's own page shows them
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}


class _PageCache:
    """The newest rendered pages; Great Expectations renders one at a time."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, str] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, validation_id: int, result: Mapping[str, Any]) -> str:
        from cloudflux.quality.data_docs import rendered

        with self._lock:
            if validation_id not in self._pages:
                self._pages[validation_id] = rendered(result, home="../", assets="../static/")
            self._pages.move_to_end(validation_id)
            while len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
            return self._pages[validation_id]


@cache
def _engine() -> Engine:
    from cloudflux.stores.engine import make_engine

    url = os.environ.get("CLOUDFLUX_DATABASE_URL", "")
    if not url:
        raise HTTPException(503, "CLOUDFLUX_DATABASE_URL is not set in the api-server: it names the audits' database")
    return make_engine(url)


@cache
def _import_great_expectations() -> None:
    """Start the import, which takes seconds, before somebody opens the first result."""
    from cloudflux.quality.audit import great_expectations

    threading.Thread(target=great_expectations, name="import great_expectations", daemon=True).start()


def create_app() -> FastAPI:
    """Build the application."""
    app = FastAPI(
        title="CloudFlux",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_view(AccessView.PLUGINS))],
    )
    app.include_router(explanations.router())
    pages = _PageCache()

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    def openapi() -> dict[str, Any]:
        return app.openapi()  # FastAPI's own route would answer anybody

    @app.get("/data-docs/", include_in_schema=False)
    def index(dataset: Annotated[str | None, Query(max_length=100)] = None, failed: bool = False) -> HTMLResponse:
        from cloudflux.stores.validations import Validations

        _import_great_expectations()
        audits = Validations(_engine()).latest(dataset, passed=False if failed else None, limit=_NEWEST)
        return HTMLResponse(index_page(audits, dataset=dataset, failed=failed, most=_NEWEST), headers=_HEADERS)

    @app.get("/data-docs/audits/{validation_id}", include_in_schema=False)
    def audit(validation_id: int) -> HTMLResponse:
        from cloudflux.stores.validations import Validations

        found = Validations(_engine()).find(validation_id) if validation_id < 2**63 else None
        if found is None:
            text = f"There is no audit with the number {validation_id}."
            return HTMLResponse(message_page(text), status_code=404, headers=_HEADERS)
        _, result = found
        if result is None:
            text = "Great Expectations' result of this audit is not kept any more; what failed stands in the list."
            return HTMLResponse(message_page(text), status_code=410, headers=_HEADERS)
        return HTMLResponse(pages.page(validation_id, result), headers=_HEADERS)

    @app.get("/data-docs/static/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404, "There is no such file.")
        path, media_type = _ASSETS[name]
        content = resources.files("cloudflux_ui").joinpath("www", *path.split("/")).read_bytes()
        return Response(content, media_type=media_type, headers={**_HEADERS, "Cache-Control": "private, max-age=3600"})

    return app
