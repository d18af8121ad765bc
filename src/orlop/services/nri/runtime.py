"""What plugins may see of this node and ask from it at any time: the state for their synchronization, updates, evictions.

Test: tests/cri/test_nri.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from orlop.base import limits
from orlop.base.errors import NotFound, OrlopError
from orlop.services.containers.stop import stop_container
from orlop.services.node import Node
from orlop.services.nri.messages import container_message, pod_message
from orlop.services.nri.updates import apply_update
from orlop.specs.nri_gen import nri_pb2 as nri
from orlop.specs.pod import ContainerState
from orlop.specs.runtime import load

log = logging.getLogger(__name__)


class NodeRuntime:
    """orlop.nri.plugins.Runtime over a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def pods(self) -> Sequence[nri.PodSandbox]:
        return [pod_message(row) for row in self._node.pods.sandboxes() if row.ready_at]

    def containers(self) -> Sequence[nri.Container]:
        return [
            container_message(row, load(bytes(row.spec)))
            for row in self._node.pods.containers()
            if row.state in (ContainerState.CREATED, ContainerState.RUNNING)
        ]

    async def update(self, updates: Sequence[nri.ContainerUpdate], plugin: str) -> list[nri.ContainerUpdate]:
        failed = []
        for update in updates:
            try:
                await apply_update(self._node, update)
            except OrlopError as error:
                log.warning("nri plugin %s: %s", plugin, error)
                if not update.ignore_failure:
                    failed.append(update)
        return failed

    def evict(self, evictions: Sequence[nri.ContainerEviction], plugin: str) -> None:
        for eviction in evictions:
            evict(self._node, eviction, plugin)


def evict(node: Node, eviction: nri.ContainerEviction, plugin: str) -> None:
    """Stop a container behind the caller's back; its status says why. One that is gone is fine."""
    try:
        row = node.pods.container(eviction.container_id)
    except NotFound:
        return
    if row.finished_at or not row.created_at:
        return
    by = f" by NRI plugin {plugin}" if plugin else " by an NRI plugin"
    message = f"evicted{by}: {eviction.reason or 'no reason given'}"
    log.warning("container %s: %s", row.id, message)
    node.pods.put_container(msgspec.structs.replace(row, message=message))
    node.supervisor.spawn(f"evict {row.id}", stop_container(node, row.id, limits.NRI_EVICT_GRACE_SECONDS))
