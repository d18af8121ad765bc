"""Copies a directory of a container's root into a volume: what an image has put where a volume will be mounted.

Files, directories, links (hard ones as such), FIFOs and device nodes with owner, mode, times and extended attributes; sockets are left
out. The source is the image author's: it is walked by directory fds and no link in it is followed. Blocks on the disk: call it in a
worker thread. Never decides what becomes a volume. Test: tests/kernel/snapshots/test_copyup.py.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from orlop.base.errors import Internal, InvalidArgument, OrlopError, ResourceExhausted
from orlop.base.limits import LAYER_ENTRIES
from orlop.kernel.openat2 import open_in_root

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def copy_up(root_fd: int, path: str, target: Path) -> bool:
    """Make ``target`` (an empty directory) look like ``path`` in the root; False when the root has nothing there.

    Raises InvalidArgument when something else than a directory is there, ResourceExhausted (no space, too many entries), Internal.
    """
    try:
        # A link on the way is followed as the container would, inside of its root.
        source = open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot become a volume: {(error.strerror or '').lower()}") from error
    try:
        _Copy(target).directory(source, ".")
    except OSError as error:
        raise _failure(error, path) from error
    finally:
        os.close(source)
    return True


def _failure(error: OSError, path: str) -> OrlopError:
    text = f"{path}: cannot be copied into its volume: {error.filename}: {error.strerror}"
    return ResourceExhausted(text) if error.errno in _FULL else Internal(text)


class _Copy:
    """One run: counts entries, and remembers where the first name of each hard-linked file went."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._entries = 0
        self._linked: dict[tuple[int, int], str] = {}

    def directory(self, source: int, name: str) -> None:
        """Copy the content of an open directory into ``name`` (there already), then the directory's own attributes."""
        for entry in os.listdir(source):
            self._entries += 1
            if self._entries > LAYER_ENTRIES:
                raise ResourceExhausted(f"volume {self._target}: more than {LAYER_ENTRIES} entries")
            self._entry(source, entry, os.path.normpath(f"{name}/{entry}"))
        copied = os.open(self._target / name, _DIRECTORY)
        try:
            _attributes(source, copied)
        finally:
            os.close(copied)

    def _entry(self, parent: int, entry: str, name: str) -> None:
        facts = os.stat(entry, dir_fd=parent, follow_symlinks=False)
        made = self._target / name
        kind = stat.S_IFMT(facts.st_mode)
        if kind == stat.S_IFDIR:
            source = os.open(entry, _DIRECTORY, dir_fd=parent)
            try:
                os.mkdir(made, 0o700)
                self.directory(source, name)
            finally:
                os.close(source)
            return
        if kind == stat.S_IFSOCK:
            return
        identity = (facts.st_dev, facts.st_ino)
        if facts.st_nlink > 1 and (first := self._linked.get(identity)) is not None:
            os.link(self._target / first, made, follow_symlinks=False)
            return
        self._linked[identity] = name
        if kind == stat.S_IFREG:
            _file(parent, entry, made)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry, dir_fd=parent), made)
        else:
            os.mknod(made, facts.st_mode, facts.st_rdev)
        os.chown(made, facts.st_uid, facts.st_gid, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(made, stat.S_IMODE(facts.st_mode))  # the umask took bits, chown the set-uid bit
        os.utime(made, ns=(facts.st_atime_ns, facts.st_mtime_ns), follow_symlinks=False)


def _file(parent: int, entry: str, made: Path) -> None:
    source = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        copied = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while os.sendfile(copied, source, None, 1 << 30):
                pass
            _attributes(source, copied)
        finally:
            os.close(copied)
    finally:
        os.close(source)


def _attributes(source: int, copied: int) -> None:
    facts = os.fstat(source)
    os.fchown(copied, facts.st_uid, facts.st_gid)
    for name in os.listxattr(source):
        if not name.startswith("trusted."):  # overlayfs' own
            os.setxattr(copied, name, os.getxattr(source, name))
    os.fchmod(copied, stat.S_IMODE(facts.st_mode))
    os.utime(copied, ns=(facts.st_atime_ns, facts.st_mtime_ns))
