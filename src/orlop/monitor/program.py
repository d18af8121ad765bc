"""The monitor's program as the kernel runs it: a private copy that nobody can change, one for all pods of this daemon.

A process that enters a container has the monitor's program as its own until it executes the container's: an image can run it again
(``#!/proc/self/exe``, ENTRYPOINT ["/proc/self/exe"]) and so get hold of the file (CVE-2019-5736). What it gets hold of must not be the
file on the host. So the daemon copies the program once into a sealed memfd, which not even root can write to, and executes that.

The copy lives as long as a monitor runs it: neither the end of the daemon nor a new program on the disk touches it, and this daemon goes on
to start the program that it was written for. Where executing a memfd is forbidden (sysctl vm.memfd_noexec=2) the copy is a file in a
tmpfs that is mounted nowhere and read-only, superblock too. Test: tests/kernel/monitor/test_program.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from orlop.base.errors import Internal
from orlop.kernel import mount

_NAME: Final = "orlop-monitor"
_MODE: Final = 0o555
_ABOVE_MONITOR_FDS: Final = 10
_MFD_EXEC: Final = 0x10
_F_SEAL_EXEC: Final = 0x20
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class MonitorProgram:
    """An open copy of the program; ``path`` can be executed until ``close``."""

    __slots__ = ("_fd", "is_memfd")

    def __init__(self, fd: int, *, is_memfd: bool) -> None:
        self._fd = fd
        self.is_memfd = is_memfd

    @property
    def path(self) -> Path:
        """What to give to posix_spawn."""
        if self.is_memfd:
            # Before kernel 6.3 there is no seal for the mode: who holds the file could take away its x.
            os.fchmod(self._fd, _MODE)
        return Path(f"/proc/self/fd/{self._fd}")

    def close(self) -> None:
        """Forget the copy; monitors that run it go on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def seal_monitor(binary: Path) -> MonitorProgram:
    """Copy the program at ``binary`` to where it cannot be changed. Raises Internal when it cannot be read or the copy cannot be made."""
    try:
        content = binary.read_bytes()
        try:
            return MonitorProgram(_out_of_the_way(_memfd(content)), is_memfd=True)
        except PermissionError:
            return MonitorProgram(_out_of_the_way(_read_only_tmpfs(content)), is_memfd=False)
    except OSError as error:
        raise Internal(f"monitor {binary}: cannot be copied: {error}") from error


def _out_of_the_way(fd: int) -> int:
    """The monitor's own first fds are put in place before it is executed: none of them may be this one."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_MONITOR_FDS)
    finally:
        os.close(fd)


def _memfd(content: bytes) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(_NAME, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(_NAME, flags)  # before kernel 6.3 every memfd may be executed
    try:
        _write(fd, content)
        os.fchmod(fd, _MODE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_EXEC | fcntl.F_SEAL_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        # Executing a file that is open for writing is refused: from here on it is open for reading only.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _read_only_tmpfs(content: bytes) -> int:
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    try:
        mount.fsconfig_create(context)
        tree = mount.fsmount(context, mount.FSMOUNT_CLOEXEC, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV)
        try:
            fd = os.open(_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE, dir_fd=tree)
            try:
                _write(fd, content)
                os.fchmod(fd, _MODE)
            finally:
                os.close(fd)
            mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_RDONLY)
            mount.fsconfig_set_flag(context, "ro")
            mount.fsconfig_reconfigure(context)
            return os.open(_NAME, os.O_RDONLY | os.O_CLOEXEC, dir_fd=tree)
        finally:
            os.close(tree)
    finally:
        os.close(context)


def _write(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
