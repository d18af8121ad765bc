"""Which failed steps of a plan are the request's fault, and what a shell would say of a command that can't be executed.

The monitor tells (op, errno, detail). No such command, a volume's file on a directory, a sysctl that the kernel does not know: the request
is wrong, and its caller gets InvalidArgument with the same words, as a missing image is NotFound. Everything else that fails below is a
defect of the node and stays Internal. Test: tests/cri/bad_input/test_containers.py.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from orlop.base.errors import InvalidArgument
from orlop.monitor.client import MonitorError

NOT_FOUND, NOT_EXECUTABLE, NOT_STARTED = 127, 126, 128
"""128 is what containerd and CRI-O report for every process that could not be started."""

_COMMAND: Final = {
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
_PATHS: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EROFS,
    )
)
"""What a path of the request, or of the image that it names, can be wrong with."""
_VALUES: Final = frozenset((errno.ENOENT, errno.EINVAL, errno.ERANGE, errno.EACCES, errno.EPERM))
_STEPS: Final = {
    **dict.fromkeys(("mount_bind", "mount_new", "mkdir", "mknod", "symlink", "chdir"), _PATHS),
    **dict.fromkeys(("pod_sysctl", "sysctl"), _VALUES),
}


class Refusal(InvalidArgument):
    """A step failed because of what was asked for; ``exit_code`` is a shell's for a command, else NOT_STARTED."""

    def __init__(self, message: str, exit_code: int = NOT_STARTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def refusal(subject: str, error: MonitorError) -> Refusal | None:
    """Return the error to raise instead, None when it was not the request's fault."""
    if error.op == "exec" and error.errno in _COMMAND:
        return Refusal(f"{subject}: exec: {error.reason}", _COMMAND[error.errno])
    if error.errno in _STEPS.get(error.op, ()):
        return Refusal(f"{subject}: {error.op}: {error.reason}")
    return None


@asynccontextmanager
async def refusing(subject: str) -> AsyncIterator[None]:
    """Turn a monitor's error that leaves the body into a Refusal when it is one."""
    try:
        yield
    except MonitorError as error:
        if (wrong := refusal(subject, error)) is not None:
            raise wrong from error
        raise
