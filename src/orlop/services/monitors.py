"""What the daemon does when a monitor speaks unasked: an exit, an OOM kill, or its own end.

    exited -> exit record (on disk before the message) -> row -> waiters -> event
    lost   -> every container without an exit record is killed by cgroup -> rows say MonitorLost -> sandbox not ready

Taking an exit in is idempotent: the event, the exit record and recovery may all report the same one.
Test: tests/kernel/services/test_exits.py.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from orlop.base import limits
from orlop.base.errors import NotFound, OrlopError, Unavailable
from orlop.base.ids import ContainerId
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.monitor.client import Exited, MonitorClient, Oom
from orlop.monitor.exit_record import ExitRecord, load_exit_record
from orlop.services.live import LivePod
from orlop.services.node import Node
from orlop.services.nri.events import container_ended
from orlop.services.sandboxes.status import containers_of
from orlop.specs.pod import EventType

log = logging.getLogger(__name__)

SIGKILL_EXIT = 137
REASON_COMPLETED, REASON_ERROR, REASON_OOM, REASON_LOST = "Completed", "Error", "OOMKilled", "MonitorLost"


def watch_monitor(node: Node, pod: LivePod) -> None:
    """Route the monitor's unasked messages of this pod to the store."""

    def on_event(event: Exited | Oom) -> None:
        if isinstance(event, Oom):
            log.warning("container %s: %d processes killed for memory", event.id, event.count)
        elif event.is_exec:
            waiter = pod.exec_exits.get(event.id)
            if waiter is not None and not waiter.done():
                waiter.set_result(event)
        else:
            pod.unsaved_exits[ContainerId(event.id)] = event
            try:
                take_exit(node, pod, ContainerId(event.id))
            except OrlopError as error:
                # A full state directory must not end the connection; services/gc.py tries again.
                log.error("container %s: its exit is not in the store yet: %s", event.id, error)

    def on_lost() -> None:
        if node.live.get(pod.id) is pod:
            node.supervisor.spawn(f"lost {pod.id}", lose_monitor(node, pod))

    pod.monitor.on_event = on_event
    pod.monitor.on_lost = on_lost


def take_exit(node: Node, pod: LivePod | None, container_id: ContainerId) -> None:
    """Take a container's exit into the store: its record, or what the monitor said if it could not write one (no space).

    Without either, or when it is already in, nothing changes. While its start is still to be told, the exit waits: StartContainer takes
    it in behind its own event. Raises ResourceExhausted when the store can't take it.
    """
    if pod is not None and container_id in pod.starting:
        return
    try:
        row = node.pods.container(container_id)
    except NotFound:
        return
    if not row.finished_at:
        record = load_exit_record(node.state.exit_record(row.sandbox_id, row.id))
        if record is None and pod is not None and (event := pod.unsaved_exits.get(container_id)) is not None:
            record = _record_of(row, event)
        if record is None:
            return
        row = finished(row, record)
        node.pods.put_container(row)
        node.cpu_rates.forget(row.cgroup)
        node.cgroups.remove_container(row.cgroup)
        publish(node, EventType.STOPPED, row)
    if pod is not None:
        pod.unsaved_exits.pop(container_id, None)
        pod.exit_of(container_id).set()


def _record_of(row: ContainerRow, event: Exited) -> ExitRecord:
    return ExitRecord(
        id=row.id,
        pid=event.pid,
        start_time=row.start_time,
        exit_code=event.exit_code,
        signal=event.signal,
        oom_killed=event.oom_killed,
        oom_kills=int(event.oom_killed),
        finished_ns=event.finished_ns,
    )


def finished(row: ContainerRow, record: ExitRecord) -> ContainerRow:
    """Return the row with what its exit record says; an OOM kill has exactly the reason that kubelet looks for."""
    completed = REASON_COMPLETED if record.exit_code == 0 else REASON_ERROR
    return msgspec.structs.replace(
        row,
        started_at=row.started_at or row.created_at,
        finished_at=record.finished_ns,
        exit_code=record.exit_code,
        reason=REASON_OOM if record.oom_killed else completed,
    )


async def end_monitor(client: MonitorClient) -> None:
    """Kill all of a pod's processes, end its monitor, and return when it is gone."""
    gone = asyncio.Event()
    client.on_lost = gone.set
    try:
        await client.shutdown(force=True)
        async with asyncio.timeout(limits.MONITOR_REPLY_SECONDS):
            await gone.wait()
    except Unavailable:
        return  # it was gone already, or went before it could answer
    finally:
        client.close()


async def lose_monitor(node: Node, pod: LivePod) -> None:
    """Handle a monitor that ended while its pod was alive: nothing of the pod may go on unwatched."""
    try:
        sandbox = node.pods.sandbox(pod.id)
    except NotFound:
        node.live.drop(pod.id)
        return
    log.error("sandbox %s: its monitor (pid %d) is gone", sandbox.id, sandbox.monitor_pid)
    close_lost(node, sandbox)
    for row in node.pods.containers_of(sandbox.id):
        pod.exit_of(row.id).set()
    node.live.drop(pod.id)


def close_lost(node: Node, sandbox: SandboxRow) -> None:
    """Kill what a lost monitor left, and write into the rows what is known: exit records first, MonitorLost for the rest."""
    for row in node.pods.containers_of(sandbox.id):
        if row.finished_at or not row.created_at:
            continue
        take_exit(node, None, row.id)
        row = node.pods.container(row.id)
        if row.finished_at:
            continue
        node.cgroups.kill_all(row.cgroup)
        row = msgspec.structs.replace(
            row,
            started_at=row.started_at or row.created_at,
            finished_at=time.time_ns(),
            exit_code=SIGKILL_EXIT,
            reason=REASON_LOST,
            message="the pod's monitor ended; the container was killed and its exit code is not known",
        )
        node.pods.put_container(row)
        node.cgroups.remove_container(row.cgroup)
        publish(node, EventType.STOPPED, row)
    if sandbox.state.value == 0:
        node.pods.put_sandbox(
            msgspec.structs.replace(sandbox, stopped_at=time.time_ns(), reason="the pod's monitor ended")
        )


def publish(node: Node, kind: EventType, row: ContainerRow) -> None:
    """Publish a container's event with the statuses of its pod, as evented PLEG wants them."""
    known = node.pods.has_sandbox(row.sandbox_id)
    sandbox = node.views.sandbox(node.pods.sandbox(row.sandbox_id)) if known else None
    node.events.publish(kind, row.id, sandbox, containers_of(node, row.sandbox_id))
    if kind is EventType.STOPPED:
        container_ended(node, row)


def publish_sandbox(node: Node, kind: EventType, row: SandboxRow) -> None:
    """Publish a sandbox's own event: its id stands in container_id, as containerd and CRI-O do."""
    node.events.publish(kind, row.id, node.views.sandbox(row), containers_of(node, row.id))
