"""Many pod lives, several at a time, while the daemon is killed again and again; then everything is as it was.

ORLOP_CHURN_PODS and ORLOP_CHURN_KILLS set the size: 2,000 and 20 in ``make churn``, a small part of it in ``make test``.
A call that the kill interrupts is repeated as kubelet repeats it: with the same name.
"""

from __future__ import annotations

import asyncio
import os
import random

import grpc
import pytest

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.census import open_files, proportional_bytes
from tests.cri.client import AsyncClient, container_config
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, pod_config, state_files
from tests.images.conformance import BUSYBOX

PODS = int(os.environ.get("ORLOP_CHURN_PODS", "60"))
KILLS = int(os.environ.get("ORLOP_CHURN_KILLS", "2"))
PARALLEL = 8
CALL_SECONDS = 60
# A kill, and the start after it, end the calls under way; these say so. Anything else is a defect.
INTERRUPTED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
DAEMON_GROWTH_BYTES = 16 << 20

pytestmark = [pytest.mark.cri, pytest.mark.timeout(120 + PODS)]


class Churn:
    def __init__(self, daemon: Orlopd) -> None:
        self.daemon = daemon
        self.client = AsyncClient(daemon.address)
        self.serving = asyncio.Event()
        self.serving.set()
        self.ended = 0
        self.repeated = 0

    async def call(self, name: str, request: object) -> object:
        """Call until an answer comes that is not the kill's."""
        while True:
            await self.serving.wait()
            try:
                return await getattr(self.client.runtime, name)(request, timeout=CALL_SECONDS, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() not in INTERRUPTED:
                    raise
                self.repeated += 1
                await asyncio.sleep(0.05)

    async def life(self, number: int) -> None:
        config = pod_config(self.daemon, f"churn-{number}")
        pod = (await self.call("RunPodSandbox", cri.RunPodSandboxRequest(config=config))).pod_sandbox_id
        create = cri.CreateContainerRequest(pod_sandbox_id=pod, config=container_config(), sandbox_config=config)
        container = (await self.call("CreateContainer", create)).container_id
        await self.start(container)
        await self.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=0))
        await self.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=pod))
        await self.call("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
        self.ended += 1

    async def start(self, container: str) -> None:
        """A start whose answer the kill took may have happened: then the second one is refused, and the status says why."""
        try:
            await self.call("StartContainer", cri.StartContainerRequest(container_id=container))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            answer = await self.call("ContainerStatus", cri.ContainerStatusRequest(container_id=container))
            if answer.status.state == cri.CONTAINER_CREATED:
                raise

    async def worker(self, numbers: list[int]) -> None:
        while numbers:
            await self.life(numbers.pop())

    async def killer(self) -> None:
        """Spread over the run by lives ended, not by time; the moment inside a life is random."""
        for number in range(KILLS):
            while self.ended < (number + 1) * PODS // (KILLS + 1):
                await asyncio.sleep(0.01)
            await asyncio.sleep(random.random() * 0.1)
            self.serving.clear()
            await asyncio.to_thread(self.daemon.kill)
            await asyncio.to_thread(self.daemon.start)
            self.serving.set()

    async def run(self) -> None:
        image = cri.PullImageRequest(image=cri.ImageSpec(image=BUSYBOX))
        await self.client.images.PullImage(image, timeout=CALL_SECONDS)
        numbers = list(range(PODS))
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(self.worker(numbers))
            group.create_task(self.killer())
        await self.client.channel.close()


async def churned(daemon: Orlopd) -> Churn:
    churn = Churn(daemon)
    await churn.run()
    return churn


def test_everything_returns_to_where_it_began(registry):
    with Orlopd(registry.certs_d, name="churn") as daemon:
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        memory = proportional_bytes(daemon.pid)
        descriptors = open_files(daemon.pid)

        churn = asyncio.run(churned(daemon))

        assert churn.ended == PODS
        assert left_over(daemon, scope, before, files_before) == {}
        assert open_files(daemon.pid) <= descriptors + 8, "fds of the daemon grew"
        assert proportional_bytes(daemon.pid) <= memory + DAEMON_GROWTH_BYTES, "memory of the daemon grew"
        print(f"churn: {churn.ended} pods, {KILLS} kills, {churn.repeated} calls repeated")
