"""Connect to a port of a pod: localhost inside its network namespace, which for a host-network pod is the host's own.

The monitor is in that namespace and makes the socket; no process is started and nothing enters a namespace. IPv4 first, then IPv6, as
a server may listen on one of them only. Test: tests/cri/test_port_forward.py.
"""

from __future__ import annotations

import asyncio
import socket

from orlop.base import limits
from orlop.base.errors import OrlopError, Unavailable
from orlop.base.ids import SandboxId
from orlop.monitor.client import MonitorError
from orlop.services.node import Node


async def connect_port(node: Node, sandbox_id: SandboxId, port: int) -> socket.socket:
    """Return a connected, non-blocking TCP socket. Raises NotFound, FailedPrecondition (the pod is gone), Unavailable (nobody listens)."""
    row = node.pods.sandbox(sandbox_id)
    monitor = node.live.need(row.id).monitor
    failures: list[str] = []
    for family, name in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")):
        try:
            async with asyncio.timeout(limits.FORWARD_CONNECT_SECONDS):
                return await monitor.connect(port, family)
        except TimeoutError:
            failures.append(f"{name}: no answer")
        except (Unavailable, MonitorError) as error:
            if node.live.get(row.id) is None:
                raise
            failures.append(f"{name}: {_reason(error)}")
    raise Unavailable(f"sandbox {row.id}: port {port}: cannot connect: {'; '.join(failures)}")


def _reason(error: OrlopError) -> str:
    return str(error).rpartition(": ")[2]
