"""What a cgroup has used: one value type for both versions, and the parsing of the kernel's flat and nested key files. Pure.

Reading is v1.py's and v2.py's. Test: tests/unit/oci/cgroups/test_stats.py.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from orlop.specs.pod import CpuStats, IoStats, MemoryStats, Psi, PsiData, SwapStats

UNLIMITED: Final = 1 << 62
"""A limit from here on is none: v1 says "none" as the largest multiple of a page below 2^63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStats:
    """Figures of one cgroup at one moment. None: the host does not count it."""

    timestamp: int
    """Nanoseconds since the epoch."""
    cpu_usage: int = 0
    """Nanoseconds of CPU since the cgroup was made."""
    memory_usage: int | None = None
    memory_inactive_file: int = 0
    memory_rss: int = 0
    memory_limit: int | None = None
    """None: unlimited."""
    page_faults: int = 0
    major_page_faults: int = 0
    swap_usage: int | None = None
    swap_limit: int | None = None
    pids: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    oom_kills: int = 0
    cpu_psi: Psi | None = None
    memory_psi: Psi | None = None
    io_psi: Psi | None = None

    @property
    def working_set(self) -> int:
        """Memory that cannot be dropped at once: usage without inactive file pages."""
        return max(0, (self.memory_usage or 0) - self.memory_inactive_file)

    def cpu(self, nano_cores: int | None) -> CpuStats:
        """Return CRI's form; ``nano_cores`` is what rate.py made of this reading."""
        return CpuStats(
            timestamp=self.timestamp,
            usage_core_nano_seconds=self.cpu_usage,
            usage_nano_cores=nano_cores,
            psi=self.cpu_psi,
        )

    def memory(self) -> MemoryStats | None:
        """Return CRI's form; None where memory is not counted."""
        if self.memory_usage is None:
            return None
        return MemoryStats(
            timestamp=self.timestamp,
            working_set=self.working_set,
            available=None if self.memory_limit is None else max(0, self.memory_limit - self.working_set),
            usage=self.memory_usage,
            rss=self.memory_rss,
            page_faults=self.page_faults,
            major_page_faults=self.major_page_faults,
            psi=self.memory_psi,
        )

    def swap(self) -> SwapStats | None:
        """Return CRI's form; None where swap is not counted."""
        if self.swap_usage is None:
            return None
        available = None if self.swap_limit is None else max(0, self.swap_limit - self.swap_usage)
        return SwapStats(timestamp=self.timestamp, available=available, usage=self.swap_usage)

    def io(self) -> IoStats | None:
        """Return CRI's form, which has only the pressure; None where the kernel doesn't measure it."""
        return None if self.io_psi is None else IoStats(timestamp=self.timestamp, psi=self.io_psi)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCount:
    """How much of one operation a block device has done for a cgroup: bytes or requests."""

    device: str
    """``major:minor``."""
    operation: str
    """``Read``, ``Write``, and what else the kernel tells apart."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HugepageUse:
    page_size: str
    """As in the file's name: ``2MB``."""
    usage: int
    """Bytes."""
    max_usage: int | None
    """The most there ever was; only v1 counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMetrics:
    """Everything that is counted of one cgroup, for monitoring. None: this host does not count it."""

    stats: CgroupStats
    cpu_user: int | None = None
    cpu_system: int | None = None
    """Nanoseconds."""
    cfs_periods: int | None = None
    cfs_throttled_periods: int | None = None
    cfs_throttled: int | None = None
    """Nanoseconds."""
    memory_cache: int | None = None
    memory_mapped: int | None = None
    memory_kernel: int | None = None
    memory_max_usage: int | None = None
    memory_failures: int | None = None
    """How often the limit was hit."""
    own_page_faults: int = 0
    own_major_page_faults: int = 0
    """Without those of cgroups below; ``stats`` has them with."""
    threads: int | None = None
    threads_max: int | None = None
    """0: no limit."""
    io_bytes: tuple[DeviceCount, ...] = ()
    io_requests: tuple[DeviceCount, ...] = ()
    hugepages: tuple[HugepageUse, ...] = ()


class Group(enum.Enum):
    """Figures that a host counts together or not at all."""

    CPU = enum.auto()
    CFS = enum.auto()
    MEMORY = enum.auto()
    SWAP = enum.auto()
    KERNEL_MEMORY = enum.auto()
    MEMORY_PEAK = enum.auto()
    THREADS = enum.auto()
    IO = enum.auto()
    HUGEPAGES = enum.auto()
    HUGEPAGES_PEAK = enum.auto()
    PRESSURE = enum.auto()


def total(parts: Sequence[CgroupStats]) -> CgroupStats:
    """Return the sum, for pods without a cgroup of their own. Pressures and limits have no sum."""

    def add(pick: Callable[[CgroupStats], int | None]) -> int | None:
        values = [value for value in map(pick, parts) if value is not None]
        return sum(values) if values else None

    return CgroupStats(
        timestamp=max((part.timestamp for part in parts), default=time.time_ns()),
        cpu_usage=sum(part.cpu_usage for part in parts),
        memory_usage=add(lambda part: part.memory_usage),
        memory_inactive_file=sum(part.memory_inactive_file for part in parts),
        memory_rss=sum(part.memory_rss for part in parts),
        page_faults=sum(part.page_faults for part in parts),
        major_page_faults=sum(part.major_page_faults for part in parts),
        swap_usage=add(lambda part: part.swap_usage),
        pids=add(lambda part: part.pids),
        io_read_bytes=add(lambda part: part.io_read_bytes),
        io_write_bytes=add(lambda part: part.io_write_bytes),
        oom_kills=sum(part.oom_kills for part in parts),
    )


def parse_flat(text: str) -> dict[str, int]:
    """Parse ``key value`` lines; what is no number is left out."""
    result: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            result[key] = int(value)
    return result


def parse_limit(text: str) -> int | None:
    """Parse a limit file; None for "max", -1 and v1's largest number."""
    value = text.strip()
    if not value.isdigit() or int(value) >= UNLIMITED:
        return None
    return int(value)


def parse_psi(text: str) -> Psi:
    """Parse a pressure file; its totals are microseconds, ours nanoseconds. ``full`` may be missing."""
    lines: dict[str, PsiData] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        fields = dict(word.split("=", 1) for word in rest.split() if "=" in word)
        lines[name] = PsiData(
            total=int(fields.get("total", "0")) * 1000,
            avg10=float(fields.get("avg10", "0")),
            avg60=float(fields.get("avg60", "0")),
            avg300=float(fields.get("avg300", "0")),
        )
    return Psi(some=lines.get("some", PsiData()), full=lines.get("full", PsiData()))


def parse_counts_v1(text: str) -> tuple[DeviceCount, ...]:
    """Parse ``major:minor operation count`` lines of blkio; the sums (Total) are left out."""
    found: list[DeviceCount] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2].isdigit() and words[1] != "Total":
            found.append(DeviceCount(device=words[0], operation=words[1], count=int(words[2])))
    return tuple(found)


_V2_OPERATIONS: Final = {"r": "Read", "w": "Write", "d": "Discard"}


def parse_counts_v2(text: str) -> tuple[tuple[DeviceCount, ...], tuple[DeviceCount, ...]]:
    """Parse io.stat to (bytes, requests) of each device and operation."""
    amounts: list[DeviceCount] = []
    requests: list[DeviceCount] = []
    for line in text.splitlines():
        device, *words = line.split() or [""]
        for word in words:
            key, _, value = word.partition("=")
            operation = _V2_OPERATIONS.get(key[:1])
            if operation is None or not value.isdigit():
                continue
            kept = amounts if key[1:] == "bytes" else requests if key[1:] == "ios" else None
            if kept is not None:
                kept.append(DeviceCount(device=device, operation=operation, count=int(value)))
    return tuple(amounts), tuple(requests)


def hugepage_sizes(directory: str = "/sys/kernel/mm/hugepages") -> tuple[str, ...]:
    """Return the page sizes that this kernel has, as the hugetlb controller writes them: ``2MB``, ``1GB``."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return ()
    kilobytes = sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names)
    return tuple(
        f"{each >> 20}GB" if each >= 1 << 20 else f"{each >> 10}MB" if each >= 1 << 10 else f"{each}KB"
        for each in kilobytes
    )
