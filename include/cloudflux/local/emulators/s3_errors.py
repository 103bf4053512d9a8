"""The body of a refusal, as S3 writes it."""

from __future__ import annotations

from uuid import uuid4
from xml.sax.saxutils import escape


def error_body(code: str, message: str, **details: str) -> bytes:
    """Write a refusal; ``details`` are further elements, by name."""
    extra = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in details.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>'
        f"{extra}<RequestId>{uuid4().hex[:16].upper()}</RequestId></Error>"
    ).encode()
