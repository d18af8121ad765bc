"""PodSandboxStats and ListPodSandboxStats: the pod's cgroup and its containers. Test: tests/kernel/services/test_containers.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from orlop.base.ids import ContainerId
from orlop.metadata.pods import SandboxRow
from orlop.network.stats import interface_stats
from orlop.services.containers.stats import alive
from orlop.services.containers.stats import measure as measure_container
from orlop.services.node import Node
from orlop.specs.pod import FilesystemStats, InterfaceStats, SandboxState, SandboxStats

AT_ONCE: Final = 16
"""Pods whose containers' layers are counted together; then other calls get their turn."""


async def sandbox_stats(node: Node, sandbox_id: str) -> SandboxStats:
    """Return the figures of one sandbox; raises NotFound."""
    row = node.pods.sandbox(sandbox_id)
    return measure(node, row, await _layers(node, [row]))


async def each_sandbox_stats(
    node: Node, *, id: str = "", labels: Mapping[str, str] | None = None
) -> AsyncIterator[SandboxStats]:
    """Yield the figures of all sandboxes that match and are ready now; one that is removed before its turn is left out."""
    wanted = (labels or {}).items()
    rows = [
        row
        for row in node.pods.sandboxes()
        if row.state is SandboxState.READY and (not id or row.id.startswith(id)) and wanted <= row.config.labels.items()
    ]
    for number in range(0, len(rows), AT_ONCE):
        await asyncio.sleep(0)
        some = rows[number : number + AT_ONCE]
        layers = await _layers(node, some)
        for row in some:
            if node.pods.has_sandbox(row.id):
                yield measure(node, row, layers)


async def _layers(node: Node, rows: Sequence[SandboxRow]) -> dict[ContainerId, FilesystemStats]:
    return await node.layer_usages.of(
        [each.id for row in rows for each in node.pods.containers_of(row.id) if alive(each)]
    )


def measure(node: Node, row: SandboxRow, layers: Mapping[ContainerId, FilesystemStats]) -> SandboxStats:
    """Read the figures of a pod's own cgroup; where it shares one with others, those of its containers are summed."""
    rows = [each for each in node.pods.containers_of(row.id) if alive(each)]
    containers = [stats for each in rows if (stats := measure_container(node, each, layers.get(each.id))) is not None]
    figures = node.cgroups.sandbox_stats(row.cgroup_parent, [each.cgroup for each in rows])
    interfaces: tuple[InterfaceStats, ...] = ()
    pod = node.live.get(row.id)
    if pod is not None and pod.netlink is not None:
        interfaces = interface_stats(pod.netlink)
    return SandboxStats(
        sandbox=node.views.sandbox(row),
        cpu=figures.cpu(node.cpu_rates.rate(row.id, figures.timestamp, figures.cpu_usage)),
        memory=figures.memory(),
        io=figures.io(),
        network_timestamp=time.time_ns(),
        interfaces=interfaces,
        process_count=figures.pids,
        containers=tuple(containers),
    )
