"""ContainerStats and ListContainerStats: figures read from the cgroup and the writable layer. Test: tests/kernel/services/test_stats.py."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from orlop.base.errors import FailedPrecondition, NotFound
from orlop.metadata.pods import ContainerRow
from orlop.services.node import Node
from orlop.specs.pod import ContainerState, ContainerStats, FilesystemStats


async def container_stats(node: Node, container_id: str) -> ContainerStats:
    """Return the figures of one container; raises NotFound, FailedPrecondition when it has ended."""
    row = node.pods.container(container_id)
    if row.state not in (ContainerState.RUNNING, ContainerState.CREATED):
        raise FailedPrecondition(f"container {row.id}: has no stats, it is {row.state.name.lower()}")
    measured = await measure(node, row)
    if measured is None:
        raise FailedPrecondition(f"container {row.id}: has no stats, it ended just now")
    return measured


async def each_container_stats(
    node: Node, *, id: str = "", sandbox_id: str = "", labels: Mapping[str, str] | None = None
) -> AsyncIterator[ContainerStats]:
    """Yield the figures of all containers that match and are alive now; one that ends before its turn is left out."""
    wanted = (labels or {}).items()
    for row in node.pods.containers():
        if (
            row.state in (ContainerState.RUNNING, ContainerState.CREATED)
            and (not id or row.id.startswith(id))
            and (not sandbox_id or row.sandbox_id.startswith(sandbox_id))
            and wanted <= row.config.labels.items()
        ):
            measured = await measure(node, row)
            if measured is not None:
                yield measured


async def measure(node: Node, row: ContainerRow) -> ContainerStats | None:
    """Read the figures of a container; None when its cgroup or its writable layer is already gone."""
    try:
        figures = node.cgroups.container_stats(row.cgroup)
        usage = await node.snapshots.usage(row.id)
    except (FileNotFoundError, NotFound):
        return None
    return ContainerStats(
        container=node.views.container(row),
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
