"""/proc/self/mountinfo (proc(5)): which device a path is on, and which mount. Test: tests/unit/kernel/test_mountinfo.py."""

from __future__ import annotations

import os
import re
from typing import Final

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
"""Space, tab, newline and backslash of a path."""


def device_of(path: str) -> tuple[str, str]:
    """Return (name, ``major:minor``) of the device below a path: the mount's source, as df(1) shows it."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return find_device(file.read(), number), number


def find_device(mountinfo: str, number: str) -> str:
    """Return the source of the first mount of a device; the number itself when the file system is not mounted here."""
    for line in mountinfo.splitlines():
        fields, separator, tail = line.partition(" - ")
        words, source = fields.split(" "), tail.split(" ")
        if separator and len(words) > 2 and words[2] == number and len(source) > 1:
            return source[1]
    return number


def mount_point_of(path: str) -> str:
    """Return the mount point of the mount that a path lies on, as this process sees it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return find_mount_point(file.read(), os.path.realpath(path))


def find_mount_point(mountinfo: str, path: str) -> str:
    """Return the longest mount point that a path without links is at or below; "/" when there is none."""
    found = "/"
    for line in mountinfo.splitlines():
        words = line.split(" ")
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), words[4]) if len(words) > 4 else "/"
        if len(point) > len(found) and (path == point or path.startswith(point + "/")):
            found = point
    return found
