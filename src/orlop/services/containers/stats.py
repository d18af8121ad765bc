"""ContainerStats and ListContainerStats: figures read from the cgroup and the writable layer. Test: tests/kernel/services/test_containers.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from orlop.base.errors import FailedPrecondition
from orlop.metadata.pods import ContainerRow
from orlop.services.node import Node
from orlop.specs.pod import ContainerState, ContainerStats, FilesystemStats

AT_ONCE: Final = 64
"""Containers whose layers are counted together; then other calls get their turn."""


async def container_stats(node: Node, container_id: str) -> ContainerStats:
    """Return the figures of one container; raises NotFound, FailedPrecondition when it has ended."""
    row = node.pods.container(container_id)
    if not alive(row):
        raise FailedPrecondition(f"container {row.id}: has no stats, it is {row.state.name.lower()}")
    layers = await node.layer_usages.of([row.id])
    measured = measure(node, row, layers.get(row.id))
    if measured is None:
        raise FailedPrecondition(f"container {row.id}: has no stats, it ended just now")
    return measured


async def each_container_stats(
    node: Node, *, id: str = "", sandbox_id: str = "", labels: Mapping[str, str] | None = None
) -> AsyncIterator[ContainerStats]:
    """Yield the figures of all containers that match and are alive now; one that ends before its turn is left out."""
    wanted = (labels or {}).items()
    rows = [
        row
        for row in node.pods.containers()
        if alive(row)
        and (not id or row.id.startswith(id))
        and (not sandbox_id or row.sandbox_id.startswith(sandbox_id))
        and wanted <= row.config.labels.items()
    ]
    for number in range(0, len(rows), AT_ONCE):
        await asyncio.sleep(0)
        some = rows[number : number + AT_ONCE]
        layers = await node.layer_usages.of([row.id for row in some])
        for row in some:
            measured = measure(node, row, layers.get(row.id))
            if measured is not None:
                yield measured


def alive(row: ContainerRow) -> bool:
    """Say whether a container has figures: it is created or runs."""
    return row.state in (ContainerState.RUNNING, ContainerState.CREATED)


def measure(node: Node, row: ContainerRow, layer: FilesystemStats | None) -> ContainerStats | None:
    """Read the figures of a container; None when its cgroup or its writable layer is already gone."""
    if layer is None or not node.pods.has_container(row.id):
        return None
    try:
        figures = node.cgroups.container_stats(row.cgroup)
    except FileNotFoundError:
        return None
    return ContainerStats(
        container=node.views.container(row),
        cpu=figures.cpu(node.cpu_rates.rate(row.cgroup, figures.timestamp, figures.cpu_usage)),
        memory=figures.memory(),
        swap=figures.swap(),
        io=figures.io(),
        writable_layer=layer,
    )
