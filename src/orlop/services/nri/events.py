"""When plugins are told of what, and what their words do: one function for each moment in the life of a pod or container.

    run       told before the sandbox is ready; an error fails the call, and whoever agreed is told that it is gone
    create    asked before the cgroup and the plan are made; then validated; updates of others are carried out; a failure later is told
    start     told before the gate opens, and after
    exit      told behind the store's back, once a container, however it ended; StopContainer, RemoveContainer, StopPodSandbox wait for that
    stop, remove   told, and not refused: what ends cannot be held by a plugin

Every function is one comparison while no plugin is connected. Order of locks: object locks first, then ``operation()``, then the order
of one container; nothing that holds the last two waits for the first. Test: tests/cri/test_nri.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import msgspec

from orlop.base.errors import InvalidArgument, NotFound, OrlopError
from orlop.base.ids import ContainerId
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.nri import calls
from orlop.nri.plugins import Creation
from orlop.services.containers.cdi import edit_spec
from orlop.services.containers.spec import BuiltSpec
from orlop.services.node import Node
from orlop.services.nri.adjust import adjust_spec
from orlop.services.nri.messages import container_message, pod_message
from orlop.services.nri.resources import from_cri, in_cri, to_spec
from orlop.services.nri.updates import carry_out
from orlop.specs import pod as cri
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri
from orlop.specs.runtime import load

log = logging.getLogger(__name__)


# ---- sandboxes


async def sandbox_runs(node: Node, row: SandboxRow) -> None:
    """RunPodSandbox. Raises PluginFailed. Whatever fails from here on, the caller tells ``sandbox_withdrawn``."""
    if node.nri.active:
        node.nri.begun.add(row.id)
        await node.nri.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=pod_message(row)))


async def sandbox_withdrawn(node: Node, row: SandboxRow) -> None:
    """The sandbox is not made after plugins were told of it: they may let go of what they keep for it."""
    if row.id not in node.nri.begun:
        return
    node.nri.begun.discard(row.id)
    pod = pod_message(row)
    await node.nri.tell_all(calls.STOP_POD, nri.StopPodSandboxRequest(pod=pod))
    await node.nri.tell_all(calls.REMOVE_POD, nri.RemovePodSandboxRequest(pod=pod))


async def sandbox_updates(
    node: Node, row: SandboxRow, overhead: cri.LinuxResources | None, resources: cri.LinuxResources | None
) -> None:
    """UpdatePodSandbox. Raises PluginFailed."""
    if node.nri.active:
        request = nri.UpdatePodSandboxRequest(
            pod=pod_message(row), overhead_linux_resources=from_cri(overhead), linux_resources=from_cri(resources)
        )
        await node.nri.tell(calls.UPDATE_POD, request)


async def sandbox_updated(node: Node, row: SandboxRow) -> None:
    """PostUpdatePodSandbox."""
    if node.nri.active:
        await node.nri.tell_all(calls.POST_UPDATE_POD, nri.PostUpdatePodSandboxRequest(pod=pod_message(row)))


async def sandbox_stops(node: Node, row: SandboxRow) -> None:
    """StopPodSandbox: its containers have ended, and plugins know it; its namespaces are there."""
    for container in node.pods.containers_of(row.id):
        await exit_told(node, container.id)
    async with node.nri.operation():
        if node.nri.active:
            await node.nri.tell_all(calls.STOP_POD, nri.StopPodSandboxRequest(pod=pod_message(row)))


async def sandbox_removed(node: Node, row: SandboxRow) -> None:
    """RemovePodSandbox."""
    async with node.nri.operation():
        if node.nri.active:
            await node.nri.tell_all(calls.REMOVE_POD, nri.RemovePodSandboxRequest(pod=pod_message(row)))


# ---- containers


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A container that is being created, after its plugins were asked."""

    built: BuiltSpec
    resources: cri.LinuxResources
    plugins: tuple[str, ...] = ()
    """Those that adjusted it."""
    cgroup_parent: str = ""
    """Where a plugin wants its cgroup; empty: nobody wants it elsewhere."""
    namespaces: bool = False
    """Whether its namespaces were changed."""

    @contextmanager
    def blamed(self, subject: str) -> Iterator[None]:
        """Name the plugins in whatever goes wrong with what they asked for."""
        try:
            yield
        except OrlopError as error:
            if self.plugins:
                error.add_note(f"adjusted by NRI plugins {', '.join(self.plugins)}")
                error.args = (f"{subject}: as adjusted by NRI plugin {', '.join(self.plugins)}: {error}",)
            raise


async def container_creates(
    node: Node, sandbox: SandboxRow, row: ContainerRow, built: BuiltSpec, user: cri.ContainerUser, subject: str
) -> Asked:
    """CreateContainer: return the spec as plugins want it.

    Raises PluginFailed, FailedPrecondition (two plugins want the same), PermissionDenied (rejected), InvalidArgument, Unimplemented. After
    an error the caller tells ``container_withdrawn``.
    """
    if not node.nri.asks:
        return Asked(built=built, resources=row.resources)
    node.nri.begun.add(row.id)
    pod = pod_message(sandbox)
    made: Creation = await node.nri.create(pod, container_message(row, built.spec, user))
    await carry_out(node, made.updates, made.evictions)
    if not made.plugins and not made.adjust.ByteSize():
        return Asked(built=built, resources=row.resources)
    where = f"{subject}: NRI plugin {', '.join(made.plugins)}"
    if made.adjust.CDI_devices:
        names = [device.name for device in made.adjust.CDI_devices]
        built = msgspec.structs.replace(built, spec=edit_spec(built.spec, node.cdi, names, where))
    adjusted = adjust_spec(built, made.adjust, row.resources, node.host, where)
    return Asked(
        built=adjusted.built,
        resources=adjusted.resources,
        plugins=made.plugins,
        cgroup_parent=_cgroup_parent(node, sandbox, row, made.adjust.linux.cgroups_path, where),
        namespaces=bool(made.adjust.linux.namespaces),
    )


def _cgroup_parent(node: Node, sandbox: SandboxRow, row: ContainerRow, path: str, subject: str) -> str:
    """A container's cgroup has its id for a name: by that it is found again after the daemon's end."""
    if not path:
        return ""
    parent, _, name = path.rpartition("/")
    if name != row.id or not parent:
        raise InvalidArgument(f"{subject}: cgroups_path {path!r}: is not /PARENT/{row.id}")
    return node.cgroups.parent_path(parent, sandbox.id)


async def container_withdrawn(node: Node, sandbox: SandboxRow, row: ContainerRow) -> None:
    """The creation failed after plugins had been asked: they may let go of what they keep for it."""
    if row.id not in node.nri.begun:
        return
    node.nri.begun.discard(row.id)
    pod, container = pod_message(sandbox), container_message(row, None)
    merge = await node.nri.stopped(pod, container)
    await _carry_out_late(node, row, merge.updates)
    await node.nri.tell_all(calls.REMOVE, nri.RemoveContainerRequest(pod=pod, container=container))


async def container_created(node: Node, row: ContainerRow) -> None:
    """PostCreateContainer."""
    node.nri.begun.discard(row.id)
    if node.nri.active:
        pod, container = _messages(node, row)
        await node.nri.tell_all(calls.POST_CREATE, nri.PostCreateContainerRequest(pod=pod, container=container))


@asynccontextmanager
async def container_starts(node: Node, row: ContainerRow) -> AsyncIterator[None]:
    """StartContainer before the block, PostStartContainer after it; an exit within it is told after both. Raises PluginFailed."""
    async with node.nri.operation():
        if not node.nri.active:
            yield
            return
        async with node.nri.order.hold(row.id):
            pod, container = _messages(node, row)
            await node.nri.tell(calls.START, nri.StartContainerRequest(pod=pod, container=container))
            yield
            pod, container = _messages(node, node.pods.container(row.id))
            await node.nri.tell_all(calls.POST_START, nri.PostStartContainerRequest(pod=pod, container=container))


async def container_updates(
    node: Node, row: ContainerRow, wanted: cri.LinuxResources
) -> tuple[cri.LinuxResources | oci.Resources, cri.LinuxResources | None]:
    """UpdateContainer: return what is to be applied, and CRI's record of it where plugins changed it. Raises as container_creates."""
    if not node.nri.active:
        return wanted, None
    pod, container = _messages(node, row)
    merge = await node.nri.update(pod, container, from_cri(wanted))
    await carry_out(node, merge.updates, merge.evictions)
    if not merge.changed:
        return wanted, None
    subject = f"container {row.id}: NRI"
    resources = to_spec(merge.wanted, subject, cgroup_v2=node.host.cgroup_v2, swap=node.host.swap)
    return resources, in_cri(row.resources, resources)


async def container_updated(node: Node, row: ContainerRow) -> None:
    """PostUpdateContainer."""
    if node.nri.active:
        pod, container = _messages(node, row)
        await node.nri.tell_all(calls.POST_UPDATE, nri.PostUpdateContainerRequest(pod=pod, container=container))


def container_ended(node: Node, row: ContainerRow) -> None:
    """StopContainer, told behind: the exit is in the store. Called once for each container."""
    if node.nri.active or not node.nri.open:
        task = node.supervisor.spawn(f"nri exit {row.id}", _tell_exit(node, row))
        node.nri.exits[row.id] = task
        task.add_done_callback(lambda _: node.nri.exits.pop(row.id, None))


async def _tell_exit(node: Node, row: ContainerRow) -> None:
    async with node.nri.operation(), node.nri.order.hold(row.id):
        merge = await node.nri.stopped(*_messages(node, row))
    await _carry_out_late(node, row, merge.updates)


async def _carry_out_late(node: Node, row: ContainerRow, updates: Sequence[nri.ContainerUpdate]) -> None:
    """Nobody waits for an answer that an error could be."""
    try:
        await carry_out(node, updates, ())
    except OrlopError as error:
        log.warning("nri: updates asked for at the end of container %s: %s", row.id, error)


async def exit_told(node: Node, container_id: ContainerId) -> None:
    """Return when plugins know of the container's end, if it has ended."""
    if (task := node.nri.exits.get(container_id)) is not None:
        await asyncio.wait([task])


async def container_removed(node: Node, row: ContainerRow) -> None:
    """RemoveContainer."""
    await exit_told(node, row.id)
    async with node.nri.operation():
        if node.nri.active and row.created_at:
            pod, container = _messages(node, row)
            await node.nri.tell_all(calls.REMOVE, nri.RemoveContainerRequest(pod=pod, container=container))


def _messages(node: Node, row: ContainerRow) -> tuple[nri.PodSandbox, nri.Container]:
    try:
        pod = pod_message(node.pods.sandbox(row.sandbox_id))
    except NotFound:
        pod = nri.PodSandbox(id=row.sandbox_id)
    return pod, container_message(row, stored_spec(row))


def stored_spec(row: ContainerRow) -> oci.RuntimeSpec | None:
    """Return the spec that a container was created with, None before that."""
    return load(bytes(row.spec)) if bytes(row.spec) != b"null" else None
