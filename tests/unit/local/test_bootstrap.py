"""The launcher's shell and its bootstrap, with programs that stand in for the installers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloudflux.local import bootstrap
from cloudflux.local.layout import REPOSITORY

FAILING_UV = """#!/bin/sh
[ "$1" = --version ] && exit 0
echo 'error: Failed to fetch: pyarrow' >&2
echo '  Caused by: connection reset' >&2
exit 2
"""
WORKING_UV = "#!/bin/sh\necho Installed 1 package >&2\n"
PYENV_SHIM = "#!/bin/sh\necho 'pyenv: python3: command not found' >&2\nexit 127\n"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give a copy of what the launcher needs, below a folder with a space and an apostrophe in its name."""
    repository = tmp_path / "it's a clone"
    (repository / "include").mkdir(parents=True)
    shutil.copytree(
        REPOSITORY / "include" / "cloudflux",
        repository / "include" / "cloudflux",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy2(REPOSITORY / "cloudflux", repository / "cloudflux")
    (repository / "requirements.txt").write_text("psutil==7.2.2\n")
    return repository


def launch(clone: Path, *arguments: str, path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": os.environ["HOME"], **settings}
    return subprocess.run(
        [str(clone / "cloudflux"), *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_help_comes_without_an_installation_when_a_shim_is_broken(clone: Path, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "python3", PYENV_SHIM)
    script(tmp_path / "bin" / "python3.12", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    shown = launch(clone, "up", "--help", path=tmp_path / "bin")
    assert shown.returncode == 0, shown.stderr
    assert "--without" in shown.stdout
    assert not (clone / ".venv").exists()


def test_one_sentence_names_the_setting_when_the_named_python_does_not_work(clone: Path, tmp_path: Path) -> None:
    shim = script(tmp_path / "python", PYENV_SHIM)
    refused = launch(clone, "status", path=tmp_path, CLOUDFLUX_PYTHON=str(shim))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "CLOUDFLUX_PYTHON" in refused.stderr


def test_the_next_call_completes_the_installation_when_a_download_broke(clone: Path, tmp_path: Path) -> None:
    uv = script(tmp_path / "bin" / "uv", FAILING_UV)
    broken = launch(clone, "status", path=tmp_path / "bin", CLOUDFLUX_PYTHON=sys.executable)
    assert broken.returncode == 1
    assert "Failed to fetch: pyarrow, Caused by: connection reset" in broken.stderr.splitlines()[-1]
    assert "call again" in broken.stderr.splitlines()[-1]
    assert not bootstrap.is_complete(clone / ".venv", clone / "requirements.txt")

    script(uv, WORKING_UV)
    launch(clone, "status", path=tmp_path / "bin", CLOUDFLUX_PYTHON=sys.executable)
    assert bootstrap.is_complete(clone / ".venv", clone / "requirements.txt")


def test_the_installation_is_incomplete_when_requirements_changed(clone: Path, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "uv", WORKING_UV)
    launch(clone, "status", path=tmp_path / "bin", CLOUDFLUX_PYTHON=sys.executable)
    assert bootstrap.is_complete(clone / ".venv", clone / "requirements.txt")
    (clone / "requirements.txt").write_text("psutil==7.2.3\n")
    assert not bootstrap.is_complete(clone / ".venv", clone / "requirements.txt")


def test_the_missing_room_is_told_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    bootstrap.require_disk(bootstrap.NEEDED_BYTES, tmp_path)
    with pytest.raises(bootstrap.BootstrapError, match=r"2\.0 GB are free.*make room"):
        bootstrap.require_disk(2 * 10**9, tmp_path)


def test_the_last_line_is_the_reason_when_an_installer_names_no_error() -> None:
    assert bootstrap.reason_of(["Resolved 3 packages", "killed"]) == "killed"
    assert bootstrap.reason_of([]) == "no reason given"
