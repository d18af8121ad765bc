"""Reading the statistic files of many cgroups again and again: each file is opened once, read with pread, and parsed when it has changed.

Opening and closing costs four times as much as reading, kubelet asks for the same files for ever, and most cgroups are idle. The fds are
bounded: beyond the bound the cgroup that was read longest ago gives its own back. An open file does not keep a cgroup from being
removed; reading it then says ENODEV, and the cgroup is looked for anew, because a pod's parent may have been made again under its path.
Test: tests/kernel/cgroups/test_meter.py.
"""

from __future__ import annotations

import errno
import operator
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from orlop.kernel.cgroupfs import READ_BYTES, Hierarchy

CLOSED: Final = -1
MISSING: Final = -2
PAGE: Final = 4096
FDS_SHARE: Final = 4
"""A quarter of the fds that this process may have is for meters."""
_GONE: Final = (errno.ENOENT, errno.ENODEV)
_NO_FDS: Final = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One statistic file that every cgroup has."""

    hierarchy: Hierarchy
    file: str
    parse: Callable[[str], Any] = str
    """What is made of the text."""
    optional: bool = False
    """Kernels and configurations exist without it, or it cannot be read there: it is None then."""


@dataclass(slots=True)
class _Open:
    """One cgroup's files: what was read last and what was made of it."""

    fds: list[int]
    raw: list[bytes] = field(default_factory=list)
    parsed: list[Any] = field(default_factory=list)


V = TypeVar("V")


class Kept(Generic[V]):
    """What was made of a cgroup's parsed files, the same object as long as all of them are the same objects."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Any], V]] = {}

    def of(self, path: str, parsed: list[Any], make: Callable[[], V]) -> V:
        known = self._kept.get(path)
        if known is not None and all(map(operator.is_, known[0], parsed)):
            return known[1]
        made = make()
        self._kept[path] = (parsed, made)
        return made

    def forget(self, path: str) -> None:
        self._kept.pop(path, None)


def _rest(fd: int, data: bytes) -> bytes:
    while more := os.pread(fd, READ_BYTES, len(data)):
        data += more
    return data


class Meters:
    """The open files of all cgroups that were asked for."""

    def __init__(self, sources: Sequence[Source], most_fds: int | None = None) -> None:
        self._sources = tuple(sources)
        if most_fds is None:
            most_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FDS_SHARE
        self._most = max(1, most_fds // max(1, len(self._sources)))
        self._open: dict[str, _Open] = {}

    def read(self, path: str, count: int) -> list[Any]:
        """Return what is made of the first ``count`` sources; None for an optional one that is not there.

        A file that has not changed gives the same object again. Raises FileNotFoundError when the cgroup is gone, OSError with the
        full path for whatever else the kernel says.
        """
        opened = self._open.pop(path, None)
        known = opened is not None
        if opened is None:
            number = len(self._sources)
            opened = _Open([CLOSED] * number, [b""] * number, [None] * number)
        self._open[path] = opened  # the youngest is the last
        fds, raw, parsed = opened.fds, opened.raw, opened.parsed
        number = 0
        try:
            while number < count:
                fd = fds[number]
                if fd == CLOSED:
                    source = self._sources[number]
                    fd = fds[number] = source.hierarchy.open(path, source.file, os.O_RDONLY)
                if fd != MISSING:
                    data = os.pread(fd, PAGE, 0)
                    if len(data) == PAGE:  # seq_file hands out a page at a time
                        data = _rest(fd, data)
                    if data != raw[number] or parsed[number] is None:
                        parsed[number] = self._sources[number].parse(data.decode())
                        raw[number] = data
                number += 1
            return parsed[:count]
        except OSError as error:
            return self._failed(path, count, number, error, known)
        finally:
            if len(self._open) > self._most:
                self.forget(next(iter(self._open)))

    def _failed(self, path: str, count: int, number: int, error: OSError, known: bool) -> list[Any]:
        """Go on without an optional file that is not there, once more with a cgroup that was made again; else raise."""
        source = self._sources[number]
        if source.optional and error.errno in (errno.ENOENT, errno.EOPNOTSUPP) and source.hierarchy.exists(path):
            opened = self._open[path]
            if opened.fds[number] >= 0:
                os.close(opened.fds[number])
            opened.fds[number] = MISSING
            return self.read(path, count)
        if error.errno in _NO_FDS and len(self._open) > 1:
            # What stays open is for speed only: pods that are being made need the fds more.
            for other in [each for each in self._open if each != path]:
                self.forget(other)
            return self.read(path, count)
        if error.errno not in _GONE:
            raise OSError(error.errno, error.strerror, source.hierarchy.full_path(path, source.file)) from None
        self.forget(path)
        if known:
            return self.read(path, count)
        raise FileNotFoundError(
            errno.ENOENT, os.strerror(errno.ENOENT), source.hierarchy.full_path(path, source.file)
        ) from None

    def forget(self, path: str) -> None:
        """Close the files of a cgroup; it may be asked for again."""
        opened = self._open.pop(path, None)
        for fd in opened.fds if opened is not None else ():
            if fd >= 0:
                os.close(fd)

    def there(self, path: str) -> frozenset[str]:
        """Return the names of the files that a cgroup had when it was read."""
        opened = self._open[path]
        return frozenset(
            source.file for source, fd in zip(self._sources, opened.fds, strict=True) if fd not in (CLOSED, MISSING)
        )

    def close(self) -> None:
        """Close all files."""
        for path in list(self._open):
            self.forget(path)

    def __len__(self) -> int:
        return len(self._open)
