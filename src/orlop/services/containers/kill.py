"""Send one signal to a container's first process, as `orlop kill` asks. Test: tests/kernel/services/test_attach.py."""

from __future__ import annotations

import signal

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.services.node import Node


async def signal_container(node: Node, container_id: str, number: int) -> None:
    """Send the signal; nothing is waited for. Raises NotFound, FailedPrecondition (not running), InvalidArgument (no such signal)."""
    row = node.pods.container(container_id)
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidArgument(f"container {row.id}: {number} is not a signal")
    if not row.started_at or row.finished_at:
        raise FailedPrecondition(f"container {row.id}: cannot be killed, it is {row.state.name.lower()}")
    pod = node.live.need(row.sandbox_id)
    await node.handlers.of(node.pods.sandbox(row.sandbox_id)).signal(node, pod, row, number)
