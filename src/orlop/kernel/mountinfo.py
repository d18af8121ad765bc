"""/proc/self/mountinfo (proc(5)): which device a path is on. Test: tests/unit/kernel/test_mountinfo.py."""

from __future__ import annotations

import os


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
