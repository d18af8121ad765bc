"""Starting a pod's monitor, and finding one that already runs. Test: tests/kernel/monitor/test_spawn.py.

The daemon never forks: os.posix_spawn uses vfork in libc, so its cost does not grow with the daemon's memory. The child gets three fds
(docs/native-protocol.md) and is reaped through a pidfd; when the daemon dies, it is adopted by init and goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

from orlop.base.errors import PermissionDenied
from orlop.monitor.client import MonitorClient

SOCKET_NAME = "monitor.sock"
BACKLOG = 8
FD_POD_DIR, FD_LISTENER, FD_DAEMON = 3, 4, 5


async def spawn_monitor(sandbox_id: str, pod_dir: Path, binary: Path) -> MonitorClient:
    """Start the monitor of a pod whose directory exists; raises OSError (binary missing, no processes left), Unavailable."""
    directory = os.open(pod_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Through /proc/self/fd the name fits into sun_path however long --state is. umask is the daemon's 077.
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        os.chmod(f"/proc/self/fd/{directory}/{SOCKET_NAME}", 0o600)
        listener.listen(BACKLOG)
        # The three sources are moved out of the way first: any of them may be 3, 4 or 5 itself.
        high = 1000
        moves = [(directory, high), (listener.fileno(), high + 1), (theirs.fileno(), high + 2)]
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in moves]
        for target, (_, source) in zip((FD_POD_DIR, FD_LISTENER, FD_DAEMON), moves, strict=True):
            actions += [(os.POSIX_SPAWN_DUP2, source, target), (os.POSIX_SPAWN_CLOSE, source)]
        pid = os.posix_spawn(  # noqa: ASYNC221 - half a millisecond, and it must not be forked from a thread
            binary, [str(binary), "--pod", sandbox_id], {}, file_actions=actions, setsid=True, setsigmask=()
        )
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(directory)
        listener.close()
        theirs.close()
    _reap_when_ended(pid)
    client = MonitorClient(sandbox_id, ours)
    await client.hello()
    return client


async def connect_monitor(sandbox_id: str, pod_dir: Path) -> MonitorClient:
    """Connect to the monitor that serves a pod's directory.

    Raises FileNotFoundError or ConnectionRefusedError when there is none, PermissionDenied when another user's process answers.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(pod_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            raise PermissionDenied(  # noqa: TRY301 - the socket must be closed on this way out too
                f"sandbox {sandbox_id[:12]}: {pod_dir / SOCKET_NAME} belongs to a process of uid {uid}"
            )
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    client = MonitorClient(sandbox_id, sock)
    try:
        await client.hello()
    except BaseException:
        client.close()
        raise
    return client


def _reap_when_ended(pid: int) -> None:
    """Take the exit status of our child when it ends, so that no zombie stays. Its meaning is recovery's business."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)

    loop.add_reader(pidfd, ended)
