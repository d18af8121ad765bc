"""openat2(2): open a path below a directory fd without ever leaving it.

Everything inside a rootfs, a layer or a volume is reached through this call, relative to an fd; there is no check of a
path string that a later open could disagree with. Returned fds belong to the caller; openat2 leaves O_CLOEXEC to the
caller, open_in_root sets it. Test: tests/kernel/kernel/test_openat2.py.
"""

from __future__ import annotations

import ctypes
import errno
import os

from orlop.kernel.syscall import NR_OPENAT2, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# The kernel answers EAGAIN when a rename or mount elsewhere on the machine raced with a scoped walk over "..".
_ATTEMPTS = 128


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int) -> int:
    """Open a path relative to a directory fd; raises OSError (EXDEV, ELOOP: ``resolve`` forbids it)."""
    how = _OpenHow(flags, mode, resolve)
    encoded = os.fsencode(path)
    for _ in range(_ATTEMPTS):
        try:
            return syscall(NR_OPENAT2, dirfd, encoded, ctypes.byref(how), ctypes.sizeof(how))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise OSError(error.errno, error.strerror, path) from None
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_in_root(root_fd: int, path: str, flags: int, *, mode: int = 0) -> int:
    """Open a path as a process with that root would see it: links and ``..`` stay inside, magic links are refused."""
    return openat2(root_fd, path, flags | os.O_CLOEXEC, mode=mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
