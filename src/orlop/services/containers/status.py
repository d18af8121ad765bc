"""ContainerStatus and ListContainers: rows as readers see them. Test: tests/unit/services/test_views.py, tests/kernel/services."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orlop.services.node import Node
from orlop.specs.pod import Container, ContainerState


async def container_status(node: Node, container_id: str, *, verbose: bool = False) -> Container:
    """Return one container, with ``info`` when verbose; raises NotFound, also for one that is still being created."""
    row = node.pods.container(container_id)
    view = node.views.container(row)
    if not verbose:
        return view
    return msgspec.structs.replace(
        view,
        info={
            "sandboxID": row.sandbox_id,
            "pid": row.pid,
            "cgroup": row.cgroup,
            "runtimeSpec": row.spec,
            "timingsMs": row.timings,
        },
    )


async def list_containers(
    node: Node,
    *,
    id: str = "",
    state: ContainerState | None = None,
    sandbox_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> list[Container]:
    """Return the containers that match all given filters; one that is still being created is not listed."""
    wanted = (labels or {}).items()
    view = node.views.container
    return [
        view(row)
        for row in node.pods.containers()
        if row.created_at
        and (not id or row.id.startswith(id))
        and (not sandbox_id or row.sandbox_id.startswith(sandbox_id))
        and (state is None or row.state is state)
        and wanted <= row.config.labels.items()
    ]
