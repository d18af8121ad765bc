"""CRI clients of the tests: synchronous (the command line's own) for flows, asynchronous for load; and the pods that they make.

Owns connections only. The messages are orlop.specs.cri_gen's; a peer runtime understands them as well, so one client drives all.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from orlop.cli.client import CHANNEL_OPTIONS, Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.images.conformance import BUSYBOX

CALL_SECONDS = 120
_numbers = itertools.count()


class AsyncStub:
    """One awaitable an RPC of a service."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = make(
                f"/{service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class AsyncClient:
    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.runtime = AsyncStub(self.channel, cri.DESCRIPTOR.services_by_name["RuntimeService"])
        self.images = AsyncStub(self.channel, cri.DESCRIPTOR.services_by_name["ImageService"])

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


def ready(address: str) -> bool:
    """Does a runtime answer there, and are its conditions all true?"""
    try:
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            call = channel.unary_unary(
                "/runtime.v1.RuntimeService/Status",
                request_serializer=cri.StatusRequest.SerializeToString,
                response_deserializer=cri.StatusResponse.FromString,
            )
            status = call(cri.StatusRequest(), timeout=2).status
    except grpc.RpcError:
        return False
    return bool(status.conditions) and all(each.status for each in status.conditions)


def remove_all_pods(address: str) -> None:
    with Client(address) as client:
        for pod in client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items:
            client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.id), timeout=CALL_SECONDS)
            client.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=CALL_SECONDS)


def sandbox_config(name: str = "", *, log_directory: Path | str = "", **more: Any) -> cri.PodSandboxConfig:
    """A pod as kubelet describes one; a name of its own unless given."""
    name = name or f"pod-{os.getpid()}-{next(_numbers)}"
    metadata = cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="orlop-tests", attempt=0)
    defaults: dict[str, Any] = {"hostname": name[:63], "log_directory": str(log_directory)}
    defaults["linux"] = cri.LinuxPodSandboxConfig()
    return cri.PodSandboxConfig(metadata=metadata, **{**defaults, **more})


def container_config(
    name: str = "main", command: list[str] | None = None, *, image: str = BUSYBOX, **more: Any
) -> cri.ContainerConfig:
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name, attempt=0),
        image=cri.ImageSpec(image=image),
        command=command if command is not None else ["sleep", "3600"],
        **{"log_path": f"{name}.log", **more},
    )


@dataclass(slots=True, kw_only=True)
class Pod:
    """A sandbox and its containers, driven call by call."""

    client: Client
    config: cri.PodSandboxConfig
    id: str

    @classmethod
    def run(cls, client: Client, config: cri.PodSandboxConfig, handler: str = "") -> Pod:
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        answer = client.runtime.RunPodSandbox(request, timeout=CALL_SECONDS)
        return cls(client=client, config=config, id=answer.pod_sandbox_id)

    def create(self, config: cri.ContainerConfig) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return str(self.client.runtime.CreateContainer(request, timeout=CALL_SECONDS).container_id)

    def start(self, container: str) -> None:
        self.client.runtime.StartContainer(cri.StartContainerRequest(container_id=container), timeout=CALL_SECONDS)

    def launch(self, config: cri.ContainerConfig) -> str:
        container = self.create(config)
        self.start(container)
        return container

    def exec(self, container: str, *command: str, timeout: int = 0) -> cri.ExecSyncResponse:
        request = cri.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        answer: cri.ExecSyncResponse = self.client.runtime.ExecSync(request, timeout=CALL_SECONDS)
        return answer

    def container_status(self, container: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container)
        return self.client.runtime.ContainerStatus(request, timeout=CALL_SECONDS).status

    def status(self) -> cri.PodSandboxStatus:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=self.id)
        return self.client.runtime.PodSandboxStatus(request, timeout=CALL_SECONDS).status

    def stop_container(self, container: str, timeout: int = 0) -> None:
        request = cri.StopContainerRequest(container_id=container, timeout=timeout)
        self.client.runtime.StopContainer(request, timeout=CALL_SECONDS)

    def remove_container(self, container: str) -> None:
        self.client.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container), timeout=CALL_SECONDS)

    def stop(self) -> None:
        self.client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=self.id), timeout=CALL_SECONDS)

    def remove(self) -> None:
        self.stop()
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=self.id)
        self.client.runtime.RemovePodSandbox(request, timeout=CALL_SECONDS)


def pull(client: Client, image: str, seconds: float = CALL_SECONDS) -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=image))
    return str(client.images.PullImage(request, timeout=seconds).image_ref)


async def gather_limited(limit: int, jobs: list[Any]) -> list[Any]:
    """Await the coroutines, at most ``limit`` at a time, in order; the first failure cancels the rest."""
    gate = asyncio.Semaphore(limit)

    async def one(job: Any) -> Any:
        async with gate:
            return await job

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(job)) for job in jobs]
    return [task.result() for task in tasks]
