from __future__ import annotations

import configparser
import shlex
from pathlib import Path

from cloudflux.local.layout import Layout
from cloudflux.local.supervision import Program, configuration


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()  # undoubles percent signs as supervisord does
    parser.read_string(text)
    return parser


def test_commands_survive_when_folders_have_spaces_and_percent_signs(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "100% my stack")
    command = ("/a b/python", "-m", "x", "--data", str(layout.root / "it's"))
    text = configuration(layout, [Program("s3", command, layout.root)], 1234, "secret")
    section = parsed(text)["program:s3"]
    assert tuple(shlex.split(section["command"])) == command
    assert section["directory"] == str(layout.root)


def test_environment_values_survive_when_they_hold_passwords(tmp_path: Path) -> None:
    program = Program("azure", ("node",), tmp_path, {"AZURITE_ACCOUNTS": "cloudflux:ab+/c%d=="})
    section = parsed(configuration(Layout(tmp_path), [program], 1234, "secret"))["program:azure"]
    assert section["environment"] == 'AZURITE_ACCOUNTS="cloudflux:ab+/c%d=="'


def test_the_interface_needs_the_password_on_loopback_when_it_is_configured(tmp_path: Path) -> None:
    text = configuration(Layout(tmp_path), [], 1234, "secret")
    server = parsed(text)["inet_http_server"]
    assert server["port"] == "127.0.0.1:1234"
    assert server["password"].startswith("{SHA}")
    assert "secret" not in text


def test_nothing_starts_by_itself_when_supervisord_starts(tmp_path: Path) -> None:
    text = configuration(Layout(tmp_path), [Program("s3", ("x",), tmp_path)], 1234, "secret")
    assert parsed(text)["program:s3"]["autostart"] == "false"
