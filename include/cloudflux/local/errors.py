"""What can go wrong while the embedded stack starts, said in one sentence."""

from __future__ import annotations

from cloudflux.domain.errors import CloudFluxError


class StackError(CloudFluxError):
    """The embedded stack cannot start or stop; the text says why and what to do."""


class PortInUse(StackError):
    """Another program listens on a port that the stack wants; the text names the port, its holder and the setting."""


class ToolMissing(StackError):
    """A program that a service needs is neither on this machine nor could be installed."""


class ServiceFailed(StackError):
    """A service ended, or was not healthy before its deadline; the text holds the end of its log."""
