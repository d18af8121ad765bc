"""Carry out updates of containers that plugins ask for. Test: tests/cri/test_nri.py.

A container's update is one step of the event loop: cgroup and row are never seen apart, so no lock is needed and none is taken.
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
            apply_update(node, update)
        except OrlopError as error:
            if not update.ignore_failure:
                raise
            log.warning("nri: %s", error)
    if node.nri.runtime is not None:
        node.nri.runtime.evict(evictions, "")


def apply_update(node: Node, update: nri.ContainerUpdate) -> None:
    """Change a container's limits. Raises NotFound, FailedPrecondition (it has ended), InvalidArgument (impossible)."""
    row = node.pods.container(update.container_id)
    subject = f"container {row.id}: NRI update"
    if row.finished_at or not row.created_at:
        raise FailedPrecondition(f"{subject}: it is {row.state.name.lower()}")
    resources = to_spec(update.linux.resources, subject, cgroup_v2=node.host.cgroup_v2, swap=node.host.swap)
    node.cgroups.update(row.cgroup, resources)
    node.pods.put_container(msgspec.structs.replace(row, resources=in_cri(row.resources, resources)))
