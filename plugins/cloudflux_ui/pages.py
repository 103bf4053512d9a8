"""The list of audits, and pages that say one thing: plain HTML in the look of the Data Docs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

if TYPE_CHECKING:
    from cloudflux.stores.validations import Validation

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data Docs</title>
<link rel="stylesheet" href="{{ base }}static/bootstrap.min.css">
<link rel="stylesheet" href="{{ base }}static/data_docs.css">
</head>
<body>
<main class="container-fluid p-4">
"""

_INDEX = (
    _HEAD
    + """<h1 class="h3">Data Docs</h1>
<p class="text-secondary">Every batch is audited by Great Expectations before it is published. The newest first{% if
audits|length == most %}; {{ most }} are shown{% endif %}.</p>
<ul class="nav nav-pills mb-3">
<li class="nav-item"><a class="nav-link{{ '' if dataset or failed else ' active' }}" href="./">All</a></li>
<li class="nav-item"><a class="nav-link{{ ' active' if failed and not dataset }}" href="./?failed=true">Failed</a></li>
{% for name in datasets -%}
<li class="nav-item"><a class="nav-link{{ ' active' if name == dataset }}" href="./?dataset={{ name|urlencode }}">
{{- name }}</a></li>
{% endfor -%}
</ul>
{% if audits %}
<table class="table table-sm table-hover" id="audits">
<thead><tr><th>Time (UTC)</th><th>Dataset</th><th>Batch</th><th class="text-right">Rows</th><th>Result</th>
<th>Not met</th></tr></thead>
<tbody>
{% for audit in audits -%}
<tr>
<td class="text-nowrap"><a href="audits/{{ audit.validation_id }}">{{ audit.at.strftime("%Y-%m-%d %H:%M:%S") }}</a></td>
<td>{{ audit.dataset }}</td>
<td class="batch">{{ audit.batch }}</td>
<td class="text-right">{{ "" if audit.rows is none else "{:,}".format(audit.rows) }}</td>
<td class="text-nowrap"><span class="badge badge-{{ outcome(audit)[0] }}">{{ outcome(audit)[1] }}</span></td>
<td>{% for check in audit.checks if not check.passed -%}
<div>{{ check.description or check.expectation }}{% if check.column %} ({{ check.column }}){% endif %}
{%- if check.unexpected %}: {{ "{:,}".format(check.unexpected) }}{% endif %}</div>
{%- endfor %}</td>
</tr>
{% endfor -%}
</tbody>
</table>
{% else %}
<p id="none">There is no such audit yet.</p>
{% endif %}
</main>
</body>
</html>
"""
)

_MESSAGE = (
    _HEAD
    + """<p class="lead">{{ text }}</p>
<p><a href="{{ base }}">All audits</a></p>
</main>
</body>
</html>
"""
)

# Strangers wrote the names of objects, and with them examples of what is wrong.
_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined)


def index_page(audits: Sequence[Validation], *, dataset: str | None, failed: bool, most: int) -> str:
    """List audits, the newest first, with what was not met."""
    names = ["access_events", "daily_access", "inventory", "ingestion_events", "decisions"]
    return _TEMPLATES.from_string(_INDEX).render(
        audits=audits, datasets=names, dataset=dataset, failed=failed, most=most, outcome=_outcome, base=""
    )


def message_page(text: str) -> str:
    """Say one thing, two folders deep."""
    return _TEMPLATES.from_string(_MESSAGE).render(text=text, base="../")


def _outcome(audit: Validation) -> tuple[str, str]:
    """Give the colour and the word for how a batch met its suite."""
    if not audit.passed:
        return "danger", "failed"
    unmet: list[dict[str, Any]] = [check for check in audit.checks if not check["passed"]]
    if any(check.get("severity") == "critical" for check in unmet):
        return "warning", "passed, rows left out"
    return ("warning", "passed with warnings") if unmet else ("success", "passed")
