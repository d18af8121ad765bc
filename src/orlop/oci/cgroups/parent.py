"""Cgroup parents as kubelet and people write them, checked and turned into paths. Pure. Test: tests/unit/oci/cgroups/test_parent.py."""

from __future__ import annotations

import re
from typing import Final

from orlop.base.errors import InvalidArgument

PATH_BYTES: Final = 2048
NAME_BYTES: Final = 255
_SLICE = re.compile(r"[A-Za-z0-9_.@:\\-]+\.slice")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def cgroupfs_parent(text: str, default: str) -> str:
    """Return the path of a pod's cgroup parent for the cgroupfs driver.

    Raises InvalidArgument for a slice name (it belongs to the systemd driver), a relative path and anything that could leave
    the tree or break a line of a kernel file.
    """
    if not text:
        return default
    if "/" not in text and text.endswith(".slice"):
        raise InvalidArgument(f"cgroup_parent {text!r}: is a systemd slice, but the cgroup driver is cgroupfs")
    return absolute_path(text, "cgroup_parent")


def absolute_path(text: str, field: str) -> str:
    """Return the path without doubled or trailing slashes; raises InvalidArgument if it is not plain and absolute."""
    if not text.startswith("/"):
        raise InvalidArgument(f"{field} {text!r}: is not an absolute path")
    if len(text) > PATH_BYTES:
        raise InvalidArgument(f"{field}: is longer than {PATH_BYTES} bytes")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise InvalidArgument(f"{field} {text!r}: holds a control character")
    parts = [part for part in text.split("/") if part]
    for part in parts:
        if part in (".", ".."):
            raise InvalidArgument(f"{field} {text!r}: {part!r} is not allowed in it")
        if len(part.encode()) > NAME_BYTES:
            raise InvalidArgument(f"{field} {text!r}: a component is longer than {NAME_BYTES} bytes")
    return "/" + "/".join(parts)


def slice_path(name: str) -> str:
    """Return the path that systemd gives a slice: ``a-b.slice`` is ``/a.slice/a-b.slice``; ``-.slice`` is ``/``."""
    if name == "-.slice":
        return "/"
    if not _SLICE.fullmatch(name) or len(name) > NAME_BYTES:
        raise InvalidArgument(f"cgroup_parent {name!r}: is not the name of a slice")
    words = name.removesuffix(".slice").split("-")
    if "" in words:
        raise InvalidArgument(f"cgroup_parent {name!r}: has an empty part between dashes")
    return "".join(f"/{'-'.join(words[: index + 1])}.slice" for index in range(len(words)))


def check_name(text: str, field: str) -> str:
    """Return a name that may become a directory (container id, exec id); raises InvalidArgument."""
    if not _NAME.fullmatch(text) or len(text) > NAME_BYTES:
        raise InvalidArgument(f"{field} {text[:80]!r}: is not a plain name")
    return text
