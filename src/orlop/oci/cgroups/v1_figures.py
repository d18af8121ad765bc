"""What a cgroup of v1 hierarchies has used, read from files that stay open (meter.py). Test: tests/kernel/cgroups/test_v1.py, test_meter.py."""

from __future__ import annotations

import os
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
    parse_counts_v1,
    parse_flat,
    parse_io_v1,
    parse_limit,
    parse_psi,
)

USER_HZ: Final = os.sysconf("SC_CLK_TCK")
PRESSURE: Final = ("cpu.pressure", "memory.pressure", "io.pressure")
IO_BYTES: Final = "blkio.throttle.io_service_bytes_recursive"
IO_REQUESTS: Final = "blkio.throttle.io_serviced_recursive"
STATS: Final = (
    ("cpuacct", "cpuacct.usage", False),
    ("memory", "memory.usage_in_bytes", False),
    ("memory", "memory.stat", False),
    ("memory", "memory.limit_in_bytes", False),
    ("memory", "memory.oom_control", False),
    ("memory", "memory.memsw.limit_in_bytes", True),
    ("blkio", IO_BYTES, True),
    ("pids", "pids.current", False),
    *(("", file, True) for file in PRESSURE),
)
"""(controller, file, optional); "" is the unified hierarchy beside the others."""
METRICS: Final = (
    ("cpuacct", "cpuacct.stat", True),
    ("cpu", "cpu.stat", True),
    ("memory", "memory.max_usage_in_bytes", True),
    ("memory", "memory.failcnt", True),
    ("memory", "memory.kmem.usage_in_bytes", True),
    ("blkio", IO_REQUESTS, True),
    ("pids", "pids.max", True),
)
_NS: Final = 1_000_000_000


class V1Figures:
    """Reads the figures of any cgroup of these hierarchies."""

    def __init__(self, by_controller: Mapping[str, Hierarchy], unified: Hierarchy | None) -> None:
        self._sizes = hugepage_sizes() if "hugetlb" in by_controller else ()
        hugepages = [
            ("hugetlb", f"hugetlb.{size}.{file}", True)
            for size in self._sizes
            for file in ("usage_in_bytes", "max_usage_in_bytes")
        ]
        sources: list[Source] = []
        names: list[str] = []
        for controller, file, optional in (*STATS, *METRICS, *hugepages):
            hierarchy = by_controller.get(controller) if controller else unified
            if hierarchy is not None:
                sources.append(Source(hierarchy=hierarchy, file=file, optional=optional))
                names.append(file)
        self._names = tuple(names)
        self._stats = tuple(name for name in names if any(name == file for _, file, _ in STATS))
        self.meters = Meters(sources)

    def _read(self, path: str, names: tuple[str, ...]) -> dict[str, str]:
        """Return the text of each file that is there. STATS come first, so their numbers are those of the names."""
        read = self.meters.read(path, range(len(names)))
        return {name: data.decode() for name, data in zip(names, read, strict=True) if data is not None}

    def stats(self, path: str) -> CgroupStats:
        """Read what CRI's statistics need; raises FileNotFoundError."""
        now = time.time_ns()
        return _stats(now, self._read(path, self._stats))

    def metrics(self, path: str) -> CgroupMetrics:
        """Read everything that is counted; raises FileNotFoundError."""
        now = time.time_ns()
        text = self._read(path, self._names)
        memory = parse_flat(text.get("memory.stat", ""))
        cpuacct = parse_flat(text.get("cpuacct.stat", ""))
        cfs = parse_flat(text.get("cpu.stat", ""))
        user, system = cpuacct.get("user"), cpuacct.get("system")
        threads_max = text.get("pids.max")
        return CgroupMetrics(
            stats=_stats(now, text),
            cpu_user=None if user is None else user * _NS // USER_HZ,
            cpu_system=None if system is None else system * _NS // USER_HZ,
            cfs_periods=cfs.get("nr_periods"),
            cfs_throttled_periods=cfs.get("nr_throttled"),
            cfs_throttled=cfs.get("throttled_time"),
            memory_cache=memory.get("total_cache"),
            memory_mapped=memory.get("total_mapped_file"),
            memory_kernel=_number(text.get("memory.kmem.usage_in_bytes")),
            memory_max_usage=_number(text.get("memory.max_usage_in_bytes")),
            memory_failures=_number(text.get("memory.failcnt")),
            own_page_faults=memory.get("pgfault", 0),
            own_major_page_faults=memory.get("pgmajfault", 0),
            threads=_number(text.get("pids.current")),
            threads_max=None if threads_max is None else parse_limit(threads_max) or 0,
            io_bytes=parse_counts_v1(text.get(IO_BYTES, "")),
            io_requests=parse_counts_v1(text.get(IO_REQUESTS, "")),
            hugepages=tuple(
                HugepageUse(
                    page_size=size, usage=int(usage), max_usage=_number(text.get(f"hugetlb.{size}.max_usage_in_bytes"))
                )
                for size in self._sizes
                if (usage := text.get(f"hugetlb.{size}.usage_in_bytes")) is not None
            ),
        )

    def groups(self, path: str) -> frozenset[Group]:
        """Return which figures the cgroup at ``path`` has; every other one has the same."""
        return frozenset(_groups(self._read(path, self._names)))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _stats(now: int, text: Mapping[str, str]) -> CgroupStats:
    stat: dict[str, int] = {}
    usage = limit = swap = swap_limit = None
    oom_kills = 0
    if "memory.stat" in text:
        usage = int(text["memory.usage_in_bytes"])
        # First the figures of the cgroup alone, then, from "total_cache" on, those with all below it.
        figures = text["memory.stat"]
        stat = parse_flat(figures[max(0, figures.find("total_")) :])
        limit = parse_limit(text["memory.limit_in_bytes"])
        oom_kills = parse_flat(text["memory.oom_control"]).get("oom_kill", 0)
        swap = stat.get("total_swap")
        if swap is not None and limit is not None and "memory.memsw.limit_in_bytes" in text:
            both = parse_limit(text["memory.memsw.limit_in_bytes"])
            swap_limit = None if both is None else max(0, both - limit)
    read = written = None
    if IO_BYTES in text:
        read, written = parse_io_v1(text[IO_BYTES])
    cpu, memory, io = (parse_psi(text[file]) if file in text else None for file in PRESSURE)
    return CgroupStats(
        timestamp=now,
        cpu_usage=int(text.get("cpuacct.usage", "0")),
        memory_usage=usage,
        memory_inactive_file=stat.get("total_inactive_file", 0),
        memory_rss=stat.get("total_rss", 0),
        memory_limit=limit,
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        swap_usage=swap,
        swap_limit=swap_limit,
        pids=_number(text.get("pids.current")),
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=oom_kills,
        cpu_psi=cpu,
        memory_psi=memory,
        io_psi=io,
    )


def _groups(text: Mapping[str, str]) -> Iterable[Group]:
    if "cpuacct.usage" in text and "cpuacct.stat" in text:
        yield Group.CPU
    if "nr_periods" in text.get("cpu.stat", ""):
        yield Group.CFS
    if "memory.stat" in text:
        yield Group.MEMORY
        if "total_swap " in text["memory.stat"]:
            yield Group.SWAP
    if "memory.kmem.usage_in_bytes" in text:
        yield Group.KERNEL_MEMORY
    if "memory.max_usage_in_bytes" in text:
        yield Group.MEMORY_PEAK
    if "pids.current" in text and "pids.max" in text:
        yield Group.THREADS
    if IO_BYTES in text and IO_REQUESTS in text:
        yield Group.IO
    if any(name.startswith("hugetlb.") for name in text):
        yield Group.HUGEPAGES
        yield Group.HUGEPAGES_PEAK
    if all(file in text for file in PRESSURE):
        yield Group.PRESSURE
