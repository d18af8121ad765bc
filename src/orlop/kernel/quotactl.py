"""quotactl(2) and the project id of directories (ioctl_fsxattr): limits on what a tree of files takes.

A directory is given a project id that what is made below it inherits; the file system counts blocks by id and refuses more than the id's
limit. ext4 and XFS, when they are mounted with ``prjquota``. No ids are chosen here. Test: tests/kernel/kernel/test_quotactl.py.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from typing import Final

from orlop.kernel.syscall import syscall

_NR_QUOTACTL_FD: Final = 443
_PRJQUOTA: Final = 2
_Q_GETQUOTA: Final = 0x800007
_Q_SETQUOTA: Final = 0x800008
_Q_XGETQSTATV: Final = 0x5808
_QSTATV_VERSION: Final = 1
_QSTATV_BYTES: Final = 512
_PDQ_ACCT: Final = 1 << 4
_PDQ_ENFD: Final = 1 << 5
_QIF_BLIMITS: Final = 1
# bhardlimit, bsoftlimit, curspace, ihardlimit, isoftlimit, curinodes, btime, itime, valid
_DQBLK: Final = struct.Struct("=8QI4x")
_BLOCK: Final = 1024

_FS_IOC_FSGETXATTR: Final = 0x801C581F
_FS_IOC_FSSETXATTR: Final = 0x401C5820
_FSXATTR: Final = struct.Struct("=5I8x")
_PROJINHERIT: Final = 0x200


def project_quota_state(fd: int) -> tuple[bool, bool]:
    """Return whether the file system of an fd counts by project, and whether it enforces limits. Raises OSError when it knows no quotas."""
    buffer = ctypes.create_string_buffer(bytes([_QSTATV_VERSION]), _QSTATV_BYTES)
    _quotactl(fd, _Q_XGETQSTATV, 0, buffer)
    flags = struct.unpack_from("=H", buffer, 2)[0]
    return bool(flags & _PDQ_ACCT), bool(flags & _PDQ_ENFD)


def set_project_limit(fd: int, project: int, size: int) -> None:
    """Let a project take at most ``size`` bytes (rounded up to KiB) of the file system of an fd; 0: no limit."""
    values = _DQBLK.pack(-(-size // _BLOCK), 0, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS)
    _quotactl(fd, _Q_SETQUOTA, project, ctypes.create_string_buffer(values, _DQBLK.size))


def project_usage(fd: int, project: int) -> tuple[int, int]:
    """Return (bytes taken, limit in bytes, 0: none) of a project."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    _quotactl(fd, _Q_GETQUOTA, project, buffer)
    hard, _, used, *_ = _DQBLK.unpack(buffer.raw)
    return used, hard * _BLOCK


def project_of(fd: int) -> int:
    """Return the project id of an open directory or file; 0: none."""
    project: int = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))[3]
    return project


def set_project(fd: int, project: int) -> None:
    """Give an open, empty directory a project id, which what is made in it inherits."""
    xflags, extsize, nextents, _, cowextsize = _FSXATTR.unpack(
        fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    )
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, _FSXATTR.pack(xflags | _PROJINHERIT, extsize, nextents, project, cowextsize))


def _quotactl(fd: int, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    try:
        syscall(_NR_QUOTACTL_FD, fd, command << 8 | _PRJQUOTA, project, buffer)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), "quotactl_fd") from None
