"""/proc/sys: read and write kernel parameters of the caller's own namespaces, by their path below /proc/sys.

Test: tests/kernel/network/test_sysctl.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/proc/sys")


def _path(name: str) -> Path:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"sysctl {name!r}: not a path below {ROOT}")
    return ROOT / name


def exists(name: str) -> bool:
    """Say whether the kernel has this parameter (or directory of parameters)."""
    return _path(name).exists()


def read(name: str) -> str:
    """Return a value, ``name`` with slashes: net/ipv4/ip_forward. Raises OSError with the path."""
    return _path(name).read_text().strip()


def write(name: str, value: str) -> bool:
    """Set a value unless it is set already (a read-only /proc/sys may hold the right one). Returns whether it was changed."""
    if read(name) == value:
        return False
    path = _path(name)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)
    return True


def children(name: str) -> list[str]:
    """List a directory of parameters, sorted: the interfaces below net/ipv6/conf, for instance."""
    return sorted(entry.name for entry in os.scandir(_path(name)))
