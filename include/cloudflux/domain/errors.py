"""Errors that callers tell apart. Terminal ones are permanent: retrying cannot help."""

from __future__ import annotations


class CloudFluxError(Exception):
    """Base of every error raised on purpose; its text says what went wrong, with what, and what to do."""


class TerminalError(CloudFluxError):
    """A permanent failure: the task fails at once, Airflow does not retry it."""


class TransientError(CloudFluxError):
    """A failure that may pass (throttling, a lost connection): Airflow retries the task."""


class SettingsError(TerminalError, ValueError):
    """A setting is missing or wrong; the text names it."""


class ObjectNotFound(CloudFluxError, FileNotFoundError):
    """The object does not exist (any more)."""


class ObjectLocked(CloudFluxError):
    """A lease, a legal hold or a retention period forbids the change."""


class CredentialsRefused(TerminalError):
    """The provider does not accept who we are: expired, revoked or unknown credentials. They have to be renewed."""


class BucketNotFound(TerminalError):
    """There is no such bucket; the text names it."""


class AccountRefused(TerminalError):
    """The provider serves the whole account no longer: a quota is used up, it is full, suspended or unpaid."""


class AuditFailed(TerminalError):
    """A batch failed its expectations and stays unpublished; the text names the expectation, with examples."""
