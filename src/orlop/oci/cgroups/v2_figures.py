"""What a cgroup of the unified hierarchy has used, read from files that stay open (meter.py).

Test: tests/kernel/cgroups/test_v2.py, test_meter.py; with controllers in tests/vm.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final

from orlop.kernel.cgroupfs import Hierarchy
from orlop.oci.cgroups.meter import Meters, Source
from orlop.oci.cgroups.stats import (
    CgroupMetrics,
    CgroupStats,
    Group,
    HugepageUse,
    hugepage_sizes,
    parse_counts_v2,
    parse_flat,
    parse_io_v2,
    parse_limit,
    parse_psi,
)

PRESSURE: Final = ("cpu.pressure", "memory.pressure", "io.pressure")
STATS: Final = (
    ("", "cpu.stat", False),
    ("memory", "memory.current", False),
    ("memory", "memory.stat", False),
    ("memory", "memory.max", False),
    ("memory", "memory.events", False),
    ("memory", "memory.swap.current", True),
    ("memory", "memory.swap.max", True),
    ("io", "io.stat", True),
    ("pids", "pids.current", False),
    *(("", file, True) for file in PRESSURE),
)
"""(controller, file, optional); "" is there whatever the controllers."""
METRICS: Final = (("memory", "memory.peak", True), ("pids", "pids.max", True))


class V2Figures:
    """Reads the figures of any cgroup of the hierarchy but its root."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        has = hierarchy.controllers
        self._sizes = hugepage_sizes() if "hugetlb" in has else ()
        hugepages = [("hugetlb", f"hugetlb.{size}.current", True) for size in self._sizes]
        wanted = [each for each in (*STATS, *METRICS, *hugepages) if not each[0] or each[0] in has]
        self._names = tuple(file for _, file, _ in wanted)
        self._stats = tuple(name for name in self._names if any(name == file for _, file, _ in STATS))
        self.meters = Meters(
            [Source(hierarchy=hierarchy, file=file, optional=optional) for _, file, optional in wanted]
        )

    def _read(self, path: str, names: tuple[str, ...]) -> dict[str, str]:
        """Return the text of each file that is there. STATS come first, so their numbers are those of the names."""
        read = self.meters.read(path, range(len(names)))
        return {name: data.decode() for name, data in zip(names, read, strict=True) if data is not None}

    def stats(self, path: str) -> CgroupStats:
        """Read what CRI's statistics need; raises FileNotFoundError. ``pids`` is None without the pids controller."""
        now = time.time_ns()
        return _stats(now, self._read(path, self._stats))

    def metrics(self, path: str) -> CgroupMetrics:
        """Read everything that is counted; raises FileNotFoundError."""
        now = time.time_ns()
        text = self._read(path, self._names)
        cpu, memory = parse_flat(text["cpu.stat"]), parse_flat(text.get("memory.stat", ""))
        throttled, threads_max = cpu.get("throttled_usec"), text.get("pids.max")
        amounts, requests = parse_counts_v2(text.get("io.stat", ""))
        return CgroupMetrics(
            stats=_stats(now, text),
            cpu_user=cpu.get("user_usec", 0) * 1000,
            cpu_system=cpu.get("system_usec", 0) * 1000,
            cfs_periods=cpu.get("nr_periods"),
            cfs_throttled_periods=cpu.get("nr_throttled"),
            cfs_throttled=None if throttled is None else throttled * 1000,
            memory_cache=memory.get("file"),
            memory_mapped=memory.get("file_mapped"),
            memory_kernel=memory.get("kernel"),
            memory_max_usage=_number(text.get("memory.peak")),
            memory_failures=parse_flat(text.get("memory.events", "")).get("max"),
            # The unified hierarchy counts a cgroup only with all below it.
            own_page_faults=memory.get("pgfault", 0),
            own_major_page_faults=memory.get("pgmajfault", 0),
            threads=_number(text.get("pids.current")),
            threads_max=None if threads_max is None else parse_limit(threads_max) or 0,
            io_bytes=amounts,
            io_requests=requests,
            hugepages=tuple(
                HugepageUse(page_size=size, usage=int(usage), max_usage=None)
                for size in self._sizes
                if (usage := text.get(f"hugetlb.{size}.current")) is not None
            ),
        )

    def groups(self, path: str) -> frozenset[Group]:
        """Return which figures the cgroup at ``path`` has; every other one has the same."""
        return frozenset(_groups(self._read(path, self._names)))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _stats(now: int, text: Mapping[str, str]) -> CgroupStats:
    stat = parse_flat(text.get("memory.stat", ""))
    swap = _number(text.get("memory.swap.current"))
    read = written = None
    if "io.stat" in text:
        read, written = parse_io_v2(text["io.stat"])
    cpu, memory, io = (parse_psi(text[file]) if file in text else None for file in PRESSURE)
    return CgroupStats(
        timestamp=now,
        cpu_usage=parse_flat(text["cpu.stat"]).get("usage_usec", 0) * 1000,
        memory_usage=_number(text.get("memory.current")),
        memory_inactive_file=stat.get("inactive_file", 0),
        memory_rss=stat.get("anon", 0),
        memory_limit=parse_limit(text.get("memory.max", "max")),
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        swap_usage=swap,
        swap_limit=None if swap is None else parse_limit(text.get("memory.swap.max", "max")),
        pids=_number(text.get("pids.current")),
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=parse_flat(text.get("memory.events", "")).get("oom_kill", 0),
        cpu_psi=cpu,
        memory_psi=memory,
        io_psi=io,
    )


def _groups(text: Mapping[str, str]) -> Iterable[Group]:
    yield Group.CPU
    if "nr_periods" in text["cpu.stat"]:
        yield Group.CFS
    if "memory.stat" in text:
        yield Group.MEMORY
        if "\nkernel " in text["memory.stat"]:
            yield Group.KERNEL_MEMORY
    if "memory.swap.current" in text:
        yield Group.SWAP
    if "memory.peak" in text:
        yield Group.MEMORY_PEAK
    if "pids.current" in text and "pids.max" in text:
        yield Group.THREADS
    if "io.stat" in text:
        yield Group.IO
    if any(name.startswith("hugetlb.") for name in text):
        yield Group.HUGEPAGES
    if all(file in text for file in PRESSURE):
        yield Group.PRESSURE
