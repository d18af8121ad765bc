"""Container logs: where they are, how they are opened, and ReopenContainerLog. Test: tests/kernel/services/test_logs.py.

The daemon opens the file and hands the fd to the monitor: the native part never sees a path. The path is resolved below the
sandbox's log directory without following a symlink in the last component, so that a log can't be planted elsewhere.
"""

from __future__ import annotations

import os

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.metadata.pods import ContainerRow
from orlop.services.node import Node

LOG_MODE = 0o640


def resolve_log_path(directory: str, path: str, subject: str) -> str:
    """Return the absolute log path, or "" when there is none. Raises InvalidArgument for one that leaves the directory."""
    if not directory or not path:
        return ""
    if not os.path.isabs(directory):
        raise InvalidArgument(f"{subject}: log_directory {directory!r} is not absolute")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise InvalidArgument(f"{subject}: log_path {path!r} leaves the sandbox's log directory")
    return os.path.join(directory, path)


def open_log(path: str, subject: str) -> int:
    """Open (create) a log for appending; -1 for no path. The caller owns the fd."""
    if not path:
        return -1
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags, LOG_MODE)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            return os.open(path, flags, LOG_MODE)
    except OSError as error:
        raise InvalidArgument(f"{subject}: cannot open log {path}: {error.strerror}") from error


async def reopen_container_log(node: Node, container_id: str) -> None:
    """Let later lines go to a new file at the log path; when this returns, the file exists. Raises NotFound, FailedPrecondition."""
    row: ContainerRow = node.pods.container(container_id)
    if not row.started_at or row.finished_at:
        raise FailedPrecondition(f"container {row.id}: log cannot be reopened, it is {row.state.name.lower()}")
    pod = node.live.need(row.sandbox_id)
    fd = open_log(row.log_path, f"container {row.id}")
    if fd < 0:
        return
    try:
        await pod.monitor.reopen_log(row.id, fd)
    finally:
        os.close(fd)
