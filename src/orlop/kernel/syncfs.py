"""syncfs(2): write back one filesystem and wait for the disk. Blocks for as long as that takes: call it in a thread.

Test: tests/kernel/kernel/test_mount.py.
"""

from __future__ import annotations

import ctypes
import os

from orlop.kernel.syscall import libc


def syncfs(fd: int) -> None:
    """Flush the filesystem that holds an open file; raises OSError when the disk reports an error."""
    if libc().syncfs(fd) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"fd {fd}")
