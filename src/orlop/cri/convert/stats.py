"""Figures of containers, pods and file systems, out. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

import time

from orlop.cri.convert.containers import container_metadata_out
from orlop.cri.convert.sandboxes import sandbox_metadata_out
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb


def _number(value: int | None) -> pb.UInt64Value | None:
    return None if value is None else pb.UInt64Value(value=max(0, value))


def _psi(psi: pod.Psi | None) -> pb.PsiStats | None:
    if psi is None:
        return None
    return pb.PsiStats(Full=_psi_data(psi.full), Some=_psi_data(psi.some))


def _psi_data(data: pod.PsiData) -> pb.PsiData:
    return pb.PsiData(Total=data.total, Avg10=data.avg10, Avg60=data.avg60, Avg300=data.avg300)


def _cpu(stats: pod.CpuStats | None) -> pb.CpuUsage | None:
    if stats is None:
        return None
    return pb.CpuUsage(
        timestamp=stats.timestamp,
        usage_core_nano_seconds=_number(stats.usage_core_nano_seconds),
        usage_nano_cores=_number(stats.usage_nano_cores),
        psi=_psi(stats.psi),
    )


def _memory(stats: pod.MemoryStats | None) -> pb.MemoryUsage | None:
    if stats is None:
        return None
    return pb.MemoryUsage(
        timestamp=stats.timestamp,
        working_set_bytes=_number(stats.working_set),
        available_bytes=_number(stats.available),
        usage_bytes=_number(stats.usage),
        rss_bytes=_number(stats.rss),
        page_faults=_number(stats.page_faults),
        major_page_faults=_number(stats.major_page_faults),
        psi=_psi(stats.psi),
    )


def _swap(stats: pod.SwapStats | None) -> pb.SwapUsage | None:
    if stats is None:
        return None
    return pb.SwapUsage(
        timestamp=stats.timestamp,
        swap_available_bytes=_number(stats.available),
        swap_usage_bytes=_number(stats.usage),
    )


def _io(stats: pod.IoStats | None) -> pb.IoUsage | None:
    return None if stats is None else pb.IoUsage(timestamp=stats.timestamp, psi=_psi(stats.psi))


def filesystem_out(stats: pod.FilesystemStats) -> pb.FilesystemUsage:
    return pb.FilesystemUsage(
        timestamp=stats.timestamp,
        fs_id=pb.FilesystemIdentifier(mountpoint=stats.mountpoint),
        used_bytes=_number(stats.used_bytes),
        inodes_used=_number(stats.inodes_used),
    )


def container_stats_out(stats: pod.ContainerStats) -> pb.ContainerStats:
    container = stats.container
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=container.id,
            metadata=container_metadata_out(container.config.metadata),
            labels=container.config.labels,
            annotations=container.config.annotations,
        ),
        cpu=_cpu(stats.cpu),
        memory=_memory(stats.memory),
        swap=_swap(stats.swap),
        io=_io(stats.io),
        writable_layer=None if stats.writable_layer is None else filesystem_out(stats.writable_layer),
    )


def sandbox_stats_out(stats: pod.SandboxStats) -> pb.PodSandboxStats:
    sandbox = stats.sandbox
    linux = pb.LinuxPodSandboxStats(
        cpu=_cpu(stats.cpu),
        memory=_memory(stats.memory),
        io=_io(stats.io),
        containers=[container_stats_out(each) for each in stats.containers],
    )
    if stats.interfaces:
        first, *others = (
            pb.NetworkInterfaceUsage(
                name=each.name,
                rx_bytes=_number(each.rx_bytes),
                rx_errors=_number(each.rx_errors),
                tx_bytes=_number(each.tx_bytes),
                tx_errors=_number(each.tx_errors),
            )
            for each in stats.interfaces
        )
        # containerd lists only the others in ``interfaces``; cAdvisor-minded readers want the default one there too, but kubelet
        # adds the default to the list itself, so it would count twice.
        linux.network.CopyFrom(
            pb.NetworkUsage(timestamp=stats.network_timestamp, default_interface=first, interfaces=others)
        )
    if stats.process_count is not None:
        linux.process.CopyFrom(pb.ProcessUsage(timestamp=_timestamp(stats), process_count=_number(stats.process_count)))
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=sandbox.id,
            metadata=sandbox_metadata_out(sandbox.config.metadata),
            labels=sandbox.config.labels,
            annotations=sandbox.config.annotations,
        ),
        linux=linux,
    )


def _timestamp(stats: pod.SandboxStats) -> int:
    for part in (stats.cpu, stats.memory):
        if part is not None:
            return part.timestamp
    return stats.network_timestamp or time.time_ns()
