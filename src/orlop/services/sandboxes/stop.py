"""StopPodSandbox: end all containers at once, give the network back, mark the sandbox not ready. Idempotent.

    containers killed -> NRI plugins told -> network detached -> stopped_at, event. The monitor stays until RemovePodSandbox (logs can
be reopened, exits asked).
Test: tests/kernel/services/test_sandboxes.py.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from orlop.base import faults
from orlop.base.errors import NotFound
from orlop.metadata.pods import SandboxRow
from orlop.services.containers.stop import kill_container
from orlop.services.monitors import publish_sandbox
from orlop.services.node import Node
from orlop.services.nri.events import sandbox_stops
from orlop.services.sandboxes.run import detach_network
from orlop.specs.pod import EventType

CONTAINERS, NETWORK, STOPPED = "sandbox.stop.containers", "sandbox.stop.network", "sandbox.stop.stopped"
faults.declare(CONTAINERS, NETWORK, STOPPED)


async def stop_sandbox(node: Node, sandbox_id: str) -> None:
    """Stop a sandbox; an unknown or stopped one is fine. A network that can't be given back is an error: the call is repeated."""
    try:
        row = node.pods.sandbox(sandbox_id)
    except NotFound:
        return
    async with node.locks.hold(row.id):
        try:
            row = node.pods.sandbox(row.id)
        except NotFound:
            return  # removed while we waited
        await _stop(node, row)


async def _stop(node: Node, row: SandboxRow) -> None:
    running = [each for each in node.pods.containers_of(row.id) if each.created_at and not each.finished_at]
    if running:
        await asyncio.gather(*(kill_container(node, each.id) for each in running))
    faults.reach(CONTAINERS)
    if not row.stopped_at:
        await sandbox_stops(node, row)
    await detach_network(node, row)
    faults.reach(NETWORK)
    if not row.stopped_at:
        row = msgspec.structs.replace(row, stopped_at=time.time_ns())
        node.pods.put_sandbox(row)
        publish_sandbox(node, EventType.STOPPED, row)
    faults.reach(STOPPED)
