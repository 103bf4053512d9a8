"""The benchmark carries plans out by the task's own path, compares like with like, and its endpoint keeps its word."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cloudflux.local.bench import migrate_bare
from cloudflux.local.bench.measured import in_fresh_process
from cloudflux.local.bench.migrate_endpoint import answering_endpoint, endpoint_rate, etag_of
from cloudflux.local.cli import main

RATES = {"bare", "bare_safe", "moves", "changes", "rclone"}
KEY = "/bucket/some%20key"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with answering_endpoint(0.0) as url:
        yield url


def copy(url: str, **conditions: str) -> requests.Response:
    headers = {"x-amz-copy-source": KEY, "x-amz-storage-class": "GLACIER_IR", **conditions}
    return requests.put(url + KEY, headers=headers, timeout=10)


def bench(folder: Path, *asked: str) -> dict[str, Any]:
    target = folder / "figures.json"
    assert main(["bench", "migrate", *asked, "--folder", str(folder), "--json", str(target)]) == 0
    assert [path.name for path in folder.iterdir()] == [target.name], "it leaves nothing behind"
    return json.loads(target.read_text())


def test_an_object_is_in_its_new_class_when_the_endpoint_has_copied_it(endpoint: str) -> None:
    before = requests.head(endpoint + KEY, timeout=10)
    assert "x-amz-storage-class" not in before.headers
    assert before.headers["etag"].strip('"') == etag_of(KEY.encode())
    answer = copy(endpoint, **{"if-match": before.headers["etag"]})
    assert (answer.status_code, b"CopyObjectResult" in answer.content) == (200, True)
    after = requests.head(endpoint + KEY, timeout=10)
    assert after.headers["x-amz-storage-class"] == "GLACIER_IR"
    assert after.headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize("condition", ["if-match", "x-amz-copy-source-if-match"])
def test_the_endpoint_refuses_a_copy_when_a_condition_does_not_hold(endpoint: str, condition: str) -> None:
    answer = copy(endpoint, **{condition: '"another"'})
    assert (answer.status_code, b"<Code>PreconditionFailed</Code>" in answer.content) == (412, True)


def test_no_answer_is_early_when_the_endpoint_is_slow() -> None:
    with answering_endpoint(0.2) as url:
        began = time.monotonic()
        requests.head(url + KEY, timeout=10)
        assert time.monotonic() - began >= 0.2
        found = in_fresh_process(endpoint_rate, url, 40, set())
    assert 0 < found["requests_per_second"] <= 40 / 0.2


def test_rclone_is_named_as_missing_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert migrate_bare.rclone_settier(":s3:b", {}, "STANDARD_IA") == {"cannot": "rclone is not installed"}


def test_a_bare_client_fails_when_a_request_is_refused(endpoint: str) -> None:
    refused = migrate_bare.Asked("PUT", endpoint + KEY, {"if-match": '"another"'})
    with pytest.raises(ExceptionGroup, match="unhandled") as caught:
        migrate_bare.send_all([refused], 2)
    assert "412" in str(caught.value.exceptions[0])


def test_the_way_that_takes_least_is_chosen_when_a_bare_client_has_several() -> None:
    ways = {"slow": lambda keys, to_class: 2.0, "fast": lambda keys, to_class: 1.0}
    assert migrate_bare.fastest(ways, ["k"], ["A", "B"]) == "fast"


def test_copies_moves_and_memory_are_measured_when_the_endpoint_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = bench(tmp_path, "--objects", "30", "--large", "60", "--providers", "endpoint", "--rounds", "1")
    found = figures["endpoint"]
    assert found["delay_seconds"] == 0.05
    # each of these takes at least as many answers of the endpoint, one after the other
    assert 0 < found["changes_per_second"] <= 30 / 0.05
    assert 0 < found["moves_per_second"] <= 30 / (3 * 0.05)
    assert [row["objects"] for row in figures["memory"]["sizes"]] == [30, 60]
    assert all(0 < row["before_bytes"] <= row["peak_bytes"] for row in figures["memory"]["sizes"])
    assert "whole moves a second" in capsys.readouterr().out


def test_every_contender_moves_every_object_when_the_emulators_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = bench(tmp_path, "--objects", "20", "--providers", "aws,azure,gcp", "--rounds", "2")
    assert "memory" not in figures
    for name, found in figures["emulators"].items():
        cannot = RATES - found["per_second"].keys()
        assert cannot <= {"rclone"}, name
        assert bool(cannot) == (found["rclone_cannot"] is not None)
        assert all(len(found["seconds"][rate]) == 2 for rate in RATES - cannot)
        assert all(found["processor_seconds"][rate] > 0 for rate in ("moves", "bare_safe"))
        assert found["moves_to_bare"] == pytest.approx(found["per_second"]["moves"] / found["per_second"]["bare"])
    assert figures["emulators"].keys() == {"aws", "azure", "gcp"}
    shown = capsys.readouterr().out
    assert "whole moves to look, change, look" in shown
    assert "look, change, look, nothing read or kept" in shown


def test_every_contender_waits_for_the_emulator_when_it_is_told_to_be_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--objects", "20", "--providers", "gcp", "--rounds", "1", "--rewrite-us", "20000")
    rates = bench(tmp_path, *asked)["emulators"]["gcp"]["per_second"]
    assert all(0 < rates[name] <= 1 / 0.02 for name in RATES - {"rclone"})
    assert "20,000 us" in capsys.readouterr().out


def test_nothing_is_measured_when_the_emulator_to_slow_down_is_not_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "migrate", "--providers", "aws", "--rewrite-us", "100"]) != 0
    assert "--rewrite-us needs gcp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("--providers", "aws,s3"), "some of aws,azure,gcp,endpoint"),
        (("--objects", "many"), "--objects: 'many': write a whole number"),
        (("--rounds", "0"), "--rounds: must be at least 1"),
        (("--rewrite-us", "-1"), "--rewrite-us: must not be negative"),
    ],
)
def test_the_command_says_what_it_takes_when_it_is_told_something_else(
    told: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "migrate", *told])
    assert said in capsys.readouterr().err
