"""Great Expectations over every batch before it is published."""

from cloudflux.quality.audit import AuditReport, Check, audit
from cloudflux.quality.context import AuditContext
from cloudflux.quality.suites import Severity

__all__ = ["AuditContext", "AuditReport", "Check", "Severity", "audit"]
