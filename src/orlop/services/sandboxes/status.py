"""PodSandboxStatus and ListPodSandbox: rows as readers see them. Test: tests/unit/services/test_status.py."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.metadata.pods import SandboxRow
from orlop.services.node import Node
from orlop.specs.pod import Sandbox, SandboxState


def view_sandbox(node: Node, row: SandboxRow, *, verbose: bool = True) -> Sandbox:
    """Return the reader's view of a row; ``info`` is filled only when verbose."""
    info: dict[str, object] = {}
    if verbose:
        info = {
            "pid": row.monitor_pid,
            "monitorSocket": str(node.state.monitor_socket(row.id)),
            "netns": "" if row.host_network else f"/proc/{row.monitor_pid}/ns/net",
            "cgroupParent": row.cgroup_parent,
            "runtimeHandler": row.handler,
            "network": row.network,
            "timingsMs": row.timings,
        }
    return Sandbox(
        id=row.id,
        config=row.config,
        state=row.state,
        created_at=row.created_at,
        runtime_handler=row.handler,
        ips=row.ips,
        reason=row.reason,
        info=info,
    )


async def sandbox_status(node: Node, sandbox_id: str) -> Sandbox:
    """Return one sandbox; raises NotFound."""
    return view_sandbox(node, node.pods.sandbox(sandbox_id))


async def list_sandboxes(
    node: Node, *, id: str = "", state: SandboxState | None = None, labels: Mapping[str, str] | None = None
) -> list[Sandbox]:
    """Return the sandboxes that match all given filters; a sandbox that is still being made is not ready."""
    wanted = (labels or {}).items()
    return [
        view_sandbox(node, row, verbose=False)
        for row in node.pods.sandboxes()
        if (not id or row.id.startswith(id))
        and (state is None or row.state is state)
        and wanted <= row.config.labels.items()
    ]
