"""`orlop run --rm -d`: remove a container with its pod and its logs once it has ended. Test: tests/cri/test_cli.py.

The wish is an annotation of the container, so a daemon that is started anew finds it: ``arm_removals`` runs after recovery.
Without the annotation nothing is ever removed here; kubelet removes its own pods.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from orlop.base.errors import FailedPrecondition, NotFound, OrlopError
from orlop.base.paths import RUN_LOGS
from orlop.services.containers.wait import wait_container
from orlop.services.node import Node
from orlop.services.sandboxes.remove import remove_sandbox
from orlop.services.sandboxes.stop import stop_sandbox

log = logging.getLogger(__name__)

ANNOTATION = "io.orlop.remove"


def arm_removal(node: Node, container_id: str) -> None:
    """Remove the container's pod when the container has ended. Raises NotFound, FailedPrecondition (it does not ask for that)."""
    row = node.pods.container(container_id)
    if row.config.annotations.get(ANNOTATION) != "true":
        raise FailedPrecondition(f"container {row.id}: has no annotation {ANNOTATION}=true")
    node.supervisor.spawn(f"remove {row.id}", _remove_when_ended(node, row.id, row.sandbox_id))


def arm_removals(node: Node) -> None:
    """The same for all containers that ask for it, after a start of the daemon."""
    for row in node.pods.containers():
        if row.config.annotations.get(ANNOTATION) == "true":
            arm_removal(node, row.id)


async def _remove_when_ended(node: Node, container_id: str, sandbox_id: str) -> None:
    try:
        await wait_container(node, container_id)
    except (NotFound, FailedPrecondition):
        # Removed by somebody else, or it never ran and its pod is gone: what is left of the pod goes all the same.
        log.info("container %s: ended without an exit", container_id)
    try:
        logs = Path(node.pods.sandbox(sandbox_id).config.log_directory)
        await stop_sandbox(node, sandbox_id)
        await remove_sandbox(node, sandbox_id)
    except NotFound:
        return
    except OrlopError as error:
        log.warning("sandbox %s: cannot be removed, and is kept: %s", sandbox_id, error)
        return
    if logs.parent == RUN_LOGS:  # nothing but what `run` made: the path came from a client
        await asyncio.to_thread(shutil.rmtree, logs, ignore_errors=True)
