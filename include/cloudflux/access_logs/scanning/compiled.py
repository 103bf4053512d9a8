"""Functions that numba compiles to machine code, kept on disk so that the next process only loads them.

Compiling takes seconds, so the code is kept in a folder that belongs to this user alone: machine code that others could
write would be theirs to run. Where there is no such folder every process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import llvmlite
import numba
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

FOLDER_VARIABLE: Final = "CLOUDFLUX_COMPILED"
"""Names the folder for compiled code; empty: keep none."""
_PROJECT: Final = Path(__file__).resolve().parents[4]


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function at its first call, without the interpreter's lock; load it from disk if it is there."""
    folder = compiled_folder()
    if folder is None:
        return _jit(function, keep=False)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        return _jit(function, keep=True)
    except RuntimeError:  # numba cannot write there either
        return _jit(function, keep=False)
    finally:
        numba.config.CACHE_DIR = before


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function into each compiled function that calls it: a call would cost more than what these do."""
    made: Callable[P, T] = numba.njit(nogil=True, boundscheck=False, forceinline=True)(function)
    return made


def _jit(function: Callable[P, T], *, keep: bool) -> Callable[P, T]:
    made: Callable[P, T] = numba.njit(cache=keep, nogil=True, boundscheck=False)(function)
    return made


@cache
def compiled_folder() -> Path | None:
    """Give the folder of this version's compiled code, or None when no folder is ours alone.

    That is the folder which ``CLOUDFLUX_COMPILED`` names, else ``var/compiled`` of the project, else the user's own
    cache. Its name has a digest of all that the code depends on: numba itself looks at one source file alone.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        roots = [Path(named)] if named else []
    else:
        roots = [_PROJECT / "var" / "compiled"] if (_PROJECT / "pyproject.toml").exists() else []
        roots.append(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cloudflux" / "compiled")
    for root in roots:
        folder = root / _version()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if _is_ours_alone(root) and _is_ours_alone(folder):
            return folder
    return None


def _version() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{source.name}\n".encode() + source.read_bytes())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version())
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()[:16]


def _is_ours_alone(folder: Path) -> bool:
    """Tell whether we own the folder, can write there, and nobody else can."""
    found = folder.stat()
    writable_by_others = stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not writable_by_others and os.access(folder, os.W_OK | os.X_OK)
