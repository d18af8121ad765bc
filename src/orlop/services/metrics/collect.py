"""ListPodSandboxMetrics: everything that is counted of each ready pod and its containers, read at the moment of the call.

A metric that ``declared_metrics`` does not name is never sent. What is remembered between calls is in memory.py.
Test: tests/cri/test_metrics.py.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orlop.kernel.mountinfo import device_of
from orlop.kernel.procfs import Descriptors, open_descriptors
from orlop.kernel.sysblock import block_device
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.network.stats import InterfaceCounters, read_counters
from orlop.oci.cgroups.stats import CgroupMetrics, DeviceCount, Group
from orlop.services.containers.stats import alive
from orlop.services.metrics import descriptors as d
from orlop.services.metrics.memory import Sample
from orlop.services.node import Node
from orlop.specs.pod import FilesystemStats, Psi, SandboxState

NS: Final = 1_000_000_000
DEFAULT_SHARES: Final = 1024
DEFAULT_PERIOD: Final = 100_000
PODS_AT_ONCE: Final = 16
"""After so many pods other calls get their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The samples of a pod or a container, in parts: a part that has not changed is the same object at the next call."""

    id: str
    labels: tuple[str, ...]
    """The values of BASE_LABELS; the same object at every call."""
    parts: tuple[Sequence[Sample], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMetrics:
    pod: Labelled
    containers: tuple[Labelled, ...]


def declared_metrics(node: Node) -> tuple[d.Metric, ...]:
    """Return the metrics that this host fills; the same from the first call on."""
    return d.declared(_groups(node))


def _groups(node: Node) -> frozenset[Group]:
    memory = node.metrics
    if memory.groups is None:
        memory.groups = node.cgroups.metric_groups()
    return memory.groups


async def each_pod_metrics(node: Node) -> AsyncIterator[PodMetrics]:
    """Yield the metrics of each pod that is ready now; a pod or container that ends before its turn is left out."""
    groups = _groups(node)
    disk = _disk(node)
    pods = [row for row in node.pods.sandboxes() if row.state is SandboxState.READY]
    for number in range(0, len(pods), PODS_AT_ONCE):
        await asyncio.sleep(0)
        some = [row for row in pods[number : number + PODS_AT_ONCE] if node.pods.has_sandbox(row.id)]
        running = {row.id: [each for each in node.pods.containers_of(row.id) if alive(each)] for row in some}
        layers = await node.layer_usages.of([each.id for rows in running.values() for each in rows])
        for row in some:
            if node.pods.has_sandbox(row.id):
                containers = (_container(node, each, groups, disk, layers.get(each.id)) for each in running[row.id])
                yield PodMetrics(
                    pod=_pod(node, row, groups), containers=tuple(each for each in containers if each is not None)
                )


def _pod(node: Node, row: SandboxRow, groups: frozenset[Group]) -> Labelled:
    """The pod's network, and what its own cgroup counts beside its containers: where it shares one there is nothing to say."""
    memory = node.metrics
    network: list[Sample] = []
    live = node.live.get(row.id)
    if live is not None and live.netlink is not None:
        for each in read_counters(live.netlink):
            network += _interface(each)
    counted: Sequence[Sample] = ()
    if node.cgroups.has_own_parent(row.cgroup_parent):
        try:
            figures = node.cgroups.container_metrics(row.cgroup_parent)
        except FileNotFoundError:
            pass  # kubelet removed it; the pod ends
        else:
            counted = memory.counted.of(row.id, figures, lambda: list(_cgroup(figures, groups)))
    network = memory.steady.of(row.id, network)
    return Labelled(id=row.id, labels=memory.pod_labels.of(row.id, row), parts=(network, counted))


def _container(
    node: Node,
    row: ContainerRow,
    groups: frozenset[Group],
    disk: _Disk,
    layer: FilesystemStats | None,
) -> Labelled | None:
    """Return a container's samples; None when it has ended meanwhile."""
    try:
        figures = node.cgroups.container_metrics(row.cgroup)
    except FileNotFoundError:
        return None
    if layer is None or not node.pods.has_container(row.id):
        return None
    memory = node.metrics

    def counted() -> list[Sample]:
        return [*_cgroup(figures, groups), *(_device_io(figures, disk) if Group.IO in groups else ())]

    changing = list(_processes(node, row))
    own = (disk.name,)
    changing += (
        (d.FS_USAGE, own, layer.used_bytes, layer.timestamp),
        (d.FS_LIMIT, own, disk.bytes, 0),
        (d.FS_INODES, own, disk.inodes, 0),
        (d.FS_INODES_FREE, own, disk.inodes_free, 0),
    )
    return Labelled(
        id=row.id,
        labels=memory.container_labels.of(row.id, row),
        parts=(
            memory.counted.of(row.id, figures, counted),
            memory.steady.of(row.id, changing),
            memory.fixed.of(row.id, row, lambda: list(_fixed(row))),
            ((d.LAST_SEEN, (), time.time_ns() // NS, 0),),
        ),
    )


def _interface(each: InterfaceCounters) -> tuple[Sample, ...]:
    own = (each.name,)
    return (
        (d.RECEIVED_BYTES, own, each.rx_bytes, 0),
        (d.RECEIVED_PACKETS, own, each.rx_packets, 0),
        (d.RECEIVED_DROPPED, own, each.rx_dropped, 0),
        (d.RECEIVED_ERRORS, own, each.rx_errors, 0),
        (d.SENT_BYTES, own, each.tx_bytes, 0),
        (d.SENT_PACKETS, own, each.tx_packets, 0),
        (d.SENT_DROPPED, own, each.tx_dropped, 0),
        (d.SENT_ERRORS, own, each.tx_errors, 0),
    )


TOTAL: Final = ("total",)
FAULT_SCOPES: Final = tuple((kind, scope) for kind in ("pgfault", "pgmajfault") for scope in ("container", "hierarchy"))


def _cgroup(figures: CgroupMetrics, groups: frozenset[Group]) -> Iterator[Sample]:
    """What is counted of any cgroup, a container's or a pod's."""
    stats = figures.stats
    if Group.CPU in groups:
        yield d.CPU_USAGE, TOTAL, stats.cpu_usage // NS, 0
        yield d.CPU_USER, (), (figures.cpu_user or 0) // NS, 0
        yield d.CPU_SYSTEM, (), (figures.cpu_system or 0) // NS, 0
    if Group.CFS in groups:
        yield d.CFS_PERIODS, (), figures.cfs_periods or 0, 0
        yield d.CFS_THROTTLED_PERIODS, (), figures.cfs_throttled_periods or 0, 0
        yield d.CFS_THROTTLED, (), (figures.cfs_throttled or 0) // NS, 0
    if Group.MEMORY in groups:
        yield d.MEMORY_USAGE, (), stats.memory_usage or 0, 0
        yield d.MEMORY_WORKING_SET, (), stats.working_set, 0
        yield d.MEMORY_RSS, (), stats.memory_rss, 0
        yield d.MEMORY_CACHE, (), figures.memory_cache or 0, 0
        yield d.MEMORY_MAPPED, (), figures.memory_mapped or 0, 0
        yield d.MEMORY_FAILCNT, (), figures.memory_failures or 0, 0
        faults = (
            figures.own_page_faults,
            stats.page_faults,
            figures.own_major_page_faults,
            stats.major_page_faults,
        )
        for own, count in zip(FAULT_SCOPES, faults, strict=True):
            yield d.MEMORY_FAILURES, own, count, 0
        yield d.OOM_EVENTS, (), stats.oom_kills, 0
    if Group.KERNEL_MEMORY in groups:
        yield d.MEMORY_KERNEL, (), figures.memory_kernel or 0, 0
    if Group.MEMORY_PEAK in groups:
        yield d.MEMORY_MAX, (), figures.memory_max_usage or 0, 0
    if Group.SWAP in groups:
        yield d.MEMORY_SWAP, (), stats.swap_usage or 0, 0
    if Group.THREADS in groups:
        yield d.THREADS, (), figures.threads or 0, 0
        yield d.THREADS_MAX, (), figures.threads_max or 0, 0
    for each in figures.hugepages:
        yield d.HUGEPAGES, (each.page_size,), each.usage, 0
        if each.max_usage is not None:
            yield d.HUGEPAGES_MAX, (each.page_size,), each.max_usage, 0
    if Group.PRESSURE in groups:
        yield from _pressure(stats.cpu_psi, d.CPU_WAITING, d.CPU_STALLED)
        yield from _pressure(stats.memory_psi, d.MEMORY_WAITING, d.MEMORY_STALLED)
        yield from _pressure(stats.io_psi, d.IO_WAITING, d.IO_STALLED)


def _pressure(psi: Psi | None, waiting: d.Metric, stalled: d.Metric) -> tuple[Sample, ...]:
    if psi is None:
        return ()
    return (waiting, (), psi.some.total // NS, 0), (stalled, (), psi.full.total // NS, 0)


def _processes(node: Node, row: ContainerRow) -> Iterator[Sample]:
    pids = node.cgroups.pids(row.cgroup)
    now = time.time_ns()
    kept = node.metrics.descriptors
    taken = kept.fresh(row.id, now)
    at = 0
    if taken is None:
        began = time.perf_counter_ns()
        found = [each for pid in pids if (each := open_descriptors(pid)) is not None]
        counted = Descriptors(files=sum(each.files for each in found), sockets=sum(each.sockets for each in found))
        kept.put(row.id, counted, now, time.perf_counter_ns() - began)
    else:
        counted, at = taken.value, taken.at
    yield d.PROCESSES, (), len(pids), 0
    yield d.DESCRIPTORS, (), counted.files, at
    yield d.SOCKETS, (), counted.sockets, at
    if row.pid in pids:
        try:
            soft, _ = resource.prlimit(row.pid, resource.RLIMIT_NOFILE)
        except ProcessLookupError:
            return  # it ended just now
        # Unlimited has no number; CRI's values are unsigned.
        if soft != resource.RLIM_INFINITY:
            yield d.ULIMITS, ("max_open_files",), soft, 0


def _fixed(row: ContainerRow) -> Iterator[Sample]:
    resources = row.resources
    if row.started_at:
        yield d.STARTED, (), row.started_at // NS, 0
    yield d.SPEC_PERIOD, (), resources.cpu_period or DEFAULT_PERIOD, 0
    if resources.cpu_quota > 0:
        yield d.SPEC_QUOTA, (), resources.cpu_quota, 0
    yield d.SPEC_SHARES, (), resources.cpu_shares or DEFAULT_SHARES, 0
    yield d.SPEC_MEMORY, (), max(0, resources.memory_limit), 0
    kept = resources.unified.get("memory.low", "0")
    yield d.SPEC_RESERVATION, (), int(kept) if kept.isdigit() else 0, 0
    yield d.SPEC_SWAP, (), max(0, resources.memory_swap_limit), 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disk:
    """The file system of the writable layers at the moment of the call."""

    name: str
    number: str
    """``major:minor`` of its device."""
    bytes: int
    inodes: int
    inodes_free: int


def _disk(node: Node) -> _Disk:
    memory = node.metrics
    if memory.device is None:
        memory.device = device_of(os.fspath(node.root.containers))
    size = os.statvfs(node.root.containers)
    return _Disk(
        name=memory.device[0],
        number=memory.device[1],
        bytes=size.f_frsize * size.f_blocks,
        inodes=size.f_files,
        inodes_free=size.f_ffree,
    )


IO_METRICS: Final = (("Read", d.READ_BYTES, d.READS), ("Write", d.WRITTEN_BYTES, d.WRITES))


def _device_io(figures: CgroupMetrics, disk: _Disk) -> Iterator[Sample]:
    """By device; a container that has not touched any has a zero for that of its writable layer, so a rate is always there."""
    amounts, requests = _by_device(figures.io_bytes), _by_device(figures.io_requests)
    for number in {**amounts, **requests} or {disk.number: {}}:
        name = disk.name if number == disk.number else block_device(number)
        own = (name,)
        for operation, total_bytes, total in IO_METRICS:
            yield total_bytes, own, amounts.get(number, {}).get(operation, 0), 0
            yield total, own, requests.get(number, {}).get(operation, 0), 0
        major, _, minor = number.partition(":")
        for operation, count in (amounts.get(number) or {"Read": 0, "Write": 0}).items():
            yield d.DEVICE_USAGE, (name, major, minor, operation), count, 0


def _by_device(counts: Sequence[DeviceCount]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for each in counts:
        found.setdefault(each.device, {})[each.operation] = each.count
    return found
