"""What tasks have in common: on what they give up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.orchestration import edge


@pytest.mark.parametrize(
    ("try_number", "given_up_on"),
    [(1, (TerminalError,)), (2, (TerminalError,)), (3, (TerminalError, TransientError))],
)
def test_what_may_pass_is_given_up_on_at_the_last_attempt(
    monkeypatch: pytest.MonkeyPatch, try_number: int, given_up_on: tuple[type[Exception], ...]
) -> None:
    task = SimpleNamespace(try_number=try_number, max_tries=edge.DEFAULT_ARGS["retries"])
    monkeypatch.setattr(edge, "get_current_context", lambda: {"ti": task})
    assert edge.given_up_on() == given_up_on
