"""The explanations' route: who may ask, what it answers, and that no error shows more than a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from foreign_warnings import AIRFLOW
from unit.local.test_explain import explanation
from unit.workflows.test_explain import HOSTILE

pytestmark = AIRFLOW

ROUTE = "/api/v1/explanations"


class Users:
    """Airflow's users: the token is the name, and only the admin may see plugins."""

    async def get_user_from_token(self, token: str) -> str:
        return token

    def is_authorized_view(self, *, access_view: Any, user: str) -> bool:
        return bool(access_view.value == "PLUGINS" and user == "admin")


Answers = Callable[[str], Any]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def answers() -> dict[str, Answers]:
    from cloudflux.workflows.explain import parse_address

    def found(uri: str) -> Any:
        ref = parse_address(uri)
        return explanation(uri=ref.uri, bucket=ref.bucket, key=ref.key)

    return {"explain": found}


@pytest.fixture
def client(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[str],
    answers: dict[str, Answers],
) -> Iterator[Any]:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    from airflow.api_fastapi.core_api import security
    from fastapi.testclient import TestClient

    from cloudflux.orchestration import explanations
    from cloudflux_ui import app

    def explain(uri: str) -> Any:
        asked.append(uri)
        return answers["explain"](uri)

    monkeypatch.setattr(security, "get_auth_manager", Users)
    monkeypatch.setattr(explanations, "explain", explain)
    with TestClient(app.create_app(), raise_server_exceptions=False) as client:
        yield client


def admin(client: Any, uri: str | None, path: str = ROUTE) -> Any:
    return client.get(path, params=None if uri is None else {"uri": uri}, headers={"Authorization": "Bearer admin"})


@pytest.mark.parametrize("path", [f"{ROUTE}?uri=s3://data/key", ROUTE, "/api/v1/openapi.json"])
def test_nobody_is_answered_when_they_are_not_logged_in_or_may_not(client: Any, asked: list[str], path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer visitor"}).status_code == 403
    assert not asked


def test_all_parts_are_told_when_the_object_is_there(client: Any) -> None:
    answer = admin(client, "s3://data/a%20b")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["uri"], told["key"], told["day"]) == ("s3://data/a%20b", "a b", "2026-06-01")
    assert told["decision"]["payback_on"] == "2026-06-02"
    assert [one["total_usd"] for one in told["candidates"]] == [0.138, 0.02]
    assert told["stored"]["agrees"] is False
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "key", [HOSTILE, "a+b &uri=s3://other/x", "täg/ключ/鍵", "\x00\n\x1b[31m", "50%25", "..//../x"]
)
def test_key_comes_back_as_it_is_when_it_holds_strange_characters(client: Any, asked: list[str], key: str) -> None:
    uri = f"s3://data/{quote(key, safe='/')}"
    answer = admin(client, uri)
    assert answer.status_code == 200
    assert asked == [uri]
    assert (answer.json()["key"], answer.json()["uri"]) == (key, uri)
    assert json.loads(answer.text)["bucket"] == "data"


@pytest.mark.parametrize("uri", ["", "key", "s3://", "s3://bucket/", "http://bucket/key", "<script>alert(1)</script>"])
def test_422_names_the_address_when_it_is_malformed(client: Any, uri: str) -> None:
    answer = admin(client, uri)
    assert answer.status_code == 422
    assert answer.json() == {"detail": f"not an object address (s3://, az:// or gs:// with bucket and key): {uri!r}"}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("uri", [None, "s3://data/" + "x" * 9000])
def test_422_comes_when_the_address_is_missing_or_endless(client: Any, asked: list[str], uri: str | None) -> None:
    assert admin(client, uri).status_code == 422
    assert not asked


def test_404_names_the_object_when_it_is_not_there(client: Any, answers: dict[str, Answers]) -> None:
    from cloudflux.domain.errors import ObjectNotFound
    from cloudflux.workflows.explain import BucketNotInEstate, NothingToExplain

    for error in (ObjectNotFound("s3://a/b is gone"), BucketNotInEstate("s3://a/b"), NothingToExplain("no inventory")):
        answers["explain"] = failing(error)
        answer = admin(client, "s3://a/b")
        assert (answer.status_code, answer.json()) == (404, {"detail": str(error)})


def test_503_says_what_is_away_when_the_database_does_not_answer(client: Any, answers: dict[str, Answers]) -> None:
    from cloudflux.domain.errors import SettingsError, TransientError

    for error in (TransientError("PostgreSQL is away"), SettingsError("CLOUDFLUX_LAKE_URL: missing")):
        answers["explain"] = failing(error)
        answer = admin(client, "s3://a/b")
        assert (answer.status_code, answer.json()) == (503, {"detail": str(error)})


def test_no_traceback_is_shown_when_something_unforeseen_fails(client: Any, answers: dict[str, Answers]) -> None:
    answers["explain"] = failing(RuntimeError("secret"))
    answer = admin(client, "s3://a/b")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def failing(error: Exception) -> Answers:
    def explain(_: str) -> Any:
        raise error

    return explain


def test_answer_is_typed_when_the_document_is_read(client: Any) -> None:
    document = admin(client, None, "/api/v1/openapi.json").json()
    assert list(document["paths"]) == [ROUTE]
    found = document["paths"][ROUTE]["get"]["responses"]
    assert set(found) == {"200", "404", "422", "503"}
    assert found["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Explanation"}
    fields = document["components"]["schemas"]["CandidateCost"]["properties"]
    assert fields["early_deletion_usd"]["type"] == "number"
    assert fields["option"]["enum"] == ["move", "keep", "wait"]
