"""How a monitor comes to be, and how a daemon that was restarted finds it again.

Owns the start of the native program (docs/native-protocol.md, "The monitor's start") and the reaping of those that this daemon started.
Never forks: posix_spawn of a static binary. The pod directory is the caller's. Test: tests/kernel/monitor/test_spawn.py.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition, Internal, PermissionDenied
from orlop.monitor.client import MonitorClient

SOCKET_NAME: Final = "monitor.sock"
_FD_POD_DIR, _FD_LISTENER, _FD_DAEMON = 3, 4, 5
_ABOVE_TARGETS: Final = 10
"""Sources of dup2 lie above its targets, so that none is overwritten before it is used."""
_BACKLOG: Final = 16
# Python ignores SIGPIPE and SIGXFSZ; an ignored signal would be inherited by every container.
_DEFAULT_SIGNALS: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


async def spawn_monitor(
    sandbox_id: str,
    pod_dir: Path,
    binary: Path,
    *,
    environment: Mapping[str, str] | None = None,
    stderr: str = os.devnull,
) -> MonitorClient:
    """Start a monitor for the pod whose directory is ``pod_dir``; return the connection that it was born with.

    A monitor says nothing; what a sanitizer's build reports goes to the end of the file ``stderr``.

    Raises FailedPrecondition when the directory has a monitor's socket already, Internal when the program cannot be started, Unavailable when
    it ends at once.
    """
    fds: list[int] = []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs, listener:
            directory = os.open(pod_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fds.append(directory)
            # The mode of the socket becomes the mode of its file: no window, and no umask that threads would share.
            os.fchmod(listener.fileno(), 0o600)
            # Through the directory's fd: a path of any length fits into the 108 bytes of an address.
            listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
            listener.listen(_BACKLOG)
            actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)
            ]
            actions.append((os.POSIX_SPAWN_OPEN, 2, stderr, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
            for source, target in (
                (directory, _FD_POD_DIR),
                (listener.fileno(), _FD_LISTENER),
                (theirs.fileno(), _FD_DAEMON),
            ):
                fds.append(fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _ABOVE_TARGETS))
                actions.append((os.POSIX_SPAWN_DUP2, fds[-1], target))
            # It returns when the child has executed a static binary (vfork semantics, 0.3 ms): a thread would cost more.
            pid = os.posix_spawn(  # noqa: ASYNC221
                binary,
                ["orlop-monitor", "--pod", sandbox_id],
                dict(environment or {}),
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
    except OSError as error:
        ours.close()
        if error.errno == errno.EADDRINUSE:
            raise FailedPrecondition(f"sandbox {sandbox_id[:12]}: {pod_dir} has a monitor's socket") from error
        raise Internal(f"sandbox {sandbox_id[:12]}: cannot start monitor {binary}: {error}") from error
    finally:
        for fd in fds:
            os.close(fd)
    _reap_when_ended(pid)
    return await _greeted(MonitorClient(sandbox_id, ours))


async def _greeted(client: MonitorClient) -> MonitorClient:
    try:
        await client.hello()
    except BaseException:
        client.close()
        raise
    return client


def _reap_when_ended(pid: int) -> None:
    """Let the event loop reap the child through its pidfd; a monitor that outlives this daemon is init's to reap."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        os.close(pidfd)

    loop.add_reader(pidfd, ended)


async def connect_monitor(sandbox_id: str, pod_dir: Path) -> MonitorClient:
    """Connect to the monitor of a pod that runs already; ``containers`` of the result lists what lives in it.

    Raises FileNotFoundError or ConnectionRefusedError when there is none, PermissionDenied when another user's process answers.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        directory = os.open(pod_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)
        uid = _peer_uid(sock)
        if uid != os.geteuid():
            raise PermissionDenied(  # noqa: TRY301 - the socket must be closed on this way out too
                f"sandbox {sandbox_id[:12]}: {pod_dir / SOCKET_NAME} belongs to a process of uid {uid}"
            )
    except BaseException:
        sock.close()
        raise
    return await _greeted(MonitorClient(sandbox_id, sock))


def _peer_uid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")
