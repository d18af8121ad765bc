"""cgroups(7) as files: which hierarchies are mounted, and reading and writing below them relative to a directory fd.

Owns the parsing of mountinfo and /proc/self/cgroup and the O_PATH descriptor of each hierarchy's root. Knows no limit, no formula
and no order of writes: that is oci/cgroups. Cgroup paths are absolute as kubelet gives them (``/kubepods/podX``) and relative to
the mount; callers have checked them (no ``..``). Errors are OSError with the full path. Test: tests/unit/kernel/test_cgroupfs.py,
tests/kernel/cgroups/.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import Final

READ_BYTES: Final = 64 * 1024
OWNER_XATTR: Final = "trusted.orlop"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedHierarchy:
    """One cgroup mount: what discover() finds; nothing is open."""

    version: int
    controllers: tuple[str, ...]
    """v1: as in /proc/self/cgroup, ``name=systemd`` for a named one; v2: what cgroup.controllers of the mount says is not here."""
    mountpoint: str


def discover(mountinfo: str, self_cgroup: str) -> tuple[MountedHierarchy, ...]:
    """Return the hierarchies that the two texts of /proc/self name, each once, in the order of their mounts.

    /proc/self/cgroup knows which words of a mount's options are controllers; mountinfo knows where they are mounted.
    """
    known: set[str] = set()
    for line in self_cgroup.splitlines():
        _, _, rest = line.partition(":")
        names, _, _ = rest.partition(":")
        known.update(name for name in names.split(",") if name)
    found: dict[tuple[str, ...], MountedHierarchy] = {}
    for line in mountinfo.splitlines():
        fields, _, tail = line.partition(" - ")
        super_fields = tail.split(" ")
        if len(super_fields) < 3 or super_fields[0] not in ("cgroup", "cgroup2"):
            continue
        mountpoint = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), fields.split(" ")[4])
        if super_fields[0] == "cgroup2":
            found.setdefault((), MountedHierarchy(version=2, controllers=(), mountpoint=mountpoint))
            continue
        controllers = tuple(word for word in super_fields[2].split(",") if word in known)
        if controllers:
            found.setdefault(controllers, MountedHierarchy(version=1, controllers=controllers, mountpoint=mountpoint))
    return tuple(found.values())


def discover_mounted() -> tuple[MountedHierarchy, ...]:
    """Return the hierarchies that this process sees."""
    with (
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts,
        open("/proc/self/cgroup") as own,
    ):
        return discover(mounts.read(), own.read())


def own_paths() -> dict[str, str]:
    """Return this process's cgroup in each hierarchy: controller (or ``name=x``, or "" for the unified one) to path."""
    paths: dict[str, str] = {}
    with open("/proc/self/cgroup") as own:
        for line in own:
            _, _, rest = line.rstrip("\n").partition(":")
            names, _, path = rest.partition(":")
            for name in names.split(","):
                paths[name] = path
    return paths


class Hierarchy:
    """An open hierarchy. Holds one O_PATH fd until close(); every call takes a cgroup path and a file name."""

    __slots__ = ("_fd", "controllers", "mountpoint", "version")

    def __init__(self, mounted: MountedHierarchy) -> None:
        self.version = mounted.version
        self.mountpoint = mounted.mountpoint
        self._fd = os.open(mounted.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.controllers: tuple[str, ...] = mounted.controllers
        if mounted.version == 2:
            self.controllers = tuple(self.read("/", "cgroup.controllers").split())

    def close(self) -> None:
        """Close the root's fd; the object is dead afterwards."""
        os.close(self._fd)

    def __repr__(self) -> str:
        return f"<cgroup v{self.version} {','.join(self.controllers)} at {self.mountpoint}>"

    def full_path(self, path: str, name: str = "") -> str:
        """Return the path in the host's tree, for messages and for calls that know no dir_fd."""
        return f"{self.mountpoint}{path.rstrip('/')}/{name}".rstrip("/")

    def open(self, path: str, name: str, flags: int) -> int:
        """Open a cgroup's file; the fd is the caller's."""
        relative = f"{path[1:]}/{name}" if len(path) > 1 else name
        try:
            return os.open(relative, flags | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.full_path(path, name)) from None

    def open_directory(self, path: str) -> int:
        """Open a cgroup's directory for openat, CLONE_INTO_CGROUP and reading; the fd is the caller's."""
        try:
            return os.open(path[1:] or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.full_path(path)) from None

    def read(self, path: str, name: str) -> str:
        """Return a file's text without the last newline. A cgroup that went away meanwhile is FileNotFoundError."""
        fd = self.open(path, name, os.O_RDONLY)
        try:
            data = os.read(fd, READ_BYTES)
            if len(data) >= 4096:  # seq_file hands out a page at a time
                chunks = [data]
                while chunks[-1]:
                    chunks.append(os.read(fd, READ_BYTES))
                data = b"".join(chunks)
        except OSError as error:
            code = errno.ENOENT if error.errno == errno.ENODEV else error.errno
            raise OSError(code, error.strerror, self.full_path(path, name)) from None
        finally:
            os.close(fd)
        return data.decode(errors="replace").rstrip("\n")

    def write(self, path: str, name: str, value: str) -> None:
        """Write a file in one write(2), as the kernel wants it."""
        fd = self.open(path, name, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        except OSError as error:
            code = errno.ENOENT if error.errno == errno.ENODEV else error.errno
            raise OSError(code, error.strerror, self.full_path(path, name)) from None
        finally:
            os.close(fd)

    def write_lines(self, path: str, name: str, values: tuple[str, ...]) -> None:
        """Write several values to one file, one write(2) each."""
        fd = self.open(path, name, os.O_WRONLY)
        try:
            for value in values:
                try:
                    os.write(fd, value.encode())
                except OSError as error:
                    raise OSError(
                        error.errno, f"{error.strerror} (value {value!r})", self.full_path(path, name)
                    ) from None
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Say whether the cgroup is there."""
        try:
            os.stat(path[1:] or ".", dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def has_file(self, path: str, name: str) -> bool:
        """Say whether a cgroup has a file: an interface may be missing by kernel configuration."""
        return self.exists(f"{path}/{name}" if path != "/" else f"/{name}")

    def mkdir(self, path: str) -> None:
        """Make one cgroup; its parent must be there."""
        try:
            os.mkdir(path[1:], 0o755, dir_fd=self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.full_path(path)) from None

    def rmdir(self, path: str) -> None:
        """Remove one cgroup that has neither processes (EBUSY) nor children (EBUSY)."""
        try:
            os.rmdir(path[1:], dir_fd=self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.full_path(path)) from None

    def children(self, path: str) -> list[str]:
        """Return the names of the cgroups directly below."""
        fd = self.open_directory(path)
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            code = errno.ENOENT if error.errno == errno.ENODEV else error.errno
            raise OSError(code, error.strerror, self.full_path(path)) from None
        finally:
            os.close(fd)

    def pids(self, path: str) -> list[int]:
        """Return the processes of one cgroup (not of those below). Pids of another PID namespace are 0 and left out."""
        return [int(word) for word in self.read(path, "cgroup.procs").split() if word != "0"]

    def mark(self, path: str, owner: str) -> bool:
        """Write who made a cgroup into an extended attribute; False where the kernel or the privileges don't allow it."""
        try:
            os.setxattr(self.full_path(path), OWNER_XATTR, owner.encode())
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                return False
            raise
        return True

    def marked(self, path: str) -> str | None:
        """Return who made a cgroup, or None."""
        try:
            return os.getxattr(self.full_path(path), OWNER_XATTR).decode(errors="replace")
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA, errno.ENOENT):
                return None
            raise
