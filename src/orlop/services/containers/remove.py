"""RemoveContainer: kill if it runs, then forget it everywhere; the row goes last. Idempotent. Test: tests/kernel/services/test_containers.py."""

from __future__ import annotations

import errno
import os

from orlop.base import faults
from orlop.base.errors import NotFound
from orlop.base.ids import ContainerId
from orlop.metadata.pods import ContainerRow
from orlop.monitor.client import MonitorError
from orlop.services.containers.stop import kill_container
from orlop.services.gc import prune_after
from orlop.services.monitors import publish
from orlop.services.node import Node
from orlop.services.nri.events import container_removed
from orlop.specs.pod import EventType

KILLED, MONITOR, SNAPSHOT, ROW = (
    "container.remove.killed",
    "container.remove.monitor",
    "container.remove.snapshot",
    "container.remove.row",
)
faults.declare(KILLED, MONITOR, SNAPSHOT, ROW)


async def remove_container(node: Node, container_id: str) -> None:
    """Remove a container, running or not; an unknown one is fine."""
    try:
        row = node.pods.container(container_id)
    except NotFound:
        return
    async with node.locks.hold(row.id):
        try:
            row = node.pods.container(row.id)
        except NotFound:
            return
        await kill_container(node, row.id)
        faults.reach(KILLED)
        row = node.pods.container(row.id)
        await container_removed(node, row)
        await discard_container(node, row)


async def remove_ended(node: Node, container_id: ContainerId) -> None:
    """Remove a container that does not run any more, unless somebody else did; plugins are told first."""
    async with node.locks.hold(container_id):
        try:
            row = node.pods.container(container_id)
        except NotFound:
            return
        await container_removed(node, row)
        await discard_container(node, row)


async def discard_container(node: Node, row: ContainerRow) -> None:
    """Remove every trace of a container that does not run (or was never fully made)."""
    pod = node.live.get(row.sandbox_id)
    if pod is not None:
        try:
            await pod.monitor.remove(row.id)
        except MonitorError as error:
            # ECANCELED: another request, a create that is being undone or a second removal, has it removed.
            if error.errno not in (errno.ENOENT, errno.ESRCH, errno.ECANCELED):
                raise
        pod.exits.pop(row.id, None)
    sandbox = node.pods.sandbox(row.sandbox_id)
    handler = node.handlers.find(sandbox)
    if handler is not None:  # else its records go with the pod's directory
        await handler.discard(node, row)
    faults.reach(MONITOR)
    # A create that was cut off has made it, or some of its directories and not yet the mark by which orphans are found.
    cgroup = row.cgroup or ("" if row.created_at or not sandbox.cgroup_parent else f"{sandbox.cgroup_parent}/{row.id}")
    if cgroup:
        node.cgroups.remove_container(cgroup)
        node.cpu_rates.forget(cgroup)
    node.layer_usages.forget(row.id)
    node.metrics.forget(row.id)
    node.snapshots.remove(row.id)
    faults.reach(SNAPSHOT)
    record = node.state.exit_record(row.sandbox_id, row.id)
    if record.exists():
        os.unlink(record)
    node.pods.remove_container(row.id)
    prune_after(node, row)
    if row.created_at:
        publish(node, EventType.DELETED, row)
    faults.reach(ROW)
