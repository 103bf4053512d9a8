"""Data Docs: an audit's stored result as a page, by Great Expectations' own renderer, for use without internet.

Great Expectations' page takes its styles and scripts from other people's servers, and writes examples of unexpected
values into it as they are. Here every text that strangers may have written is taken out before the page is rendered and
put back, escaped, into the finished page; and links to foreign servers, with the scripts of the page, are replaced by
the two style sheets and the script that stand in ``assets``.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from cloudflux.quality.audit import great_expectations

STYLE_SHEETS: Final = ("bootstrap.min.css", "data_docs.css")
SCRIPT: Final = "data_docs.js"

_FOREIGN: Final = (
    re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<style\b.*?</style>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<link\b[^>]*>", re.IGNORECASE),
    re.compile(r"<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE),  # an invitation to a newsletter
)
_LOGO: Final = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
_HOME: Final = re.compile(r'href="(?:\.\./)+index\.html"')
_SUITE: Final = re.compile(r'href="(?:\.\./)+expectations/[^"]*"')
"""There is no page of the suite alone."""
_FILTERS: Final = (
    ('onclick="showAllValidations()"', 'data-show="all"'),
    ('onclick="hideSucceededValidations()"', 'data-show="failed"'),
)


def rendered(result: Mapping[str, Any], *, home: str, assets: str) -> str:
    """Give the page of a validation result (``AuditReport.result``, as JSON gives it back).

    ``home`` is the address of the list of audits and ``assets`` that of the folder with ``STYLE_SHEETS`` and
    ``SCRIPT``, both relative to the page. The first call takes the seconds that importing Great Expectations takes.
    """
    great_expectations()
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    texts = _Texts()
    document = ValidationResultsPageRenderer(run_info_at_end=False).render(
        expectationSuiteValidationResultSchema.load(_without_foreign_texts(result, texts))
    )
    page: str = DefaultJinjaPageView().render(document, show_how_to_buttons=False)
    for pattern in _FOREIGN:
        page = pattern.sub("", page)
    page = _LOGO.sub('<span class="h4 text-dark">Data Docs</span>', page)
    page = _HOME.sub(f'href="{html.escape(home)}"', page)
    page = _SUITE.sub("", page)
    for theirs, ours in _FILTERS:
        page = page.replace(theirs, ours)
    own = "".join(f'<link rel="stylesheet" href="{html.escape(assets)}{name}">\n' for name in STYLE_SHEETS)
    own += f'<script src="{html.escape(assets)}{SCRIPT}" defer></script>\n'
    page = page.replace("</head>", f"{own}</head>", 1)
    # Great Expectations calls a batch failed of which a warning was not met: say first what became of it.
    page = page.replace('<div class="container-fluid', f'{_outcome(result)}<div class="container-fluid', 1)
    return texts.put_back(page)


def _outcome(result: Mapping[str, Any]) -> str:
    audit = result["meta"].get("cloudflux")
    if audit is None:
        return ""
    rows, rejected = int(audit["rows"]), int(audit["rejected"])
    if not audit["passed"]:
        colour, told = "danger", f"This batch of {rows:,} rows stays unpublished."
    elif rejected:
        colour, told = "warning", f"{rejected:,} of {rows:,} rows are left out of this batch and kept in quarantine."
    elif not result["success"]:
        colour, told = "warning", f"This batch of {rows:,} rows may be published: what is not met are warnings."
    else:
        colour, told = "success", f"All {rows:,} rows of this batch may be published."
    return f'<div class="alert alert-{colour} m-3" id="outcome">{told}</div>\n'


class _Texts:
    """Texts that stand for themselves only in the finished page."""

    def __init__(self) -> None:
        # Nobody who writes a text can know the mark of the page that it will stand in.
        self._mark = f"text{secrets.token_hex(8)}n"
        self._texts: list[str] = []

    def take_out(self, value: Any) -> Any:
        """Give the value with a mark in the place of each text."""
        if isinstance(value, str):
            self._texts.append(value)
            return f"{self._mark}{len(self._texts) - 1}z"
        if isinstance(value, Mapping):
            return {name: self.take_out(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.take_out(part) for part in value]
        return value

    def put_back(self, page: str) -> str:
        """Write the texts, escaped, in the places of their marks."""
        return re.sub(rf"{self._mark}(\d+)z", lambda found: html.escape(self._texts[int(found[1])]), page)


def _without_foreign_texts(result: Mapping[str, Any], texts: _Texts) -> dict[str, Any]:
    meta = dict(result["meta"])
    meta["run_id"] = {**meta["run_id"], "run_name": texts.take_out(meta["run_id"]["run_name"])}
    meta.pop("cloudflux", None)
    return {
        **result,
        "meta": meta,
        "results": [
            {
                **part,
                "result": texts.take_out(part["result"]),
                "exception_info": texts.take_out(part["exception_info"]),
            }
            for part in result["results"]
        ],
    }
