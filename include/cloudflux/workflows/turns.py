"""A provider's client as moves see it, and how the steps of one range share it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from cloudflux.domain.errors import TransientError
from cloudflux.domain.migrations import TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen

_Item = TypeVar("_Item")
_Given = TypeVar("_Given")


class TierClient(Protocol):
    """The part of a provider's client that moves need."""

    @property
    def capabilities(self) -> Any:
        """What the provider can do."""

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order."""

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Submit changes, each conditional on what was seen; one result for each, in order."""


class Ended(TransientError):
    """Something else ended the range while this step waited for its turn."""


class Turns:
    """A client that gives no more answers once one failed; ``exclusive``: that is asked by one step at a time."""

    def __init__(self, client: TierClient, *, exclusive: bool) -> None:
        self._client = client
        self._turn: AbstractContextManager[Any] = threading.Lock() if exclusive else nullcontext()
        self.ended = False

    @property
    def capabilities(self) -> Any:
        """What the provider can do."""
        return self._client.capabilities

    def end(self) -> None:
        """Give no more turns."""
        self.ended = True

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        """Look at many objects at once, in order, when it is our turn. Raises ``Ended``."""
        return self._ask(self._client.head_many, refs)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        """Submit changes when it is our turn. Raises ``Ended``."""
        return self._ask(self._client.change_tiers, changes)

    def _ask(self, ask: Callable[[Sequence[_Item]], list[_Given]], items: Sequence[_Item]) -> list[_Given]:
        with self._turn:
            if self.ended:
                raise Ended("the range was ended: call again")
            try:
                return ask(items)
            except BaseException:  # also an interrupt: no other step may go on
                self.ended = True
                raise
