"""Become another user, then become another program: PostgreSQL refuses to run as root.

`python run_unprivileged.py [--keep-search] USER PROGRAM [ARGUMENT ...]`

`--keep-search` keeps the one capability of passing through and reading folders that are closed to others, for a clone
below a private folder such as /root: the alternative would be to open that folder to everybody. Standard library only,
so that it starts at once; Linux only, as root only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from typing import Final

# numbers from linux/capability.h and linux/prctl.h
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def become(user: str, *, keep_search: bool) -> None:
    """Give up root for good. Raises ``OSError`` where the kernel or the container forbids it."""
    account = pwd.getpwnam(user)
    libc = ctypes.CDLL(None, use_errno=True)
    if keep_search:
        # without the fix-up setuid() keeps capabilities, and access(), which PostgreSQL uses, honours them
        _checked(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if keep_search:
        header = _Header(_CAPABILITY_VERSION_3, 0)
        sets = (_Sets * 2)()
        _checked(libc.capget(ctypes.byref(header), sets))
        permitted = sets[0].permitted
        # containers often lack the narrower one
        kept = _CAP_DAC_READ_SEARCH if permitted & (1 << _CAP_DAC_READ_SEARCH) else _CAP_DAC_OVERRIDE
        sets[0] = _Sets(1 << kept, 1 << kept, 1 << kept)
        sets[1] = _Sets(0, 0, 0)
        _checked(libc.capset(ctypes.byref(header), sets))
        _checked(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, kept, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(
            number,
            f"{os.strerror(number)}: PostgreSQL refuses to run as root, and this container does not let another user "
            "pass through private folders: clone below a folder that others may enter, or do not be root",
        )


def main(arguments: list[str]) -> None:
    """Run the program in place of this one."""
    keep_search = arguments[0] == "--keep-search"
    user, *command = arguments[1:] if keep_search else arguments
    become(user, keep_search=keep_search)
    os.execv(command[0], command)  # noqa: S606  # the command line is the launcher's own


if __name__ == "__main__":
    main(sys.argv[1:])
