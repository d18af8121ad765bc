"""PodSandboxStats and ListPodSandboxStats: the pod's cgroup and its containers. Test: tests/kernel/services/test_stats.py."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from orlop.metadata.pods import SandboxRow
from orlop.network.stats import interface_stats
from orlop.services.containers.stats import measure as measure_container
from orlop.services.node import Node
from orlop.specs.pod import InterfaceStats, SandboxState, SandboxStats


async def sandbox_stats(node: Node, sandbox_id: str) -> SandboxStats:
    """Return the figures of one sandbox; raises NotFound."""
    return await measure(node, node.pods.sandbox(sandbox_id))


async def each_sandbox_stats(
    node: Node, *, id: str = "", labels: Mapping[str, str] | None = None
) -> AsyncIterator[SandboxStats]:
    """Yield the figures of all sandboxes that match and are ready now; one that is removed before its turn is left out."""
    wanted = (labels or {}).items()
    for row in node.pods.sandboxes():
        if (
            row.state is SandboxState.READY
            and (not id or row.id.startswith(id))
            and wanted <= row.config.labels.items()
            and node.pods.has_sandbox(row.id)
        ):
            yield await measure(node, row)


async def measure(node: Node, row: SandboxRow) -> SandboxStats:
    """Sum the figures of the pod's containers, and (the interfaces come with the pod network).

    The sum is used where the pod has no cgroup of its own (no cgroup_parent given); else the parent's own figures are.
    """
    rows = [each for each in node.pods.containers_of(row.id) if each.created_at and not each.finished_at]
    containers = [stats for each in rows if (stats := await measure_container(node, each)) is not None]
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
