"""proc(5): the few files of /proc that the daemon reads about itself and about processes. Pure parsing beside the read.

Test: tests/unit/kernel/test_procfs.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """What we use of /proc/<pid>/stat."""

    pid: int
    command: str
    state: str
    parent: int
    start_time: int
    """Clock ticks since boot; with the pid the identity of a process."""


def parse_stat(text: str) -> ProcessStat:
    """Parse a stat line; the command may hold spaces and parentheses, so the last ``)`` ends it."""
    pid, _, rest = text.partition(" (")
    command, separator, tail = rest.rpartition(") ")
    fields = tail.split()
    if not separator or len(fields) < 20:
        raise ValueError(f"no stat line: {text[:80]!r}")
    return ProcessStat(
        pid=int(pid), command=command, state=fields[0], parent=int(fields[1]), start_time=int(fields[19])
    )


def process_stat(pid: int) -> ProcessStat:
    """Read /proc/<pid>/stat; raises ProcessLookupError."""
    path = f"/proc/{pid}/stat"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, 4096)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ProcessLookupError(3, os.strerror(3), path) from None
    return parse_stat(data.decode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """How many file descriptors are open, and how many of them are sockets."""

    files: int
    sockets: int


def open_descriptors(pid: int) -> Descriptors | None:
    """Count the open descriptors of a process; None when it is gone."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return None
    sockets = 0
    for name in names:
        try:
            sockets += os.readlink(f"{directory}/{name}").startswith("socket:")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
    return Descriptors(files=len(names), sockets=sockets)


@cache
def boot_id() -> str:
    """Return the id that the kernel made at this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
