"""Twenty clients at once on one object: each answer is one that the order of things allows, and the end is one consistent state.

A caller whose deadline passes gets nothing; what was made for it is its retry's, once, and nothing half-made remains.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, AsyncClient, container_config, sandbox_config
from tests.cri.daemons import Daemon
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri

CLIENTS = 20
SHORT_LIVES = 20
DEADLINE_SECONDS = 0.002
"""Shorter than a pod takes: the caller is gone before the work is done."""
WORK_SECONDS = 0.5
OK = grpc.StatusCode.OK


class Racers:
    """As many connections as clients, so that nothing of one channel puts their calls in order."""

    def __init__(self, address: str) -> None:
        # gRPC shares one connection among channels with the same arguments: each gets its own number.
        self.clients = [AsyncClient(address) for _ in range(CLIENTS)]

    async def __aenter__(self) -> Racers:
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.clients:
            await each.channel.close()

    async def race(self, name: str, request: Any, seconds: float = CALL_SECONDS) -> list[tuple[grpc.StatusCode, Any]]:
        async def one(client: AsyncClient) -> tuple[grpc.StatusCode, Any]:
            try:
                return OK, await getattr(client.runtime, name)(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details()

        return await asyncio.gather(*(one(each) for each in self.clients))


def config_of(daemon: Daemon, name: str) -> cri.PodSandboxConfig:
    config = sandbox_config(name)
    config.linux.cgroup_parent = daemon.cgroup_parent
    config.log_directory = str(daemon.logs / config.metadata.name)
    return config


def codes(answers: list[tuple[grpc.StatusCode, Any]]) -> Counter[grpc.StatusCode]:
    return Counter(code for code, _ in answers)


async def pull_busybox(client: AsyncClient) -> None:
    await client.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=BUSYBOX)), timeout=CALL_SECONDS)


async def test_one_life_raced_by_all(orlopd: Daemon) -> None:
    config = config_of(orlopd, "race")
    async with Racers(orlopd.address) as racers:
        first = racers.clients[0].runtime
        await pull_busybox(racers.clients[0])

        ran = await racers.race("RunPodSandbox", cri.RunPodSandboxRequest(config=config))
        made = {answer.pod_sandbox_id for code, answer in ran if code is OK}
        assert len(made) == 1
        assert set(codes(ran)) <= {OK, grpc.StatusCode.ALREADY_EXISTS}
        (pod,) = made

        create = cri.CreateContainerRequest(pod_sandbox_id=pod, config=container_config(), sandbox_config=config)
        created = await racers.race("CreateContainer", create)
        containers = {answer.container_id for code, answer in created if code is OK}
        assert len(containers) == 1
        assert set(codes(created)) <= {OK, grpc.StatusCode.ALREADY_EXISTS}
        (container,) = containers
        listed = await first.ListContainers(cri.ListContainersRequest(), timeout=CALL_SECONDS)
        assert [each.id for each in listed.containers if each.pod_sandbox_id == pod] == [container]

        started = codes(await racers.race("StartContainer", cri.StartContainerRequest(container_id=container)))
        assert started == {OK: 1, grpc.StatusCode.FAILED_PRECONDITION: CLIENTS - 1}

        stop = cri.StopContainerRequest(container_id=container, timeout=0)
        assert codes(await racers.race("StopContainer", stop)) == {OK: CLIENTS}
        status = await first.ContainerStatus(cri.ContainerStatusRequest(container_id=container), timeout=CALL_SECONDS)
        assert (status.status.state, status.status.exit_code) == (cri.CONTAINER_EXITED, 137)

        for name, request in (
            ("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=pod)),
            ("RemoveContainer", cri.RemoveContainerRequest(container_id=container)),
            ("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=pod)),
        ):
            assert codes(await racers.race(name, request)) == {OK: CLIENTS}, name
        pods = await first.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS)
        assert pod not in {each.id for each in pods.items}


async def test_all_at_once_on_a_running_pod(orlopd: Daemon) -> None:
    """Starts, execs, stops and removals meet: only such refusals as one order or another explains, and nothing is left."""
    config = config_of(orlopd, "melee")
    async with Racers(orlopd.address) as racers:
        first = racers.clients[0].runtime
        await pull_busybox(racers.clients[0])
        ran = await first.RunPodSandbox(cri.RunPodSandboxRequest(config=config), timeout=CALL_SECONDS)
        pod = ran.pod_sandbox_id
        create = cri.CreateContainerRequest(pod_sandbox_id=pod, config=container_config(), sandbox_config=config)
        container = (await first.CreateContainer(create, timeout=CALL_SECONDS)).container_id
        calls = (
            ("StartContainer", cri.StartContainerRequest(container_id=container)),
            ("ExecSync", cri.ExecSyncRequest(container_id=container, cmd=["true"], timeout=10)),
            ("ContainerStatus", cri.ContainerStatusRequest(container_id=container)),
            ("StopContainer", cri.StopContainerRequest(container_id=container, timeout=0)),
            ("RemoveContainer", cri.RemoveContainerRequest(container_id=container)),
            ("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=pod)),
            ("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=pod)),
        )
        outcomes = await asyncio.gather(*(racers.race(name, request) for name, request in calls))
        for (name, _), answers in zip(calls, outcomes, strict=True):
            allowed = {OK}
            if name in ("StartContainer", "ExecSync", "ContainerStatus"):
                allowed |= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL}
            assert set(codes(answers)) <= allowed, (name, answers)
            for code, details in answers:
                if code is grpc.StatusCode.INTERNAL:  # it was ended while it began; the message must say so
                    assert any(word in details for word in ("ended", "removed", "gone", "not running")), (name, details)
        listed = await first.ListContainers(cri.ListContainersRequest(), timeout=CALL_SECONDS)
        assert container not in {each.id for each in listed.containers}
        pods = await first.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS)
        assert pod not in {each.id for each in pods.items}


async def test_what_a_deadline_cut_off_is_the_retrys(orlopd: Daemon) -> None:
    config = config_of(orlopd, "hasty")
    async with AsyncClient(orlopd.address) as client:
        await pull_busybox(client)
        request = cri.RunPodSandboxRequest(config=config)
        try:
            await client.runtime.RunPodSandbox(request, timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as late:  # which is what happens nearly always
            assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(WORK_SECONDS)  # the retry comes when the work is over, not while it runs
        made = (await client.runtime.RunPodSandbox(request, timeout=CALL_SECONDS)).pod_sandbox_id
        pods = (await client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS)).items
        assert [each.id for each in pods if each.metadata.name == "hasty"] == [made]
        stop = cri.StopPodSandboxRequest(pod_sandbox_id=made)
        await client.runtime.StopPodSandbox(stop, timeout=CALL_SECONDS)
        await client.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=made), timeout=CALL_SECONDS)


async def test_short_lives_are_told_in_order(orlopd: Daemon) -> None:
    """A container may end before its start has been answered: its STARTED still comes before its STOPPED."""
    config = config_of(orlopd, "short")
    async with AsyncClient(orlopd.address) as client:
        await pull_busybox(client)
        events: dict[str, list[int]] = {}
        stream = client.runtime.GetContainerEvents(cri.GetEventsRequest())
        ran = await client.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config), timeout=CALL_SECONDS)
        lives = []
        for number in range(SHORT_LIVES):
            short = container_config(f"short-{number}", ["true"])
            create = cri.CreateContainerRequest(pod_sandbox_id=ran.pod_sandbox_id, config=short, sandbox_config=config)
            lives.append((await client.runtime.CreateContainer(create, timeout=CALL_SECONDS)).container_id)
            start = cri.StartContainerRequest(container_id=lives[-1])
            await client.runtime.StartContainer(start, timeout=CALL_SECONDS)
        stop = cri.StopPodSandboxRequest(pod_sandbox_id=ran.pod_sandbox_id)
        await client.runtime.StopPodSandbox(stop, timeout=CALL_SECONDS)
        remove = cri.RemovePodSandboxRequest(pod_sandbox_id=ran.pod_sandbox_id)
        await client.runtime.RemovePodSandbox(remove, timeout=CALL_SECONDS)
        async with asyncio.timeout(CALL_SECONDS):
            async for event in stream:
                events.setdefault(event.container_id, []).append(event.container_event_type)
                if (
                    event.container_id == ran.pod_sandbox_id
                    and event.container_event_type == cri.CONTAINER_DELETED_EVENT
                ):
                    break
        stream.cancel()
        whole = [
            cri.CONTAINER_CREATED_EVENT,
            cri.CONTAINER_STARTED_EVENT,
            cri.CONTAINER_STOPPED_EVENT,
            cri.CONTAINER_DELETED_EVENT,
        ]
        assert {life: events.get(life) for life in lives} == dict.fromkeys(lives, whole)
