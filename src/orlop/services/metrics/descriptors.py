"""The metrics by name: what each means, which labels it has, and whether this host can fill it. Pure.

Names, labels and units are those of cAdvisor as kubelet has exported them so far, so that dashboards and alerts go on working.
CRI's values are whole numbers, so seconds are whole seconds. Test: tests/unit/services/metrics/test_descriptors.py.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from orlop.oci.cgroups.stats import Group

BASE_LABELS: Final = ("container", "id", "image", "name", "namespace", "pod")
"""Every metric begins with these. A pod's own metrics have no container and no image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Metric:
    """One name. Compared by identity: each exists once."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    """After BASE_LABELS."""
    gauge: bool = False
    """It may fall; otherwise it counts up."""
    group: Group | None = None
    """What the host must count; None: always known."""


def _counter(name: str, help: str, *labels: str, group: Group | None = None) -> Metric:
    return Metric(name=f"container_{name}", help=help, labels=labels, group=group)


def _gauge(name: str, help: str, *labels: str, group: Group | None = None) -> Metric:
    return Metric(name=f"container_{name}", help=help, labels=labels, gauge=True, group=group)


CPU_USAGE: Final = _counter("cpu_usage_seconds_total", "CPU time used, in seconds.", "cpu", group=Group.CPU)
CPU_USER: Final = _counter("cpu_user_seconds_total", "CPU time used in user mode, in seconds.", group=Group.CPU)
CPU_SYSTEM: Final = _counter("cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", group=Group.CPU)
CFS_PERIODS: Final = _counter("cpu_cfs_periods_total", "Periods in which a CPU quota was enforced.", group=Group.CFS)
CFS_THROTTLED_PERIODS: Final = _counter(
    "cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up.", group=Group.CFS
)
CFS_THROTTLED: Final = _counter(
    "cpu_cfs_throttled_seconds_total", "Time for which the CPU quota held processes up, in seconds.", group=Group.CFS
)

MEMORY_USAGE: Final = _gauge("memory_usage_bytes", "Memory in use, caches included, in bytes.", group=Group.MEMORY)
MEMORY_WORKING_SET: Final = _gauge(
    "memory_working_set_bytes", "Memory in use that cannot be given back at once, in bytes.", group=Group.MEMORY
)
MEMORY_RSS: Final = _gauge("memory_rss", "Anonymous memory, in bytes.", group=Group.MEMORY)
MEMORY_CACHE: Final = _gauge("memory_cache", "Page cache, in bytes.", group=Group.MEMORY)
MEMORY_MAPPED: Final = _gauge("memory_mapped_file", "Mapped files, in bytes.", group=Group.MEMORY)
MEMORY_KERNEL: Final = _gauge("memory_kernel_usage", "Kernel memory, in bytes.", group=Group.KERNEL_MEMORY)
MEMORY_SWAP: Final = _gauge("memory_swap", "Swap in use, in bytes.", group=Group.SWAP)
MEMORY_MAX: Final = _gauge(
    "memory_max_usage_bytes", "The most memory that was ever in use, in bytes.", group=Group.MEMORY_PEAK
)
MEMORY_FAILCNT: Final = _counter("memory_failcnt", "How often the memory limit was reached.", group=Group.MEMORY)
MEMORY_FAILURES: Final = _counter(
    "memory_failures_total", "Page faults, by kind and scope.", "failure_type", "scope", group=Group.MEMORY
)
OOM_EVENTS: Final = _counter("oom_events_total", "Processes killed because memory ran out.", group=Group.MEMORY)

RECEIVED_BYTES: Final = _counter("network_receive_bytes_total", "Bytes received.", "interface")
RECEIVED_PACKETS: Final = _counter("network_receive_packets_total", "Packets received.", "interface")
RECEIVED_DROPPED: Final = _counter(
    "network_receive_packets_dropped_total", "Packets dropped while receiving.", "interface"
)
RECEIVED_ERRORS: Final = _counter("network_receive_errors_total", "Errors while receiving.", "interface")
SENT_BYTES: Final = _counter("network_transmit_bytes_total", "Bytes sent.", "interface")
SENT_PACKETS: Final = _counter("network_transmit_packets_total", "Packets sent.", "interface")
SENT_DROPPED: Final = _counter("network_transmit_packets_dropped_total", "Packets dropped while sending.", "interface")
SENT_ERRORS: Final = _counter("network_transmit_errors_total", "Errors while sending.", "interface")

FS_USAGE: Final = _gauge("fs_usage_bytes", "What the writable layer takes, in bytes.", "device")
FS_LIMIT: Final = _gauge("fs_limit_bytes", "Size of the writable layer's file system, in bytes.", "device")
FS_INODES: Final = _gauge("fs_inodes_total", "Inodes of the writable layer's file system.", "device")
FS_INODES_FREE: Final = _gauge("fs_inodes_free", "Free inodes of the writable layer's file system.", "device")

READ_BYTES: Final = _counter("fs_reads_bytes_total", "Bytes read from the device.", "device", group=Group.IO)
READS: Final = _counter("fs_reads_total", "Reads of the device.", "device", group=Group.IO)
WRITTEN_BYTES: Final = _counter("fs_writes_bytes_total", "Bytes written to the device.", "device", group=Group.IO)
WRITES: Final = _counter("fs_writes_total", "Writes to the device.", "device", group=Group.IO)
DEVICE_USAGE: Final = _counter(
    "blkio_device_usage_total",
    "Bytes by device and operation.",
    "device",
    "major",
    "minor",
    "operation",
    group=Group.IO,
)

HUGEPAGES: Final = _gauge("hugetlb_usage_bytes", "Huge pages in use, in bytes.", "pagesize", group=Group.HUGEPAGES)
HUGEPAGES_MAX: Final = _gauge(
    "hugetlb_max_usage_bytes", "The most huge pages ever in use, in bytes.", "pagesize", group=Group.HUGEPAGES_PEAK
)

PROCESSES: Final = _gauge("processes", "Processes.")
DESCRIPTORS: Final = _gauge("file_descriptors", "Open file descriptors of all processes.")
SOCKETS: Final = _gauge("sockets", "Open sockets of all processes.")
THREADS: Final = _gauge("threads", "Threads of all processes.", group=Group.THREADS)
THREADS_MAX: Final = _gauge("threads_max", "Most threads allowed; 0 is no limit.", group=Group.THREADS)
ULIMITS: Final = _gauge("ulimits_soft", "Soft limits of the container's first process.", "ulimit")

LAST_SEEN: Final = _gauge("last_seen", "When the figures were read, in seconds since 1970.")
STARTED: Final = _gauge("start_time_seconds", "When the container was started, in seconds since 1970.")

SPEC_PERIOD: Final = _gauge("spec_cpu_period", "Period of the CPU quota, in microseconds.")
SPEC_QUOTA: Final = _gauge("spec_cpu_quota", "CPU time in a period, in microseconds; not there without a quota.")
SPEC_SHARES: Final = _gauge("spec_cpu_shares", "Share of the CPU in competition with others.")
SPEC_MEMORY: Final = _gauge("spec_memory_limit_bytes", "Memory limit in bytes; 0 is no limit.")
SPEC_RESERVATION: Final = _gauge(
    "spec_memory_reservation_limit_bytes", "Memory that is kept for the container, in bytes; 0 is none."
)
SPEC_SWAP: Final = _gauge("spec_memory_swap_limit_bytes", "Limit of memory and swap together, in bytes; 0 is no limit.")

CPU_WAITING: Final = _counter(
    "pressure_cpu_waiting_seconds_total", "Time for which some task waited for a CPU, in seconds.", group=Group.PRESSURE
)
CPU_STALLED: Final = _counter(
    "pressure_cpu_stalled_seconds_total", "Time for which no task got a CPU, in seconds.", group=Group.PRESSURE
)
MEMORY_WAITING: Final = _counter(
    "pressure_memory_waiting_seconds_total",
    "Time for which some task waited for memory, in seconds.",
    group=Group.PRESSURE,
)
MEMORY_STALLED: Final = _counter(
    "pressure_memory_stalled_seconds_total",
    "Time for which all tasks waited for memory, in seconds.",
    group=Group.PRESSURE,
)
IO_WAITING: Final = _counter(
    "pressure_io_waiting_seconds_total",
    "Time for which some task waited for a device, in seconds.",
    group=Group.PRESSURE,
)
IO_STALLED: Final = _counter(
    "pressure_io_stalled_seconds_total",
    "Time for which all tasks waited for a device, in seconds.",
    group=Group.PRESSURE,
)

METRICS: Final = tuple(each for each in tuple(globals().values()) if isinstance(each, Metric))


def declared(groups: Set[Group]) -> tuple[Metric, ...]:
    """Return the metrics that a host with these groups of figures fills."""
    return tuple(each for each in METRICS if each.group is None or each.group in groups)
