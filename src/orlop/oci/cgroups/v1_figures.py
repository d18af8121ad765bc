"""What a cgroup of v1 hierarchies has used, read from files that stay open (meter.py). Test: tests/kernel/cgroups/test_v1.py, test_meter.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from orlop.kernel.cgroupfs import Hierarchy
from orlop.oci.cgroups.meter import Kept, Meters, Source
from orlop.oci.cgroups.stats import (
    CgroupMetrics,
    CgroupStats,
    Group,
    HugepageUse,
    hugepage_sizes,
    parse_counts_v1,
    parse_flat,
    parse_limit,
    parse_psi,
)

USER_HZ: Final = os.sysconf("SC_CLK_TCK")
Row = tuple[str, str, Callable[[str], Any], bool]
PRESSURE: Final = ("cpu.pressure", "memory.pressure", "io.pressure")
IO_BYTES: Final = "blkio.throttle.io_service_bytes_recursive"
IO_REQUESTS: Final = "blkio.throttle.io_serviced_recursive"
STATS: Final[tuple[Row, ...]] = (
    ("cpuacct", "cpuacct.usage", int, False),
    ("memory", "memory.usage_in_bytes", int, False),
    ("memory", "memory.stat", parse_flat, False),
    ("memory", "memory.limit_in_bytes", parse_limit, False),
    ("memory", "memory.oom_control", parse_flat, False),
    ("memory", "memory.memsw.limit_in_bytes", parse_limit, True),
    ("blkio", IO_BYTES, parse_counts_v1, True),
    ("pids", "pids.current", int, False),
    *(("", file, parse_psi, True) for file in PRESSURE),
)
"""(controller, file, parser, optional); "" is the unified hierarchy beside the others. These are read for CRI's statistics."""
METRICS: Final[tuple[Row, ...]] = (
    ("cpuacct", "cpuacct.stat", parse_flat, True),
    ("cpu", "cpu.stat", parse_flat, True),
    ("memory", "memory.max_usage_in_bytes", int, True),
    ("memory", "memory.failcnt", int, True),
    ("memory", "memory.kmem.usage_in_bytes", int, True),
    ("blkio", IO_REQUESTS, parse_counts_v1, True),
    ("pids", "pids.max", parse_limit, True),
)
"""Read for metrics, after STATS."""
_NS: Final = 1_000_000_000


class V1Figures:
    """Reads the figures of any cgroup of these hierarchies."""

    def __init__(self, by_controller: Mapping[str, Hierarchy], unified: Hierarchy | None) -> None:
        self._sizes = hugepage_sizes() if "hugetlb" in by_controller else ()
        hugepages: list[Row] = [
            ("hugetlb", f"hugetlb.{size}.{file}", int, True)
            for size in self._sizes
            for file in ("usage_in_bytes", "max_usage_in_bytes")
        ]
        sources: list[Source] = []
        for controller, file, parse, optional in (*STATS, *METRICS, *hugepages):
            hierarchy = by_controller.get(controller) if controller else unified
            if hierarchy is not None:
                sources.append(Source(hierarchy=hierarchy, file=file, parse=parse, optional=optional))
        self._names = tuple(each.file for each in sources)
        self._stats_count = sum(1 for name in self._names if any(name == each[1] for each in STATS))
        self._metrics: Kept[CgroupMetrics] = Kept()
        self.meters = Meters(sources)

    def forget(self, path: str) -> None:
        """Close the files of a cgroup and drop what is known of it."""
        self.meters.forget(path)
        self._metrics.forget(path)

    def stats(self, path: str) -> CgroupStats:
        """Read what CRI's statistics need; raises FileNotFoundError."""
        now = time.time_ns()
        return _stats(now, dict(zip(self._names, self.meters.read(path, self._stats_count), strict=False)))

    def metrics(self, path: str) -> CgroupMetrics:
        """Read everything that is counted; the same object again when nothing has changed. Raises FileNotFoundError."""
        now = time.time_ns()
        read = self.meters.read(path, len(self._names))
        return self._metrics.of(path, read, lambda: self._make(now, dict(zip(self._names, read, strict=True))))

    def _make(self, now: int, found: Mapping[str, Any]) -> CgroupMetrics:
        memory: Mapping[str, int] = found.get("memory.stat") or {}
        cpuacct: Mapping[str, int] = found.get("cpuacct.stat") or {}
        cfs: Mapping[str, int] = found.get("cpu.stat") or {}
        user, system = cpuacct.get("user"), cpuacct.get("system")
        return CgroupMetrics(
            stats=_stats(now, found),
            cpu_user=None if user is None else user * _NS // USER_HZ,
            cpu_system=None if system is None else system * _NS // USER_HZ,
            cfs_periods=cfs.get("nr_periods"),
            cfs_throttled_periods=cfs.get("nr_throttled"),
            cfs_throttled=cfs.get("throttled_time"),
            memory_cache=memory.get("total_cache"),
            memory_mapped=memory.get("total_mapped_file"),
            memory_kernel=found.get("memory.kmem.usage_in_bytes"),
            memory_max_usage=found.get("memory.max_usage_in_bytes"),
            memory_failures=found.get("memory.failcnt"),
            own_page_faults=memory.get("pgfault", 0),
            own_major_page_faults=memory.get("pgmajfault", 0),
            threads=found.get("pids.current"),
            threads_max=found.get("pids.max") or 0,
            io_bytes=found.get(IO_BYTES) or (),
            io_requests=found.get(IO_REQUESTS) or (),
            hugepages=tuple(
                HugepageUse(page_size=size, usage=usage, max_usage=found.get(f"hugetlb.{size}.max_usage_in_bytes"))
                for size in self._sizes
                if (usage := found.get(f"hugetlb.{size}.usage_in_bytes")) is not None
            ),
        )

    def groups(self, path: str) -> frozenset[Group]:
        """Return which figures the cgroup at ``path`` has; every other one has the same."""
        read = self.meters.read(path, len(self._names))
        there = self.meters.there(path)
        return frozenset(_groups({name: value for name, value in zip(self._names, read, strict=True) if name in there}))


def _stats(now: int, found: Mapping[str, Any]) -> CgroupStats:
    stat: Mapping[str, int] = found.get("memory.stat") or {}
    limit = found.get("memory.limit_in_bytes")
    both = found.get("memory.memsw.limit_in_bytes")
    swap = stat.get("total_swap")
    read = written = None
    if (counts := found.get(IO_BYTES)) is not None:
        read, written = (sum(each.count for each in counts if each.operation == name) for name in ("Read", "Write"))
    # Of memory.stat's figures those with "total_" are the cgroup's with all below it.
    return CgroupStats(
        timestamp=now,
        cpu_usage=found.get("cpuacct.usage", 0),
        memory_usage=found.get("memory.usage_in_bytes"),
        memory_inactive_file=stat.get("total_inactive_file", 0),
        memory_rss=stat.get("total_rss", 0),
        memory_limit=limit,
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        swap_usage=swap,
        swap_limit=None if swap is None or limit is None or both is None else max(0, both - limit),
        pids=found.get("pids.current"),
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=(found.get("memory.oom_control") or {}).get("oom_kill", 0),
        cpu_psi=found.get("cpu.pressure"),
        memory_psi=found.get("memory.pressure"),
        io_psi=found.get("io.pressure"),
    )


def _groups(found: Mapping[str, Any]) -> Iterable[Group]:
    if "cpuacct.usage" in found and "cpuacct.stat" in found:
        yield Group.CPU
    if "nr_periods" in found.get("cpu.stat", ()):
        yield Group.CFS
    if "memory.stat" in found:
        yield Group.MEMORY
        if "total_swap" in found["memory.stat"]:
            yield Group.SWAP
    if "memory.kmem.usage_in_bytes" in found:
        yield Group.KERNEL_MEMORY
    if "memory.max_usage_in_bytes" in found:
        yield Group.MEMORY_PEAK
    if "pids.current" in found and "pids.max" in found:
        yield Group.THREADS
    if IO_BYTES in found and IO_REQUESTS in found:
        yield Group.IO
    if any(name.startswith("hugetlb.") for name in found):
        yield Group.HUGEPAGES
        yield Group.HUGEPAGES_PEAK
    if all(file in found for file in PRESSURE):
        yield Group.PRESSURE
