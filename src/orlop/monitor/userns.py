"""User namespaces that only carry a mapping of ids, for id-mapped mounts.

The kernel takes such a mapping as an fd of a user namespace, and a namespace needs a process to be born in: the monitor's program is started
as its holder, told its maps from outside, and ends once the fd is open (1 ms). Mappings repeat, so the last ones are kept. Never forks.
Test: tests/kernel/monitor/test_userns.py.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument

KEPT: Final = 64
_HOLDER_SECONDS: Final = 15.0
_DEFAULT_SIGNALS: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

Mapping = tuple[tuple[int, int, int], ...]
"""(id in the namespace, id outside, length)"""


class IdMapNamespaces:
    """Gives an fd for a mapping; owns those that are kept. One is made by the daemon."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._kept: dict[tuple[Mapping, Mapping], int] = {}

    def open(self, uids: Mapping, gids: Mapping) -> int:
        """Return an fd, the caller's, of a user namespace with these maps.

        Raises InvalidArgument (the kernel refuses the maps: they overlap, they are too many), FailedPrecondition (this host makes no user
        namespaces).
        """
        key = (uids, gids)
        fd = self._kept.pop(key, -1)
        if fd < 0:
            fd = self._make(uids, gids)
        self._kept[key] = fd
        if len(self._kept) > KEPT:
            os.close(self._kept.pop(next(iter(self._kept))))
        return os.dup(fd)

    def close(self) -> None:
        """Close what is kept."""
        while self._kept:
            os.close(self._kept.popitem()[1])

    def _make(self, uids: Mapping, gids: Mapping) -> int:
        stay_read, stay = os.pipe2(os.O_CLOEXEC)
        said, said_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.posix_spawn(
                self._binary,
                ["orlop-monitor", "--userns"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, stay_read, 0), (os.POSIX_SPAWN_DUP2, said_write, 1)],
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            os.close(stay)
            os.close(said)
            raise FailedPrecondition(f"user namespace: cannot start {self._binary}: {error.strerror}") from error
        finally:
            os.close(stay_read)
            os.close(said_write)
        try:
            _wait_ready(pid, said)
            for file, mapping in (("uid_map", uids), ("gid_map", gids)):
                _write_map(pid, file, mapping)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(said)
            os.close(stay)
            os.waitpid(pid, 0)


def _wait_ready(pid: int, said: int) -> None:
    """Wait for the holder's byte. It stays a zombie until the caller reaps it."""
    waiting = select.poll()
    waiting.register(said, select.POLLIN)
    if not waiting.poll(_HOLDER_SECONDS * 1000):
        os.kill(pid, signal.SIGKILL)
        raise FailedPrecondition(f"user namespace: its process does not answer within {_HOLDER_SECONDS:g}s")
    if not os.read(said, 1):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise FailedPrecondition(
            f"user namespace: this host makes none: {os.strerror(ended.si_status) if ended is not None else 'unknown'}"
        )


def _write_map(pid: int, file: str, mapping: Mapping) -> None:
    text = "".join(f"{inside} {outside} {length}\n" for inside, outside, length in mapping)
    fd = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        # The kernel takes a map in one write, and checks it there.
        os.write(fd, text.encode())
    except OSError as error:
        raise InvalidArgument(f"{file}: the kernel refuses {text.strip()!r}: {error.strerror}") from error
    finally:
        os.close(fd)
