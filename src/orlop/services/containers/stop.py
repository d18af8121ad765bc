"""StopContainer: the stop signal, then the grace period, then SIGKILL to every process. Idempotent.

Test: tests/kernel/services/test_containers.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal

from orlop.base import faults, limits
from orlop.base.errors import Internal, NotFound
from orlop.metadata.pods import ContainerRow
from orlop.monitor.client import MonitorError
from orlop.services.live import LivePod
from orlop.services.monitors import take_exit
from orlop.services.node import Node
from orlop.services.nri.events import exit_told

log = logging.getLogger(__name__)

SIGNAL, KILLED = "container.stop.signal", "container.stop.killed"
faults.declare(SIGNAL, KILLED)


async def stop_container(node: Node, container_id: str, timeout_seconds: float) -> None:
    """Stop a container within the grace period; an unknown or ended one is fine.

    No lock is held while waiting, so a second stop with a shorter grace period takes effect at once, as kubelet expects.
    Raises Internal when the processes outlive SIGKILL.
    """
    try:
        row = node.pods.container(container_id)
    except NotFound:
        return
    pod = node.live.get(row.sandbox_id)
    if row.finished_at or pod is None:
        return
    if timeout_seconds > 0 and row.started_at:
        await _send(node, pod, row)
        faults.reach(SIGNAL)
        try:
            await asyncio.wait_for(pod.exit_of(row.id).wait(), timeout_seconds)
            await exit_told(node, row.id)
            return
        except TimeoutError:
            log.info("container %s: still runs %gs after signal %d", row.id, timeout_seconds, row.stop_signal)
    await kill_container(node, row.id)


async def kill_container(node: Node, container_id: str) -> None:
    """Kill every process of a container and wait until its exit is in the store."""
    try:
        row = node.pods.container(container_id)
    except NotFound:
        return
    pod = node.live.get(row.sandbox_id)
    if row.finished_at or pod is None:
        return
    if row.id in pod.unsaved_exits:
        take_exit(node, pod, row.id)
        await exit_told(node, row.id)
        return
    try:
        await pod.monitor.kill(row.id, signal.SIGKILL, all=True)
    except MonitorError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT):
            raise
    faults.reach(KILLED)
    try:
        await asyncio.wait_for(pod.exit_of(row.id).wait(), limits.CONTAINER_STOP_KILL_SECONDS)
    except TimeoutError:
        take_exit(node, pod, row.id)
        if not node.pods.container(row.id).finished_at:
            seconds = limits.CONTAINER_STOP_KILL_SECONDS
            raise Internal(
                f"container {row.id}: processes outlive SIGKILL by {seconds:g}s (uninterruptible?)"
            ) from None
    await exit_told(node, row.id)


async def _send(node: Node, pod: LivePod, row: ContainerRow) -> None:
    handler = node.handlers.find(node.pods.sandbox(row.sandbox_id))
    try:
        if handler is None:
            await pod.monitor.kill(row.id, row.stop_signal)
        else:
            await handler.signal(node, pod, row, row.stop_signal)
    except MonitorError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT):
            raise
