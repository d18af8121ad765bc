"""The socket at which plugins connect: only for root, and only ours. Test: tests/unit/nri/test_listen.py."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition, Internal
from orlop.base.supervise import Supervisor
from orlop.nri.connection import Connection
from orlop.nri.plugins import Plugins

BACKLOG: Final = 16
_CONNECT_SECONDS: Final = 1.0


class Listener:
    """Accepts plugins until it is closed."""

    def __init__(self, plugins: Plugins, supervisor: Supervisor, path: Path) -> None:
        self._plugins = plugins
        self._supervisor = supervisor
        self._path = path
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when another process listens there, Internal when the socket can't be made."""
        sock = bind(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=sock)

    def _accept(self) -> Connection:
        plugin = self._plugins.new_plugin()
        self._supervisor.spawn("nri join", self._plugins.join(plugin))
        return plugin.connection

    async def close(self) -> None:
        """Stop accepting and take the socket's file away; connected plugins stay connected."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)


def bind(path: Path) -> socket.socket:
    """Return a socket that listens at the path, for root alone. What an ended process left there is replaced, a live one's never."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        if _is_alive(path):
            raise FailedPrecondition(f"nri: {path}: another process listens there")  # noqa: TRY301 - the socket is closed below
        path.unlink(missing_ok=True)
        # The mode of the socket becomes that of its file: no moment at which others could connect.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Internal(f"nri: {path}: cannot listen: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _is_alive(path: Path) -> bool:
    """Whether a process listens at the path. Raises Internal for a file that is no socket: it is somebody's, and not ours to remove."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Internal(f"nri: {path}: is there and is no socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # its queue is full: somebody is there
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True
