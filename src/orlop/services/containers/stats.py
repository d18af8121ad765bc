"""ContainerStats and ListContainerStats: figures read from the cgroup and the writable layer. Test: tests/kernel/services/test_stats.py."""

from __future__ import annotations

import time
from collections.abc import Mapping

from orlop.base.errors import FailedPrecondition
from orlop.metadata.pods import ContainerRow
from orlop.services.containers.status import view_container
from orlop.services.node import Node
from orlop.specs.pod import ContainerState, ContainerStats, FilesystemStats


async def container_stats(node: Node, container_id: str) -> ContainerStats:
    """Return the figures of one container; raises NotFound, FailedPrecondition when it has ended."""
    row = node.pods.container(container_id)
    if row.state not in (ContainerState.RUNNING, ContainerState.CREATED):
        raise FailedPrecondition(f"container {row.id}: has no stats, it is {row.state.name.lower()}")
    return await measure(node, row)


async def list_container_stats(
    node: Node, *, id: str = "", sandbox_id: str = "", labels: Mapping[str, str] | None = None
) -> list[ContainerStats]:
    """Return the figures of all living containers that match; one that ends meanwhile is left out."""
    wanted = (labels or {}).items()
    return [
        await measure(node, row)
        for row in node.pods.containers()
        if row.state in (ContainerState.RUNNING, ContainerState.CREATED)
        and (not id or row.id.startswith(id))
        and (not sandbox_id or row.sandbox_id.startswith(sandbox_id))
        and wanted <= row.config.labels.items()
    ]


async def measure(node: Node, row: ContainerRow) -> ContainerStats:
    """Read the figures of a living container; those of a cgroup that is already gone are left out."""
    try:
        figures = node.cgroups.container_stats(row.cgroup)
    except FileNotFoundError:
        return ContainerStats(container=view_container(row, verbose=False))
    usage = await node.snapshots.usage(row.id)
    return ContainerStats(
        container=view_container(row, verbose=False),
        cpu=figures.cpu(node.cpu_rates.rate(row.cgroup, figures.timestamp, figures.cpu_usage)),
        memory=figures.memory(),
        swap=figures.swap(),
        io=figures.io(),
        writable_layer=FilesystemStats(
            timestamp=time.time_ns(),
            mountpoint=str(node.root.containers),
            used_bytes=usage.bytes,
            inodes_used=usage.inodes,
        ),
    )
