"""Reading the statistic files of many cgroups again and again: each file is opened once and read with pread.

Opening and closing costs four times as much as reading, and kubelet asks for the same files for ever. The fds are bounded: beyond the
bound the cgroup that was read longest ago gives its own back. An open file does not keep a cgroup from being removed; reading it then
says ENODEV, and the cgroup is looked for anew, because a pod's parent may have been made again under its path.
Test: tests/kernel/cgroups/test_meter.py.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orlop.kernel.cgroupfs import READ_BYTES, Hierarchy

CLOSED: Final = -1
MISSING: Final = -2
PAGE: Final = 4096
FDS_SHARE: Final = 4
"""A quarter of the fds that this process may have is for meters."""
_GONE: Final = (errno.ENOENT, errno.ENODEV)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One statistic file that every cgroup has."""

    hierarchy: Hierarchy
    file: str
    optional: bool = False
    """Kernels and configurations exist without it, or it cannot be read there: it is None then."""


class Meters:
    """The open files of all cgroups that were asked for."""

    def __init__(self, sources: Sequence[Source], most_fds: int | None = None) -> None:
        self._sources = tuple(sources)
        if most_fds is None:
            most_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FDS_SHARE
        self._most = max(1, most_fds // max(1, len(self._sources)))
        self._fds: dict[str, list[int]] = {}

    def read(self, path: str, wanted: Iterable[int]) -> list[bytes | None]:
        """Return the contents of the sources with these numbers; None for an optional one that is not there.

        Raises FileNotFoundError when the cgroup is gone, OSError with the full path for whatever else the kernel says.
        """
        fds = self._fds.pop(path, None)
        known = fds is not None
        if fds is None:
            fds = [CLOSED] * len(self._sources)
        self._fds[path] = fds  # the youngest is the last
        try:
            return [self._read(path, fds, number) for number in wanted]
        except FileNotFoundError:
            self.forget(path)
            if known:
                return self.read(path, wanted)
            raise
        finally:
            if len(self._fds) > self._most:
                self.forget(next(iter(self._fds)))

    def _read(self, path: str, fds: list[int], number: int) -> bytes | None:
        fd = fds[number]
        if fd == MISSING:
            return None
        source = self._sources[number]
        try:
            if fd == CLOSED:
                fd = fds[number] = source.hierarchy.open(path, source.file, os.O_RDONLY)
            data = os.pread(fd, READ_BYTES, 0)
            if len(data) < PAGE:
                return data
            parts = [data]  # seq_file hands out a page at a time
            size = len(data)
            while more := os.pread(fd, READ_BYTES, size):
                parts.append(more)
                size += len(more)
            return b"".join(parts)
        except OSError as error:
            if source.optional and error.errno in (errno.ENOENT, errno.EOPNOTSUPP) and source.hierarchy.exists(path):
                if fd >= 0:
                    os.close(fd)
                fds[number] = MISSING
                return None
            code = errno.ENOENT if error.errno in _GONE else error.errno
            raise OSError(code, error.strerror, source.hierarchy.full_path(path, source.file)) from None

    def forget(self, path: str) -> None:
        """Close the files of a cgroup; it may be asked for again."""
        for fd in self._fds.pop(path, ()):
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Close all files."""
        for path in list(self._fds):
            self.forget(path)

    def __len__(self) -> int:
        return len(self._fds)
