"""RunPodSandbox: from a config to a ready pod: namespaces, monitor, network, cgroup parent.

    join by name -> row -> pod directory -> monitor -> namespaces, cgroup parent and shm at once -> network -> NRI plugins -> ready_at, event

Each step registers its undo before it acts. A crash leaves the row without ready_at: recovery undoes the rest.
Test: tests/kernel/services/test_sandboxes.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import time

import msgspec

from orlop.base import faults
from orlop.base.errors import AlreadyExists, InvalidArgument, named
from orlop.base.ids import SandboxId, new_sandbox_id
from orlop.base.rollback import Rollback
from orlop.base.stages import Stages
from orlop.base.supervise import together
from orlop.metadata.pods import SandboxRow
from orlop.monitor.client import MonitorError
from orlop.monitor.spawn import spawn_monitor
from orlop.network.attachment import decode_attachment, request_from_config
from orlop.oci.codec import encode
from orlop.oci.compile import compile_pod
from orlop.services.live import LivePod
from orlop.services.monitors import end_monitor, publish_sandbox, watch_monitor
from orlop.services.node import Node
from orlop.services.nri.events import sandbox_runs, sandbox_withdrawn
from orlop.services.refusals import refusing
from orlop.services.sandboxes.files import write_pod_files
from orlop.services.sandboxes.shm import make_shm
from orlop.specs.pod import EventType, NamespaceMode, SandboxConfig

ROW, DIRECTORY, MONITOR, NAMESPACES, NETWORK, CGROUP, PLUGINS, READY = (
    "sandbox.run.row",
    "sandbox.run.directory",
    "sandbox.run.monitor",
    "sandbox.run.namespaces",
    "sandbox.run.network",
    "sandbox.run.cgroup",
    "sandbox.run.plugins",
    "sandbox.run.ready",
)
faults.declare(ROW, DIRECTORY, MONITOR, NAMESPACES, NETWORK, CGROUP, PLUGINS, READY)


def sandbox_name(config: SandboxConfig) -> str:
    """Return the name that kubelet's retries share: name, namespace, uid and attempt."""
    metadata = config.metadata
    return f"{metadata.name}_{metadata.namespace}_{metadata.uid}_{metadata.attempt}"


async def run_sandbox(node: Node, config: SandboxConfig, runtime_handler: str) -> SandboxId:
    """Make a pod and return its id; a retry under the same name meets the work that is already running.

    Raises InvalidArgument (unknown handler, impossible namespaces), FailedPrecondition (its handler cannot be used), AlreadyExists,
    or whatever a step raised; then nothing of the pod remains, or its row does, not ready, with the reason why an undo failed.
    """
    handler = node.handlers.named(runtime_handler, f"sandbox {config.metadata.name}")
    _refuse_impossible(config)
    name = sandbox_name(config)
    return await node.running_sandboxes.run(name, lambda: _run(node, name, config, runtime_handler, handler.name))


def _refuse_impossible(config: SandboxConfig) -> None:
    namespaces = config.security.namespaces
    subject = f"sandbox {config.metadata.name}"
    for field, mode in (("network", namespaces.network), ("ipc", namespaces.ipc)):
        if mode not in (NamespaceMode.POD, NamespaceMode.NODE):
            raise InvalidArgument(f"{subject}: namespace_options.{field} must be POD or NODE, not {mode.name}")
    if namespaces.pid is NamespaceMode.TARGET:
        raise InvalidArgument(f"{subject}: namespace_options.pid TARGET is for containers, not for sandboxes")
    if namespaces.userns is not None and namespaces.userns.mode is not NamespaceMode.NODE:
        raise InvalidArgument(
            f"{subject}: namespace_options.userns_options: user namespaces are not supported by this node"
        )
    if config.log_directory and not config.log_directory.startswith("/"):
        raise InvalidArgument(f"{subject}: log_directory {config.log_directory!r} is not an absolute path")
    host_network = namespaces.network is NamespaceMode.NODE
    for key in config.sysctls if host_network else ():
        if key.startswith(("net.", "net/")):
            raise InvalidArgument(f"{subject}: sysctls[{key}]: would change the host's network, which the pod uses")


async def _make_namespaces(pod: LivePod, plan: bytes, config: SandboxConfig) -> None:
    """Let the monitor make the namespaces; a sysctl that the kernel does not take is the caller's mistake, not ours."""
    try:
        made = await pod.monitor.pod(plan)
    except MonitorError as error:
        if error.op != "pod_sysctl" or error.errno not in (errno.EINVAL, errno.ENOENT, errno.ERANGE):
            raise
        raise InvalidArgument(f"sandbox {config.metadata.name}: sysctls: {error.reason}") from error
    pod.netns_fd, pod.netlink, pod.init_pid = made.netns_fd, made.netlink, made.init_pid


async def _keep_shm(node: Node, pod: LivePod) -> None:
    pod.shm_fd = await make_shm(pod.monitor, detached=node.probe.has("clone_detached"))


def _make_log_directory(path: str) -> None:
    if not path:
        return
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"log_directory {path}: cannot be made: {error.strerror}") from error


async def _run(node: Node, name: str, config: SandboxConfig, handler: str, made_by: str) -> SandboxId:
    if (taken := node.pods.sandbox_named(name)) is not None:
        unused = taken.ready_at and not taken.stopped_at and not node.pods.containers_of(taken.id)
        if unused and taken.config == config and taken.handler == handler:
            return taken.id  # the answer got lost, and this is the caller's retry
        raise AlreadyExists(f"sandbox {config.metadata.name}: name is taken by sandbox {taken.id}")
    stages = Stages()
    options = config.security.namespaces
    host_network = options.network is NamespaceMode.NODE
    row = SandboxRow(
        id=new_sandbox_id(),
        name=name,
        config=config,
        handler=handler,
        made_by=made_by,
        created_at=time.time_ns(),
        host_network=host_network,
    )
    subject = f"sandbox {config.metadata.name}"
    async with (
        Rollback(f"sandbox {row.id}") as undo,
        named(subject, f"sandbox {row.id}", f"sandbox {row.id[:12]}"),
        refusing(subject),
    ):
        undo.push("row", lambda: node.pods.remove_sandbox(row.id))
        parent = node.cgroups.parent_path(config.cgroup_parent, row.id)
        node.pods.add_sandbox(row)
        faults.reach(ROW)

        pod_dir = node.state.pod(row.id)
        undo.push("directory", lambda: shutil.rmtree(pod_dir, ignore_errors=True))
        os.mkdir(pod_dir, 0o700)
        _make_log_directory(config.log_directory)
        faults.reach(DIRECTORY)
        stages.mark("row")

        undo.push("monitor", lambda: _end_monitor(node, row.id))
        client = await spawn_monitor(row.id, pod_dir, node.monitor_program.path)
        pod = LivePod(id=row.id, monitor=client)
        node.live.add(pod)
        watch_monitor(node, pod)
        row = msgspec.structs.replace(row, monitor_pid=client.pid, monitor_start=client.start_time)
        node.pods.put_sandbox(row)
        faults.reach(MONITOR)
        stages.mark("monitor")

        plan = compile_pod(
            network=not host_network,
            ipc=options.ipc is not NamespaceMode.NODE,
            uts=not host_network,
            shared_pid=options.pid is NamespaceMode.POD,
            hostname="" if host_network else config.hostname,
            sysctls=config.sysctls if host_network else {**node.network.pod_sysctls(), **config.sysctls},
        )
        made = False

        async def prepare_cgroup() -> None:
            nonlocal made
            made = node.cgroups.prepare_sandbox(config.cgroup_parent, row.id)
            faults.reach(CGROUP)

        # While the monitor makes the namespaces, most of a pod's time, we make what does not need them.
        undo.push("cgroup", lambda: node.cgroups.remove_sandbox(parent, made=made))
        steps = [_make_namespaces(pod, encode(plan), config), prepare_cgroup()]
        if options.ipc is not NamespaceMode.NODE:
            steps.append(_keep_shm(node, pod))
        await together(*steps)
        row = msgspec.structs.replace(row, cgroup_parent=parent, cgroup_parent_made=made)
        faults.reach(NAMESPACES)
        stages.mark("namespaces")

        if not host_network:
            request = request_from_config(
                row.id, config, netns_fd=pod.netns_fd, netlink=pod.netlink, netns_path=netns_path(row)
            )
            undo.push("network", lambda: node.network.detach(request, None))
            attachment = await node.network.attach(request)
            row = msgspec.structs.replace(row, network=msgspec.Raw(msgspec.json.encode(attachment)), ips=attachment.ips)
            node.pods.put_sandbox(row)
        write_pod_files(node, row)
        faults.reach(NETWORK)
        stages.mark("network")

        agreed = row
        undo.push("plugins", lambda: sandbox_withdrawn(node, agreed))
        async with node.nri.operation():
            await sandbox_runs(node, row)
            faults.reach(PLUGINS)
            row = msgspec.structs.replace(row, ready_at=time.time_ns(), timings=stages.milliseconds)
            node.pods.put_sandbox(row)
        node.nri.begun.discard(row.id)
        undo.commit()
        faults.reach(READY)
    for kind in (EventType.CREATED, EventType.STARTED):
        publish_sandbox(node, kind, row)
    return row.id


def netns_path(row: SandboxRow) -> str:
    """Return the path that CNI plugins get; valid as long as the monitor lives."""
    return f"/proc/{row.monitor_pid}/ns/net"


async def detach_network(node: Node, row: SandboxRow) -> None:
    """Give back what a pod has of the network; idempotent, also after half an attach and after the monitor's end."""
    if row.host_network:
        return
    pod = node.live.get(row.id)
    request = request_from_config(
        row.id,
        row.config,
        netns_fd=-1 if pod is None else pod.netns_fd,
        netlink=None if pod is None else pod.netlink,
        netns_path=netns_path(row),
    )
    await node.network.detach(request, decode_attachment(row.network))


async def _end_monitor(node: Node, sandbox_id: SandboxId) -> None:
    pod = node.live.get(sandbox_id)
    if pod is not None:
        await end_monitor(pod.monitor)
        node.live.drop(sandbox_id)
