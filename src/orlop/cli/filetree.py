"""Files on their way from one tree, or tar archive, into another; neither side can lead the copy out of where it was sent.

    read_tree / read_archive -> Entry, Entry, ... -> TreeWriter / ArchiveWriter

What is read is opened name by name below directory fds, without following links; what is written goes below one directory fd by
openat2(RESOLVE_BENEATH). So a container that swaps a directory for a link while it is copied gains nothing.
Test: tests/unit/cli/test_filetree.py.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, Final

from orlop.base import limits
from orlop.base.errors import DataLoss, FailedPrecondition, InvalidArgument
from orlop.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

CHUNK_BYTES: Final = 1 << 20
BROKEN_ARCHIVE: Final = (tarfile.TarError, EOFError, TypeError, ValueError, OverflowError, zlib.error, lzma.LZMAError)
"""What tarfile raises for bytes that are no archive; a gzip header that ends too early is a TypeError."""
SET_IDS: Final = stat.S_ISUID | stat.S_ISGID
Open = Callable[[int], int]
"""Opens one thing with the flags that are given; the fd belongs to the caller."""
Tell = Callable[[str], None]
"""Says what is left out, and why."""
KINDS: Final = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file. ``path``: its names below the thing that is copied, which is itself ()."""

    path: tuple[str, ...]
    kind: str
    """directory, file, link, fifo; hardlink, in an archive only"""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    """Of a link as it stands there; of a hardlink, the path of the other name."""
    content: Callable[[], BinaryIO] | None = None
    """Opens a file's bytes; the caller closes it."""


def read_tree(top: Open, tell: Tell) -> Iterator[Entry]:
    """Yield a thing and what is below it, each directory before what it holds. Raises OSError, FailedPrecondition (too deep)."""
    yield from _read(top, (), tell)


def _read(opened: Open, path: tuple[str, ...], tell: Tell) -> Iterator[Entry]:
    if len(path) > limits.COPY_DEPTH:
        raise FailedPrecondition(f"{'/'.join(path[:3])}/...: is more than {limits.COPY_DEPTH} directories deep")
    handle = opened(os.O_PATH)
    try:
        facts = os.fstat(handle)
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "")
        target = os.readlink("", dir_fd=handle) if kind == "link" else ""
    finally:
        os.close(handle)
    if not kind:
        tell(f"{'/'.join(path) or 'it'}: is a device or a socket, which is not copied")
        return
    yield Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime_ns=facts.st_mtime_ns,
        size=facts.st_size if kind == "file" else 0,
        target=target,
        content=(lambda: _content(opened)) if kind == "file" else None,
    )
    if kind != "directory":
        return
    directory = opened(os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sorted(os.listdir(directory)):
            with suppress(FileNotFoundError):  # removed since the directory was listed
                yield from _read(below(directory, name), (*path, name), tell)
    finally:
        os.close(directory)


def below(directory: int, name: str) -> Open:
    """Open a name in a directory, never what a link of that name points to."""
    return lambda flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _content(opened: Open) -> BinaryIO:
    # Not to wait for a pipe's writer if it has been exchanged meanwhile; for a file the flag means nothing.
    fd = opened(os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FailedPrecondition("a file was exchanged while it was copied")
    return os.fdopen(fd, "rb", buffering=0)


class _Member(io.RawIOBase):
    """The bytes of one file of an archive, which may turn out to be broken in its middle."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _broken_in_words():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _broken_in_words() -> Iterator[None]:
    try:
        yield
    except BROKEN_ARCHIVE as error:
        raise InvalidArgument(f"standard input: is not a tar archive: {error}") from None
    except OSError as error:
        if error.errno is None:  # what decompressors say of their data
            raise InvalidArgument(f"standard input: is not a tar archive: {error}") from None
        raise


def read_archive(file: BinaryIO, tell: Tell) -> Iterator[Entry]:
    """Yield the entries of a tar archive, compressed or not. Raises InvalidArgument: it is none, or names lead out of it."""
    with _broken_in_words():
        archive = tarfile.open(fileobj=file, mode="r|*")  # noqa: SIM115  # closed below
    with archive:
        while True:
            with _broken_in_words():
                member = archive.next()
            if member is None:
                return
            entry = _archived(archive, member)
            if entry is None:
                tell(f"{member.name}: is a device, which is not copied")
            else:
                yield entry


def _archived(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | None:
    def content() -> BinaryIO:
        found = archive.extractfile(member)
        assert found is not None
        return io.BufferedReader(_Member(found))

    kind = (
        "directory"
        if member.isdir()
        else "file"
        if member.isreg()
        else "link"
        if member.issym()
        else "hardlink"
        if member.islnk()
        else "fifo"
        if member.isfifo()
        else ""
    )
    if not kind:
        return None
    return Entry(
        path=archive_path(member.name),
        kind=kind,
        mode=stat.S_IMODE(member.mode),
        uid=member.uid,
        gid=member.gid,
        mtime_ns=int(member.mtime * 1e9),
        size=member.size if kind == "file" else 0,
        target=member.linkname,
        content=content if kind == "file" else None,
    )


def archive_path(name: str) -> tuple[str, ...]:
    """Return the names of an archive's path. Raises InvalidArgument: it has .. in it."""
    names = tuple(each for each in name.split("/") if each not in ("", "."))
    if ".." in names or "\0" in name:
        raise InvalidArgument(f"standard input: {name}: leads out of the archive")
    return names


@dataclass(slots=True, kw_only=True)
class TreeWriter:
    """Writes entries below a directory fd, the thing itself at ``base``; base () is the directory, which is there."""

    root: int
    base: tuple[str, ...]
    keep_owner: bool
    keep_set_ids: bool = False
    own_uid: int = 0
    own_gid: int = 0
    copied: int = 0
    _made: list[tuple[tuple[str, ...], Entry]] = field(default_factory=list)
    """Directories that are this writer's: their modes and times are set when nothing more is written into them."""

    def put(self, entry: Entry) -> None:
        """Write one entry. Raises OSError, FailedPrecondition: something else stands in its place."""
        parts = self.base + entry.path
        if not parts:
            return
        directory = self._directory(parts[:-1])
        try:
            self._put(directory, parts, entry)
        finally:
            os.close(directory)

    def _directory(self, parts: tuple[str, ...]) -> int:
        return openat2(
            self.root,
            "/".join(parts) or ".",
            os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
            resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
        )

    def _put(self, directory: int, parts: tuple[str, ...], entry: Entry) -> None:
        name = parts[-1]
        there = _mode_of(directory, name)
        if entry.kind == "directory":
            if there is not None and not stat.S_ISDIR(there):
                raise FailedPrecondition(f"{'/'.join(parts)}: is there, and not a directory")
            if there is None:
                os.mkdir(name, 0o700, dir_fd=directory)
                self._made.append((parts, entry))
            return
        if there is not None and stat.S_ISDIR(there):
            raise FailedPrecondition(f"{'/'.join(parts)}: is there, and a directory")
        if entry.kind == "file":
            self._file(directory, name, there, entry)
            return
        if there is not None:
            os.unlink(name, dir_fd=directory)
        if entry.kind == "link":
            os.symlink(entry.target, name, dir_fd=directory)
        elif entry.kind == "fifo":
            os.mkfifo(name, 0o600, dir_fd=directory)
            os.chmod(name, entry.mode & ~SET_IDS, dir_fd=directory)
        else:
            self._hardlink(directory, name, entry)
            return
        os.chown(name, *self._owner(entry), dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _hardlink(self, directory: int, name: str, entry: Entry) -> None:
        *above, other = self.base + archive_path(entry.target)
        source = self._directory(tuple(above))
        try:
            os.link(other, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _file(self, directory: int, name: str, there: int | None, entry: Entry) -> None:
        if there is not None and not stat.S_ISREG(there):
            os.unlink(name, dir_fd=directory)
        # One that is there is written anew and not replaced: it may be a mount, as a container's /etc/hosts is.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(target).st_mode):
                raise FailedPrecondition(f"{name}: was exchanged while it was copied")
            os.ftruncate(target, 0)
            assert entry.content is not None
            with entry.content() as source:
                while chunk := source.read(CHUNK_BYTES):
                    _write_all(target, chunk)
                    self.copied += len(chunk)
            os.fchown(target, *self._owner(entry))
            os.fchmod(target, self._mode(entry))
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(target)

    def finish(self) -> None:
        """Set owners, modes and times of the directories that were made."""
        for parts, entry in reversed(self._made):
            directory = self._directory(parts)
            try:
                os.fchown(directory, *self._owner(entry))
                os.fchmod(directory, self._mode(entry))
                os.utime(directory, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(directory)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return (entry.uid, entry.gid) if self.keep_owner else (self.own_uid, self.own_gid)

    def _mode(self, entry: Entry) -> int:
        # A program of a container that runs as another user must not come to do so on the host by being copied.
        return entry.mode if self.keep_set_ids else entry.mode & ~SET_IDS


def _mode_of(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class ArchiveWriter:
    """Writes entries as a tar archive (pax), the thing itself under the name ``top``."""

    def __init__(self, file: BinaryIO, top: str) -> None:
        self._archive = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # finish() closes it
        self._top = top
        self.copied = 0

    def put(self, entry: Entry) -> None:
        """Write one entry. Raises OSError, DataLoss: a file became shorter."""
        member = tarfile.TarInfo("/".join((self._top, *entry.path)))
        member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
        member.mtime = entry.mtime_ns // 1_000_000_000
        member.size, member.linkname = entry.size, entry.target
        member.type = {"directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}.get(
            entry.kind, tarfile.REGTYPE
        )
        if entry.content is None:
            self._archive.addfile(member)
            return
        with entry.content() as source:
            try:
                self._archive.addfile(member, source)
            except OSError as error:
                if error.errno is None:  # tarfile's own: unexpected end of data
                    raise DataLoss(f"{'/'.join(entry.path)}: became shorter while it was copied") from None
                raise
        self.copied += entry.size

    def finish(self) -> None:
        self._archive.close()
