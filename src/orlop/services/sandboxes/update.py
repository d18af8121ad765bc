"""UpdatePodSandboxResources: what kubelet has changed about a pod's own limits is kept with the pod.

Kubelet makes and sizes the pod's cgroup itself and tells the runtime afterwards, so no limit is written here: a second writer
would undo kubelet's next change. Test: tests/kernel/services/test_sandboxes.py.
"""

from __future__ import annotations

import msgspec

from orlop.base.errors import FailedPrecondition
from orlop.services.containers.update import merge
from orlop.services.node import Node
from orlop.services.nri.events import sandbox_updated, sandbox_updates
from orlop.specs.pod import LinuxResources


async def update_sandbox_resources(
    node: Node, sandbox_id: str, overhead: LinuxResources | None, resources: LinuxResources | None
) -> None:
    """Keep what is given; a field that is 0 or empty stays as it was. Raises NotFound, FailedPrecondition (not ready)."""
    async with node.locks.hold(node.pods.sandbox(sandbox_id).id):
        row = node.pods.sandbox(sandbox_id)
        if not row.ready_at or row.stopped_at:
            raise FailedPrecondition(f"sandbox {row.id}: cannot be updated, it is not ready")
        await sandbox_updates(node, row, overhead, resources)
        row = node.pods.sandbox(row.id)
        config = row.config
        changed = msgspec.structs.replace(
            config,
            overhead=_merged(config.overhead, overhead),
            resources=_merged(config.resources, resources),
        )
        row = msgspec.structs.replace(row, config=changed)
        node.pods.put_sandbox(row)
        await sandbox_updated(node, row)


def _merged(old: LinuxResources | None, new: LinuxResources | None) -> LinuxResources | None:
    return old if new is None else merge(old or LinuxResources(), new)
