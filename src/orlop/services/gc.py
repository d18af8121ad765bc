"""What is collected while the daemon runs: cgroups whose processes were still dying, networks whose plugin failed, layers of removed images.

Nothing here is needed for correctness at once: a removal that found its cgroup busy has already answered, and recovery finds at the next
start what a daemon that was killed did not collect. Test: tests/kernel/services/test_gc.py.
"""

from __future__ import annotations

import asyncio
import logging

from orlop.base.errors import OrlopError
from orlop.base.ids import ImageId
from orlop.metadata.pods import ContainerRow
from orlop.services.images.remove import prune_layers
from orlop.services.monitors import take_exit
from orlop.services.node import Node

log = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
"""Between two looks when nothing waits: removals of other pods sweep as well."""
BUSY_SECONDS = 0.2
NETWORK_SECONDS = 60.0


async def sweep_cgroups(node: Node) -> None:
    """Remove, as long as the daemon runs, the cgroups that were not empty when their container or pod was removed; take in exits that
    found the state directory full."""
    waiting = 0
    while True:
        await asyncio.sleep(BUSY_SECONDS if waiting else IDLE_SECONDS)
        before = waiting
        try:
            waiting = node.cgroups.sweep()
            for pod in node.live:
                for container_id in tuple(pod.unsaved_exits):
                    take_exit(node, pod, container_id)
        except OrlopError as error:
            log.warning("%s", error)
            waiting = 0
        if waiting == before:
            # No progress: a process is stuck in the kernel. It is asked after as rarely as if there were nothing.
            waiting = 0


async def sweep_network(node: Node) -> None:
    """Take back, as long as the daemon runs, what a failed undo or a failed removal left of pods that have no row any more."""
    while True:
        await asyncio.sleep(NETWORK_SECONDS)
        try:
            await node.network.sweep({row.id for row in node.pods.sandboxes()})
        except OrlopError as error:
            log.warning("%s", error)


def prune_after(node: Node, row: ContainerRow) -> None:
    """Free the layers of images that were removed while this container, whose row is gone now, used them."""
    used = {row.image_id, *row.mount_digests.values()} - {""}
    if any(node.images.db.row(ImageId(each)) is None for each in used):
        prune_layers(node.images)
