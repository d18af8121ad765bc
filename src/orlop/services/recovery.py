"""After a start: make the store agree with the monitors and the kernel. Reads facts, never guesses a state.

    another boot?           -> every row is history: ended, not ready
    each sandbox, parallel, under its own deadline:
      monitor answers       -> half-made (no ready_at)? undo : take the fds again, then each container
      monitor gone          -> exit records, then MonitorLost; half-made? undo
    each container:         exit record? -> import; runs in the monitor? -> watch; never created? -> discard; created -> leave at its gate
    what has no row         -> pod directories, cgroups, links and addresses, snapshots are removed
    events                  -> for what changed meanwhile

The ready gate of the CRI server opens after this. A step that fails for one sandbox leaves that sandbox not ready with the reason; it
does not stop the node. Test: tests/faults/.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time

import msgspec

from orlop.base.errors import OrlopError
from orlop.base.ids import SandboxId
from orlop.kernel.procfs import boot_id
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.monitor.client import Exited, LiveContainer, MonitorClient
from orlop.monitor.spawn import connect_monitor
from orlop.services.containers.remove import discard_container
from orlop.services.live import LivePod
from orlop.services.monitors import (
    REASON_LOST,
    SIGKILL_EXIT,
    close_lost,
    end_monitor,
    publish,
    take_exit,
    watch_monitor,
)
from orlop.services.node import Node
from orlop.services.sandboxes.run import detach_network
from orlop.services.sandboxes.shm import KEPT_NAME
from orlop.specs.pod import EventType, NamespaceMode

log = logging.getLogger(__name__)

SANDBOX_SECONDS = 10.0
START_LOOK_SECONDS = 0.02


async def recover(node: Node) -> None:
    """Bring store, monitors and kernel together; returns when the node can serve."""
    current_boot = boot_id()
    if node.pods.boot_id() != current_boot:
        _close_other_boot(node)
        node.pods.set_boot_id(current_boot)
    await asyncio.gather(*(_recover_guarded(node, row) for row in node.pods.sandboxes()))
    await _remove_rowless(node)


def _close_other_boot(node: Node) -> None:
    """Nothing of another boot runs: monitors, cgroups and links ended with it. Rows stay for kubelet to collect."""
    now = time.time_ns()
    for row in node.pods.containers():
        if not row.finished_at:
            node.pods.put_container(
                msgspec.structs.replace(
                    row,
                    created_at=row.created_at or row.reserved_at,
                    started_at=row.started_at or row.created_at or row.reserved_at,
                    finished_at=now,
                    exit_code=SIGKILL_EXIT,
                    reason=REASON_LOST,
                    message="the machine was started anew",
                    cgroup="",
                )
            )
    for sandbox in node.pods.sandboxes():
        node.pods.put_sandbox(
            msgspec.structs.replace(
                sandbox,
                ready_at=sandbox.ready_at or sandbox.created_at,
                stopped_at=sandbox.stopped_at or now,
                reason="the machine was started anew",
            )
        )


async def _recover_guarded(node: Node, row: SandboxRow) -> None:
    try:
        async with asyncio.timeout(SANDBOX_SECONDS):
            await _recover_sandbox(node, row)
    except (OrlopError, OSError, TimeoutError) as error:
        log.error("sandbox %s: recovery failed: %s", row.id, error or type(error).__name__)
        if not row.stopped_at:
            now = time.time_ns()
            row = node.pods.sandbox(row.id)
            node.pods.put_sandbox(
                msgspec.structs.replace(
                    row, ready_at=row.ready_at or row.created_at, stopped_at=now, reason=f"recovery failed: {error}"
                )
            )


async def _recover_sandbox(node: Node, row: SandboxRow) -> None:
    client = await _connect(node, row)
    if not row.ready_at:
        await _undo_half_made(node, row, client)
        return
    if client is None:
        for container in node.pods.containers_of(row.id):
            if not container.created_at:
                await discard_container(node, container)
        close_lost(node, row)
        return
    pod = await _revive(row, client)
    node.live.add(pod)
    watch_monitor(node, pod)
    running = {each.id: each for each in client.containers}
    for container in node.pods.containers_of(row.id):
        await _recover_container(node, pod, container, running.pop(container.id, None))
    for rowless in running.values():
        if not rowless.is_exec:
            await client.remove(rowless.id)


async def _connect(node: Node, row: SandboxRow) -> MonitorClient | None:
    try:
        return await connect_monitor(row.id, node.state.pod(row.id))
    except (FileNotFoundError, ConnectionRefusedError):
        return None


async def _revive(row: SandboxRow, client: MonitorClient) -> LivePod:
    namespaces = await client.namespaces()
    shm_fd = -1
    if row.config.security.namespaces.ipc is not NamespaceMode.NODE:
        shm_fd = await client.kept_fd(KEPT_NAME)
    return LivePod(
        id=row.id,
        monitor=client,
        netns_fd=namespaces.netns_fd,
        netlink=namespaces.netlink,
        init_pid=namespaces.init_pid,
        shm_fd=shm_fd,
    )


async def _undo_half_made(node: Node, row: SandboxRow, client: MonitorClient | None) -> None:
    """RunPodSandbox did not get to its end: undo what it may have done, in reverse order, and drop the row."""
    await detach_network(node, row)
    if client is not None:
        await end_monitor(client)
    shutil.rmtree(node.state.pod(row.id), ignore_errors=True)
    node.cgroups.remove_sandbox(node.cgroups.parent_path(row.config.cgroup_parent, row.id), made=True)
    node.pods.remove_sandbox(row.id)
    log.info("sandbox %s: was half made, undone", row.id)


def _exit_of(live: LiveContainer) -> Exited:
    """What the monitor keeps of a container that has ended: all that there is when its record could not be written."""
    return Exited(
        id=live.id,
        pid=live.pid,
        exit_code=live.exit_code,
        signal=live.signal,
        oom_killed=live.oom_kills > 0 and live.exit_code == SIGKILL_EXIT,
        finished_ns=live.finished_ns,
        is_exec=False,
        timed_out=False,
    )


async def _recover_container(node: Node, pod: LivePod, row: ContainerRow, live: LiveContainer | None) -> None:
    if not row.created_at:
        await discard_container(node, row)
        return
    if row.finished_at:
        pod.exit_of(row.id).set()
        return
    if live is not None and live.state == "exited":
        pod.unsaved_exits[row.id] = _exit_of(live)
    take_exit(node, pod, row.id)
    if node.pods.container(row.id).finished_at:
        return
    if live is None:
        now = time.time_ns()
        row = msgspec.structs.replace(
            row,
            started_at=row.started_at or row.created_at,
            finished_at=now,
            exit_code=SIGKILL_EXIT,
            reason=REASON_LOST,
            message="the pod's monitor does not know the container",
        )
        node.pods.put_container(row)
        node.cgroups.kill_all(row.cgroup)
        node.cgroups.remove_container(row.cgroup)
        pod.exit_of(row.id).set()
        publish(node, EventType.STOPPED, row)
        return
    if live.state == "starting":
        live = await _after_start(pod, live)
    if live is not None and live.state == "running" and not row.started_at:
        row = msgspec.structs.replace(row, started_at=time.time_ns())
        node.pods.put_container(row)
        publish(node, EventType.STARTED, row)


async def _after_start(pod: LivePod, live: LiveContainer) -> LiveContainer | None:
    """Wait for the outcome of a start that the last daemon asked for; an end that came meanwhile is told as an event."""
    found: LiveContainer | None = live
    while found is not None and found.state == "starting":
        await asyncio.sleep(START_LOOK_SECONDS)
        await pod.monitor.hello()
        found = next((each for each in pod.monitor.containers if each.id == live.id), None)
    return found


async def _remove_rowless(node: Node) -> None:
    """Remove what no row names: it was made by a step that was cut off, or left by a removal that was."""
    sandboxes: set[SandboxId] = {row.id for row in node.pods.sandboxes()}
    containers = {row.id for row in node.pods.containers()}
    for entry in os.scandir(node.state.pods):
        if entry.name not in sandboxes:
            await _remove_rowless_pod(node, entry.name)
    await node.network.reconcile(
        {row.id for row in node.pods.sandboxes() if not row.stopped_at and not row.host_network}
    )
    node.cgroups.remove_orphans(containers, sandboxes)
    node.snapshots.remove_orphans(containers)


async def _remove_rowless_pod(node: Node, name: str) -> None:
    directory = node.state.pods / name
    try:
        client = await connect_monitor(SandboxId(name), directory)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    else:
        await end_monitor(client)
    shutil.rmtree(directory, ignore_errors=True)
    log.info("pod directory %s: belongs to no sandbox, removed", directory)
