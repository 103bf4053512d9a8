"""Make `.venv` from requirements.txt: standard library only, run by whatever Python the launcher found.

`python bootstrap.py REPOSITORY`. A stamp is written last, so that the next call completes an interrupted installation;
a lock lets one of several first calls install while the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

UV_VERSION = "0.13.8"
NEEDED_BYTES = 6 * 10**9
"""The packages unpacked and in the installer's cache, Kafka and Azurite, and room for a stack's data."""


class BootstrapError(Exception):
    """The environment cannot be made; the text says why and what to do."""


def main(repository: Path) -> None:
    """Complete the environment, or raise ``BootstrapError``."""
    venv = repository / ".venv"
    requirements = repository / "requirements.txt"
    (repository / "var").mkdir(exist_ok=True)
    with _locked(repository / "var" / ".bootstrap.lock"):
        if is_complete(venv, requirements):
            return  # another call was faster
        began = time.monotonic()
        first = not (venv / "lib").exists()
        if first:
            require_disk(shutil.disk_usage(repository).free, repository)
        _say(
            "first call: installing CloudFlux's packages into .venv, some minutes once" if first else "completing .venv"
        )
        uv = _uv_on_path()
        python = _make_venv(venv, with_pip=uv is None)
        if uv is None:
            uv = _uv_by_pip(python)
        _install(python, requirements, uv)
        write_stamp(venv, requirements, python)
        _say(f"installed after {time.monotonic() - began:.0f} s")


def is_complete(venv: Path, requirements: Path) -> bool:
    """Tell whether the stamp says that these requirements are installed for the environment's Python."""
    try:
        same = (venv / "cloudflux-requirements.txt").read_bytes() == requirements.read_bytes()
        return same and (venv / "cloudflux-python").read_text(encoding="utf-8").strip() == _version(
            venv / "bin" / "python"
        )
    except OSError:
        return False


def write_stamp(venv: Path, requirements: Path, python: Path) -> None:
    """Record a complete installation, the requirements last: the launcher compares both."""
    (venv / "cloudflux-python").write_text(f"{_version(python)}\n", encoding="utf-8")
    draft = venv / ".cloudflux-requirements.txt"
    shutil.copyfile(requirements, draft)
    draft.replace(venv / "cloudflux-requirements.txt")


def require_disk(free_bytes: int, repository: Path) -> None:
    """Raise ``BootstrapError`` when the installation would not fit."""
    if free_bytes < NEEDED_BYTES:
        raise BootstrapError(
            f"{free_bytes / 10**9:.1f} GB are free at {repository}, the installation needs "
            f"{NEEDED_BYTES / 10**9:.0f} GB: make room, or clone onto another disk"
        )


def _version(python: Path) -> str | None:
    """Give `3.12` for an interpreter that works, else None."""
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    try:
        told = subprocess.run((str(python), "-I", "-S", "-c", code), capture_output=True, text=True, check=False)
    except OSError:
        return None
    return told.stdout.strip() if told.returncode == 0 else None


def _make_venv(venv: Path, *, with_pip: bool) -> Path:
    """Make the environment from the running interpreter, or keep one that works; give its interpreter."""
    python = venv / "bin" / "python"
    if venv.exists():
        version = _version(python)
        usable = (
            version is not None and (venv / "lib" / f"python{version}").exists() and version in ("3.11", "3.12", "3.13")
        )
        if not usable:
            _say("the old .venv does not work any more: making it anew")
            shutil.rmtree(venv)
    if with_pip and importlib.util.find_spec("ensurepip") is None:
        version = "{}.{}".format(*sys.version_info[:2])
        raise BootstrapError(
            f"Python {version} ({sys.executable}) came without ensurepip: install it (Debian, Ubuntu: apt-get install "
            f"python{version}-venv), put uv on the PATH, or name another Python with CLOUDFLUX_PYTHON"
        )
    if not venv.exists():
        _say(f"making .venv with {sys.executable}")
        _run(
            (sys.executable, "-m", "venv", *(() if with_pip else ("--without-pip",)), str(venv)),
            "the environment .venv",
        )
    if (
        with_pip
        and subprocess.run((str(python), "-m", "pip", "--version"), capture_output=True, check=False).returncode != 0
    ):
        _run((str(python), "-m", "ensurepip", "--default-pip"), "pip in .venv")
    return python


def _uv_on_path() -> tuple[str, ...] | None:
    uv = shutil.which("uv")
    return (uv,) if uv and _works((uv, "--version")) else None


def _uv_by_pip(python: Path) -> tuple[str, ...] | None:
    """Install uv into the environment; None where there is no wheel of it: pip does the work then, slowly."""
    uv = (str(python), "-m", "uv")
    if not _works((*uv, "--version")):
        _say("fetching the installer uv")
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
        if subprocess.run((*pip, f"uv=={UV_VERSION}"), capture_output=True, check=False).returncode != 0:
            _say("uv is not to be had: pip installs instead, which takes longer")
            return None
    return uv if _works((*uv, "--version")) else None


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _install(python: Path, requirements: Path, uv: tuple[str, ...] | None) -> None:
    count = sum(1 for line in requirements.read_text(encoding="utf-8").splitlines() if line[:1].isalnum())
    _say(f"installing {count} packages with {'uv' if uv else 'pip'}")
    if uv:
        command = (*uv, "pip", "install", "--python", str(python), "--requirement", str(requirements))
    else:
        command = (
            str(python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--requirement",
            str(requirements),
        )
    _run(command, "the packages of requirements.txt")


def _run(command: Sequence[str], what: str) -> None:
    """Run a step, showing how far it is. Raises ``BootstrapError`` with the step's own reason when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # the interpreter is the one that runs: none is to be downloaded
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    environment.setdefault("UV_SYSTEM_CERTS", "true")  # like pip and git: a company's own certificates are with them
    lines = []
    step = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with step:
        for line in step.stdout or ():
            lines.append(line.rstrip())
            _show_progress(lines[-1])
    _show_progress("")
    if step.returncode != 0:
        raise BootstrapError(
            f"{what} could not be installed: {reason_of(lines)}; check the network and the package index, then call "
            "again (what was downloaded is kept)"
        )


def reason_of(lines: Sequence[str]) -> str:
    """Pick the reason out of an installer's output: the first error, and what caused it in the end."""
    errors = [line.strip() for line in lines if line.lower().lstrip(" ×").startswith(("error", "failed"))]
    causes = [line.strip() for line in lines if "caused by" in line.lower()]
    reason = ", ".join([*errors[:1], *causes[-1:]])
    return reason or (lines[-1].strip() if lines else "no reason given")


def _show_progress(line: str) -> None:
    """Show an installer's latest line: on a terminal in place, elsewhere its milestones alone."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\033[K{line.strip()[:width]}")
        sys.stderr.flush()
    elif line.startswith(("Resolved", "Prepared", "Installed", "Successfully installed")):
        _say(line[:100])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another call is installing: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"cloudflux: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BootstrapError as exc:
        _say(str(exc))
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted: the next call completes the installation")
        sys.exit(130)
    except OSError as exc:
        _say(f"the installation failed: {exc}; make room or rights, then call again")
        sys.exit(1)
