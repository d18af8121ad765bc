"""Which uid, gid and groups a container runs as: CRI's words, the image's USER, and the image's own /etc/passwd and /etc/group.

Owns the rules. Reads two files of the image by fd, never by path (openat2), never follows a link as the file itself, and bounds what it
reads: the bytes are the image author's. Never looks at the host's users. Test: tests/unit/services/containers/test_user.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.base.limits import PASSWD_BYTES, PASSWD_LINES
from orlop.kernel.openat2 import open_in_root
from orlop.specs.pod import ContainerSecurity, GroupsPolicy

MAX_ID: Final = 2**31 - 1
"""As containerd and runc: a larger number could wrap to 0 in somebody's int (CVE-2024-40635)."""
NAME_BYTES: Final = 256


class ResolvedUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user of a container's processes."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)
    """All groups, the primary one among them: without it a file closed to the group would open for the user. Sorted."""
    home: str = "/"
    name: str = ""
    """As in /etc/passwd; empty when the uid is not there."""


class _Passwd(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(rootfs_fd: int, security: ContainerSecurity, image_user: str) -> ResolvedUser:
    """Return the user: run_as_username or run_as_user with run_as_group, else the image's ``USER`` (``user[:group]``), else root.

    ``rootfs_fd`` is the container's root directory. Supplemental groups: under MERGE those of the image's /etc/group that list the user are
    added to the asked ones, under STRICT they are not. Raises InvalidArgument that names the field and the value.
    """
    field, user, group = _wanted(security, image_user)
    passwd = _read_passwd(rootfs_fd)
    if user.isascii() and user.isdigit():
        uid = _number(field, user)
        entry = next((item for item in passwd if item.uid == uid), None)
    else:
        _check_name(field, user)
        entry = next((item for item in passwd if item.name == user), None)
        if entry is None:
            raise InvalidArgument(f"{field}: user {user!r} is not in the image's /etc/passwd")
        uid = _in_range(field, entry.uid)
    groups: tuple[_Group, ...] | None = None
    if not group:
        gid = _in_range(field, entry.gid) if entry is not None else 0
    elif group.isascii() and group.isdigit():
        gid = _number(field, group)
    else:
        _check_name(field, group)
        groups = _read_group(rootfs_fd)
        found = next((item for item in groups if item.name == group), None)
        if found is None:
            raise InvalidArgument(f"{field}: group {group!r} is not in the image's /etc/group")
        gid = _in_range(field, found.gid)
    every = {gid}
    for number in security.supplemental_groups:
        every.add(_in_range("supplemental_groups", number))
    if security.supplemental_groups_policy is GroupsPolicy.MERGE and entry is not None:
        for item in _read_group(rootfs_fd) if groups is None else groups:
            if entry.name in item.members:
                every.add(_in_range("/etc/group", item.gid))
    home = entry.home if entry is not None and entry.home.startswith("/") else "/"
    return ResolvedUser(
        uid=uid, gid=gid, groups=tuple(sorted(every)), home=home, name=entry.name if entry is not None else ""
    )


def _wanted(security: ContainerSecurity, image_user: str) -> tuple[str, str, str]:
    """Return (field for errors, user, group); CRI's fields win over the image's."""
    group = ""
    if security.run_as_group is not None:
        if not security.run_as_username and security.run_as_user is None:
            raise InvalidArgument("run_as_group: given without run_as_user or run_as_username")
        group = str(_in_range("run_as_group", security.run_as_group))
    if security.run_as_username:
        return "run_as_username", security.run_as_username, group
    if security.run_as_user is not None:
        return "run_as_user", str(_in_range("run_as_user", security.run_as_user)), group
    user, _, group = image_user.partition(":")
    if ":" in group:
        raise InvalidArgument(f"image USER: {image_user!r} is not user[:group]")
    return "image USER", user or "0", group


def _number(field: str, text: str) -> int:
    if len(text) > len(str(MAX_ID)) + 8:
        raise InvalidArgument(f"{field}: id {text[:32]!r} is out of range")
    return _in_range(field, int(text))


def _in_range(field: str, number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"{field}: id {number} is out of range, 0 to {MAX_ID}")
    return number


def _check_name(field: str, name: str) -> None:
    """What looks like a number but is none (``-1``, ``1e3``, ``+5``) and what could forge a line of a file is no name (CVE-2024-40635,
    CVE-2026-15809)."""
    if (
        len(name) > NAME_BYTES
        or (name[:1] in "-+0123456789" and not any(char.isalpha() for char in name))
        or any(not char.isprintable() or char in ":,/ " for char in name)
    ):
        raise InvalidArgument(f"{field}: {name[:64]!r} is neither an id nor a name")


def _read_passwd(rootfs_fd: int) -> tuple[_Passwd, ...]:
    found = []
    for fields in _lines(rootfs_fd, "/etc/passwd"):
        if len(fields) >= 6 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            found.append(_Passwd(name=fields[0], uid=int(fields[2]), gid=int(fields[3]), home=fields[5]))
    return tuple(found)


def _read_group(rootfs_fd: int) -> tuple[_Group, ...]:
    found = []
    for fields in _lines(rootfs_fd, "/etc/group"):
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]):
            members = tuple(filter(None, fields[3].split(",")))
            found.append(_Group(name=fields[0], gid=int(fields[2]), members=members))
    return tuple(found)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _lines(rootfs_fd: int, path: str) -> Iterator[list[str]]:
    data = _read(rootfs_fd, path)
    if data.count(b"\n") > PASSWD_LINES:
        raise InvalidArgument(f"image's {path}: more than {PASSWD_LINES} lines")
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        line = line.strip()
        # "+" and "-" begin NIS entries of old.
        if line and line[0] not in "#+-":
            yield line.split(":")


def _read(rootfs_fd: int, path: str) -> bytes:
    """Return the bytes of a regular file of the image, b"" when there is none. Neither FIFO nor device nor link is opened as the file
    (CVE-2026-47262, CVE-2024-9676)."""
    try:
        fd = open_in_root(rootfs_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise InvalidArgument(f"image's {path}: cannot be read: {error.strerror}") from error
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidArgument(f"image's {path}: not a regular file")
        if facts.st_size > PASSWD_BYTES:
            raise InvalidArgument(f"image's {path}: {facts.st_size} bytes, limit {PASSWD_BYTES}")
        chunks: list[bytes] = []
        left = PASSWD_BYTES + 1
        while left and (chunk := os.read(fd, left)):
            chunks.append(chunk)
            left -= len(chunk)
        if not left:
            raise InvalidArgument(f"image's {path}: more than {PASSWD_BYTES} bytes")
        return b"".join(chunks)
    finally:
        os.close(fd)
