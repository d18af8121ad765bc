"""CRI's RuntimeService: each RPC is one call of services/, translated on the way in and out. Nothing is decided here.

The lists are in runtime_lists.py; Exec, Attach and PortForward in runtime_streams.py. RPCs that have no method answer UNIMPLEMENTED by
name: checkpoints. Test: tests/cri, tests/conformance (crictl, critest).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from orlop import __version__
from orlop.base.errors import InvalidArgument, named
from orlop.cri import convert
from orlop.cri.runtime_lists import RuntimeLists
from orlop.cri.runtime_streams import RuntimeStreams, StreamUrls
from orlop.services.containers import create, start, update
from orlop.services.containers import log as container_log
from orlop.services.containers import remove as container_remove
from orlop.services.containers import stats as container_stats
from orlop.services.containers import status as container_status
from orlop.services.containers import stop as container_stop
from orlop.services.execs import exec_sync
from orlop.services.node import Node
from orlop.services.pod_cidr import set_pod_cidr
from orlop.services.sandboxes import remove as sandbox_remove
from orlop.services.sandboxes import run
from orlop.services.sandboxes import stats as sandbox_stats
from orlop.services.sandboxes import status as sandbox_status
from orlop.services.sandboxes import stop as sandbox_stop
from orlop.services.sandboxes import update as sandbox_update
from orlop.services.status import runtime_status
from orlop.specs.cri_gen import api_pb2 as pb

log = logging.getLogger(__name__)

KUBELET_API_VERSION: Final = "0.1.0"
CRI_VERSION: Final = "v1"
SECONDS_MAX: Final = 1 << 31
POSITION: Final = "orlop-events-position"


class RuntimeService(RuntimeLists, RuntimeStreams):
    """One method an RPC; each takes the request and returns the response."""

    descriptor = pb.DESCRIPTOR.services_by_name["RuntimeService"]
    changing = frozenset(
        {
            "RunPodSandbox",
            "StopPodSandbox",
            "RemovePodSandbox",
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "RemoveContainer",
            "UpdateContainerResources",
            "ReopenContainerLog",
            "UpdatePodSandboxResources",
        }
    )
    loud = frozenset({"UpdateRuntimeConfig"})
    with_context = frozenset({"GetContainerEvents"})

    def __init__(self, node: Node, urls: StreamUrls) -> None:
        super().__init__(node)
        self._urls = urls
        # Asked for every few seconds and always the same: made once.
        self._version = pb.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name="orlop",
            runtime_version=__version__,
            runtime_api_version=CRI_VERSION,
        )
        # The systemd driver is not built; the daemon refuses to start with it.
        self._config = pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CGROUPFS))

    # The node

    async def Version(self, _: pb.VersionRequest) -> pb.VersionResponse:
        return self._version

    async def Status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        status = await runtime_status(self._node, verbose=request.verbose)
        features = status.features
        return pb.StatusResponse(
            status=pb.RuntimeStatus(
                conditions=[
                    pb.RuntimeCondition(type=each.type, status=each.status, reason=each.reason, message=each.message)
                    for each in status.conditions
                ]
            ),
            runtime_handlers=[
                pb.RuntimeHandler(
                    name=each.name,
                    features=pb.RuntimeHandlerFeatures(
                        recursive_read_only_mounts=each.recursive_read_only_mounts, user_namespaces=each.user_namespaces
                    ),
                )
                for each in status.handlers
            ],
            features=pb.RuntimeFeatures(
                supplemental_groups_policy=features.supplemental_groups_policy,
                user_namespaces_host_network=features.user_namespaces_host_network,
                mount_options=features.mount_options,
            ),
            info={name: convert.json_text(value) for name, value in status.info.items()} if request.verbose else None,
        )

    async def RuntimeConfig(self, _: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
        return self._config

    async def UpdateRuntimeConfig(self, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse:
        set_pod_cidr(self._node, request.runtime_config.network_config.pod_cidr)
        return pb.UpdateRuntimeConfigResponse()

    # Sandboxes

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
        given = _given(request, "config")
        with named(f"sandbox {given.metadata.name or '?'}"):
            config = convert.sandbox_config_in(given)
        made = await run.run_sandbox(self._node, config, request.runtime_handler)
        return pb.RunPodSandboxResponse(pod_sandbox_id=made)

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
        await sandbox_stop.stop_sandbox(self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse:
        await sandbox_remove.remove_sandbox(self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
        sandbox = await sandbox_status.sandbox_status(
            self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"), verbose=request.verbose
        )
        containers = sandbox_status.containers_of(self._node, sandbox.id)
        return convert.sandbox_status_response(sandbox, containers, request.verbose)

    async def UpdatePodSandboxResources(
        self, request: pb.UpdatePodSandboxResourcesRequest
    ) -> pb.UpdatePodSandboxResourcesResponse:
        await sandbox_update.update_sandbox_resources(
            self._node,
            _id(request.pod_sandbox_id, "pod_sandbox_id"),
            convert.resources_in(request.overhead, "overhead") if request.HasField("overhead") else None,
            convert.resources_in(request.resources, "resources") if request.HasField("resources") else None,
        )
        return pb.UpdatePodSandboxResourcesResponse()

    async def PodSandboxStats(self, request: pb.PodSandboxStatsRequest) -> pb.PodSandboxStatsResponse:
        stats = await sandbox_stats.sandbox_stats(self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.PodSandboxStatsResponse(stats=convert.sandbox_stats_out(stats))

    # Containers

    async def CreateContainer(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        given = _given(request, "config")
        with named(f"container {given.metadata.name or '?'}"):
            config = convert.container_config_in(given)
        # The sandbox's config stands here again for runtimes that did not keep it; it can't change, and ours is kept.
        sandbox = (
            convert.sandbox_config_in(request.sandbox_config, "sandbox_config")
            if request.HasField("sandbox_config")
            else None
        )
        made = await create.create_container(self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"), config, sandbox)
        return pb.CreateContainerResponse(container_id=made)

    async def StartContainer(self, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
        await start.start_container(self._node, _id(request.container_id, "container_id"))
        return pb.StartContainerResponse()

    async def StopContainer(self, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
        seconds = _seconds(request.timeout)
        await container_stop.stop_container(self._node, _id(request.container_id, "container_id"), seconds)
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse:
        await container_remove.remove_container(self._node, _id(request.container_id, "container_id"))
        return pb.RemoveContainerResponse()

    async def ContainerStatus(self, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
        container = await container_status.container_status(
            self._node, _id(request.container_id, "container_id"), verbose=request.verbose
        )
        return pb.ContainerStatusResponse(
            status=convert.container_status_out(container),
            info=convert.info_out(
                {**container.info, "config": convert.message_info(convert.container_config_out(container.config))}
            )
            if request.verbose
            else None,
        )

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest
    ) -> pb.UpdateContainerResourcesResponse:
        if request.HasField("windows"):
            raise InvalidArgument("windows: is not possible on Linux")
        resources = convert.resources_in(request.linux, "linux")
        container_id = _id(request.container_id, "container_id")
        await update.update_container_resources(self._node, container_id, resources, dict(request.annotations))
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(self, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse:
        await container_log.reopen_container_log(self._node, _id(request.container_id, "container_id"))
        return pb.ReopenContainerLogResponse()

    async def ExecSync(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
        container_id = _id(request.container_id, "container_id")
        done = await exec_sync.exec_sync(self._node, container_id, tuple(request.cmd), _seconds(request.timeout))
        return pb.ExecSyncResponse(stdout=done.stdout, stderr=done.stderr, exit_code=done.exit_code)

    async def ContainerStats(self, request: pb.ContainerStatsRequest) -> pb.ContainerStatsResponse:
        stats = await container_stats.container_stats(self._node, _id(request.container_id, "container_id"))
        return pb.ContainerStatsResponse(stats=convert.container_stats_out(stats))

    # Events

    async def GetContainerEvents(
        self, _: pb.GetEventsRequest, context: Any
    ) -> AsyncIterator[pb.ContainerEventResponse]:
        """Metadata ``orlop-events-position: INSTANCE/NUMBER`` of the call asks for what came after that event; the same key in the
        answer's first metadata says which event the stream begins after, and in its last which one was sent last.
        """
        hub = self._node.events
        after, instance = _position(context.invocation_metadata())
        with hub.subscribe(after, instance) as subscription:
            # At once: from here on the caller knows that it misses nothing.
            await context.send_initial_metadata(((POSITION, f"{hub.instance}/{subscription.after}"),))
            try:
                async for event in subscription:
                    yield convert.event_out(event)
            finally:
                context.set_trailing_metadata(((POSITION, f"{hub.instance}/{subscription.position}"),))


def _position(metadata: Any) -> tuple[int | None, str]:
    """Return (number, instance) that a caller of GetContainerEvents has seen last; (None, "") when it does not say."""
    given = next((value for key, value in metadata or () if key == POSITION), None)
    if given is None:
        return None, ""
    instance, _, number = str(given).partition("/")
    if not number.isascii() or not number.isdigit() or len(number) > len(str(1 << 63)):
        raise InvalidArgument(f"{POSITION}: {given!r} is not INSTANCE/NUMBER")
    return int(number), instance


def _given(request: Any, field: str) -> Any:
    if not request.HasField(field):
        raise InvalidArgument(f"{field}: is missing")
    return getattr(request, field)


def _id(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(f"{field}: is empty")
    return value


def _seconds(value: int) -> float:
    if not 0 <= value <= SECONDS_MAX:
        raise InvalidArgument(f"timeout: {value} is not between 0 and {SECONDS_MAX} seconds")
    return float(value)
