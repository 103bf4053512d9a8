"""Great Expectations over every batch before it is published."""

from cloudflux.quality.audit import AuditReport, Check, audit

__all__ = ["AuditReport", "Check", "audit"]
