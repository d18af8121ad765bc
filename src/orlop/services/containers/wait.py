"""Wait until a container has ended and its exit is in the store. Test: tests/kernel/services/test_attach.py."""

from __future__ import annotations

from orlop.base.errors import FailedPrecondition
from orlop.services.node import Node
from orlop.specs.pod import Container


async def wait_container(node: Node, container_id: str) -> Container:
    """Return the container as it ended. Raises NotFound, FailedPrecondition (it never ran and its pod is gone)."""
    row = node.pods.container(container_id)
    if not row.finished_at:
        await node.live.need(row.sandbox_id).exit_of(row.id).wait()
        row = node.pods.container(row.id)
    if not row.finished_at:
        raise FailedPrecondition(f"container {row.id}: its monitor ended before it did")
    return node.views.container(row)
