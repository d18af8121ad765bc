"""A node on the real kernel: own directories, own cgroup parent, the real monitor; pods use the host's network here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import msgspec
import pytest

from orlop.base.ids import SandboxId
from orlop.base.keylock import Joiner
from orlop.base.paths import RootPaths, StatePaths, monitor_binary
from orlop.base.supervise import Supervisor
from orlop.base.trash import Trash
from orlop.kernel.unpack import remove_tree
from orlop.metadata.pods import PodStore
from orlop.monitor.client import PodNamespaces
from orlop.oci.cgroups.driver import detect
from orlop.oci.cgroups.rate import CpuRates
from orlop.services.events import EventHub
from orlop.services.live import LivePods
from orlop.services.node import Node
from orlop.services.ports import Attached
from orlop.services.recovery import recover
from orlop.snapshots.overlay import OverlaySnapshots
from orlop.specs.pod import SandboxConfig


class NoNetwork:
    """For pods on the host's network: to attach one is a mistake of the test."""

    async def attach(
        self, sandbox_id: SandboxId, namespaces: PodNamespaces, config: SandboxConfig, netns_path: str
    ) -> Attached:
        raise AssertionError(f"sandbox {sandbox_id}: attached")

    async def detach(
        self, sandbox_id: SandboxId, record: msgspec.Raw | None, config: SandboxConfig, netns_path: str
    ) -> None:
        raise AssertionError(f"sandbox {sandbox_id}: detached")

    async def reconcile(self, live: Collection[SandboxId]) -> None:
        assert not live


def make_node(base: Path) -> Node:
    root, state = RootPaths(root=base / "root"), StatePaths(state=base / "state")
    for directory in (root.layers, root.containers, root.trash, state.pods):
        directory.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor("test")
    return Node(
        root=root,
        state=state,
        monitor_binary=monitor_binary(),
        pods=PodStore(state.pods_db),
        live=LivePods(),
        events=EventHub(),
        snapshots=OverlaySnapshots(root, Trash(root.trash, remove_tree)),
        cgroups=detect(owner=f"orlop-test-{base.name}", default_parent=f"/orlop-test-{os.getpid()}"),
        cpu_rates=CpuRates(),
        network=NoNetwork(),
        handlers=("", "orlop"),
        supervisor=supervisor,
        running_sandboxes=Joiner(supervisor),
        creating_containers=Joiner(supervisor),
    )


async def close_node(node: Node) -> None:
    """What remains of a daemon that was killed: nothing in memory, everything on disk and in the monitors."""
    for pod in node.live:
        node.live.drop(pod.id)
    await node.supervisor.close()
    node.pods.close()
    node.cgroups.close()


@pytest.fixture
async def restart() -> AsyncIterator[Callable[[], object]]:
    """Returns a function that gives a node over the same directories each time, the one before dropped as by kill -9."""
    os.umask(0o077)
    base = Path(tempfile.mkdtemp(prefix="orlop-services-"))
    nodes: list[Node] = []

    async def start() -> Node:
        if nodes:
            await close_node(nodes.pop())
        nodes.append(make_node(base))
        await recover(nodes[0])
        return nodes[0]

    yield start
    if nodes:
        await close_node(nodes.pop())
    shutil.rmtree(base)
