"""A command that the kernel would not execute: whose fault it is, and the exit code that shells and docker give it.

The monitor tells (op, errno, detail). When the op is the exec itself and the reason lies in what was asked for (no such file, not
executable), the request is wrong: InvalidArgument, as a missing image is NotFound, and no defect of this node.
Test: tests/cri/test_bad_container.py.
"""

from __future__ import annotations

import errno
from typing import Final

from orlop.base.errors import InvalidArgument
from orlop.monitor.client import MonitorError

NOT_FOUND, NOT_EXECUTABLE, NOT_STARTED = 127, 126, 128
"""128 is what containerd and CRI-O report for every process that could not be started."""

_EXIT: Final = {
    errno.ENOENT: NOT_FOUND,
    errno.ENOTDIR: NOT_FOUND,
    errno.ELOOP: NOT_FOUND,
    errno.ENAMETOOLONG: NOT_FOUND,
    errno.EACCES: NOT_EXECUTABLE,
    errno.EPERM: NOT_EXECUTABLE,
    errno.ENOEXEC: NOT_EXECUTABLE,
    errno.EISDIR: NOT_EXECUTABLE,
    errno.E2BIG: NOT_STARTED,
}


class CommandError(InvalidArgument):
    """The command can't be executed; ``exit_code`` is what a shell would have said."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def command_error(subject: str, error: MonitorError) -> CommandError | None:
    """Return the error to raise instead, None when it was not the command's fault."""
    code = _EXIT.get(error.errno)
    if error.op != "exec" or code is None:
        return None
    return CommandError(f"{subject}: exec: {error.reason}", code)
