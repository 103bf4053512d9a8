"""The Data Docs' routes: who may see them, what they answer, and what a page may do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from foreign_warnings import AIRFLOW

pytestmark = AIRFLOW

ROUTES = ("/data-docs/", "/data-docs/audits/1", "/data-docs/static/data_docs.js", "/data-docs/static/bootstrap.min.css")
HOSTILE = "<script>alert(1)</script>"


class Users:
    """Airflow's users: the token is the name, and only the admin may see plugins."""

    async def get_user_from_token(self, token: str) -> str:
        return token

    def is_authorized_view(self, *, access_view: Any, user: str) -> bool:
        return bool(access_view.value == "PLUGINS" and user == "admin")


class Audits:
    """What is stored, in memory."""

    def __init__(self, engine: object) -> None:
        self.engine = engine

    def latest(self, dataset: str | None, *, passed: bool | None, limit: int) -> list[Any]:
        from cloudflux.stores.validations import Validation

        check = {
            "expectation": "no_nulls",
            "column": HOSTILE,
            "description": HOSTILE,
            "passed": False,
            "unexpected": 1234,
        }
        at = datetime(2026, 3, 1, 12, tzinfo=UTC)
        found = [
            Validation(3, "inventory", HOSTILE, False, (check | {"severity": "critical"},), 5_000, at),
            Validation(2, "daily_access", "warned", True, (check | {"severity": "warning"},), None, at),
            Validation(1, "access_events", "good", True, (), 7, at),
        ]
        return [one for one in found if dataset in (None, one.dataset) and (passed is None or one.passed is passed)][
            :limit
        ]

    def find(self, validation_id: int) -> tuple[Any, None] | None:
        return (object(), None) if validation_id == 1 else None


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    from airflow.api_fastapi.core_api import security
    from fastapi.testclient import TestClient

    import cloudflux.stores.validations
    from cloudflux_ui import app

    monkeypatch.setattr(security, "get_auth_manager", Users)
    monkeypatch.setattr(cloudflux.stores.validations, "Validations", Audits)
    monkeypatch.setattr(app, "_engine", lambda: None)
    monkeypatch.setattr(app, "_import_great_expectations", lambda: None)
    with TestClient(app.create_app()) as client:
        yield client


def admin(client: Any, path: str) -> Any:
    return client.get(path, headers={"Authorization": "Bearer admin"})


@pytest.mark.parametrize("path", ROUTES)
def test_nobody_sees_anything_when_they_are_not_logged_in_or_may_not(client: Any, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer visitor"}).status_code == 403
    assert admin(client, path).status_code in (200, 410)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/", "/data-docs/static/../app.py"])
def test_there_is_no_other_page_when_one_is_guessed(client: Any, path: str) -> None:
    assert admin(client, path).status_code == 404


@pytest.mark.parametrize("path", ROUTES)
def test_page_may_load_nothing_but_our_own_files_when_a_browser_opens_it(client: Any, path: str) -> None:
    headers = admin(client, path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["frame-ancestors"]) == ("'self'", "'self'", "'self'")
    assert headers["x-content-type-options"] == "nosniff"


def test_list_names_what_failed_escaped_when_audits_are_there(client: Any) -> None:
    page = admin(client, "/data-docs/").text
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (&lt;script&gt;" in page
    for said in ("failed", "passed with warnings", "passed</span>", "5,000", "1,234", 'href="audits/3"'):
        assert said in page


def test_list_is_narrowed_when_a_filter_is_chosen(client: Any) -> None:
    assert "audits/1" not in admin(client, "/data-docs/?failed=true").text
    assert "audits/3" not in admin(client, "/data-docs/?dataset=access_events").text
    assert "no such audit" in admin(client, "/data-docs/?dataset=%3Cscript%3E").text


def test_page_says_so_when_an_audit_or_its_result_is_not_there(client: Any) -> None:
    assert admin(client, "/data-docs/audits/1").status_code == 410
    for number in ("7", str(2**70)):
        gone = admin(client, f"/data-docs/audits/{number}")
        assert (gone.status_code, "no audit" in gone.text) == (404, True)
    assert admin(client, "/data-docs/audits/x").status_code == 422


def test_answer_names_the_setting_when_the_database_is_not_set(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi import HTTPException

    from cloudflux_ui import app

    monkeypatch.undo()
    monkeypatch.delenv("CLOUDFLUX_DATABASE_URL", raising=False)
    with pytest.raises(HTTPException, match="CLOUDFLUX_DATABASE_URL"):
        app._engine()
