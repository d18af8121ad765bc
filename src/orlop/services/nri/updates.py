"""Carry out updates of containers that plugins ask for. Test: tests/cri/test_nri.py.

No lock of the container is taken: an event's caller may hold it. The row is read again after the handler was asked, and written in the same
step of the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from orlop.base.errors import FailedPrecondition, OrlopError
from orlop.services.node import Node
from orlop.services.nri.resources import in_cri, to_spec
from orlop.specs.nri_gen import nri_pb2 as nri

log = logging.getLogger(__name__)


async def carry_out(
    node: Node, updates: Sequence[nri.ContainerUpdate], evictions: Sequence[nri.ContainerEviction]
) -> None:
    """Do what was asked for in answer to an event. Raises the error of the first update that may not fail."""
    for update in updates:
        try:
            await apply_update(node, update)
        except OrlopError as error:
            if not update.ignore_failure:
                raise
            log.warning("nri: %s", error)
    if node.nri.runtime is not None:
        node.nri.runtime.evict(evictions, "")


async def apply_update(node: Node, update: nri.ContainerUpdate) -> None:
    """Change a container's limits. Raises NotFound, FailedPrecondition (it has ended), InvalidArgument (impossible)."""
    row = node.pods.container(update.container_id)
    subject = f"container {row.id}: NRI update"
    if row.finished_at or not row.created_at:
        raise FailedPrecondition(f"{subject}: it is {row.state.name.lower()}")
    resources = to_spec(update.linux.resources, subject, cgroup_v2=node.host.cgroup_v2, swap=node.host.swap)
    handler = node.handlers.of(node.pods.sandbox(row.sandbox_id))
    await handler.update(node, node.live.need(row.sandbox_id), row, resources)
    row = node.pods.container(row.id)
    node.pods.put_container(msgspec.structs.replace(row, resources=in_cri(row.resources, resources)))
