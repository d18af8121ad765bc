"""syscall(2) by ctypes, for calls that Debian's libc does not wrap: one checked entry, numbers shared by architectures.

Owns the libc handle for raw calls; never interprets arguments. Used by mount.py and openat2.py.
Test: tests/kernel/kernel/test_mount.py.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# Since Linux 5.1 new calls have one number on every architecture that we run on.
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442


def syscall(number: int, *arguments: object) -> int:
    """Make one system call; ints are passed as longs. Raises OSError without a path: the caller adds it."""
    wrapped = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _syscall(ctypes.c_long(number), *wrapped)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def libc() -> ctypes.CDLL:
    """Return the C library opened with errno kept, for calls that do have a wrapper."""
    return _libc
