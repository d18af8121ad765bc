"""Plugins that the daemon starts itself: every program in a directory whose name is an index and a name, ``10-logger``.

Each gets one end of a socket pair as fd 3, its identity in the environment, and its file of the configuration directory by Configure:
``10-logger.conf``, else ``logger.conf``. posix_spawn only: the daemon never forks. A plugin that ends is not started again before the
daemon is. Test: tests/unit/nri/test_launch.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orlop.base import limits
from orlop.base.errors import Internal, InvalidArgument, OrlopError
from orlop.nri.plugin import Plugin, check_identity
from orlop.nri.plugins import Plugins

log = logging.getLogger(__name__)

_FD: Final = 3
_ABOVE_TARGETS: Final = 10
_DEFAULT_SIGNALS: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program of the plugin directory."""

    path: Path
    index: str
    base: str


def programs(directory: Path) -> Iterator[Program]:
    """Yield the directory's plugins in order of name; one that can't be is named in the log. A missing directory is an empty one."""
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("nri plugins: %s: %s", directory, error.strerror)
        return
    for path in entries:
        if not path.is_file() or not os.access(path, os.X_OK):
            continue
        index, _, base = path.name.partition("-")
        try:
            check_identity(index, base)
        except InvalidArgument as error:
            log.warning("nri plugins: %s: is not started: %s", path, error)
            continue
        yield Program(path=path, index=index, base=base)


def configuration(directory: Path, program: Program) -> str:
    """Return the text of the plugin's file, empty without one. Raises Internal when it can't be read, InvalidArgument when it is no text."""
    for name in (f"{program.index}-{program.base}.conf", f"{program.base}.conf"):
        path = directory / name
        try:
            with open(path, "rb") as file:
                data = file.read(limits.NRI_CONFIG_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Internal(f"nri plugins: {path}: {error.strerror}") from error
        if len(data) > limits.NRI_CONFIG_BYTES:
            raise InvalidArgument(f"nri plugins: {path}: longer than {limits.NRI_CONFIG_BYTES} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"nri plugins: {path}: is not UTF-8") from error
    return ""


async def launch_all(plugins: Plugins, directory: Path, configurations: Path) -> None:
    """Start every plugin of the directory, all at once, and return when each has joined or failed to, which the log says."""
    await asyncio.gather(*(_launch(plugins, program, configurations) for program in programs(directory)))


async def _launch(plugins: Plugins, program: Program, configurations: Path) -> None:
    try:
        plugin = plugins.new_plugin(
            index=program.index, base=program.base, config=configuration(configurations, program)
        )
        pidfd = await spawn(plugin, program)
    except OrlopError as error:
        log.warning("nri plugins: %s: is not started: %s", program.path, error)
        return
    _end_with_connection(pidfd, plugin)
    await plugins.join(plugin)


async def spawn(plugin: Plugin, program: Program) -> int:
    """Start the program with a connection to ``plugin``; return its pidfd. Raises Internal."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    above = -1
    try:
        with theirs:
            above = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_TARGETS)
            pid = os.posix_spawn(  # noqa: ASYNC221 - vfork semantics: it returns at the program's exec
                program.path,
                [str(program.path)],
                {
                    "PATH": os.environ.get("PATH", os.defpath),
                    "NRI_PLUGIN_NAME": program.base,
                    "NRI_PLUGIN_IDX": program.index,
                    "NRI_PLUGIN_SOCKET": str(_FD),
                },
                # Its words go where the daemon's go.
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 2, 1),
                    (os.POSIX_SPAWN_DUP2, above, _FD),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
    except OSError as error:
        ours.close()
        raise Internal(f"nri plugins: {program.path}: cannot be started: {error.strerror}") from error
    finally:
        if above >= 0:
            os.close(above)
    pidfd = os.pidfd_open(pid)
    await asyncio.get_running_loop().create_unix_connection(lambda: plugin.connection, sock=ours)
    return pidfd


def _end_with_connection(pidfd: int, plugin: Plugin) -> None:
    """Reap the program when it ends, and end it when its connection is gone: a plugin that was cut off is of no use."""
    loop = asyncio.get_running_loop()
    ended = False

    def reap() -> None:
        nonlocal ended
        ended = True
        loop.remove_reader(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        os.close(pidfd)
        plugin.connection.close("its process has ended")

    def kill() -> None:
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    loop.add_reader(pidfd, reap)
    plugin.on_gone(kill)
