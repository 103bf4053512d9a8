"""How many messages wait in a topic."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from cloudflux.events.topic import bounds, connect, explained


class LagProbe:
    """Asks again and again over one connection. Not for several threads at once."""

    def __init__(self, bootstrap_servers: str, topic: str, options: Mapping[str, Any] | None = None) -> None:
        """Connect. Raises ``BrokerUnreachable``, or ``SettingsError`` when the addresses are none."""
        self._brokers = bootstrap_servers
        self._topic = topic
        with explained(bootstrap_servers, topic):
            self._consumer = connect(bootstrap_servers, client_id="cloudflux-lag", options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False, timeout_ms=5_000)

    def lag(self, next_offsets: Mapping[int, int]) -> int:
        """Count the offsets that are not stored yet, given the first such one of each partition that was ever drained.

        A stored offset outside of what the broker keeps counts as lag, so that a drain runs and names the gap.
        Raises ``TopicNotFound``, ``BrokerUnreachable``.
        """
        with explained(self._brokers, self._topic):
            found = bounds(self._consumer, self._topic)
        waiting = 0
        for partition, (oldest, end) in found.items():
            stored = next_offsets.get(partition, oldest)
            waiting += end - stored if stored <= end else max(1, end - oldest)
        return waiting


def lag(bootstrap_servers: str, topic: str, next_offsets: Mapping[int, int]) -> int:
    """Count once. See ``LagProbe.lag``."""
    with LagProbe(bootstrap_servers, topic) as probe:
        return probe.lag(next_offsets)
