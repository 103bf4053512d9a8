"""The pages as an ASGI application that is built when it is first asked for something.

Every process of Airflow loads its plugins, each task's too: only the api-server needs FastAPI and Airflow's login.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

_Message = MutableMapping[str, Any]


@cache
def _application() -> Any:
    from cloudflux_ui.app import create_app

    return create_app()


async def pages(
    scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
) -> None:
    """Answer a request below ``/cloudflux``."""
    await _application()(scope, receive, send)
