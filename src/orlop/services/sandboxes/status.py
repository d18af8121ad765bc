"""PodSandboxStatus and ListPodSandbox: rows as readers see them. Test: tests/unit/services/test_views.py, tests/kernel/services."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orlop.base.ids import SandboxId
from orlop.services.containers.status import runtime_type
from orlop.services.node import Node
from orlop.specs.pod import Container, Sandbox, SandboxState


async def sandbox_status(node: Node, sandbox_id: str, *, verbose: bool = False) -> Sandbox:
    """Return one sandbox, with ``info`` when verbose; raises NotFound."""
    row = node.pods.sandbox(sandbox_id)
    view = node.views.sandbox(row)
    if not verbose:
        return view
    return msgspec.structs.replace(
        view,
        info={
            "pid": row.monitor_pid if row.state is SandboxState.READY else 0,
            "monitorSocket": str(node.state.monitor_socket(row.id)),
            "netns": "" if row.host_network else f"/proc/{row.monitor_pid}/ns/net",
            "cgroupParent": row.cgroup_parent,
            "runtimeHandler": row.handler,
            "runtimeType": runtime_type(row.handler),
            # Of the pod there is no process but its monitor, which is in the pod's namespaces.
            "processStatus": "running" if row.state is SandboxState.READY else "deleted",
            "netNamespaceClosed": row.state is not SandboxState.READY,
            "reason": row.reason,
            "network": row.network,
            "timingsMs": row.timings,
        },
    )


def containers_of(node: Node, sandbox_id: SandboxId) -> tuple[Container, ...]:
    """Return the containers of a sandbox; one that is still being created is not among them."""
    return tuple(node.views.container(row) for row in node.pods.containers_of(sandbox_id) if row.created_at)


async def list_sandboxes(
    node: Node, *, id: str = "", state: SandboxState | None = None, labels: Mapping[str, str] | None = None
) -> list[Sandbox]:
    """Return the sandboxes that match all given filters; one that is still being made is not there yet."""
    wanted = (labels or {}).items()
    view = node.views.sandbox
    return [
        view(row)
        for row in node.pods.sandboxes()
        if (row.ready_at or row.stopped_at or row.reason)
        and (not id or row.id.startswith(id))
        and (state is None or row.state is state)
        and wanted <= row.config.labels.items()
    ]
