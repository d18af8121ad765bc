"""What a cgroup of the unified hierarchy has used, read from files that stay open (meter.py).

Test: tests/kernel/cgroups/test_v2.py, test_meter.py; with controllers in tests/vm.
"""

from __future__ import annotations

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
    parse_counts_v2,
    parse_flat,
    parse_limit,
    parse_psi,
)

Row = tuple[str, str, Callable[[str], Any], bool]
PRESSURE: Final = ("cpu.pressure", "memory.pressure", "io.pressure")
STATS: Final[tuple[Row, ...]] = (
    ("", "cpu.stat", parse_flat, False),
    ("memory", "memory.current", int, False),
    ("memory", "memory.stat", parse_flat, False),
    ("memory", "memory.max", parse_limit, False),
    ("memory", "memory.events", parse_flat, False),
    ("memory", "memory.swap.current", int, True),
    ("memory", "memory.swap.max", parse_limit, True),
    ("io", "io.stat", parse_counts_v2, True),
    ("pids", "pids.current", int, False),
    *(("", file, parse_psi, True) for file in PRESSURE),
)
"""(controller, file, parser, optional); "" is there whatever the controllers. These are read for CRI's statistics."""
METRICS: Final[tuple[Row, ...]] = (("memory", "memory.peak", int, True), ("pids", "pids.max", parse_limit, True))
"""Read for metrics, after STATS."""


class V2Figures:
    """Reads the figures of any cgroup of the hierarchy but its root."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        has = hierarchy.controllers
        self._sizes = hugepage_sizes() if "hugetlb" in has else ()
        hugepages: list[Row] = [("hugetlb", f"hugetlb.{size}.current", int, True) for size in self._sizes]
        wanted = [each for each in (*STATS, *METRICS, *hugepages) if not each[0] or each[0] in has]
        self._names = tuple(each[1] for each in wanted)
        self._stats_count = sum(1 for name in self._names if any(name == each[1] for each in STATS))
        self._metrics: Kept[CgroupMetrics] = Kept()
        self.meters = Meters(
            [
                Source(hierarchy=hierarchy, file=file, parse=parse, optional=optional)
                for _, file, parse, optional in wanted
            ]
        )

    def forget(self, path: str) -> None:
        """Close the files of a cgroup and drop what is known of it."""
        self.meters.forget(path)
        self._metrics.forget(path)

    def stats(self, path: str) -> CgroupStats:
        """Read what CRI's statistics need; raises FileNotFoundError. ``pids`` is None without the pids controller."""
        now = time.time_ns()
        return _stats(now, dict(zip(self._names, self.meters.read(path, self._stats_count), strict=False)))

    def metrics(self, path: str) -> CgroupMetrics:
        """Read everything that is counted; the same object again when nothing has changed. Raises FileNotFoundError."""
        now = time.time_ns()
        read = self.meters.read(path, len(self._names))
        return self._metrics.of(path, read, lambda: self._make(now, dict(zip(self._names, read, strict=True))))

    def _make(self, now: int, found: Mapping[str, Any]) -> CgroupMetrics:
        cpu: Mapping[str, int] = found["cpu.stat"]
        memory: Mapping[str, int] = found.get("memory.stat") or {}
        throttled = cpu.get("throttled_usec")
        amounts, requests = found.get("io.stat") or ((), ())
        return CgroupMetrics(
            stats=_stats(now, found),
            cpu_user=cpu.get("user_usec", 0) * 1000,
            cpu_system=cpu.get("system_usec", 0) * 1000,
            cfs_periods=cpu.get("nr_periods"),
            cfs_throttled_periods=cpu.get("nr_throttled"),
            cfs_throttled=None if throttled is None else throttled * 1000,
            memory_cache=memory.get("file"),
            memory_mapped=memory.get("file_mapped"),
            memory_kernel=memory.get("kernel"),
            memory_max_usage=found.get("memory.peak"),
            memory_failures=(found.get("memory.events") or {}).get("max"),
            # The unified hierarchy counts a cgroup only with all below it.
            own_page_faults=memory.get("pgfault", 0),
            own_major_page_faults=memory.get("pgmajfault", 0),
            threads=found.get("pids.current"),
            threads_max=found.get("pids.max") or 0,
            io_bytes=amounts,
            io_requests=requests,
            hugepages=tuple(
                HugepageUse(page_size=size, usage=usage, max_usage=None)
                for size in self._sizes
                if (usage := found.get(f"hugetlb.{size}.current")) is not None
            ),
        )

    def groups(self, path: str) -> frozenset[Group]:
        """Return which figures the cgroup at ``path`` has; every other one has the same."""
        read = self.meters.read(path, len(self._names))
        there = self.meters.there(path)
        return frozenset(_groups({name: value for name, value in zip(self._names, read, strict=True) if name in there}))


def _stats(now: int, found: Mapping[str, Any]) -> CgroupStats:
    stat: Mapping[str, int] = found.get("memory.stat") or {}
    swap = found.get("memory.swap.current")
    read = written = None
    if (counts := found.get("io.stat")) is not None:
        read, written = (sum(each.count for each in counts[0] if each.operation == name) for name in ("Read", "Write"))
    return CgroupStats(
        timestamp=now,
        cpu_usage=found["cpu.stat"].get("usage_usec", 0) * 1000,
        memory_usage=found.get("memory.current"),
        memory_inactive_file=stat.get("inactive_file", 0),
        memory_rss=stat.get("anon", 0),
        memory_limit=found.get("memory.max"),
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        swap_usage=swap,
        swap_limit=None if swap is None else found.get("memory.swap.max"),
        pids=found.get("pids.current"),
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=(found.get("memory.events") or {}).get("oom_kill", 0),
        cpu_psi=found.get("cpu.pressure"),
        memory_psi=found.get("memory.pressure"),
        io_psi=found.get("io.pressure"),
    )


def _groups(found: Mapping[str, Any]) -> Iterable[Group]:
    yield Group.CPU
    if "nr_periods" in found["cpu.stat"]:
        yield Group.CFS
    if "memory.stat" in found:
        yield Group.MEMORY
        if "kernel" in found["memory.stat"]:
            yield Group.KERNEL_MEMORY
    if "memory.swap.current" in found:
        yield Group.SWAP
    if "memory.peak" in found:
        yield Group.MEMORY_PEAK
    if "pids.current" in found and "pids.max" in found:
        yield Group.THREADS
    if "io.stat" in found:
        yield Group.IO
    if any(name.startswith("hugetlb.") for name in found):
        yield Group.HUGEPAGES
    if all(file in found for file in PRESSURE):
        yield Group.PRESSURE
