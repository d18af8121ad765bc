"""ContainerStatus and ListContainers: rows as readers see them. Test: tests/unit/services/test_status.py."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.metadata.pods import ContainerRow
from orlop.services.node import Node
from orlop.specs.pod import Container, ContainerState


def view_container(row: ContainerRow, *, verbose: bool = True) -> Container:
    """Return the reader's view of a row; ``info`` is filled only when verbose."""
    info: dict[str, object] = {}
    if verbose:
        info = {
            "sandboxID": row.sandbox_id,
            "pid": row.pid,
            "cgroup": row.cgroup,
            "runtimeSpec": row.spec,
            "timingsMs": row.timings,
        }
    return Container(
        id=row.id,
        sandbox_id=row.sandbox_id,
        config=row.config,
        state=row.state,
        created_at=row.created_at or row.reserved_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        reason=row.reason,
        message=row.message,
        image_id=row.image_id,
        log_path=row.log_path,
        user=row.user,
        stop_signal=row.stop_signal,
        resources=row.resources,
        mount_digests=row.mount_digests,
        info=info,
    )


async def container_status(node: Node, container_id: str) -> Container:
    """Return one container; raises NotFound, also for one that is still being created."""
    return view_container(node.pods.container(container_id))


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
    return [
        view_container(row, verbose=False)
        for row in node.pods.containers()
        if row.created_at
        and (not id or row.id.startswith(id))
        and (not sandbox_id or row.sandbox_id.startswith(sandbox_id))
        and (state is None or row.state is state)
        and wanted <= row.config.labels.items()
    ]
