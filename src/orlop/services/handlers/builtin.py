"""The built-in handler: containers made by plans of orlop's own, one process from clone to exec. Test: tests/cri/test_pod.py."""

from __future__ import annotations

from orlop import __version__
from orlop.metadata.pods import ContainerRow
from orlop.oci.cgroups.handles import ExecCgroup
from orlop.services.containers.launch import plan_own, plan_own_exec
from orlop.services.handlers.protocol import BUILT_IN, Abilities, Planned, PlannedExec, Prepared
from orlop.services.live import LivePod
from orlop.services.node import Node
from orlop.specs.pod import LinuxResources
from orlop.specs.runtime import Resources


class BuiltIn:
    """See protocol.Handler."""

    name: str = BUILT_IN
    unavailable: str = ""
    abilities: Abilities = Abilities(recursive_read_only=True, idmapped_mounts=True)

    def describe(self) -> dict[str, object]:
        return {"type": "orlop", "version": __version__}

    def plan(self, node: Node, prepared: Prepared) -> Planned:
        return plan_own(node, prepared)

    def exec_cgroup(self, node: Node, row: ContainerRow, exec_id: str) -> ExecCgroup:
        return node.cgroups.create_exec(row.cgroup, exec_id)

    def plan_exec(
        self,
        node: Node,
        row: ContainerRow,
        cgroup: ExecCgroup,
        exec_id: str,
        command: tuple[str, ...],
        *,
        tty: bool,
        gate: bool = False,
    ) -> PlannedExec:
        return plan_own_exec(node, row, cgroup, command, tty=tty, gate=gate)

    async def start(self, node: Node, pod: LivePod, row: ContainerRow) -> int:
        return await pod.monitor.start(row.id)

    async def signal(self, node: Node, pod: LivePod, row: ContainerRow, number: int) -> None:
        await pod.monitor.kill(row.id, number)

    async def update(self, node: Node, pod: LivePod, row: ContainerRow, resources: LinuxResources | Resources) -> None:
        node.cgroups.update(row.cgroup, resources)

    async def discard(self, node: Node, row: ContainerRow) -> None:
        """Nothing is kept beside what every handler's containers have."""
