"""UpdateContainerResources: change limits in place, all or none. Test: tests/kernel/services/test_containers.py."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orlop.base.errors import FailedPrecondition
from orlop.services.node import Node
from orlop.services.nri.events import container_updated, container_updates
from orlop.specs.pod import LinuxResources


async def update_container_resources(
    node: Node, container_id: str, resources: LinuxResources, annotations: Mapping[str, str]
) -> None:
    """Apply the fields that are given, keep the others. Raises NotFound, FailedPrecondition (ended), InvalidArgument (impossible)."""
    async with node.locks.hold(node.pods.container(container_id).id):
        row = node.pods.container(container_id)
        if row.finished_at or not row.created_at:
            raise FailedPrecondition(f"container {row.id}: cannot be updated, it is {row.state.name.lower()}")
        resources = keep_swap(row.resources, resources)
        async with node.nri.operation():
            wanted, record = await container_updates(node, row, resources)
            row = node.pods.container(row.id)
            handler = node.handlers.of(node.pods.sandbox(row.sandbox_id))
            await handler.update(node, node.live.need(row.sandbox_id), row, wanted)
            row = msgspec.structs.replace(row, resources=merge(row.resources, resources) if record is None else record)
            node.pods.put_container(row)
        await container_updated(node, row)


def keep_swap(old: LinuxResources, new: LinuxResources) -> LinuxResources:
    """Return ``new`` with the swap limit that was asked for before, as long as a new memory limit leaves room for it.

    Left out, it would mean "no swap" to the cgroup, which is what a new container gets.
    """
    kept = old.memory_swap_limit
    if not new.memory_limit or new.memory_swap_limit or not (kept == -1 or kept >= new.memory_limit > 0):
        return new
    return msgspec.structs.replace(new, memory_swap_limit=kept)


def merge(old: LinuxResources, new: LinuxResources) -> LinuxResources:
    """Return ``old`` with every field that ``new`` gives; zero and empty mean "leave it", as CRI says."""
    changed = {
        name: getattr(new, name)
        for name in LinuxResources.__struct_fields__
        if getattr(new, name) and name != "unified"
    }
    return msgspec.structs.replace(old, **changed, unified={**old.unified, **new.unified})
