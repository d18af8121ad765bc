"""RemovePodSandbox: stop what runs, remove containers, end the monitor, remove cgroup, directory and, last, the row. Idempotent.

Test: tests/kernel/services/test_sandboxes.py.
"""

from __future__ import annotations

import shutil

from orlop.base import faults
from orlop.base.errors import NotFound
from orlop.base.supervise import together
from orlop.metadata.pods import SandboxRow
from orlop.services.containers.remove import remove_ended
from orlop.services.monitors import end_monitor, publish_sandbox
from orlop.services.node import Node
from orlop.services.nri.events import sandbox_removed
from orlop.services.sandboxes.stop import stop_sandbox
from orlop.specs.pod import EventType

CONTAINERS, MONITOR, DIRECTORY, ROW = (
    "sandbox.remove.containers",
    "sandbox.remove.monitor",
    "sandbox.remove.directory",
    "sandbox.remove.row",
)
faults.declare(CONTAINERS, MONITOR, DIRECTORY, ROW)


async def remove_sandbox(node: Node, sandbox_id: str) -> None:
    """Remove a sandbox with all its containers; an unknown one is fine."""
    try:
        row = node.pods.sandbox(sandbox_id)
    except NotFound:
        return
    await stop_sandbox(node, row.id)
    async with node.locks.hold(row.id):
        try:
            row = node.pods.sandbox(row.id)
        except NotFound:
            return
        await together(*(remove_ended(node, each.id) for each in node.pods.containers_of(row.id)))
        faults.reach(CONTAINERS)
        await sandbox_removed(node, row)
        await _end_monitor(node, row)
        faults.reach(MONITOR)
        node.cgroups.remove_sandbox(row.cgroup_parent, made=row.cgroup_parent_made)
        shutil.rmtree(node.state.pod(row.id), ignore_errors=True)
        faults.reach(DIRECTORY)
        node.pods.remove_sandbox(row.id)
        node.cpu_rates.forget(row.id)
        node.metrics.forget(row.id)
        publish_sandbox(node, EventType.DELETED, row)
        faults.reach(ROW)


async def _end_monitor(node: Node, row: SandboxRow) -> None:
    pod = node.live.get(row.id)
    if pod is None:
        return
    await end_monitor(pod.monitor)
    node.live.drop(row.id)
