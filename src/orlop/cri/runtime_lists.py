"""The lists of CRI's RuntimeService, each in its unary and its streamed form, over the same filters. Translation only.

A streamed list sends each object that was there when the call began, once, in bounded batches; no object, no message. Entries of
pods and containers are kept as bytes between calls (entries.py). Test: tests/cri/test_lists.py, tests/kernel/services.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.cri import convert
from orlop.cri.convert import check
from orlop.cri.convert.metrics import MetricsOut, descriptors_out
from orlop.cri.entries import Entries, batches
from orlop.cri.listener import Service
from orlop.services.containers.stats import each_container_stats
from orlop.services.containers.status import list_containers
from orlop.services.metrics.collect import PodMetrics, declared_metrics, each_pod_metrics
from orlop.services.node import Node
from orlop.services.sandboxes.stats import each_sandbox_stats
from orlop.services.sandboxes.status import list_sandboxes
from orlop.specs.cri_gen import api_pb2 as pb
from orlop.specs.pod import Container, ContainerState, ContainerStats, Sandbox, SandboxState, SandboxStats

S = TypeVar("S", ContainerState, SandboxState)


_NO_SANDBOX_FILTER: Final = pb.PodSandboxFilter()
_NO_CONTAINER_FILTER: Final = pb.ContainerFilter()


class RuntimeLists(Service):
    """One method an RPC; unary ones return their response as bytes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sandboxes: Entries[Sandbox] = Entries(
            (pb.ListPodSandboxResponse, pb.StreamPodSandboxesResponse), convert.sandbox_out, node.pods.has_sandbox
        )
        self._containers: Entries[Container] = Entries(
            (pb.ListContainersResponse, pb.StreamContainersResponse), convert.container_out, node.pods.has_container
        )
        self._all_sandboxes = self._all_containers = (-1, b"")
        """(revision of the store, answer without a filter): what kubelet asks every second."""
        self._container_stats: Entries[ContainerStats] = Entries(
            (pb.ListContainerStatsResponse, pb.StreamContainerStatsResponse), convert.container_stats_out
        )
        self._metrics = MetricsOut(lambda key: node.pods.has_container(key) or node.pods.has_sandbox(key))
        self._pod_metrics: Entries[PodMetrics] = Entries(
            (pb.ListPodSandboxMetricsResponse, pb.StreamPodSandboxMetricsResponse), self._metrics.pod
        )
        self._sandbox_stats: Entries[SandboxStats] = Entries(
            (pb.ListPodSandboxStatsResponse, pb.StreamPodSandboxStatsResponse), convert.sandbox_stats_out
        )

    async def ListPodSandbox(self, request: pb.ListPodSandboxRequest) -> bytes:
        if request.filter != _NO_SANDBOX_FILTER:
            return b"".join(await self._list_sandboxes(request.filter))
        revision, answer = self._all_sandboxes
        if revision != self._node.pods.revision:
            answer = b"".join(await self._list_sandboxes(request.filter))
            self._all_sandboxes = self._node.pods.revision, answer
        return answer

    async def StreamPodSandboxes(self, request: pb.StreamPodSandboxesRequest) -> AsyncIterator[bytes]:
        async for batch in batches(await self._list_sandboxes(request.filter)):
            yield batch

    async def _list_sandboxes(self, wanted: pb.PodSandboxFilter) -> list[bytes]:
        listed = await list_sandboxes(
            self._node,
            id=_id(wanted.id, "filter.id"),
            state=_state(SandboxState, wanted.state.state) if wanted.HasField("state") else None,
            labels=_selector(wanted.label_selector),
        )
        entry = self._sandboxes.kept
        return [entry(each.id, each) for each in listed]

    async def ListContainers(self, request: pb.ListContainersRequest) -> bytes:
        if request.filter != _NO_CONTAINER_FILTER:
            return b"".join(await self._list_containers(request.filter))
        revision, answer = self._all_containers
        if revision != self._node.pods.revision:
            answer = b"".join(await self._list_containers(request.filter))
            self._all_containers = self._node.pods.revision, answer
        return answer

    async def StreamContainers(self, request: pb.StreamContainersRequest) -> AsyncIterator[bytes]:
        async for batch in batches(await self._list_containers(request.filter)):
            yield batch

    async def _list_containers(self, wanted: pb.ContainerFilter) -> list[bytes]:
        listed = await list_containers(
            self._node,
            id=_id(wanted.id, "filter.id"),
            state=_state(ContainerState, wanted.state.state) if wanted.HasField("state") else None,
            sandbox_id=_id(wanted.pod_sandbox_id, "filter.pod_sandbox_id"),
            labels=_selector(wanted.label_selector),
        )
        entry = self._containers.kept
        return [entry(each.id, each) for each in listed]

    async def ListContainerStats(self, request: pb.ListContainerStatsRequest) -> bytes:
        return b"".join([entry async for entry in self._each_container_stats(request.filter)])

    async def StreamContainerStats(self, request: pb.StreamContainerStatsRequest) -> AsyncIterator[bytes]:
        async for batch in batches(self._each_container_stats(request.filter)):
            yield batch

    async def _each_container_stats(self, wanted: pb.ContainerStatsFilter) -> AsyncIterator[bytes]:
        measured = each_container_stats(
            self._node,
            id=_id(wanted.id, "filter.id"),
            sandbox_id=_id(wanted.pod_sandbox_id, "filter.pod_sandbox_id"),
            labels=_selector(wanted.label_selector),
        )
        async for stats in measured:
            yield self._container_stats.fresh(stats)

    async def ListPodSandboxStats(self, request: pb.ListPodSandboxStatsRequest) -> bytes:
        return b"".join([entry async for entry in self._each_sandbox_stats(request.filter)])

    async def StreamPodSandboxStats(self, request: pb.StreamPodSandboxStatsRequest) -> AsyncIterator[bytes]:
        async for batch in batches(self._each_sandbox_stats(request.filter)):
            yield batch

    async def _each_sandbox_stats(self, wanted: pb.PodSandboxStatsFilter) -> AsyncIterator[bytes]:
        measured = each_sandbox_stats(
            self._node, id=_id(wanted.id, "filter.id"), labels=_selector(wanted.label_selector)
        )
        async for stats in measured:
            yield self._sandbox_stats.fresh(stats)

    async def ListMetricDescriptors(self, _: pb.ListMetricDescriptorsRequest) -> pb.ListMetricDescriptorsResponse:
        return descriptors_out(declared_metrics(self._node))

    async def ListPodSandboxMetrics(self, _: pb.ListPodSandboxMetricsRequest) -> bytes:
        return b"".join([entry async for entry in self._each_pod_metrics()])

    async def StreamPodSandboxMetrics(self, _: pb.StreamPodSandboxMetricsRequest) -> AsyncIterator[bytes]:
        async for batch in batches(self._each_pod_metrics()):
            yield batch

    async def _each_pod_metrics(self) -> AsyncIterator[bytes]:
        async for each in each_pod_metrics(self._node):
            yield self._pod_metrics.fresh(each)


def _id(value: str, field: str) -> str:
    return check.text(value, field, maximum=limits.NAME_BYTES)


def _selector(selector: Mapping[str, str]) -> dict[str, str]:
    return check.labels(selector, "filter.label_selector", limits.LABEL_BYTES)


def _state(kind: type[S], value: Any) -> S:
    try:
        return kind(value)
    except ValueError:
        raise InvalidArgument(f"filter.state: {value} is not a state that CRI knows") from None
