"""ContainerStatus and ListContainers: rows as readers see them. Test: tests/unit/services/test_views.py, tests/kernel/services."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orlop.services.node import Node
from orlop.specs.pod import Container, ContainerState


def runtime_type(handler: str) -> str:
    """Return what kind of runtime a handler's name stands for: the built-in one, or a program with the OCI command line."""
    return "orlop" if handler in ("", "orlop") else "oci"


async def container_status(node: Node, container_id: str, *, verbose: bool = False) -> Container:
    """Return one container, with ``info`` when verbose; raises NotFound, also for one that is still being created."""
    row = node.pods.container(container_id)
    view = node.views.container(row)
    if not verbose:
        return view
    sandbox = node.pods.sandbox(row.sandbox_id) if node.pods.has_sandbox(row.sandbox_id) else None
    return msgspec.structs.replace(
        view,
        info={
            "sandboxID": row.sandbox_id,
            "pid": row.pid if row.created_at and not row.finished_at else 0,
            "snapshotter": "overlay",
            "snapshotKey": row.id,
            "writableLayer": str(node.root.containers / row.id / "upper"),
            "layers": row.layers,
            "runtimeHandler": sandbox.handler if sandbox is not None else "",
            "runtimeType": runtime_type(sandbox.handler) if sandbox is not None else "",
            "cgroup": row.cgroup,
            "handler": node.pods.sandbox(row.sandbox_id).made_by,
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
