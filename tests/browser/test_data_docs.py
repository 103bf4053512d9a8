"""The Data Docs in a real browser, in Airflow's own page, on a machine that nothing leaves."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from conftest import StackWith
from foreign_warnings import GREAT_EXPECTATIONS
from unit.quality.audited_rows import AT, an_event, an_object, table_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    GREAT_EXPECTATIONS,
]

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Site:
    """Airflow's api-server with two audits in the database."""

    def __init__(self, base: str, token: str, failed: int, passed: int) -> None:
        self.base, self.token, self.failed, self.passed = base, token, failed, passed


@pytest.fixture(scope="module")
def site(stack_with: StackWith) -> Site:
    from cloudflux.local import airflow
    from cloudflux.quality import AuditContext, audit
    from cloudflux.stores import make_engine
    from cloudflux.stores.validations import Validations

    stack = stack_with("postgres", "airflow-api-server")
    context = AuditContext(AT + timedelta(hours=1))
    events = [an_event(number) for number in range(20)] + [
        an_event(77, kind=HOSTILE),
        an_event(78, bucket=HOSTILE, key=""),
    ]
    engine = make_engine(stack.environment()["CLOUDFLUX_DATABASE_URL"])
    numbers = []
    for dataset, rows, batch in (("access_events", events, HOSTILE), ("inventory", [an_object()], "run-2")):
        report = audit(dataset, table_of(dataset, rows), batch, context)
        numbers.append(
            Validations(engine).record(
                dataset, batch, report.passed, report.checks, datetime.now(UTC), rows=report.rows, result=report.result
            )
        )
    engine.dispose()
    port = stack.ports()["airflow"]
    token = airflow.token(port, *stack.credentials()["airflow"])
    return Site(f"http://127.0.0.1:{port}", token, *numbers)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # --no-sandbox: tests run as root in containers
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield opened
        opened.close()


class Visit:
    """A page of the browser that counts what it asks elsewhere and what it complains of."""

    def __init__(self, browser: Any, site: Site) -> None:
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(viewport={"width": 1400, "height": 900})
        self.context.add_cookies([{"name": "_token", "value": site.token, "url": site.base}])
        self.context.route("**/*", self._ask)
        self.page: Page = self.context.new_page()
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )

    def _ask(self, route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https") and address.hostname != "127.0.0.1":
            self.foreign.append(route.request.url)
            route.abort()
        else:
            route.continue_()


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Visit]:
    made = Visit(browser, site)
    yield made
    made.context.close()


def style(page: Any, selector: str, name: str) -> str:
    found: str = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).getPropertyValue('{name}')")
    return found


def status_of(site: Site, path: str, token: str | None = None) -> int:
    connection = http.client.HTTPConnection(urlsplit(site.base).netloc, timeout=60)
    connection.request("GET", path, headers={"Cookie": f"_token={token}"} if token else {})
    status = connection.getresponse().status
    connection.close()
    return status


def test_nobody_sees_the_data_docs_when_they_are_not_logged_in(site: Site) -> None:
    for path in ("/", f"/audits/{site.failed}", "/static/data_docs.js", "/static/bootstrap.min.css"):
        assert status_of(site, f"/cloudflux/data-docs{path}") == 401
        assert status_of(site, f"/cloudflux/data-docs{path}", "forged") in (401, 403)
        assert status_of(site, f"/cloudflux/data-docs{path}", site.token) == 200
    assert status_of(site, "/cloudflux/openapi.json") in (401, 404)


def test_data_docs_are_styled_and_escaped_when_the_admin_opens_them(site: Site, visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.goto(f"{site.base}/cloudflux/data-docs/")
    assert style(page, ".badge-danger", "background-color") == "rgb(220, 53, 69)"
    assert page.locator("#audits tbody tr").count() >= 2
    assert page.locator(f"#audits tr:has(a[href='audits/{site.failed}']) .batch").inner_text() == HOSTILE
    page.screenshot(path=tmp_path / "index.png", full_page=True)

    page.click(f"a[href='audits/{site.failed}']")
    page.wait_for_selector("text=Expectation Validation Result", timeout=60_000)
    assert style(page, ".card", "border-top-width") == "1px"
    assert style(page, "label[data-show=all]", "background-color") == "rgb(0, 98, 204)"
    assert style(page, ".fa-times", "color") == "rgb(220, 53, 69)"
    assert page.locator("body").inner_text().count(HOSTILE) >= 3  # the run, the kind, the bucket
    assert page.locator("img").count() == 0
    assert "stays unpublished" in page.locator("#outcome").inner_text()
    page.screenshot(path=tmp_path / "failed.png", full_page=True)

    met = page.get_by_text("100% not null").first
    assert met.is_visible()
    page.click("label[data-show=failed]")
    assert not met.is_visible()
    assert page.get_by_text("names are not empty").first.is_visible()
    page.screenshot(path=tmp_path / "only-failed.png", full_page=True)
    page.click("label[data-show=all]")
    run_name = page.locator(".collapse", has_text="Run Name").first
    assert not run_name.is_visible()
    page.click("[data-toggle=collapse]")
    assert run_name.is_visible()

    page.goto(f"{site.base}/cloudflux/data-docs/audits/{site.passed}")
    assert page.get_by_text("Succeeded").first.is_visible()
    page.click("text=Home")
    page.wait_for_url("**/cloudflux/data-docs/")
    assert (visit.foreign, visit.complaints) == ([], [])


def test_data_docs_open_inside_airflow_when_they_are_chosen_in_its_navigation(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    from cloudflux.local import airflow

    port = urlsplit(site.base).port
    assert port is not None
    assert airflow.request(port, "GET", "/api/v2/plugins/importErrors", bearer=site.token)[1]["import_errors"] == []
    page = visit.page
    page.goto(site.base)
    page.get_by_role("link", name="Data Docs").click(timeout=60_000)
    page.wait_for_url("**/plugin/cloudflux-data-docs")
    frame = page.frame_locator("iframe")
    frame.locator("#audits").wait_for(timeout=60_000)
    page.screenshot(path=tmp_path / "airflow.png")
    frame.locator(f"a[href='audits/{site.passed}']").click()
    frame.get_by_text("Expectation Validation Result").wait_for(timeout=60_000)
    page.screenshot(path=tmp_path / "airflow-result.png")
    assert visit.foreign == []
    assert [said for said in visit.complaints if "data-docs" in said or "Content Security" in said] == []
