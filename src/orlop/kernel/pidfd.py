"""pidfd_open(2), pidfd_send_signal(2): a process as a file descriptor, and as (pid, start time) where it must be written down.

Nobody signals a bare number. The fds belong to the caller. Test: tests/unit/kernel/test_procfs.py.
"""

from __future__ import annotations

import os
import signal

from orlop.kernel.procfs import process_stat


def pidfd_open(pid: int) -> int:
    """Return a pidfd (close-on-exec); raises ProcessLookupError."""
    return os.pidfd_open(pid)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal the process; raises ProcessLookupError when it has been reaped."""
    signal.pidfd_send_signal(pidfd, number)


def start_time(pid: int) -> int:
    """Return field 22 of /proc/<pid>/stat: clock ticks from boot to the start; raises ProcessLookupError."""
    return process_stat(pid).start_time


def is_alive(pid: int, started: int) -> bool:
    """Say whether the process with that pid and start time still runs; a zombie doesn't."""
    try:
        stat = process_stat(pid)
    except ProcessLookupError:
        return False
    return stat.start_time == started and stat.state not in "ZX"


def open_verified(pid: int, started: int) -> int:
    """Return a pidfd that surely is of (pid, start time); raises ProcessLookupError if that process is gone."""
    fd = os.pidfd_open(pid)
    # The fd pins the pid's owner: if the start time matches after the open, the fd is of that process.
    try:
        matches = process_stat(pid).start_time == started
    except BaseException:
        os.close(fd)
        raise
    if not matches:
        os.close(fd)
        raise ProcessLookupError(3, "another process has the pid now", f"/proc/{pid}")
    return fd
